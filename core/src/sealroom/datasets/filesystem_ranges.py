# SPDX-License-Identifier: BSD-3-Clause
"""Reads ranges of files by their paths with few requests, with sizes that are remembered; see `filesystem`.

What is remembered may be of an earlier version of the dataset. So a range that reaches a file's end asks for
one byte more: should it be there, or should bytes be missing, the size is asked for again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sealroom.datasets.api import default_client
from sealroom.datasets.listing import WORKSPACE, Listing, Listings
from sealroom.errors import AccessDeniedError, Error, IntegrityError

Wanted = tuple[str, int | None, int | None]
"""A path without its protocol, and the slice of the file's bytes."""


class RangeReader:
    """Reads ranges of the files of this process's notebook server.

    Args:
        listings: Remembers names and sizes.
    """

    def __init__(self, listings: Listings) -> None:
        self._listings = listings

    def listing(self, dataset: str, *, refresh: bool = False) -> Listing:
        """Return names and sizes of a dataset's files.

        Raises:
            AccessDeniedError: The dataset is locked.
            FileNotFoundError: It is not on offer.
        """
        client = default_client()
        try:
            return self._listings.get(client, dataset, refresh=refresh or dataset == WORKSPACE)
        except AccessDeniedError:
            self._listings.forget(dataset)
            if any(info.id == dataset for info in client.datasets()):
                raise
            # An agent tells no difference between what is locked and what is not on offer.
            raise not_found(dataset) from None

    def read(self, wanted: Sequence[Wanted]) -> list[Any]:
        """Return for each range its bytes, or why it could not be read."""
        answers: list[Any] = [None] * len(wanted)
        asked: dict[str, list[_Range]] = {}
        listings: dict[str, Listing] = {}
        for number, (path, start, end) in enumerate(wanted):
            try:
                one = self._range(number, path, start, end, listings)
            except (Error, OSError) as error:
                answers[number] = error
            else:
                asked.setdefault(one.dataset, []).append(one)
        for dataset, ranges in asked.items():
            found = default_client().read_ranges(dataset, [one.asked for one in ranges])
            stale: list[_Range] = []
            for one, data in zip(ranges, found, strict=True):
                answers[one.number] = data if isinstance(data, Error) else bytes(data[: one.length])
                if isinstance(data, Error) or not one.is_whole(len(data)):
                    stale.append(one)
            if stale:
                self._listings.forget(dataset)
            for one in stale:
                if not isinstance(answers[one.number], Error):
                    answers[one.number] = self._again(*wanted[one.number])
        return answers

    def _again(self, path: str, start: int | None, end: int | None) -> Any:
        """Read a range of a file that had another size than was remembered: another version is open now."""
        try:
            one = self._range(0, path, start, end, {})
            (data,) = default_client().read_ranges(one.dataset, [one.asked])
        except (Error, OSError) as error:
            return error
        if isinstance(data, Error):
            return data
        if one.is_whole(len(data)):
            return bytes(data[: one.length])
        return IntegrityError(
            f"{path} has {one.size} bytes, and {len(data)} instead of {one.length} could be read of them.",
            advice="Unlock the dataset again.",
        )

    def _range(
        self, number: int, path: str, start: int | None, end: int | None, listings: dict[str, Listing]
    ) -> _Range:
        dataset, _, name = path.partition("/")
        if dataset not in listings:
            listings[dataset] = self.listing(dataset)
        size = listings[dataset].sizes.get(name)
        if size is None:
            if name in listings[dataset].directories:
                raise is_a_directory(path)
            raise not_found(path)
        first, last, _step = slice(start, end).indices(size)
        return _Range(number, dataset, name, first, max(0, last - first), size)


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of a file of known size."""

    number: int
    dataset: str
    name: str
    offset: int
    length: int
    size: int

    @property
    def asked(self) -> tuple[str, int, int]:
        """File, offset and length to ask for: one more byte where the file should end."""
        at_end = self.length > 0 and self.offset + self.length == self.size
        return self.name, self.offset, self.length + at_end

    def is_whole(self, got: int) -> bool:
        """Tell whether an answer of this length fits the file's size."""
        return got == self.length


def not_found(path: str) -> FileNotFoundError:
    """Return the error for what is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"sealed://{path}")


def is_a_directory(path: str) -> IsADirectoryError:
    """Return the error for a directory where a file should be."""
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"sealed://{path}")
