# SPDX-License-Identifier: BSD-3-Clause
"""What the broker does by itself from time to time: it destroys the keys of datasets whose permit has ended.

Nothing here removes entries of the audit log or evidence: both stay for good, which is longer than the year
that Regulation (EU) 2025/327, Article 73(1)(e), demands of logs. Who deletes them does it by hand.

Processes that share a database all do it; the first one acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from sealroom.errors import Error

from sealroom_broker.acts import end_permits
from sealroom_broker.broker import Broker
from sealroom_broker.web import in_thread

INTERVAL: Final = 60.0
"""Seconds from one look to the next. A permit's end is decided on at once; only its key waits for a look."""

_log = logging.getLogger("sealroom_broker")


def tidy(broker: Broker) -> tuple[str, ...]:
    """Destroy the keys of ended permits, and remove traces of destroyed keys that are left.

    Returns:
        The datasets whose keys were destroyed.

    Raises:
        Error: The database or the log cannot be written; the next look tries again.
    """
    ended = end_permits(broker, broker.clock())
    broker.store.erase()
    return ended


async def keep_tidy(broker: Broker, stop: asyncio.Event, interval: float = INTERVAL) -> None:
    """Tidy at once and then again and again, until told to stop.

    Args:
        broker: The broker.
        stop: Ends this, between two looks.
        interval: Seconds between them.
    """
    while not stop.is_set():
        try:
            for dataset in await in_thread(tidy, broker):
                _log.info("the permit of %s has ended; its key was destroyed", dataset)
        except Error as error:
            _log.warning("housekeeping: %s", error)
        except Exception:  # noqa: BLE001 - a look that fails must not be the last one
            _log.exception("housekeeping failed")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)
