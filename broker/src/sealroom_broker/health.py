# SPDX-License-Identifier: BSD-3-Clause
"""What machines that watch the broker ask: does it live, can it work, and how much does it do.

`/healthz` says that the process answers; restarting it helps where it does not. `/readyz` says whether it can
do its work now; restarting does not help there, and a proxy should send requests elsewhere. Neither says more
than names to strangers: the cause is in the log.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from sealroom.errors import Error, StorageError
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import __version__
from sealroom_broker.broker import Broker
from sealroom_broker.files import read_private
from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.metrics import CONTENT_TYPE, Metrics
from sealroom_broker.problem import Problem, not_found, unavailable
from sealroom_broker.quota import free_bytes
from sealroom_broker.store import Meta
from sealroom_broker.web import answer_json, in_thread

_log = logging.getLogger(__name__)


async def healthz(request: Request) -> Response:
    """Say that the process answers."""
    if broker_of(request).stopping.is_set():
        raise unavailable("broker.stopping", "The broker is stopping.")
    return answer_json({"status": "ok", "version": __version__})


async def readyz(request: Request) -> Response:
    """Say whether the broker can do its work."""
    broker = broker_of(request)
    found = await in_thread(check, broker)
    ready = all(found.values())
    checks = {name: "ok" if good else "failed" for name, good in found.items()}
    answer: dict[str, object] = {"status": "ready" if ready else "not ready", "checks": checks}
    left = broker.wrap.ends()
    if left is not None:
        # It works now; without this nobody would know that it will not.
        end = (broker.clock() + timedelta(seconds=left)).isoformat(timespec="seconds")
        answer["ends"] = {"kek": end}
    return answer_json(answer, 200 if ready else 503)


async def metrics(request: Request) -> Response:
    """Give the counts, to whoever has the token for them."""
    settings, counts = broker_of(request).config.metrics, request.app.state.metrics
    if settings.token is None or not isinstance(counts, Metrics):
        raise not_found("Not Found")
    expected = await in_thread(read_private, settings.token, "The token for metrics")
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(presented.strip().encode("utf-8", "surrogateescape"), expected.strip())
    if scheme.lower() != "bearer" or not same or not expected.strip():
        raise Problem(
            401,
            "TokenVerificationFailed",
            "This needs the token for metrics.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Response(await in_thread(counts.text), media_type=CONTENT_TYPE)


def check(broker: Broker) -> Mapping[str, bool]:
    """Look at everything that the broker needs and return what of it is usable."""
    checks: dict[str, Callable[[Broker], None]] = {
        "stopping": _not_stopping,
        "database": _database,
        "log": _log_writable,
        "kek": _kek,
        "disk": _disk,
    }
    return {name: _passes(name, one, broker) for name, one in checks.items()}


def _passes(name: str, one: Callable[[Broker], None], broker: Broker) -> bool:
    try:
        one(broker)
    except (Error, OSError) as error:
        _log.warning("not ready: %s: %s", name, error)
        return False
    return True


def _not_stopping(broker: Broker) -> None:
    if broker.stopping.is_set():
        raise StorageError("The broker is stopping.")


def _database(broker: Broker) -> None:
    with broker.store.read() as session:
        session.get(Meta, "mode")


def _log_writable(broker: Broker) -> None:
    if broker.store.database.shared:
        with broker.store.read() as session:
            if session.scalar(text("SELECT pg_is_in_recovery()")):
                raise StorageError("The database is a standby: it cannot be written.")
    elif not os.access(broker.config.audit, os.W_OK | os.X_OK):
        raise StorageError("The audit log cannot be written.")
    broker.record.log.checkpoint()


def _kek(broker: Broker) -> None:
    broker.wrap.check()


def _disk(broker: Broker) -> None:
    folder = broker.config.keys if broker.store.database.shared else broker.config.audit
    if free_bytes(folder) < broker.config.limits.free_disk:
        raise StorageError("The disk is almost full.")


ROUTES: Sequence[BaseRoute] = (
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
)
