# SPDX-License-Identifier: BSD-3-Clause
"""Serve simulated GPUs on a Unix socket; `sealroom.guest.devices` has the protocol."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sealroom.guest.devices import NONCE_SIZE
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.server import REQUEST_SECONDS, SocketServer, receive


class GpuServer(SocketServer):
    """Listening simulated GPUs; `serve` blocks until `stop` is called.

    Args:
        gpus: GPUs and switches, in the order in which they answer.
        path: The socket to make; a stale one is replaced, a live one is not.
        uid: Owner of the socket, if it is to be another user.
        gid: Group of the socket, if it is to be another group.
        alter: Applied to every report; demonstrations of refusals change bytes here.
        request_seconds: Time for one request.
    """

    def __init__(
        self,
        gpus: Sequence[SimulatedGpu],
        path: Path,
        *,
        uid: int | None = None,
        gid: int | None = None,
        alter: Callable[[bytes], bytes] | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._gpus = tuple(gpus)
        self._alter = alter or bytes
        super().__init__(path, uid=uid, gid=gid, request_seconds=request_seconds)

    def _answer_one(self, connection: socket.socket) -> bool:
        deadline = time.monotonic() + self._seconds
        nonce = receive(connection, NONCE_SIZE, deadline)
        if nonce is None:
            return False
        answer = bytearray(struct.pack("<I", len(self._gpus)))
        for gpu in self._gpus:
            name = f"{gpu.architecture} {gpu.uuid}".encode()
            for block in (name, self._alter(gpu.report(nonce)), gpu.chain_pem):
                answer += struct.pack("<I", len(block)) + block
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.sendall(answer)
        return True
