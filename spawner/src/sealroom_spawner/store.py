# SPDX-License-Identifier: BSD-3-Clause
"""The hub service's memory: what each server said and what was verified, durable, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealroom_spawner.status import Event, ServerStatus, Stage

MAX_EVENTS = 200
"""Events kept for one start of a server: a server that talks forever fills no disk."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS servers (
    user TEXT NOT NULL, server TEXT NOT NULL, stage TEXT NOT NULL, tier TEXT NOT NULL, sentence TEXT NOT NULL,
    environment TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (user, server)
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, user TEXT NOT NULL, server TEXT NOT NULL, stage TEXT NOT NULL,
    tier TEXT NOT NULL, sentence TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_server ON events (user, server);
"""
_INSERT = (
    "INSERT OR REPLACE INTO servers (user, server, stage, tier, sentence, environment, key, at, until) "
    "VALUES (?,?,?,?,?,?,?,?,?)"
)


class Store:
    """Servers and what happened to them.

    Args:
        path: The database file; its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(servers)")}
        if "until" not in columns:
            # Made by a version whose results had no end.
            self._connection.execute("ALTER TABLE servers ADD COLUMN until REAL NOT NULL DEFAULT 0")
        path.chmod(0o600)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def begin(self, user: str, server: str, *, at: float) -> ServerStatus:
        """Start a server anew: what it proved before says nothing about this time."""
        with self._transaction():
            self._connection.execute("DELETE FROM events WHERE user=? AND server=?", (user, server))
            self._connection.execute(
                _INSERT,
                (user, server, Stage.STARTING, "none", "The server is starting.", "", "", at, 0.0),
            )
        status = self.get(user, server)
        assert status is not None  # noqa: S101 - written above
        return status

    def record(
        self,
        user: str,
        server: str,
        event: Event,
        *,
        environment: str = "",
        key: str = "",
        until: float = 0.0,
    ) -> None:
        """Write down what happened.

        Args:
            user: The person.
            server: The server's name, empty for the default server.
            event: What happened.
            environment: The environment's name, where the event proved it.
            key: Thumbprint of the attested key, where the event proved one.
            until: When what the event proved ends, in seconds since the epoch; 0 if it proved nothing.
        """
        with self._transaction():
            self._connection.execute(
                _INSERT,
                (user, server, event.stage, event.tier, event.sentence, environment, key, event.at, until),
            )
            self._connection.execute(
                "INSERT INTO events (user, server, stage, tier, sentence, at) VALUES (?,?,?,?,?,?)",
                (user, server, event.stage, event.tier, event.sentence, event.at),
            )
            self._connection.execute(
                "DELETE FROM events WHERE user=? AND server=? AND id NOT IN "
                "(SELECT id FROM events WHERE user=? AND server=? ORDER BY id DESC LIMIT ?)",
                (user, server, user, server, MAX_EVENTS),
            )

    def remove(self, user: str, server: str) -> None:
        """Forget a server: it is no more."""
        with self._transaction():
            self._connection.execute("DELETE FROM servers WHERE user=? AND server=?", (user, server))
            self._connection.execute("DELETE FROM events WHERE user=? AND server=?", (user, server))

    def get(self, user: str, server: str) -> ServerStatus | None:
        """Return one server; None if the service never heard of it."""
        found = self._servers("WHERE user=? AND server=?", user, server)
        return found[0] if found else None

    def of_user(self, user: str) -> list[ServerStatus]:
        """Return a person's servers."""
        return self._servers("WHERE user=?", user)

    def all(self) -> list[ServerStatus]:
        """Return every server."""
        return self._servers("")

    def holder_of_key(self, key: str) -> tuple[str, str] | None:
        """Return whose server proved this key; None if nobody's."""
        row = self._row("SELECT user, server FROM servers WHERE key=?", key)
        return None if row is None else (row[0], row[1])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _row(self, query: str, *values: object) -> tuple[str, ...] | None:
        row: tuple[str, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def _servers(self, where: str, *values: object) -> list[ServerStatus]:
        columns = "user, server, stage, tier, sentence, environment, at, until"
        rows = self._connection.execute(
            f"SELECT {columns} FROM servers {where} ORDER BY user, server",  # noqa: S608 - constants above
            values,
        ).fetchall()
        return [self._status(*row) for row in rows]

    def _status(
        self,
        user: str,
        server: str,
        stage: str,
        tier: str,
        sentence: str,
        environment: str,
        at: float,
        until: float,
    ) -> ServerStatus:
        events = self._events(user, server)
        return ServerStatus(user, server, Stage(stage), tier, sentence, environment, at, events, until)

    def _events(self, user: str, server: str) -> tuple[Event, ...]:
        rows = self._connection.execute(
            "SELECT stage, sentence, tier, at FROM events WHERE user=? AND server=? ORDER BY id",
            (user, server),
        ).fetchall()
        return tuple(Event(Stage(row[0]), *row[1:]) for row in rows)
