# SPDX-License-Identifier: BSD-3-Clause
"""The two databases behind the store: a SQLite file of one process, and a PostgreSQL server of several.

Invariants, the same for both:

- A transaction that writes runs alone, from its beginning to its commit: `BEGIN IMMEDIATE` of SQLite, an
  advisory lock of PostgreSQL that ends with the transaction, so that a broker which lost its connection
  cannot commit behind another one's back.
- A transaction that reads sees one state.
- A commit is durable when it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sealroom.errors import ConfigurationError, StorageError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from sealroom_broker.config import Config, Postgresql
from sealroom_broker.files import read_private
from sealroom_broker.patience import be_patient

BUSY_SECONDS = 15.0
"""Seconds that a writer waits for the others."""
_WRITER_LOCK = 0x5EA1_0000
"""Number of PostgreSQL's advisory lock that whoever writes holds."""


class Database(Protocol):
    """What the store needs to know of a database."""

    engine: Engine
    shared: bool
    """Whether other processes of this broker use it at the same time."""
    patience: float
    """Seconds that a writer waits for the others."""
    reading: Mapping[str, Any]
    """Execution options of a transaction that reads."""
    writing: Mapping[str, Any]
    """Execution options of a transaction that writes."""

    def lock(self, connection: Connection) -> None:
        """Wait until nobody else writes; holds until the transaction ends."""

    def erase(self) -> None:
        """Remove what was deleted from the database's files, as far as the database lets us."""


def database_of(config: Config) -> Database:
    """Return the database that a configuration names, not yet connected.

    Raises:
        ConfigurationError: Its address is none, or its driver is not installed.
    """
    if config.postgresql is not None:
        return PostgresqlDatabase(config.postgresql)
    return SqliteDatabase(config.database)


class SqliteDatabase:
    """A SQLite file in WAL mode.

    Args:
        path: Where it is.
        patience: Seconds that a writer waits for another process.
    """

    shared = False
    reading: Mapping[str, Any] = {}
    writing: Mapping[str, Any] = {"immediate": True}

    def __init__(self, path: Path, patience: float | None = None) -> None:
        self.patience = BUSY_SECONDS if patience is None else patience
        self.path = path
        self.engine = create_engine(
            f"sqlite:///{path}",
            hide_parameters=True,
            connect_args={"timeout": self.patience},
            pool_size=8,
            max_overflow=56,
        )
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def lock(self, connection: Connection) -> None:
        """Do nothing: `BEGIN IMMEDIATE` is the lock."""

    def erase(self) -> None:
        """Write the file anew from what is in it, and empty the write-ahead log.

        Deleted content is overwritten anyway (`secure_delete`), but not what an older version left.

        Raises:
            StorageError: Somebody reads just now.
        """
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - SQLite's driver
            try:
                raw.execute("VACUUM").close()
                busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise StorageError(f"Traces of a key are not removed yet ({error}).") from None
        if busy:
            raise StorageError("Traces of a key are not removed yet: the database is being read.")


class PostgresqlDatabase:
    """A PostgreSQL server.

    Args:
        settings: Where it is.

    Raises:
        ConfigurationError: Its address is none, or its driver is not installed.
    """

    shared = True
    reading: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    # READ COMMITTED: the state that a writer sees is the one after it got the lock, not before.
    writing: Mapping[str, Any] = {"isolation_level": "READ COMMITTED"}

    def __init__(self, settings: Postgresql) -> None:
        self.settings = settings
        self.patience = settings.patience
        milliseconds = int(settings.patience * 1000)
        options = (
            f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds} "
            # A broker that hangs within a transaction must not hold up the others for good.
            f"-c idle_in_transaction_session_timeout={4 * milliseconds} -c timezone=UTC"
        )
        try:
            url = make_url(settings.url).set(drivername="postgresql+psycopg")
            self.engine = create_engine(
                url,
                hide_parameters=True,
                connect_args={
                    "options": options,
                    "connect_timeout": max(2, int(settings.patience)),
                    "tcp_user_timeout": milliseconds,
                    "application_name": "sealroom-broker",
                },
                pool_size=min(8, settings.connections),
                max_overflow=max(0, settings.connections - 8),
                pool_timeout=settings.patience,
                # After a restart of the server the old connections are found out and replaced.
                pool_pre_ping=True,
            )
        except (ArgumentError, ValueError) as error:
            raise ConfigurationError("postgresql.url is not the address of a database.") from error
        except ImportError as error:
            raise ConfigurationError(
                "The driver for PostgreSQL is not installed.",
                advice="Install it: pip install 'sealroom-broker[postgres]'.",
            ) from error
        if settings.password is not None:
            event.listen(self.engine, "do_connect", self._with_password)
        # A second more than the server takes to end a statement by itself.
        be_patient(self.engine, 2 * settings.patience + 1)

    def _with_password(self, _dialect: Any, _entry: Any, _args: Any, parameters: dict[str, Any]) -> None:
        assert self.settings.password is not None  # noqa: S101 - the listener is there only then
        content = read_private(self.settings.password, "The database's password")
        parameters["password"] = content.decode("utf-8", "replace").strip()

    def lock(self, connection: Connection) -> None:
        """Wait for the advisory lock of the writers."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")

    def erase(self) -> None:
        """Write the tables that had keys anew. The server's write-ahead log and its copies are not ours."""
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("VACUUM (FULL) datasets")


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself: `_begin` says which kind.
    connection.isolation_level = None
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF")
    for pragma in (*pragmas, "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
