# SPDX-License-Identifier: BSD-3-Clause
"""The broker as a program: started, killed, started again, misconfigured, and run by a hub."""

from __future__ import annotations

import base64
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import VerifierKey
from sealroom.audit.tlog import bundle_path, bundles_of, decode_bundle
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, Error
from sealroom.kbs.client import KbsClient
from support.broker_process import BrokerProcess, Hub, command, is_open, release, run, words_of

pytestmark = pytest.mark.integration

READER = SecretKey.generate()


def entries(broker: BrokerProcess) -> list[AuditEntry]:
    """Verify the log from its files alone, and return its entries."""
    key = VerifierKey.parse((broker.folder / "broker" / "audit.pub").read_text())
    reader = DirectoryReader(broker.folder / "broker" / "audit")
    report = verify_log(reader, key)
    assert report.ok, report.findings
    with broker.owner() as owner:
        assert owner.audit_key() == str(key)
    found: list[bytes] = []
    for number, width in bundles_of(report.checkpoint.size):
        found += decode_bundle(reader.get(bundle_path(number, width)))
    return [AuditEntry.from_bytes(entry) for entry in found]


def test_nothing_is_lost_by_kill_9(broker: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest() as guest, broker.owner() as owner:
        release(guest, data, READER)
        session, grants, datasets = guest.session(), owner.grants(), owner.datasets()
        keys = httpx.get(f"{broker.url}/kbs/v0/sealroom/jwks").json()
        broker.kill()
        broker.start()
        assert guest.session() == session
        assert (owner.grants(), owner.datasets()) == (grants, datasets)
        assert httpx.get(f"{broker.url}/kbs/v0/sealroom/jwks").json() == keys
        release(guest, data, READER)
    assert [entry.kind for entry in entries(broker)].count("release") == 2


def test_no_key_without_an_entry_wherever_the_kill_hits(broker: BrokerProcess) -> None:
    """Guests release as fast as they can while it is killed; every answer that arrived is in the log."""
    data = broker.sealed()
    received: list[tuple[int, str]] = []
    stop = threading.Event()

    def work(guest: KbsClient) -> None:
        while not stop.is_set():
            # The broker is gone for a while; nothing else may go wrong, which the log shows afterwards.
            with contextlib.suppress(Error):
                received.append(release(guest, data, READER))

    guests = [broker.guest() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    try:
        for round_number in range(4):
            wanted = len(received) + 3 + round_number
            deadline = time.monotonic() + 60
            while len(received) < wanted and time.monotonic() < deadline:
                time.sleep(0.003)
            broker.kill()
            broker.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for guest in guests:
            guest.close()
    log = entries(broker)
    assert len(received) >= 12
    for index, leaf in received:
        assert log[index].kind == "release"
        assert log[index].leaf_hash().hex() == leaf
    assert len({index for index, _ in received}) == len(received)


def test_person_without_a_grant_and_token_that_the_hub_does_not_know(broker: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest("hub-token-of-bob") as guest, pytest.raises(AccessDeniedError) as caught:
        release(guest, data, READER)
    assert [code for code, _ in caught.value.reasons] == ["grant.none"]
    with pytest.raises(AccessDeniedError) as caught:
        broker.guest("stolen-token-of-somebody")
    assert [code for code, _ in caught.value.reasons] == ["person.token"]


def test_withdrawal_is_seen_at_once(broker: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest() as guest, broker.owner() as owner:
        release(guest, data, READER)
        owner.withdraw_grant(owner.grants()[0].id)
        assert [one.state for one in guest.session().releases] == ["withdrawn"]
        with pytest.raises(AccessDeniedError, match="was withdrawn"):
            release(guest, data, READER)


def test_nothing_secret_in_the_log_file_or_the_command_line(broker: BrokerProcess) -> None:
    data = broker.sealed()
    with broker.guest() as guest:
        release(guest, data, READER)
        cookie = guest._cookie or ""
        token = guest.attest().token
    httpx.get(f"{broker.url}/healthz?token=token-in-a-query", headers={"Cookie": "kbs-session-id=a-cookie"})
    with contextlib.suppress(AccessDeniedError):
        broker.guest("stolen-token-of-somebody")
    assert broker.process is not None
    command_line = Path(f"/proc/{broker.process.pid}/cmdline").read_bytes()
    written = broker.log.read_bytes() + command_line
    secrets = [data.dataset_key.reveal(), base64.b64decode((broker.config.parent / "kek.key").read_bytes())]
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()):
            assert form not in written
    for text in (
        broker.token,
        cookie,
        token,
        "hub-token-of-alice",
        "stolen-token",
        "token-in-a-query",
        "a-cookie",
    ):
        assert text.encode() not in written
    assert b"/kbs/v0/sealroom/datasets/heartbeats/release 200" in written


def test_ends_when_asked(broker: BrokerProcess) -> None:
    assert broker.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert "Traceback" not in broker.log.read_text()


def test_address_in_use_is_one_sentence(broker: BrokerProcess) -> None:
    done = run("serve", "--config", broker.config, "--listen", f"127.0.0.1:{broker.port}")
    assert done.returncode == 1
    (line,) = words_of(done.stderr)
    assert f"The address 127.0.0.1:{broker.port} is in use" in line


def test_second_broker_on_the_same_state_is_one_sentence(broker: BrokerProcess) -> None:
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = words_of(done.stderr)
    assert "Another process writes the audit log" in line
    assert is_open(broker.port)


def test_production_with_a_development_root_does_not_start(broker: BrokerProcess) -> None:
    broker.kill()
    broker.config.write_text(broker.config.read_text().replace('"development"', '"production"'))
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = words_of(done.stderr)
    assert "must not have a development_root" in line


def test_production_on_a_development_brokers_state_does_not_start(broker: BrokerProcess) -> None:
    broker.kill()
    lines = [one for one in broker.config.read_text().splitlines() if not one.startswith("development_root")]
    broker.config.write_text("\n".join(lines).replace('"development"', '"production"'))
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = words_of(done.stderr)
    assert "made in mode development" in line


@pytest.mark.parametrize(
    "words", [(), ("serve",), ("token", "add"), ("serve", "--config", "x", "--nonsense")]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert run(*words).returncode == 64


def test_no_configuration_is_one_sentence(tmp_path: Path) -> None:
    done = run("serve", "--config", tmp_path / "none.toml")
    assert done.returncode == 1
    (line,) = words_of(done.stderr)
    assert "There is no configuration file" in line


def test_init_makes_a_state_that_can_be_served(tmp_path: Path, hub: Hub) -> None:
    home = tmp_path / "broker"
    words = ("init", "--home", home, "--hub-api-url", hub.api_url)
    for _ in range(2):
        done = run(*words)
        assert (done.returncode, done.stdout.decode().strip()) == (0, str(home / "broker.toml")), done.stderr
    made = BrokerProcess(tmp_path, home / "broker.toml")
    made.start()
    try:
        version = httpx.get(f"{made.url}/kbs/v0/sealroom/version").json()
        assert version["mode"] == "production"
    finally:
        made.kill()


def test_owners_tokens(broker: BrokerProcess) -> None:
    out = broker.folder / "second"
    assert run("token", "add", "--config", broker.config, "--name", "clinic", "--out", out).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert b"clinic" in run("token", "list", "--config", broker.config).stdout
    again = run("token", "add", "--config", broker.config, "--name", "other", "--out", out)
    assert (again.returncode, out.read_text().startswith("sealroom-owner-")) == (1, True)
    assert b"other" not in run("token", "list", "--config", broker.config).stdout
    headers = {"Authorization": f"Bearer {out.read_text().strip()}"}
    url = f"{broker.url}/kbs/v0/sealroom/admin/grants"
    assert httpx.get(url, headers=headers).status_code == 200
    assert run("token", "remove", "--config", broker.config, "--name", "clinic").returncode == 0
    assert httpx.get(url, headers=headers).status_code == 401


def test_ends_with_the_process_that_started_it(broker: BrokerProcess) -> None:
    broker.kill()
    serve = command(
        "serve", "--config", broker.config, "--listen", f"127.0.0.1:{broker.port}", "--die-with-parent"
    )
    code = f"import subprocess, time; print(subprocess.Popen({serve!r}).pid, flush=True); time.sleep(600)"
    with broker.log.open("ab") as log:
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        wait_for(lambda: is_open(broker.port), "the broker runs")
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child), "the broker ended")
    assert not is_open(broker.port)


def test_run_by_a_hub(broker: BrokerProcess, hub: Hub) -> None:
    broker.kill()
    broker.config.write_text(broker.config.read_text().replace(hub.api_url, "http://127.0.0.1:9/hub/api"))
    environ = {
        "JUPYTERHUB_SERVICE_NAME": "sealroom-broker",
        "JUPYTERHUB_API_URL": hub.api_url,
        "JUPYTERHUB_API_TOKEN": "the-services-own-token",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/sealroom-broker/",
    }
    broker.start(environ=environ)
    with broker.guest() as guest:
        person = guest.session().person
        assert person is not None
        assert (person.subject, person.issuer) == ("alice", "http://127.0.0.1:9/hub/api")
    page = httpx.get(f"{broker.url}/services/sealroom-broker/")
    assert "key broker" in page.text
    assert httpx.get(f"{broker.url}/services/sealroom-broker/kbs/v0/sealroom/jwks").json()["keys"]
    assert b"the-services-own-token" not in broker.log.read_bytes()


def test_hub_that_is_gone_is_no_pass(broker: BrokerProcess) -> None:
    broker.kill()
    text = broker.config.read_text()
    start = text.index("api_url = ")
    broker.config.write_text(text[:start] + 'api_url = "http://127.0.0.1:9/hub/api"\n')
    broker.start()
    with pytest.raises(Error, match="could not check who you are"):
        broker.guest()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
