# SPDX-License-Identifier: BSD-3-Clause
"""Where a server's files are, and which of the machine's it may see."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from sealroom.errors import ConfigurationError, StorageError

from sealroom_spawner.launch import Order
from sealroom_spawner.records import slug
from sealroom_spawner.separation import hidden_directories, inside

MAX_SOCKET_PATH = 100
"""Unix sockets have short paths (107 bytes on Linux): refused here with a sentence."""

PACKAGES = ("sealroom", "sealroom_jupyter", "sealroom_spawner")
"""What a server imports of this project."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The directories of one server."""

    home: Path
    """The person's files; they stay."""
    run: Path
    """Sockets of this start; made anew each time."""
    uid: int | None

    @classmethod
    def of(cls, state: Path, user: str, server: str, uid: int | None) -> Place:
        """Return the place of a person's server in the state directory."""
        person = state / "users" / slug(user)
        run = person / "run" if not server else person / f"run-{slug(server)}"
        return cls(person / "home", run, uid)

    @property
    def processor_socket(self) -> Path:
        """Where the simulated processor answers."""
        return self.run / "sp.sock"

    @property
    def pid_file(self) -> Path:
        """Where the server writes its process id, for people; the hub never reads it."""
        return self.run / "server.pid"

    def prepare(self, *, enterable: bool) -> None:
        """Make the directories; those of the run belong to the hub until `hand_over`.

        Args:
            enterable: The server's user comes through the state directory itself, having no view of its own.

        Raises:
            ConfigurationError: The state directory's path is too long for sockets.
            StorageError: The home belongs to somebody else.
        """
        if len(os.fsencode(self.run / "agent.sock")) > MAX_SOCKET_PATH:
            raise ConfigurationError(
                f"{self.run} is too long a path for sockets.",
                advice="Set SEALROOM_HOME to a directory with a shorter path.",
            )
        person = self.home.parent
        for directory in (person.parent.parent, person.parent, person):
            directory.mkdir(mode=0o700, exist_ok=True)
            if enterable:
                directory.chmod(0o711)
        self._prepare_home()
        # Nothing of the person's runs in here while it belongs to the hub, so nothing can be planted in it.
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(mode=0o700)

    def hand_over(self) -> None:
        """Give the run directory to the server's user."""
        if self.uid is not None:
            os.chown(self.run, self.uid, self.uid, follow_symlinks=False)

    def _prepare_home(self) -> None:
        owner = os.geteuid() if self.uid is None else self.uid
        if not self.home.exists():
            # Made under another name: a home is there only when it is its person's.
            new = self.home.with_name(".home")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            if self.uid is not None:
                os.chown(new, self.uid, self.uid, follow_symlinks=False)
            new.rename(self.home)
        info = self.home.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != owner:
            raise StorageError(
                f"{self.home} belongs to system user {info.st_uid}, not {owner}.",
                advice="Start Sealroom as the user who started it first, or give the files to that user.",
            )


def kernel_directory(place: Place, *, private: bool) -> Path | None:
    """Return where the sockets between a server and its kernels go; None if every place is too long a path.

    Jupyter's default, TCP ports on the loopback address, can be listened to by every user of the machine.

    Args:
        place: The server's own directories.
        private: The server has a /tmp of its own.
    """
    directory = Path("/tmp/jupyter") if private else place.run / "j"  # noqa: S108
    # jupyter_client names them kernel-<36 characters>-ipc-<number>.
    fits = len(os.fsencode(directory / f"kernel-{'x' * 36}-ipc-5")) <= MAX_SOCKET_PATH
    return directory if fits else None


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Which files a server needs."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]


def root_certificate(state: Path) -> Path:
    """Return the development root's certificate, which servers may read."""
    return state / "simulated" / "ark.pem"


def needed(place: Place, environment: Iterable[Path], notebooks: Path | None) -> Files:
    """Return what a server needs to see: programs, sources, sealed data, its own files.

    Args:
        place: The server's own directories.
        environment: Public files of its environment.
        notebooks: The tutorials, if there are any.
    """
    state = place.home.parents[2]
    readable = [Path(sys.base_prefix), Path(sys.base_exec_prefix), Path(sys.prefix), *_sources()]
    readable += [state / "datasets", root_certificate(state), *environment]
    if notebooks is not None:
        readable.append(notebooks)
    return Files(_distinct(path for path in readable if path.exists()), (place.home, place.run))


def separated(order: Order, files: Files) -> Order:
    """Return the order with a private view of files: of what is not everybody's, the needed only."""
    hide = hidden_directories([*files.readable, *files.writable])
    show = [(str(path), False) for path in files.readable if inside(path, hide)]
    show += [(str(path), True) for path in files.writable if inside(path, hide)]
    return dataclasses.replace(order, hide=[str(path) for path in hide], show=show)


def tutorials(source: Path, home: Path) -> list[tuple[str, str]]:
    """Return the notebooks that a new home gets: source and target."""
    return [(str(path), str(home / path.name)) for path in sorted(source.glob("*.ipynb"))]


def _sources() -> list[Path]:
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent)
    return found


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return resolved paths, each once and none inside another."""
    resolved = sorted({path.resolve() for path in paths})
    return tuple(path for path in resolved if not any(other in path.parents for other in resolved))
