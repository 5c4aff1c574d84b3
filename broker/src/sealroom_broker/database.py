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

from sealroom.errors import ConfigurationError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from sealroom_broker.config import Config, Postgresql
from sealroom_broker.files import read_private

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

    def _with_password(self, _dialect: Any, _entry: Any, _args: Any, parameters: dict[str, Any]) -> None:
        assert self.settings.password is not None  # noqa: S101 - the listener is there only then
        content = read_private(self.settings.password, "The database's password")
        parameters["password"] = content.decode("utf-8", "replace").strip()

    def lock(self, connection: Connection) -> None:
        """Wait for the advisory lock of the writers."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself: `_begin` says which kind.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
