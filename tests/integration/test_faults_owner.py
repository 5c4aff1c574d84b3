# SPDX-License-Identifier: BSD-3-Clause
"""Faults while an owner grants, withdraws and answers, and while a person asks: kills, and full disks."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sealroom.errors import NetworkError, ProtocolError
from sealroom.kbs.calls import AccessRequest, AccessRequestSpec, GrantSpec, RequestGrant
from sealroom.kbs.client import KbsClient
from sealroom_broker.broker import utc_now
from support.broker_logs import check_record
from support.broker_process import BrokerProcess, Hub
from support.postgres import Postgres

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FAULTY = Path(__file__).parents[1] / "support" / "faulty_broker.py"
ASKED = AccessRequestSpec(dataset="heartbeats", purpose="DUO:0000042", reason="Arrhythmia.")


@pytest.fixture(params=["sqlite", "postgresql"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, hub: Hub) -> Iterator[BrokerProcess]:
    """A broker that runs and has a dataset, with a SQLite file and with a PostgreSQL server."""
    url = ""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create()
    made = BrokerProcess.prepare(tmp_path, hub, postgresql=url)
    made.start()
    try:
        made.sealed()
        yield made
    finally:
        made.kill()


@dataclass
class Act:
    """Something that an owner or a person does, and how one sees whether it holds."""

    do: Callable[[BrokerProcess, KbsClient], object]
    holds: Callable[[BrokerProcess], bool]
    entry: str
    """Kind of its last entry."""


def terms() -> RequestGrant:
    return RequestGrant(until=utc_now() + timedelta(days=7), minimum="simulated", answer="Until the end.")


def the_request(broker: BrokerProcess) -> AccessRequest:
    with broker.owner() as owner:
        (found,) = owner.requests()
    return found


def give(broker: BrokerProcess, _: KbsClient) -> None:
    with broker.owner() as owner:
        owner.add_grant(GrantSpec(dataset="heartbeats", subject="bob", minimum="simulated"))


def take(broker: BrokerProcess, _: KbsClient) -> None:
    with broker.owner() as owner:
        owner.withdraw_grant(owner.grants()[0].id)


def answer(broker: BrokerProcess, _: KbsClient) -> None:
    with broker.owner() as owner:
        owner.grant_request(the_request(broker).id, terms())


def refuse(broker: BrokerProcess, _: KbsClient) -> None:
    with broker.owner() as owner:
        owner.refuse_request(the_request(broker).id, "Not for this purpose.")


def ask(_: BrokerProcess, guest: KbsClient) -> None:
    guest.request_access(ASKED)


def bob_has_a_grant(broker: BrokerProcess) -> bool:
    with broker.owner() as owner:
        return "bob" in [one.subject for one in owner.grants()]


def alice_has_none(broker: BrokerProcess) -> bool:
    with broker.owner() as owner:
        return owner.grants()[0].withdrawn is not None


def is_asked(broker: BrokerProcess) -> bool:
    with broker.owner() as owner:
        return bool(owner.requests())


ACTS = {
    "grant": Act(give, bob_has_a_grant, "grant"),
    "withdrawal": Act(take, alice_has_none, "withdrawal"),
    "ask": Act(ask, is_asked, "request"),
    "answer": Act(answer, lambda broker: the_request(broker).state == "granted", "answer"),
    "refusal": Act(refuse, lambda broker: the_request(broker).state == "refused", "answer"),
}
STEPS = [
    ("grant", "before:grant", False),
    ("grant", "after:grant", False),
    ("grant", "done:acts.give_grant", True),
    ("withdrawal", "before:withdrawal", False),
    ("withdrawal", "after:withdrawal", False),
    ("withdrawal", "done:acts.withdraw", True),
    ("ask", "before:request", False),
    ("ask", "after:request", False),
    ("ask", "done:requests.ask", True),
    # The grant of an answer has an entry of its own, before the answer's.
    ("answer", "before:grant", False),
    ("answer", "after:grant", False),
    ("answer", "after:answer", False),
    ("answer", "done:requests.grant_request", True),
    ("refusal", "after:answer", False),
    ("refusal", "done:requests.refuse_request", True),
]


@pytest.mark.parametrize(
    ("name", "point", "held"), STEPS, ids=[f"{name}-{point}" for name, point, _ in STEPS]
)
def test_killed_at_a_step_of_an_act(broker: BrokerProcess, name: str, point: str, held: bool) -> None:
    """Nobody has what has no entry; what was there stays; and the act can be done again."""
    act = ACTS[name]
    with broker.guest() as guest, broker.owner() as owner:
        if name in ("answer", "refusal"):
            ask(broker, guest)
        before, asked = owner.grants(), owner.requests()
        broker.kill()
        broker.start(program=[sys.executable, "-P", str(FAULTY), point])
        with pytest.raises(NetworkError):
            act.do(broker, guest)
        assert broker.process is not None
        assert broker.process.wait(60) == -signal.SIGKILL
        broker.process = None
        broker.start()
        assert act.holds(broker) is held
        check_record(broker)
        if not held:
            assert (owner.grants(), owner.requests()) == (before, asked)
            act.do(broker, guest)
        elif name in ("answer", "refusal"):
            # Whoever did not see the answer is told what it was.
            with pytest.raises(ProtocolError, match="already"):
                act.do(broker, guest)
        assert act.holds(broker)
        found = check_record(broker)
    assert act.entry in [one.kind for one in found]
    with broker.owner() as owner:
        assert {one.id for one in before} <= {one.id for one in owner.grants()}


# --- full disks


@pytest.fixture
def prepared(tmp_path: Path, hub: Hub) -> Iterator[BrokerProcess]:
    made = BrokerProcess.prepare(tmp_path, hub)
    made.settings("[limits]\nfree_disk = 0")
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB where the broker's log will be."""
    audit = tmp_path / "broker" / "audit"
    audit.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(audit)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        yield audit
    finally:
        subprocess.run(["umount", "-l", str(audit)], check=True, timeout=60)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave not a byte free in a file system."""
    fillers = [folder / f"filler-{size}" for size in (4096, 1)]
    for filler, size in zip(fillers, (4096, 1), strict=True):
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x" * size)
    yield
    for filler in fillers:
        filler.unlink()


@contextlib.contextmanager
def not_growing(broker: BrokerProcess) -> Iterator[None]:
    """Let no file of a broker grow: its log's and its database's alike."""
    assert broker.process is not None
    soft, hard = resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (64, hard))
    yield
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_under_the_log_while_people_ask_and_owners_answer(
    small_disk: Path, prepared: BrokerProcess
) -> None:
    prepared.start()
    prepared.sealed()
    with prepared.guest() as guest:
        every_act_is_refused_and_done_later(prepared, guest, lambda: full(small_disk))


def test_files_that_may_not_grow_while_people_ask_and_owners_answer(prepared: BrokerProcess) -> None:
    prepared.start()
    prepared.sealed()
    with prepared.guest() as guest:
        every_act_is_refused_and_done_later(prepared, guest, lambda: not_growing(prepared))


def every_act_is_refused_and_done_later(
    broker: BrokerProcess,
    guest: KbsClient,
    trouble: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """Try to ask, to answer, to grant and to withdraw, in trouble and after it."""
    for name in ("ask", "answer", "grant", "withdrawal"):
        with broker.owner() as owner:
            before = owner.grants(), owner.requests()
        with trouble():
            for _ in range(2):
                with pytest.raises(NetworkError, match="nothing was done"):
                    ACTS[name].do(broker, guest)
            refused = httpx.post(
                f"{broker.url}/kbs/v0/sealroom/admin/grants",
                json={"dataset": "heartbeats", "subject": "carol", "minimum": "simulated"},
                headers={"Authorization": f"Bearer {broker.token}"},
            )
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert [one["code"] for one in refused.json()["reasons"]] == ["broker.storage"]
            with broker.owner() as owner:
                assert (owner.grants(), owner.requests()) == before
        ACTS[name].do(broker, guest)
        assert ACTS[name].holds(broker)
        check_record(broker)
    assert "Traceback" not in broker.log.read_text()
