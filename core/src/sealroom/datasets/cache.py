# SPDX-License-Identifier: BSD-3-Clause
"""Decrypted segments that were used lately, bounded in bytes and shared by all readers of a process."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict


class SegmentCache:
    """Least recently used segments go first; a dropped owner's segments are overwritten.

    Owners are numbers that `new_owner` gives out and that never stand for two of them.

    Args:
        capacity: Bytes; 0 keeps nothing.
    """

    def __init__(self, capacity: int = 64 << 20) -> None:
        self.capacity = capacity
        self._segments: OrderedDict[tuple[int, int], bytearray] = OrderedDict()
        self._size = 0
        # Reentrant: an owner that the garbage collector finds while the lock is held drops its segments.
        self._lock = threading.RLock()
        self._owners = itertools.count()
        _alive.add(self)

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return self._size

    def new_owner(self) -> int:
        """Return a number that no other owner has."""
        return next(self._owners)

    def get(self, owner: int, index: int) -> bytearray | None:
        """Return a segment if it is here. The caller does not change it."""
        key = (owner, index)
        with self._lock:
            segment = self._segments.get(key)
            if segment is not None:
                self._segments.move_to_end(key)
            return segment

    def put(self, owner: int, index: int, segment: bytearray) -> None:
        """Keep a segment."""
        key = (owner, index)
        with self._lock:
            if len(segment) > self.capacity or key in self._segments:
                return
            self._segments[key] = segment
            self._size += len(segment)
            while self._size > self.capacity:
                # Not overwritten: another thread may be copying from it, and nothing says it must be
                # forgotten.
                _, oldest = self._segments.popitem(last=False)
                self._size -= len(oldest)

    def drop(self, owner: int) -> None:
        """Overwrite and forget an owner's segments."""
        with self._lock:
            for key in [key for key in self._segments if key[0] == owner]:
                segment = self._segments.pop(key)
                self._size -= len(segment)
                segment[:] = bytes(len(segment))

    def renew_lock(self) -> None:
        """Forget who holds the lock: in a forked child nobody does."""
        self._lock = threading.RLock()


_alive: weakref.WeakSet[SegmentCache] = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_alive):
        one.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
