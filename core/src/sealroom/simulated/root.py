# SPDX-License-Identifier: BSD-3-Clause
"""The development root: a directory with ARK and ASK of one product line and their keys.

| file | content |
|---|---|
| `ark.pem`, `ask.pem` | certificates |
| `ark.key`, `ask.key` | RSA-4096 keys, PKCS#8, mode 0600 |
| `root.json` | product line, time, SHA-256 of the four files; written last |

- `root.json` is what makes a directory a root: creation that was killed before it starts over, after it
  never.
- Creation takes a lock, so two starts at once make one root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sealroom.errors import ConfigurationError, StorageError
from sealroom.simulated import certificates
from sealroom.simulated.certificates import Authority, Names
from sealroom.snp import ProductLine, TcbVersion

FORMAT = "sealroom-simulated-root/1"
FILES = ("ark.pem", "ask.pem", "ark.key", "ask.key")
INDEX = "root.json"
RSA_BITS = 4096


@dataclass(frozen=True, slots=True)
class Root:
    """A development root of one product line, able to endorse simulated processors."""

    line: ProductLine
    ark: Authority
    ask: Authority
    asvk: Authority | None = None
    """Endorses VLEKs; only tests make one."""
    names: Names = field(default=certificates.SIMULATED_NAMES)

    @property
    def pem(self) -> bytes:
        """The root certificate alone, as relying parties take it."""
        return self.ark.pem

    @property
    def chain_pem(self) -> bytes:
        """ASK then ARK, in the order in which AMD's key distribution service gives them."""
        return self.ask.pem + self.ark.pem

    def issue_vcek(
        self, public_key: ec.EllipticCurvePublicKey, *, chip_id: bytes, tcb: TcbVersion, at: datetime
    ) -> bytes:
        """Return a VCEK certificate (DER) for a chip at a TCB."""
        return certificates.make_vek(
            self.ask, public_key, self.line, tcb, chip_id=chip_id, not_before=at, names=self.names
        )


def make(
    line: ProductLine,
    *,
    at: datetime,
    keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey] | None = None,
    asvk_key: rsa.RSAPrivateKey | None = None,
    names: Names = certificates.SIMULATED_NAMES,
) -> Root:
    """Make a root in memory; without `keys` it makes two RSA-4096 keys, which takes seconds."""
    ark_key, ask_key = keys or (new_rsa_key(), new_rsa_key())
    ark = certificates.make_ark(line, ark_key, not_before=at, names=names)
    ask = certificates.make_intermediate(line, ask_key, ark, not_before=at, names=names)
    asvk = None
    if asvk_key is not None:
        asvk = certificates.make_intermediate(line, asvk_key, ark, not_before=at, vlek=True, names=names)
    return Root(line, ark, ask, asvk, names)


def new_rsa_key() -> rsa.RSAPrivateKey:
    """Return a new RSA-4096 key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)


def create(directory: Path, line: ProductLine = ProductLine.GENOA, *, at: datetime | None = None) -> Root:
    """Return the root in `directory`, making it first if there is none.

    Args:
        directory: Where the root lives; made with mode 0700 if it is not there.
        line: Product line of a new root.
        at: Time of a new root; the present by default.

    Raises:
        StorageError: The directory cannot be written.
        ConfigurationError: There is a root, and it is damaged or of another product line.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            if not (directory / INDEX).exists():
                _write(directory, make(line, at=at or datetime.now(UTC)), at or datetime.now(UTC))
    except OSError as error:
        raise StorageError(
            f"The development root cannot be written in {directory}: {error.strerror}."
        ) from error
    root = load(directory)
    if root.line is not line:
        raise ConfigurationError(
            f"The development root in {directory} is for {root.line}, not {line}.",
            advice="Name another directory for this product line.",
        )
    return root


def load(directory: Path) -> Root:
    """Read the root in `directory`.

    Raises:
        StorageError: A file is missing or cannot be read.
        ConfigurationError: A file is not what `root.json` says.
    """
    advice = f"Remove {directory} and start again; what was proven under this root is void then."
    index = _read_index(directory, advice)
    content: dict[str, bytes] = {}
    for name in FILES:
        content[name] = _read(directory / name, advice)
        if hashlib.sha256(content[name]).hexdigest() != index.files.get(name):
            raise ConfigurationError(f"{directory / name} is not the file that was made.", advice=advice)
    try:
        ark = _authority(content["ark.pem"], content["ark.key"])
        ask = _authority(content["ask.pem"], content["ask.key"])
    except ValueError as error:
        raise ConfigurationError(
            f"The development root in {directory} cannot be read.", advice=advice
        ) from error
    return Root(index.line, ark, ask)


@dataclass(frozen=True, slots=True)
class _Index:
    line: ProductLine
    files: Mapping[str, str]


def _read_index(directory: Path, advice: str) -> _Index:
    raw = _read(directory / INDEX, advice)
    try:
        data = json.loads(raw)
        if data["format"] != FORMAT:
            raise ValueError(data["format"])
        return _Index(ProductLine(data["line"]), {str(k): str(v) for k, v in data["files"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{directory / INDEX} does not describe a development root."
        raise ConfigurationError(message, advice=advice) from error


def _authority(certificate: bytes, key: bytes) -> Authority:
    private = load_pem_private_key(key, password=None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")
    return Authority(x509.load_pem_x509_certificate(certificate), private)


def _write(directory: Path, root: Root, at: datetime) -> None:
    for leftover in directory.glob("*.part"):
        leftover.unlink()
    content = {
        "ark.key": _key_pem(root.ark.key),
        "ask.key": _key_pem(root.ask.key),
        "ark.pem": root.ark.pem,
        "ask.pem": root.ask.pem,
    }
    for name, data in content.items():
        _write_file(directory / name, data)
    index = {
        "format": FORMAT,
        "simulated": True,
        "line": root.line.value,
        "created": at.astimezone(UTC).isoformat(timespec="seconds"),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(content.items())},
    }
    _write_file(directory / INDEX, json.dumps(index, indent=2).encode() + b"\n")


def _write_file(path: Path, data: bytes) -> None:
    # Whole or not at all: written aside, flushed to disk, then renamed.
    part = path.with_name(path.name + ".part")
    mode = 0o644 if path.suffix in {".pem", ".json"} else 0o600
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.", advice=advice) from error


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
