# SPDX-License-Identifier: BSD-3-Clause
"""Targets with a fault each, to see that the harness finds it."""

from __future__ import annotations

import base64

from fuzz.engine import Target
from sealroom.errors import FormatError


def _escapes(data: bytes) -> None:
    if data.startswith(b"length"):
        base64.b64decode(data[6:], validate=True)  # Raises binascii.Error.
    raise FormatError("This is no length.")


def _deep(data: bytes) -> None:
    # Each letter is a branch: blind changes do not pass all of them, those that coverage guides do.
    if data[:1] == b"s":  # noqa: SIM102
        if data[1:2] == b"e":  # noqa: SIM102
            if data[2:3] == b"a":  # noqa: SIM102
                if data[3:4] == b"l":
                    raise KeyError("seal")
    raise FormatError("This is no seal.")


def _raw_message(data: bytes) -> None:
    error = FormatError("This is not known.")
    error.message = f"This is not known: {data.decode('latin-1')}"
    raise error


def _aborts(data: bytes) -> None:
    if data.startswith(b"abort"):
        raise SystemExit(0)
    raise FormatError("This does not end the process.")


def _fine(data: bytes) -> None:
    if data[:1] != b"{":
        raise FormatError("This is no object.")


TARGETS = {
    "escapes": Target(_escapes, lambda: [b"length", b"width"], 64),
    "deep": Target(_deep, lambda: [b"....", b"...."], 8),
    "raw-message": Target(_raw_message, lambda: [b"a"], 64),
    "aborts": Target(_aborts, lambda: [b"abor", b"abort"], 64),
    "fine": Target(_fine, lambda: [b"{}"], 64),
}
"""Targets by name; all but `fine` have a fault."""
