# SPDX-License-Identifier: BSD-3-Clause
"""The key-encryption key in a real HashiCorp Vault, with the broker as a program of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.errors import NetworkError
from support.broker_process import BrokerProcess, Hub, release, run
from support.postgres import Postgres
from support.vault import Vault, vault

pytestmark = pytest.mark.integration

READER = SecretKey.generate()
FAULTY = Path(__file__).parents[1] / "support" / "faulty_broker.py"

__all__ = ["vault"]


def kek_toml(vault: Vault, more: str, key: str) -> str:
    return (
        f'[kek]\nprovider = "vault"\naddress = "{vault.address}"\nkey = "{key}"\nca = "{vault.ca}"\n{more}\n'
    )


@pytest.fixture
def target(vault: Vault, tmp_path: Path) -> Path:
    """A file with a `[kek]` table for a token of the broker's policy."""
    path = tmp_path / "vault.toml"
    token = vault.token(tmp_path / "vault.token", period="1h")
    path.write_text(kek_toml(vault, f'token_file = "{token}"', vault.new_key()))
    return path


@pytest.fixture
def moved(prepared: BrokerProcess, target: Path) -> BrokerProcess:
    """A broker, not started, whose key is in Vault."""
    done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
    assert done.returncode == 0, done.stderr
    return prepared


def ready(broker: BrokerProcess) -> tuple[int, set[str]]:
    answer = httpx.get(f"{broker.url}/readyz", timeout=60)
    return answer.status_code, {name for name, one in answer.json()["checks"].items() if one != "ok"}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.2)


def version(vault: Vault, target: Path) -> int:
    key = target.read_text().partition('key = "')[2].partition('"')[0]
    found: int = vault.call("GET", f"transit/keys/{key}")["data"]["latest_version"]
    return found


def test_init_makes_the_key_with_an_operators_token(tmp_path: Path, vault: Vault, hub: Hub) -> None:
    home, key = tmp_path / "made", f"{vault.new_key(make=False)}"
    token, admin = vault.token(tmp_path / "t"), vault.token(tmp_path / "admin", "operator")
    words: list[str | Path] = ["init", "--home", home, "--kek", "vault", "--vault-address", vault.address]
    words += ["--vault-key", key]
    words += ["--vault-token-file", token, "--vault-ca", vault.ca, "--hub-api-url", hub.api_url]
    refused = run(*words)
    assert refused.returncode == 1
    assert f"vault write transit/keys/{key} type=aes256-gcm96" in refused.stderr.decode()
    done = run(*words, "--vault-admin-token-file", admin)
    assert done.returncode == 0, done.stderr
    data = vault.call("GET", f"transit/keys/{key}")["data"]
    assert (data["exportable"], data["deletion_allowed"], data["type"]) == (False, False, "aes256-gcm96")
    broker = BrokerProcess(tmp_path, home / "broker.toml")
    broker.start()
    try:
        assert ready(broker) == (200, set())
        assert token.read_text().strip() not in broker.config.read_text() + broker.log.read_text()
    finally:
        broker.kill()


def test_move_to_vault_while_the_broker_runs_and_the_end_of_its_token(
    prepared: BrokerProcess, target: Path
) -> None:
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest:
        release(guest, data, READER)
        done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
        assert done.returncode == 0, done.stderr
        (prepared.config.parent / "kek.key").unlink()
        release(guest, data, READER)
        prepared.kill()
        prepared.start()
        release(guest, data, READER)
    answer = httpx.get(f"{prepared.url}/readyz").json()
    left = (datetime.fromisoformat(answer["ends"]["kek"]) - datetime.now().astimezone()).total_seconds()
    assert answer["status"] == "ready"
    assert 0 < left <= 3600


@pytest.mark.parametrize("point", ["kek-in-file", "kek-rewrapped"])
def test_move_killed_midway_loses_nothing(prepared: BrokerProcess, target: Path, point: str) -> None:
    prepared.start()
    data = prepared.sealed()
    words = [sys.executable, "-P", str(FAULTY), point, "rotate-keys", "--only", "kek"]
    words += ["--to", str(target), "--config", str(prepared.config)]
    with prepared.guest() as guest:
        killed = subprocess.run(words, capture_output=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        release(guest, data, READER)
        prepared.kill()
        prepared.start()
        release(guest, data, READER)
        again = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
        assert again.returncode == 0, again.stderr
        (prepared.config.parent / "kek.key").unlink()
        release(guest, data, READER)


def test_rotation_needs_an_operators_token_and_goes_on_under_a_running_broker(
    moved: BrokerProcess, vault: Vault, target: Path, tmp_path: Path
) -> None:
    moved.start()
    data, admin = moved.sealed(), vault.token(tmp_path / "admin", "operator")
    words = ("rotate-keys", "--only", "kek", "--config", moved.config)
    refused = run(*words)
    assert refused.returncode == 1
    assert b"does not permit it the call (403" in refused.stderr
    assert version(vault, target) == 1
    with moved.guest() as guest:
        done = run(*words, "--vault-admin-token-file", admin)
        assert done.returncode == 0, done.stderr
        assert version(vault, target) == 2
        release(guest, data, READER)
        done = run(*words, "--destroy-old", "--vault-admin-token-file", admin)
        assert done.returncode == 0, done.stderr
        key = vault.call("GET", f"transit/keys/{vault.last_key}")["data"]
        assert (key["latest_version"], key["min_available_version"]) == (3, 3)
        release(guest, data, READER)
        assert ready(moved) == (200, set())


@pytest.mark.parametrize("point", ["kek-in-file", "kek-rewrapped"])
def test_rotation_killed_midway_loses_nothing(
    moved: BrokerProcess, vault: Vault, target: Path, tmp_path: Path, point: str
) -> None:
    moved.start()
    data, admin = moved.sealed(), vault.token(tmp_path / "admin", "operator")
    words = ["rotate-keys", "--only", "kek", "--config", str(moved.config)]
    words += ["--vault-admin-token-file", str(admin)]
    with moved.guest() as guest:
        killed = subprocess.run(
            [sys.executable, "-P", str(FAULTY), point, *words], capture_output=True, timeout=60, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert version(vault, target) == 2
        release(guest, data, READER)
        moved.kill()
        moved.start()
        assert run(*words).returncode == 0
        # What was begun was finished; what was done already was done again with one more version.
        assert version(vault, target) == (2 if point == "kek-in-file" else 3)
        release(guest, data, READER)


def test_sealed_vault_is_503_and_not_ready_until_it_is_unsealed(moved: BrokerProcess, vault: Vault) -> None:
    moved.start()
    data = moved.sealed()
    with moved.guest() as guest:
        release(guest, data, READER)
        vault.seal()
        try:
            with pytest.raises(NetworkError) as caught:
                release(guest, data, READER)
            assert ready(moved) == (503, {"kek"})
            assert httpx.get(f"{moved.url}/healthz").status_code == 200
        finally:
            vault.unseal()
        assert "503" in str(caught.value) or "could not" in str(caught.value)
        assert "is sealed or in maintenance" in moved.log.read_text()
        release(guest, data, READER)
        assert ready(moved) == (200, set())


def test_vault_that_is_gone_for_a_while(moved: BrokerProcess, vault: Vault) -> None:
    moved.start()
    data = moved.sealed()
    with moved.guest() as guest:
        release(guest, data, READER)
        vault.stop()
        try:
            with pytest.raises(NetworkError):
                release(guest, data, READER)
            assert ready(moved) == (503, {"kek"})
        finally:
            vault.start()
            vault.unseal()
        release(guest, data, READER)


def test_token_that_was_revoked_is_replaced_by_a_new_file(
    moved: BrokerProcess, vault: Vault, tmp_path: Path
) -> None:
    moved.start()
    data, path = moved.sealed(), tmp_path / "vault.token"
    with moved.guest() as guest:
        release(guest, data, READER)
        vault.revoke(path)
        with pytest.raises(NetworkError):
            release(guest, data, READER)
        assert ready(moved) == (503, {"kek"})
        vault.token(path, period="1h")
        wait_for(lambda: ready(moved)[0] == 200, "the new token")
        release(guest, data, READER)


def test_token_is_renewed_while_nobody_uses_it(prepared: BrokerProcess, vault: Vault, tmp_path: Path) -> None:
    target = tmp_path / "short.toml"
    token = vault.token(tmp_path / "short.token", period="8s")
    target.write_text(kek_toml(vault, f'token_file = "{token}"', vault.new_key()))
    done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
    assert done.returncode == 0, done.stderr
    prepared.start()
    time.sleep(18)  # more than two periods
    assert ready(prepared) == (200, set())


def test_approle_logs_in_again_when_its_token_was_revoked(
    prepared: BrokerProcess, vault: Vault, tmp_path: Path
) -> None:
    target, secret = tmp_path / "role.toml", tmp_path / "secret-id"
    role = vault.approle(secret, token_ttl="5s", token_max_ttl="10s")
    more = f'role_id = "{role}"\nsecret_id_file = "{secret}"'
    target.write_text(kek_toml(vault, more, vault.new_key()))
    done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
    assert done.returncode == 0, done.stderr
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest:
        release(guest, data, READER)
        vault.revoke_all("auth/approle/login")
        release(guest, data, READER)
        time.sleep(12)  # beyond what the first token could be renewed for
        release(guest, data, READER)
    assert secret.read_text().strip() not in prepared.log.read_text()


def test_two_processes_and_a_rotation_by_a_third(
    tmp_path: Path, hub: Hub, vault: Vault, target: Path, postgres: Postgres
) -> None:
    url, admin = postgres.create(), vault.token(tmp_path / "admin", "operator")
    first = BrokerProcess.prepare(tmp_path, hub, postgresql=url)
    second = first.second()
    try:
        assert run("rotate-keys", "--only", "kek", "--to", target, "--config", first.config).returncode == 0
        first.start()
        second.start()
        data = first.sealed()
        with first.guest() as one, second.guest() as two:
            for _ in range(2):
                release(one, data, READER)
                release(two, data, READER)
                done = run("rotate-keys", "--config", first.config, "--vault-admin-token-file", admin)
                assert done.returncode == 0, done.stderr
            release(one, data, READER)
            release(two, data, READER)
    finally:
        first.kill()
        second.kill()
        postgres.give_back(url)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"exportable": True}, "is exportable"),
        ({"derived": True}, "is derived"),
        ({"type": "chacha20-poly1305"}, "is not of the type aes256-gcm96"),
        ({"allow_plaintext_backup": True}, "may be backed up in clear"),
    ],
)
def test_key_that_is_not_as_it_must_be_is_refused(
    prepared: BrokerProcess, vault: Vault, tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    target, key, before = tmp_path / "bad.toml", vault.new_key(**fields), prepared.config.read_text()
    token = vault.token(tmp_path / "bad.token", "operator")
    target.write_text(kek_toml(vault, f'token_file = "{token}"', key))
    done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
    assert done.returncode == 1
    assert sentence in done.stderr.decode()
    assert prepared.config.read_text() == before


def test_key_that_may_be_deleted_makes_the_broker_not_ready(moved: BrokerProcess, vault: Vault) -> None:
    moved.start()
    path = f"transit/keys/{vault.last_key}/config"
    vault.call("POST", path, {"deletion_allowed": True})
    assert ready(moved) == (503, {"kek"})
    refused = run("serve", "--config", moved.config, "--listen", "127.0.0.1:0")
    assert b"may be deleted" in refused.stderr
    vault.call("POST", path, {"deletion_allowed": False})
    assert ready(moved) == (200, set())


def test_vaults_own_rewrap_does_not_open_what_is_bound_to_a_context(
    moved: BrokerProcess, vault: Vault
) -> None:
    """Why `rotate-keys` unwraps and wraps: transit's rewrap takes no associated data."""
    bound = {"plaintext": "c2VjcmV0", "associated_data": "Y29udGV4dA=="}
    made = vault.call("POST", f"transit/encrypt/{vault.last_key}", bound)["data"]["ciphertext"]
    with pytest.raises(AssertionError, match="400"):
        vault.call(
            "POST",
            f"transit/rewrap/{vault.last_key}",
            {"ciphertext": made, "associated_data": "Y29udGV4dA=="},
        )


def test_backup_says_which_key_is_not_in_it(moved: BrokerProcess, vault: Vault) -> None:
    folder, keys = moved.folder / "backup", moved.folder / "backup-keys"
    done = run("backup", "--config", moved.config, "--keys", keys, folder)
    assert done.returncode == 0, done.stderr
    assert f"the key transit/{vault.last_key} of Vault at {vault.address}" in done.stdout.decode()
    assert not (keys / "kek.key").exists()
