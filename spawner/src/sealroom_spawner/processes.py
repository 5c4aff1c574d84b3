# SPDX-License-Identifier: BSD-3-Clause
"""Know a process again, also after a restart of the hub, and end exactly that one.

Invariants:

- A process is its number, its start time and its user: a number that the system gave to somebody else is not
  it.
- Nothing is ended by name, and nothing that is not ours by these three.
- A process that has ended and waits for its parent to notice (a zombie) is not alive.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, so that it can be found again."""

    pid: int
    started: str
    """Start time as the system tells it: clock ticks since boot on Linux."""

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` reads."""
        return {"pid": self.pid, "started": self.started}

    @classmethod
    def from_json(cls, value: object) -> Process | None:
        """Read what `to_json` wrote; None if it is something else."""
        if not isinstance(value, dict):
            return None
        pid, started = value.get("pid"), value.get("started")
        if not isinstance(pid, int) or not isinstance(started, str) or pid <= 1 or not started:
            return None
        return cls(pid, started)


def find(pid: int) -> Process | None:
    """Return the living process with this number, or None."""
    started = _start_time(pid)
    return None if started is None else Process(pid, started)


def alive(process: Process) -> bool:
    """Tell whether exactly this process still runs."""
    return _start_time(process.pid) == process.started


def command_line(pid: int) -> str:
    """Return a process's command line, for a look at what it is; empty if there is no such process."""
    if PROC.joinpath("self", "stat").exists():
        try:
            return (
                PROC.joinpath(str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            return ""
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def descendants(process: Process) -> list[Process]:
    """Return the processes that descend from this one; empty where the system does not tell (no `/proc`)."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[Process] = []
    queue = [process.pid]
    while queue:
        for pid in children.get(queue.pop(), []):
            queue.append(pid)
            child = find(pid)
            if child is not None:
                found.append(child)
    return found


def of_user(uid: int) -> list[Process]:
    """Return the processes that run as this user; empty where the system does not tell."""
    found = []
    for pid, _parent in _parents():
        try:
            owner = (PROC / str(pid)).stat().st_uid
        except OSError:
            continue
        if owner == uid and (process := find(pid)) is not None:
            found.append(process)
    return found


async def end(process: Process, *, patience: float = 10.0) -> None:
    """End a process and what it started: ask first, then insist.

    Args:
        process: What to end; its process group is asked too if it leads one.
        patience: Seconds between asking and insisting.
    """
    family = descendants(process)
    _signal(process, signal.SIGTERM, group=True)
    await _gone([process], patience)
    _signal(process, signal.SIGKILL, group=True)
    for member in family:
        _signal(member, signal.SIGKILL)
    await _gone([process, *family], 5.0)


async def end_all(processes: Iterable[Process]) -> None:
    """End processes at once, without asking."""
    found = list(processes)
    for process in found:
        _signal(process, signal.SIGKILL)
    await _gone(found, 5.0)


async def _gone(processes: list[Process], patience: float) -> None:
    deadline = time.monotonic() + patience
    # Nothing tells of the end of a process that is not a child: it has to be asked for.
    while any(alive(process) for process in processes) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _signal(process: Process, number: signal.Signals, *, group: bool = False) -> None:
    if not alive(process):
        return
    try:
        if group and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _start_time(pid: int) -> str | None:
    if PROC.joinpath("self", "stat").exists():
        fields = _stat(pid)
        # proc_pid_stat(5): field 3 is the state, field 22 the start time; `fields` begins at field 3.
        return None if fields is None or fields[0] in "ZX" else fields[19]
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _stat(pid: int) -> list[str] | None:
    try:
        text = PROC.joinpath(str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in field 2 may hold spaces and parentheses: everything after the last one counts.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) >= 20 else None


def _parents() -> list[tuple[int, int]]:
    try:
        names = [entry.name for entry in PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    pairs = []
    for name in names:
        fields = _stat(int(name))
        if fields is not None:
            pairs.append((int(name), int(fields[1])))
    return pairs
