# SPDX-License-Identifier: BSD-3-Clause
"""Evidence that is authentic and bound to what it was presented with: the only thing that is appraised.

A server's evidence is composite, as in the KBS protocol: the processor's report covers the broker's nonce,
the server's key and the devices' evidence; each device's report answers a nonce that follows from the same
nonce and key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealroom.checks import CheckResult
from sealroom.errors import BindingError, FreshnessError
from sealroom.nvidia import Architecture, VerifiedDevice
from sealroom.snp import VerifiedReport

DEVICE_NONCE_SIZE: Final = 32
"""DMTF DSP0274 1.1.0, GET_MEASUREMENTS, nonce."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference manifest that was verified."""

    kind: str
    """`driver` or `vbios`."""
    rim_id: str
    version: str
    sha256: str
    """Digest of the file, hex."""


@dataclass(frozen=True, slots=True)
class VerifiedGpu:
    """A verified report of a GPU or NVSwitch that answers the nonce it was asked with.

    Raises:
        FreshnessError: The report answers another nonce.
    """

    device: VerifiedDevice
    """Made by `sealroom.nvidia.verify_device`, and by nothing else."""
    comparison: tuple[CheckResult, ...]
    """What verifying the reference values and comparing the report with them gave; see
    `sealroom.appraisal.references.compared`. Empty if nothing was compared, which affirms nothing."""
    expected_nonce: bytes
    """The 32 bytes that the report has to answer, computed by the relying party from its own nonce."""
    uuid: str = ""
    """The device's name as the guest gives it; nobody signed that."""
    references: tuple[Reference, ...] = ()
    """The reference manifests that it was compared with."""

    @property
    def is_switch(self) -> bool:
        """Whether it is an NVSwitch."""
        return self.device.architecture is Architecture.LS10

    def __post_init__(self) -> None:
        if not isinstance(self.device, VerifiedDevice):
            raise TypeError("device must be a VerifiedDevice")
        if len(self.expected_nonce) != DEVICE_NONCE_SIZE:
            raise TypeError(f"a device's nonce has {DEVICE_NONCE_SIZE} bytes")
        if not hmac.compare_digest(self.device.report.requester_nonce, self.expected_nonce):
            raise FreshnessError(
                "A GPU's report is genuine but answers another question than the one asked.",
                advice="Ask for a fresh proof.",
                check="appraisal.gpu.nonce",
            )


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """A verified report that covers the data it was presented with, and the devices that it covers.

    Raises:
        BindingError: The report covers other data than `report_data`.
    """

    cpu: VerifiedReport
    """Made by `sealroom.snp.verify_report`, and by nothing else."""
    report_data: bytes
    """The 64 bytes that the report has to cover, computed by the relying party from its own nonce."""
    devices: tuple[VerifiedGpu, ...] = ()
    """GPUs and NVSwitches, in the order in which the evidence has them."""

    def __post_init__(self) -> None:
        if not isinstance(self.cpu, VerifiedReport):
            raise TypeError("cpu must be a VerifiedReport")
        if not all(isinstance(one, VerifiedGpu) for one in self.devices):
            raise TypeError("each device must be a VerifiedGpu")
        if any(one.device.at != self.cpu.at for one in self.devices):
            raise TypeError("all of the evidence must be verified as of one time")
        if len({one.expected_nonce for one in self.devices}) > 1:
            raise BindingError(
                "The GPUs' reports answer different nonces.",
                advice="Ask for a fresh proof.",
                check="appraisal.gpu.nonce",
            )
        if not hmac.compare_digest(self.cpu.report.report_data, self.report_data):
            raise BindingError(
                "The report is genuine but answers another question than the one asked.",
                advice="Ask for a fresh proof.",
                check="snp.expected.report_data",
            )

    @property
    def measurement(self) -> bytes | None:
        """Launch digest of the server that has the devices."""
        return self.cpu.report.measurement

    @property
    def simulated(self) -> bool:
        """Whether any root is a development root: then all of it is simulated."""
        return self.cpu.simulated or any(one.device.simulated for one in self.devices)

    @property
    def mixed(self) -> bool:
        """Whether some roots are real and some are development roots, which no honest server has."""
        return len({self.cpu.simulated, *(one.device.simulated for one in self.devices)}) > 1

    def named_devices(self) -> Mapping[str, VerifiedGpu]:
        """Return the devices by their names in a result, see `device_name`."""
        return _named(self.devices)


@dataclass(frozen=True, slots=True)
class DevicesAlone:
    """Verified devices without the processor that would bind them to a server."""

    devices: tuple[VerifiedGpu, ...]
    """At least one, all verified as of one time."""

    def __post_init__(self) -> None:
        if not self.devices or not all(isinstance(one, VerifiedGpu) for one in self.devices):
            raise TypeError("there must be a VerifiedGpu, and nothing else")
        if len({one.device.at for one in self.devices}) > 1:
            raise TypeError("all of the evidence must be verified as of one time")

    @property
    def measurement(self) -> bytes | None:
        """None: nobody says which server has the devices."""
        return None

    @property
    def simulated(self) -> bool:
        """Whether any root is a development root: then all of it is simulated."""
        return any(one.device.simulated for one in self.devices)

    @property
    def mixed(self) -> bool:
        """Whether some roots are real and some are development roots, which no honest server has."""
        return len({one.device.simulated for one in self.devices}) > 1

    def named_devices(self) -> Mapping[str, VerifiedGpu]:
        """Return the devices by their names in a result, see `device_name`."""
        return _named(self.devices)


def _named(devices: Sequence[VerifiedGpu]) -> Mapping[str, VerifiedGpu]:
    named: dict[str, VerifiedGpu] = {}
    for one in devices:
        named[device_name(one.device, [other.device for other in named.values()])] = one
    return named


def device_name(device: VerifiedDevice, before: Sequence[VerifiedDevice]) -> str:
    """Return what a device is called in results: `gpu0`, `gpu1`, …, or `switch0` for an NVSwitch.

    Args:
        device: The device.
        before: Those that stand before it in the evidence.
    """
    switch = device.architecture is Architecture.LS10
    number = sum((other.architecture is Architecture.LS10) is switch for other in before)
    return f"{'switch' if switch else 'gpu'}{number}"
