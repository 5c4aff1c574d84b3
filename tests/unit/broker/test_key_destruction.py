# SPDX-License-Identifier: BSD-3-Clause
"""Destroyed keys: refused at once, gone from the files, and back only with the owner's own key."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sealroom.audit.entry import AuditEntry
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import Description
from sealroom.errors import AccessDeniedError, NetworkError, ProtocolError, StorageError
from sealroom.kbs.calls import GrantChange
from sealroom.kbs.client import KbsClient
from sealroom_broker.acts import end_permits
from sealroom_broker.audit import Record
from sealroom_broker.backup import backup, restore
from sealroom_broker.database import SqliteDatabase
from sealroom_broker.housekeeping import keep_tidy, tidy
from sealroom_broker.rotate import check_secrets, rotate_kek
from sealroom_broker.store import ERASE, DatasetRow, Meta, Store
from sealroom_broker.wrap import Chain
from support.brokers import Data, World

READER = SecretKey.generate()
ADMIN = "/kbs/v0/sealroom/admin"


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def denied(guest: KbsClient, data: Data) -> list[str]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    return [code for code, _ in caught.value.reasons]


def last_entry(world: World) -> AuditEntry:
    log = world.broker.record.log
    return AuditEntry.from_bytes(log.entry(log.size - 1))


def wrapped_key(world: World, dataset: str = "heartbeats") -> bytes:
    with world.broker.store.read() as session:
        return session.get_one(DatasetRow, dataset).wrapped_key


def register_until(world: World, data: Data, end: datetime) -> None:
    world.owner.register_dataset(data.registration().model_copy(update={"keep_until": end}))


# --- by the owner


def test_destroyed_key_opens_nothing_and_says_so(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    owned = world.owner.destroy_key("heartbeats", "The project is over")
    assert owned.destroyed == world.clock.now
    assert world.owner.datasets() == (owned,)
    (release,) = guest.session().releases
    assert release.state == "withdrawn"
    assert "was destroyed on 2026-06-01 00:00 UTC" in release.sentence
    assert denied(guest, data) == ["dataset.destroyed"]
    assert guest.datasets()[0].state == "refused"
    assert wrapped_key(world) == b""


def test_destruction_is_in_the_log_with_its_reason(world: World, data: Data) -> None:
    world.owner.destroy_key("heartbeats", "The project is over")
    entry = last_entry(world)
    assert (entry.kind, entry.actor, entry.dataset) == ("destruction", "owner", "heartbeats")
    assert (entry.detail, entry.manifest_sha256) == ("The project is over", data.manifest.sha256)


def test_destroying_again_changes_nothing(world: World, data: Data) -> None:
    first = world.owner.destroy_key("heartbeats", "Over")
    world.clock.forward(hours=1)
    size = world.broker.record.log.size
    assert world.owner.destroy_key("heartbeats", "Again") == first
    assert world.broker.record.log.size == size


def test_dataset_that_is_not_there(world: World) -> None:
    with pytest.raises(ProtocolError, match="no dataset heartbeats"):
        world.owner.destroy_key("heartbeats", "Over")


def test_reason_may_stand_in_the_address_and_must_be_there(world: World, data: Data) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    http = world.http()
    assert http.delete(f"{ADMIN}/datasets/heartbeats/key", headers=headers).status_code == 400
    assert http.delete(f"{ADMIN}/datasets/heartbeats/key?reason=", headers=headers).status_code == 400
    assert world.owner.datasets()[0].destroyed is None
    answer = http.delete(f"{ADMIN}/datasets/heartbeats/key?reason=It+is+over", headers=headers)
    assert answer.status_code == 200
    assert last_entry(world).detail == "It is over"


def test_only_the_owner_with_the_key_brings_it_back(world: World, data: Data) -> None:
    world.grant()
    world.owner.destroy_key("heartbeats", "Over")
    with pytest.raises(ProtocolError, match="not the one that the dataset's files are sealed to"):
        world.owner.register_dataset(data.registration(secret_key=_other(world).registration().secret_key))
    assert denied(world.guest(), data) == ["dataset.destroyed"]
    again = world.owner.register_dataset(data.registration())
    assert again.destroyed is None
    assert last_entry(world).kind == "registration"
    assert world.guest().release("heartbeats", data.request(READER)).dataset == "heartbeats"


def _other(world: World) -> Data:
    return Data.seal(world.folder, Description(id="other", title="Other", owner="Heart Centre"))


def test_other_datasets_keep_their_keys(world: World, data: Data) -> None:
    other = _other(world)
    world.owner.register_dataset(other.registration())
    before = wrapped_key(world, "other")
    world.owner.destroy_key("heartbeats", "Over")
    assert wrapped_key(world, "other") == before
    world.grant(dataset="other")
    assert world.guest().release("other", other.request(READER)).dataset == "other"


def test_destruction_that_cannot_be_recorded_does_not_hold(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("The log is full.")

    monkeypatch.setattr(Record, "append", fail)
    with pytest.raises(NetworkError):
        world.owner.destroy_key("heartbeats", "Over")
    monkeypatch.undo()
    assert world.owner.datasets()[0].destroyed is None
    assert wrapped_key(world)


# --- the files


def files_with(folder: Path, secret: bytes) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_wrapped_key_is_in_no_file_any_more(world: World, data: Data) -> None:
    if world.postgresql:
        # Its pages and its log are the server's: `docs/howto/grants.md` says what to do.
        with world.broker.store.read() as session:
            assert session.get_one(DatasetRow, "heartbeats").wrapped_key
        world.owner.destroy_key("heartbeats", "Over")
        assert wrapped_key(world) == b""
        return
    home = world.folder / "broker"
    key = wrapped_key(world)
    assert files_with(home, key)
    world.owner.destroy_key("heartbeats", "Over")
    # While it runs: nothing waits for its end.
    assert files_with(home, key) == []
    world.broker.store.close()
    assert files_with(home, key) == []


def test_key_that_an_older_version_left_in_free_pages_goes_too(world: World, data: Data) -> None:
    if world.postgresql:
        assert wrapped_key(world)
        return
    key = wrapped_key(world)
    world.broker.store.close()
    path = world.folder / "broker" / "broker.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("CREATE TABLE old (k BLOB)")
        connection.execute("INSERT INTO old VALUES (?)", (key + bytes(9000),))
        connection.commit()
        connection.execute("DROP TABLE old")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.read_bytes().count(key) == 2
    world.owner.destroy_key("heartbeats", "Over")
    assert files_with(world.folder / "broker", key) == []


def test_traces_that_cannot_be_removed_are_said_and_tried_again(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: object) -> None:
        raise StorageError("The database is being read.")

    database = type(world.broker.store.database)
    with monkeypatch.context() as patched:
        patched.setattr(database, "erase", busy)
        with pytest.raises(NetworkError, match="traces of it could not be removed"):
            world.owner.destroy_key("heartbeats", "Over")
        with pytest.raises(StorageError):
            tidy(world.broker)
    # It is destroyed all the same, and the traces go at the next look.
    assert world.owner.datasets()[0].destroyed is not None
    with world.broker.store.read() as session:
        assert session.get(Meta, ERASE) is not None
    tidy(world.broker)
    with world.broker.store.read() as session:
        assert session.get(Meta, ERASE) is None


def test_reader_that_stays_keeps_the_traces_and_nothing_says_otherwise(tmp_path: Path, world: World) -> None:
    if world.postgresql:
        world.broker.store.database.erase()
        return
    path = world.folder / "broker" / "broker.sqlite"
    database = SqliteDatabase(path, patience=0.1)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchall()
        with pytest.raises(StorageError, match="not removed yet"):
            database.erase()
        reader.rollback()
    database.erase()
    database.engine.dispose()


def test_keys_that_are_left_can_be_rotated_and_checked(world: World, data: Data) -> None:
    world.owner.register_dataset(_other(world).registration())
    world.owner.destroy_key("heartbeats", "Over")
    config = world.broker.config
    before = check_secrets(world.broker.store, Chain(config.kek))
    rotate_kek(config.kek, world.broker.store)
    assert check_secrets(world.broker.store, Chain(config.kek)) == before
    assert wrapped_key(world) == b""


# --- the end of a permit


def test_permit_that_ends_refuses_at_once(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(minutes=10))
    world.grant()
    guest = world.guest()
    answer = guest.release("heartbeats", data.request(READER))
    assert answer.until == guest.datasets()[0].until == world.clock.now + timedelta(minutes=10)
    world.clock.forward(minutes=9)
    assert guest.session().releases[0].state == "active"
    world.clock.forward(minutes=1)
    (release,) = guest.session().releases
    assert release.state == "expired"
    assert release.sentence.startswith("The permit for Heartbeats ended on 2026-06-01 00:10 UTC.")
    # The key is still there: it is not what refuses.
    assert wrapped_key(world)
    assert denied(guest, data) == ["dataset.ended"]


def test_sooner_end_of_grant_and_permit_is_told(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=3))
    world.grant(until=world.clock.now + timedelta(hours=2))
    assert world.guest().datasets()[0].until == world.clock.now + timedelta(hours=2)


def test_broker_destroys_the_key_of_an_ended_permit(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.grant()
    assert tidy(world.broker) == ()
    world.clock.forward(hours=1)
    assert tidy(world.broker) == ("heartbeats",)
    entry = last_entry(world)
    assert (entry.kind, entry.actor, entry.dataset) == ("destruction", "broker", "heartbeats")
    assert entry.detail == "The permit ended on 2026-06-01 01:00:00 UTC."
    assert wrapped_key(world) == b""
    assert world.owner.datasets()[0].destroyed == world.clock.now
    assert denied(world.guest(), data) == ["dataset.ended"]
    size = world.broker.record.log.size
    assert tidy(world.broker) == ()
    assert world.broker.record.log.size == size


def test_two_processes_that_look_at_once_write_one_entry(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.clock.forward(hours=1)
    found = end_permits(world.broker, world.clock.now), end_permits(world.broker, world.clock.now)
    assert sorted(found) == [(), ("heartbeats",)]


def _wait_until_destroyed(world: World) -> None:
    deadline = time.monotonic() + 30
    while wrapped_key(world):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_start_looks_at_permits_and_goes_on_looking(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep_tidy(world.broker, stop, interval=0.01))
        await asyncio.sleep(0.05)
        world.clock.forward(hours=1)
        await asyncio.to_thread(_wait_until_destroyed, world)
        stop.set()
        await task

    asyncio.run(run())
    assert last_entry(world).kind == "destruction"


def test_look_that_fails_is_not_the_last_one(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.clock.forward(hours=1)
    failed: list[str] = []
    append = Record.append

    def once(record: Record, entry: AuditEntry) -> object:
        if not failed:
            failed.append(entry.kind)
            raise StorageError("The disk is full.")
        return append(record, entry)

    monkeypatch.setattr(Record, "append", once)

    async def run() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(keep_tidy(world.broker, stop, interval=0.01))
        await asyncio.to_thread(_wait_until_destroyed, world)
        stop.set()
        await task

    asyncio.run(run())
    assert failed == ["destruction"]


def test_permit_is_prolonged_by_registering_again(world: World, data: Data) -> None:
    start = world.clock.now
    register_until(world, data, start + timedelta(hours=1))
    assert last_entry(world).detail == "The permit ends on 2026-06-01 01:00:00 UTC."
    register_until(world, data, start + timedelta(hours=2))
    world.clock.forward(hours=1)
    assert tidy(world.broker) == ()
    assert world.owner.datasets()[0].keep_until == start + timedelta(hours=2)


def test_registering_without_an_end_does_not_take_the_end_away(world: World, data: Data) -> None:
    end = world.clock.now + timedelta(hours=1)
    register_until(world, data, end)
    size = world.broker.record.log.size
    assert world.owner.register_dataset(data.registration()).keep_until == end
    assert world.broker.record.log.size == size


def test_ended_permit_needs_a_later_end_to_come_back(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.grant()
    world.clock.forward(hours=1)
    tidy(world.broker)
    with pytest.raises(ProtocolError, match="has ended: register it with a later keep_until"):
        world.owner.register_dataset(data.registration())
    with pytest.raises(ProtocolError, match="has ended"):
        register_until(world, data, world.clock.now)
    register_until(world, data, world.clock.now + timedelta(hours=1))
    assert world.guest().release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_permit_without_a_zone(world: World, data: Data) -> None:
    end = (world.clock.now + timedelta(hours=1)).replace(tzinfo=None)
    with pytest.raises(ProtocolError, match="time zone"):
        register_until(world, data, end)


def test_owner_who_destroys_sooner_is_named_until_the_permit_ends(world: World, data: Data) -> None:
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.grant()
    world.owner.destroy_key("heartbeats", "Over")
    assert denied(world.guest(), data) == ["dataset.destroyed"]
    world.clock.forward(hours=1)
    assert tidy(world.broker) == ()
    assert denied(world.guest(), data) == ["dataset.ended"]


# --- the record stays


def test_housekeeping_removes_no_evidence_and_no_entry(world: World, data: Data) -> None:
    """Regulation (EU) 2025/327, Article 73(1)(e): identifiable logs, kept for a year at least."""
    register_until(world, data, world.clock.now + timedelta(hours=1))
    world.grant()
    world.guest().release("heartbeats", data.request(READER))
    log = world.broker.record.log
    (entry,) = [one for _, raw in log.entries() if (one := AuditEntry.from_bytes(raw)).kind == "release"]
    before = dict(log.entries())
    world.clock.forward(days=6 * 366)
    tidy(world.broker)
    world.guest()
    after = dict(log.entries())
    assert {index: after[index] for index in before} == before
    assert world.owner.audit_file(f"evidence/{entry.evidence}")
    assert entry.person is not None
    assert (entry.person.subject, entry.person.issuer, entry.person.name) == ("alice", "hub", "alice")


# --- backups


def test_restoration_destroys_again_what_was_destroyed_after_the_backup(world: World, data: Data) -> None:
    if world.postgresql:
        # The database is the server's to restore: there is no newer log beside it.
        assert world.broker.store.database.shared
        return
    changed = world.grant(until=world.clock.now + timedelta(days=30))
    halted = world.grant(subject="bob", project="vroni")
    folder, keys, home = (world.folder / name for name in ("backup", "keys", "restored"))
    backup(world.config_path, folder, keys, world.clock.now)
    world.owner.change_grant(changed, GrantChange(until=world.clock.now + timedelta(days=1)))
    world.owner.halt_project("vroni", "Incident")
    world.owner.destroy_key("heartbeats", "Over")
    world.broker.close()
    done = restore(folder, keys, home, world.clock.now, newer_log=world.config_path.parent / "audit")
    assert (done.newer, done.withdrawn) == (3, 3)
    store = Store(home / "broker.sqlite")
    with store.read() as session:
        row = session.get_one(DatasetRow, "heartbeats")
        assert (row.wrapped_key, row.destroyed) == (b"", world.clock.now)
    store.close()
    world.config_path = home / "broker.toml"
    world.start()
    grants = {one.id: one.withdrawn for one in world.owner.grants()}
    assert grants == {changed: world.clock.now, halted: None}
    assert world.owner.projects()[0].state == "halted"
