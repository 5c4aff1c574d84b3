# SPDX-License-Identifier: BSD-3-Clause
"""Fetches ranges of an object on another machine, and the next one while the last is worked on.

Invariants:

- At most `WAITING` ranges are asked for in advance by one fetcher, and each is given out once.
- A range that was asked for in advance and failed is asked for again when it is needed: an error reaches only
  who needs the range.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future

from sealroom.datasets.parallel import submit
from sealroom.datasets.source import Source
from sealroom.errors import Error

WAITING = 2


class Fetcher:
    """Fetches ranges of one source.

    Args:
        source: Where from.
        size: Where the source ends.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._asked: OrderedDict[int, tuple[int, Future[memoryview]]] = OrderedDict()

    def ask(self, start: int, length: int) -> None:
        """Begin to fetch a range that will probably be needed."""
        self._check_process()
        with self._lock:
            if length < 1 or start in self._asked:
                return
            future = submit(lambda: self._fetch(start, length))
            if future is None:
                return
            self._asked[start] = (length, future)
            if len(self._asked) > WAITING:
                _, (_, oldest) = self._asked.popitem(last=False)
                oldest.cancel()

    def get(self, start: int, length: int) -> memoryview:
        """Return a range; less of it, but not less than one byte, if so much was asked for in advance.

        Raises:
            StorageError: It cannot be read.
            IntegrityError: The object was replaced since it was opened.
        """
        self._check_process()
        with self._lock:
            found = self._asked.pop(start, None)
        if found is None or found[1].cancel():
            return self._fetch(start, length)
        try:
            return found[1].result()[:length]
        except Error:
            return self._fetch(start, length)

    def _fetch(self, start: int, length: int) -> memoryview:
        view = self._source.view(start, length)
        if view is None:
            # Header and body in one range.
            view = memoryview(bytearray(length))
            view = view[: self._source.pread_into(start, view)]
        return view

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            # The parent's requests are not answered here, and its lock may never be released.
            self._pid, self._lock, self._asked = os.getpid(), threading.Lock(), OrderedDict()
