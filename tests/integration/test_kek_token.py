# SPDX-License-Identifier: BSD-3-Clause
"""The key-encryption key on a real PKCS#11 token, SoftHSM's, with the broker as a program of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.errors import NetworkError
from support.broker_process import BrokerProcess, Hub, release, run
from support.postgres import Postgres
from support.softhsm import Token, library, softhsm, token

pytestmark = pytest.mark.integration

READER = SecretKey.generate()
FAULTY = Path(__file__).parents[1] / "support" / "faulty_broker.py"

__all__ = ["softhsm", "token"]


def kek_toml(token: Token) -> str:
    return (
        f'[kek]\nprovider = "pkcs11"\nmodule = "{library()}"\ntoken = "{token.label}"\n'
        f'pin_file = "{token.pin_file}"\n'
    )


@pytest.fixture
def moved(prepared: BrokerProcess, token: Token) -> BrokerProcess:
    """A broker, not started, whose key is on a token."""
    target = prepared.folder / "token.toml"
    target.write_text(kek_toml(token))
    done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
    assert done.returncode == 0, done.stderr
    return prepared


def ready(broker: BrokerProcess) -> tuple[int, set[str]]:
    answer = httpx.get(f"{broker.url}/readyz")
    return answer.status_code, {name for name, one in answer.json()["checks"].items() if one != "ok"}


def labels(token: Token) -> list[str]:
    """Return the labels of a token's keys, as another process sees them."""
    script = (
        "import pkcs11, sys\n"
        "session = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(user_pin=sys.argv[3])\n"
        "print(*sorted(one.label for one in session.get_objects()))\n"
    )
    words = [sys.executable, "-c", script, str(library()), token.label, token.pin]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def test_init_makes_a_key_that_never_leaves_and_the_broker_runs_with_it(
    tmp_path: Path, token: Token, hub: Hub
) -> None:
    home = tmp_path / "made"
    words: tuple[str | Path, ...] = (
        "init",
        "--home",
        home,
        "--kek",
        "pkcs11",
        "--pkcs11-module",
        str(library()),
    )
    words += (
        "--pkcs11-token",
        token.label,
        "--pkcs11-pin-file",
        token.pin_file,
        "--hub-api-url",
        hub.api_url,
    )
    for _ in range(2):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    assert labels(token) == ["sealroom-kek-v1"]
    assert not (home / "kek.key").exists()
    text = (home / "broker.toml").read_text()
    assert token.pin not in text
    broker = BrokerProcess(tmp_path, home / "broker.toml")
    broker.start()
    try:
        assert ready(broker) == (200, set())
    finally:
        broker.kill()


def test_move_to_a_token_while_the_broker_runs(prepared: BrokerProcess, token: Token) -> None:
    prepared.start()
    data, target = prepared.sealed(), prepared.folder / "token.toml"
    target.write_text(kek_toml(token))
    before = prepared.config.read_text()
    with prepared.guest() as guest:
        release(guest, data, READER)
        done = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
        assert done.returncode == 0, done.stderr
        assert b"1 stored secrets were moved: the key 'sealroom-kek' of the PKCS#11 token" in done.stdout
        assert b"kek.key is not used any more" in done.stdout
        (prepared.config.parent / "kek.key").unlink()
        release(guest, data, READER)
        after = prepared.config.read_text()
        assert [line for line in before.splitlines() if "kek" not in line] == after.split("\n\n[kek]")[
            0
        ].splitlines()
        prepared.kill()
        prepared.start()
        release(guest, data, READER)
        assert ready(prepared) == (200, set())
    token.take_away()
    try:
        assert ready(prepared) == (503, {"kek"})
    finally:
        token.bring_back()


def test_move_back_to_a_file(moved: BrokerProcess, token: Token) -> None:
    moved.start()
    data, target = moved.sealed(), moved.folder / "file.toml"
    target.write_text('kek = "broker/other.key"\n')
    with moved.guest() as guest:
        done = run("rotate-keys", "--only", "kek", "--to", target, "--config", moved.config)
        assert done.returncode == 0, done.stderr
        token.take_away()
        release(guest, data, READER)
        token.bring_back()
    assert (moved.config.parent / "other.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("point", ["kek-in-file", "kek-rewrapped"])
def test_move_killed_midway_loses_nothing(prepared: BrokerProcess, token: Token, point: str) -> None:
    prepared.start()
    data, target = prepared.sealed(), prepared.folder / "token.toml"
    target.write_text(kek_toml(token))
    words = [sys.executable, "-P", str(FAULTY), point, "rotate-keys", "--only", "kek"]
    words += ["--to", str(target), "--config", str(prepared.config)]
    with prepared.guest() as guest:
        killed = subprocess.run(words, capture_output=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert "[[kek.former]]" in prepared.config.read_text()
        release(guest, data, READER)
        prepared.kill()
        prepared.start()
        release(guest, data, READER)
        again = run("rotate-keys", "--only", "kek", "--to", target, "--config", prepared.config)
        assert again.returncode == 0, again.stderr
        assert "former" not in prepared.config.read_text()
        (prepared.config.parent / "kek.key").unlink()
        release(guest, data, READER)


def test_rotation_on_the_token_while_the_broker_runs(moved: BrokerProcess, token: Token) -> None:
    moved.start()
    data = moved.sealed()
    with moved.guest() as guest:
        release(guest, data, READER)
        done = run("rotate-keys", "--config", moved.config)
        assert done.returncode == 0, done.stderr
        assert b"1 stored secrets are wrapped with it" in done.stdout
        assert labels(token) == ["sealroom-kek-v1", "sealroom-kek-v2"]
        release(guest, data, READER)
        done = run("rotate-keys", "--only", "kek", "--destroy-old", "--config", moved.config)
        assert done.returncode == 0, done.stderr
        assert b"older backups do not open any more" in done.stdout
        assert labels(token) == ["sealroom-kek-v3"]
        release(guest, data, READER)
        assert ready(moved) == (200, set())


@pytest.mark.parametrize("point", ["kek-in-file", "kek-rewrapped"])
def test_rotation_killed_midway_loses_nothing(moved: BrokerProcess, token: Token, point: str) -> None:
    moved.start()
    data = moved.sealed()
    words = [sys.executable, "-P", str(FAULTY), point, "rotate-keys", "--config", str(moved.config)]
    with moved.guest() as guest:
        killed = subprocess.run(words, capture_output=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        release(guest, data, READER)
        moved.kill()
        moved.start()
        release(guest, data, READER)
        done = run("rotate-keys", "--only", "kek", "--config", moved.config)
        assert done.returncode == 0, done.stderr
        # What was begun was finished; what was done already was done again with one more version.
        assert labels(token)[-1] == ("sealroom-kek-v2" if point == "kek-in-file" else "sealroom-kek-v3")
        release(guest, data, READER)


def test_token_taken_away_and_brought_back(moved: BrokerProcess, token: Token) -> None:
    moved.start()
    data = moved.sealed()
    with moved.guest() as guest:
        release(guest, data, READER)
        token.take_away()
        assert ready(moved) == (503, {"kek"})
        with pytest.raises(NetworkError):
            release(guest, data, READER)
        assert httpx.get(f"{moved.url}/healthz").status_code == 200
        token.bring_back()
        wait_until_ready(moved)
        release(guest, data, READER)


def wait_until_ready(broker: BrokerProcess) -> None:
    deadline = time.monotonic() + 60
    while ready(broker)[0] != 200:
        assert time.monotonic() < deadline, broker.log.read_text()[-2000:]
        time.sleep(0.1)


def test_two_processes_and_a_rotation_by_a_third(
    tmp_path: Path, hub: Hub, token: Token, postgres: Postgres
) -> None:
    url = postgres.create()
    first = BrokerProcess.prepare(tmp_path, hub, postgresql=url)
    target = tmp_path / "token.toml"
    target.write_text(kek_toml(token))
    second = first.second()
    try:
        assert run("rotate-keys", "--only", "kek", "--to", target, "--config", first.config).returncode == 0
        first.start()
        second.start()
        data = first.sealed()
        with first.guest() as one, second.guest() as two:
            release(one, data, READER)
            release(two, data, READER)
            for _ in range(2):
                done = run("rotate-keys", "--config", first.config)
                assert done.returncode == 0, done.stderr
                release(one, data, READER)
                release(two, data, READER)
    finally:
        first.kill()
        second.kill()
        postgres.give_back(url)


def test_wrong_pin_is_presented_once_however_often_the_broker_is_started(
    moved: BrokerProcess, token: Token
) -> None:
    token.write_pin("wrong-pin")
    first = run("serve", "--config", moved.config, "--listen", "127.0.0.1:0")
    assert first.returncode == 1
    assert b"is refused by the token" in first.stderr
    for _ in range(2):
        again = run("serve", "--config", moved.config, "--listen", "127.0.0.1:0")
        assert again.returncode == 1
        assert b"was refused before; it is not tried again" in again.stderr
        assert b"wrong-pin" not in again.stderr
    token.write_pin(token.pin)
    moved.start()
    assert ready(moved) == (200, set())


def test_backup_says_which_key_is_not_in_it_and_is_restored_with_the_token(
    moved: BrokerProcess, token: Token
) -> None:
    moved.start()
    data = moved.sealed()
    folder, keys, home = (moved.folder / name for name in ("backup", "backup-keys", "restored"))
    done = run("backup", "--config", moved.config, "--keys", keys, folder)
    assert done.returncode == 0, done.stderr
    assert b"Not in it, and needed to open it: the key 'sealroom-kek' of the PKCS#11 token" in done.stdout
    assert token.pin.encode() not in b"".join(path.read_bytes() for path in keys.iterdir())
    assert not (keys / "kek.key").exists()
    moved.kill()
    shutil.rmtree(moved.config.parent)
    done = run("restore", "--keys", keys, "--home", home, folder)
    assert done.returncode == 0, done.stderr
    again = BrokerProcess(moved.folder, home / "broker.toml", token=moved.token, name="restored")
    again.start()
    try:
        with again.guest() as guest:
            release(guest, data, READER)
    finally:
        again.kill()
    token.take_away()
    done = run("restore", "--keys", keys, "--home", moved.folder / "without", folder)
    token.bring_back()
    assert done.returncode == 1
    assert b"There is no PKCS#11 token" in done.stderr
    assert not (moved.folder / "without").exists()


def test_metrics_show_what_the_token_is_asked_and_name_no_token(moved: BrokerProcess, token: Token) -> None:
    moved.settings('[metrics]\nlisten = "127.0.0.1:0"')
    moved.start()
    data = moved.sealed()
    with moved.guest() as guest:
        release(guest, data, READER)
    url = moved.log.read_text().partition("metrics are at ")[2].split()[0]
    text = httpx.get(url).text
    assert 'sealroom_broker_kek_seconds_count{operation="unwrap",provider="pkcs11"} 1.0' in text
    assert 'sealroom_broker_kek_seconds_count{operation="wrap",provider="pkcs11"} 1.0' in text
    assert "kek_token_seconds" not in text
    assert token.label not in text
    assert token.pin not in text + moved.log.read_text()
