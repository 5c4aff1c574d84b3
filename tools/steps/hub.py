# SPDX-License-Identifier: BSD-3-Clause
"""Start the hub in the background, find it again, and end it with all that it started.

The spawner's own modules know a process again and end exactly that one; they need nothing but Python.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from steps.console import Failure, say, tail
from steps.paths import CLONE, Paths
from steps.settings import Addresses

sys.path.insert(0, str(CLONE / "spawner" / "src"))
from sealroom_spawner import processes, records
from sealroom_spawner.processes import Process

START_SECONDS = 180
STOP_SECONDS = 90


def running(paths: Paths) -> Process | None:
    """Return the hub's process if it runs."""
    process = _read_pid(paths.home / "hub" / "hub.pid")
    return process if process is not None and processes.alive(process) else None


def start(paths: Paths, addresses: Addresses) -> None:
    """Start the hub and wait until its login page answers.

    Raises:
        Failure: It ended, or took too long.
    """
    hub = paths.home / "hub"
    log = hub / "hub.log"
    if log.exists():
        log.replace(hub / "hub.log.1")
    say("Starting the hub")
    with open(log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        child = subprocess.Popen(
            [paths.python, "-m", "jupyterhub", "-f", paths.clone / "hub_config" / "jupyterhub_config.py"],
            cwd=hub,
            env=_environment(paths),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    process = processes.find(child.pid)
    if process is not None:
        _write_pid(hub / "hub.pid", process)
    deadline = time.monotonic() + START_SECONDS
    while not (answers(addresses.login_page) and answers(addresses.broker_keys)):
        if child.poll() is not None:
            raise Failure(f"The hub ended while starting; the end of {log}:\n{tail(log)}")
        if time.monotonic() > deadline:
            asyncio.run(_end_hub(paths))
            raise Failure(f"The hub or the broker did not answer in {START_SECONDS} seconds; {log} says why.")
        time.sleep(0.5)


def stop(paths: Paths) -> bool:
    """End the hub, its services, its proxy and every server; return whether there was anything to end."""
    return asyncio.run(_stop(paths))


def recover(paths: Paths) -> None:
    """After the hub was killed: end its proxy, and the servers that its database does not know."""
    asyncio.run(_recover(paths))


def servers(paths: Paths) -> list[records.Record]:
    """Return the servers that run."""
    found = [record for _path, record in records.read_all(paths.home / "hub" / "servers")]
    return [record for record in found if any(processes.alive(process) for process in record.processes)]


def answers(url: str) -> bool:
    """Tell whether a page answers."""
    # Not through a proxy that the environment names: this is the same machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as page:
            return bool(page.status == 200)
    except (OSError, urllib.error.URLError):
        return False


async def _stop(paths: Paths) -> bool:
    found = await _end_hub(paths)
    found = await _end_proxy(paths) or found
    for path, record in records.read_all(paths.home / "hub" / "servers"):
        await _end_server(path, record)
        found = True
    return found


async def _recover(paths: Paths) -> None:
    await _end_proxy(paths)
    known = records.known_to_hub(paths.home / "hub" / "jupyterhub.sqlite")
    for path, record in records.read_all(paths.home / "hub" / "servers"):
        if record.notebook not in known or not processes.alive(record.notebook):
            await _end_server(path, record)


async def _end_hub(paths: Paths) -> bool:
    process = running(paths)
    if process is not None:
        # The hub ends its servers one after the other, so it gets time.
        await processes.end(process, patience=STOP_SECONDS)
    (paths.home / "hub" / "hub.pid").unlink(missing_ok=True)
    return process is not None


async def _end_proxy(paths: Paths) -> bool:
    file = paths.home / "hub" / "proxy.pid"
    try:
        pid = int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return False
    process = processes.find(pid)
    # The hub writes the number alone: what runs under it now must be a proxy, and older than the file.
    found = process is not None and "configurable-http-proxy" in processes.command_line(pid)
    if process is not None and found:
        await processes.end(process, patience=5)
    file.unlink(missing_ok=True)
    return found


async def _end_server(path: Path, record: records.Record) -> None:
    for process in record.processes:
        await processes.end(process, patience=10)
    if record.uid is not None:
        await processes.end_all(processes.of_user(record.uid))
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - nothing else waits here


def _environment(paths: Paths) -> dict[str, str]:
    ours = ("SEALROOM_", "JUPYTERHUB_", "JPY_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env["PATH"] = os.pathsep.join([str(paths.venv / "bin"), os.environ.get("PATH", "")])
    env["SEALROOM_HOME"] = str(paths.home)
    # The hub talks to its own parts on this machine only.
    env["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy", ""), "127.0.0.1,localhost"]))
    return env


def _read_pid(path: Path) -> Process | None:
    try:
        pid, started = path.read_text().split(maxsplit=1)
        return Process(int(pid), started.strip())
    except (OSError, ValueError):
        return None


def _write_pid(path: Path, process: Process) -> None:
    new = path.with_suffix(".new")
    new.write_text(f"{process.pid} {process.started}\n")
    new.replace(path)
