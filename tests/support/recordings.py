# SPDX-License-Identifier: BSD-3-Clause
"""Files of the test vectors, for tests that name them one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.vectors import ABSENT, VECTORS


def folder(name: str) -> Path:
    """Return a folder of the vectors; without the vectors the test skips with that reason."""
    if not VECTORS.is_dir():
        pytest.skip(ABSENT)
    found = VECTORS / name
    assert found.is_dir(), f"the vectors are there, but not {name}"
    assert any(found.iterdir()), f"the vectors are there, but {name} is empty"
    return found


def load_json(name: str, file: str) -> Any:
    """Return a parsed JSON vector."""
    return json.loads((folder(name) / file).read_text())
