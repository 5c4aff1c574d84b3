# SPDX-License-Identifier: BSD-3-Clause
"""What people type into forms: read, checked, and kept where something is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

MAX_LINE: Final = 400
"""Characters of a field with one line: longer than any name of a person."""
MAX_TEXT: Final = 2000
"""Characters of a field with several lines."""


@dataclass(slots=True)
class Form:
    """A form's fields, and what is wrong with them."""

    values: Mapping[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Field -> one sentence; the empty name is the form as a whole."""

    def value(self, name: str) -> str:
        """Return what stands in a field."""
        return self.values.get(name, "")

    def checked(self, name: str) -> bool:
        """Tell whether a box is ticked."""
        return bool(self.values.get(name))

    def chosen(self, prefix: str) -> tuple[str, ...]:
        """Return the names behind a prefix whose boxes are ticked."""
        return tuple(name.removeprefix(prefix) for name in self.values if name.startswith(prefix))

    def wrong(self, name: str, sentence: str) -> None:
        """Remember what is wrong with a field; the first sentence stays."""
        self.errors.setdefault(name, sentence)

    def text(self, name: str, *, missing: str = "", limit: int = MAX_LINE) -> str:
        """Return a text.

        Args:
            name: The field.
            missing: What to say if it is empty; it may be without it.
            limit: Most characters.
        """
        # Browsers send line ends of several lines as CR LF.
        value = self.value(name).replace("\r\n", "\n").strip()
        if not value and missing:
            self.wrong(name, missing)
        if len(value) > limit:
            self.wrong(name, f"This has {len(value)} characters; at most {limit} are possible.")
        if any(not char.isprintable() and char != "\n" for char in value):
            self.wrong(name, "This has a character in it that cannot be shown.")
        return value

    def number(self, name: str, *, least: int = 1, most: int = 100_000) -> int | None:
        """Return a whole number, None if the field is empty."""
        value = self.value(name)
        if not value:
            return None
        if not value.isascii() or not value.isdecimal() or not least <= int(value[:9]) <= most:
            self.wrong(name, f"Give a whole number from {least} to {most}, or nothing.")
            return None
        return int(value[:9])

    def moment(self, name: str) -> datetime | None:
        """Return a time, None if the field is empty. Without a zone it is UTC."""
        value = self.value(name)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.wrong(name, "Give a date and a time, for example 2027-01-31T12:00.")
            return None

    def take(self, error: ValidationError, names: Sequence[str] = ()) -> None:
        """Take over what a model says is wrong.

        Args:
            error: What it says.
            names: The fields that the form shows; what is about others is shown for the form as a whole.
        """
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            place = str(one["loc"][0]) if one["loc"] else ""
            message = one["msg"].removeprefix("Value error, ")
            sentence = message[:1].upper() + message[1:].rstrip(".") + "."
            shown = place in names
            self.wrong(place if shown else "", sentence if shown else f"{place}: {sentence}")


def local(moment: datetime | None) -> str:
    """Return a time as a `datetime-local` field has it, in UTC."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M}"
