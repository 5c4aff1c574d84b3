# SPDX-License-Identifier: BSD-3-Clause
"""A bound on how many requests one client may make: a token bucket per address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from sealroom_broker.config import Limits
from sealroom_broker.problem import Problem
from sealroom_broker.web import answer

_MAX_CLIENTS = 10_000
"""How many clients are remembered; the one not seen for longest is forgotten first."""


class RateLimit:
    """Refuses requests (429) of a client that makes too many.

    Args:
        app: What it guards.
        limits: The rate and the burst.
        clock: Seconds that only go forward.
    """

    def __init__(self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._rate = limits.rate
        self._burst = float(limits.burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and not self._admit((scope.get("client") or ("", 0))[0]):
            refusal = Problem(429, "TooManyRequests", "Too many requests; try again in a few seconds.")
            response = answer(refusal.body, refusal.status)
            response.headers["Retry-After"] = "2"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, client: str) -> bool:
        now = self._clock()
        left, seen = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._rate)
        admitted = left >= 1
        self._buckets[client] = (left - 1 if admitted else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return admitted
