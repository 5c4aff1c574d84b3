# SPDX-License-Identifier: BSD-3-Clause
"""How far readers and files read ahead, how long runs are spread over threads, and what is cached."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.crypt4gh import CIPHER_SEGMENT, SEGMENT, DataKey, SecretKey, SegmentCipher, make_header
from sealroom.datasets import parallel
from sealroom.datasets import reader as reader_module
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.file import SealedFile
from sealroom.datasets.manifest import FileEntry
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.readahead import LARGEST, ReadAhead
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.segment_list import SegmentList, record_of
from sealroom.errors import IntegrityError
from support.sealed import Backend, noise

SEGMENTS = 80
PLAIN = noise((SEGMENTS - 1) * SEGMENT + 1234, 7)


class Memory:
    """A sealed file in memory that notes what is read of it."""

    name = "memory"

    def __init__(self, data: bytes, *, far: bool = False) -> None:
        self.data = bytearray(data)
        self.size = len(data)
        self.far = far
        self.ranges: list[tuple[int, int]] = []

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        part = self.data[offset : offset + len(buffer)]
        self.ranges.append((offset, len(part)))
        buffer[: len(part)] = part
        return len(part)

    def identity(self) -> str:
        return "one"

    def view(self, offset: int, length: int) -> memoryview | None:
        if not self.far:
            return None
        part = memoryview(self.data)[offset : offset + length]
        self.ranges.append((offset, len(part)))
        return part

    def close(self) -> None:
        return None


class Made:
    """A file of many segments with what reads it."""

    def __init__(self) -> None:
        self.key = DataKey.generate()
        header = make_header([self.key], [SecretKey.generate().public])
        cipher, body, self.records = SegmentCipher([self.key]), bytearray(), b""
        for start in range(0, len(PLAIN), SEGMENT):
            part = PLAIN[start : start + SEGMENT]
            segment = bytearray(len(part) + 28)
            cipher.encrypt_into(part, memoryview(segment))
            self.records += record_of(bytes(segment))
            body += segment
        self.header_size = header.size
        self.data = header.to_bytes() + body
        view = memoryview(self.records)
        self.root = root_hash(view[i : i + 60] for i in range(0, len(view), 60)).hex()
        self.entry = FileEntry(
            name="data.bin",
            size=len(PLAIN),
            header_size=header.size,
            header_sha256=header.sha256,
            cipher_size=len(body),
            cipher_sha256="0" * 64,
            segments_root=self.root,
        )

    def reader(
        self, *, far: bool = False, cache: int = 64 << 20, **more: Any
    ) -> tuple[SegmentReader, Memory]:
        source = Memory(self.data, far=far)
        segments = SegmentList(self.records, name="data.bin", count=SEGMENTS, root=self.root)
        reader = SegmentReader(
            source, self.entry, [self.key], cache=SegmentCache(cache), segments=segments, **more
        )
        source.ranges.clear()
        return reader, source

    def segments(self, source: Memory) -> list[tuple[int, int]]:
        """What was read, in segments: first and number."""
        found = []
        for offset, length in source.ranges:
            index, rest = divmod(offset - self.header_size, CIPHER_SEGMENT)
            assert rest == 0, "ranges begin at segments"
            found.append((index, -(-length // CIPHER_SEGMENT)))
        return found


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


# --- the ramp ---


def follow(ahead: ReadAhead, offset: int, length: int, *, fetched: bool = True) -> int:
    amount = ahead.begin(offset)
    ahead.end(offset + length, amount, fetched=fetched)
    return amount


def test_ramp_doubles_and_stops() -> None:
    ahead = ReadAhead()
    assert [follow(ahead, i * 100, 100) for i in range(7)] == [1, 2, 4, 8, 16, 16, 16]


def test_seek_begins_again() -> None:
    ahead = ReadAhead()
    for i in range(5):
        follow(ahead, i * 100, 100)
    assert follow(ahead, 9000, 100) == 1
    assert follow(ahead, 9100, 100) == 2


def test_read_from_the_cache_does_not_grow_the_ramp() -> None:
    ahead = ReadAhead()
    follow(ahead, 0, 100)
    assert [follow(ahead, 100 + i, 1, fetched=False) for i in range(5)] == [2] * 5


def test_overlapping_reads_are_no_stream() -> None:
    ahead = ReadAhead()
    assert [follow(ahead, i * 60, 100) for i in range(5)] == [1] * 5


def test_streams_go_through_one_file_side_by_side() -> None:
    ahead = ReadAhead()
    amounts = [[follow(ahead, start + i * 10, 10) for start in (0, 10_000, 20_000)] for i in range(4)]
    assert amounts == [[1] * 3, [2] * 3, [4] * 3, [8] * 3]


def test_many_streams_are_forgotten() -> None:
    ahead = ReadAhead()
    for i in range(1000):
        follow(ahead, i * 1000, 10)
    assert len(ahead._streams) == 16


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50), st.booleans()), max_size=60))
def test_ramp_never_jumps(reads: list[tuple[int, int, bool]]) -> None:
    ahead = ReadAhead()
    before: dict[int, int] = {}
    for offset, length, fetched in reads:
        amount = ahead.begin(offset)
        assert amount == 1 or amount <= 2 * before.get(offset, 0)
        before[offset + length] = amount
        ahead.end(offset + length, amount, fetched=fetched)
        assert amount <= LARGEST


# --- the reader ---


def test_small_sequential_reads_ramp(made: Made) -> None:
    reader, source = made.reader(far=True)
    step = 16 << 10
    for offset in range(0, 40 * SEGMENT, step):
        assert reader.pread(offset, step) == PLAIN[offset : offset + step]
    found = sorted(made.segments(source))
    assert [count for _, count in found[:6]] == [1, 2, 4, 8, 16, 16]
    assert [first for first, _ in found[:6]] == [0, 1, 3, 7, 15, 31]
    assert max(count for _, count in found) == LARGEST


def test_each_segment_of_a_stream_is_read_once(made: Made) -> None:
    reader, source = made.reader()
    for offset in range(0, len(PLAIN), 10_000):
        assert reader.pread(offset, 10_000) == PLAIN[offset : offset + 10_000]
    seen = [first + i for first, count in made.segments(source) for i in range(count)]
    assert sorted(seen) == list(range(SEGMENTS))


def test_random_reads_fetch_what_they_need_only(made: Made) -> None:
    reader, source = made.reader(far=True, cache=1 << 20)
    draw = random.Random(1)
    for _ in range(50):
        offset = draw.randrange(len(PLAIN) - 4096)
        source.ranges.clear()
        assert reader.pread(offset, 4096) == PLAIN[offset : offset + 4096]
        assert sum(count for _, count in made.segments(source)) <= 2


def test_reads_that_cross_an_edge_are_no_stream(made: Made) -> None:
    reader, source = made.reader(far=True)
    for index in range(1, 30, 3):
        reader.pread(index * SEGMENT - 100, 200)
    assert {count for _, count in made.segments(source)} == {2}


def test_read_ahead_stops_at_the_end_of_the_file(made: Made) -> None:
    reader, source = made.reader(far=True)
    for offset in range(70 * SEGMENT, len(PLAIN), 30_000):
        reader.pread(offset, 30_000)
    assert max(first + count for first, count in made.segments(source)) == SEGMENTS


def test_read_ahead_does_not_read_again_what_is_cached(made: Made) -> None:
    reader, source = made.reader(far=True)
    reader.pread(4 * SEGMENT + 5, 5)
    for offset in range(0, 4 * SEGMENT, 8192):
        reader.pread(offset, 8192)
    assert sorted(made.segments(source)) == [(0, 1), (1, 2), (3, 1), (4, 1)]


def test_small_cache_keeps_reads_short(made: Made) -> None:
    reader, source = made.reader(far=True, cache=4 * SEGMENT)
    for offset in range(0, 20 * SEGMENT, 8192):
        reader.pread(offset, 8192)
    assert max(count for _, count in made.segments(source)) == 2


def test_ranges_begin_and_end_at_segments(made: Made) -> None:
    reader, source = made.reader(far=True)
    assert reader.pread(3 * SEGMENT + 77, 5 * SEGMENT) == PLAIN[3 * SEGMENT + 77 : 8 * SEGMENT + 77]
    assert made.segments(source) == [(3, 6)]


def test_long_far_reads_are_cut_and_the_next_part_is_under_way(made: Made) -> None:
    reader, source = made.reader(far=True)
    assert reader.pread(0, len(PLAIN)) == PLAIN
    assert sorted(made.segments(source)) == [(0, 64), (64, 16)]


def test_stream_of_large_far_reads_is_fetched_in_advance(made: Made) -> None:
    reader, source = made.reader(far=True, parallel=False)
    step = 20 * SEGMENT
    for offset in range(0, 60 * SEGMENT, step):
        assert reader.pread(offset, step) == PLAIN[offset : offset + step]
    assert reader.pread(60 * SEGMENT, step) == PLAIN[60 * SEGMENT :]
    seen = sorted(made.segments(source))
    assert seen == [(0, 20), (20, 20), (40, 20), (60, 20)]


def test_failed_fetch_in_advance_troubles_only_who_needs_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, source = made.reader(far=True)
    original, failed = source.view, threading.Event()

    def fail_once(offset: int, length: int) -> memoryview | None:
        if offset > 30 * CIPHER_SEGMENT and not failed.is_set():
            failed.set()
            raise IntegrityError("data.bin: the file was replaced while it was open.")
        return original(offset, length)

    monkeypatch.setattr(source, "view", fail_once)
    assert reader.pread(0, 16 * SEGMENT) == PLAIN[: 16 * SEGMENT]
    assert reader.pread(16 * SEGMENT, 16 * SEGMENT) == PLAIN[16 * SEGMENT : 32 * SEGMENT]
    assert failed.wait(30)
    assert reader.pread(32 * SEGMENT, SEGMENT) == PLAIN[32 * SEGMENT : 33 * SEGMENT]


@pytest.mark.parametrize("far", [False, True])
@given(data=st.data())
def test_any_reads_in_any_order_read_right(made: Made, far: bool, data: st.DataObject) -> None:
    reader, _ = made.reader(far=far, cache=data.draw(st.sampled_from([0, 3 * SEGMENT, 64 << 20])))
    position = 0
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            position = data.draw(st.integers(0, len(PLAIN)))
        length = data.draw(st.sampled_from([1, 100, SEGMENT, SEGMENT + 1, 9 * SEGMENT, 20 * SEGMENT + 7]))
        assert reader.pread(position, length) == PLAIN[position : position + length]
        position += length


# --- threads ---


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 4)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    seen: set[str] = set()
    original = SegmentCipher.decrypt_run

    def note(self: SegmentCipher, segments: list[memoryview], outs: list[memoryview]) -> int:
        seen.add(threading.current_thread().name)
        return original(self, segments, outs)

    monkeypatch.setattr(SegmentCipher, "decrypt_run", note)
    return seen


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize("far", [False, True])
def test_long_runs_are_spread_over_threads(made: Made, threads: set[str], far: bool) -> None:
    reader, _ = made.reader(far=far)
    barrier = threading.Barrier(2, timeout=30)
    met = threading.Event()
    original = SegmentList.pin_all

    def meet(self: SegmentList, first: int, segments: Any) -> bool:
        # Both threads must be in the middle of the run at once.
        if not met.is_set():
            barrier.wait()
            met.set()
        return original(self, first, segments)

    SegmentList.pin_all = meet  # type: ignore[method-assign]
    try:
        assert reader.pread(0, len(PLAIN)) == PLAIN
    finally:
        SegmentList.pin_all = original  # type: ignore[method-assign]
    assert len(threads) >= 2


@pytest.mark.usefixtures("four_processors")
def test_short_runs_stay_in_their_thread(made: Made, threads: set[str]) -> None:
    reader, _ = made.reader()
    assert reader.pread(0, 7 * SEGMENT) == PLAIN[: 7 * SEGMENT]
    assert threads == {threading.current_thread().name}


@pytest.mark.usefixtures("four_processors")
def test_readers_can_do_without_threads(made: Made, threads: set[str]) -> None:
    reader, _ = made.reader(parallel=False)
    assert reader.pread(0, len(PLAIN)) == PLAIN
    assert threads == {threading.current_thread().name}


def test_one_processor_means_one_thread(
    made: Made, threads: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 1)
    reader, _ = made.reader()
    assert reader.pread(0, len(PLAIN)) == PLAIN
    assert threads == {threading.current_thread().name}


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize("where", [0, 20, 79])
def test_change_anywhere_in_a_long_run_is_refused_and_leaves_zeros(made: Made, where: int) -> None:
    reader, source = made.reader()
    source.data[made.header_size + where * CIPHER_SEGMENT + 500] ^= 1
    buffer = bytearray(b"\xff" * len(PLAIN))
    with pytest.raises(IntegrityError, match=f"segment {where + 1} of 80 was changed"):
        reader.pread_into(0, memoryview(buffer))
    assert buffer == bytes(len(PLAIN))


@pytest.mark.usefixtures("four_processors")
def test_nothing_runs_any_more_when_a_call_has_failed() -> None:
    running, began = [0], threading.Event()

    def work(number: int) -> None:
        running[0] += 1
        try:
            if number == 1:
                assert began.wait(30)
                raise ValueError("wrong")
            began.set()
        finally:
            running[0] -= 1

    with pytest.raises(ValueError, match="wrong"):
        parallel.for_each(work, 200)
    assert running == [0]
    assert parallel._process.working == 0


@pytest.mark.usefixtures("four_processors")
def test_work_may_start_work() -> None:
    done: list[int] = []
    parallel.for_each(lambda i: parallel.for_each(lambda j: done.append(10 * i + j), 10), 20)
    assert sorted(done) == list(range(200))


@pytest.mark.usefixtures("four_processors")
def test_busy_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel._process, "working", 3)
    names: set[str] = set()
    parallel.for_each(lambda _: names.add(threading.current_thread().name), 50)
    assert names == {threading.current_thread().name}


# --- the file in the kernel ---


def test_file_reads_more_only_as_a_stream_goes_on(
    agent: AgentServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def fill(_dataset: str, _file: str, offset: int, buffer: memoryview) -> int:
        lengths.append(len(buffer))
        part = PLAIN[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    monkeypatch.setattr(backend, "read_into", fill)
    file = SealedFile(AgentClient(agent.path), "heartbeats", "data.bin", len(PLAIN))
    for offset in range(0, 40 * SEGMENT, 4096):
        assert file.read(4096) == PLAIN[offset : offset + 4096]
    assert [length // SEGMENT for length in lengths[:6]] == [1, 2, 4, 8, 16, 16]
    lengths.clear()
    file.seek(100)
    assert file.read(10) == PLAIN[100:110]
    assert lengths == [SEGMENT - 100]


def test_constants_agree() -> None:
    assert reader_module._FAR_RUN * SEGMENT == 4 << 20
