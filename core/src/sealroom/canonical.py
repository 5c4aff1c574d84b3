# SPDX-License-Identifier: BSD-3-Clause
"""Canonical JSON: one byte string for one value, so that it can be hashed and signed.

This is RFC 8785 (JCS) without its floating point part: objects, arrays, strings, integers that a double holds
exactly, `true`, `false` and `null`. A float is refused, not rounded: none of our documents has one.

Invariants:

- Equal values give equal bytes, whatever the order of their keys.
- Nothing but `sealroom.errors.FormatError` leaves `canonical_json`, whatever the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sealroom.errors import FormatError

MAX_DEPTH = 64
"""Our own bound on nesting: above any document of ours, far below the interpreter's recursion limit."""

_MAX_INTEGER = 2**53 - 1  # RFC 8785, section 3.2.2.3 with ECMA-262: beyond it a double is not exact.


def canonical_json(value: object) -> bytes:
    """Return the canonical UTF-8 bytes of a JSON value.

    Args:
        value: What `json.loads` gives: mappings with string keys, sequences, strings, integers, booleans,
            None.

    Raises:
        FormatError: The value has a float, an integer beyond 2^53-1, a lone surrogate, a key that is no
            string or another type in it, or is nested too deeply.
    """
    ordered = _ordered(value, 0)
    text = json.dumps(ordered, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError("A string has a lone surrogate, which has no canonical form.") from error


def _ordered(value: object, depth: int) -> Any:
    """Copy the value with every object's keys in the order of RFC 8785, section 3.2.3 (UTF-16 code units)."""
    if depth > MAX_DEPTH:
        raise FormatError(f"The JSON value is nested more than {MAX_DEPTH} levels deep.")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise FormatError("An integer beyond 2^53-1 has no canonical form.")
        return value
    if isinstance(value, Mapping):
        return {key: _ordered(value[key], depth + 1) for key in sorted(value, key=_utf16)}
    if isinstance(value, list | tuple):
        return [_ordered(item, depth + 1) for item in value]
    raise FormatError(f"A {type(value).__name__} has no canonical JSON form.")


def _utf16(key: object) -> bytes:
    if not isinstance(key, str):
        raise FormatError("A key of a JSON object is not a string.")
    return key.encode("utf-16-be", "surrogatepass")
