# SPDX-License-Identifier: BSD-3-Clause
"""What the servers share that tests build or download once: one at a time, and only where their tools are."""

from __future__ import annotations

import fcntl
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Wait until no other process makes something in this folder, and keep others out."""
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def output(*words: str) -> str:
    """Return what a program prints; nothing if it is not here."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return ""
    return done.stdout + done.stderr


def has_go(oldest: tuple[int, int]) -> bool:
    """Tell whether Go is here, of this version or newer."""
    found = re.search(r"go(\d+)\.(\d+)", output("go", "version"))
    return found is not None and (int(found[1]), int(found[2])) >= oldest


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
