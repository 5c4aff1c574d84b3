# SPDX-License-Identifier: BSD-3-Clause
"""Several broker processes with one PostgreSQL server are one broker."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import VerifierKey
from sealroom.audit.tlog import bundle_path, bundles_of, decode_bundle
from sealroom.audit.verify import LogReport, verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, Error, NetworkError
from sealroom.kbs.admin import AuditReader
from sealroom.kbs.binding import cpu_report_data
from sealroom.kbs.calls import IdentityRequest
from sealroom.kbs.client import KbsClient, snp_evidence
from sealroom.kbs.jwe import TeeKey
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.store import ReleaseRow, Store
from sqlalchemy import select
from support.broker_process import BrokerProcess, Hub, release, run, words_of
from support.postgres import Postgres

pytestmark = pytest.mark.integration

READER = SecretKey.generate()
ROUNDS = 40
FAULTY = Path(__file__).parents[1] / "support" / "faulty_broker.py"


def started(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def broker(tmp_path: Path, hub: Hub, postgres: Postgres) -> Iterator[BrokerProcess]:
    """A development broker with a database of its own in the server that all tests share."""
    yield from started(BrokerProcess.prepare(tmp_path, hub, postgresql=postgres.create()))


@pytest.fixture
def other(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """A second process of the same broker."""
    yield from started(broker.second())


def log_of(broker: BrokerProcess) -> tuple[LogReport, list[AuditEntry]]:
    """Verify the log through a broker's own calls, and return its entries."""
    with broker.owner() as owner:
        key, reader = VerifierKey.parse(owner.audit_key()), AuditReader(owner)
        report = verify_log(reader, key)
        found: list[bytes] = []
        for number, width in bundles_of(report.checkpoint.size):
            found += decode_bundle(reader.get(bundle_path(number, width)))
    assert report.ok, report.findings
    return report, [AuditEntry.from_bytes(entry) for entry in found]


def rows(broker: BrokerProcess) -> list[ReleaseRow]:
    store = Store.of(load_config(broker.config))
    with store.read() as session:
        found = list(session.scalars(select(ReleaseRow)))
    store.close()
    return found


def answers_at(broker: BrokerProcess, guest: KbsClient) -> KbsClient:
    """Return the same guest, with its session and key, talking to another process."""
    there = KbsClient(broker.url, lambda covered: testing.evidence(covered), key=guest._key)
    there._cookie = guest._cookie
    return there


# --- nonces and sessions


def test_two_brokers_race_for_one_nonce_and_one_wins(broker: BrokerProcess, other: BrokerProcess) -> None:
    def attest(url: str, cookie: str, body: bytes, start: threading.Barrier) -> tuple[int, str]:
        start.wait(60)
        answer = httpx.post(
            f"{url}/kbs/v0/attest", content=body, headers={"Cookie": f"kbs-session-id={cookie}"}, timeout=60
        )
        content = answer.json()
        return answer.status_code, content["reasons"][0]["code"] if "reasons" in content else content["token"]

    auth = {"version": "0.4.0", "tee": "snp", "extra-params": ""}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(ROUNDS):
            begun = httpx.post(f"{broker.url}/kbs/v0/auth", json=auth, timeout=60)
            cookie, nonce = begun.cookies["kbs-session-id"], begun.json()["nonce"]
            start = threading.Barrier(4)
            # Each with a key of its own: only one of them may become the session's.
            racing = [
                pool.submit(attest, url, cookie, attest_body(nonce), start)
                for url in (broker.url, other.url) * 2
            ]
            answers = [one.result(60) for one in racing]
            assert sorted(status for status, _ in answers) == [200, 401, 401, 401]
            assert [text for status, text in answers if status == 401] == ["nonce.used"] * 3


def attest_body(nonce: str) -> bytes:
    jwk = TeeKey.generate().public_jwk()
    covered = cpu_report_data(nonce, jwk, "", "sha384")
    evidence = {"primary_evidence": snp_evidence(testing.evidence(covered)), "additional_evidence": ""}
    runtime = {"nonce": nonce, "tee-pubkey": jwk}
    return json.dumps({"init-data": None, "runtime-data": runtime, "tee-evidence": evidence}).encode()


def test_session_of_one_is_a_session_of_the_other(broker: BrokerProcess, other: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest() as guest, answers_at(other, guest) as there:
        assert there.session().person == guest.session().person
        release(there, data, READER)
        assert [one.state for one in guest.session().releases] == ["active"]
        with pytest.raises(AccessDeniedError):
            there.identity(IdentityRequest(provider="jupyterhub", token="hub-token-of-bob"))


def test_grant_withdrawn_at_one_is_refused_at_the_other(broker: BrokerProcess, other: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest() as guest, answers_at(other, guest) as there, broker.owner() as owner:
        release(there, data, READER)
        owner.withdraw_grant(owner.grants()[0].id)
        with pytest.raises(AccessDeniedError) as caught:
            release(there, data, READER)
        assert [code for code, _ in caught.value.reasons] == ["grant.withdrawn"]
        assert [one.state for one in there.session().releases] == ["withdrawn"]


def test_no_release_after_the_entry_of_a_withdrawal(broker: BrokerProcess, other: BrokerProcess) -> None:
    """Guests release at both while the grant is withdrawn: the log has no release after the withdrawal."""
    data = broker.sealed()
    stop, received = threading.Event(), []

    def work(guest: KbsClient) -> None:
        while not stop.is_set():
            try:
                received.append(release(guest, data, READER))
            except AccessDeniedError:
                return

    with broker.guest() as one, other.guest() as two, broker.owner() as owner:
        threads = [threading.Thread(target=work, args=(guest,)) for guest in (one, two)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: len(received) >= 6, "releases at both")
            owner.withdraw_grant(owner.grants()[0].id)
            for thread in threads:
                thread.join(60)
        finally:
            stop.set()
    kinds = [entry.kind for entry in log_of(other)[1]]
    assert "release" not in kinds[kinds.index("withdrawal") :]
    assert kinds.count("release") == len(received)


def test_client_has_one_rate_at_both(broker: BrokerProcess, other: BrokerProcess) -> None:
    for one in (broker, other):
        one.kill()
    broker.settings("[limits]\nrate = 0.001\nburst = 20")
    for one in (broker, other):
        one.start()
    statuses = [
        httpx.get(f"{one.url}/kbs/v0/sealroom/version").status_code
        for _ in range(15)
        for one in (broker, other)
    ]
    assert (statuses.count(200), statuses.count(429)) == (20, 10)
    # The owner is a client of their own.
    with other.owner() as owner:
        assert owner.grants() == ()


def test_signing_key_of_one_is_published_by_the_other(broker: BrokerProcess, other: BrokerProcess) -> None:
    def jwks(one: BrokerProcess) -> dict[str, object]:
        keys: dict[str, object] = httpx.get(f"{one.url}/kbs/v0/sealroom/jwks").json()
        return keys

    before = jwks(broker)
    assert jwks(other) == before
    assert run("rotate-keys", "--config", broker.config).returncode == 0
    assert jwks(broker) == jwks(other) != before
    with other.guest() as guest:
        token = guest.attest().token
    assert ear.verify(token, jwks=jwks(broker), at=utc_now()).kid != first_kid(before)
    assert not list(broker.config.parent.glob("ear-*.pem"))


def first_kid(jwks: dict[str, object]) -> str:
    keys = jwks["keys"]
    assert isinstance(keys, list)
    return str(keys[0]["kid"])


# --- one log


def test_one_log_that_verifies_after_kill_9_under_load(broker: BrokerProcess, other: BrokerProcess) -> None:
    data = broker.sealed()
    received: list[tuple[int, str]] = []
    stop = threading.Event()

    def work(guest: KbsClient) -> None:
        while not stop.is_set():
            with contextlib.suppress(Error):
                received.append(release(guest, data, READER))

    guests = [one.guest() for one in (broker, other) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    try:
        for victim in (broker, other, broker):
            wanted = len(received) + 6
            wait_for(lambda: len(received) >= wanted, "releases go on")  # noqa: B023
            victim.kill()
            victim.start()
        wanted = len(received) + 6
        wait_for(lambda: len(received) >= wanted, "releases at both")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for guest in guests:
            guest.close()
    report, entries = log_of(broker)
    assert log_of(other)[0].note == report.note
    for index, leaf in received:
        assert (entries[index].kind, entries[index].leaf_hash().hex()) == ("release", leaf)
    assert len({index for index, _ in received}) == len(received)
    # An entry and its release are one transaction: neither is there without the other.
    assert sorted(row.audit_index for row in rows(broker)) == [
        index for index, entry in enumerate(entries) if entry.kind == "release"
    ]


@pytest.mark.parametrize(
    ("point", "entry"),
    [("before-entry", False), ("after-entry", False), ("after-commit", True), ("before-answer", True)],
)
def test_killed_at_a_step_of_a_release(broker: BrokerProcess, point: str, entry: bool) -> None:
    data = broker.sealed()
    with broker.guest() as guest, broker.owner() as owner:
        grants = owner.grants()
        broker.kill()
        broker.start(program=[sys.executable, "-P", str(FAULTY), point])
        with pytest.raises(NetworkError):
            release(guest, data, READER)
        assert broker.process is not None
        assert broker.process.wait(60) == -signal.SIGKILL
        broker.process = None
        broker.start()
        recorded = [one.kind for one in log_of(broker)[1]].count("release")
        assert (recorded, len(rows(broker))) == (int(entry), int(entry))
        assert owner.grants() == grants
        release(guest, data, READER)
        assert [one.kind for one in log_of(broker)[1]].count("release") == recorded + 1


def test_database_gone_for_a_while(tmp_path: Path, hub: Hub, postgres: Postgres) -> None:
    """The server ends under load and comes back: clear refusals meanwhile, and nothing is lost."""
    with Postgres() as server:
        made = BrokerProcess.prepare(tmp_path, hub, postgresql=server.create())
        made.config.write_text(made.config.read_text().replace("[postgresql]", "[postgresql]\npatience = 2"))
        made.start()
        try:
            _gone_and_back(made, server)
        finally:
            made.kill()


def _gone_and_back(broker: BrokerProcess, server: Postgres) -> None:
    data = broker.sealed()
    received: list[tuple[int, str]] = []
    stop = threading.Event()

    def work(guest: KbsClient) -> None:
        while not stop.is_set():
            with contextlib.suppress(Error):
                received.append(release(guest, data, READER))

    with broker.guest() as guest, broker.owner() as owner:
        grants, thread = owner.grants(), threading.Thread(target=work, args=(guest,))
        thread.start()
        try:
            wait_for(lambda: len(received) >= 3, "releases")
            # The immediate shutdown, as a crash is: connections break in the middle of transactions.
            server.stop(signal.SIGQUIT)
            for path in ("sealroom/session", "sealroom/jwks"):
                answer = httpx.get(
                    f"{broker.url}/kbs/v0/{path}", headers={"Cookie": "kbs-session-id=x"}, timeout=60
                )
                assert answer.status_code == 503
                assert answer.json()["reasons"][0]["code"] == "broker.storage"
                assert answer.headers["retry-after"] == "5"
            assert httpx.get(f"{broker.url}/healthz").status_code == 200
            ready = httpx.get(f"{broker.url}/readyz", timeout=60)
            assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "failed")
            server.start()
            wanted = len(received) + 3
            wait_for(lambda: len(received) >= wanted, "releases again, in the same session")
        finally:
            stop.set()
            thread.join()
        assert owner.grants() == grants
    _, entries = log_of(broker)
    for index, leaf in received:
        assert (entries[index].kind, entries[index].leaf_hash().hex()) == ("release", leaf)
    assert httpx.get(f"{broker.url}/readyz").status_code == 200


# --- what does not start


def test_second_machine_with_another_log_key_does_not_start(broker: BrokerProcess) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (broker.config.parent / "audit.pem").write_bytes(pem)
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "not signed by" in words_of(done.stderr)[0]


def test_second_machine_with_another_wrapping_key_does_not_start(broker: BrokerProcess) -> None:
    httpx.get(f"{broker.url}/kbs/v0/sealroom/jwks").raise_for_status()
    kek = broker.config.parent / "kek.key"
    kek.unlink()
    assert run("init", "--home", broker.config.parent, "--development-root", "x").returncode == 0
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "another key-encryption key" in words_of(done.stderr)[0]


def test_database_without_a_schema_is_migrated_by_its_command_only(
    broker: BrokerProcess, postgres: Postgres
) -> None:
    broker.kill()
    text = broker.config.read_text()
    start, end = text.index("url = "), text.index("\n", text.index("url = "))
    broker.config.write_text(f'{text[:start]}url = "{postgres.create()}"{text[end:]}')
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "sealroom-broker migrate" in done.stderr.decode()
    assert run("migrate", "--config", broker.config).returncode == 0
    broker.start()
    assert httpx.get(f"{broker.url}/readyz").status_code == 200


def test_password_comes_from_a_private_file_only(broker: BrokerProcess) -> None:
    broker.kill()
    secret = broker.config.parent / "db.password"
    secret.write_text("guess\n")
    secret.chmod(0o644)
    text = broker.config.read_text()
    broker.config.write_text(text.replace("[postgresql]", '[postgresql]\npassword = "db.password"'))
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert "others may read it" in done.stderr.decode()
    secret.chmod(0o600)
    broker.start()
    broker.config.write_text(text.replace("://sealroom@", "://sealroom:guess@"))
    assert "must have no password in it" in run("migrate", "--config", broker.config).stderr.decode()


# --- backup


def test_dump_and_backup_make_a_broker_again(broker: BrokerProcess, postgres: Postgres, hub: Hub) -> None:
    data = broker.sealed()
    with broker.guest() as guest:
        release(guest, data, READER)
    folder, keys, home = (broker.folder / name for name in ("backup", "backup-keys", "restored"))
    assert run("backup", "--config", broker.config, "--keys", keys, folder).returncode == 0
    dump = broker.folder / "broker.dump"
    url = load_config(broker.config).postgresql
    assert url is not None
    program = [postgres.program("pg_dump"), "--format=custom", f"--file={dump}", f"--dbname={url.url}"]
    subprocess.run(program, check=True, capture_output=True, timeout=60)
    size = log_of(broker)[0].checkpoint.size
    broker.kill()
    # Another database takes the old one's place.
    fresh = postgres.create()
    program = [postgres.program("pg_restore"), f"--dbname={fresh}", str(dump)]
    subprocess.run(program, check=True, capture_output=True, timeout=60)
    toml = folder / "broker.toml"
    toml.write_text(toml.read_text().replace(url.url, fresh))
    done = run("restore", "--keys", keys, "--home", home, folder)
    assert done.returncode == 0, done.stderr
    again = BrokerProcess(broker.folder, home / "broker.toml", token=broker.token, name="restored")
    again.start()
    try:
        with again.guest() as guest:
            release(guest, data, READER)
        report, _ = log_of(again)
        assert report.checkpoint.size > size
    finally:
        again.kill()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)
