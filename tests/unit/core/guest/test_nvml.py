# SPDX-License-Identifier: BSD-3-Clause
"""Against a stand-in for `pynvml` with the same functions, structures and error numbers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from sealroom import testing
from sealroom.errors import Error, NetworkError, ProtocolError
from sealroom.guest import DeviceProvider, NvmlProvider
from support.fake_nvml import FakeNvml

NONCE = bytes(range(100, 132))


def nvml(**changes: Any) -> FakeNvml:
    return FakeNvml(**({"gpus": [testing.gpu(), testing.gpu("BLACKWELL")]} | changes))


def test_every_gpu_answers_the_nonce_and_the_library_is_closed() -> None:
    module = nvml()
    provider = NvmlProvider(module=module)
    assert isinstance(provider, DeviceProvider)
    assert provider.available() == ""
    devices = provider.evidence(NONCE)
    assert [device.arch for device in devices] == ["HOPPER", "BLACKWELL"]
    assert [device.uuid for device in devices] == [gpu.uuid for gpu in module.gpus]
    assert [device.report for device in devices] == [gpu.report(NONCE) for gpu in module.gpus]
    assert [device.chain_pem for device in devices] == [gpu.chain_pem for gpu in module.gpus]
    assert module.initialised == 0


def test_module_is_loaded_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = NvmlProvider()
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert provider.available() == ""
    assert len(provider.evidence(NONCE)) == 2


def test_absent_module_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in the table of modules makes the import fail, also where the package is installed.
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in NvmlProvider().available()
    with pytest.raises(NetworkError) as caught:
        NvmlProvider().evidence(NONCE)
    assert "sealroom[gpu]" in caught.value.advice


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fails": {"nvmlInit": 12}}, "there is no NVIDIA driver"),
        ({"fails": {"nvmlInit": 9}}, "there is no NVIDIA driver"),
        ({"gpus": []}, "there is no NVIDIA GPU"),
        ({"fails": {"nvmlSystemGetConfComputeState": 13}}, "too old"),
        ({"fails": {"nvmlSystemGetConfComputeState": 3}}, "no confidential computing"),
        ({"cc_feature": 0}, "confidential computing is off"),
        (
            {"cc_feature": 0, "fails": {"nvmlSystemGetConfComputeSettings": 13}},
            "confidential computing is off",
        ),
        ({"fails": {"nvmlDeviceGetCount": 15}}, "GPU is lost"),
    ],
    ids=["no-library", "no-driver", "no-gpu", "old-driver", "no-cc", "cc-off", "old-and-off", "lost"],
)
def test_reason_why_it_cannot_be_used_is_said(changes: dict[str, Any], reason: str) -> None:
    module = nvml(**changes)
    assert reason in NvmlProvider(module=module).available()
    assert module.initialised == 0


def test_protected_pcie_counts_as_a_confidential_mode() -> None:
    assert NvmlProvider(module=nvml(cc_feature=0, multi_gpu_mode=1)).available() == ""


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"fails": {"nvmlInit": 9}}, NetworkError, "there is no NVIDIA driver"),
        ({"fails": {"nvmlDeviceGetConfComputeGpuAttestationReport": 10}}, NetworkError, "Timeout"),
        ({"fails": {"nvmlDeviceGetConfComputeGpuAttestationReport": 13}}, ProtocolError, "too old"),
        (
            {"fails": {"nvmlDeviceGetConfComputeGpuCertificate": 3}},
            ProtocolError,
            "no confidential computing",
        ),
        ({"gpus": []}, ProtocolError, "0 devices"),
        ({"architecture": "AMPERE"}, ProtocolError, "cannot attest"),
        ({"sizes": {"attestationReportSize": 0}}, ProtocolError, "a report of 0 bytes"),
        ({"sizes": {"attestationReportSize": 0x2001}}, ProtocolError, "a report of 8193 bytes"),
        ({"sizes": {"attestationCertChainSize": 0x1401}}, ProtocolError, "a certificate chain of 5121 bytes"),
    ],
)
def test_failure_of_the_driver_is_our_error_and_the_library_is_closed(
    changes: dict[str, Any], kind: type[Error], what: str
) -> None:
    module = nvml(**changes)
    with pytest.raises(kind, match=what):
        NvmlProvider(module=module).evidence(NONCE)
    assert module.initialised == 0


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonce_is_not_padded_or_cut(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NvmlProvider(module=nvml()).evidence(bytes(size))
