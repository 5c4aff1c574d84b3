# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import seal_directory
from sealroom.datasets.vault import Vault
from sealroom_jupyter.attester import Attester
from sealroom_jupyter.local import LocalDatasets
from sealroom_jupyter.ports import Event, HubToken
from sealroom_jupyter.settings import Settings
from sealroom_jupyter.shelf import Shelf
from sealroom_jupyter.status import describe
from support.sealed import CREATED, DESCRIPTION, PLAIN, Sealed, write_tree
from unit.jupyter.fakes import FakeBroker, FakeClock, FakeGpus, FakeProcessor


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    """A sealed dataset in a directory for datasets."""
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    root = tmp_path / "datasets"
    root.mkdir()
    manifest = seal_directory(
        write_tree(tmp_path / "plain", PLAIN),
        root / DESCRIPTION.id,
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    return Sealed(root, manifest, dataset_key, signing_key, SecretKey.generate())


@dataclass
class Room:
    """An Attester and a Shelf over fakes; nothing runs by itself, a test takes the turns."""

    clock: FakeClock
    broker: FakeBroker
    processor: FakeProcessor
    settings: Settings
    events: list[Event] = field(default_factory=list)
    token: HubToken = field(default_factory=lambda: HubToken("hub-token-secret"))
    gpus: FakeGpus = field(default_factory=FakeGpus)

    def __post_init__(self) -> None:
        self.vault = Vault(clock=self.clock.now)
        self.attester = Attester(
            self.settings,
            detect=lambda run_dir: self.processor,
            connect=self._connect,
            read_token=self.broker.read_token,
            devices=self.gpus,
            hub_token=self.token,
            report=self.events.append,
            clock=self.clock,
        )
        self.shelf = Shelf(
            self.attester,
            self.vault,
            LocalDatasets(self.settings.datasets),
            status=lambda: describe(self.attester.state, self.settings),
            clock=self.clock,
        )
        self.attester.follow(self.shelf)

    def _connect(self, gather: Callable[[bytes], object]) -> FakeBroker:
        self.broker.gather = gather
        return self.broker

    def turn(self, seconds: float = 0.0) -> float:
        """Let time pass, take one turn, and return the pause that it asks for."""
        self.clock.seconds += seconds
        return self.attester.turn()

    def read(self, name: str = "ecg.bin", size: int = 16) -> bytes:
        buffer = bytearray(size)
        got = self.shelf.read_into("heartbeats", name, 0, memoryview(buffer))
        return bytes(buffer[:got])


@pytest.fixture
def room(sealed: Sealed, tmp_path: Path) -> Iterator[Room]:
    """A room with one dataset that the person may have; not proven yet."""
    clock = FakeClock()
    settings = Settings(
        run_dir=tmp_path, broker_url="http://broker.example", datasets=(sealed.root,), server_name="named"
    )
    made = Room(clock, FakeBroker(clock, sealed), FakeProcessor(), settings)
    yield made
    made.vault.drop_all("The test is over.")
