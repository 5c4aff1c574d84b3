# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sealroom.errors import ConfigurationError, StorageError
from sealroom_broker.config import Postgresql
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.keyring import Keyring, SharedKeys, _pem
from sealroom_broker.migrate import migrate
from sealroom_broker.store import SigningKeyRow, Store
from sealroom_broker.wrap import FileKeyWrap
from sqlalchemy import select
from support.postgres import Postgres

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def ring(folder: Path) -> Keyring:
    return Keyring(folder, rotate=30 * DAY, token_life=timedelta(minutes=15))


def test_first_key_is_made_and_kept(tmp_path: Path) -> None:
    key = ring(tmp_path).current(NOW)
    again = ring(tmp_path).current(NOW + DAY)
    assert again.kid == key.kid
    assert again.private.private_numbers() == key.private.private_numbers()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_key_rotates_and_the_old_one_stays_published_while_its_tokens_live(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    old, new = keys.current(NOW), keys.current(NOW + 30 * DAY)
    assert old.kid != new.kid
    published = [one["kid"] for one in keys.jwks(NOW + 30 * DAY)["keys"]]
    assert published == [old.kid, new.kid]
    assert [one["kid"] for one in keys.jwks(NOW + 31 * DAY)["keys"]] == [new.kid]


def test_rotation_survives_a_restart(tmp_path: Path) -> None:
    old = ring(tmp_path).current(NOW)
    assert ring(tmp_path).current(NOW + 40 * DAY).kid != old.kid


def test_clock_that_is_set_back_makes_no_new_key(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    assert keys.current(NOW).kid == keys.current(NOW - DAY).kid


def test_only_public_halves_are_published(tmp_path: Path) -> None:
    (key,) = ring(tmp_path).jwks(NOW)["keys"]
    assert set(key) == {"kty", "crv", "alg", "use", "kid", "x", "y"}
    assert key["alg"] == "ES256"


def test_key_is_not_shown(tmp_path: Path) -> None:
    assert "private" not in repr(ring(tmp_path).current(NOW))


def test_key_file_that_others_may_read(tmp_path: Path) -> None:
    ring(tmp_path).current(NOW)
    next(tmp_path.iterdir()).chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read it"):
        ring(tmp_path)


@pytest.mark.parametrize("name", ["ear-20260601T120000Z-abc.pem", "ear-someday.pem"])
def test_file_that_is_no_key(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(mode=0o600)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ring(tmp_path)


def test_key_that_is_made_at_once_signs_from_now_on(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    old = keys.current(NOW)
    new = keys.rotate(NOW)
    assert keys.current(NOW).kid == new.kid != old.kid
    assert [one["kid"] for one in keys.jwks(NOW)["keys"]] == [old.kid, new.kid]


def test_key_that_is_made_after_the_clock_was_set_back_signs_all_the_same(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    keys.current(NOW)
    new = keys.rotate(NOW - DAY)
    assert keys.current(NOW - DAY).kid == new.kid


def test_key_of_another_process_is_seen(tmp_path: Path) -> None:
    keys, other = ring(tmp_path), ring(tmp_path)
    keys.current(NOW)
    new = other.rotate(NOW)
    assert keys.current(NOW).kid == new.kid


# --- in a database


class Shared:
    """Processes that share a database."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.stores: list[Store] = []

    def ring(self, wrap: FileKeyWrap | None = None) -> Keyring:
        """Return the keyring of another process."""
        self.stores.append(Store(PostgresqlDatabase(Postgresql(url=self._address))))
        migrate(self.stores[-1])
        keys = SharedKeys(self.stores[-1], wrap or FileKeyWrap(bytes(32)))
        return Keyring(keys, rotate=30 * DAY, token_life=timedelta(minutes=15))


@pytest.fixture
def shared(postgres: Postgres) -> Iterator[Shared]:
    made = Shared(postgres.create())
    yield made
    for store in made.stores:
        store.close()


def test_processes_that_rotate_at_the_same_time_make_one_key(shared: Shared) -> None:
    rings = [shared.ring() for _ in range(4)]
    rings[0].current(NOW)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one: one.current(NOW + 30 * DAY).kid, rings))
    assert len(set(made)) == 1
    assert all(len(one.published(NOW + 30 * DAY)) == 2 for one in rings)


def test_key_in_the_database_is_wrapped(shared: Shared) -> None:
    keys = shared.ring()
    pem = _pem(keys.current(NOW))
    with shared.stores[0].read() as session:
        row = session.scalars(select(SigningKeyRow)).one()
    assert pem not in row.wrapped
    assert pem.splitlines()[1] not in row.wrapped


def test_process_with_another_wrapping_key(shared: Shared) -> None:
    shared.ring().current(NOW)
    with pytest.raises(StorageError, match="another key-encryption key"):
        shared.ring(FileKeyWrap(bytes(31) + b"x"))
