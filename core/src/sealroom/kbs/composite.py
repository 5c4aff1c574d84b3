# SPDX-License-Identifier: BSD-3-Clause
"""Verify the devices' part of composite evidence: `additional_evidence`, which the CPU's report covers.

Plan, for each device: 1 its bytes; 2 authenticity, by the roots that its chain ends at; 3 the nonce; 4 the
reference manifests and OCSP answers that there are for it, and authenticity again with those answers;
5 comparison.

Steps 1 to 3 raise, and so does an answer that says "revoked". A reference value or an answer that is missing,
too old or wrong does not raise: the appraisal says what that is worth under the policy.

Invariants:

- Which roots are used follows from the root that the chain names; two sets are never merged.
- What was used and did not come with the evidence is returned, so that it can be kept and the verification
  repeated.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sealroom.appraisal.evidence import VerifiedGpu, device_name
from sealroom.appraisal.policy import Policy
from sealroom.appraisal.references import DeviceFiles, verified_gpu
from sealroom.errors import FormatError
from sealroom.kbs.devices import Device, decode_devices
from sealroom.nvidia import (
    NvidiaRoots,
    OcspPolicy,
    VerifiedDevice,
    load_chain,
    verify_device,
    with_revocation,
)

RIM: Final = "rim"
OCSP: Final = "ocsp"
"""What audit entries name collateral by, after the device: `gpu0.rim`, `switch1.ocsp`."""

DeviceReferences = Callable[[str, VerifiedDevice], DeviceFiles]
"""Gives the reference manifests and OCSP answers for a device, by its name in results and by what it is."""


def no_references(_: str, __: VerifiedDevice) -> DeviceFiles:
    """Give nothing; then no device is affirming."""
    return DeviceFiles()


@dataclass(frozen=True, slots=True)
class DeviceRoots:
    """The roots of devices that a relying party accepts: NVIDIA's, and perhaps one of simulated devices."""

    development: NvidiaRoots | None = None

    def __post_init__(self) -> None:
        if self.development is not None and not self.development.simulated:
            raise TypeError("a development root vouches for simulated devices only")

    def of(self, chain: Sequence[bytes]) -> NvidiaRoots:
        """Return the roots to verify a chain with.

        Args:
            chain: The certificates in DER, leaf first.
        """
        development = self.development
        if development is not None and chain and hmac.compare_digest(chain[-1], development.device.der):
            return development
        return NvidiaRoots.nvidia()


@dataclass(frozen=True, slots=True)
class VerifiedDevices:
    """Authentic devices, and what they were verified with beside the evidence."""

    devices: tuple[VerifiedGpu, ...] = ()
    collateral: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Kind (`gpu0.rim`, …) -> files."""


def verify_devices(
    additional_evidence: str,
    nonce: bytes,
    *,
    roots: DeviceRoots,
    references: DeviceReferences,
    policy: Policy,
    at: datetime,
) -> VerifiedDevices:
    """Verify the evidence of a server's GPUs and NVSwitches.

    Args:
        additional_evidence: The string as it was sent.
        nonce: The 32 bytes that every device has to answer, see `sealroom.kbs.binding.device_nonce`.
        roots: Whom to trust.
        references: Where reference manifests and OCSP answers come from.
        policy: Says whether OCSP answers are looked at; what they are worth is left to the appraisal.
        at: The reference time, with a time zone.

    Raises:
        FormatError: It is not the evidence of NVIDIA devices, or malformed.
        VerificationError: A device is not authentic, revoked, or answers another nonce.
    """
    # Answers count where there are any; whether there have to be some is for the appraisal to say.
    ocsp_policy = OcspPolicy.OFF if policy.gpu_ocsp == "off" else OcspPolicy.SOFT
    verified: list[VerifiedGpu] = []
    used: dict[str, tuple[bytes, ...]] = {}
    for device in decode_devices(additional_evidence):
        chain = load_chain(device.chain_pem)
        chosen = roots.of(chain)
        genuine = verify_device(device.report, chain, roots=chosen, at=at, nonce=nonce)
        _check_architecture(device, genuine)
        name = device_name(genuine, [one.device for one in verified])
        files = references(name, genuine)
        answers = files.ocsp if ocsp_policy is not OcspPolicy.OFF else ()
        if answers:
            genuine = with_revocation(genuine, ocsp=answers, ocsp_policy=ocsp_policy)
        files = DeviceFiles(files.rims, tuple(answers))
        verified.append(
            verified_gpu(genuine, nonce=nonce, files=files, ocsp_policy=ocsp_policy, uuid=device.uuid)
        )
        used |= {f"{name}.{RIM}": files.rims, f"{name}.{OCSP}": files.ocsp}
    return VerifiedDevices(tuple(verified), {kind: files for kind, files in used.items() if files})


def _check_architecture(device: Device, verified: VerifiedDevice) -> None:
    if device.arch != verified.architecture:
        raise FormatError(
            f"A device is sent as {device.arch} and its certificates say {verified.architecture}.",
            field="arch",
            check="evidence.devices",
        )
