# SPDX-License-Identifier: BSD-3-Clause
"""Which processes belong to which server: written down before a process does anything, so that none is lost.

The hub keeps the same in its database, but only once a server has started. A hub that is killed in between,
or a database that is older than the processes, leaves these records to end what nobody knows any more.

Standard library only: `make down` uses it without an installation.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sealroom_spawner.files import read_json, write_json
from sealroom_spawner.processes import Process

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")


def slug(name: str) -> str:
    """Return a file name for a person or server: the name itself if it is plain, else a hash of it.

    Different names give different file names: hashes begin with an underscore, plain names never do.
    """
    if _PLAIN.fullmatch(name):
        return name
    return "_" + hashlib.sha256(name.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Record:
    """The processes of one server."""

    user: str
    server: str
    uid: int | None
    """System user of the server where that is its person's own."""
    processor: Process | None = None
    notebook: Process | None = None

    @property
    def processes(self) -> list[Process]:
        """What runs, the notebook server first: it is ended first."""
        return [process for process in (self.notebook, self.processor) if process is not None]

    def write(self, directory: Path) -> None:
        """Write the record down."""
        value = {
            "user": self.user,
            "server": self.server,
            "uid": self.uid,
            "processor": None if self.processor is None else self.processor.to_json(),
            "notebook": None if self.notebook is None else self.notebook.to_json(),
        }
        write_json(path_of(directory, self.user, self.server), value)


def path_of(directory: Path, user: str, server: str) -> Path:
    """Return where the record of a server is."""
    return directory / f"{slug(user)}+{slug(server) if server else ''}.json"


def read(path: Path) -> Record | None:
    """Read one record; None if it is not there or damaged."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("user"), str):
        return None
    uid = value.get("uid")
    return Record(
        value["user"],
        str(value.get("server", "")),
        uid if isinstance(uid, int) else None,
        Process.from_json(value.get("processor")),
        Process.from_json(value.get("notebook")),
    )


def read_all(directory: Path) -> list[tuple[Path, Record]]:
    """Return every record."""
    found = [(path, read(path)) for path in sorted(directory.glob("*.json"))]
    return [(path, record) for path, record in found if record is not None]


def known_to_hub(database: Path) -> set[Process]:
    """Return the notebook servers that the hub's database says are running; empty if there is no database."""
    if not database.exists():
        return set()
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT state FROM spawners WHERE server_id IS NOT NULL").fetchall()
    except sqlite3.DatabaseError:
        return set()
    finally:
        connection.close()
    states = [json.loads(state) if state else None for (state,) in rows]
    found = [Process.from_json(state.get("notebook")) for state in states if isinstance(state, dict)]
    return {process for process in found if process is not None}
