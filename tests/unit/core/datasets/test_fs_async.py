# SPDX-License-Identifier: BSD-3-Clause
"""`sealed://` with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.filesystem import SealedFileSystem
from sealroom.datasets.workspace import Workspace
from sealroom.errors import AccessDeniedError, ConfigurationError, NetworkError
from support.sealed import PLAIN, Backend, Sealed
from support.sealed_tree import served

ECG = PLAIN["ecg.bin"]


@pytest.fixture
def backend(sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with served(sealed, Workspace(tmp_path / "results")) as (backend, run):
        monkeypatch.setenv("SEALROOM_RUN", str(run))
        yield backend


@pytest.fixture
def fs(backend: Backend) -> Any:
    return SealedFileSystem(asynchronous=True, skip_instance_cache=True)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranges each request asks for."""
    found: list[int] = []
    before: Any = AgentClient.read_ranges

    def counted(client: AgentClient, dataset: str, ranges: Any) -> Any:
        found.append(len(ranges))
        return before(client, dataset, ranges)

    monkeypatch.setattr(AgentClient, "read_ranges", counted)
    return found


async def test_names(fs: Any) -> None:
    assert await fs._ls("heartbeats/labels", detail=False) == ["heartbeats/labels/beats.csv"]
    assert (await fs._info("heartbeats/ecg.bin"))["size"] == len(ECG)
    assert await fs._exists("heartbeats/ecg.bin")
    assert not await fs._exists("heartbeats/nothing")
    assert await fs._isfile("heartbeats/ecg.bin")
    assert await fs._isdir("heartbeats/labels")
    assert await fs._find("heartbeats/labels") == ["heartbeats/labels/beats.csv"]
    assert await fs._glob("heartbeats/*.bin") == ["heartbeats/ecg.bin", "heartbeats/exact.bin"]
    assert [found async for found in fs._walk("heartbeats/labels")] == [
        ("heartbeats/labels", [], ["beats.csv"])
    ]
    assert await fs._expand_path("heartbeats/e*", recursive=True) == [
        "heartbeats/ecg.bin", "heartbeats/empty", "heartbeats/exact.bin",
    ]  # fmt: skip
    assert await fs._du("heartbeats") == sum(len(plain) for plain in PLAIN.values())
    assert await fs._size("heartbeats/ecg.bin") == len(ECG)


async def test_data(fs: Any) -> None:
    assert await fs._cat_file("heartbeats/ecg.bin", -10) == ECG[-10:]
    assert await fs._cat_ranges(["heartbeats/ecg.bin"] * 2, [0, 9], [3, 12]) == [ECG[:3], ECG[9:12]]
    assert await fs._cat("heartbeats/e*.bin") == {
        "heartbeats/ecg.bin": ECG, "heartbeats/exact.bin": PLAIN["exact.bin"],
    }  # fmt: skip


async def test_ranges_that_are_asked_for_together_travel_together(fs: Any, requests: list[int]) -> None:
    await fs._info("heartbeats/ecg.bin")
    starts = range(0, len(ECG), 5000)
    found = await asyncio.gather(*(fs._cat_file("heartbeats/ecg.bin", at, at + 100) for at in starts))
    assert found == [ECG[at : at + 100] for at in starts]
    assert requests == [len(starts)]


async def test_error_of_one_range_leaves_the_others(fs: Any) -> None:
    await fs._info("heartbeats/ecg.bin")
    paths = ("heartbeats/ecg.bin", "heartbeats/nothing", "heartbeats/labels")
    found = await asyncio.gather(*(fs._cat_file(path, 0, 5) for path in paths), return_exceptions=True)
    assert found[0] == ECG[:5]
    assert [type(error) for error in found[1:]] == [FileNotFoundError, IsADirectoryError]


async def test_range_that_nobody_waits_for_any_more_leaves_the_others(fs: Any) -> None:
    await fs._info("heartbeats/ecg.bin")
    given_up = asyncio.ensure_future(fs._cat_file("heartbeats/ecg.bin", 0, 5))
    kept = asyncio.ensure_future(fs._cat_file("heartbeats/ecg.bin", 5, 9))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await kept == ECG[5:9]
    assert given_up.cancelled()


async def test_withdrawal_reaches_everybody_who_waits(fs: Any, backend: Backend) -> None:
    await fs._info("heartbeats/ecg.bin")
    backend.vault.drop("heartbeats", "The owner withdrew your access.")
    found = await asyncio.gather(
        *(fs._cat_file("heartbeats/ecg.bin", at, at + 5) for at in range(5)), return_exceptions=True
    )
    assert [type(one) for one in found] == [AccessDeniedError] * 5


async def test_server_that_is_gone_reaches_everybody_who_waits(
    fs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fs._info("heartbeats/ecg.bin")

    def gone(*_: object) -> None:
        raise NetworkError("The agent does not answer.")

    monkeypatch.setattr(AgentClient, "read_ranges", gone)
    found = await asyncio.gather(
        *(fs._cat_file("heartbeats/ecg.bin", at, at + 5) for at in range(3)), return_exceptions=True
    )
    assert [type(one) for one in found] == [NetworkError] * 3


async def test_stream_is_read_with_await(fs: Any) -> None:
    async with await fs.open_async("heartbeats/ecg.bin") as stream:
        assert stream.size == len(ECG)
        assert await stream.read(10) == ECG[:10]
        assert (stream.seek(-5, 2), stream.tell()) == (len(ECG) - 5, len(ECG) - 5)
        assert await stream.read() == ECG[-5:]
    with pytest.raises(NotImplementedError, match="'rb'"):
        await fs.open_async("heartbeats/ecg.bin", "wb")


async def test_plain_copies_are_refused_here_too(fs: Any, tmp_path: Path) -> None:
    for method in (fs._get, fs._get_file):
        with pytest.raises(ConfigurationError, match="allow_plain_copies"):
            await method("heartbeats/ecg.bin", str(tmp_path / "copy"))
        await method("heartbeats/ecg.bin", str(tmp_path / "copy"), allow_plain_copies=True)
        assert (tmp_path / "copy").read_bytes() == ECG
        (tmp_path / "copy").unlink()


async def test_results_are_written_copied_and_removed(fs: Any, tmp_path: Path) -> None:
    await fs._makedirs("workspace/new")
    await fs._mkdir("workspace/new")
    await fs._pipe_file("workspace/new/one", b"1")
    (tmp_path / "local").write_bytes(b"2")
    await fs._put_file(str(tmp_path / "local"), "workspace/new/two")
    await fs._cp_file("workspace/new/two", "workspace/new/three")
    assert await fs._cat("workspace/new", recursive=True) == {
        "workspace/new/one": b"1", "workspace/new/three": b"2", "workspace/new/two": b"2",
    }  # fmt: skip
    await fs._rm_file("workspace/new/one")
    await fs._rm("workspace/new", recursive=True)
    assert await fs._find("workspace") == []


async def test_dataset_is_not_changed(fs: Any) -> None:
    uses = (
        fs._rm("heartbeats/ecg.bin"),
        fs._rm_file("heartbeats/ecg.bin"),
        fs._cp_file("heartbeats/ecg.bin", "heartbeats/copy"),
        fs._pipe_file("heartbeats/new", b"x"),
        fs._mkdir("heartbeats/new"),
        fs._makedirs("heartbeats/new"),
    )
    for use in uses:
        with pytest.raises(NotImplementedError, match="read-only"):
            await use


async def test_other_methods_work_inside_of_a_running_loop(fs: Any) -> None:
    """fsspec's own file systems refuse this."""
    assert fs.cat_file("heartbeats/ecg.bin", 0, 5) == ECG[:5]
    assert fs.loop is not asyncio.get_running_loop()
