# SPDX-License-Identifier: BSD-3-Clause
"""A process is known again and nothing else is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sealroom_spawner import processes
from sealroom_spawner.processes import Process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def known(child: subprocess.Popen[bytes]) -> Process:
    found = processes.find(child.pid)
    assert found is not None
    return found


def test_a_running_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.alive(known(sleeper))


def test_a_recycled_number_is_not_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert not processes.alive(replace(known(sleeper), started="1"))


async def test_a_recycled_number_is_not_ended(sleeper: subprocess.Popen[bytes]) -> None:
    await processes.end(replace(known(sleeper), started="1"), patience=0.1)
    assert sleeper.poll() is None


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes.alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.alive(process)
    assert processes.find(sleeper.pid) is None


async def test_end_ends_the_process_and_its_group(sleeper: subprocess.Popen[bytes]) -> None:
    process = known(sleeper)
    await processes.end(process)
    assert not processes.alive(process)


def started(code: str) -> subprocess.Popen[bytes]:
    """Start a program that prints when it is ready."""
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)


async def test_end_insists_where_asking_does_not_help() -> None:
    child = started(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    assert child.stdout is not None
    child.stdout.read(1)
    await processes.end(known(child), patience=0.3)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.skipif(not processes.PROC.joinpath("self", "stat").exists(), reason="no /proc on this system")
async def test_end_ends_descendants_in_sessions_of_their_own() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    parent = started(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    assert parent.stdout is not None
    kernel = processes.find(int(parent.stdout.readline()))
    assert kernel is not None
    assert kernel in processes.descendants(known(parent))
    await processes.end(known(parent), patience=2)
    assert not processes.alive(kernel)
    parent.wait()
    parent.stdout.close()


async def test_end_all_ends_at_once(sleeper: subprocess.Popen[bytes]) -> None:
    await asyncio.wait_for(processes.end_all([known(sleeper)]), 10)
    assert sleeper.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        [],
        {},
        {"pid": 7},
        {"pid": "7", "started": "1"},
        {"pid": 7, "started": ""},
        {"pid": 1, "started": "1"},
    ],
)
def test_nothing_but_a_process_is_read_as_one(value: object) -> None:
    assert Process.from_json(value) is None


def test_a_process_survives_json(sleeper: subprocess.Popen[bytes]) -> None:
    assert Process.from_json(known(sleeper).to_json()) == known(sleeper)


def test_a_number_that_nobody_has_is_not_found() -> None:
    assert processes.find(2**22 + 1) is None
    assert processes.command_line(2**22 + 1) == ""


def test_the_command_line_is_shown(sleeper: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 5
    while "time.sleep(60)" not in processes.command_line(sleeper.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "time.sleep(60)" in processes.command_line(sleeper.pid)


@pytest.mark.skipif(not processes.PROC.joinpath("self", "stat").exists(), reason="no /proc on this system")
def test_processes_of_a_user_are_found() -> None:
    assert os.getpid() in [process.pid for process in processes.of_user(os.getuid())]
    assert processes.of_user(3_999_999_999) == []
