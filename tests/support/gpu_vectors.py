# SPDX-License-Identifier: BSD-3-Clause
"""Real GPU evidence, taken apart by hand: a third reading of the layout beside parser and simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from support.vectors import ABSENT, VECTORS

FOLDER = VECTORS / "nvidia"


@dataclass(frozen=True)
class Taken:
    """The parts of a report."""

    nonce: bytes
    responder_nonce: bytes
    measurements: tuple[bytes, ...]
    opaque: tuple[tuple[int, bytes], ...]
    signature: bytes
    rest: bytes


def take_apart(report: bytes) -> Taken:
    """Take a report apart, trusting its lengths."""
    count, record = report[41], int.from_bytes(report[42:45], "little")
    measurements = tuple(report[45 + i * 55 + 7 : 45 + (i + 1) * 55] for i in range(count))
    at = 45 + record
    responder, size = report[at : at + 32], int.from_bytes(report[at + 32 : at + 34], "little")
    at, end = at + 34, at + 34 + size
    opaque = []
    while at < end:
        kind, length = (int.from_bytes(report[at + o : at + o + 2], "little") for o in (0, 2))
        opaque.append((kind, report[at + 4 : at + 4 + length]))
        at += 4 + length
    return Taken(
        report[4:36], responder, measurements, tuple(opaque), report[end : end + 96], report[end + 96 :]
    )


def real(*names: str) -> list[object]:
    """Return vectors' names as parameters of a test, or one that is skipped without the vectors."""
    if not FOLDER.is_dir():
        return [pytest.param("", id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    return [pytest.param(name, id=name) for name in names]


def read(name: str) -> bytes:
    """Return a vector's bytes."""
    return Path(FOLDER / name).read_bytes()
