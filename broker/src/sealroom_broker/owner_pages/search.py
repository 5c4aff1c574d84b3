# SPDX-License-Identifier: BSD-3-Clause
"""Search in the audit log, from the newest entry back.

A search looks at a bounded number of entries and says where it stopped: the log may have millions, and has no
index but its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, get_args

from sealroom.audit.entry import AuditEntry, Kind
from sealroom.audit.tlog import TILE_WIDTH
from sealroom.errors import Error

from sealroom_broker.audit import AuditLog

KINDS: Final[tuple[str, ...]] = get_args(Kind)
PAGE: Final = 50
BUDGET: Final = 50_000
"""Entries that one search looks at."""
_FIELDS: Final = ("person", "dataset", "kind", "text", "since", "until")


@dataclass(frozen=True, slots=True)
class Found:
    """An entry with its place in the log."""

    index: int
    entry: AuditEntry | None
    """None: bytes that this program cannot read; a list of everything says so."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for. Everything given must fit."""

    person: str = ""
    """Part of a person's name, subject or issuer, or of an actor's name."""
    dataset: str = ""
    kind: str = ""
    text: str = ""
    """Part of the entry: of a value, or the name of a field."""
    since: datetime | None = None
    until: datetime | None = None
    """Before this time."""
    before: int | None = None
    """Only entries with a smaller index."""
    errors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Search:
        """Read a query; what is wrong with it is in `errors`."""
        errors: dict[str, str] = {}
        texts = {name: query.get(name, "").strip()[:200] for name in ("person", "dataset", "kind", "text")}
        if texts["kind"] and texts["kind"] not in KINDS:
            errors["kind"] = "There is no such kind of entry."
        days = {name: _day(query.get(name, ""), name, errors) for name in ("since", "until")}
        if days["until"] is not None:
            # The day that somebody names belongs to what they look for.
            days["until"] += timedelta(days=1)
        before = query.get("before", "").strip()
        if before and not (before.isascii() and before.isdecimal() and len(before) < 16):
            errors["before"] = "Give the number of an entry."
            before = ""
        return cls(
            **texts,
            since=days["since"],
            until=days["until"],
            before=int(before) if before else None,
            errors=errors,
        )

    @property
    def narrow(self) -> bool:
        """Whether it is narrower than everything."""
        return any(getattr(self, name) for name in _FIELDS)

    def fits(self, data: bytes) -> AuditEntry | bool | None:
        """Return the entry if it fits, None if it cannot be read, False if it does not fit."""
        raw = data.decode("utf-8", "replace").lower()
        # Cheap first: most entries of a narrow search end here, before they are parsed.
        if any(word not in raw for word in self._words()):
            return False
        try:
            entry = AuditEntry.from_bytes(data)
        except Error:
            return None if not self.narrow else False
        return entry if all(test(entry) for test in self._tests()) else False

    def _words(self) -> Iterator[str]:
        for text in (self.person, self.dataset, self.kind, self.text):
            if text:
                yield json.dumps(text.lower(), ensure_ascii=False)[1:-1]

    def _tests(self) -> Iterator[Callable[[AuditEntry], bool]]:
        if self.kind:
            yield lambda entry: entry.kind == self.kind
        if self.dataset:
            yield lambda entry: entry.dataset == self.dataset
        if self.person:
            yield lambda entry: any(self.person.lower() in name.lower() for name in _names(entry))
        if self.since is not None:
            yield lambda entry: self.since is not None and entry.time >= self.since
        if self.until is not None:
            yield lambda entry: self.until is not None and entry.time < self.until


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found."""

    entries: tuple[Found, ...]
    """The newest first."""
    looked: int
    """How many entries it looked at."""
    older: int | None
    """Where to go on, as `Search.before`; None at the begin of the log."""


def search(log: AuditLog, wanted: Search, *, limit: int = PAGE, budget: int = BUDGET) -> Result:
    """Search from the newest entry back.

    Args:
        log: The log.
        wanted: What is looked for.
        limit: Most entries to return.
        budget: Most entries to look at.
    """
    size = log.size
    end = size if wanted.before is None else min(wanted.before, size)
    found: list[Found] = []
    last = end
    for index, data in _backwards(log, end, max(0, end - budget)):
        last = index
        entry = wanted.fits(data)
        if not isinstance(entry, bool):
            found.append(Found(index, entry))
            if len(found) == limit:
                break
    return Result(tuple(found), end - last, last if last > 0 else None)


def _backwards(log: AuditLog, end: int, start: int) -> Iterator[tuple[int, bytes]]:
    while end > start:
        first = max(start, (end - 1) // TILE_WIDTH * TILE_WIDTH)
        yield from reversed(list(log.entries(first, end)))
        end = first


def _names(entry: AuditEntry) -> Iterator[str]:
    yield entry.actor
    if entry.person is not None:
        yield from (entry.person.name, entry.person.subject, entry.person.issuer)


def _day(text: str, name: str, errors: dict[str, str]) -> datetime | None:
    if not text.strip():
        return None
    try:
        day = date.fromisoformat(text.strip())
        if not 1970 <= day.year < 9999:
            raise ValueError("out of range")
    except ValueError:
        errors[name] = "Give a date, for example 2027-01-31."
        return None
    return datetime.combine(day, time(), UTC)
