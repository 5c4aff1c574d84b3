# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import ConfigurationError, StorageError
from sealroom_broker.files import create_private, read_private
from sealroom_broker.wrap import FileKeyWrap, new_key, read_keys, write_keys

KEY = bytes(range(32))
WRAP = FileKeyWrap(KEY)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_unwraps_what_was_wrapped(secret: bytes, context: str) -> None:
    assert WRAP.unwrap(WRAP.wrap(secret, context=context), context=context) == secret


def test_wrapped_secret_does_not_show() -> None:
    assert b"secret-of-the-dataset" not in WRAP.wrap(b"secret-of-the-dataset", context="c")


def test_wrapping_twice_differs() -> None:
    assert WRAP.wrap(b"s", context="c") != WRAP.wrap(b"s", context="c")


def test_other_context() -> None:
    with pytest.raises(StorageError, match="does not open"):
        WRAP.unwrap(WRAP.wrap(b"secret", context="dataset:a"), context="dataset:b")


def test_other_key() -> None:
    with pytest.raises(StorageError, match="another key-encryption key"):
        FileKeyWrap(bytes(32)).unwrap(WRAP.wrap(b"secret", context="c"), context="c")


@pytest.mark.parametrize("size", [0, 8, 20, 30])
def test_cut(size: int) -> None:
    with pytest.raises(StorageError):
        WRAP.unwrap(WRAP.wrap(b"secret", context="c")[:size], context="c")


def test_every_changed_byte() -> None:
    wrapped = WRAP.wrap(b"secret", context="c")
    for at in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[at] ^= 1
        with pytest.raises(StorageError):
            WRAP.unwrap(bytes(changed), context="c")


def test_key_is_not_shown() -> None:
    assert base64.b64encode(KEY).decode() not in repr(WRAP)
    assert KEY.hex() not in repr(WRAP)


def test_create_makes_a_private_file_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    wrapped = FileKeyWrap.create(path).wrap(b"secret", context="c")
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileKeyWrap.create(path).unwrap(wrapped, context="c") == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "kek.key"
    FileKeyWrap.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="others may read it"):
        FileKeyWrap.load(path)


def test_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        FileKeyWrap.load(tmp_path / "kek.key")


@pytest.mark.parametrize("content", [b"not base64!", base64.b64encode(bytes(16)), b""])
def test_key_file_that_holds_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek.key"
    create_private(path, content)
    with pytest.raises(ConfigurationError):
        FileKeyWrap.load(path)


def test_private_file_is_never_replaced(tmp_path: Path) -> None:
    create_private(tmp_path / "f", b"first")
    with pytest.raises(StorageError, match="cannot be written"):
        create_private(tmp_path / "f", b"second")
    assert read_private(tmp_path / "f", "The file") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# --- two keys, while they are rotated


def test_first_key_wraps_and_both_unwrap() -> None:
    both = FileKeyWrap(bytes(32), KEY)
    assert both.unwrap(WRAP.wrap(b"secret", context="c"), context="c") == b"secret"
    assert FileKeyWrap(bytes(32)).unwrap(both.wrap(b"secret", context="c"), context="c") == b"secret"


def test_key_that_another_process_put_first_is_used_at_once(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    running = FileKeyWrap.create(path)
    old = running.wrap(b"old", context="c")
    write_keys(path, [new_key(), *read_keys(path)])
    new = running.wrap(b"new", context="c")
    assert new[:9] != old[:9]
    assert (running.unwrap(old, context="c"), running.unwrap(new, context="c")) == (b"old", b"new")


def test_key_that_another_process_wrapped_with_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    running = FileKeyWrap.create(path)
    running.wrap(b"x", context="c")
    write_keys(path, [new_key(), *read_keys(path)])
    assert running.unwrap(FileKeyWrap.load(path).wrap(b"new", context="c"), context="c") == b"new"


def test_key_file_that_is_gone_wraps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    running = FileKeyWrap.create(path)
    running.wrap(b"x", context="c")
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        running.wrap(b"secret", context="c")


def test_key_file_with_three_keys(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    write_keys(path, [new_key() for _ in range(3)])
    with pytest.raises(ConfigurationError, match="has 3 keys"):
        FileKeyWrap.load(path)


def test_replaced_file_is_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    FileKeyWrap.create(path)
    write_keys(path, [KEY])
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["kek.key"]
    assert read_keys(path) == [KEY]
