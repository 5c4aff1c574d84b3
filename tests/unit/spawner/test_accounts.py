# SPDX-License-Identifier: BSD-3-Clause
"""Who is let in, and how wrong passwords are slowed down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sealroom.errors import ConfigurationError
from sealroom_spawner import accounts
from sealroom_spawner.accounts import LocalAccountsAuthenticator, PasswordHash, new_password

PASSWORDS = {"researcher": new_password(), "operator": new_password()}


@pytest.fixture(scope="module")
def hashes() -> dict[str, Any]:
    return {
        name: {"password": PasswordHash.of(password).to_json(), "admin": name == "operator"}
        for name, password in PASSWORDS.items()
    }


Make = Callable[[], LocalAccountsAuthenticator]


@pytest.fixture
def file(tmp_path: Path, hashes: dict[str, Any]) -> Path:
    path = tmp_path / "accounts.json"
    path.write_text(json.dumps(hashes))
    return path


@pytest.fixture
def authenticator(file: Path) -> LocalAccountsAuthenticator:
    return LocalAccountsAuthenticator(accounts_file=str(file), first_delay=0.0, longest_delay=0.0)


async def login(authenticator: LocalAccountsAuthenticator, name: str, password: str) -> str | None:
    return await authenticator.authenticate(None, {"username": name, "password": password})


async def test_the_right_password_lets_in(authenticator: LocalAccountsAuthenticator) -> None:
    assert await login(authenticator, "researcher", PASSWORDS["researcher"]) == "researcher"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("researcher", PASSWORDS["operator"]),
        ("researcher", ""),
        ("researcher", PASSWORDS["researcher"] + " "),
        ("Researcher", PASSWORDS["researcher"]),
        ("nobody", PASSWORDS["researcher"]),
        ("", ""),
    ],
)
async def test_nothing_else_does(authenticator: LocalAccountsAuthenticator, name: str, password: str) -> None:
    assert await login(authenticator, name, password) is None


async def test_fields_that_are_missing_let_nobody_in(authenticator: LocalAccountsAuthenticator) -> None:
    assert await authenticator.authenticate(None, {}) is None


def test_the_file_says_who_may_come_and_who_administers(authenticator: LocalAccountsAuthenticator) -> None:
    assert authenticator.allowed_users == {"researcher", "operator"}
    assert authenticator.admin_users == {"operator"}
    assert not authenticator.allow_all


def take_out(file: Path, name: str) -> None:
    left = json.loads(file.read_text())
    del left[name]
    file.write_text(json.dumps(left))


async def test_who_was_taken_out_is_out(authenticator: LocalAccountsAuthenticator, file: Path) -> None:
    assert await authenticator.refresh_user(SimpleNamespace(name="researcher"))
    take_out(file, "researcher")
    assert not await authenticator.refresh_user(SimpleNamespace(name="researcher"))
    assert await login(authenticator, "researcher", PASSWORDS["researcher"]) is None


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long the authenticator would wait, and let the clock stand still."""
    noted: list[float] = []

    async def sleep(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    return noted


async def test_wrong_passwords_make_the_next_try_wait_longer_each_time(
    file: Path, waits: list[float]
) -> None:
    slow = LocalAccountsAuthenticator(accounts_file=str(file), first_delay=0.5, longest_delay=3.0)
    for _ in range(5):
        await login(slow, "researcher", "wrong")
    assert waits == [0.0, 0.5, 1.0, 2.0, 3.0]


async def test_the_right_password_ends_the_waiting(file: Path, waits: list[float]) -> None:
    slow = LocalAccountsAuthenticator(accounts_file=str(file))
    await login(slow, "researcher", "wrong")
    await login(slow, "researcher", PASSWORDS["researcher"])
    await login(slow, "researcher", PASSWORDS["researcher"])
    assert waits[-1] == 0.0


async def test_tries_at_the_same_time_wait_their_turn(file: Path, waits: list[float]) -> None:
    slow = LocalAccountsAuthenticator(accounts_file=str(file))
    await asyncio.gather(*(login(slow, "researcher", "wrong") for _ in range(4)))
    assert sorted(waits) == [0.0, 0.5, 1.0, 2.0]


async def test_one_persons_wrong_tries_do_not_hold_up_another(file: Path, waits: list[float]) -> None:
    slow = LocalAccountsAuthenticator(accounts_file=str(file))
    for _ in range(3):
        await login(slow, "researcher", "wrong")
    waits.clear()
    assert await login(slow, "operator", PASSWORDS["operator"]) == "operator"
    assert waits == [0.0]


async def test_names_that_do_not_exist_share_one_turn(file: Path, waits: list[float]) -> None:
    slow = LocalAccountsAuthenticator(accounts_file=str(file))
    for number in range(4):
        await login(slow, f"nobody-{number}", "wrong")
    assert waits == [0.0, 0.5, 1.0, 2.0]
    assert len(slow._turns) == 1


async def test_no_password_and_no_name_is_logged(
    authenticator: LocalAccountsAuthenticator, caplog: pytest.LogCaptureFixture
) -> None:
    authenticator.log.propagate = True
    await login(authenticator, "my-password-typed-as-name", "my-wrong-password")
    assert "my-" not in caplog.text


def test_passwords_are_long_and_differ() -> None:
    made = {new_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(password) >= 20 for password in made)


def test_a_hash_says_nothing_of_its_password() -> None:
    one, other = PasswordHash.of("same"), PasswordHash.of("same")
    assert one.salt != other.salt
    assert one.digest != other.digest
    assert one.matches("same")
    assert not one.matches("Same")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"a": 1}', '{"a": {"password": {}}}', '{"a": {"password": 1}}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "accounts.json").write_text(text)
    with pytest.raises(ConfigurationError):
        accounts.read_accounts(tmp_path / "accounts.json")


def test_a_weak_hash_is_refused() -> None:
    weak = PasswordHash.of("x").to_json() | {"n": 2}
    with pytest.raises(ConfigurationError, match="too weak"):
        PasswordHash.from_json(weak)


def test_a_short_salt_is_refused() -> None:
    short = PasswordHash.of("x").to_json() | {"salt": "eA=="}
    with pytest.raises(ConfigurationError, match="too weak"):
        PasswordHash.from_json(short)
