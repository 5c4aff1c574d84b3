# SPDX-License-Identifier: BSD-3-Clause
"""Where the test vectors are, and what their tables say."""

from __future__ import annotations

import csv
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(
    os.environ.get("SEALROOM_VECTORS") or Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
)
"""The folder of test vectors; SEALROOM_VECTORS overrides the place."""
ABSENT = f"no test vectors at {VECTORS}"
"""Why tests of vectors are skipped where the folder is absent."""

SIMULATED_NOW = datetime(2026, 11, 1, tzinfo=UTC)
"""A time at which the simulated certificates are valid, but for those that are meant not to be."""
REAL_NOW = {
    "": datetime(2026, 11, 1, tzinfo=UTC),
    "now=today": datetime(2026, 11, 1, tzinfo=UTC),
    "now>=2026-08-28": datetime(2026, 8, 29, tzinfo=UTC),
    "now>=2026-02-05": datetime(2026, 2, 6, tzinfo=UTC),
    "now in 2024-12-10..2025-12-10": datetime(2025, 6, 1, tzinfo=UTC),
    "now in 2026-08-19..2026-10-04": datetime(2026, 9, 1, tzinfo=UTC),
}
"""What the column `now` says, as a time."""


def cases(table: str, name: str) -> list[Any]:
    """Return the rows of a table as parameters of a test, or one that is skipped without the vectors.

    Args:
        table: Path of the table under the folder of vectors.
        name: Format of a parameter's id, filled from the row.
    """
    path = VECTORS / table
    if not path.is_file():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [pytest.param(row, id=name.format(**row)) for row in rows]
