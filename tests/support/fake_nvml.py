# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: N802 - the functions have the names of the library's
"""NVIDIA's driver behind `pynvml` (nvidia-ml-py 13.615): the same functions, structures and error numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sealroom.simulated.gpu import SimulatedGpu

ERRORS = {
    1: "Uninitialized",
    3: "Not Supported",
    9: "Driver Not Loaded",
    10: "Timeout",
    12: "NVML Shared Library Not Found",
    13: "Function Not Found",
    15: "GPU is lost",
}
DEVICE_ARCH = {"HOPPER": 9, "BLACKWELL": 10, "AMPERE": 7}


class NVMLError(Exception):
    """An error of the driver, with its number."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return ERRORS.get(self.value, "Unknown Error")


class SystemState(ctypes.Structure):
    """c_nvmlConfComputeSystemState_t."""

    _fields_ = [(name, ctypes.c_uint) for name in ("environment", "ccFeature", "devToolsMode")]


class SystemSettings(ctypes.Structure):
    """c_nvmlSystemConfComputeSettings_v1_t."""

    _fields_ = [
        (name, ctypes.c_uint)
        for name in ("version", "environment", "ccFeature", "devToolsMode", "multiGpuMode")
    ]

    def __init__(self) -> None:
        super().__init__(version=0x1000014)


class GpuCertificate(ctypes.Structure):
    """c_nvmlConfComputeGpuCertificate_t."""

    _fields_ = [
        ("certChainSize", ctypes.c_uint),
        ("attestationCertChainSize", ctypes.c_uint),
        ("certChain", ctypes.c_uint8 * 0x1000),
        ("attestationCertChain", ctypes.c_uint8 * 0x1400),
    ]


class GpuAttestationReport(ctypes.Structure):
    """c_nvmlConfComputeGpuAttestationReport_t."""

    _fields_ = [
        ("isCecAttestationReportPresent", ctypes.c_uint),
        ("attestationReportSize", ctypes.c_uint),
        ("cecAttestationReportSize", ctypes.c_uint),
        ("nonce", ctypes.c_uint8 * 0x20),
        ("attestationReport", ctypes.c_uint8 * 0x2000),
        ("cecAttestationReport", ctypes.c_uint8 * 0x1000),
    ]


@dataclass
class FakeNvml:
    """Stands in for the module `pynvml`."""

    gpus: Sequence[SimulatedGpu] = ()
    cc_feature: int = 1
    multi_gpu_mode: int = 0
    architecture: str = ""
    """Another architecture than the GPUs'."""
    fails: dict[str, int] = field(default_factory=dict)
    """Function -> number of the error that it ends with."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Field of a structure -> what it says instead."""
    initialised: int = 0
    NVMLError = NVMLError
    c_nvmlSystemConfComputeSettings_v1_t = SystemSettings  # noqa: N815

    def _call(self, name: str) -> None:
        if name in self.fails:
            raise NVMLError(self.fails[name])
        if name != "nvmlInit" and not self.initialised:
            raise NVMLError(1)

    def nvmlInit(self) -> None:
        self._call("nvmlInit")
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self._call("nvmlShutdown")
        self.initialised -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._call("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlSystemGetConfComputeState(self) -> SystemState:
        self._call("nvmlSystemGetConfComputeState")
        return SystemState(environment=2, ccFeature=self.cc_feature)

    def nvmlSystemGetConfComputeSettings(self, settings: Any) -> int:
        # Takes a pointer and returns the library's status, unlike the other functions.
        self._call("nvmlSystemGetConfComputeSettings")
        pointed = settings._obj
        assert isinstance(pointed, SystemSettings)
        if pointed.version != ctypes.sizeof(SystemSettings) | 1 << 24:
            return 25
        pointed.multiGpuMode = self.multi_gpu_mode
        return 0

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedGpu:
        self._call("nvmlDeviceGetHandleByIndex")
        return self.gpus[index]

    def nvmlDeviceGetArchitecture(self, device: SimulatedGpu) -> int:
        self._call("nvmlDeviceGetArchitecture")
        return DEVICE_ARCH[self.architecture or device.architecture]

    def nvmlDeviceGetUUID(self, handle: SimulatedGpu) -> str:
        self._call("nvmlDeviceGetUUID")
        return handle.uuid

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: SimulatedGpu) -> GpuCertificate:
        self._call("nvmlDeviceGetConfComputeGpuCertificate")
        chain, structure = device.chain_pem, GpuCertificate()
        structure.attestationCertChainSize = self.sizes.get("attestationCertChainSize", len(chain))
        structure.attestationCertChain[: len(chain)] = chain
        return structure

    def nvmlDeviceGetConfComputeGpuAttestationReport(
        self, device: SimulatedGpu, c_nonce: bytes
    ) -> GpuAttestationReport:
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport")
        structure = GpuAttestationReport()
        structure.nonce = (ctypes.c_uint8 * len(c_nonce))(*c_nonce)
        report = device.report(bytes(structure.nonce))
        structure.attestationReportSize = self.sizes.get("attestationReportSize", len(report))
        structure.attestationReport[: len(report)] = report
        return structure
