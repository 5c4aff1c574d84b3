# SPDX-License-Identifier: BSD-3-Clause
"""The path of a researcher, a visitor and a data owner, over HTTP and in kernels, against the real stack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.leaks import secrets_of
from support.stack import REPOSITORY, Session, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

READ = """
import sealroom
{unlock}
try:
    with sealroom.open("heartbeats/ecg.npy") as file:
        print("read", len(file.read()))
except sealroom.errors.Error as error:
    print("refused", error.code, error.diagnostics())
"""
UNLOCK_AND_READ = READ.format(unlock='sealroom.unlock("heartbeats")')
READ_ONLY = READ.format(unlock="")


def eventually(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `check` holds, or fail with `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.3)
    pytest.fail(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def researcher(stack: Stack) -> Session:
    session = stack.login("researcher")
    session.start_server()
    return session


@pytest.fixture
def granted(stack: Stack) -> Callable[[], None]:
    """Give the researcher heartbeats again, whatever a test took away."""

    def give() -> None:
        stack.cli(
            "grant",
            "add",
            "heartbeats",
            "--user",
            "researcher",
            "--purpose",
            "DUO:0000042",
            "--minimum",
            "simulated",
        )

    return give


def state_of(session: Session, dataset: str) -> dict[str, Any]:
    """Return a dataset as the panel gets it."""
    found = [d for d in session.api("datasets").json()["datasets"] if d["id"] == dataset]
    assert len(found) == 1
    return dict(found[0])


def test_a_new_server_is_verified_and_says_simulated(researcher: Session) -> None:
    status = researcher.api("status").raise_for_status().json()
    assert status["phase"] == "verified"
    assert status["tier"] == "simulated"
    assert "imulated" in status["title"]
    assert len(status["sentences"]) == 2
    claims = [claim for device in status["devices"] for claim in device["claims"]]
    assert len(claims) > 10
    assert all(claim["sentence"] for claim in claims)


def test_the_hub_shows_the_tier_of_each_server(stack: Stack, researcher: Session) -> None:
    answer = researcher.client.get("/services/sealroom/api/servers")
    assert answer.status_code == 200, answer.text[:300]
    servers = answer.json()["servers"]
    assert [s["tier"] for s in servers if s["user"] == "researcher"] == ["simulated"]


def test_unlock_and_read_in_a_cell(stack: Stack, researcher: Session) -> None:
    done = researcher.execute(UNLOCK_AND_READ)
    assert "read 432128" in done.stdout, (done.stdout, done.error)
    assert state_of(researcher, "heartbeats")["state"] == "unlocked"
    assert "heartbeats" in stack.cli("audit", "show")


def test_a_visitor_sees_the_dataset_and_why_it_stays_closed(stack: Stack) -> None:
    visitor = stack.login("visitor")
    said = " / ".join(visitor.start_server())
    try:
        # The progress page's stages, in their order.
        assert re.search(r"Starting .*Evidence gathered.*Verified: Simulated TEE", said), said
        shown = state_of(visitor, "heartbeats")
        assert shown["state"] == "not_granted"
        assert shown["reasons"]
        assert shown["ask"]
        refused = visitor.api("datasets/heartbeats/unlock", body={"purpose": "DUO:0000042"})
        assert refused.status_code == 403
        assert refused.json()["reasons"]
        assert "refused" in visitor.execute(READ_ONLY).stdout
    finally:
        visitor.stop_server()


def test_a_withdrawal_ends_access_in_the_running_notebook(
    stack: Stack, researcher: Session, granted: Callable[[], None]
) -> None:
    assert "read" in researcher.execute(UNLOCK_AND_READ).stdout
    try:
        stack.cli("grant", "withdraw", "--dataset", "heartbeats", "--user", "researcher")
        eventually(
            lambda: state_of(researcher, "heartbeats")["state"] in ("withdrawn", "not_granted"),
            10,
            "withdrawn",
        )
        done = researcher.execute(READ_ONLY)
        assert "refused" in done.stdout, done
        assert "withdr" in done.stdout
    finally:
        granted()
    assert "read 432128" in researcher.execute(UNLOCK_AND_READ).stdout


def test_own_nonce_gives_evidence_that_verify_accepts_with_the_root_named(
    stack: Stack, researcher: Session, tmp_path: Path
) -> None:
    nonce = os.urandom(32).hex()
    answer = researcher.api("evidence", body={"nonce": nonce})
    assert answer.status_code == 200, answer.text[:300]
    file = tmp_path / "my.evidence.json"
    file.write_bytes(answer.content)
    root = str(stack.home / "simulated" / "ark.pem")
    accepted = stack.cli("verify", str(file), "--root", root, "--nonce", nonce)
    assert "imulated" in accepted or "SIMULATED" in accepted
    stack.cli("verify", str(file), "--nonce", nonce, status=1)  # AMD's roots know nothing of it
    stack.cli("verify", str(file), "--root", root, "--nonce", "00" * 32, status=1)


def test_the_audit_log_verifies_and_a_changed_entry_is_found(stack: Stack, researcher: Session) -> None:
    root = str(stack.home / "simulated" / "ark.pem")
    stack.cli("audit", "verify", "--root", root)
    bundle = next(p for p in (stack.home / "broker" / "audit" / "tile" / "entries").rglob("*") if p.is_file())
    before = bundle.read_bytes()
    changed = bytearray(before)
    changed[len(changed) // 2] ^= 1
    try:
        bundle.write_bytes(changed)
        stack.cli("audit", "verify", "--root", root, status=1)
    finally:
        bundle.write_bytes(before)
    stack.cli("audit", "verify", "--root", root)


def test_a_dataset_that_cannot_be_had_is_listed_with_the_reason(stack: Stack, researcher: Session) -> None:
    word = stack.home / "datasets" / "elsewhere.absent.json"
    word.write_text(json.dumps({"title": "Elsewhere", "owner": "a clinic", "reason": "Its source is away."}))
    word.chmod(0o644)
    try:
        shown = state_of(researcher, "elsewhere")
        assert shown["here"] is False
        assert [reason["sentence"] for reason in shown["reasons"]] == ["Its source is away."]
    finally:
        word.unlink()


def pid_of_broker(stack: Stack) -> int:
    """Return the broker's process id: the one process that serves this stack's configuration."""
    wanted = str(stack.home / "broker" / "broker.toml")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted.encode() in words and b"serve" in words:
                return int(entry.name)
    pytest.fail("no broker runs")


def test_killed_broker_comes_back_and_nothing_is_lost(stack: Stack, researcher: Session) -> None:
    before = stack.cli("grant", "list", "--json")
    os.kill(pid_of_broker(stack), signal.SIGKILL)
    eventually(
        lambda: _works(lambda: stack.cli("grant", "list", "--json") == before), 60, "the broker is back"
    )
    eventually(lambda: "read 432128" in researcher.execute(UNLOCK_AND_READ).stdout, 60, "readable again")
    stack.cli("audit", "verify", "--root", str(stack.home / "simulated" / "ark.pem"))


def _works(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except AssertionError:
        return False


PLANT = """
from pathlib import Path
home = Path.home()
(home / "jupyterhub.py").write_text("open('hijacked', 'w')")
(home / ".jupyter").mkdir(exist_ok=True)
(home / ".jupyter" / "jupyter_server_config.py").write_text("open('hijacked', 'w')")
"""


def test_code_planted_in_a_home_does_not_run_where_the_keys_are(stack: Stack, researcher: Session) -> None:
    home = stack.home / "users" / "researcher" / "home"
    assert not researcher.execute(PLANT).error
    planted = [home / "jupyterhub.py", home / ".jupyter" / "jupyter_server_config.py"]
    assert all(path.is_file() for path in planted)
    try:
        researcher.start_server()
        assert researcher.api("status").json()["phase"] == "verified"
        assert not (home / "hijacked").exists()
    finally:
        for path in planted:
            path.unlink()


def test_killed_server_starts_again_with_the_saved_files(stack: Stack, researcher: Session) -> None:
    researcher.execute("from pathlib import Path; (Path.home() / 'mine.txt').write_text('kept')")
    pid = (stack.home / "users" / "researcher" / "run" / "server.pid").read_text().split()[0]
    os.kill(int(pid), signal.SIGKILL)
    eventually(
        lambda: not researcher.client.get(f"/hub/api/users/{researcher.user}").json()["servers"],
        90,
        "noticed",
    )
    researcher.start_server()
    assert (
        "kept"
        in researcher.execute(
            "from pathlib import Path; print((Path.home() / 'mine.txt').read_text())"
        ).stdout
    )
    assert "read 432128" in researcher.execute(UNLOCK_AND_READ).stdout


def test_killed_hub_starts_again_and_nothing_is_lost(stack: Stack, researcher: Session) -> None:
    before = stack.cli("grant", "list", "--json")
    os.kill(int((stack.home / "hub" / "hub.pid").read_text().split()[0]), signal.SIGKILL)
    stack.bootstrap("up")
    assert stack.cli("grant", "list", "--json") == before
    again = stack.login("researcher")
    if not again.client.get("/hub/api/users/researcher").json()["servers"]:
        again.start_server()
    assert "read 432128" in again.execute(UNLOCK_AND_READ).stdout
    stack.cli("audit", "verify", "--root", str(stack.home / "simulated" / "ark.pem"))


def test_nothing_secret_in_logs_processes_environments_or_notebooks(
    stack: Stack, researcher: Session
) -> None:
    secrets = secrets_of(stack)
    assert len(secrets) >= 6
    logs = [p for p in stack.home.rglob("*.log*") if p.is_file()]
    assert logs
    homes = [p for p in (stack.home / "users").rglob("*") if p.is_file() and not p.is_symlink()]
    for path in [*logs, *homes]:
        content = path.read_bytes()
        assert not [s for s in secrets if s in content], path
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            try:
                content = (process / part).read_bytes()
            except OSError:
                continue
            assert not [s for s in secrets if s in content], (process.name, part)
    kernel = researcher.execute("import os, json; print(json.dumps(dict(os.environ)))")
    environment = json.loads(kernel.stdout)
    assert "SEALROOM_RUN" in environment
    assert not [name for name in environment if "TOKEN" in name or "SECRET" in name or "PASSWORD" in name]


def test_a_tampered_file_is_refused_in_a_cell(stack: Stack, researcher: Session) -> None:
    file = stack.home / "datasets" / "heartbeats" / "ecg.npy.c4gh"
    before = file.read_bytes()
    tampered = bytearray(before)
    tampered[len(tampered) // 2] ^= 1
    try:
        file.write_bytes(tampered)
        done = researcher.execute(UNLOCK_AND_READ)
        assert "refused integrity" in done.stdout, done
        assert "ecg.npy" in done.stdout
        assert "segment" in done.stdout
    finally:
        file.write_bytes(before)
    assert "read 432128" in researcher.execute(UNLOCK_AND_READ).stdout


def test_a_server_whose_report_is_altered_is_refused(stack: Stack, researcher: Session) -> None:
    assert researcher.api("prove", body={}).json()["phase"] == "verified"
    run = stack.home / "users" / "researcher" / "run"
    socket, aside = run / "sp.sock", run / "sp.aside"
    owner = socket.stat().st_uid
    socket.rename(aside)
    if os.geteuid() == 0:
        # As the spawner does it: the folder is the server's when the socket is there.
        os.chown(run, 0, 0)
    altering = subprocess.Popen(
        [
            *(sys.executable, "-m", "sealroom.simulated", "serve", "--alter-reports"),
            *("--root", str(stack.home / "simulated"), "--socket", str(socket)),
            *("--environment", str(stack.home / "environments" / "simulated-cpu.toml")),
            *(("--uid", str(owner)) if os.geteuid() == 0 else ()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(socket.is_socket, 30, "the altering processor serves")
        if os.geteuid() == 0:
            os.chown(run, owner, owner)
        status = researcher.api("prove", body={}).json()
        assert status["phase"] == "refused"
        assert status["tier"] == "none"
        assert "not signed" in status["error"]["message"]
        assert state_of(researcher, "heartbeats")["state"] != "unlocked"
    finally:
        altering.terminate()
        altering.wait(timeout=30)
        if os.geteuid() == 0:
            os.chown(run, owner, owner)
        aside.rename(socket)
    assert researcher.api("prove", body={}).json()["phase"] == "verified"


def test_three_refusals_are_shown(stack: Stack, researcher: Session) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "demo-refusals"],
        cwd=REPOSITORY,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("segment", "not signed", "ended on"):
        assert word in done.stdout.lower(), done.stdout
