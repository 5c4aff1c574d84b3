# SPDX-License-Identifier: BSD-3-Clause
"""The hub's side of `sealroom_spawner.launch`: start a process that waits for its order, and give it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sealroom_spawner import processes
from sealroom_spawner.launch import LaunchError, Order
from sealroom_spawner.processes import Process

TAKEOVER_SECONDS = 60.0
"""Longest time from the order to the server's first own step."""


async def start(order: Order, *, log: Path, write_down: Callable[[Process], None]) -> subprocess.Popen[bytes]:
    """Start a process and wait until it has become what was ordered.

    Args:
        order: What to start.
        log: Where its output goes; begun anew, readable by the hub only.
        write_down: Called with the process before it is given its order: until then it does nothing, and
            if the hub dies it ends by itself. So there is no process that is not written down.

    Raises:
        LaunchError: It did not become what was ordered; the message says why.
    """
    ours, theirs = socket.socketpair()
    child = _waiting(theirs, log)
    try:
        with ours:
            process = processes.find(child.pid)
            if process is None:
                raise LaunchError(f"The process ended at once; {log} says why.")
            write_down(process)
            answer = await asyncio.wait_for(_exchange(ours, order), TAKEOVER_SECONDS)
        if answer:
            raise LaunchError(answer.decode(errors="replace"))
    except BaseException as error:
        child.kill()
        child.wait()
        if isinstance(error, OSError):
            raise LaunchError(f"The process did not take its order; {log} says why.") from error
        raise
    return child


def _waiting(connection: socket.socket, log: Path) -> subprocess.Popen[bytes]:
    with connection, open(log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "sealroom_spawner.launch", str(connection.fileno())],
            pass_fds=[connection.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Not ended with the hub: a server outlives the hub's restart.
            start_new_session=True,
            cwd="/",
            env={},
        )


async def _exchange(connection: socket.socket, order: Order) -> bytes:
    """Give the order; return what comes back until the other side closes: nothing when all is well."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    await loop.sock_sendall(connection, order.to_json())
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while part := await loop.sock_recv(connection, 4096):
        answer += part
    return answer
