# SPDX-License-Identifier: BSD-3-Clause
"""Long lists, a page at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

PAGE: Final = 50
"""Rows of a page."""


@dataclass(frozen=True, slots=True)
class Slice(Generic[T]):
    """One page of a list."""

    items: Sequence[T]
    number: int
    """From 1."""
    pages: int
    total: int


def paged(items: Sequence[T], number: str, size: int = PAGE) -> Slice[T]:
    """Return one page.

    Args:
        items: The whole list.
        number: Which page, as an address has it; the nearest that there is for anything else.
        size: Rows of a page.
    """
    pages = max(1, -(-len(items) // size))
    wanted = int(number[:9]) if number.isascii() and number.isdecimal() else 1
    at = min(max(1, wanted), pages)
    return Slice(items[(at - 1) * size : at * size], at, pages, len(items))
