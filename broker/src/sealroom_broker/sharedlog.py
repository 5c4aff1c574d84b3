# SPDX-License-Identifier: BSD-3-Clause
"""The audit log in the database, for brokers that run as several processes.

An entry, the hashes that it adds and the checkpoint that covers it are written in one transaction, which is
also that of whatever the entry is about. So a release and its entry are durable together or not at all, and
no key leaves before that commit.

A lock file beside a shared folder could not give that: a process which loses such a lock (its connection, its
lease) goes on writing. Here a writer that lost its connection cannot commit.

Invariants:

- One transaction writes at a time (`Store.write`), and it reads the head after it got its turn.
- A checkpoint is signed only for a tree that continues the stored one, whose signature and root were checked.
- A row of an entry or a hash is written once.
- What is read out has the layout of C2SP tlog-tiles, as a log in a folder has it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator

from sealroom.audit.log import is_log_path
from sealroom.audit.note import Checkpoint, Signer
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    MAX_ENTRY,
    TILE_WIDTH,
    Frontier,
    Tiles,
    encode_entry,
    leaf_hash,
    tree_root,
)
from sealroom.errors import Error, FormatError, IntegrityError, StorageError
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from sealroom_broker.store import EvidenceRow, LogEntryRow, LogHashRow, LogHeadRow, Store

_HEAD = 1
_TILE = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?")


class SharedLog:
    """The log in a database.

    Args:
        store: The database, with the newest schema.
        signer: The log's key, the same in every process.

    Raises:
        SignatureError: The stored checkpoint is of another key.
        StorageError: The database cannot be used.
    """

    def __init__(self, store: Store, signer: Signer) -> None:
        self._store = store
        self._signer = signer
        self._mutex = threading.Lock()
        self._frontier = Frontier()
        with store.write() as session:
            if session.get(LogHeadRow, _HEAD) is None:
                empty = Checkpoint(signer.name, 0, Frontier().root()).sign(signer)
                session.add(LogHeadRow(id=_HEAD, size=0, checkpoint=empty))
            else:
                self._edge(session)

    def close(self) -> None:
        """Do nothing: the log belongs to the store."""

    @property
    def size(self) -> int:
        """How many entries are durable."""
        with self._store.read() as session:
            return session.scalars(select(LogHeadRow.size)).one()

    def append(self, entry: bytes) -> int:
        """Append an entry and return its index.

        Within a `Store.write` it is durable when that commits; without one, when this returns.

        Raises:
            FormatError: The entry is longer than 65535 bytes.
            StorageError: It could not be written.
            IntegrityError: The stored log does not give the root that was signed.
        """
        if len(entry) > MAX_ENTRY:
            raise FormatError(f"A log entry has at most {MAX_ENTRY} bytes, not {len(entry)}.", field="entry")
        with self._store.join() as session:
            frontier = self._edge(session)
            index, leaf = frontier.size, leaf_hash(entry)
            session.execute(insert(LogEntryRow).values(index=index, entry=entry))
            _add_hashes(session, index, leaf)
            frontier.add(leaf)
            checkpoint = Checkpoint(self._signer.name, frontier.size, frontier.root()).sign(self._signer)
            values = {"size": frontier.size, "checkpoint": checkpoint}
            session.execute(update(LogHeadRow).where(LogHeadRow.id == _HEAD).values(values))
            with self._mutex:
                self._frontier = frontier
        return index

    def get(self, path: str) -> bytes:
        """Return a file of the log as it is in tlog-tiles, or evidence.

        Raises:
            StorageError: It is not there, or the path is none of a log's.
        """
        if not is_log_path(path):
            raise StorageError("This path names no file of an audit log.")
        with self._store.read() as session:
            data = _read(session, path)
        if data is None:
            raise StorageError(f"The audit log has no {path}.")
        return data

    def entry(self, index: int) -> bytes:
        """Return an entry's bytes."""
        with self._store.read() as session:
            row = session.get(LogEntryRow, index)
        if row is None:
            raise ValueError("no such entry")
        return row.entry

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of entries; those that are appended meanwhile are not among them."""
        size = self.size
        stop = size if stop is None else min(stop, size)
        for first in range(start, stop, TILE_WIDTH):
            last = min(first + TILE_WIDTH, stop)
            with self._store.read() as session:
                found = _entries(session, first, last)
            yield from zip(range(first, last), found, strict=True)

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint of all durable entries."""
        return self.get(CHECKPOINT_PATH)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that an entry is in the tree of the current size, or of an older one."""
        with self._store.read() as session:
            return self._tiles(session, size).inclusion_proof(index)

    def consistency_proof(self, older: int) -> list[bytes]:
        """Return the proof that the log has only grown since it had `older` entries."""
        with self._store.read() as session:
            return self._tiles(session, None).consistency_proof(older)

    def _tiles(self, session: Session, size: int | None) -> Tiles:
        if size is None:
            size = session.scalars(select(LogHeadRow.size)).one()
        return Tiles(_Within(session, StorageError), size)

    def _edge(self, session: Session) -> Frontier:
        """Return the right edge of the stored tree; this process's own only if nobody else appended."""
        head = session.scalars(select(LogHeadRow).execution_options(populate_existing=True)).one()
        checkpoint = Checkpoint.open(head.checkpoint, self._signer.verifier)
        with self._mutex:
            frontier = self._frontier.copy()
        if (frontier.size, frontier.root()) != (checkpoint.size, checkpoint.root):
            frontier = Tiles(_Within(session, IntegrityError), checkpoint.size).frontier()
        if head.size != checkpoint.size or frontier.root() != checkpoint.root:
            raise IntegrityError(
                "The stored audit log does not give the root that was signed.",
                advice="Restore the database from a backup and run `sealroom audit verify`.",
            )
        return frontier


class SharedEvidence:
    """The evidence beside the log.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(self, evidence: bytes) -> str:
        """Store evidence under its digest and return that in hex.

        Within a `Store.write` it is durable when that commits; without one, when this returns.

        Raises:
            StorageError: It could not be made durable.
        """
        digest = hashlib.sha256(evidence).hexdigest()
        with self._store.join() as session:
            known = session.scalar(select(EvidenceRow.sha256).where(EvidenceRow.sha256 == digest))
            if known is None:
                session.execute(insert(EvidenceRow).values(sha256=digest, data=evidence))
        return digest


class _Within:
    """Reads tiles in a transaction that is open already; a missing one is the given kind of error."""

    def __init__(self, session: Session, missing: type[Error]) -> None:
        self._session = session
        self._missing = missing

    def get(self, path: str) -> bytes:
        data = _read(self._session, path)
        if data is None:
            raise self._missing(f"The audit log has no {path}.")
        return data


def _add_hashes(session: Session, index: int, leaf: bytes) -> None:
    """Add a leaf's hash, and the hash of each tile that it fills one level up."""
    level, node = 0, leaf
    while True:
        session.execute(insert(LogHashRow).values(level=level, index=index, hash=node))
        index, rest = divmod(index, TILE_WIDTH)
        if rest != TILE_WIDTH - 1:
            return
        node = tree_root(_hashes(session, level, index * TILE_WIDTH, (index + 1) * TILE_WIDTH))
        level += 1


def _read(session: Session, path: str) -> bytes | None:
    if path == CHECKPOINT_PATH:
        return session.scalar(select(LogHeadRow.checkpoint))
    kind, _, name = path.partition("/")
    if kind == "evidence":
        return session.scalar(select(EvidenceRow.data).where(EvidenceRow.sha256 == name))
    match = _TILE.fullmatch(path)
    if match is None:
        return None
    number = 0
    for part in match[2].split("/"):
        number = number * 1000 + int(part.removeprefix("x"))
    width = int(match[3] or TILE_WIDTH)
    first, last = number * TILE_WIDTH, number * TILE_WIDTH + width
    if not 0 < width <= TILE_WIDTH or last >= 1 << 63:
        return None
    if match[1] == "entries":
        entries = _entries(session, first, last)
        return b"".join(map(encode_entry, entries)) if len(entries) == width else None
    hashes = _hashes(session, int(match[1]), first, last)
    return b"".join(hashes) if len(hashes) == width else None


def _entries(session: Session, first: int, last: int) -> list[bytes]:
    query = select(LogEntryRow.entry).where(LogEntryRow.index >= first, LogEntryRow.index < last)
    return list(session.scalars(query.order_by(LogEntryRow.index)))


def _hashes(session: Session, level: int, first: int, last: int) -> list[bytes]:
    query = select(LogHashRow.hash).where(
        LogHashRow.level == level, LogHashRow.index >= first, LogHashRow.index < last
    )
    return list(session.scalars(query.order_by(LogHashRow.index)))
