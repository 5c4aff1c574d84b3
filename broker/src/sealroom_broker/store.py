# SPDX-License-Identifier: BSD-3-Clause
"""What the broker remembers: sessions, datasets, grants, requests, releases, resources, owners' tokens.

Where processes share a database, the audit log with its evidence, the signing keys and the counters of
clients are in it too.

Invariants:

- Nothing secret is stored in clear: dataset keys, signing keys and resources are wrapped; cookies and owners'
  tokens are stored as SHA-256 (they have 122 random bits or more, so that a plain hash is enough).
- A write runs alone, also among processes: what it read is still true when it commits. A withdrawal and a
  release of one grant cannot overlap.
- A commit is durable: kill -9 loses nothing that was answered.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealroom.errors import ConfigurationError, StorageError
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    false,
)
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from sealroom_broker.config import Config, Mode
from sealroom_broker.database import Database, SqliteDatabase, database_of
from sealroom_broker.problem import bad_request

ERASE = "erase"
"""Key of `Meta` that stands as long as traces of a destroyed key may be in the database's files."""


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
    collateral: Mapped[dict[str, list[str]] | None] = mapped_column(JSON(none_as_null=True))
    policy: Mapped[str | None] = mapped_column(String(80))
    environment: Mapped[str | None] = mapped_column(String(80))
    attested: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attested_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    person_name: Mapped[str | None]
    groups: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    server: Mapped[str | None]
    email: Mapped[str | None]
    visas: Mapped[list[dict[str, str]] | None] = mapped_column(JSON(none_as_null=True))
    bound: Mapped[datetime | None] = mapped_column(UtcDateTime)
    login_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the person's login must have been presented again; one without it has ended."""

    __table_args__ = (
        Index("sessions_by_end", "attested_until"),
        Index("sessions_by_nonce", "nonce_until"),
    )


class DatasetRow(Base):
    """A registered dataset."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    owner_key: Mapped[bytes] = mapped_column(LargeBinary)
    wrapped_key: Mapped[bytes] = mapped_column(LargeBinary)
    """Empty once it was destroyed."""
    registered: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(default=1)
    keep_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the permit ends: the key is destroyed then."""
    destroyed: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its key was destroyed; None while it is there."""


class ProjectRow(Base):
    """A project that was halted once; one that never was is in its grants only."""

    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    halted: Mapped[bool]
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    reason: Mapped[str]


class GrantRow(Base):
    """A grant; withdrawn ones stay, so that people are told so."""

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int] = mapped_column(default=1)
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    subject: Mapped[str] = mapped_column(default="")
    group: Mapped[str] = mapped_column(default="")
    visa: Mapped[str] = mapped_column(default="")
    issuer: Mapped[str] = mapped_column(default="")
    """Who names the person or group, or who signs the visa."""
    purposes: Mapped[list[str]] = mapped_column(JSON)
    environments: Mapped[list[str]] = mapped_column(JSON)
    minimum: Mapped[str] = mapped_column(String(32))
    gpu: Mapped[bool] = mapped_column(default=False, server_default=false())
    starts: Mapped[datetime | None] = mapped_column(UtcDateTime)
    until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    withdrawn: Mapped[datetime | None] = mapped_column(UtcDateTime)
    servers: Mapped[int | None]
    """Most servers of one person at once."""
    outputs: Mapped[bool] = mapped_column(default=False, server_default=false())
    project: Mapped[str] = mapped_column(String(64), default="", server_default="")
    dataset_key: Mapped[bool] = mapped_column(default=False, server_default=false())


def holder_key(issuer: str, subject: str) -> str:
    """Return what a person is looked up by: one length, whatever issuer and subject are."""
    return hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()


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
    """When the session went to another attested key, or lost its place to another server of the person."""
    holder: Mapped[str] = mapped_column(String(64), server_default="")
    """Who it is of, see `holder_key`: a session is forgotten some day, and its releases are not."""

    __table_args__ = (
        Index("releases_by_session", "session", "dataset"),
        Index("releases_by_grant", "grant", "ended"),
        Index("releases_by_holder", "holder", "audit_index"),
    )


class AccessRequestRow(Base):
    """A person's request for access to a dataset, with the server that it came from as it was then."""

    __tablename__ = "access_requests"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    holder: Mapped[str] = mapped_column(String(64))
    """Who asks, see `holder_key`."""
    person: Mapped[dict[str, Any]] = mapped_column(JSON)
    purpose: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str]
    until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    session: Mapped[str] = mapped_column(String(64))
    server: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    audit_index: Mapped[int] = mapped_column(BigInteger)
    """The request's own entry of the log."""
    answer: Mapped[str] = mapped_column(default="")
    answered: Mapped[datetime | None] = mapped_column(UtcDateTime)
    answered_by: Mapped[str] = mapped_column(default="")
    grant: Mapped[str] = mapped_column(String(32), default="")

    __table_args__ = (
        Index("access_requests_by_holder", "holder", "state"),
        Index("access_requests_by_dataset", "dataset", "state"),
    )


class ResourceRow(Base):
    """A secret of the plain KBS protocol: `resource/<repository>/<type>/<tag>`."""

    __tablename__ = "resources"
    path: Mapped[str] = mapped_column(String(400), primary_key=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    minimum: Mapped[str] = mapped_column(String(32))
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class LoginRow(Base):
    """Somebody who is logged in to the pages."""

    __tablename__ = "logins"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the cookie's value."""
    until: Mapped[datetime] = mapped_column(UtcDateTime)
    issuer: Mapped[str]
    subject: Mapped[str]
    name: Mapped[str]
    roles: Mapped[list[str]] = mapped_column(JSON)


class OwnerTokenRow(Base):
    """A token for the owner's calls."""

    __tablename__ = "owner_tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    scope: Mapped[str] = mapped_column(String(16), default="owner")
    datasets: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """The only datasets that it is for; every dataset without it."""
    expires: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LogHeadRow(Base):
    """The newest checkpoint of the audit log."""

    __tablename__ = "log_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Always 1: there is one log."""
    size: Mapped[int] = mapped_column(BigInteger)
    checkpoint: Mapped[bytes] = mapped_column(LargeBinary)


class LogEntryRow(Base):
    """An entry of the audit log."""

    __tablename__ = "log_entries"
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry: Mapped[bytes] = mapped_column(LargeBinary)


class LogHashRow(Base):
    """A hash of the audit log's tree: level 0 has the leaves, each further one the roots of full tiles."""

    __tablename__ = "log_hashes"
    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class EvidenceRow(Base):
    """Evidence that entries of the log name."""

    __tablename__ = "evidence"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class SigningKeyRow(Base):
    """A key that signs EAR tokens."""

    __tablename__ = "signing_keys"
    kid: Mapped[str] = mapped_column(String(64), primary_key=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)


class BucketRow(Base):
    """How much a client has left of something."""

    __tablename__ = "buckets"
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    amount: Mapped[float] = mapped_column(Double)
    seen: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("buckets_by_time", "seen"),)


class Store:
    """The database.

    Args:
        database: The database, or the path of a SQLite file; made by `migrate` if it is not there.
    """

    def __init__(self, database: Path | Database) -> None:
        self.database: Database = SqliteDatabase(database) if isinstance(database, Path) else database
        self.engine = self.database.engine
        self._reader = self.engine.execution_options(**self.database.reading)
        self._writer = self.engine.execution_options(**self.database.writing)
        # The database's own lock is not fair: without this one, a busy broker could let a writer wait long.
        self._writing = threading.Lock()
        self._current = threading.local()

    @classmethod
    def of(cls, config: Config) -> Store:
        """Return the store that a configuration names."""
        return cls(database_of(config))

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that reads one consistent state.

        Raises:
            StorageError: The database cannot be read.
        """
        with _translated(), Session(self._reader, expire_on_commit=False) as session:
            session.connection()
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that runs alone and commits at the end, or not at all.

        Raises:
            StorageError: The database cannot be written. Where the connection broke during the commit, it may
                have happened all the same.
        """
        with (
            self._turn(),
            _translated(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            self.database.lock(session.connection())  # begins now, not at the first statement
            self._current.session = session
            try:
                yield session
            finally:
                self._current.session = None

    @contextmanager
    def join(self) -> Iterator[Session]:
        """Take part in the transaction that this thread writes in, or open one.

        Raises:
            StorageError: The database cannot be written.
        """
        session: Session | None = getattr(self._current, "session", None)
        if session is not None:
            yield session
            return
        with self.write() as session:
            yield session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=self.database.patience):
            raise StorageError("The broker's database cannot be used now (too many writers wait for it).")
        try:
            yield
        finally:
            self._writing.release()

    def erase(self) -> None:
        """Remove the traces of destroyed keys from the database's files, if there may be any.

        Raises:
            StorageError: They could not all be removed now; it can be tried again.
        """
        with self.read() as session:
            due = session.get(Meta, ERASE) is not None
        if not due:
            return
        with self._turn(), _translated():
            self.database.erase()
        with self.write() as session:
            row = session.get(Meta, ERASE)
            if row is not None:
                session.delete(row)

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
    # Without the cause: the statement, its parameters and the server's details, which quote values, stay out
    # of whatever is logged.
    try:
        yield
    except DataError:
        # What the database cannot hold, such as a zero byte in a text, comes from a client.
        raise bad_request("The request has a value that the broker cannot store.") from None
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]
        raise StorageError(f"The broker's database cannot be used now ({cause}).") from None
