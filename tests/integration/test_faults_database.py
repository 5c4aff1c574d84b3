# SPDX-License-Identifier: BSD-3-Clause
"""A PostgreSQL server that is gone for half a minute, under load: by a crash, and because it stands still."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.errors import Error
from sealroom.kbs.calls import AccessRequestSpec, GrantSpec, RequestGrant
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.store import ReleaseRow, Store
from sqlalchemy import select
from support.broker_logs import check_record
from support.broker_process import BrokerProcess, Hub, release
from support.brokers import Data
from support.postgres import Postgres

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READER = SecretKey.generate()
GONE = 30.0
"""Seconds."""
PATIENCE = 2
PROBES = (
    ("GET", "sealroom/session", None),
    ("GET", "sealroom/admin/grants", None),
    (
        "POST",
        "sealroom/admin/grants",
        {"dataset": "heartbeats", "subject": "mallory", "minimum": "simulated"},
    ),
    ("POST", "auth", {"version": "0.4.0", "tee": "snp", "extra-params": ""}),
)


@dataclass
class Load:
    """Guests and an owner that go on whatever happens, and what they were told."""

    broker: BrokerProcess
    data: Data
    stop: threading.Event = field(default_factory=threading.Event)
    releases: list[tuple[int, str]] = field(default_factory=list)
    grants: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    def guest(self) -> None:
        with self.broker.guest() as guest:
            while not self.stop.is_set():
                with contextlib.suppress(Error):
                    self.releases.append(release(guest, self.data, READER))

    def owner(self) -> None:
        with self.broker.owner() as owner:
            while not self.stop.is_set():
                spec = GrantSpec(dataset="heartbeats", group=f"group-{len(self.grants)}", minimum="simulated")
                with contextlib.suppress(Error):
                    self.grants.append(owner.add_grant(spec).id)
                self.stop.wait(0.1)

    def asked_and_answered(self) -> None:
        """Ask and answer, again and again; one request at a time, as a broker wants it."""
        spec = AccessRequestSpec(dataset="heartbeats", purpose="DUO:0000042", reason="Arrhythmia.")
        with self.broker.guest("hub-token-of-bob") as guest, self.broker.owner() as owner:
            while not self.stop.is_set():
                with contextlib.suppress(Error):
                    guest.request_access(spec)
                with contextlib.suppress(Error):
                    for one in owner.requests(state="open"):
                        terms = RequestGrant(until=utc_now() + timedelta(days=1), minimum="simulated")
                        self.answers.append(owner.grant_request(one.id, terms).id)
                self.stop.wait(0.1)

    def counts(self) -> list[int]:
        return [len(self.releases), len(self.grants), len(self.answers)]

    def goes_on(self, what: str) -> None:
        """Wait until everybody got something more than they had."""
        had = self.counts()

        def more() -> bool:
            return all(now > before for now, before in zip(self.counts(), had, strict=True))

        wait_for(more, what)


@pytest.mark.timeout(300)
def test_database_gone_for_half_a_minute(tmp_path: Path, hub: Hub, postgres: Postgres) -> None:
    """Two brokers at once, so that half a minute is waited for once: one server crashes, one stands still."""
    how = {"crashed": (crash, Postgres.start), "frozen": (Postgres.freeze, Postgres.thaw)}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(how)) as pool:
        waiting = []
        for name, (away, back) in how.items():
            server = stack.enter_context(Postgres())
            load = stack.enter_context(prepared(tmp_path / name, hub, server))
            waiting.append(pool.submit(gone_and_back, load, server, away, back))
        for one in waiting:
            one.result()


@contextlib.contextmanager
def prepared(folder: Path, hub: Hub, server: Postgres) -> Iterator[Load]:
    """A broker that runs, with a dataset."""
    folder.mkdir()
    broker = BrokerProcess.prepare(folder, hub, postgresql=server.create())
    text = broker.config.read_text()
    broker.config.write_text(text.replace("[postgresql]", f"[postgresql]\npatience = {PATIENCE}"))
    broker.start()
    try:
        yield Load(broker, broker.sealed())
    finally:
        broker.kill()


def crash(server: Postgres) -> None:
    """End a server at once: connections break in the middle of transactions."""
    server.stop(signal.SIGQUIT)


def gone_and_back(
    load: Load, server: Postgres, away: Callable[[Postgres], None], back: Callable[[Postgres], None]
) -> None:
    refused = under_load(load, server, away, back)
    assert set(refused) == {(503, "broker.storage", "5")}, refused
    assert sum(refused.values()) >= len(PROBES) * 2, refused
    assert load.broker.process is not None
    assert load.broker.process.poll() is None
    nothing_is_lost(load)
    assert "Traceback" not in load.broker.log.read_text()


def under_load(
    load: Load, server: Postgres, away: Callable[[Postgres], None], back: Callable[[Postgres], None]
) -> Counter[tuple[int, str, str]]:
    """Take the server away while everybody works, and return what was answered meanwhile."""
    work = (load.guest, load.guest, load.owner, load.asked_and_answered)
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    try:
        load.goes_on("releases, grants and answers")
        away(server)
        try:
            refused = probe(load.broker, time.monotonic() + GONE)
        finally:
            back(server)
        load.goes_on("releases, grants and answers again, without a restart")
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(60)
    return refused


def probe(broker: BrokerProcess, until: float) -> Counter[tuple[int, str, str]]:
    """Ask for everything until a time, and return how it was answered."""
    found: Counter[tuple[int, str, str]] = Counter()
    headers = {"Authorization": f"Bearer {broker.token}", "Cookie": "kbs-session-id=x"}
    with httpx.Client(base_url=f"{broker.url}/kbs/v0/", headers=headers, timeout=25) as http:
        while time.monotonic() < until:
            for method, path, body in PROBES:
                answer = http.request(method, path, json=body)
                codes = [one["code"] for one in answer.json().get("reasons", ())]
                found[answer.status_code, "".join(codes), answer.headers.get("retry-after", "")] += 1
            assert http.get(f"{broker.url}/healthz").status_code == 200
            ready = http.get(f"{broker.url}/readyz")
            assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "failed")
    return found


def nothing_is_lost(load: Load) -> None:
    """Check what was answered against what the broker knows, and that nothing holds without its entry."""
    broker = load.broker
    found = check_record(broker, load.releases)
    with broker.owner() as owner:
        grants = {one.id for one in owner.grants()}
        granted = {one.id for one in owner.requests() if one.state == "granted"}
        assert not [one for one in owner.grants() if one.subject == "mallory"]
    assert set(load.grants) <= grants
    assert set(load.answers) <= granted
    # An entry and what it is of are one transaction: neither is there without the other.
    assert grants == {one.grant.id for one in found if one.kind == "grant" and one.grant}
    store = Store.of(load_config(broker.config))
    with store.read() as session:
        rows = sorted(session.scalars(select(ReleaseRow.audit_index)))
    store.close()
    assert rows == [index for index, one in enumerate(found) if one.kind == "release"]
    assert httpx.get(f"{broker.url}/readyz").status_code == 200


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)
