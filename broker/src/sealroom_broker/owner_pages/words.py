# SPDX-License-Identifier: BSD-3-Clause
"""How times, sizes, digests, tiers and states are said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sealroom.appraisal.result import Tier
from sealroom.datasets.terms import LABELS

_STEPS: Final = (
    (timedelta(days=365), "year"),
    (timedelta(days=30), "month"),
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
)


def when(moment: datetime) -> str:
    """Say a time: `2026-11-24 12:00 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def iso(moment: datetime) -> str:
    """Return a time as the attribute of a `time` element has it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def relative(moment: datetime, now: datetime) -> str:
    """Say how far a time is from now: `in 3 days`, `5 minutes ago`, `just now`."""
    distance = abs(moment - now)
    for step, name in _STEPS:
        count = distance // step
        if count:
            words = f"{count} {name}{'s' if count > 1 else ''}"
            return f"in {words}" if moment > now else f"{words} ago"
    return "in less than a minute" if moment > now else "just now"


def size(count: int) -> str:
    """Say a number of bytes: `70.0 kB`."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def short(digest: str) -> str:
    """Shorten a digest, keeping the name of its algorithm."""
    kind, colon, value = digest.rpartition(":")
    return f"{kind}{colon}{value[:12]}\N{HORIZONTAL ELLIPSIS}" if len(value) > 16 else digest


def count(number: int, one: str, many: str = "") -> str:
    """Say a number of things: `1 grant`, `2 grants`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(items: list[str]) -> str:
    """Say a list: `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def label(code: str) -> str:
    """Return the label of a DUO code."""
    return LABELS.get(code, code)


@dataclass(frozen=True, slots=True)
class Badge:
    """Words and looks of a tier or a state. Never the colour alone says what it is."""

    title: str
    meaning: str
    css: str
    icon: str
    """Name of a drawing in the templates."""


TIERS: Final[Mapping[str, Badge]] = {
    Tier.AFFIRMING: Badge(
        "Verified TEE",
        "The server proved that it runs in a genuine confidential machine with the expected software.",
        "affirming",
        "check",
    ),
    Tier.WARNING: Badge(
        "TEE with warnings",
        "The server proved that it runs in a genuine confidential machine; something needs attention.",
        "warning",
        "triangle",
    ),
    Tier.SIMULATED: Badge(
        "Simulated TEE (not a real one)",
        "The server's proof is complete and correct, and made by a simulated processor: the operator of its "
        "machine can see everything in it.",
        "simulated",
        "flask",
    ),
    Tier.CONTRAINDICATED: Badge(
        "Not trustworthy",
        "The server's proof was checked and does not hold.",
        "contraindicated",
        "cross",
    ),
    Tier.NONE: Badge(
        "Nothing proven", "The server has not proven anything about itself.", "none", "question"
    ),
}
"""One badge a tier, in the words of the hub's pages."""


def tier(name: str) -> Badge:
    """Return the badge of a tier; a tier that nobody knows proves nothing."""
    return TIERS.get(name, TIERS[Tier.NONE])


STATES: Final[Mapping[str, Badge]] = {
    "active": Badge("Active", "It opens the dataset now.", "affirming", "check"),
    "ends_soon": Badge("Ends soon", "It opens the dataset now and ends within 14 days.", "warning", "clock"),
    "not_started": Badge("Not started", "It opens nothing before it begins.", "none", "clock"),
    "ended": Badge("Ended", "Its time is over; it opens nothing.", "none", "stop"),
    "withdrawn": Badge("Withdrawn", "It was withdrawn; it opens nothing.", "contraindicated", "cross"),
    "halted": Badge("Halted", "Its project is halted; it opens nothing.", "contraindicated", "stop"),
    "open": Badge("Open", "Nobody has answered it yet.", "warning", "question"),
    "granted": Badge("Granted", "It was answered with a grant.", "affirming", "check"),
    "refused": Badge("Refused", "It was answered with a refusal.", "contraindicated", "cross"),
    "taken_back": Badge("Taken back", "The person who asked took it back.", "none", "stop"),
    "destroyed": Badge("Key destroyed", "Nobody can open it any more.", "contraindicated", "cross"),
    "running": Badge("Running", "Its grants hold.", "affirming", "check"),
}
"""One badge a state of a grant, a request, a dataset or a project."""

KINDS: Final[Mapping[str, Badge]] = {
    "release": Badge("Release", "A dataset's headers left for an attested server.", "affirming", "check"),
    "refusal": Badge("Refusal", "Somebody was refused.", "contraindicated", "cross"),
    "registration": Badge("Registration", "An owner registered a dataset.", "none", "plus"),
    "grant": Badge("Grant", "An owner granted access.", "none", "plus"),
    "change": Badge("Change", "An owner changed a grant.", "none", "pencil"),
    "withdrawal": Badge("Withdrawal", "An owner withdrew a grant.", "warning", "stop"),
    "request": Badge("Request", "Somebody asked for access.", "none", "question"),
    "answer": Badge("Answer", "An owner answered a request.", "none", "check"),
    "halt": Badge("Halt", "An owner halted a project.", "contraindicated", "stop"),
    "resume": Badge("Resume", "An owner let a project go on.", "none", "check"),
    "destruction": Badge("Destruction", "A dataset's key was destroyed.", "contraindicated", "cross"),
    "start": Badge("Start", "The broker started.", "none", "clock"),
}
"""One badge a kind of audit entry."""


def kind(name: str) -> Badge:
    """Return the badge of a kind of entry; one that these pages do not know is named as it is."""
    return KINDS.get(name) or Badge(name.replace("_", " ").capitalize(), "", "none", "clock")
