# SPDX-License-Identifier: BSD-3-Clause
"""Times on the command line: a date, a date and time, or a span from now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

import click

_SPAN = re.compile(r"\+([1-9][0-9]{0,4})(h|d|w)")
_BACK = re.compile(r"-([1-9][0-9]{0,4})(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def future(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Read an option's time, which must be in the future."""
    if value is None:
        return None
    now = datetime.now(UTC)
    span = _SPAN.fullmatch(value)
    try:
        moment = now + timedelta(hours=int(span[1]) * _HOURS[span[2]]) if span else _absolute(value)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a date like 2027-03-31 nor a span like +30d, +12h or +2w."
        ) from None
    if moment <= now:
        raise click.BadParameter(f"{value} is not in the future.")
    return moment.replace(microsecond=0)


def past(_: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Read an option's time, or a span back from now; a date means its first second, for `until` its last."""
    if value is None:
        return None
    span = _BACK.fullmatch(value)
    try:
        if span:
            return datetime.now(UTC) - timedelta(hours=int(span[1]) * _HOURS[span[2]])
        if parameter.name != "until" and len(value) <= len("2027-03-31"):
            return datetime.fromisoformat(value).astimezone(UTC)
        return _absolute(value)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a date like 2026-11-01 nor a span like -30d, -12h or -2w."
        ) from None


def when(moment: datetime) -> str:
    """Return a time for people, in this machine's zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _absolute(text: str) -> datetime:
    """Read ISO 8601: a date means its last second; without a zone it is this machine's time."""
    moment = datetime.fromisoformat(text)
    if len(text) <= len("2027-03-31"):
        moment = datetime.combine(moment.date(), time(23, 59, 59))
    return moment.astimezone(UTC)
