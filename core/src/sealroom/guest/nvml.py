# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of GPUs from NVIDIA's driver through NVML (package `nvidia-ml-py`, extra `sealroom[gpu]`).

NVML gives GPUs only; NVSwitches attest through NSCQ, which CoCo's guest components speak. The driver's ready
state is left as it is: whether the GPU may be used is decided elsewhere, after the appraisal.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any, Final

from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest.devices import DeviceEvidence, check_devices, check_nonce

MODULE: Final = "pynvml"
_ARCHITECTURES: Final = {9: "HOPPER", 10: "BLACKWELL"}
"""NVML_DEVICE_ARCH_HOPPER, NVML_DEVICE_ARCH_BLACKWELL."""
_NO_DRIVER: Final = frozenset({9, 12})
"""NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND."""
_TOO_OLD: Final = frozenset({13, 25})
"""NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_ARGUMENT_VERSION_MISMATCH."""
_NOT_SUPPORTED: Final = 3
_SUCCESS: Final = 0
_ENABLED: Final = 1
_PROTECTED_PCIE: Final = 1
"""NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE: confidential computing of several GPUs, with the feature off."""


class NvmlProvider:
    """Asks NVIDIA's driver.

    Args:
        module: Stands in for `pynvml` in tests.
    """

    name = "nvml"

    def __init__(self, *, module: Any = None) -> None:
        self._module = module

    def available(self) -> str:
        """Return why it cannot be used; empty if there is a GPU in a confidential mode."""
        try:
            nvml = self._load()
        except ImportError:
            return "nvidia-ml-py is not installed (sealroom[gpu])"
        try:
            with _started(nvml):
                return self._reason(nvml)
        except nvml.NVMLError as error:
            return _explain(error)

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        """Ask every GPU for a report over 32 bytes of nonce."""
        check_nonce(nonce)
        try:
            nvml = self._load()
        except ImportError as error:
            raise NetworkError(
                "GPUs cannot be asked without NVIDIA's library.", advice="Install sealroom[gpu]."
            ) from error
        try:
            with _started(nvml):
                devices = [_device(nvml, index, nonce) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            kind = ProtocolError if error.value in _TOO_OLD | {_NOT_SUPPORTED} else NetworkError
            raise kind(f"NVIDIA's driver gives no evidence: {_explain(error)}.") from error
        return check_devices(devices, nonce, "NVIDIA's driver")

    def _load(self) -> Any:
        # Only here: most guests have no GPU, and importing the module costs 20 ms.
        return importlib.import_module(MODULE) if self._module is None else self._module

    def _reason(self, nvml: Any) -> str:
        if not nvml.nvmlDeviceGetCount():
            return "there is no NVIDIA GPU"
        if nvml.nvmlSystemGetConfComputeState().ccFeature == _ENABLED or _protected_pcie(nvml):
            return ""
        return "confidential computing is off on the GPU"


@contextlib.contextmanager
def _started(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _protected_pcie(nvml: Any) -> bool:
    try:
        settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
        status = nvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings))
    except (AttributeError, nvml.NVMLError):
        # Drivers and bindings before 550 do not know the mode.
        return False
    return bool(status == _SUCCESS and settings.multiGpuMode == _PROTECTED_PCIE)


def _device(nvml: Any, index: int, nonce: bytes) -> DeviceEvidence:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    architecture = nvml.nvmlDeviceGetArchitecture(handle)
    if architecture not in _ARCHITECTURES:
        raise ProtocolError(
            f"GPU {index} is of an architecture that cannot attest (NVML number {architecture})."
        )
    certificate = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return DeviceEvidence(
        _ARCHITECTURES[architecture],
        # Old bindings give bytes.
        uuid.decode("ascii", "replace") if isinstance(uuid, bytes) else uuid,
        _part(report.attestationReport, report.attestationReportSize, "report"),
        _part(certificate.attestationCertChain, certificate.attestationCertChainSize, "certificate chain"),
    )


def _part(buffer: Any, size: int, what: str) -> bytes:
    if not 0 < size <= len(buffer):
        raise ProtocolError(f"NVIDIA's driver gives a {what} of {size} bytes.")
    return bytes(buffer[:size])


def _explain(error: Any) -> str:
    if error.value in _NO_DRIVER:
        return "there is no NVIDIA driver"
    if error.value in _TOO_OLD:
        return "the NVIDIA driver is too old for attestation (550 or later is needed)"
    if error.value == _NOT_SUPPORTED:
        return "the NVIDIA GPU or its driver has no confidential computing"
    return f"NVML: {error}"
