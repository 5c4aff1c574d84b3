# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sealroom.errors import ConfigurationError
from sealroom_broker.keyring import Keyring

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
