# SPDX-License-Identifier: BSD-3-Clause
"""The broker's record: an entry a decision, and the evidence that each decision rests on.

Invariants:

- `append` returns when the entry is covered by a checkpoint on disk; if any of that fails, it raises and
  whatever was to follow does not happen.
- Evidence is on disk before an entry names it.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import TileLog
from sealroom.audit.note import Signer
from sealroom.errors import ConfigurationError

from sealroom_broker.files import create_private, read_private

KEY_FILE = "audit.pem"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an entry stands in the log."""

    index: int
    leaf: str
    """SHA-256 leaf hash, hex."""


class Record:
    """The log and the evidence beside it.

    Args:
        folder: Where they are.
        signer: The log's key.
    """

    def __init__(self, folder: Path, signer: Signer) -> None:
        self.signer = signer
        self.log = TileLog(folder, signer)
        self._evidence = folder / "evidence"
        self._lock = threading.Lock()

    def append(self, entry: AuditEntry) -> Receipt:
        """Write an entry.

        Raises:
            Error: It could not be made durable; nothing may be released on it.
        """
        index = self.log.append(entry.to_bytes())
        return Receipt(index, entry.leaf_hash().hex())

    def keep_evidence(self, evidence: bytes) -> str:
        """Store evidence under its digest and return that in hex; storing it again changes nothing.

        Raises:
            StorageError: It could not be made durable.
        """
        digest = hashlib.sha256(evidence).hexdigest()
        path = self._evidence / digest
        with self._lock:
            if not path.exists():
                create_private(path, evidence)
        return digest

    def close(self) -> None:
        """Give up the log's lock."""
        self.log.close()


def log_signer(name: str, path: Path) -> Signer:
    """Read the log's key.

    Raises:
        ConfigurationError: It is not there, not an Ed25519 key, or others may read it.
    """
    try:
        key = load_pem_private_key(read_private(path, "The audit log's key"), None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"The audit log's key {path} is not a private key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"The audit log's key {path} is not an Ed25519 key.")
    return Signer(name, key)


def create_log_key(path: Path) -> None:
    """Make the log's key if there is none."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        create_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
