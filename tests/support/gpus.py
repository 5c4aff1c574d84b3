# SPDX-License-Identifier: BSD-3-Clause
"""Servers with simulated GPUs: their environments and verified evidence, right or with one mistake.

`genuine` verifies the same simulated evidence under roots that do not say that they are simulated, so that
what affirms can be told from what does not without NVIDIA's and AMD's hardware. Nothing that ships does that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import tomli_w
from sealroom import testing
from sealroom.appraisal import DeviceFiles, ReferenceValues, VerifiedEvidence, VerifiedGpu, verified_gpu
from sealroom.environments import Environment, build
from sealroom.nvidia import NvidiaRoots, OcspPolicy, verify_device
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.snp import verify_report

NONCE = b"g" * 32
DRIVER, VBIOS, SWITCH_VBIOS = "580.95.05", "96.00.9F.00.01", "96.10.6D.00.01"
SECTION: Mapping[str, Any] = {
    "architectures": ["HOPPER"],
    "drivers": [DRIVER],
    "vbios": [VBIOS],
    "switch_vbios": [SWITCH_VBIOS],
}


def environment(gpus: int = 1, *, section: Mapping[str, Any] | None = None, **changes: Any) -> Environment:
    """Return an environment with one shape; `changes` are those of its section `gpu`."""
    content: dict[str, Any] = testing.environment().model_dump(mode="json", exclude_none=True)
    content["shapes"] = [{"name": "default", "vcpus": 2, "memory_mib": 4096, "gpus": gpus}]
    if gpus:
        content["gpu"] = dict(SECTION if section is None else section) | changes
    return build(tomli_w.dumps(content).encode())


def values(expected: Environment, *, genuine: bool = False) -> ReferenceValues:
    """Return an environment's reference values, for real processors if `genuine`."""
    found = expected.reference_values
    return dataclasses.replace(found, tee="snp") if genuine else found


def roots(*, genuine: bool = False) -> NvidiaRoots:
    """Return the root of simulated GPUs, in the disguise of a real one if `genuine`."""
    root = testing.gpu_root()
    made = NvidiaRoots.development(root.device_pem, root.rim_pem)
    return NvidiaRoots(made.device, made.rim, simulated=False) if genuine else made


def files(on: SimulatedGpu, at: datetime = testing.NOW) -> DeviceFiles:
    """Return everything that there is to know about a device."""
    return DeviceFiles(tuple(on.rims), (*on.ocsp(at=at), *on.rim_ocsp(at=at)))


def verified(
    on: SimulatedGpu | None = None,
    *,
    genuine: bool = False,
    known: DeviceFiles | None = None,
    at: datetime = testing.NOW,
    nonce: bytes = NONCE,
    **report: Any,
) -> VerifiedGpu:
    """Return a verified device; `report` are the arguments of `SimulatedGpu.report`."""
    on = on or testing.gpu()
    known = files(on, at) if known is None else known
    device = verify_device(
        on.report(nonce, **report),
        on.chain_der,
        roots=roots(genuine=genuine),
        at=at,
        nonce=nonce,
        ocsp=known.ocsp,
        ocsp_policy=OcspPolicy.SOFT,
    )
    return verified_gpu(device, nonce=nonce, files=known, uuid=on.uuid)


def evidence(
    devices: Sequence[VerifiedGpu] = (),
    expected: Environment | None = None,
    *,
    genuine: bool = False,
    at: datetime = testing.NOW,
    **changes: Any,
) -> VerifiedEvidence:
    """Return verified evidence of a server with those devices; `changes` are fields of the CPU's report."""
    expected = expected or environment()
    plain = testing.verified_evidence(bytes(64), expected, at=at, **changes)
    cpu = plain.cpu
    if genuine:
        chip = testing.chip()
        disguised = dataclasses.replace(testing.development_roots(), simulated=False)
        cpu = verify_report(
            cpu.report.raw, chip.vek, roots=disguised, at=at, intermediates=chip.intermediates
        )
    return VerifiedEvidence(cpu, plain.report_data, tuple(devices))
