# SPDX-License-Identifier: BSD-3-Clause
"""Memory that the agent and a kernel share: who may do what with it, and when it is used again."""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import mmap
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealroom.datasets import connection as connection_module
from sealroom.datasets import shared, wire
from sealroom.datasets.agent import MAX_RANGES, MAX_READ, AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.file import SealedFile
from sealroom.datasets.shared import USUAL_BLOCK, AgentBlocks, Block, Budget, KernelBlocks
from sealroom.errors import AccessDeniedError, Error, IntegrityError, ProtocolError, StorageError
from support.sealed import PLAIN, Backend

pa: Any = import_module("pyarrow")

ECG = PLAIN["ecg.bin"]
LARGE = bytes(range(251)) * 100_000


@pytest.fixture
def client(agent: AgentServer) -> AgentClient:
    made = AgentClient(agent.path)
    made.unlock("heartbeats")
    return made


@pytest.fixture
def large(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The backend serves 25 MB under every name; the lengths that it is asked for."""
    lengths: list[int] = []

    def fill(_dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        if file == "absent":
            raise StorageError("There is no such file.", advice="Look again.")
        if file == "bug":
            raise ZeroDivisionError("key material")
        lengths.append(len(buffer))
        part = LARGE[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    monkeypatch.setattr(backend, "read_into", fill)
    return lengths


def only(client: AgentClient) -> Any:
    (connection,) = client._idle
    return connection


def plain(found: memoryview | Error) -> bytes:
    assert not isinstance(found, Error)
    return bytes(found)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- blocks ---


def made_block(length: int = 1000) -> tuple[AgentBlocks, int, int, int]:
    blocks = AgentBlocks(Budget())
    made = blocks.make(length)
    assert made is not None
    return blocks, *made


def test_both_sides_see_the_same_memory() -> None:
    blocks, number, size, fd = made_block()
    with contextlib.closing(mmap.mmap(fd, size)) as kernel:
        os.close(fd)
        blocks.view(number, 10, 5)[:] = b"plain"
        assert kernel[10:15] == b"plain"


def test_block_cannot_be_cut_or_grown_by_the_kernel() -> None:
    _, _, size, fd = made_block()
    for length in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, length)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x8)
    os.close(fd)


def test_hole_that_a_kernel_makes_hurts_nobody() -> None:
    blocks, number, size, fd = made_block(1 << 20)
    view = blocks.view(number, 0, size)
    view[:] = b"\xff" * size
    # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    c_long = __import__("ctypes").c_long
    assert libc.fallocate(fd, 3, c_long(0), c_long(size)) == 0
    assert bytes(view[:5]) == bytes(5)
    view[:5] = b"again"
    assert os.pread(fd, 5, 0) == b"again"
    os.close(fd)


@pytest.mark.parametrize("number", [0, 2, -1, "1", None, True])
def test_block_that_there_is_not_is_refused(number: object) -> None:
    blocks, _, _, fd = made_block()
    os.close(fd)
    blocks.drop(1) if number is True else None
    with pytest.raises(ProtocolError, match="shared memory that there is not"):
        blocks.view(number, 0, 1)


@pytest.mark.parametrize(("offset", "length"), [(0, (64 << 10) + 1), (64 << 10, 1), (1 << 60, 1)])
def test_part_beyond_a_block_is_refused(offset: int, length: int) -> None:
    blocks, number, _, fd = made_block()
    os.close(fd)
    with pytest.raises(ProtocolError):
        blocks.view(number, offset, length)


def test_connection_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "CONNECTION_LIMIT", 1 << 20)
    blocks, number, _, fd = made_block(512 << 10)
    os.close(fd)
    assert blocks.make(1 << 20) is None
    blocks.drop(number)
    made = blocks.make(1 << 20)
    assert made is not None
    os.close(made[2])


def test_all_connections_have_a_limit() -> None:
    budget = Budget(1 << 20)
    first, second = AgentBlocks(budget), AgentBlocks(budget)
    made = first.make(1 << 20)
    assert made is not None
    os.close(made[2])
    assert second.make(1) is None
    first.close()
    made = second.make(1 << 20)
    assert made is not None
    os.close(made[2])


def test_number_of_blocks_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_BLOCKS", 1)
    blocks, _, _, fd = made_block()
    os.close(fd)
    assert blocks.make(1) is None


def test_block_beyond_the_largest_is_refused() -> None:
    assert AgentBlocks(Budget()).make((256 << 20) + 1) is None


# --- reading into them ---


def test_large_ranges_are_not_copied(client: AgentClient, large: list[int]) -> None:
    buffer = client.read_buffer("heartbeats", "x", 1000, 3_000_000)
    assert buffer == LARGE[1000:3_001_000]
    assert large == [3_000_000]
    address = pa.py_buffer(buffer).address
    assert address % 4096 == 0


def test_memory_is_used_again_when_nothing_refers_to_it(client: AgentClient, large: list[int]) -> None:
    addresses = set()
    for start in range(0, 20_000_000, 1_000_000):
        buffer = client.read_buffer("heartbeats", "x", start, 1_000_000)
        assert buffer == LARGE[start : start + 1_000_000]
        addresses.add(pa.py_buffer(buffer).address)
        del buffer
    assert len(addresses) == 1
    assert len(large) == 20


KEEP: dict[str, Callable[[memoryview], Any]] = {
    "slice": lambda whole: whole[500_000:][10:400_000],
    "arrow": lambda whole: pa.py_buffer(whole).slice(500_010, 399_990),
    "numpy": lambda whole: np.frombuffer(whole, np.uint8)[500_010:900_000][::1],
    "cast": lambda whole: whole[500_010 : 500_010 + 399_992].cast("Q"),
}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", sorted(KEEP))
def test_memory_that_anything_refers_to_is_not_used_again(client: AgentClient, kind: str) -> None:
    kept = KEEP[kind](client.read_buffer("heartbeats", "x", 0, 1_000_000))
    gc.collect()
    for start in (2_000_000, 4_000_000, 6_000_000):
        assert client.read_buffer("heartbeats", "x", start, 1_000_000)[0] == LARGE[start]
    assert bytes(memoryview(kept).cast("B"))[:399_990] == LARGE[500_010 : 500_010 + 399_990]


@pytest.mark.usefixtures("large")
def test_held_memory_becomes_the_kernels_alone(
    client: AgentClient, agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "USUAL_BLOCK", 4 << 20)
    monkeypatch.setattr(shared, "CONNECTION_LIMIT", 8 << 20)
    before = agent._budget._left
    held = [client.read_buffer("heartbeats", "x", i * 1_000_000, 1_000_000) for i in range(20)]
    for i, buffer in enumerate(held):
        assert buffer == LARGE[i * 1_000_000 : (i + 1) * 1_000_000]
    assert before - agent._budget._left <= 8 << 20
    del held, buffer
    assert client.read_buffer("heartbeats", "x", 0, 1_000_000) == LARGE[:1_000_000]


@pytest.mark.usefixtures("large")
def test_block_that_is_larger_than_usual_is_not_kept(
    client: AgentClient, agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "USUAL_BLOCK", 4 << 20)
    before = agent._budget._left
    assert client.read_buffer("heartbeats", "x", 0, 20_000_000) == LARGE[:20_000_000]
    assert before - agent._budget._left >= 20_000_000
    client.read_buffer("heartbeats", "x", 0, 1_000_000)
    assert before - agent._budget._left <= 4 << 20


def test_pieces_of_a_block_do_not_overlap() -> None:
    blocks, number, size, fd = made_block(1 << 20)
    block = Block(number, size, fd)
    os.close(fd)
    draw, held, views = random.Random(3), dict[int, Any](), dict[int, memoryview]()
    for turn in range(2000):
        if held and draw.random() < 0.5:
            key = draw.choice(sorted(held))
            assert bytes(views.pop(key)) == bytes([key % 251]) * 100
            del held[key]
        elif (piece := block.take(draw.randrange(1, 200_000))) is not None:
            view = piece.hand_out(100)
            view[:] = bytes([turn % 251]) * 100
            held[turn], views[turn] = view, view
            del view
    views.clear()
    held.clear()
    assert block.free
    blocks.close()


def test_first_gap_is_taken_first() -> None:
    blocks, number, size, fd = made_block(1 << 20)
    block = Block(number, size, fd)
    os.close(fd)
    pieces = [block.take(100_000) for _ in range(4)]
    assert [piece.start for piece in pieces if piece] == [0, 128 << 10, 256 << 10, 384 << 10]
    for index in (1, 0):
        piece = pieces[index]
        assert piece is not None
        piece.give_back()
    again = block.take(200_000)
    assert again is not None
    assert again.start == 0
    assert block.take(1 << 20) is None
    blocks.close()


def test_agent_gives_up_blocks_with_their_connection(client: AgentClient, agent: AgentServer) -> None:
    before = agent._budget._left
    client.read_buffer("heartbeats", "ecg.bin", 0, len(ECG))
    assert agent._budget._left < before
    client.close()
    for _ in range(500):
        if agent._budget._left == before:
            break
        threading.Event().wait(0.02)
    assert agent._budget._left == before


def test_range_at_the_end_is_short(client: AgentClient) -> None:
    assert client.read_buffer("heartbeats", "ecg.bin", 100_000, 1 << 20) == ECG[100_000:]
    assert plain(client.read_buffer("heartbeats", "ecg.bin", len(ECG) + 5, 1 << 20)) == b""


def test_error_leaves_the_connection_usable(client: AgentClient, backend: Backend) -> None:
    with pytest.raises(StorageError, match="no file"):
        client.read_buffer("heartbeats", "absent", 0, 100_000)
    backend.vault.drop("heartbeats", "Withdrawn.")
    with pytest.raises(AccessDeniedError, match="Withdrawn"):
        client.read_buffer("heartbeats", "ecg.bin", 0, 100_000)
    with pytest.raises(AccessDeniedError, match="Withdrawn"):
        client.read_into("heartbeats", "ecg.bin", 0, memoryview(bytearray(100_000)))
    backend.sealed.unlock(backend.vault)
    assert client.read_buffer("heartbeats", "ecg.bin", 0, 100_000) == ECG[:100_000]
    assert len(client._idle) == 1


def test_failed_read_leaves_no_plaintext_in_shared_memory(client: AgentClient, backend: Backend) -> None:
    assert client.read_buffer("heartbeats", "ecg.bin", 0, len(ECG)) == ECG
    path = backend.sealed.directory.sealed_file("ecg.bin")
    data = bytearray(path.read_bytes())
    data[-50_000] ^= 1
    path.write_bytes(data)
    backend.vault.drop("heartbeats", "again")
    backend.sealed.unlock(backend.vault)
    with pytest.raises(IntegrityError):
        client.read_buffer("heartbeats", "ecg.bin", 0, len(ECG))
    (block,) = only(client)._blocks._blocks
    assert block.memory[: len(ECG)] == bytes(len(ECG))


@pytest.mark.parametrize("length", [100, 60_000, 5_000_000, 9_000_001, 20_000_000])
def test_own_buffers_are_filled_through_shared_memory(
    client: AgentClient, large: list[int], length: int
) -> None:
    buffer = bytearray(length)
    assert client.read_into("heartbeats", "x", 777, memoryview(buffer)) == length
    assert buffer == LARGE[777 : 777 + length]
    assert max(large) <= connection_module._COPIED


@pytest.mark.parametrize("over", [1, 3_000_000, 4 << 20, 9 << 20])
@pytest.mark.usefixtures("large")
def test_own_buffer_beyond_the_end_is_left_alone(client: AgentClient, over: int) -> None:
    start = len(LARGE) - (8 << 20)
    buffer = bytearray(b"\xee" * ((8 << 20) + over))
    assert client.read_into("heartbeats", "x", start, memoryview(buffer)) == 8 << 20
    assert buffer[: 8 << 20] == LARGE[start:]
    assert set(buffer[8 << 20 :]) == {0xEE}
    assert client.read("heartbeats", "x", 0, 100) == LARGE[:100]


def test_refusal_in_the_middle_of_a_long_read_is_told(
    client: AgentClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_dataset: str, _file: str, offset: int, buffer: memoryview) -> int:
        if offset >= 4 << 20:
            raise AccessDeniedError("Withdrawn in the middle.")
        return len(buffer)

    monkeypatch.setattr(backend, "read_into", fill)
    with pytest.raises(AccessDeniedError, match="in the middle"):
        client.read_into("heartbeats", "x", 0, memoryview(bytearray(20 << 20)))
    assert client.status().tier == "simulated"
    assert len(client._idle) == 1


# --- several ranges ---


def test_several_ranges_come_in_one_request(
    client: AgentClient, large: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = [("x", 5, 10), ("y", 1_000_000, 70_000), ("x", len(LARGE) - 3, 10), ("z", 3, 0)]
    sent: list[dict[str, Any]] = []
    original = wire.send_frame

    def note(connection: socket.socket, body: dict[str, Any]) -> None:
        sent.append(body)
        original(connection, body)

    monkeypatch.setattr(connection_module, "send_frame", note)
    answers = client.read_ranges("heartbeats", ranges)
    assert [plain(one) for one in answers] == [
        LARGE[offset : offset + length] for _, offset, length in ranges
    ]
    assert [body["op"] for body in sent] == ["share", "reads"]
    assert sorted(large) == [0, 10, 10, 70_000]
    for one in answers:
        assert pa.py_buffer(one).address % 64 == 0 or not plain(one)


@pytest.mark.usefixtures("large")
def test_range_that_fails_fails_alone(client: AgentClient, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third, fourth = client.read_ranges(
        "heartbeats", [("x", 0, 10), ("absent", 0, 10), ("bug", 0, 5), ("x", 10, 10)]
    )
    assert (plain(first), plain(fourth)) == (LARGE[:10], LARGE[10:20])
    assert isinstance(second, StorageError)
    assert (second.message, second.advice) == ("There is no such file.", "Look again.")
    assert isinstance(third, Error)
    assert "key material" not in third.diagnostics()
    assert "failed inside" in caplog.text


@pytest.mark.usefixtures("large")
def test_many_ranges_take_several_requests(client: AgentClient) -> None:
    ranges = [("x" * 900, i * 1000, 1000) for i in range(300)]
    answers = client.read_ranges("heartbeats", ranges)
    assert [plain(one) for one in answers] == [LARGE[i * 1000 : i * 1000 + 1000] for i in range(300)]


@pytest.mark.usefixtures("large")
def test_long_ranges_take_several_requests(client: AgentClient) -> None:
    ranges = [("x", i, 20_000_000) for i in range(3)]
    for i, one in enumerate(client.read_ranges("heartbeats", ranges)):
        assert plain(one) == LARGE[i : i + 20_000_000]


def test_ranges_of_a_locked_dataset_fail_each(agent: AgentServer) -> None:
    answers = AgentClient(agent.path).read_ranges("heartbeats", [("ecg.bin", 0, 5)] * 2)
    assert [type(one) for one in answers] == [AccessDeniedError] * 2


def test_no_ranges_are_no_request(client: AgentClient) -> None:
    assert client.read_ranges("heartbeats", []) == []


# --- without shared memory ---


@pytest.fixture(params=["no memfd", "no room", "older agent"])
def without_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no memfd":
        monkeypatch.delattr(os, "memfd_create")
    elif request.param == "no room":
        monkeypatch.setattr(AgentBlocks, "make", lambda *_: None)
    else:

        def unknown(*_: object) -> None:
            raise ProtocolError("The agent does not know this operation.")

        monkeypatch.setattr(AgentBlocks, "make", unknown)
    return str(request.param)


@pytest.mark.usefixtures("without_memory")
def test_everything_works_through_the_socket(client: AgentClient, large: list[int]) -> None:
    assert client.read_buffer("heartbeats", "x", 5, 9_000_000) == LARGE[5:9_000_005]
    assert client.read("heartbeats", "x", 5, 9_000_000) == LARGE[5:9_000_005]
    answers = client.read_ranges("heartbeats", [("x", 0, 100_000), ("absent", 0, 1), ("x", 7, 70)])
    assert (plain(answers[0]), plain(answers[2])) == (LARGE[:100_000], LARGE[7:77])
    assert isinstance(answers[1], StorageError)
    assert max(large) <= MAX_READ


# --- fork ---


@pytest.mark.usefixtures("large")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_memory_that_a_child_may_look_at_is_not_used_again(client: AgentClient) -> None:
    held = client.read_buffer("heartbeats", "x", 0, 1_000_000)
    to_parent, from_child = os.pipe()
    to_child, from_parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(to_child, 1)
        os.write(from_child, b"same" if held == LARGE[:1_000_000] else b"changed")
        os._exit(0)
    del held
    for start in range(1, 6):
        client.read_buffer("heartbeats", "x", start * 1_000_000, 1_000_000)
    os.write(from_parent, b"x")
    assert os.read(to_parent, 10) == b"same"
    os.waitpid(child, 0)
    for end in (to_parent, from_child, to_child, from_parent):
        os.close(end)


# --- the agent's side of the wire ---


@pytest.fixture
def raw(agent: AgentServer) -> Iterator[tuple[socket.socket, wire.Inbox]]:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(agent.path))
    inbox = wire.Inbox(connection)
    yield connection, inbox
    inbox.close()
    connection.close()


READ = {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "offset": 0, "length": 10, "at": 0}
READS = {"op": "reads", "dataset": "heartbeats", "into": 1, "at": 0}


@pytest.mark.parametrize(
    "body",
    [
        {**READ, "into": 7},
        {**READ, "into": "1"},
        {**READ, "into": 1, "at": -1},
        {**READ, "into": 1, "at": 1 << 61},
        {**READ, "into": 1, "length": (64 << 10) + 1},
        {**READ, "into": 1, "length": 1 << 70},
        {**READ, "into": 1, "drop": [1]},
        {**READ, "into": 1, "drop": 1},
        {**READS, "ranges": "all"},
        {**READS, "ranges": [["ecg.bin", 0]]},
        {**READS, "ranges": [["ecg.bin", 0, -1]]},
        {**READS, "ranges": [[7, 0, 1]]},
        {**READS, "ranges": [["ecg.bin", 0, 50_000], ["ecg.bin", 0, 50_000]]},
        {**READS, "ranges": [["ecg.bin", 0, 5]], "at": (64 << 10) - 4},
        {**READS, "ranges": [["ecg.bin", 0, 5]], "at": None},
        {**READS, "ranges": [["ecg.bin", 0, 1]] * (MAX_RANGES + 1)},
        {"op": "share"},
        {"op": "share", "size": -5},
        {"op": "share", "size": True},
    ],
)
def test_wrong_request_about_memory_is_answered(
    raw: tuple[socket.socket, wire.Inbox], body: dict[str, Any], client: AgentClient
) -> None:
    connection, inbox = raw
    wire.send_frame(connection, {"op": "share", "size": 1000})
    assert (inbox.message(1000, descriptors=True) or {})["result"] == {"block": 1, "size": 64 << 10}
    fd = inbox.descriptor()
    assert fd is not None
    os.close(fd)
    wire.send_frame(connection, body)
    answer = inbox.message(10_000) or {}
    assert answer["ok"] is False
    assert answer["error"]["code"] == "protocol"
    wire.send_frame(connection, {"op": "status"})
    assert (inbox.message(100_000) or {})["ok"] is True
    assert client.status().tier == "simulated"


def test_descriptor_that_a_client_sends_is_not_kept(
    raw: tuple[socket.socket, wire.Inbox], agent: AgentServer
) -> None:
    connection, inbox = raw
    wire.send_frame(connection, {"op": "status"})
    assert (inbox.message(100_000) or {})["ok"] is True
    before = open_descriptors()
    wire.send_frame(connection, {"op": "status"}, descriptor=0)
    assert (inbox.message(100_000) or {})["ok"] is True
    assert open_descriptors() == before
    assert agent.path.exists()


def test_more_descriptors_than_one_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        inbox = wire.Inbox(ours)
        data = b"\0\0\0\2{}"
        numbers = array.array("i", [0, 1, 2]).tobytes()
        theirs.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        before = open_descriptors()
        assert inbox.message(100, descriptors=True) == {}
        fd = inbox.descriptor()
        assert fd is not None
        assert open_descriptors() == before + 1
        os.close(fd)


def test_two_requests_at_once_are_both_answered(raw: tuple[socket.socket, wire.Inbox]) -> None:
    connection, inbox = raw
    one = b'\0\0\0\x0f{"op":"status"}'
    connection.sendall(one + one[:10])
    assert (inbox.message(100_000) or {})["ok"] is True
    connection.sendall(one[10:])
    assert (inbox.message(100_000) or {})["ok"] is True


def test_long_answer_is_received_whole() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    body = {"x": "y" * 300_000}
    with ours, theirs:
        sender = threading.Thread(target=lambda: wire.send_frame(theirs, body, memoryview(b"z" * 100_000)))
        sender.start()
        inbox = wire.Inbox(ours)
        assert inbox.message(1 << 20) == body
        raw_bytes = bytearray(100_000)
        inbox.raw(memoryview(raw_bytes))
        assert raw_bytes == b"z" * 100_000
        sender.join()


# --- the file ---


@pytest.mark.usefixtures("large")
def test_file_gives_buffers_to_arrow(client: AgentClient) -> None:
    file = SealedFile(client, "heartbeats", "x", len(LARGE))
    arrow = pa.PythonFile(file, mode="r")
    buffer = arrow.read_buffer(1_000_000)
    assert buffer.to_pybytes() == LARGE[:1_000_000]
    assert buffer.address % 4096 == 0
    assert arrow.read_buffer(10).to_pybytes() == LARGE[1_000_000:1_000_010]
    assert arrow.tell() == 1_000_010
    arrow.seek(len(LARGE) - 5)
    assert arrow.read_buffer(100).to_pybytes() == LARGE[-5:]
    assert arrow.read_buffer(100).to_pybytes() == b""


@pytest.mark.usefixtures("large")
def test_buffers_and_reads_share_the_position(client: AgentClient) -> None:
    file = SealedFile(client, "heartbeats", "x", len(LARGE))
    assert file.read(3) == LARGE[:3]
    assert file.read_buffer(5) == LARGE[3:8]
    assert file.read_buffer(400_000) == LARGE[8:400_008]
    assert file.read(2) == LARGE[400_008:400_010]
    assert file.pread_buffer(10, 300_000) == LARGE[10:300_010]
    assert file.tell() == 400_010
    assert file.read_buffer() == LARGE[400_010:]


@pytest.mark.usefixtures("large")
def test_threads_read_buffers_at_once(client: AgentClient) -> None:
    file = SealedFile(client, "heartbeats", "x", len(LARGE))
    wrong: list[int] = []

    def work(seed: int) -> None:
        held = []
        for i in range(30):
            offset = (seed * 7_654_321 + i * 1_234_567) % (len(LARGE) - 300_000)
            held.append((offset, file.pread_buffer(offset, 300_000)))
            held = held[-3:]
            wrong.extend(at for at, buffer in held if buffer != LARGE[at : at + 300_000])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kernel_blocks_know_nothing_of_dropped_ones() -> None:
    blocks = KernelBlocks()
    assert blocks.take(1000) is None
    assert blocks.dropped() == []
    assert blocks.wanted(1000) == USUAL_BLOCK
    assert blocks.wanted(100 << 20) == 100 << 20
