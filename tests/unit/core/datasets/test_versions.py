# SPDX-License-Identifier: BSD-3-Clause
"""A file that is open stays the version that it was: another one is refused, not read on from."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sealroom
from sealroom.datasets.agent import RUN_VARIABLE, AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.errors import IntegrityError, StorageError
from support.sealed import Backend
from support.sealed_tree import seal_files

FIRST, SECOND = b"a" * 300_000, b"b" * 300_000


class Stand:
    """An agent whose dataset can be exchanged for another version with the same names and sizes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend: Any = None
        self.versions = [
            seal_files({"x.bin": data, "y.bin": data[::-1] + b"!"}, folder / name, "heartbeats")
            for name, data in (("first", FIRST), ("second", SECOND))
        ]

    def show(self, number: int) -> None:
        self.versions[number].unlock(self.backend.vault)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    made = Stand(tmp_path)
    made.backend = Backend(made.versions[0])
    made.show(0)
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    with AgentServer(tmp_path / "agent.sock", made.backend):
        yield made


def test_file_that_is_open_is_not_read_on_from_another_version(stand: Stand) -> None:
    with sealroom.open("heartbeats/x.bin") as file:
        assert file.read(10) == b"a" * 10
        stand.show(1)
        with pytest.raises(IntegrityError, match=r"x\.bin is another version than the one that was opened"):
            file.pread(200_000, 100)
        with pytest.raises(IntegrityError, match="another version"):
            file.pread_buffer(0, 250_000)
        with pytest.raises(IntegrityError, match="another version"):
            file.pread_into(0, bytearray(100_000))
    assert sealroom.open("heartbeats/x.bin").read(10) == b"b" * 10


def test_same_version_unlocked_again_is_read_on(stand: Stand) -> None:
    with sealroom.open("heartbeats/x.bin") as file:
        file.read(10)
        stand.show(0)
        assert file.read() == FIRST[10:]


def test_version_travels_with_a_pickle(stand: Stand) -> None:
    file = pickle.loads(pickle.dumps(sealroom.open("heartbeats/x.bin")))
    assert file.read(5) == b"aaaaa"
    stand.show(1)
    with pytest.raises(IntegrityError, match="another version"):
        file.read()


def test_several_ranges_each_say_it(stand: Stand) -> None:
    client = AgentClient(stand.folder / "agent.sock")
    x, y = (client.file("heartbeats", name) for name in ("x.bin", "y.bin"))
    stand.show(1)
    found = client.read_ranges("heartbeats", [(x.handle, 0, 5), (y.handle, 0, 5), (y.name, 0, 5)])
    assert [isinstance(one, IntegrityError) for one in found] == [True, True, False]


def test_version_that_comes_during_a_read_is_noticed(stand: Stand) -> None:
    file = sealroom.open("heartbeats/x.bin")
    stand.backend.on_read = lambda: stand.show(1)
    with pytest.raises(IntegrityError, match="another version"):
        file.pread(0, 100)


def test_fsspec_file_keeps_to_its_version(stand: Stand) -> None:
    import fsspec

    with fsspec.open("sealed://heartbeats/x.bin") as file:
        assert file.read(10) == b"a" * 10
        stand.show(1)
        with pytest.raises(IntegrityError, match="another version"):
            file.read(200_000)


def test_file_that_is_not_there_has_no_version(stand: Stand) -> None:
    with pytest.raises(StorageError, match=r"no file 'z\.bin'"):
        AgentClient(stand.folder / "agent.sock").file("heartbeats", "z.bin")
