# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import World
from support.brokers import world as open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A development broker in this process."""
    with open_world(tmp_path) as made:
        yield made
