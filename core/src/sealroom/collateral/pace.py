# SPDX-License-Identifier: BSD-3-Clause
"""How requests to a service are paced: one at a time, not too often, and each thing asked for once.

- `Gate` spaces the requests of all threads and processes of a machine that share a file.
- `Flights` lets many threads that want the same thing share one request.
- `Client` adds waiting after an answer that says "too many requests".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from sealroom.collateral._http import Answer, Service
from sealroom.errors import CollateralUnavailableError, Error, NetworkError

FIRST_PAUSE: Final = 10.0
"""Seconds to wait after the first "too many requests" that does not say how long."""
LONGEST_PAUSE: Final = 30.0
"""Seconds up to which that doubles."""
PATIENCE: Final = 120.0
"""Seconds after which a request is given up, waiting included."""
_MAX_AHEAD: Final = 2 * 3600.0
"""A turn further ahead than this was written under another clock."""
_BUSY: Final = frozenset({429, 503})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as pacing sees it; tests give another."""

    now: Callable[[], float] = time.time
    """Seconds since the epoch: the one clock that processes share."""
    wait: Callable[[float], None] = time.sleep
    """Wait for some seconds."""


class Gate:
    """Gives out turns, at least `interval` seconds apart.

    The next free turn is a number in a file, taken under a lock that is never held while waiting. A process
    that is killed while it waits leaves its turn unused, nothing else. Where the file cannot be written, the
    turns of this object's threads are spaced all the same.

    Args:
        path: The file; None spaces the threads that share this object only.
        interval: Seconds from one turn to the next.
        clock: Time and waiting.
    """

    def __init__(self, path: Path | None, interval: float, clock: Clock) -> None:
        self._path = path
        self._interval = interval
        self._clock = clock
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, until: float) -> float:
        """Wait for a turn and return its time.

        Args:
            until: Time after which the turn is of no use.

        Raises:
            NetworkError: There is no turn before `until`.
        """
        with self._state() as state:
            now = self._clock.now()
            turn = max(now, state.next_free(now))
            if turn > until:
                raise NetworkError(
                    f"Too many requests are waiting; the next turn is in {turn - now:.0f} seconds.",
                    advice="Try again later.",
                )
            state.set(turn + self._interval)
        if turn > now:
            self._clock.wait(turn - now)
        return turn

    def give_back(self, turn: float) -> None:
        """Give a turn back that was not used, if nobody has taken one after it."""
        with self._state() as state:
            if abs(state.next_free(turn) - (turn + self._interval)) < 0.001:
                state.set(turn)

    def defer(self, seconds: float) -> None:
        """Let nobody have a turn for some seconds."""
        with self._state() as state:
            now = self._clock.now()
            state.set(max(now + seconds, state.next_free(now)))

    @contextlib.contextmanager
    def _state(self) -> Iterator[_State]:
        with self._lock:
            descriptor = self._open()
            try:
                yield _State(self, descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    def _open(self) -> int | None:
        if self._path is None:
            return None
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o644)
        except OSError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor


class _State:
    """The next free turn, while the lock on it is held."""

    def __init__(self, gate: Gate, descriptor: int | None) -> None:
        self._gate = gate
        self._descriptor = descriptor

    def next_free(self, now: float) -> float:
        shared = 0.0
        if self._descriptor is not None:
            raw = os.pread(self._descriptor, 64, 0)
            try:
                shared = float(raw) if raw else 0.0
            except ValueError:
                # Whoever wrote it was killed while writing: somebody may have had a turn just now.
                shared = now + self._gate._interval  # noqa: SLF001 - the gate's other half
        ahead = max(shared, self._gate._next)  # noqa: SLF001
        return ahead if ahead <= now + _MAX_AHEAD else now

    def set(self, value: float) -> None:
        self._gate._next = value  # noqa: SLF001
        if self._descriptor is not None:
            # A full disk does not matter: this process remembers its turns by itself.
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, f"{value:<32.3f}\n".encode(), 0)


class Flights:
    """Lets threads that want the same thing at the same time share the work for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[object]] = {}

    def share(self, key: Hashable, work: Callable[[], T]) -> T:
        """Do the work, or wait for the thread that does it and return what it got.

        Raises:
            Error: What the work raised, in every thread that waited for it.
        """
        with self._lock:
            flight = self._flights.get(key)
            leading = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leading:
            return flight.result()  # type: ignore[return-value]
        try:
            result = work()
        except BaseException as error:
            shown = error if isinstance(error, Error) else NetworkError("The request was broken off.")
            self._land(key)
            flight.set_exception(shown)
            raise
        self._land(key)
        flight.set_result(result)
        return result

    def _land(self, key: Hashable) -> None:
        with self._lock:
            del self._flights[key]


class Client:
    """Asks a service at its own pace, and waits when it says that it is busy.

    Args:
        service: The service.
        gate: Gives out turns.
        clock: Time and waiting.
        patience: Seconds after which a request is given up, waiting included.
        progress: Is told what is being waited for.
    """

    def __init__(
        self,
        service: Service,
        gate: Gate,
        clock: Clock,
        *,
        patience: float = PATIENCE,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.service: Final = service
        self._gate = gate
        self._clock = clock
        self._patience = patience
        self._progress = progress or (lambda _: None)

    def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        ready: Callable[[], T | None] = lambda: None,
    ) -> Answer | T:
        """Send a request and return the answer, whatever its status but "busy".

        Args:
            method: HTTP method.
            path: Path and query under the service's address.
            content: Body.
            headers: More headers.
            ready: Asked before each turn is used: what it returns, unless None, makes the request needless,
                for example because another process has done it.

        Raises:
            NetworkError: The service cannot be reached, or is busy for longer than our patience.
        """
        until, pause = self._clock.now() + self._patience, FIRST_PAUSE
        while True:
            found = ready()
            if found is not None:
                return found
            turn = self._gate.wait(until)
            found = ready()
            if found is not None:
                self._gate.give_back(turn)
                return found
            self._progress(f"{method} {self.service.base_url}{path}")
            answer = self.service.send(method, path, content=content, headers=headers)
            if answer.status not in _BUSY:
                return answer
            wanted = pause if answer.retry_after is None else answer.retry_after
            pause = min(2 * pause, LONGEST_PAUSE)
            if self._clock.now() + wanted > until:
                raise CollateralUnavailableError(
                    f"{self.service.what} is busy (HTTP {answer.status}).",
                    advice="Try again in some minutes; what was fetched before is in the store.",
                )
            self._progress(f"{self.service.what} is busy; waiting {wanted:.0f} seconds")
            self._gate.defer(wanted)
