# SPDX-License-Identifier: BSD-3-Clause
"""Choose a port for a server that will take it seconds later."""

from __future__ import annotations

import random
import socket

# Below what systems give to outgoing connections, which would take a port between its choice and its use
# (Linux: ip_local_port_range from 32768; IANA: from 49152).
RANGE = range(20_000, 32_000)
TRIES = 1_000


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody uses now.

    Raises:
        OSError: There is none, or not at this address.
    """
    error = OSError("no port is free")
    for _ in range(TRIES):
        port = random.choice(RANGE)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            # As the server will: a port whose last connections are still winding down is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as failed:
                error = failed
            else:
                return port
    raise error
