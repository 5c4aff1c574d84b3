# SPDX-License-Identifier: BSD-3-Clause
"""Say in what two manifests differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sealroom.environments.manifest import Environment

SEPARATOR: Final = ", "
"""Between the items of a list."""
_BIT_FIELDS: Final = ("guest_policy", "artifacts.guest_features")


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs; None where a side has no such field.

    Of measurements each side has only those that the other has not.
    """

    field: str
    old: str | None
    new: str | None


def diff(old: Environment, new: Environment) -> list[Difference]:
    """Return the fields that differ, by their dotted names; shapes and images are named, not numbered."""
    before, after = dict(_flat(old)), dict(_flat(new))
    names = [*before, *(name for name in after if name not in before)]
    return [
        _difference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _difference(name: str, old: str | None, new: str | None) -> Difference:
    if not name.endswith(".measurements") or old is None or new is None:
        return Difference(name, old, new)
    # Most of a long table stays as it is: what left it and what came is what one looks for.
    before, after = old.split(SEPARATOR), new.split(SEPARATOR)
    gone = SEPARATOR.join(item for item in before if item not in after)
    come = SEPARATOR.join(item for item in after if item not in before)
    return Difference(name, gone or None, come or None) if gone or come else Difference(name, old, new)


def _flat(environment: Environment) -> Iterator[tuple[str, str]]:
    yield from _walk("", environment.model_dump(mode="json", exclude_none=True))


def _walk(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for item in value:
            yield from _walk(f"{prefix}[{item['name']}]", {k: v for k, v in item.items() if k != "name"})
    elif isinstance(value, list):
        yield prefix, SEPARATOR.join(str(item) for item in value)
    elif prefix in _BIT_FIELDS and isinstance(value, int):
        yield prefix, hex(value)
    else:
        yield prefix, str(value)
