# SPDX-License-Identifier: BSD-3-Clause
"""In what two environments differ, for people: fields side by side, initdata line by line. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sealroom.environments import Environment, diff

from sealroom_broker.owner_pages.environment_view import policy_words

_MAX_LINES: Final = 4000
"""Lines of an initdata that are compared; comparing more would take long."""
_BODY: Final = "initdata.body"
_NAMED: Final = re.compile(r"(\w+)\[(.*)\]\.(.*)")
_LABELS: Final[Mapping[str, str]] = {
    "tee": "kind of protection",
    "guest_policy": "guest policy",
    "runtime_class": "runtime class",
    "initdata.host_data": "HOST_DATA (digest of the initdata)",
    "id_key_digest": "ID key",
    "author_key_digest": "author key",
}
_RESTS: Final[Mapping[str, str]] = {"vcpus": "vCPUs", "memory_mib": "memory (MiB)", "gpus": "GPUs"}
_KINDS: Final[Mapping[str, str]] = {"shapes": "pod shape", "images": "image"}

How = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs."""

    how: How
    label: str
    field: str
    """The field's name in the manifest."""
    old: Sequence[str]
    """What only the older one has."""
    new: Sequence[str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of initdata: in both, in the older or in the newer one alone; or where lines are left out."""

    how: Literal["same", "removed", "added", "gap"]
    old: int | None
    new: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything in which two environments differ."""

    changes: Sequence[Change]
    lines: Sequence[Line]
    too_long: bool = False
    """Whether the initdata differ and are too long to compare."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.changes or self.lines or self.too_long)


def compare(old: Environment, new: Environment) -> Comparison:
    """Compare two environments."""
    changes = [
        Change(
            _how(one.old, one.new),
            _label(one.field),
            one.field,
            _shown(one.field, one.old),
            _shown(one.field, one.new),
        )
        for one in diff(old, new)
        if one.field != _BODY
    ]
    bodies = [one.initdata.body.splitlines() if one.initdata else [] for one in (old, new)]
    before, after = bodies
    if before == after:
        return Comparison(changes, ())
    if max(map(len, bodies)) > _MAX_LINES:
        return Comparison(changes, (), too_long=True)
    return Comparison(changes, line_diff(before, after))


def line_diff(before: Sequence[str], after: Sequence[str], context: int = 3) -> list[Line]:
    """Return the lines that differ, with some that do not around them."""
    lines: list[Line] = []
    groups = difflib.SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(context)
    for number, group in enumerate(groups):
        if number or group[0][1] or group[0][3]:
            lines.append(Line("gap", None, None, ""))
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                pairs = zip(range(old_from, old_to), range(new_from, new_to), strict=True)
                lines += [Line("same", old + 1, new + 1, before[old]) for old, new in pairs]
                continue
            lines += [Line("removed", old + 1, None, before[old]) for old in range(old_from, old_to)]
            lines += [Line("added", None, new + 1, after[new]) for new in range(new_from, new_to)]
    return lines


def _how(old: str | None, new: str | None) -> How:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"


def _label(field: str) -> str:
    match = _NAMED.fullmatch(field)
    if match is None:
        return _LABELS.get(field, field.replace("_", " ").replace(".", ", "))
    kind, name, rest = match.groups()
    return f"{_KINDS.get(kind, kind)} {name}: {_RESTS.get(rest, rest.replace('_', ' '))}"


def _shown(field: str, value: str | None) -> Sequence[str]:
    if value is None:
        return ()
    if field == "guest_policy":
        return (f"{value}: {policy_words(int(value, 16))}",)
    if field.endswith(".measurements"):
        return value.split(", ")
    return (value,)
