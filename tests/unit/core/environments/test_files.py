# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from pathlib import Path

import pytest
from sealroom import testing
from sealroom.environments import generate_key, load, load_directory, sign
from sealroom.errors import FormatError, SignatureError, StorageError

KEY = generate_key()


def put(directory: Path, name: str) -> Path:
    raw = testing.environment(name=name).raw
    path = directory / f"{name}.toml"
    path.write_bytes(raw)
    (directory / f"{name}.toml.sig").write_bytes(sign(raw, KEY))
    return path


def test_signed_file_is_loaded(tmp_path: Path) -> None:
    assert load(put(tmp_path, "one"), [KEY.public_key()]).name == "one"


def test_directory_gives_all_by_name(tmp_path: Path) -> None:
    for name in ("two", "one"):
        put(tmp_path, name)
    assert [item.name for item in load_directory(tmp_path, [KEY.public_key()])] == ["one", "two"]


def test_unsigned_file_in_a_directory_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "one")
    (tmp_path / "two.toml").write_bytes(testing.environment(name="two").raw)
    with pytest.raises(StorageError, match=r"two\.toml\.sig cannot be read"):
        load_directory(tmp_path, [KEY.public_key()])


def test_signature_of_another_file_is_refused(tmp_path: Path) -> None:
    one, two = put(tmp_path, "one"), put(tmp_path, "two")
    one.write_bytes(two.read_bytes() + b"\n")
    with pytest.raises(SignatureError):
        load(one, [KEY.public_key()])


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path / "none.toml", [KEY.public_key()])


def test_endless_file_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "one")
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(FormatError, match="longer than"):
        load(path, [KEY.public_key()])
