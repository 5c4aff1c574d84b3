# SPDX-License-Identifier: BSD-3-Clause
"""What all routes share: bounded bodies, answers, errors in the protocol's form, and the access log.

Invariants:

- A body is read up to a limit and within a time; more is 413 or 408.
- No token, cookie, query string or body goes into a log line or an error's text.
- Whatever goes wrong inside is a 500 with a request id; the cause is in the log only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, Protocol, TypeVar

from pydantic import BaseModel
from sealroom.errors import Error, ProtocolError, StorageError
from sealroom.kbs.messages import parse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sealroom_broker.logs import REQUEST_ID
from sealroom_broker.problem import Problem, bad_request, unavailable

_log = logging.getLogger(__name__)
_access = logging.getLogger("sealroom_broker.access")

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


_CLOSE = {"Connection": "close"}
"""The rest of a body that is not wanted is not waited for."""


async def in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run work that blocks (SQLite, cryptography) away from the event loop."""
    return await run_in_threadpool(call, *args, **kwargs)


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Read a request's body.

    Raises:
        Problem: It is longer than the limit (413), or does not arrive in time (408).
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_long(limit)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_long(limit)
                chunks.append(chunk)
    except TimeoutError:
        late = f"The request did not arrive within {seconds:g} seconds."
        raise Problem(408, "Timeout", late, headers=_CLOSE) from None
    except ClientDisconnect:
        raise bad_request("The request ended too early.") from None
    return b"".join(chunks)


def parse_body(model: type[M], body: bytes) -> M:
    """Parse a request's body.

    Raises:
        Problem: It is something else (400).
    """
    try:
        # Strict: what the document of the API does not allow is not read as something that it does.
        return parse(model, body, limit=len(body), strict=True)
    except ProtocolError as error:
        raise bad_request(error.message) from error


def answer(model: BaseModel, status: int = 200) -> Response:
    """Return a model as JSON that no cache keeps."""
    return _json(model.model_dump_json().encode(), status)


def answer_json(value: object, status: int = 200) -> Response:
    """Return a JSON value that no cache keeps."""
    return _json(json.dumps(value, separators=(",", ":")).encode(), status)


def on_problem(request: Request, error: Exception) -> Response:
    """Turn what a handler raised into an answer."""
    if isinstance(error, StorageError):
        # "Could not" is never a yes and never the client's fault.
        _log.error("storage: %s", error.message)
        error = unavailable(
            "broker.storage", "The broker could not keep its record, so nothing was done; try again."
        )
    elif isinstance(error, Error):
        _log.error("%s: %s", type(error).__name__, error.message)
        error = unavailable("broker.failed", "The broker could not do this now.")
    elif isinstance(error, HTTPException):
        names = {404: "NotFound", 405: "MethodNotAllowed"}
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else {}
        name = names.get(error.status_code, "ProtocolError")
        error = Problem(error.status_code, name, error.detail, headers=headers)
    if not isinstance(error, Problem):
        raise error
    request.scope[CODES] = [reason.code for reason in error.body.reasons]
    response = answer(error.body, error.status)
    response.headers.update(error.headers)
    if error.status == 503:
        response.headers.setdefault("Retry-After", "5")
    return response


def _allowed(request: Request) -> str:
    """Return the methods that a path has; the router names those of its first route alone."""
    scope = dict(request.scope)
    scope["root_path"] = scope.get("app_root_path", scope.get("root_path", ""))
    routes: Sequence[BaseRoute] = request.app.routes
    found: set[str] = set()
    while routes:
        mounted: Sequence[BaseRoute] = ()
        for route in routes:
            match, inner = route.matches(scope)
            if isinstance(route, Route) and match is not Match.NONE:
                found |= route.methods or set()
            elif isinstance(route, Mount) and match is Match.FULL:
                scope, mounted = {**scope, **inner}, route.routes
                break
        routes = mounted
    return ", ".join(sorted(found))


class Observer(Protocol):
    """Who is told of each request."""

    def observe(self, call: str, method: str, status: int, seconds: float, codes: Sequence[str]) -> None:
        """Take note of a request."""


class Guard:
    """Outermost layer: request ids, the access log, headers on every answer, and a 500 without the cause.

    Args:
        app: What it guards.
        observer: Who is told of each request.
    """

    def __init__(self, app: ASGIApp, observer: Observer | None = None) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.monotonic(), 0
        token = REQUEST_ID.set(request_id)

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _protected(scope, message.get("headers", ()), request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_more)
        except Exception:  # noqa: BLE001 - the last resort; the cause is logged
            _log.exception("request %s failed", request_id)
            if status == 0:
                await _internal_error(request_id)(scope, receive, send_more)
        finally:
            # The path without its query: a query may hold what must not be kept.
            self._note(scope, request_id, status, time.monotonic() - began)
            REQUEST_ID.reset(token)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        method, path, codes = scope["method"], _shown(scope["path"]), scope.get(CODES, ())
        call: str = getattr(scope.get("endpoint"), "__name__", "")
        fields = {"method": method, "path": path, "status": status, "ms": round(seconds * 1000, 1)}
        if codes:
            fields["codes"] = list(codes)
        line = "%s %s %s %d %.1fms"
        _access.info(line, request_id, method, path, status, seconds * 1000, extra={"fields": fields})
        if self._observer is not None:
            self._observer.observe(call, method, status, seconds, codes)


CODES = "sealroom.codes"
"""Key of a request's scope: the reasons that it was answered with."""

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_HSTS = (b"strict-transport-security", b"max-age=63072000")


def _protected(
    scope: Scope, headers: Iterable[tuple[bytes, bytes]], request_id: str
) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with those that protect it; a page's own stay."""
    found = list(headers)
    names = {name.lower() for name, _ in found}
    found += [one for one in _HEADERS if one[0] not in names]
    if scope.get("scheme") == "https":
        found.append(_HSTS)
    found.append((b"x-request-id", request_id.encode()))
    return found


def _shown(path: str) -> str:
    return "".join(char if char.isprintable() and char != " " else "?" for char in path[:200])


def _internal_error(request_id: str) -> Response:
    detail = f"The broker failed; its log has the cause under the request id {request_id}."
    return answer(Problem(500, "InternalError", detail).body, 500)


def _too_long(limit: int) -> Problem:
    sentence = f"The request's body is longer than the {limit} bytes that are accepted."
    return Problem(413, "TooLarge", sentence, headers=_CLOSE)


def _json(body: bytes, status: int) -> Response:
    return Response(body, status_code=status, media_type=JSONResponse.media_type)
