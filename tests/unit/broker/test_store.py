# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sealroom.errors import ConfigurationError, StorageError
from sealroom_broker import migrate as migrations
from sealroom_broker.config import Postgresql
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.migrate import check_schema, head, migrate
from sealroom_broker.problem import Problem
from sealroom_broker.store import Base, Meta, OwnerTokenRow, Store
from sqlalchemy import func, select, text


def downgrade(store: Store, revision: str) -> None:
    """Go back to an older schema."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(migrations.__file__).parent / "migrations"))
    with store.engine.execution_options(**store.database.writing).begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, revision)


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path, database: str) -> Iterator[Store]:
    made = Store(PostgresqlDatabase(Postgresql(url=database)) if database else tmp_path / "broker.sqlite")
    migrate(made)
    yield made
    made.close()


def test_migrations_make_what_the_models_say(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == head()


def test_migrating_twice_changes_nothing(store: Store) -> None:
    store.bind_mode("production")
    migrate(store)
    with store.read() as session:
        assert session.get(Meta, "mode") is not None


def test_database_of_a_newer_program(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="cannot be brought up to date"):
        migrate(store)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "broker.sqlite").write_bytes(b"something else" * 100)
    store = Store(tmp_path / "broker.sqlite")
    with pytest.raises(StorageError):
        migrate(store)
    store.close()


def test_commits_are_durable_and_keys_checked(tmp_path: Path) -> None:
    store = Store(tmp_path / "broker.sqlite")
    with store.engine.connect() as connection:
        pragmas = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in PRAGMAS}
    store.close()
    assert pragmas == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_mode_of_the_first_start_holds(store: Store) -> None:
    store.bind_mode("development")
    store.bind_mode("development")
    with pytest.raises(
        ConfigurationError, match="made in mode development, but its configuration says production"
    ):
        store.bind_mode("production")


def test_times_come_back_in_utc(store: Store) -> None:
    berlin = datetime(2026, 6, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    with store.write() as session:
        session.add(OwnerTokenRow(name="a", sha256="x", created=berlin))
    with store.read() as session:
        row = session.scalar(select(OwnerTokenRow))
        assert row is not None
        assert row.created == NOW
        assert row.created.tzinfo is UTC


def test_time_without_a_zone_is_a_mistake(store: Store) -> None:
    with pytest.raises(StorageError), store.write() as session:
        session.add(OwnerTokenRow(name="a", sha256="x", created=datetime(2026, 6, 1)))  # noqa: DTZ001


def test_failed_write_leaves_nothing(store: Store) -> None:
    class StopError(Exception):
        pass

    def write_half() -> None:
        with store.write() as session:
            session.add(Meta(key="k", value="v"))
            session.flush()
            raise StopError

    with pytest.raises(StopError):
        write_half()
    with store.read() as session:
        assert session.get(Meta, "k") is None


def test_writers_take_turns(store: Store) -> None:
    """Read, think, write: without turns some of the increments would be lost."""
    with store.write() as session:
        session.add(Meta(key="n", value="0"))

    def increment() -> None:
        for _ in range(10):
            with store.write() as session:
                row = session.get(Meta, "n")
                assert row is not None
                row.value = str(int(row.value) + 1)

    threads = [threading.Thread(target=increment) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as session:
        assert session.scalar(select(func.max(Meta.value)).where(Meta.key == "n")) == "80"


def test_error_does_not_quote_parameters(store: Store) -> None:
    with store.write() as session:
        session.add(OwnerTokenRow(name="a", sha256="the-secret-hash", created=NOW))
    with pytest.raises(StorageError) as caught, store.write() as session:
        session.add(OwnerTokenRow(name="b", sha256="the-secret-hash", created=NOW))
    assert "the-secret-hash" not in f"{caught.value} {caught.value.__cause__}"


def test_database_that_another_process_holds_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealroom_broker.database.BUSY_SECONDS", 0.05)
    store = Store(tmp_path / "broker.sqlite")
    migrate(store)
    other = sqlite3.connect(tmp_path / "broker.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="cannot be used now"), store.write():
        pass
    other.execute("ROLLBACK")
    with store.write() as session:
        session.add(Meta(key="k", value="v"))
    other.close()
    store.close()


def test_schema_of_another_version(store: Store) -> None:
    check_schema(store)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(StorageError, match="has the schema 0001") as caught:
        check_schema(store)
    assert "sealroom-broker migrate" in caught.value.advice


def test_schema_and_back(store: Store) -> None:
    downgrade(store, "0001")
    migrate(store)
    check_schema(store)


def test_what_joins_a_transaction_shares_its_end(store: Store) -> None:
    def undone() -> None:
        with store.write() as session:
            session.add(Meta(key="a", value="1"))
            with store.join() as joined:
                assert joined is session
            raise RuntimeError("undo")

    with pytest.raises(RuntimeError, match="undo"):
        undone()
    with store.join() as session:
        session.add(Meta(key="b", value="2"))
    with store.read() as session:
        assert (session.get(Meta, "a"), session.get(Meta, "b") is not None) == (None, True)


def test_value_that_the_database_cannot_hold_is_the_clients_fault(store: Store) -> None:
    """PostgreSQL has no zero byte in a text; SQLite has."""

    def write() -> None:
        with store.write() as session:
            session.add(Meta(key="k", value="a\0b"))

    if not store.database.shared:
        write()
        return
    with pytest.raises(Problem) as caught:
        write()
    assert caught.value.status == 400
