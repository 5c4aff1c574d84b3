# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.collateral.kds import KdsFetcher
from sealroom.collateral.pace import Clock
from sealroom.collateral.store import Store
from sealroom.testing.services import Kds, running_kds


class FakeTime:
    """A clock that goes on only when somebody waits."""

    def __init__(self, start: datetime = testing.NOW) -> None:
        self.seconds = start.timestamp()
        self.waits: list[float] = []
        self._lock = threading.Lock()

    @property
    def clock(self) -> Clock:
        return Clock(now=self.now, wait=self.wait)

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        with self._lock:
            self.waits.append(round(seconds, 3))
            self.seconds += seconds

    def forward(self, **delta: float) -> None:
        self.seconds += (testing.later(**delta) - testing.NOW).total_seconds()

    @property
    def datetime(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def kds() -> Iterator[Kds]:
    """AMD's service for Genoa, whose revocation list is a day old."""
    with running_kds(crl_at=testing.later(days=-1)) as running:
        yield running


@pytest.fixture
def fetcher(store: Store, time: FakeTime, kds: Kds, notes: list[str]) -> Iterator[KdsFetcher]:
    made = KdsFetcher(store, kds.url, clock=time.clock, note=notes.append)
    yield made
    made.close()
