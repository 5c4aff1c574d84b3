# SPDX-License-Identifier: BSD-3-Clause
"""The audit log in a PostgreSQL database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader, TileLog
from sealroom.audit.note import Checkpoint, Signer
from sealroom.audit.tlog import bundle_path, leaf_hash, tile_path, verify_consistency, verify_inclusion
from sealroom.audit.verify import verify_log
from sealroom.errors import Error, FormatError, IntegrityError, SignatureError, StorageError
from sealroom_broker.audit import Record
from sealroom_broker.backup import copy_log
from sealroom_broker.config import Postgresql
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.entries import start_entry
from sealroom_broker.migrate import migrate
from sealroom_broker.sharedlog import SharedEvidence, SharedLog
from sealroom_broker.store import LogEntryRow, LogHeadRow, Store
from sqlalchemy import delete, text, update
from support.brokers import Clock
from support.postgres import Postgres

SIGNER = Signer("sealroom-broker", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer("sealroom-broker", Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOW = Clock()()


@pytest.fixture
def address(postgres: Postgres) -> str:
    return postgres.create()


def opened(address: str) -> Store:
    return Store(PostgresqlDatabase(Postgresql(url=address)))


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    made = opened(address)
    migrate(made)
    yield made
    made.close()


def entry(number: int) -> bytes:
    return start_entry(f"entry {number}", NOW).to_bytes()


def test_the_same_tree_as_in_a_folder(store: Store, tmp_path: Path) -> None:
    """600 entries: full tiles, a second level, partial files at the edge."""
    shared = SharedLog(store, SIGNER)
    with store.write():
        for number in range(600):
            assert shared.append(entry(number)) == number
    with TileLog(tmp_path / "log", SIGNER) as folder:
        for number in range(600):
            folder.append(entry(number))
        assert shared.checkpoint() == folder.checkpoint()
        for path in (tile_path(0, 0), tile_path(0, 2, 88), tile_path(1, 0, 2), tile_path(0, 1, 17)):
            assert shared.get(path) == folder.get(path)
        for path in (bundle_path(0), bundle_path(2, 88), bundle_path(2, 5)):
            assert shared.get(path) == folder.get(path)
        assert list(shared.entries(250, 260)) == list(folder.entries(250, 260))
        assert shared.consistency_proof(300) == folder.consistency_proof(300)
    assert verify_log(shared, SIGNER.verifier).ok
    root = Checkpoint.open(shared.checkpoint(), SIGNER.verifier).root
    verify_inclusion(leaf_hash(entry(257)), 257, 600, shared.inclusion_proof(257), root)


def test_copy_is_a_log_in_a_folder(store: Store, tmp_path: Path) -> None:
    shared, evidence = SharedLog(store, SIGNER), SharedEvidence(store)
    digest = evidence.keep(b"what a server sent")
    made = start_entry("with evidence", NOW).model_copy(update={"evidence": digest})
    for number in range(3):
        shared.append(entry(number))
    shared.append(AuditEntry.model_validate(made.model_dump()).to_bytes())
    note = shared.checkpoint()
    shared.append(entry(99))
    assert copy_log(shared, note, SIGNER.verifier, tmp_path / "copy") == 4
    report = verify_log(DirectoryReader(tmp_path / "copy"), SIGNER.verifier)
    assert (report.ok, report.checkpoint.size) == (True, 4)
    assert DirectoryReader(tmp_path / "copy").get(f"evidence/{digest}") == b"what a server sent"


def test_two_processes_append_in_turns(store: Store, address: str) -> None:
    other = opened(address)
    logs = [SharedLog(store, SIGNER), SharedLog(other, SIGNER)]

    def work(log: SharedLog) -> None:
        for number in range(20):
            log.append(entry(number))

    threads = [threading.Thread(target=work, args=(log,)) for log in logs * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = verify_log(logs[0], SIGNER.verifier)
    assert (report.ok, report.checkpoint.size) == (True, 80)
    assert logs[1].checkpoint() == logs[0].checkpoint()
    other.close()


def test_what_is_undone_with_its_transaction_is_not_in_the_log(store: Store) -> None:
    log = SharedLog(store, SIGNER)
    log.append(entry(0))
    before = log.checkpoint()

    def undone() -> None:
        with store.write():
            assert log.append(entry(1)) == 1
            assert log.append(entry(2)) == 2
            raise RuntimeError("undo")

    with pytest.raises(RuntimeError, match="undo"):
        undone()
    assert log.checkpoint() == before
    assert log.append(entry(3)) == 1
    verify_consistency(
        1, Checkpoint.open(before, SIGNER.verifier).root, 2, root(log), log.consistency_proof(1)
    )
    assert verify_log(log, SIGNER.verifier).ok


def root(log: SharedLog) -> bytes:
    return Checkpoint.open(log.checkpoint(), SIGNER.verifier).root


def test_log_of_another_key(store: Store) -> None:
    SharedLog(store, SIGNER)
    with pytest.raises(SignatureError):
        SharedLog(store, OTHER)


def test_checkpoint_that_was_put_back(store: Store) -> None:
    log = SharedLog(store, SIGNER)
    log.append(entry(0))
    older = log.checkpoint()
    log.append(entry(1))
    with store.write() as session:
        session.execute(update(LogHeadRow).values(size=1, checkpoint=older))
    with pytest.raises(StorageError):
        log.append(entry(2))
    assert log.size == 1


def test_hash_that_was_changed(store: Store) -> None:
    log = SharedLog(store, SIGNER)
    log.append(entry(0))
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE log_hashes SET hash = decode(repeat('00', 32), 'hex')"))
    with pytest.raises(IntegrityError, match="does not give the root"):
        SharedLog(store, SIGNER)


def test_entry_that_was_removed_is_found(store: Store) -> None:
    log = SharedLog(store, SIGNER)
    for number in range(3):
        log.append(entry(number))
    with store.write() as session:
        session.execute(delete(LogEntryRow).where(LogEntryRow.index == 1))
    assert not verify_log(log, SIGNER.verifier).ok


def test_entry_that_is_too_long(store: Store) -> None:
    log = SharedLog(store, SIGNER)
    with pytest.raises(FormatError):
        log.append(bytes(1 << 16))
    assert log.size == 0


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/000",
        "tile/0/000.p/0",
        "tile/0/000.p/257",
        "tile/0/000.p/4",
        "tile/entries/000.p/4",
        "tile/1/000.p/1",
        "tile/0/" + "x999/" * 20 + "999",
        "evidence/" + "0" * 64,
        "../checkpoint",
        "lock",
    ],
)
def test_path_that_names_nothing(store: Store, path: str) -> None:
    log = SharedLog(store, SIGNER)
    for number in range(3):
        log.append(entry(number))
    with pytest.raises(Error):
        log.get(path)


def test_evidence_is_kept_once_and_comes_back(store: Store) -> None:
    record = Record(SharedLog(store, SIGNER), SharedEvidence(store), SIGNER)
    digest = record.keep_evidence(b"e" * 100_000)
    assert record.keep_evidence(b"e" * 100_000) == digest
    assert record.log.get(f"evidence/{digest}") == b"e" * 100_000
