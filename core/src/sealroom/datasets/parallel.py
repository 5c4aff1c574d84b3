# SPDX-License-Identifier: BSD-3-Clause
"""A few threads that all readers of a process share, for work that runs without the interpreter lock.

Invariants:

- The caller works too and waits for nobody who has not begun, so work may be started from inside of work.
- When a call returns or raises, none of its work runs any more.
- No more threads work than there are processors for this process; after a fork the child makes its own.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MAX_HELPERS = 3
"""Threads beside the caller's. More would take a larger share of a busy machine than one reader should."""
_MAX_REQUESTS = 16

_T = TypeVar("_T")


class _Process:
    """What belongs to one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.helpers: ThreadPoolExecutor | None = None
        self.requests: ThreadPoolExecutor | None = None
        self.working = 0


_process = _Process()


def _after_fork() -> None:
    # The parent's threads are not here, and its lock may never be released.
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_after_fork)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each(work: Callable[[int], None], count: int, *, waiting: bool = False) -> None:
    """Call `work` with 0 to `count` - 1, in any order, in this thread and in idle ones.

    Args:
        work: What is done.
        count: How often.
        waiting: It waits for others more than it works, so processors do not matter.

    Raises:
        BaseException: What a call of `work` raised first; the rest is not begun then.
    """
    process = _process
    with process.lock:
        free = MAX_HELPERS if waiting else processors() - 1 - process.working
        process.working += 1
    job = _Job(work, count)
    helpers: list[Future[None]] = []
    try:
        for _ in range(min(free, MAX_HELPERS, count - 1)):
            helpers.append(_helpers(process).submit(job.drain))  # noqa: PERF401 - each one submitted counts
    except RuntimeError:
        # The interpreter ends: this thread does it alone.
        pass
    try:
        job.drain()
    finally:
        job.stopped = True
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        with process.lock:
            process.working -= 1
    if job.error is not None:
        raise job.error


def submit(work: Callable[[], _T]) -> Future[_T] | None:
    """Begin a request to another machine in the background; None if this cannot be done now."""
    process = _process
    with process.lock:
        if process.requests is None:
            process.requests = ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="sealroom-request")
    try:
        return process.requests.submit(work)
    except RuntimeError:
        return None


class _Job:
    __slots__ = ("_count", "_next", "_work", "error", "stopped")

    def __init__(self, work: Callable[[int], None], count: int) -> None:
        self._work = work
        self._count = count
        self._next = itertools.count()
        self.error: BaseException | None = None
        self.stopped = False

    def drain(self) -> None:
        while not self.stopped:
            index = next(self._next)
            if index >= self._count:
                return
            try:
                self._work(index)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                if self.error is None:
                    self.error = error
                self.stopped = True


def _helpers(process: _Process) -> ThreadPoolExecutor:
    with process.lock:
        if process.helpers is None:
            process.helpers = ThreadPoolExecutor(MAX_HELPERS, thread_name_prefix="sealroom-decrypt")
        return process.helpers
