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
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pydantic import BaseModel
from sealroom.errors import Error, ProtocolError, StorageError
from sealroom.kbs.messages import parse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sealroom_broker.problem import Problem, bad_request, unavailable

_log = logging.getLogger(__name__)
_access = logging.getLogger("sealroom_broker.access")

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


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
        raise Problem(408, "Timeout", f"The request did not arrive within {seconds:g} seconds.") from None
    except ClientDisconnect:
        raise bad_request("The request ended too early.") from None
    return b"".join(chunks)


def parse_body(model: type[M], body: bytes) -> M:
    """Parse a request's body.

    Raises:
        Problem: It is something else (400).
    """
    try:
        return parse(model, body, limit=len(body))
    except ProtocolError as error:
        raise bad_request(error.message) from error


def answer(model: BaseModel, status: int = 200) -> Response:
    """Return a model as JSON that no cache keeps."""
    return _json(model.model_dump_json().encode(), status)


def answer_json(value: object, status: int = 200) -> Response:
    """Return a JSON value that no cache keeps."""
    return _json(json.dumps(value, separators=(",", ":")).encode(), status)


def on_problem(_request: Request, error: Exception) -> Response:
    """Turn what a handler raised into an answer."""
    if isinstance(error, StorageError):
        # "Could not" is never a yes and never the client's fault.
        _log.error("storage: %s", error.message)
        error = unavailable("broker.storage", "The broker could not keep its record, so nothing was done.")
    elif isinstance(error, Error):
        _log.error("%s: %s", type(error).__name__, error.message)
        error = unavailable("broker.failed", "The broker could not do this now.")
    elif isinstance(error, HTTPException):
        names = {404: "NotFound", 405: "MethodNotAllowed"}
        error = Problem(error.status_code, names.get(error.status_code, "ProtocolError"), error.detail)
    if not isinstance(error, Problem):
        raise error
    response = answer(error.body, error.status)
    response.headers.update(error.headers)
    return response


class Guard:
    """Outermost layer: request ids, the access log, headers on every answer, and a 500 without the cause.

    Args:
        app: What it guards.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.monotonic(), 0

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *_HEADERS,
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_more)
        except Exception:  # noqa: BLE001 - the last resort; the cause is logged
            _log.exception("request %s failed", request_id)
            if status == 0:
                await _internal_error(request_id)(scope, receive, send_more)
        finally:
            # The path without its query: a query may hold what must not be kept.
            took = (time.monotonic() - began) * 1000
            _access.info(
                "%s %s %s %d %.1fms", request_id, scope["method"], _shown(scope["path"]), status, took
            )


_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


def _shown(path: str) -> str:
    return "".join(char if char.isprintable() and char != " " else "?" for char in path[:200])


def _internal_error(request_id: str) -> Response:
    detail = f"The broker failed; its log has the cause under the request id {request_id}."
    return answer(Problem(500, "InternalError", detail).body, 500)


def _too_long(limit: int) -> Problem:
    return Problem(413, "TooLarge", f"The request's body is longer than the {limit} bytes that are accepted.")


def _json(body: bytes, status: int) -> Response:
    return Response(body, status_code=status, media_type=JSONResponse.media_type)
