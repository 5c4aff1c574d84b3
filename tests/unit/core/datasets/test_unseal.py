# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest
from sealroom.crypt4gh import CIPHER_SEGMENT, SecretKey
from sealroom.datasets.unseal import unseal_dataset
from sealroom.errors import ConfigurationError, IntegrityError, StorageError
from support.sealed import PLAIN, Sealed


def unseal(sealed: Sealed, out: Path, secret: SecretKey | None = None, **options: object) -> None:
    unseal_dataset(
        sealed.directory,
        sealed.manifest,
        secret or sealed.dataset_key,
        out,
        **options,  # type: ignore[arg-type]
    )


def nothing_left(place: Path) -> bool:
    return {path.name for path in place.iterdir()} == {"datasets"}


def test_clear_files_are_what_was_sealed(sealed: Sealed, tmp_path: Path) -> None:
    told: dict[str, int] = {}
    unseal(
        sealed, tmp_path / "clear", progress=lambda name, size: told.update({name: told.get(name, 0) + size})
    )
    clear = {
        str(p.relative_to(tmp_path / "clear")): p for p in (tmp_path / "clear").rglob("*") if p.is_file()
    }
    assert {name: path.read_bytes() for name, path in clear.items()} == PLAIN
    assert told == {name: len(data) for name, data in PLAIN.items() if data}


def test_clear_files_are_for_their_owner_alone(sealed: Sealed, tmp_path: Path) -> None:
    unseal(sealed, tmp_path / "clear")
    for path in [tmp_path / "clear", *(tmp_path / "clear").rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)


def test_existing_destination_is_not_overwritten(sealed: Sealed, tmp_path: Path) -> None:
    (tmp_path / "clear").mkdir()
    with pytest.raises(StorageError, match="is there already"):
        unseal(sealed, tmp_path / "clear")


@pytest.mark.parametrize("inside", ["clear", "labels/clear", "."])
def test_destination_inside_the_dataset_is_refused(sealed: Sealed, inside: str) -> None:
    with pytest.raises((ConfigurationError, StorageError), match=r"inside the sealed|already"):
        unseal(sealed, sealed.directory.path / inside)


def test_destination_that_is_inside_by_a_link_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sealed.directory.path)
    with pytest.raises(ConfigurationError, match="inside the sealed"):
        unseal(sealed, tmp_path / "link" / "clear")


def test_another_key_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not the one that heartbeats is sealed to"):
        unseal(sealed, tmp_path / "clear", SecretKey.generate())
    assert nothing_left(tmp_path)


def test_too_little_space_is_refused_first(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="Unsealing needs"):
        unseal(sealed, tmp_path / "clear")
    assert nothing_left(tmp_path)


def test_disk_that_fills_up_leaves_nothing_clear(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space is left"):
        unseal(sealed, tmp_path / "clear")
    assert nothing_left(tmp_path)


def test_changed_segment_leaves_nothing_clear(sealed: Sealed, tmp_path: Path) -> None:
    path = sealed.directory.sealed_file("ecg.bin")
    data = bytearray(path.read_bytes())
    data[124 + 3 * CIPHER_SEGMENT + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"ecg\.bin: segment 4 of 5"):
        unseal(sealed, tmp_path / "clear")
    assert nothing_left(tmp_path)


def test_what_a_killed_try_left_in_clear_goes_with_the_next(sealed: Sealed, tmp_path: Path) -> None:
    rest = tmp_path / ".clear.unsealing"
    rest.mkdir()
    (rest / "ecg.bin").write_bytes(b"half")
    unseal(sealed, tmp_path / "clear")
    assert not rest.exists()
    assert (tmp_path / "clear" / "ecg.bin").read_bytes() == PLAIN["ecg.bin"]
