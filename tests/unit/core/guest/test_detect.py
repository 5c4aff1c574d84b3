# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import ConfigurationError
from sealroom.guest import (
    DeviceEvidence,
    GuestEvidence,
    candidates,
    detect,
    detect_devices,
    device_candidates,
)
from sealroom.kbs.devices import decode_devices
from sealroom.kbs.evidence import snp_from_json


@dataclass(frozen=True)
class Stand:
    name: str
    reason: str = ""

    def available(self) -> str:
        return self.reason

    def evidence(self, report_data: bytes) -> GuestEvidence:
        raise NotImplementedError


def test_real_hardware_is_tried_before_the_simulated_processor(tmp_path: Path) -> None:
    names = [item.name for item in candidates(tmp_path, decode_coco=snp_from_json)]
    assert names == ["coco", "configfs-tsm", "sev-guest", "simulated"]


def test_guest_components_are_left_out_without_a_decoder(tmp_path: Path) -> None:
    assert [item.name for item in candidates(tmp_path)] == ["configfs-tsm", "sev-guest", "simulated"]


def test_first_that_can_be_used_is_taken_and_the_others_are_reported(tmp_path: Path) -> None:
    providers = [Stand("a", "no device"), Stand("b"), Stand("c")]
    found = detect(tmp_path, providers=providers)
    assert found.provider is providers[1]
    assert found.tried == (("a", "no device"),)


def test_none_is_an_error_that_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        detect(tmp_path, providers=[Stand("a", "no device"), Stand("b", "no socket")])
    assert "a: no device; b: no socket" in caught.value.diagnostics()


def test_machine_without_anything_is_an_error(tmp_path: Path) -> None:
    """Holds on SEV-SNP guests too: no provider is given but the simulated one."""
    with pytest.raises(ConfigurationError, match="no source of evidence"):
        detect(tmp_path, providers=candidates(tmp_path)[-1:])


@dataclass(frozen=True)
class Gpus:
    name: str
    reason: str = ""

    def available(self) -> str:
        return self.reason

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        raise NotImplementedError


def test_real_gpus_are_tried_before_the_simulated_ones(tmp_path: Path) -> None:
    names = [item.name for item in device_candidates(tmp_path, decode_coco=decode_devices)]
    assert names == ["coco", "nvml", "simulated"]
    assert [item.name for item in device_candidates(tmp_path)] == ["nvml", "simulated"]


def test_first_source_of_device_evidence_is_taken_and_the_others_are_reported(tmp_path: Path) -> None:
    gpus = [Gpus("a", "no GPU"), Gpus("b"), Gpus("c")]
    found = detect(tmp_path, providers=[Stand("cpu")], devices=gpus)
    assert found.devices is gpus[1]
    assert found.devices_tried == (("a", "no GPU"),)


def test_server_without_a_gpu_has_no_devices_and_says_what_was_tried(tmp_path: Path) -> None:
    found = detect(tmp_path, providers=[Stand("cpu")], devices=[Gpus("a", "no GPU")])
    assert found.devices is None
    assert found.devices_tried == (("a", "no GPU"),)


def test_simulated_gpus_are_found_by_their_socket(tmp_path: Path) -> None:
    simulated = device_candidates(tmp_path)[-1:]
    assert detect_devices(tmp_path, providers=simulated).provider is None
    with testing.running_gpus(tmp_path / "gpu.sock"):
        found = detect_devices(tmp_path, providers=simulated).provider
        assert found is not None
        assert found.evidence(b"n" * 32)[0].uuid == testing.gpu().uuid
