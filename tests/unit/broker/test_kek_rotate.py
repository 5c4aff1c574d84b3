# SPDX-License-Identifier: BSD-3-Clause
"""Several keepers of the key at once, moves between them, and rotations that break off.

Keys are in files here: what tokens and Vault do is in tests of their own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealroom.errors import ConfigurationError, StorageError
from sealroom_broker import rotate
from sealroom_broker.resources import ResourceSpec
from sealroom_broker.rotate import check_secrets, move_kek, prepare_move, rewrap, rotate_kek, wrapped_by
from sealroom_broker.wrap import Chain, FileKek, FileKeyWrap, Kek, create_kek
from sealroom_broker.wrap.settings import load_kek
from support.brokers import World

SECRETS = 5


@pytest.fixture
def filled(world: World) -> World:
    """A broker with a few secrets."""
    for number in range(SECRETS):
        spec = ResourceSpec(secret=base64.b64encode(f"secret {number}".encode()).decode())
        world.broker.resources.put(f"a/b/{number}", spec, "owner", world.clock())
    return world


@pytest.fixture
def other(world: World) -> Kek:
    """Another key file, not made."""
    return Kek(first=FileKek(path=world.folder / "other.key"))


def all_open(world: World) -> bool:
    """Tell whether the broker that runs, and one that starts, open every secret."""
    chain = Chain(load_kek(world.config_path))
    return (
        check_secrets(world.broker.store, chain)
        == check_secrets(world.broker.store, world.broker.wrap)
        == SECRETS
    )


def put(world: World, name: str) -> bytes:
    """Have the broker that runs wrap something, and return it wrapped."""
    from sealroom_broker.store import ResourceRow

    world.broker.resources.put(f"a/b/{name}", ResourceSpec(secret="c2VjcmV0"), "owner", world.clock())
    with world.broker.store.read() as session:
        return session.get_one(ResourceRow, f"a/b/{name}").wrapped


def test_running_broker_follows_a_move_without_a_restart(filled: World, other: Kek) -> None:
    old = filled.broker.wrap.prefix
    assert prepare_move(filled.config_path, other)
    assert not prepare_move(filled.config_path, other)
    # Both are known, and the new one wraps.
    assert all_open(filled)
    assert put(filled, "0").startswith(FileKeyWrap.load(other.files[0]).prefix)
    assert not wrapped_by(filled.broker.store, filled.broker.wrap.prefix)
    assert move_kek(filled.config_path, other, filled.broker.store) == SECRETS - 1
    assert load_kek(filled.config_path) == other
    assert all_open(filled)
    assert not wrapped_by(filled.broker.store, old)
    filled.broker.wrap.refresh()
    assert filled.broker.wrap.kek == other


def test_move_in_batches_that_breaks_off_is_finished_later(
    filled: World, other: Kek, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotate, "BATCH", 2)
    whole, calls = rotate._rewrap_batch, 0

    def breaking(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StorageError("The disk is full.")
        return whole(*arguments)

    monkeypatch.setattr(rotate, "_rewrap_batch", breaking)
    with pytest.raises(StorageError, match="disk is full"):
        move_kek(filled.config_path, other, filled.broker.store)
    assert len(load_kek(filled.config_path).all) == 2
    assert all_open(filled)
    assert move_kek(filled.config_path, other, filled.broker.store) == SECRETS - 4
    assert all_open(filled)


def test_secret_that_does_not_open_keeps_both_keepers(filled: World, other: Kek) -> None:
    from sealroom_broker.store import ResourceRow

    with filled.broker.store.write() as session:
        row = session.get_one(ResourceRow, "a/b/3")
        row.wrapped = row.wrapped[:-1] + bytes([row.wrapped[-1] ^ 1])
    with pytest.raises(StorageError, match="does not open"):
        move_kek(filled.config_path, other, filled.broker.store)
    assert len(load_kek(filled.config_path).all) == 2


def test_move_to_a_keeper_that_does_not_work_changes_nothing(filled: World, other: Kek) -> None:
    other.files[0].write_text("not a key")
    other.files[0].chmod(0o600)
    before = filled.config_path.read_bytes()
    with pytest.raises(ConfigurationError):
        move_kek(filled.config_path, other, filled.broker.store)
    assert filled.config_path.read_bytes() == before
    assert all_open(filled)


def test_move_that_names_two_keepers(filled: World, other: Kek) -> None:
    both = Kek(first=other.first, former=filled.broker.config.kek.all)
    with pytest.raises(ConfigurationError, match="must name one provider"):
        move_kek(filled.config_path, both, filled.broker.store)


def test_somebody_else_who_rotates_meanwhile_is_noticed(
    filled: World, other: Kek, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewrap_by_both(store: Any, wrap: Any) -> int:
        count = rewrap(store, wrap)
        # Another rotation of the same file, between our last batch and our look at it.
        rewrap(store, FileKeyWrap(bytes(32), *(rotate_keys(filled))))
        return count

    monkeypatch.setattr(rotate, "rewrap", rewrap_by_both)
    with pytest.raises(ConfigurationError, match="Another rotation is going on"):
        rotate_kek(filled.broker.config.kek, filled.broker.store)


def rotate_keys(world: World) -> list[bytes]:
    from sealroom_broker.wrap import read_keys

    return read_keys(world.broker.config.kek.files[0])


# --- chains


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Kek]:
    def made(*names: str) -> Kek:
        first, *former = (FileKek(path=tmp_path / f"{name}.key") for name in names)
        for one in (first, *former):
            create_kek(one)
        return Kek(first=first, former=tuple(former))

    return made


def test_first_wraps_and_all_unwrap(files: Callable[..., Kek]) -> None:
    a, b, both = Chain(files("a")), Chain(files("b")), Chain(files("b", "a"))
    assert both.unwrap(a.wrap(b"old", context="c"), context="c") == b"old"
    assert b.unwrap(both.wrap(b"new", context="c"), context="c") == b"new"
    with pytest.raises(StorageError, match="another key-encryption key"):
        a.unwrap(b.wrap(b"new", context="c"), context="c")


@pytest.mark.parametrize("wrapped", [b"", b"\x00", b"\x02rest", b"\x03rest", b"\xff" * 40])
def test_what_none_of_them_wrapped(files: Callable[..., Kek], wrapped: bytes) -> None:
    with pytest.raises(StorageError, match="another key-encryption key"):
        Chain(files("a")).unwrap(wrapped, context="c")


def test_rotation_of_a_former_key_by_another_process_is_seen(files: Callable[..., Kek]) -> None:
    both = Chain(files("b", "a"))
    rotated = FileKeyWrap.load(files("a").files[0])
    rotated.begin()
    assert both.unwrap(rotated.wrap(b"new", context="c"), context="c") == b"new"


def test_keeper_that_cannot_be_asked_is_could_not_and_not_another_key(files: Callable[..., Kek]) -> None:
    both, foreign = Chain(files("b", "a")), FileKeyWrap(bytes(32)).wrap(b"x", context="c")
    both.kek.files[1].unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        both.unwrap(foreign, context="c")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        both.check()


def test_configuration_that_became_unreadable_wraps_nothing(
    tmp_path: Path, files: Callable[..., Kek]
) -> None:
    source, kek = tmp_path / "broker.toml", files("a")
    source.write_text('kek = "a.key"\n')
    chain = Chain(kek, source=source)
    wrapped = chain.wrap(b"secret", context="c")
    source.write_text("kek = \n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        chain.wrap(b"secret", context="c")
    assert chain.unwrap(wrapped, context="c") == b"secret"
    source.write_text('kek = "missing.key"\n')
    with pytest.raises(ConfigurationError, match="cannot be read"):
        chain.wrap(b"secret", context="c")
    source.write_text('kek = "a.key"\n')
    assert chain.wrap(b"secret", context="c")[:9] == wrapped[:9]


def test_each_operation_is_observed_also_where_it_fails(files: Callable[..., Kek]) -> None:
    chain, seen = Chain(files("a")), list[tuple[str, str, bool]]()
    chain.observer = lambda provider, operation, _seconds, good: seen.append((provider, operation, good))
    wrapped = chain.wrap(b"secret", context="c")
    with pytest.raises(StorageError):
        chain.unwrap(wrapped, context="d")
    chain.check()
    assert seen == [("file", "wrap", True), ("file", "unwrap", False), ("file", "check", True)]


def test_key_is_not_shown(files: Callable[..., Kek]) -> None:
    chain = Chain(files("a"))
    assert chain.kek.files[0].read_text().strip() not in repr(chain) + repr(chain.kek)
    assert chain.ends() is None
