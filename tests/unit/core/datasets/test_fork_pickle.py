# SPDX-License-Identifier: BSD-3-Clause
"""Readers and files in forked and spawned processes, and readers of files far larger than memory."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealroom.crypt4gh import SEGMENT, DataKey, Header, open_header
from sealroom.datasets import parallel
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.file import SealedFile
from sealroom.datasets.reader import SegmentReader
from support.sealed import PLAIN, Sealed
from support.sparse import STREAMED, SparseFile, read_sha256

ECG = PLAIN["ecg.bin"]
pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


def in_child(work: Callable[[], bytes]) -> bytes:
    """Return what a forked child says."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = repr(error).encode()
        os.write(sending, said)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        said = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


@pytest.fixture
def reader(sealed: Sealed) -> SegmentReader:
    header = sealed.directory.read_headers(sealed.manifest)["ecg.bin"]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    return SegmentReader(sealed.directory, sealed.manifest.file("ecg.bin"), keys, cache=SegmentCache())


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- fork ---


def test_reader_works_in_a_child_and_after_it(reader: SegmentReader) -> None:
    assert reader.pread(10, 70_000) == ECG[10:70_010]
    assert in_child(lambda: digest(reader.pread(0, len(ECG)))) == digest(ECG)
    assert reader.pread(0, len(ECG)) == ECG


def test_reader_works_in_a_child_that_was_forked_while_locks_were_held(reader: SegmentReader) -> None:
    reader.pread(5, 5)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with reader._cache._lock, reader._ahead._lock, reader._segments._lock, parallel._process.lock:
            held.set()
            assert go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    try:
        said = in_child(lambda: digest(reader.pread(0, 100) + reader.pread(200_000, 10)))
    finally:
        go_on.set()
        thread.join()
    assert said == digest(ECG[:100] + ECG[200_000:200_010])


def test_child_makes_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 4)
    parallel.for_each(lambda _: None, 20)
    assert parallel._process.helpers is not None

    def work() -> bytes:
        done: list[int] = []
        parallel.for_each(done.append, 20)
        return bytes(sorted(done))

    assert in_child(work) == bytes(range(20))


def test_child_and_parent_do_not_share_scratch_memory(reader: SegmentReader) -> None:
    reader.pread(0, SEGMENT)
    before = bytes(reader._scratch.view[:1000])
    assert in_child(lambda: digest(reader.pread(2 * SEGMENT, SEGMENT))) == digest(
        ECG[2 * SEGMENT : 3 * SEGMENT]
    )
    assert bytes(reader._scratch.view[:1000]) == before


# --- pickle ---


def test_reader_is_not_pickled(reader: SegmentReader) -> None:
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(reader)


@pytest.fixture
def file(agent: AgentServer) -> SealedFile:
    client = AgentClient(agent.path)
    client.unlock("heartbeats")
    return SealedFile(client, "heartbeats", "ecg.bin", len(ECG))


def test_pickled_file_holds_neither_data_nor_keys(file: SealedFile) -> None:
    file.read(100)
    held = file.pread_buffer(0, 200_000)
    data = pickle.dumps(file)
    assert len(data) < 500
    assert ECG[:20] not in data
    again = pickle.loads(data)
    assert (again.tell(), again.read(10)) == (100, ECG[100:110])
    assert held == ECG[:200_000]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_file_reads_in_worker_processes(file: SealedFile, method: str) -> None:
    held = file.pread_buffer(0, 200_000)
    context: Any = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        ranges = [(file, offset, 100_000) for offset in range(0, len(ECG), 40_000)]
        digests = pool.starmap(read_sha256, ranges)
        pool.close()
        pool.join()
    assert digests == [digest(ECG[offset : offset + 100_000]) for _, offset, _ in ranges]
    assert held == ECG[:200_000]
    assert file.pread(0, len(ECG)) == ECG


# --- files larger than memory ---


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> SparseFile:
    return SparseFile.make(tmp_path_factory.mktemp("sparse"), size=16 << 30)


@pytest.mark.parametrize("mapped", [False, True])
def test_reader_of_16_gib_needs_little_memory(sparse: SparseFile, mapped: bool) -> None:
    """In a process of its own: reads the beginning as a stream, and a segment of every 64 MiB."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "support.sparse", str(sparse.folder), str(int(mapped))],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = dict(line.split("=") for line in done.stdout.split())
    assert int(words["segments"]) == 512 + 256
    assert int(words["grown"]) < 24 << 20, done.stdout
    assert int(words["listed"]) == 262_144


def test_list_that_changes_while_the_file_is_open_is_refused(sparse: SparseFile, tmp_path: Path) -> None:
    copy = SparseFile.make(tmp_path, size=2 << 30)
    reader = copy.reader()
    path = copy.directory.segment_list("big.bin")
    with path.open("r+b") as stream:
        stream.seek(31_000 * 60 + 7)
        stream.write(b"x")
    assert reader.pread(0, SEGMENT) == sparse.plain(0)
    with pytest.raises(Exception, match="list of its segments is not the one"):
        reader.pread(31_000 * SEGMENT, 10)


def test_hole_in_a_file_is_refused(sparse: SparseFile) -> None:
    reader = sparse.reader()
    with pytest.raises(Exception, match="was changed after the data owner sealed it"):
        reader.pread(STREAMED * SEGMENT, 10)


def test_wrong_key_of_a_large_file_is_refused(sparse: SparseFile) -> None:
    reader = SegmentReader(sparse.directory, sparse.entry, [DataKey.generate()], cache=SegmentCache())
    with pytest.raises(Exception, match="segment 1 of 262144"):
        reader.pread(0, 10)
