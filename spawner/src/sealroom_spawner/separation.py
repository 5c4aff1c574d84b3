# SPDX-License-Identifier: BSD-3-Clause
"""What keeps one person's server apart from another's on one machine, and how to say it.

Pure but for `detect`. The work is done by `sealroom_spawner.launch`, in the server's own process.

Invariants:

- What separation there is is found out, never assumed, and said in words on the spawn page and in the log.
- A server sees of the state directory only its own home, its own run directory, the sealed datasets and the
  public part of its environment. Everything under a directory that its user cannot enter is hidden, not
  merely refused.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PRIVATE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - each server gets its own
"""Directories that anybody can write to: every server gets empty ones of its own."""


class Separation(StrEnum):
    """How servers are kept apart."""

    FILES = "files"
    """A system user of its own, and a view of the files of its own."""
    USER = "user"
    """A system user of its own."""
    NONE = "none"
    """Nothing but the login: all servers run as the system user that runs the hub."""


SENTENCES = {
    Separation.FILES: (
        "Your server runs as a system user of its own and sees only its own files, "
        "the sealed datasets and the programs it needs."
    ),
    Separation.USER: (
        "Your server runs as a system user of its own, which keeps other people's servers out of its files. "
        "It can see other files on this machine that everybody may read."
    ),
    Separation.NONE: (
        "All servers on this machine run as the same system user: a person with a server here can read "
        "another's files and memory. Share this installation only with people you trust that far, "
        "or let an administrator start it."
    ),
}
"""One statement for people for each degree of separation."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A path that a server may see although its parents are hidden."""

    path: str
    writable: bool = False


def detect() -> Separation:
    """Find out what separation this machine and this user allow, by trying it."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return Separation.NONE
    probe = subprocess.run(
        [sys.executable, "-I", "-m", "sealroom_spawner.launch", "--probe"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Separation.FILES if probe.returncode == 0 else Separation.USER


def hidden_directories(visible: Iterable[Path]) -> list[Path]:
    """Return the directories to cover so that the visible paths can be shown alone.

    Args:
        visible: Real (resolved) paths that the server needs.

    Returns:
        The private directories and, for each path, its topmost parent that other users cannot enter; none
        lies inside another.
    """
    chosen = {path for path in PRIVATE if path.is_dir()}
    for path in visible:
        for parent in reversed(path.parents):
            if not _others_may_enter(parent):
                chosen.add(parent)
                break
    return sorted(path for path in chosen if not any(other in path.parents for other in chosen))


def inside(path: Path, directories: Sequence[Path]) -> bool:
    """Tell whether the path lies in one of the directories (or is one)."""
    return any(directory == path or directory in path.parents for directory in directories)


def _others_may_enter(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)
