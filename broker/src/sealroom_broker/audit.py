# SPDX-License-Identifier: BSD-3-Clause
"""The broker's record: an entry a decision, and the evidence that each decision rests on.

Invariants:

- `append` returns when the entry is covered by a checkpoint on disk, or, where processes share a database,
  will be with the commit of the transaction that it was called in; if any of that fails, it raises and
  whatever was to follow does not happen.
- Evidence is on disk before an entry names it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
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
from sealroom.audit.tlog import Reader, leaf_hash
from sealroom.errors import ConfigurationError

from sealroom_broker.config import Config
from sealroom_broker.files import create_private, read_private
from sealroom_broker.sharedlog import SharedEvidence, SharedLog
from sealroom_broker.store import Store

KEY_FILE = "audit.pem"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an entry stands in the log."""

    index: int
    leaf: str
    """SHA-256 leaf hash, hex."""


class AuditLog(Reader, Protocol):
    """The log, in a folder or in the database."""

    @property
    def size(self) -> int:
        """How many entries are durable."""

    def append(self, entry: bytes) -> int:
        """Append an entry and return its index once it is durable, or will be with the transaction."""

    def entry(self, index: int) -> bytes:
        """Return an entry's bytes."""

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of entries."""

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint of all durable entries."""

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that an entry is in the tree."""

    def consistency_proof(self, older: int) -> list[bytes]:
        """Return the proof that the log has only grown."""

    def close(self) -> None:
        """Give it back."""


class Evidence(Protocol):
    """Where evidence is kept by its digest."""

    def keep(self, evidence: bytes) -> str:
        """Store evidence and return its SHA-256 in hex; storing it again changes nothing."""


class Record:
    """The log and the evidence beside it.

    Args:
        log: The log.
        evidence: The evidence.
        signer: The log's key.
        store: The database that log and evidence are in; None for folders.
    """

    def __init__(self, log: AuditLog, evidence: Evidence, signer: Signer, store: Store | None = None) -> None:
        self.signer = signer
        self.log = log
        self._evidence = evidence
        self._store = store

    @classmethod
    def of(cls, config: Config, store: Store, signer: Signer) -> Record:
        """Open the log that a configuration names: in its folder, or in a database that processes share.

        Raises:
            StorageError: Another process writes the folder, or it cannot be opened.
            SignatureError: The log is of another key.
            IntegrityError: Entries that its checkpoint covers are missing or changed.
        """
        if store.database.shared:
            return cls(SharedLog(store, signer), SharedEvidence(store), signer, store)
        return cls(TileLog(config.audit, signer), FolderEvidence(config.audit / "evidence"), signer)

    def together(self) -> AbstractContextManager[object]:
        """Keep evidence, and write what rests on it, in one transaction where both are in the database.

        Raises:
            StorageError: The database cannot be written.
        """
        return self._store.write() if self._store is not None else nullcontext()

    def append(self, entry: AuditEntry) -> Receipt:
        """Write an entry.

        Within a `Store.write` of a shared database it is durable when that commits: what follows from an
        entry may leave after the transaction only.

        Raises:
            Error: It could not be made durable; nothing may be released on it.
        """
        data = entry.to_bytes()
        return Receipt(self.log.append(data), leaf_hash(data).hex())

    def keep_evidence(self, evidence: bytes) -> str:
        """Store evidence under its digest and return that in hex; storing it again changes nothing.

        Raises:
            StorageError: It could not be made durable.
        """
        return self._evidence.keep(evidence)

    def close(self) -> None:
        """Give up the log's lock."""
        self.log.close()


class FolderEvidence:
    """Evidence in a folder.

    Args:
        folder: Where it is; made when something is first kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Of one piece of evidence, one at a time; who finds it there must not go on before it is durable.
        self._locks = tuple(threading.Lock() for _ in range(256))

    def keep(self, evidence: bytes) -> str:
        """Store evidence under its digest and return that in hex.

        Raises:
            StorageError: It could not be made durable.
        """
        digest = hashlib.sha256(evidence).hexdigest()
        path = self._folder / digest
        with self._locks[int(digest[:2], 16)]:
            if not path.exists():
                create_private(path, evidence)
        return digest


def log_signer(name: str, path: Path) -> Signer:
    """Read the log's key.

    Raises:
        ConfigurationError: It is not there, not an Ed25519 key, or others may read it.
    """
    try:
        key = load_pem_private_key(read_private(path, "The audit log's key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(f"The audit log's key {path} is not a private key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"The audit log's key {path} is not an Ed25519 key.")
    return Signer(name, key)


def create_log_key(path: Path) -> None:
    """Make the log's key if there is none."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        create_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
