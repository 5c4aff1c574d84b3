# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from sealroom import testing
from sealroom.errors import ConfigurationError, StorageError
from sealroom.simulated.gpu_root import GpuRoot, create, derive_key, load


def test_same_seed_and_time_give_the_same_root() -> None:
    one, other = (GpuRoot.make(at=testing.EPOCH, seed=b"s" * 32) for _ in range(2))
    assert one.device_pem == other.device_pem
    assert one.rim_issuers["GB100"].pem == other.rim_issuers["GB100"].pem
    assert one.responder(one.device).pem == other.responder(other.device).pem


def test_two_roots_share_no_key() -> None:
    one, other = (GpuRoot.make(at=testing.EPOCH) for _ in range(2))
    assert one.device_pem != other.device_pem
    assert one.rim_pem != other.rim_pem


def test_keys_of_two_names_differ() -> None:
    numbers = {derive_key(b"s" * 32, name).private_numbers().private_value for name in ("a", "b", "a")}
    assert len(numbers) == 2


def test_reference_values_have_a_root_of_their_own() -> None:
    root = testing.gpu_root()
    for chip in ("GH100", "GB100", "LS_10"):
        issuer, authority = root.rim_issuers[chip].certificate, root.rim_authorities[chip].certificate
        issuer.verify_directly_issued_by(authority)
        authority.verify_directly_issued_by(root.rim.certificate)
    with pytest.raises(ValueError, match="does not match"):
        authority.verify_directly_issued_by(root.device.certificate)


def test_root_is_made_once_and_read_again(tmp_path: Path) -> None:
    made = create(tmp_path / "gpu", at=testing.EPOCH)
    again = create(tmp_path / "gpu")
    assert again.device_pem == made.device_pem == load(tmp_path / "gpu").device_pem
    assert (tmp_path / "gpu" / "gpu-device-root.pem").read_bytes() == made.device_pem
    assert (tmp_path / "gpu" / "gpu-rim-root.pem").read_bytes() == made.rim_pem
    assert again.at == testing.EPOCH


def test_seed_is_for_its_owner_alone(tmp_path: Path) -> None:
    create(tmp_path)
    assert stat.S_IMODE((tmp_path / "gpu-root.seed").stat().st_mode) == 0o600


def test_a_kill_before_the_index_starts_over(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "gpu-root.json").unlink()
    (tmp_path / "gpu-root.seed.part").write_bytes(b"half")
    root = create(tmp_path)
    assert load(tmp_path).device_pem == root.device_pem


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another seed": write("gpu-root.seed", b"x" * 32),
    "a short seed": write("gpu-root.seed", b"x" * 31),
    "no JSON": write("gpu-root.json", b"{"),
    "no object": write("gpu-root.json", b"[]"),
    "another format": write("gpu-root.json", json.dumps({"format": "other"}).encode()),
    "no time": write("gpu-root.json", b'{"format": "sealroom-simulated-gpu-root/1"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_root_is_refused(tmp_path: Path, damage: str) -> None:
    create(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(ConfigurationError, match="damaged"):
        load(tmp_path)


def test_absent_root_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        create(tmp_path / "file" / "gpu")


def test_nothing_secret_is_printed() -> None:
    root = GpuRoot.make(at=testing.EPOCH, seed=b"k" * 32)
    assert "kkkk" not in repr(root)
    assert x509.load_pem_x509_certificate(root.device_pem) == root.device.certificate
