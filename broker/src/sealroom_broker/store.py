# SPDX-License-Identifier: BSD-3-Clause
"""What the broker remembers: sessions, datasets, grants, releases, resources, owners' tokens.

Invariants:

- Nothing secret is stored in clear: dataset keys and resources are wrapped, a session's cookie and an owner's
  token are stored as SHA-256 (both have 122 random bits or more, so that a plain hash is enough).
- A write runs alone (`BEGIN IMMEDIATE`): what it read is still true when it commits. A withdrawal and a
  release of one grant cannot overlap.
- A commit is durable (`synchronous=FULL`): kill -9 loses nothing that was answered.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sealroom.errors import ConfigurationError, StorageError
from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    create_engine,
    event,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from sealroom_broker.config import Mode

_BUSY_SECONDS = 15


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone; stored in UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into naive UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("a time without a zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give a stored time its zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables."""


class Meta(Base):
    """Facts about this state."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


class SessionRow(Base):
    """A KBS session: its pending handshake, what was last proven in it, and the person bound to it."""

    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the cookie's value."""
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    tee: Mapped[str] = mapped_column(String(32))
    algorithm: Mapped[str] = mapped_column(String(16))
    nonce: Mapped[str | None] = mapped_column(String(64))
    nonce_until: Mapped[datetime] = mapped_column(UtcDateTime)

    tee_pubkey: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    token: Mapped[str | None]
    evidence: Mapped[str | None] = mapped_column(String(64))
    tier: Mapped[str | None] = mapped_column(String(32))
    simulated: Mapped[bool] = mapped_column(default=False)
    devices: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    policy: Mapped[str | None] = mapped_column(String(80))
    environment: Mapped[str | None] = mapped_column(String(80))
    attested: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attested_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    person_name: Mapped[str | None]
    groups: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    server: Mapped[str | None]
    bound: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DatasetRow(Base):
    """A registered dataset."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    owner_key: Mapped[bytes] = mapped_column(LargeBinary)
    wrapped_key: Mapped[bytes] = mapped_column(LargeBinary)
    registered: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(default=1)


class GrantRow(Base):
    """A grant; withdrawn ones stay, so that people are told so."""

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int] = mapped_column(default=1)
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    subject: Mapped[str] = mapped_column(default="")
    group: Mapped[str] = mapped_column(default="")
    purposes: Mapped[list[str]] = mapped_column(JSON)
    environments: Mapped[list[str]] = mapped_column(JSON)
    minimum: Mapped[str] = mapped_column(String(32))
    starts: Mapped[datetime | None] = mapped_column(UtcDateTime)
    until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    withdrawn: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ReleaseRow(Base):
    """Headers that were released to a session."""

    __tablename__ = "releases"
    id: Mapped[int] = mapped_column(primary_key=True)
    session: Mapped[str] = mapped_column(String(64))
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    grant: Mapped[str] = mapped_column(ForeignKey("grants.id"))
    purpose: Mapped[str]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    released: Mapped[datetime] = mapped_column(UtcDateTime)
    audit_index: Mapped[int]
    audit_leaf: Mapped[str] = mapped_column(String(64))
    ended: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the session went to another attested key."""

    __table_args__ = (Index("releases_by_session", "session", "dataset"),)


class ResourceRow(Base):
    """A secret of the plain KBS protocol: `resource/<repository>/<type>/<tag>`."""

    __tablename__ = "resources"
    path: Mapped[str] = mapped_column(String(400), primary_key=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    minimum: Mapped[str] = mapped_column(String(32))
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class OwnerTokenRow(Base):
    """A token for the owner's calls."""

    __tablename__ = "owner_tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class Store:
    """The database.

    Args:
        path: SQLite file; made by `migrate` if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.engine = _engine(path)
        # SQLite's own lock is not fair: without this one, a busy broker could let a writer wait for long.
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that reads one consistent state.

        Raises:
            StorageError: The database cannot be read.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            session.connection()
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that runs alone and commits at the end, or not at all.

        Raises:
            StorageError: The database cannot be written.
        """
        engine = self.engine.execution_options(immediate=True)
        with (
            self._writing,
            _translated(),
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection()  # begins now, not at the first statement
            yield session

    def bind_mode(self, mode: Mode) -> None:
        """Remember the mode of the first start; every later start must have the same.

        Raises:
            ConfigurationError: This state belongs to a broker of the other mode.
        """
        with self.write() as session:
            row = session.get(Meta, "mode")
            if row is None:
                session.add(Meta(key="mode", value=mode))
            elif row.value != mode:
                raise ConfigurationError(
                    f"This broker's state was made in mode {row.value}, but its configuration says {mode}.",
                    advice="Set the mode back, or start with a new database and a new log.",
                )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The statement and its parameters stay out of the message.
        cause = getattr(error, "orig", None) or type(error).__name__
        raise StorageError(f"The broker's database cannot be used now ({cause}).") from error


def _engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        hide_parameters=True,
        connect_args={"timeout": _BUSY_SECONDS},
        pool_size=8,
        max_overflow=56,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself: `_begin` says which kind.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
