# SPDX-License-Identifier: BSD-3-Clause
"""How far to read ahead: grows step by step with a stream of reads, and not at all for others.

Several streams may go through one file at once, each is known by where its last read ended.

Invariants:

- Only a read that begins exactly where another one ended continues a stream: one that merely crosses the
  edge of a segment does not.
- The amount grows 1, 2, 4, … `LARGEST`, and never jumps. A seek begins again at 1.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

LARGEST = 16
"""Segments that are read at once for a long stream of small reads: 1 MiB."""
_STREAMS = 16


class ReadAhead:
    """Follows the reads of one file."""

    def __init__(self, largest: int = LARGEST) -> None:
        self.largest = max(1, largest)
        """Segments that one miss reads at most."""
        # End of a stream's last read -> segments that its next miss reads.
        self._streams: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        _alive.add(self)

    def begin(self, offset: int) -> int:
        """Return how many segments a read at this offset may fetch at once: 1 if it continues no stream."""
        with self._lock:
            return self._streams.pop(offset, 1)

    def end(self, offset: int, ahead: int, *, fetched: bool) -> None:
        """Note where a read has ended.

        Args:
            offset: The byte behind it.
            ahead: What `begin` said.
            fetched: Whether anything had to be fetched: only then the next amount is larger.
        """
        with self._lock:
            self._streams[offset] = min(2 * ahead, self.largest) if fetched else ahead
            if len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)

    def renew_lock(self) -> None:
        """Forget who holds the lock: in a forked child nobody does."""
        self._lock = threading.Lock()


_alive: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_alive):
        one.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
