# SPDX-License-Identifier: BSD-3-Clause
"""The broker as an ASGI application.

The calls are at `/kbs/v0`, and again under a prefix where a hub's proxy hands requests on with the prefix in
place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sealroom.errors import Error
from sealroom.kbs.messages import PREFIX
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Router

from sealroom_broker import (
    admin_routes,
    health,
    kbs_routes,
    login,
    openapi,
    owner_pages,
    pages,
    request_routes,
    sealroom_routes,
)
from sealroom_broker.broker import Broker
from sealroom_broker.housekeeping import keep_tidy
from sealroom_broker.limits import KnownTokens, RateLimit
from sealroom_broker.metrics import Metrics
from sealroom_broker.owner_pages.errors import on_error
from sealroom_broker.problem import Problem
from sealroom_broker.web import Guard

_IDENTITY_CHECKS = 8
"""People's tokens that are checked at the same time."""


def create_app(broker: Broker, *, prefix: str = "") -> Starlette:
    """Make the application.

    Args:
        broker: What it serves; closed when the application ends.
        prefix: Path under which a proxy hands on requests, for example `/services/sealroom-broker`.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tidying = asyncio.create_task(keep_tidy(broker, stop))
        try:
            yield
        finally:
            stop.set()
            await tidying
            broker.close()

    served = routes()
    published = openapi.Published(served)
    prefix = prefix.rstrip("/")
    if prefix:
        served = [_mount(prefix, served), *served]
    limits, metrics = broker.config.limits, Metrics(broker.config.mode)
    metrics.watch(broker.store, broker.record, broker.clock)
    metrics.watch_kek(broker.wrap)
    app = Starlette(
        routes=served,
        middleware=[
            Middleware(Guard, observer=metrics),
            Middleware(RateLimit, limits=limits, buckets=broker.buckets, tokens=KnownTokens(broker.store)),
        ],
        exception_handlers={Problem: on_error, Error: on_error, HTTPException: on_error},
        lifespan=lifespan,
    )
    app.state.broker = broker
    app.state.metrics = metrics
    app.state.openapi = published
    app.state.identity_checks = asyncio.Semaphore(_IDENTITY_CHECKS)
    app.router.redirect_slashes = False
    return app


def routes() -> Sequence[BaseRoute]:
    """Return every route, without a proxy's prefix."""
    kbs = [
        _mount("/sealroom/admin", [*admin_routes.ROUTES, *request_routes.ADMIN_ROUTES]),
        _mount("/sealroom", [*sealroom_routes.ROUTES, *request_routes.ROUTES, *openapi.ROUTES]),
        *kbs_routes.ROUTES,
    ]
    return [_mount(PREFIX, kbs), *login.ROUTES, *pages.ROUTES, *owner_pages.ROUTES, *health.ROUTES]


def _mount(path: str, routes: Sequence[BaseRoute]) -> Mount:
    # A path with a slash too many is not found; a redirect would make clients send a body again.
    return Mount(path, app=Router(routes, redirect_slashes=False))
