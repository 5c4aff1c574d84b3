# SPDX-License-Identifier: BSD-3-Clause
"""What the board shows of the servers that somebody may see: filters, counts, ages, a table to take along.

Pure: who may see what is decided by the service, which gives the servers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from sealroom.appraisal import Tier

from sealroom_spawner.status import ServerStatus
from sealroom_spawner.tiers import badge

BOARD_SCOPE: Final = "custom:sealroom:board"
"""Scope of those who may see every server's state; with `!group=<name>` those of a group's people."""

ORDER: Final = (Tier.CONTRAINDICATED, Tier.NONE, Tier.WARNING, Tier.SIMULATED, Tier.AFFIRMING)
"""Tiers, first those that somebody should look at."""

COLUMNS: Final = (
    "person",
    "server",
    "tier",
    "tier in words",
    "reason",
    "environment",
    "proven at (UTC)",
    "age of proof (s)",
    "holds until (UTC)",
)
_MAX_TEXT: Final = 100


@dataclass(frozen=True, slots=True)
class Sight:
    """Whose servers a person may see."""

    person: str
    everybody: bool = False
    groups: frozenset[str] = frozenset()

    @classmethod
    def of(cls, person: str, scopes: Collection[str]) -> Sight:
        """Return what scopes allow; other filters than groups allow nothing."""
        prefix = f"{BOARD_SCOPE}!group="
        groups = frozenset(scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix))
        return cls(person, BOARD_SCOPE in scopes, groups)

    @property
    def others(self) -> bool:
        """Whether there may be servers of other people among them."""
        return self.everybody or bool(self.groups)

    def of_servers(
        self, servers: Sequence[ServerStatus], groups: Mapping[str, Collection[str]]
    ) -> list[ServerStatus]:
        """Return the servers that may be seen.

        Args:
            servers: All that there are.
            groups: The groups of each person; who is not in it is in none.
        """
        return [
            one
            for one in servers
            if self.everybody or one.user == self.person or self.groups & set(groups.get(one.user, ()))
        ]


@dataclass(frozen=True, slots=True)
class Filter:
    """What of the servers is asked for; empty means all."""

    text: str = ""
    """Part of a person's or a server's name."""
    tier: str = ""
    environment: str = ""

    @classmethod
    def of(cls, argument: Callable[[str], str]) -> Filter:
        """Read the query of a request; what is not understood is not asked for."""
        tier = argument("tier")
        return cls(
            argument("q").strip()[:_MAX_TEXT],
            tier if tier in set(map(str, ORDER)) else "",
            argument("environment")[:_MAX_TEXT],
        )

    def matches(self, status: ServerStatus) -> bool:
        """Tell whether a server is asked for."""
        return (
            self.text.casefold() in f"{status.user}/{status.server}".casefold()
            and self.tier in ("", status.tier)
            and self.environment in ("", status.environment)
        )

    def query(self) -> str:
        """Return the query that `of` reads, with its question mark; nothing if all are asked for."""
        fields = {"q": self.text, "tier": self.tier, "environment": self.environment}
        asked = {name: value for name, value in fields.items() if value}
        return f"?{urlencode(asked)}" if asked else ""


def arranged(servers: Sequence[ServerStatus], asked: Filter) -> list[ServerStatus]:
    """Return the servers that are asked for, first those that somebody should look at."""
    rank = {str(tier): number for number, tier in enumerate(ORDER)}
    found = [one for one in servers if asked.matches(one)]
    return sorted(found, key=lambda one: (rank.get(one.tier, -1), one.user, one.server))


@dataclass(frozen=True, slots=True)
class Count:
    """How many servers have a tier, and the share of the picture that they take."""

    tier: str
    number: int
    left: float
    width: float
    """Percent of the whole."""


def counts(servers: Sequence[ServerStatus]) -> list[Count]:
    """Return how many servers have each tier, for a bar of 100 percent; a tier that none has is left out."""
    found, left = [], 0.0
    for tier in ORDER:
        number = sum(badge(one.tier) == badge(str(tier)) for one in servers)
        if number:
            width = 100 * number / len(servers)
            found.append(Count(str(tier), number, round(left, 3), round(width, 3)))
            left += width
    return found


def environments_of(servers: Sequence[ServerStatus]) -> list[str]:
    """Return the environments that servers have proven."""
    return sorted({one.environment for one in servers if one.environment})


def proven_at(status: ServerStatus) -> float | None:
    """Return when a server proved its tier, in seconds since the epoch; None if it proved nothing."""
    return status.at if status.tier != Tier.NONE and status.until else None


def age(seconds: float) -> str:
    """Return a time span in words, with one unit: `12 s`, `3 min`, `5 h`, `2 d`."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def to_csv(servers: Sequence[ServerStatus], now: float) -> str:
    """Return the servers as a table (RFC 4180).

    Args:
        servers: Which ones, in their order.
        now: Seconds since the epoch.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in servers:
        at = proven_at(one)
        writer.writerow(
            map(
                _harmless,
                (
                    one.user,
                    one.server,
                    one.tier,
                    badge(one.tier).title,
                    one.sentence,
                    one.environment,
                    "" if at is None else _utc(at),
                    "" if at is None else str(max(0, int(now - at))),
                    "" if at is None else _utc(one.until),
                ),
            )
        )
    return out.getvalue()


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _harmless(cell: str) -> str:
    # What a server writes about itself is in here, and spreadsheets run what begins like this.
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
