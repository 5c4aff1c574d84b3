# SPDX-License-Identifier: BSD-3-Clause
"""The broker in operation: certificate, watchers, logs, slow clients, keys, backups, full disks, kills."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import VerifierKey
from sealroom.audit.tlog import bundle_path, bundles_of, decode_bundle
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, NetworkError
from sealroom.kbs.calls import GrantSpec
from sealroom.kbs.client import KbsClient
from support.broker_process import BrokerProcess, release, run, words_of

pytestmark = pytest.mark.integration

READER = SecretKey.generate()
FAULTY = Path(__file__).parents[1] / "support" / "faulty_broker.py"


def entries(home: Path) -> list[AuditEntry]:
    """Verify a log from its files alone, and return its entries."""
    key, reader = VerifierKey.parse((home / "audit.pub").read_text()), DirectoryReader(home / "audit")
    report = verify_log(reader, key)
    assert report.ok, report.findings
    found: list[bytes] = []
    for number, width in bundles_of(report.checkpoint.size):
        found += decode_bundle(reader.get(bundle_path(number, width)))
    return [AuditEntry.from_bytes(entry) for entry in found]


def kinds(home: Path) -> list[str]:
    return [entry.kind for entry in entries(home)]


# --- certificate


class Authority:
    """Makes certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"

    def issue(self, *, fitting: bool = True) -> int:
        """Put a new pair in place and return the certificate's serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        now, serial = datetime.now(UTC), x509.random_serial_number()
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(days=1))
        certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        kept = key if fitting else ec.generate_private_key(ec.SECP256R1())
        self.key.write_bytes(kept.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.key.chmod(0o600)
        return serial


@pytest.fixture
def tls(prepared: BrokerProcess) -> Authority:
    made = Authority(prepared.config.parent)
    made.issue()
    prepared.settings('[tls]\ncertificate = "tls.crt"\nkey = "tls.key"')
    prepared.scheme = "https"
    return made


def serial_of(port: int) -> int:
    """Return the serial number of the certificate that a server shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_own_certificate_with_hsts_and_secure_cookies(prepared: BrokerProcess, tls: Authority) -> None:
    prepared.start()
    verify = ssl.create_default_context(cafile=str(tls.certificate))
    with httpx.Client(base_url=prepared.url, verify=verify) as http:
        answer = http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
        assert answer.headers["strict-transport-security"] == "max-age=63072000"
        assert "; Secure" in answer.headers["set-cookie"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{prepared.port}/healthz")


def test_certificate_is_read_again_on_sighup(prepared: BrokerProcess, tls: Authority) -> None:
    prepared.start()
    assert prepared.process is not None
    first = serial_of(prepared.port)
    second = tls.issue()
    assert serial_of(prepared.port) == first
    prepared.process.send_signal(signal.SIGHUP)
    wait_for(lambda: serial_of(prepared.port) == second, "the new certificate")
    tls.issue(fitting=False)
    prepared.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the certificate stays as it was" in prepared.log.read_text(), "the refusal")
    assert serial_of(prepared.port) == second


def test_key_of_the_certificate_that_others_may_read(prepared: BrokerProcess, tls: Authority) -> None:
    tls.key.chmod(0o640)
    assert refused_start(prepared) == "others may read it"


def test_key_that_does_not_fit_the_certificate(prepared: BrokerProcess, tls: Authority) -> None:
    tls.issue(fitting=False)
    assert refused_start(prepared) == "cannot be used"


def refused_start(broker: BrokerProcess) -> str:
    """Return which of the expected sentences a start ends with."""
    done = run("serve", "--config", broker.config, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    line = words_of(done.stderr)[0]
    return next(text for text in ("others may read it", "cannot be used", "in use", line) if text in line)


# --- watchers


def test_ready_names_what_is_missing(prepared: BrokerProcess) -> None:
    prepared.start()
    home = prepared.config.parent

    def state() -> tuple[int, set[str]]:
        answer = httpx.get(f"{prepared.url}/readyz")
        return answer.status_code, {name for name, one in answer.json()["checks"].items() if one != "ok"}

    assert state() == (200, set())
    (home / "kek.key").rename(home / "elsewhere")
    assert state() == (503, {"kek"})
    (home / "elsewhere").rename(home / "kek.key")
    (home / "audit" / "checkpoint").rename(home / "elsewhere")
    assert state() == (503, {"log"})
    assert httpx.get(f"{prepared.url}/healthz").status_code == 200
    (home / "elsewhere").rename(home / "audit" / "checkpoint")
    assert state() == (200, set())


def test_disk_that_is_almost_full_takes_no_evidence(prepared: BrokerProcess) -> None:
    prepared.settings(f"[limits]\nfree_disk = {1 << 60}")
    prepared.start()
    answer = httpx.get(f"{prepared.url}/readyz")
    assert (answer.status_code, answer.json()["checks"]["disk"]) == (503, "failed")
    with pytest.raises(NetworkError, match="disk is almost full"):
        prepared.guest()
    assert kinds(prepared.config.parent) == ["start"]


def test_metrics_count_and_name_nobody(prepared: BrokerProcess) -> None:
    prepared.settings('[metrics]\nlisten = "127.0.0.1:0"')
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest, prepared.guest("hub-token-of-bob") as bob:
        release(guest, data, READER)
        with pytest.raises(AccessDeniedError):
            release(bob, data, READER)
        cookie = str(guest._cookie)
    url = prepared.log.read_text().partition("metrics are at ")[2].split()[0]
    text = httpx.get(url).text
    for line in (
        'sealroom_broker_requests_total{call="release",method="POST",status="200"} 1.0',
        'sealroom_broker_refusals_total{code="grant.none"} 1.0',
        'sealroom_broker_releases_total{kind="dataset"} 1.0',
        'sealroom_broker_request_seconds_count{call="attest"} 2.0',
        'sealroom_broker_sessions{state="attested"} 2.0',
        "sealroom_broker_datasets 1.0",
        "sealroom_broker_log_entries 5.0",
        "sealroom_broker_database_up 1.0",
    ):
        assert line in text.splitlines(), text
    for personal in ("alice", "bob", "heartbeats", "127.0.0.1", cookie):
        assert personal not in text
    assert httpx.get(f"{prepared.url}/metrics").status_code == 404


def test_metrics_at_the_brokers_own_address_need_their_token(prepared: BrokerProcess) -> None:
    prepared.settings('[metrics]\ntoken = "metrics.token"')
    token = prepared.config.parent / "metrics.token"
    token.write_text("a-token-for-prometheus\n")
    token.chmod(0o600)
    prepared.start()

    def status(authorization: str) -> int:
        headers = {"Authorization": authorization} if authorization else {}
        return httpx.get(f"{prepared.url}/metrics", headers=headers).status_code

    assert [status(one) for one in ("", "Bearer wrong", "Basic x", f"Bearer {prepared.token}")] == [401] * 4
    assert status("Bearer a-token-for-prometheus") == 200


# --- logs


def test_json_lines_with_request_ids_and_without_secrets(prepared: BrokerProcess) -> None:
    prepared.settings('log = "json"')
    prepared.start()
    data = prepared.sealed()
    nonces: list[str] = []

    def note(response: httpx.Response) -> None:
        response.read()
        if response.url.path.endswith("/auth"):
            nonces.append(response.json()["nonce"])

    hooked = httpx.Client(event_hooks={"response": [note]})
    with prepared.guest() as guest:
        release(guest, data, READER)
        released = guest.release("heartbeats", data.request(READER))
        cookie, token = str(guest._cookie), guest.attest().token
    hooked.post(f"{prepared.url}/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    hooked.post(f"{prepared.url}/kbs/v0/attest", content=b'{"broken": "body-of-a-stranger"')
    hooked.get(
        f"{prepared.url}/healthz?token=token-in-a-query", headers={"Cookie": "kbs-session-id=a-cookie"}
    )
    with contextlib.suppress(AccessDeniedError):
        prepared.guest("stolen-token-of-somebody")
    hooked.close()
    prepared.end(signal.SIGTERM)
    text = prepared.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    access = [line for line in lines if line["logger"] == "sealroom_broker.access"]
    assert len({line["request"] for line in access}) == len(access) > 10
    (refusal,) = [line for line in access if line.get("codes") == ["person.token"]]
    assert (refusal["status"], refusal["method"]) == (403, "POST")
    kek = base64.b64decode((prepared.config.parent / "kek.key").read_bytes())
    secrets = [data.dataset_key.reveal(), READER.reveal(), kek]
    secrets += [base64.b64decode(header) for header in released.headers.values()]
    forms = [form for one in secrets for form in (one.hex(), base64.b64encode(one).decode(), repr(one)[2:-1])]
    pems = [path.read_text().splitlines()[1] for path in prepared.config.parent.glob("*.pem")]
    others = ["hub-token-of-alice", "stolen-token", "token-in-a-query", "a-cookie", "body-of-a-stranger"]
    assert len(nonces) == 1
    assert len(pems) == 2
    for secret in (*forms, *pems, *others, *nonces, prepared.token, cookie, token):
        assert secret not in text


# --- slow clients


@pytest.fixture
def impatient(prepared: BrokerProcess) -> BrokerProcess:
    prepared.settings("[limits]\nhead_seconds = 1\nbody_seconds = 1\nanswer_seconds = 1")
    prepared.start()
    return prepared


def connection(broker: BrokerProcess) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", broker.port))
    made.settimeout(60)
    return made


def test_client_that_sends_nothing(impatient: BrokerProcess) -> None:
    with connection(impatient) as client:
        assert closed(client) == b""


def test_head_that_comes_byte_by_byte(impatient: BrokerProcess) -> None:
    with connection(impatient) as client:
        trickle(client, b"GET /healthz HTTP/1.1\r\nHost: b\r\nX: " + b"x" * 2000)


def test_second_head_that_comes_byte_by_byte(impatient: BrokerProcess) -> None:
    with connection(impatient) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        trickle(client, b"GET /healthz HTTP/1.1\r\nHost: b\r\nX: " + b"x" * 2000)


def test_body_that_comes_byte_by_byte(impatient: BrokerProcess) -> None:
    with connection(impatient) as client:
        client.sendall(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nContent-Length: 2000\r\n\r\n")
        trickle(client, b"x" * 1999, expected=b"HTTP/1.1 408")


def test_body_that_goes_on_after_the_answer(impatient: BrokerProcess) -> None:
    with connection(impatient) as client:
        client.sendall(b"POST /none HTTP/1.1\r\nHost: b\r\nContent-Length: 2000\r\n\r\n")
        trickle(client, b"x" * 1999, expected=b"HTTP/1.1 404")


def test_client_that_does_not_read_its_answers(impatient: BrokerProcess) -> None:
    data = impatient.sealed()
    with impatient.guest() as guest:
        release(guest, data, READER)
    path = next((impatient.config.parent / "audit" / "evidence").iterdir())
    target = f"GET /kbs/v0/sealroom/admin/audit/evidence/{path.name} HTTP/1.1\r\nHost: b\r\n"
    request = f"{target}Authorization: Bearer {impatient.token}\r\n\r\n".encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", impatient.port))
        client.setblocking(False)
        left = request * (32 * (1 << 20) // path.stat().st_size)

        def gone() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError, ConnectionError):
                left = left[client.send(left) :]
            # linux/tcp.h, tcpi_state: 7 is TCP_CLOSE, which a reset leads to.
            (state,) = struct.unpack("B", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))
            return bool(state == 7)

        wait_for(gone, "the broker gives up")


def trickle(client: socket.socket, data: bytes, expected: bytes = b"") -> None:
    """Send byte by byte until the other side ends the connection."""
    answer = b""
    client.setblocking(False)
    for at in range(len(data)):
        try:
            client.send(data[at : at + 1])
            with contextlib.suppress(BlockingIOError):
                chunk = client.recv(65536)
                answer += chunk
                if not chunk:
                    break
        except ConnectionError:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the connection was not ended")
    assert answer.startswith(expected)


def closed(client: socket.socket) -> bytes:
    """Return what comes until the other side ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            received += chunk
    return received


# --- keys


def test_rotation_while_the_broker_runs(prepared: BrokerProcess) -> None:
    prepared.start()
    data, kek = prepared.sealed(), prepared.config.parent / "kek.key"
    old = kek.read_bytes()
    with prepared.guest() as guest:
        release(guest, data, READER)
        keys = httpx.get(f"{prepared.url}/kbs/v0/sealroom/jwks").json()["keys"]
        done = run("rotate-keys", "--config", prepared.config)
        assert done.returncode == 0, done.stderr
        assert b"1 stored secrets are wrapped with it" in done.stdout
        release(guest, data, READER)
        again = httpx.get(f"{prepared.url}/kbs/v0/sealroom/jwks").json()["keys"]
        assert again[: len(keys)] == keys
        assert len(again) == len(keys) + 1
        assert kek.stat().st_mode & 0o777 == 0o600
        assert len(kek.read_bytes().split()) == 1
        assert kek.read_bytes() != old
        kek.write_bytes(old)
        prepared.kill()
        prepared.start()
        with pytest.raises(NetworkError):
            release(guest, data, READER)


@pytest.mark.parametrize("point", ["kek-in-file", "kek-rewrapped"])
def test_rotation_killed_midway_loses_nothing(prepared: BrokerProcess, point: str) -> None:
    prepared.start()
    data, kek = prepared.sealed(), prepared.config.parent / "kek.key"
    words = [sys.executable, "-P", str(FAULTY), point, "rotate-keys", "--config", str(prepared.config)]
    with prepared.guest() as guest:
        killed = subprocess.run(words, capture_output=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(kek.read_bytes().split()) == 2
        release(guest, data, READER)
        prepared.kill()
        prepared.start()
        release(guest, data, READER)
        new = kek.read_bytes().split()[0]
        assert run("rotate-keys", "--only", "kek", "--config", prepared.config).returncode == 0
        assert kek.read_bytes().split() == [new]
        release(guest, data, READER)


def test_new_key_is_prepared_for_other_machines_first(prepared: BrokerProcess) -> None:
    kek = prepared.config.parent / "kek.key"
    (old,) = kek.read_bytes().split()
    for _ in range(2):
        assert run("rotate-keys", "--prepare", "--config", prepared.config).returncode == 0
        assert kek.read_bytes().split()[1:] == [old]
    assert run("rotate-keys", "--only", "kek", "--config", prepared.config).returncode == 0
    assert old not in kek.read_bytes()


# --- backup


def test_backup_of_a_broker_that_runs_makes_a_broker_again(prepared: BrokerProcess) -> None:
    prepared.start()
    data, stop = prepared.sealed(), threading.Event()
    received: list[tuple[int, str]] = []
    folder, keys, home = (prepared.folder / name for name in ("backup", "backup-keys", "restored"))

    def work(guest: KbsClient) -> None:
        while not stop.is_set():
            received.append(release(guest, data, READER))

    with prepared.guest() as guest, prepared.owner() as owner:
        grants, thread = owner.grants(), threading.Thread(target=work, args=(guest,))
        thread.start()
        try:
            wait_for(lambda: len(received) >= 3, "releases")
            before = len(received)
            done = run("backup", "--config", prepared.config, "--keys", keys, folder)
            assert done.returncode == 0, done.stderr
        finally:
            stop.set()
            thread.join()
    prepared.kill()
    shutil.rmtree(prepared.config.parent)
    done = run("restore", "--keys", keys, "--home", home, folder)
    assert done.returncode == 0, done.stderr
    again = BrokerProcess(prepared.folder, home / "broker.toml", token=prepared.token, name="restored")
    again.start()
    try:
        with again.owner() as owner:
            assert owner.grants() == grants
        with again.guest() as guest:
            release(guest, data, READER)
        log = entries(home)
    finally:
        again.kill()
    for index, leaf in received[:before]:
        assert log[index].leaf_hash().hex() == leaf
    assert "Restored from the backup of" in [one.detail for one in log if one.kind == "start"][1]


def test_backup_holds_no_key_and_is_private(prepared: BrokerProcess) -> None:
    folder, keys = prepared.folder / "backup", prepared.folder / "backup-keys"
    assert run("backup", "--config", prepared.config, folder).returncode == 0
    prepared.start()
    prepared.sealed()
    prepared.kill()
    assert run("backup", "--config", prepared.config, "--keys", keys, f"{folder}-2").returncode == 0
    kept = [path for path in keys.iterdir() if path.suffix != ".pub"]
    secrets = [line for path in kept for line in path.read_bytes().splitlines() if b"-----" not in line]
    files = [path for path in Path(f"{folder}-2").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in [*files, *keys.iterdir()]} == {0o600}
    assert len(secrets) >= 2
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    done = run("backup", "--config", prepared.config, folder)
    assert "is there already" in done.stderr.decode()


def test_withdrawals_after_the_backup_hold_where_the_log_survived(prepared: BrokerProcess) -> None:
    prepared.start()
    data = prepared.sealed()
    folder, keys, home = (prepared.folder / name for name in ("backup", "backup-keys", "restored"))
    assert run("backup", "--config", prepared.config, "--keys", keys, folder).returncode == 0
    with prepared.owner() as owner:
        owner.withdraw_grant(owner.grants()[0].id)
        owner.add_grant(GrantSpec(dataset="heartbeats", subject="bob", minimum="simulated"))
    prepared.kill()
    survived = prepared.config.parent / "audit"
    words = ("restore", "--keys", keys, "--home", home, "--newer-log", survived, folder)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert b"2 entries are newer than the backup: 1 withdrawals were done again" in done.stdout
    again = BrokerProcess(prepared.folder, home / "broker.toml", token=prepared.token, name="restored")
    again.start()
    try:
        with again.guest() as guest, pytest.raises(AccessDeniedError) as caught:
            release(guest, data, READER)
        assert [code for code, _ in caught.value.reasons] == ["grant.withdrawn"]
        assert kinds(home)[:5] == ["start", "registration", "grant", "withdrawal", "grant"]
    finally:
        again.kill()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("database", "is not the file that was backed up"),
        ("entry", "does not verify"),
        ("kek", "another key-encryption key"),
        ("log key", "not signed by"),
    ],
)
def test_backup_that_does_not_fit_is_not_restored(prepared: BrokerProcess, what: str, sentence: str) -> None:
    prepared.start()
    prepared.sealed()
    prepared.kill()
    folder, keys, home = (prepared.folder / name for name in ("backup", "backup-keys", "restored"))
    assert run("backup", "--config", prepared.config, "--keys", keys, folder).returncode == 0
    other = prepared.folder / "other"
    assert run("init", "--home", other).returncode == 0
    if what == "database":
        change(folder / "broker.sqlite", -1)
    elif what == "entry":
        change(next((folder / "audit" / "tile" / "entries" / "000.p").iterdir()), -2)
    else:
        name = "kek.key" if what == "kek" else "audit.pem"
        shutil.copy(other / name, keys / name)
    done = run("restore", "--keys", keys, "--home", home, folder)
    assert done.returncode == 1
    assert sentence in done.stderr.decode()
    assert not home.exists()


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# --- faults


@pytest.mark.parametrize(
    ("point", "entry"),
    [("before-entry", 0), ("after-entry", 1), ("after-commit", 1), ("before-answer", 1)],
)
def test_killed_at_a_step_of_a_release(prepared: BrokerProcess, point: str, entry: int) -> None:
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest, prepared.owner() as owner:
        grants = owner.grants()
        prepared.kill()
        prepared.start(program=[sys.executable, "-P", str(FAULTY), point])
        with pytest.raises(NetworkError):
            release(guest, data, READER)
        assert prepared.process is not None
        assert prepared.process.wait(60) == -signal.SIGKILL
        prepared.process = None
        prepared.start()
        assert kinds(prepared.config.parent).count("release") == entry
        assert owner.grants() == grants
        release(guest, data, READER)
        assert kinds(prepared.config.parent).count("release") == entry + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB where the broker's log will be."""
    audit = tmp_path / "broker" / "audit"
    audit.mkdir(parents=True)
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(audit)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        yield audit
    finally:
        subprocess.run(["umount", "-l", str(audit)], check=True, timeout=60)


def test_full_disk_under_the_log(small_disk: Path, prepared: BrokerProcess) -> None:
    prepared.settings("[limits]\nfree_disk = 0")
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest, prepared.owner() as owner:
        release(guest, data, READER)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as stream:
            while True:
                stream.write(b"x" * 4096)
        filled = small_disk / "filler-2"
        with contextlib.suppress(OSError), filled.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x")
        refused_for_storage(prepared, guest, lambda: release(guest, data, READER))
        with pytest.raises(NetworkError):
            owner.withdraw_grant(owner.grants()[0].id)
        assert owner.grants()[0].withdrawn is None
        filler.unlink()
        filled.unlink()
        assert kinds(prepared.config.parent).count("release") == 1
        release(guest, data, READER)
        owner.withdraw_grant(owner.grants()[0].id)
    assert kinds(prepared.config.parent)[-2:] == ["release", "withdrawal"]


def test_file_that_may_not_grow_under_the_log(prepared: BrokerProcess) -> None:
    """The same without a file system of its own: a bound on the size of files, of log and database alike."""
    prepared.start()
    data = prepared.sealed()
    with prepared.guest() as guest:
        release(guest, data, READER)
        assert prepared.process is not None
        soft, hard = resource.prlimit(prepared.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(prepared.process.pid, resource.RLIMIT_FSIZE, (64, hard))
        refused_for_storage(prepared, guest, lambda: release(guest, data, READER))
        resource.prlimit(prepared.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        assert kinds(prepared.config.parent).count("release") == 1
        release(guest, data, READER)
    assert kinds(prepared.config.parent).count("release") == 2


def refused_for_storage(broker: BrokerProcess, guest: KbsClient, call: Callable[[], object]) -> None:
    """Check that a call is refused with a clear error, three times over, and that no session got lost."""
    for _ in range(3):
        with pytest.raises(NetworkError, match="nothing was done") as caught:
            call()
        assert not isinstance(caught.value, AccessDeniedError)
    body = {"purpose": "DUO:0000042", "reader_key": READER.public.to_base64(), "headers": {"a": "AAAA"}}
    url = f"{broker.url}/kbs/v0/sealroom/datasets/none/release"
    answer = httpx.post(url, json=body, headers={"Cookie": f"kbs-session-id={guest._cookie}"})
    assert answer.status_code == 503
    assert [one["code"] for one in answer.json()["reasons"]] == ["broker.storage"]
    assert answer.headers["retry-after"] == "5"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


# --- proxies


@pytest.mark.parametrize(("trusted", "statuses"), [("", [200, 200, 429]), ("127.0.0.0/8", [200, 200, 200])])
def test_address_that_a_proxy_says_counts_if_it_is_trusted(
    prepared: BrokerProcess, trusted: str, statuses: list[int]
) -> None:
    proxies = f'trusted_proxies = ["{trusted}"]\n' if trusted else ""
    prepared.settings(f"{proxies}\n[limits]\nrate = 0.001\nburst = 2")
    prepared.start()
    url = f"{prepared.url}/kbs/v0/sealroom/version"
    clients = [f"198.51.100.{number}" for number in range(3)]
    answers = [httpx.get(url, headers={"X-Forwarded-For": client}) for client in clients]
    assert [answer.status_code for answer in answers] == statuses
    # A client that makes up an address of its own is known by the one that the proxy saw.
    forged = {"X-Forwarded-For": f"203.0.113.9, {clients[0]}"}
    assert [httpx.get(url, headers=forged).status_code for _ in range(2)][-1] == 429
