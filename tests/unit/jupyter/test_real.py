# SPDX-License-Identifier: BSD-3-Clause
"""The notebook server as a spawner starts it, with a real simulated processor and a real broker."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealroom.snp import Roots, verify_report
from support.sealed import PLAIN
from unit.jupyter.stand import SERVER_TOKEN, USER, FakeHub, Stand, eventually, standing

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

READ = """
import sealroom
with sealroom.open("heartbeats/ecg.bin") as file:
    print("read", len(file.read()))
"""
UNLOCK = 'import sealroom; sealroom.unlock("heartbeats", show=False)\n'


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with standing() as made:
        made.start_server()
        yield made


@pytest.fixture
def granted(stand: Stand) -> Iterator[str]:
    grant = stand.grant()
    yield grant
    stand.withdraw(grant)
    eventually(lambda: stand.dataset()["state"] == "withdrawn", "the withdrawal")


def test_the_server_proves_itself_and_says_simulated(stand: Stand) -> None:
    status = stand.status()
    assert (status["tier"], status["provider"], status["title"]) == (
        "simulated",
        "simulated",
        "Simulated TEE",
    )
    assert status["person"]["subject"] == USER
    assert status["environment"]["title"] == "Simulated TEE, CPU"
    claims = [claim for device in status["devices"] for claim in device["claims"]]
    assert len(claims) > 10
    assert all(claim["sentence"] and claim["outcome"] != "failed" for claim in claims)


def test_the_hub_hears_the_stages_and_the_result(stand: Stand) -> None:
    events = eventually(
        lambda: stand.hub.events if stand.hub.events[-1:] and stand.hub.events[-1][2].get("token") else None,
        "the stages",
    )
    assert [event[2]["stage"] for event in events[:3]] == ["starting", "evidence", "verified"]
    assert {event[0] for event in events} == {"/services/sealroom/api/servers/events"}
    assert {event[1] for event in events} == {SERVER_TOKEN}


def test_jupyterhubs_own_reports_go_on_without_the_variable(stand: Stand) -> None:
    eventually(lambda: stand.hub.activity, "a report of activity")
    assert set(stand.hub.activity) == {SERVER_TOKEN}


def test_the_hubs_token_is_nowhere_that_a_kernel_can_see(stand: Stand) -> None:
    pid = stand.processes["server"].pid
    assert SERVER_TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    seen = stand.execute("import os; print(dict(os.environ))")
    assert "SEALROOM_RUN" in seen
    assert SERVER_TOKEN not in seen
    assert "JUPYTERHUB_API_TOKEN" not in seen
    files = [path for path in (stand.home / "user").rglob("*") if path.is_file()]
    assert any(re.fullmatch(r"jpserver-\d+\.json", path.name) for path in files)
    assert not [path for path in files if SERVER_TOKEN.encode() in path.read_bytes()]
    assert SERVER_TOKEN not in stand.log("server")


def test_other_processes_of_the_user_cannot_read_the_servers_memory(stand: Stand) -> None:
    pid = stand.processes["server"].pid
    # What the system gives to nobody but root: the files of a process that cannot be dumped.
    assert Path(f"/proc/{pid}/mem").stat().st_uid == 0
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Name:\s+python", status, re.M)


def test_without_a_grant_the_cell_hears_why(stand: Stand) -> None:
    said = stand.execute(UNLOCK)
    assert "AccessDeniedError" in said
    assert "You have no grant for Heartbeats of record 208" in said
    assert stand.dataset()["state"] == "not_granted"


def test_unlock_and_read_in_a_cell_and_the_panel_agrees(stand: Stand, granted: str) -> None:
    said = stand.execute(UNLOCK + READ + 'print(sealroom.record("heartbeats")["grant"])')
    assert said.split() == ["read", str(len(PLAIN["ecg.bin"])), granted]
    shown = stand.dataset()
    assert (shown["state"], shown["purpose"]["code"]) == ("unlocked", "DUO:0000042")
    assert shown["names"] == sorted(PLAIN)


def test_unlock_shows_the_widget(stand: Stand, granted: str) -> None:
    said = stand.execute(
        "import sealroom, IPython.display as d, io\n"
        "from sealroom_jupyter.widget import DatasetWidget\n"
        "shown = []; d.display = shown.append\n"
        'sealroom.unlock("heartbeats")._ipython_display_()\n'
        "print(type(shown[-1]).__name__, shown[-1].card['state']['label'], shown[-1].card['tier'])"
    )
    assert "DatasetWidget Unlocked {'label': 'Simulated TEE', 'tone': 'amber'}" in said


def test_a_withdrawal_ends_access_in_the_running_server(stand: Stand) -> None:
    grant = stand.grant()
    assert "read" in stand.execute(UNLOCK + READ)
    stand.withdraw(grant)
    eventually(lambda: stand.dataset()["state"] == "withdrawn", "the withdrawal", 20)
    said = stand.execute(READ)
    assert "AccessDeniedError" in said
    assert "was withdrawn" in said


def test_evidence_over_an_own_nonce_verifies(stand: Stand, tmp_path: Path) -> None:
    nonce = "ab" * 32
    with stand.client as client:
        answer = client.post("sealroom/api/evidence", json={"nonce": nonce})
    bundle = answer.raise_for_status().json()
    report = base64.b64decode(bundle["report"])
    certificates = {kind: base64.b64decode(der) for kind, der in bundle["certificates"].items()}
    roots = Roots.development((stand.home / "simulated" / "ark.pem").read_bytes())
    verified = verify_report(
        report, certificates["VCEK"], roots=roots, at=datetime.now(UTC), intermediates=(certificates["ASK"],)
    )
    assert (
        verified.report.report_data
        == hashlib.sha512(b"sealroom-evidence/1\0" + bytes.fromhex(nonce)).digest()
    )


def test_a_killed_broker_is_said_keys_go_and_all_comes_back(stand: Stand, granted: str) -> None:
    assert "read" in stand.execute(UNLOCK + READ)
    stand.kill("broker")
    status = eventually(lambda: (s := stand.status())["phase"] == "unreachable" and s, "unreachable")
    assert "cannot be reached" in status["error"]["message"]
    assert status["tier"] == "none"
    eventually(lambda: stand.dataset()["state"] == "refused", "the keys to go")
    assert "could not be confirmed for too long" in stand.execute(READ)
    stand.start_broker()
    eventually(lambda: stand.status()["phase"] == "verified", "the proof after the restart")
    assert "read" in stand.execute(UNLOCK + READ)


def test_a_broker_that_restarts_at_once_changes_nothing(stand: Stand, granted: str) -> None:
    assert "read" in stand.execute(UNLOCK + READ)
    before = stand.dataset()["state"]
    stand.kill("broker")
    stand.start_broker()
    eventually(lambda: stand.status()["phase"] == "verified", "the proof")
    assert (before, stand.dataset()["state"]) == ("unlocked", "unlocked")
    assert "read" in stand.execute(READ)


def test_a_killed_processor_is_said_and_comes_back(stand: Stand) -> None:
    stand.kill("processor")
    with stand.client as client:
        answer = client.post("sealroom/api/prove")
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["message"]
    assert stand.status()["phase"] == "verified", "the last proof holds"
    (stand.run_dir / "sp.sock").unlink(missing_ok=True)
    stand.start_processor()
    with stand.client as client:
        client.post("sealroom/api/prove")
        answer = client.post("sealroom/api/prove")
    # Another processor has another chip; the broker sees a fresh proof of the same server.
    assert answer.json()["phase"] == "verified", json.dumps(answer.json())


def test_a_hub_that_is_down_does_not_end_the_proof(stand: Stand, granted: str) -> None:
    assert "read" in stand.execute(UNLOCK + READ)
    port = stand.hub.port
    stand.hub.stop()
    try:
        stand.processes["server"].poll()
        assert stand.processes["server"].returncode is None
    finally:
        stand.hub = FakeHub(port)
    eventually(lambda: stand.status()["phase"] == "verified", "the proof")
    assert "read" in stand.execute(READ)


def test_a_killed_server_starts_again_with_everything_locked(stand: Stand, granted: str) -> None:
    assert "read" in stand.execute(UNLOCK + READ)
    stand.kill("server")
    stand.start_server()
    assert stand.dataset()["state"] == "locked"
    assert "is locked" in stand.execute(READ)
    assert "read" in stand.execute(UNLOCK + READ)


def test_no_key_and_no_token_in_logs(stand: Stand) -> None:
    text = stand.log("server") + stand.log("broker")
    token = (stand.home / "owner.token").read_text().strip()
    assert SERVER_TOKEN not in text
    assert token not in text
    assert "Traceback" not in stand.log("server")
