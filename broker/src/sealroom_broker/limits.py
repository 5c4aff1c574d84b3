# SPDX-License-Identifier: BSD-3-Clause
"""A bound on how many requests one client may make, and the layer that refuses more.

A client is an address. Who sends a token that the broker knows is a client of its own: requests that
strangers make from the same address, a clinic's proxy for example, cannot lock an owner out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from sealroom_broker.config import Limits
from sealroom_broker.owners import presented_digest, token_digests
from sealroom_broker.problem import Problem
from sealroom_broker.quota import Buckets, LocalBuckets, client_of
from sealroom_broker.store import Store
from sealroom_broker.web import CODES, answer, in_thread

UNLIMITED = frozenset({"/healthz", "/readyz"})
"""What watches the broker; nothing there costs more than being refused."""
_TOKENS_SECONDS = 5.0


class KnownTokens:
    """The owners' tokens by their digests, looked up at most every few seconds.

    This decides about a bucket only. Whether a token may do something is decided with each call.

    Args:
        store: The database.
        clock: Seconds that only go forward.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._seen: float | None = None

    def owner(self, authorization: str) -> str | None:
        """Return a name for the token of a header, if it is a known one.

        Raises:
            StorageError: The database cannot be read.
        """
        digest = presented_digest(authorization)
        if digest is None:
            return None
        with self._lock:
            now = self._clock()
            if digest not in self._known and (self._seen is None or now >= self._seen + _TOKENS_SECONDS):
                # A wave of wrong tokens makes one query in this time.
                self._seen = now
                self._known = token_digests(self._store)
            return digest[:32] if digest in self._known else None


class RateLimit:
    """Refuses requests (429) of a client that makes too many.

    Args:
        app: What it guards.
        limits: The rate and the burst.
        buckets: Where it is counted; in this process without it.
        tokens: Who has a bucket of their own.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        buckets: Buckets | None = None,
        tokens: KnownTokens | None = None,
    ) -> None:
        self._app = app
        self._rate = limits.rate
        self._size = float(limits.burst)
        self._buckets: Buckets = LocalBuckets() if buckets is None else buckets
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and scope.get("path") not in UNLIMITED and not await self._admit(scope):
            refusal = Problem(429, "TooManyRequests", "Too many requests; try again in a few seconds.")
            response = answer(refusal.body, refusal.status)
            response.headers["Retry-After"] = "2"
            scope[CODES] = ["rate.limit"]
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> bool:
        authorization = dict(scope.get("headers", ())).get(b"authorization", b"").decode("latin-1")
        if isinstance(self._buckets, LocalBuckets) and not authorization:
            return self._take(f"rate:{client_address(scope)}")
        return await in_thread(self._admit_in_thread, scope, authorization)

    def _admit_in_thread(self, scope: Scope, authorization: str) -> bool:
        owner = self._tokens.owner(authorization) if self._tokens is not None and authorization else None
        return self._take(f"owner:{owner}" if owner else f"rate:{client_address(scope)}")

    def _take(self, key: str) -> bool:
        return self._buckets.take(key, 1, rate=self._rate, size=self._size)


def client_address(scope: Scope) -> str:
    """Return whose request this is, for counting."""
    return client_of((scope.get("client") or ("", 0))[0])
