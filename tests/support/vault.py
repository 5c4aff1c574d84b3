# SPDX-License-Identifier: BSD-3-Clause
"""A real HashiCorp Vault for tests, built from its Go module, in a process of its own.

`vault_server/` is a small main program around Vault 1.14.1, which is under the Mozilla Public License: its
core, its HTTP API, its file storage, transit and AppRole. It is built once into the clone's `.tools/vault`
(about five minutes of a processor) from versions that `go.sum` locks. A test's Vault starts from an empty
storage, listens on a free port of this machine, and is ended by its process id.

Needs Go 1.24 or newer; `SEALROOM_VAULT` names a program that is here already.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from support.programs import alone, has_go

SOURCES = Path(__file__).resolve().parent / "vault_server"
PLACE = Path(__file__).resolve().parents[2] / ".tools" / "vault"
OLDEST_GO = (1, 24)
PATIENCE = 60.0
BUILDING = 3000.0

POLICY = """
path "transit/encrypt/sealroom-*" { capabilities = ["update"] }
path "transit/decrypt/sealroom-*" { capabilities = ["update"] }
path "transit/keys/sealroom-*"    { capabilities = ["read"] }
"""
"""What a broker's token may do."""
OPERATOR_POLICY = """
path "transit/keys/sealroom-*"    { capabilities = ["create", "read", "update"] }
path "transit/encrypt/sealroom-*" { capabilities = ["update"] }
path "transit/decrypt/sealroom-*" { capabilities = ["update"] }
"""
"""What a token may do that makes and rotates the key."""


def why_not() -> str:
    """Say why there can be no Vault here; empty if there can."""
    if os.environ.get("SEALROOM_VAULT") or _built().is_file():
        return ""
    if not has_go(OLDEST_GO):
        return f"Vault is built with Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer, which is not here"
    return ""


class UnavailableError(Exception):
    """This machine cannot build Vault; the text says what it lacks."""


def program() -> Path:
    """Return the server's program; build it if it is not there.

    Raises:
        UnavailableError: There is no Go, or the packages cannot be downloaded.
        RuntimeError: It does not build.
    """
    reason = why_not()
    if reason:
        raise UnavailableError(reason)
    named = os.environ.get("SEALROOM_VAULT", "")
    if named:
        return Path(named)
    PLACE.mkdir(parents=True, exist_ok=True)
    with alone(PLACE):
        built = _built()
        if not built.is_file():
            # What is needed, and nothing else that its modules name.
            done = _go("list", "-deps", "-f", "{{.Dir}}", ".")
            if done.returncode and not re.search("checksum|SECURITY", done.stderr):
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise UnavailableError(f"Vault's packages cannot be downloaded ({last.strip()})")
            fresh = PLACE / "new"
            if not done.returncode:
                options = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w", f"-modfile={_modules()}")
                done = _go("build", *options, "-o", str(fresh), ".")
            if done.returncode:
                raise RuntimeError(f"Vault does not build: {done.stderr[-3000:]}")
            for old in PLACE.glob("vault-*"):
                old.unlink()
            fresh.rename(built)
        return built


_SDK = "github.com/hashicorp/vault/sdk"
_STRICTER = "if p.ExistenceCheck == nil {"


def _modules() -> Path:
    """Return a `go.mod` that names a changed copy of Vault's SDK.

    Vault 1.14.1 was released with a state of its SDK that has no version of its own. The next version looks
    for a mistake of backends' authors that Vault 1.14.1 makes, and ends the request there.
    """
    done = _go("list", "-m", "-f", "{{.Dir}}", _SDK)
    copy, modules = PLACE / "sdk", PLACE / "go.mod"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(done.stdout.strip(), copy, copy_function=shutil.copyfile)
    for folder in (copy, *copy.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    changed = copy / "framework" / "backend.go"
    text = changed.read_text()
    if text.count(_STRICTER) != 1:
        raise RuntimeError("Vault's SDK is not the expected one")
    changed.write_text(text.replace(_STRICTER, "if false {"))
    modules.write_text(f"{(SOURCES / 'go.mod').read_text()}\nreplace {_SDK} => {copy}\n")
    shutil.copyfile(SOURCES / "go.sum", modules.with_suffix(".sum"))
    return modules


def _go(*words: str) -> subprocess.CompletedProcess[str]:
    # A newer toolchain is not downloaded for this. Others may be using this machine meanwhile.
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    return subprocess.run(
        ["nice", "go", *words], cwd=SOURCES, capture_output=True, text=True, check=False, env=env,
        timeout=BUILDING,
    )  # fmt: skip


@dataclass
class Vault:
    """A Vault that runs, initialised and unsealed."""

    folder: Path
    address: str = ""
    root: str = field(default="", repr=False)
    process: subprocess.Popen[bytes] | None = None
    last_key: str = ""
    """The key that was made last."""
    _unseal: str = field(default="", repr=False)
    _port: int = 0

    def __enter__(self) -> Self:
        self.folder.mkdir()
        _certificate(self.ca, self.folder / "vault.key")
        try:
            self.start()
            self._set_up()
        except BaseException:
            self.stop()
            raise
        return self

    def _set_up(self) -> None:
        made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
        self._unseal, self.root = made["keys"][0], made["root_token"]
        self.unseal()
        self.call("POST", "sys/mounts/transit", {"type": "transit"})
        self.call("POST", "sys/auth/approle", {"type": "approle"})
        self.call("PUT", "sys/policies/acl/broker", {"policy": POLICY})
        self.call("PUT", "sys/policies/acl/operator", {"policy": OPERATOR_POLICY})

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def ca(self) -> Path:
        """The certificate that its TLS is verified with."""
        return self.folder / "vault.crt"

    def start(self) -> None:
        """Start it; it is sealed then."""
        log = self.folder / "vault.log"
        with log.open("ab") as file:
            seen = file.tell()
            self.process = subprocess.Popen(
                [program(), "-storage", self.folder / "storage", "-certificate", self.ca,
                 "-key", self.folder / "vault.key", "-listen", f"127.0.0.1:{self._port}"],
                stdout=file, stderr=file,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            text = log.read_bytes()[seen:].decode(errors="replace")
            found = re.search(r"at https://127\.0\.0\.1:(\d+)", text)
            if found:
                self._port = int(found[1])
                self.address = f"https://127.0.0.1:{self._port}"
                return
            assert self.process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError("Vault did not start in time")

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
            self.process = None

    def seal(self) -> None:
        """Seal it, as an operator in need does."""
        self.call("PUT", "sys/seal", {})

    def unseal(self) -> None:
        """Unseal it, and wait until it works."""
        self.call("PUT", "sys/unseal", {"key": self._unseal}, token="")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.call("GET", "sys/health", token="")
                return
            except AssertionError:
                assert time.monotonic() < deadline, "Vault did not unseal in time"
                time.sleep(0.1)

    def new_key(self, *, make: bool = True, **fields: Any) -> str:
        """Make a key of the transit engine and return its name; or only return one."""
        self.last_key = f"sealroom-{secrets.token_hex(6)}"
        if make:
            self.call("POST", f"transit/keys/{self.last_key}", {"type": "aes256-gcm96", **fields})
        return self.last_key

    def token(self, path: Path, policy: str = "broker", **fields: Any) -> Path:
        """Write a new token of a policy to a file."""
        made = self.call("POST", "auth/token/create", {"policies": [policy], "no_parent": True, **fields})
        write_secret(path, made["auth"]["client_token"])
        return path

    def approle(self, path: Path, **fields: Any) -> str:
        """Make an AppRole of the broker's policy, write its secret id to a file, and return its role id."""
        self.call("POST", "auth/approle/role/broker", {"token_policies": ["broker"], **fields})
        secret = self.call("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
        write_secret(path, secret)
        found: str = self.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
        return found

    def revoke(self, path: Path) -> None:
        """Revoke the token in a file."""
        self.call("POST", "auth/token/revoke", {"token": path.read_text().strip()})

    def revoke_all(self, prefix: str) -> None:
        """Revoke every token of a login."""
        self.call("POST", f"sys/leases/revoke-prefix/{prefix}", {})

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """Call its API, as root if nobody else is named."""
        headers = {"X-Vault-Token": self.root if token is None else token}
        with httpx.Client(verify=self._trust(), trust_env=False, timeout=PATIENCE) as http:
            answer = http.request(method, f"{self.address}/v1/{path}", headers=headers, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """A Vault for the whole run; skips, with the reason, where there can be none."""
    try:
        program()
    except UnavailableError as error:
        pytest.skip(str(error))
    with Vault(tmp_path_factory.mktemp("vault") / "server") as made:
        yield made


def write_secret(path: Path, secret: str) -> None:
    """Write a file of mode 0600 in the place of another."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(f"{secret}\n")
    fresh.replace(path)


def _certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, private.public_key(), x509.random_serial_number(), now - timedelta(hours=1),
        now + timedelta(days=1),
    )  # fmt: skip
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(private, hashes.SHA256())
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _built() -> Path:
    key = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    key.update(_STRICTER.encode())
    return PLACE / f"vault-{key.hexdigest()[:16]}"


if __name__ == "__main__":
    # `make test` calls this before the tests, which have no time to build.
    try:
        program()
    except UnavailableError as error:
        print(f"Not tested with a real Vault: {error}")
