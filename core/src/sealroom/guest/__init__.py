# SPDX-License-Identifier: BSD-3-Clause
"""Where a guest's evidence comes from.

What this is: providers behind one interface, and the choice among them. What it is not: verification;
evidence is as gathered, and the guest itself is no judge of it.

Invariants:

- `detect` tries real hardware before the simulated processor and GPUs, and says what it tried.
- A provider that cannot be used says why and raises nothing; one that fails raises `NetworkError` or
  `ProtocolError`.
"""

from sealroom.guest.coco import CocoDeviceProvider, CocoProvider
from sealroom.guest.configfs import ConfigfsProvider
from sealroom.guest.detect import (
    Detection,
    DeviceDetection,
    candidates,
    detect,
    detect_devices,
    device_candidates,
)
from sealroom.guest.devices import DeviceEvidence, DeviceProvider, SimulatedDeviceProvider
from sealroom.guest.nvml import NvmlProvider
from sealroom.guest.provider import GuestEvidence, Provider
from sealroom.guest.sevguest import SevGuestProvider
from sealroom.guest.simulated import SimulatedProvider

__all__ = [
    "CocoDeviceProvider",
    "CocoProvider",
    "ConfigfsProvider",
    "Detection",
    "DeviceDetection",
    "DeviceEvidence",
    "DeviceProvider",
    "GuestEvidence",
    "NvmlProvider",
    "Provider",
    "SevGuestProvider",
    "SimulatedDeviceProvider",
    "SimulatedProvider",
    "candidates",
    "detect",
    "detect_devices",
    "device_candidates",
]
