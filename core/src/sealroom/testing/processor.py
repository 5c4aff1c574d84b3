# SPDX-License-Identifier: BSD-3-Clause
"""A simulated processor that serves a socket in a thread, for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from sealroom.environments import Environment
from sealroom.simulated import Processor, Root
from sealroom.simulated.server import Server
from sealroom.testing.builders import ISSUED, chain, environment


@contextlib.contextmanager
def running_processor(
    path: Path,
    expected: Environment | None = None,
    *,
    root: Root | None = None,
    at: datetime = ISSUED,
    alter: Callable[[bytes], bytes] | None = None,
    request_seconds: float = 5.0,
) -> Iterator[Processor]:
    """Serve a simulated processor on a socket while the context lasts."""
    expected = expected or environment()
    processor = Processor(
        root or chain(),
        at=at,
        measurement=expected.shape().measurement_bytes[0],
        host_data=expected.host_data,
        policy=expected.guest_policy,
    )
    server = Server(processor, path, alter=alter, request_seconds=request_seconds)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield processor
    finally:
        server.stop()
        thread.join(timeout=10)
