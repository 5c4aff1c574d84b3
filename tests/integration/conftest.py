# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker_process import BrokerProcess, Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in for the hub's API, on a free port."""
    with Hub() as made:
        yield made


@pytest.fixture
def prepared(tmp_path: Path, hub: Hub) -> Iterator[BrokerProcess]:
    """A development broker with a state of its own that a test starts; ended by its process id."""
    made = BrokerProcess.prepare(tmp_path, hub)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def broker(prepared: BrokerProcess) -> BrokerProcess:
    """The same, started."""
    prepared.start()
    return prepared
