# SPDX-License-Identifier: BSD-3-Clause
"""A real PostgreSQL server for tests: on a Unix socket in a folder of its own, ended by its process id."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest

PATIENCE = 60.0
_DEBIAN = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """Return the folder with the server's programs, the newest version's."""
    found = sorted(
        (path.parent for path in _DEBIAN.glob("*/bin/postgres")), key=lambda path: float(path.parent.name)
    )
    if found:
        return found[-1]
    other = shutil.which("postgres")
    return Path(other).resolve().parent if other else None


def _missing() -> str:
    if binaries() is None:
        return "PostgreSQL is not installed: as root with apt, `make test` installs it"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"
    return ""


def _unprivileged() -> str | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


class Postgres:
    """A server with its data in a folder."""

    def __init__(self) -> None:
        # A socket's path has about 100 characters at most, so this is not in pytest's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="sealroom-pg-"))
        self._bin = binaries() or Path()
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []
        self.port = 5432  # names the socket; nothing listens on the network

    def __enter__(self) -> Self:
        if self._user is not None:
            shutil.chown(self.folder, self._user)
            self.folder.chmod(0o755)
        self._run(
            "initdb", "-D", self._data, "-U", "sealroom", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)  # at once: nobody needs the data any more
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = (
            "fsync=off",
            "listen_addresses=",
            f"unix_socket_directories={self.folder}",
            f"port={self.port}",
        )
        words = [str(self._bin / "postgres"), "-D", str(self._data)]
        for option in options:
            words += ["-c", option]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        deadline = time.monotonic() + PATIENCE
        ready = [self.program("pg_isready"), *self.options(), "-q"]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start in time"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop all its processes where they are, as a machine that hangs does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        for pid in self._children():
            os.kill(pid, signal.SIGCONT)
        self._process.send_signal(signal.SIGCONT)

    def _children(self) -> list[int]:
        assert self._process is not None
        return [
            int(pid)
            for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            .read_text()
            .split()
        ]

    def create(self) -> str:
        """Return the address of an empty database."""
        if self._free:
            return self._free.pop()
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", *self.options(), name)
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Empty a database that nobody uses any more, for the next one who needs one."""
        import psycopg  # not at the top: tests of other distributions do without it

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        self._free.append(url)

    def url(self, name: str) -> str:
        """Return a database's address."""
        return f"postgresql://sealroom@/{name}?host={quote(str(self.folder))}&port={self.port}"

    def program(self, name: str) -> str:
        """Return the path of one of its programs, `pg_dump` for example."""
        return str(self._bin / name)

    def options(self) -> list[str]:
        """Return what its programs need to find it."""
        return ["-h", str(self.folder), "-p", str(self.port), "-U", "sealroom"]

    def _run(self, program: str, *words: str | Path) -> None:
        command = [self.program(program), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, check=False, user=self._user, cwd=self.folder, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the whole run; skips, with the reason, where there can be none."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    with Postgres() as made:
        yield made
