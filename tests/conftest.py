# SPDX-License-Identifier: BSD-3-Clause
"""What tests of every distribution share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.postgres import postgres
from support.stack import stack
from support.vectors import ABSENT, VECTORS


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Return the folder of test vectors; skip the test where it is absent, fail it where it is empty."""
    if not VECTORS.is_dir():
        pytest.skip(ABSENT)
    if not any(VECTORS.iterdir()):
        pytest.fail(f"{VECTORS} is empty: the vectors should be there and are not")
    return VECTORS


__all__ = ["postgres", "stack"]
