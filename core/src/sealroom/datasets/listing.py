# SPDX-License-Identifier: BSD-3-Clause
"""Names and sizes of a dataset's files as a tree of directories, remembered for a few seconds.

What is remembered is no permission: data are asked of the notebook server each time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.messages import FileInfo

WORKSPACE = "workspace"
"""What stands in a dataset's place where results are saved. `sealroom.datasets.workspace` says so too; a
kernel that only reads need not load that."""

Entry = dict[str, Any]
"""`name` (with the dataset in front), `size` in bytes, and `type`: `file` or `directory`."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one dataset."""

    sizes: dict[str, int]
    """A file's name in the dataset -> its plaintext bytes."""
    directories: dict[str, list[Entry]]
    """A directory's name in the dataset (empty for the topmost) -> what is in it."""

    @classmethod
    def of(cls, dataset: str, files: Sequence[FileInfo]) -> Listing:
        """Build the tree of a dataset's files."""
        directories: dict[str, list[Entry]] = {"": []}
        for file in files:
            below, _, _ = file.name.rpartition("/")
            missing = []
            while below not in directories:
                missing.append(below)
                below, _, _ = below.rpartition("/")
            for name in reversed(missing):
                directories[name] = []
                directories[name.rpartition("/")[0]].append(directory_entry(f"{dataset}/{name}"))
            directories[file.name.rpartition("/")[0]].append(file_entry(f"{dataset}/{file.name}", file.size))
        return cls({file.name: file.size for file in files}, directories)


class Listings:
    """Remembers listings for a while. Safe for several threads, and in a forked child.

    Args:
        seconds: How long; 0 asks each time.
        clock: Tells seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._reset()

    def get(self, client: AgentClient, dataset: str, *, refresh: bool = False) -> Listing:
        """Return the listing of a dataset.

        Raises:
            AccessDeniedError: The dataset is locked.
            NetworkError: The notebook server does not answer.
        """
        if self._pid != os.getpid():
            # Another thread of the parent may have held the lock.
            self._reset()
        known = None if refresh else self.known(client, dataset)
        if known is not None:
            return known
        with self._lock:
            # Another thread may have asked while this one waited.
            known = None if refresh else self.known(client, dataset)
            if known is None:
                known = Listing.of(dataset, client.files(dataset))
                self._known[str(client.path), dataset] = self._clock() + self._seconds, known
            return known

    def known(self, client: AgentClient, dataset: str) -> Listing | None:
        """Return the listing if it is remembered; asks nobody."""
        until, listing = self._known.get((str(client.path), dataset), (0.0, None))
        return listing if self._clock() < until else None

    def forget(self, dataset: str | None = None) -> None:
        """Forget the listing of a dataset, or all of them."""
        for key in list(self._known):
            if dataset is None or key[1] == dataset:
                self._known.pop(key, None)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Listing]] = {}


def directory_entry(name: str) -> Entry:
    """Return what describes a directory."""
    return {"name": name, "size": 0, "type": "directory"}


def file_entry(name: str, size: int) -> Entry:
    """Return what describes a file."""
    return {"name": name, "size": size, "type": "file"}
