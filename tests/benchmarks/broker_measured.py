# SPDX-License-Identifier: BSD-3-Clause
"""The broker's own program, with a count of the CPU time that each request costs it.

`broker_measured.py RESULT <the broker's own arguments>` runs the broker. What is counted for a request is the
CPU time of the event loop's thread while it parses and serves it, and that of the worker threads that it is
handed to; waiting costs nothing. What the loop itself needs between requests is in none of them, but in the
process's own CPU time, which the caller can look at. SIGUSR1 forgets what was counted; at the broker's end
the newest samples are written to RESULT as JSON.
"""

from __future__ import annotations

import array
import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from sealroom_broker import __main__, listen, serve, web
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

KEPT = 20_000
"""Samples of one call that are kept, the newest ones; as many from the start, so that memory stays flat."""
FIRST, LAST = "auth", "release"
"""The calls that a handshake with headers begins and ends with."""
WHOLE = "handshake and headers"


class Samples:
    """CPU times in seconds."""

    def __init__(self) -> None:
        self._values = array.array("d", bytes(8 * KEPT))
        self._count = 0

    def add(self, value: float) -> None:
        self._values[self._count % KEPT] = value
        self._count += 1

    def clear(self) -> None:
        self._count = 0

    def values(self) -> list[float]:
        return list(self._values[: min(self._count, KEPT)])


class Spent:
    """CPU time of what is going on in one connection."""

    def __init__(self) -> None:
        self.request = 0.0
        self.handshake = 0.0
        self.worker = 0.0


class Meter:
    """Counts."""

    def __init__(self) -> None:
        self.calls: dict[str, Samples] = {}

    def add(self, call: str, seconds: float) -> None:
        self.calls.setdefault(call, Samples()).add(seconds)

    def clear(self, *_: object) -> None:
        for samples in self.calls.values():
            samples.clear()

    def write(self, path: Path) -> None:
        found = {call: samples.values() for call, samples in self.calls.items()}
        path.write_text(json.dumps({call: values for call, values in found.items() if values}))


class Measured:
    """An ASGI application whose requests are counted.

    Args:
        app: The application.
        meter: Where they are counted.
        result: What is written at the end.
    """

    def __init__(self, app: ASGIApp, meter: Meter, result: Path) -> None:
        self._app, self._meter, self._result = app, meter, result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._meter.write(self._result)
            return
        spent = _spent_of(receive)
        await _Timed(self._app(scope, receive, send), spent)
        self._note(scope, spent)

    def _note(self, scope: Scope, spent: Spent) -> None:
        call = getattr(scope.get("endpoint"), "__name__", "none")
        seconds, spent.request = spent.request + spent.worker, 0.0
        spent.worker = 0.0
        spent.handshake = seconds if call == FIRST else spent.handshake + seconds
        self._meter.add(call, seconds)
        if call == LAST:
            self._meter.add(WHOLE, spent.handshake)


class _Timed:
    """Awaits a coroutine and counts the CPU time of its steps."""

    def __init__(self, coroutine: Coroutine[Any, Any, None] | Any, spent: Spent) -> None:
        self._steps, self._spent = coroutine.__await__(), spent

    def __await__(self) -> Generator[Any, Any, None]:
        step, value = self._steps.send, None
        while True:
            begun = time.thread_time()
            _CURRENT.append(self._spent)
            try:
                waited_for = step(value)
            except StopIteration:
                return
            finally:
                _CURRENT.pop()
                self._spent.request += time.thread_time() - begun
            try:
                step, value = self._steps.send, (yield waited_for)
            except BaseException as error:  # noqa: BLE001 - handed on
                step, value = self._steps.throw, error


_KEY = "benchmark.spent"
_CURRENT: list[Spent] = []
"""The request whose step the event loop runs now; none or one."""


async def _in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for Starlette's `run_in_threadpool`."""
    spent = _CURRENT[-1] if _CURRENT else Spent()

    def counted() -> Any:
        begun = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent.worker += time.thread_time() - begun

    return await run_in_threadpool(counted)


def _spent_of(receive: Any) -> Spent:
    """Return the count of the connection that a request came in on."""
    protocol = receive.__self__.transport.get_protocol()
    spent: Spent = protocol.__dict__.setdefault(_KEY, Spent())
    return spent


def _count_parsing() -> None:
    """Count the parsing of requests too, which is done before the application sees them."""
    parse = listen.PatientProtocol.data_received

    def data_received(self: listen.PatientProtocol, data: bytes) -> None:
        begun = time.thread_time()
        parse(self, data)
        self.__dict__.setdefault(_KEY, Spent()).request += time.thread_time() - begun

    listen.PatientProtocol.data_received = data_received  # type: ignore[method-assign]


def main(result: Path, arguments: list[str]) -> int:
    """Run the broker."""
    meter, make = Meter(), serve._server
    signal.signal(signal.SIGUSR1, meter.clear)
    vars(web)["run_in_threadpool"] = _in_thread
    serve._server = lambda config, app, certificate: make(config, Measured(app, meter, result), certificate)  # type: ignore[arg-type]
    _count_parsing()
    return __main__.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
