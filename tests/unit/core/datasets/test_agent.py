# SPDX-License-Identifier: BSD-3-Clause
"""The socket between a kernel and the notebook server's process."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import socket
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sealroom import errors
from sealroom.datasets import agent_server
from sealroom.datasets import connection as connection_module
from sealroom.datasets.agent import MAX_READ, AgentClient, error_from_wire, error_to_wire, send_frame
from sealroom.datasets.agent_server import AgentServer, peer_uid
from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    IntegrityError,
    NetworkError,
    ProtocolError,
    StorageError,
)
from support.sealed import PLAIN, Backend, read_in_child

ECG = PLAIN["ecg.bin"]


@pytest.fixture
def client(agent: AgentServer) -> AgentClient:
    return AgentClient(agent.path)


@pytest.fixture
def unlocked(client: AgentClient) -> AgentClient:
    client.unlock("heartbeats")
    return client


def raw_connection(agent: AgentServer) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(agent.path))
    return connection


def receive_answer(connection: socket.socket) -> dict[str, Any]:
    (size,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    answer: dict[str, Any] = json.loads(connection.recv(size, socket.MSG_WAITALL))
    return answer


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        # What was sent last was never read.
        return True


def frame(body: object) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack(">I", len(data)) + data


# --- operations ---


def test_status_and_datasets_come_through(client: AgentClient, backend: Backend) -> None:
    assert client.status() == backend.status()
    assert client.datasets() == (backend.info(),)


def test_unlock_files_and_record_come_through(client: AgentClient, backend: Backend) -> None:
    assert client.unlock("heartbeats", "DUO:0000042").state == "unlocked"
    assert backend.asked == [("heartbeats", "DUO:0000042")]
    assert client.files("heartbeats") == backend.files("heartbeats")
    assert client.record("heartbeats") == backend.record("heartbeats")


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (65530, 100), (0, len(ECG)), (len(ECG) - 5, 100), (len(ECG) + 5, 5), (7, 0)],
)
def test_ranges_come_through(unlocked: AgentClient, offset: int, length: int) -> None:
    assert unlocked.read("heartbeats", "ecg.bin", offset, length) == ECG[offset : offset + length]


def test_range_longer_than_one_answer_is_put_together(
    unlocked: AgentClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"\1" * MAX_READ + b"\2" * MAX_READ + b"\3" * 10

    def fill(_dataset: str, _file: str, offset: int, buffer: memoryview) -> int:
        part = whole[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    monkeypatch.setattr(backend, "read_into", fill)
    data = unlocked.read("heartbeats", "ecg.bin", 0, 3 * MAX_READ)
    assert data == whole


def test_huge_length_makes_no_huge_buffer(unlocked: AgentClient) -> None:
    assert unlocked.read("heartbeats", "ecg.bin", 0, 1 << 50) == ECG


def test_no_key_crosses_the_socket(agent: AgentServer, backend: Backend) -> None:
    with raw_connection(agent) as connection:
        seen = b""
        for request in (
            {"op": "unlock", "dataset": "heartbeats", "purpose": ""},
            {"op": "files", "dataset": "heartbeats"},
            {"op": "record", "dataset": "heartbeats"},
            {"op": "datasets"},
            {"op": "status"},
        ):
            connection.sendall(frame(request))
            seen += json.dumps(receive_answer(connection)).encode()
    release = backend.vault._releases["heartbeats"]
    for key in [k.reveal() for group in release.keys.values() for k in group]:
        assert key not in seen
        assert key.hex().encode() not in seen


# --- errors ---


def test_refusal_keeps_its_reasons(client: AgentClient, backend: Backend) -> None:
    backend.refusal = AccessDeniedError(
        "The Heart Centre has not granted you heartbeats.",
        reasons=(("grant.none", "You have no grant."), ("purpose", "Not for this.")),
        advice="Ask data@heart.example.",
    )
    with pytest.raises(AccessDeniedError) as caught:
        client.unlock("heartbeats")
    assert caught.value.message == backend.refusal.message
    assert caught.value.reasons == backend.refusal.reasons
    assert caught.value.advice == backend.refusal.advice


def test_withdrawal_reaches_the_next_read(unlocked: AgentClient, backend: Backend) -> None:
    unlocked.read("heartbeats", "ecg.bin", 0, 10)
    backend.vault.drop("heartbeats", "The Heart Centre withdrew your access.", advice="Ask them.")
    with pytest.raises(AccessDeniedError, match="withdrew") as caught:
        unlocked.read("heartbeats", "ecg.bin", 0, 10)
    assert caught.value.advice == "Ask them."
    assert unlocked.status().tier == "simulated"


def test_tampering_reaches_the_kernel_with_file_and_segment(unlocked: AgentClient, backend: Backend) -> None:
    path = backend.sealed.directory.sealed_file("ecg.bin")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="segment 1 of 5"):
        unlocked.read("heartbeats", "ecg.bin", 0, 10)


@pytest.mark.parametrize(
    "kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Error)]
)
def test_every_error_keeps_its_class(kind: type[Error]) -> None:
    again = error_from_wire(json.loads(json.dumps(error_to_wire(kind("Message.", advice="Advice.")))))
    assert type(again) is kind
    assert (again.message, again.advice) == ("Message.", "Advice.")


@pytest.mark.parametrize("body", [None, [], {}, {"message": 1}, {"code": "tag"}])
def test_unreadable_error_is_a_protocol_error(body: object) -> None:
    assert type(error_from_wire(body)) is ProtocolError


def test_unknown_code_is_still_an_error() -> None:
    assert type(error_from_wire({"code": "of the future", "message": "Message."})) is Error


def test_bug_in_the_backend_is_told_without_details(
    client: AgentClient, backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("key material")

    monkeypatch.setattr(backend, "status", fail)
    with pytest.raises(Error, match="failed inside") as caught:
        client.status()
    assert "key material" not in caught.value.diagnostics()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert client.datasets()


# --- the client ---


def test_outside_of_a_server_the_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALROOM_RUN", raising=False)
    with pytest.raises(NetworkError, match="SEALROOM_RUN is not set") as caught:
        AgentClient.from_environment()
    assert "does not run in a Sealroom notebook server" in caught.value.message


def test_server_that_is_gone_is_a_network_error(run: Path) -> None:
    with pytest.raises(NetworkError, match="does not answer") as caught:
        AgentClient(run / "agent.sock").status()
    assert "Restart" in caught.value.advice


def test_client_survives_a_restart_of_the_server(
    client: AgentClient, agent: AgentServer, backend: Backend
) -> None:
    client.status()
    agent.stop()
    with pytest.raises(NetworkError):
        client.status()
    with AgentServer(agent.path, backend):
        assert client.status().tier == "simulated"


def test_idle_connection_of_a_restarted_server_is_replaced(
    client: AgentClient, agent: AgentServer, backend: Backend
) -> None:
    client.status()
    agent.stop()
    with AgentServer(agent.path, backend):
        assert client.status().tier == "simulated"


def test_connection_is_used_again(client: AgentClient, agent: AgentServer) -> None:
    for _ in range(5):
        client.status()
    assert len(agent._connections) == 1


def test_client_pickles_as_its_path(unlocked: AgentClient) -> None:
    again = pickle.loads(pickle.dumps(unlocked))
    assert again.path == unlocked.path
    assert again.read("heartbeats", "ecg.bin", 0, 10) == ECG[:10]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_client_works_in_a_child_process_and_after_it(unlocked: AgentClient, method: str) -> None:
    unlocked.read("heartbeats", "ecg.bin", 0, 10)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(unlocked, queue))
    child.start()
    assert queue.get(timeout=30) == ECG[100:150]
    child.join()
    queue.close()
    queue.join_thread()
    assert unlocked.read("heartbeats", "ecg.bin", 0, 10) == ECG[:10]


def test_many_threads_share_a_client(unlocked: AgentClient) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(40):
            offset = (seed * 31_337 + i * 7919) % len(ECG)
            if unlocked.read("heartbeats", "ecg.bin", offset, 5000) != ECG[offset : offset + 5000]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_interrupted_answer_does_not_shift_the_next_one(
    unlocked: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = connection_module._round_trip

    def interrupt(connection: Any, request: dict[str, Any], _buffer: memoryview) -> NoReturn:
        send_frame(connection.socket, request)
        raise KeyboardInterrupt

    monkeypatch.setattr(connection_module, "_round_trip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unlocked.read("heartbeats", "ecg.bin", 0, 10)
    monkeypatch.setattr(connection_module, "_round_trip", original)
    assert unlocked.read("heartbeats", "ecg.bin", 20, 10) == ECG[20:30]


class FakeServer:
    """Answers every connection with given bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._answer)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (frame(b"no json"), ProtocolError),
        (frame([1]), ProtocolError),
        (struct.pack(">I", 1 << 31), ProtocolError),
        (frame({"ok": True, "result": {"surprise": 1}, "size": 0}), ProtocolError),
        (frame({"ok": True, "size": 5}) + b"12345", ProtocolError),
        (frame({"ok": True, "size": -1}), ProtocolError),
        (frame({"ok": 1}), ProtocolError),
        (struct.pack(">I", 100) + b"{", NetworkError),
        (b"", NetworkError),
    ],
    ids=[
        "not JSON", "not an object", "too long", "another message", "bytes not asked for", "negative size",
        "ok is not true", "cut", "nothing",
    ],
)  # fmt: skip
def test_wrong_answer_is_an_error(run: Path, answer: bytes, kind: type[Error]) -> None:
    server = FakeServer(run / "agent.sock", answer)
    try:
        with pytest.raises(kind):
            AgentClient(run / "agent.sock").status()
    finally:
        server.close()


# --- the server ---


def test_socket_is_the_users_alone(agent: AgentServer) -> None:
    mode = agent.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_peer_is_who_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_uid(ours) == os.getuid()


def test_another_user_is_refused(
    agent: AgentServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_server, "peer_uid", lambda _: os.getuid() + 1)
    with raw_connection(agent) as connection:
        assert is_closed(connection)
    assert f"user id {os.getuid() + 1}" in caplog.text


def test_peer_that_cannot_be_known_is_refused(agent: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: socket.socket) -> int:
        raise OSError("not told")

    monkeypatch.setattr(agent_server, "peer_uid", unknown)
    with raw_connection(agent) as connection:
        assert is_closed(connection)


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        {"op": "release_the_keys"},
        {"op": ["read"]},
        {"op": "unlock", "purpose": ""},
        {"op": "unlock", "dataset": 7, "purpose": ""},
        {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "length": 1},
        {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "offset": -1, "length": 1},
        {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "offset": 0, "length": True},
        {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "offset": 0, "length": MAX_READ + 1},
        {"op": "read", "dataset": "heartbeats", "file": "ecg.bin", "offset": 1 << 70, "length": 1},
    ],
    ids=[
        "empty", "unknown", "op is a list", "no dataset", "dataset is a number", "no offset",
        "negative offset", "length is a truth value", "length beyond the bound", "offset beyond all files",
    ],
)  # fmt: skip
def test_wrong_request_is_answered_and_the_connection_goes_on(
    agent: AgentServer, request_body: object
) -> None:
    with raw_connection(agent) as connection:
        connection.sendall(frame(request_body))
        answer = receive_answer(connection)
        assert answer["ok"] is False
        assert answer["error"]["code"] == "protocol"
        connection.sendall(frame({"op": "status"}))
        assert receive_answer(connection)["ok"] is True


@pytest.mark.parametrize(
    "garbage", [frame(b"\xff\xfe"), frame([1, 2]), struct.pack(">I", 1 << 20), b"GET / HTTP/1.1"]
)
def test_garbage_is_answered_and_the_connection_closed(agent: AgentServer, garbage: bytes) -> None:
    with raw_connection(agent) as connection:
        connection.sendall(garbage)
        assert receive_answer(connection)["error"]["code"] == "protocol"
        assert is_closed(connection)


def test_names_that_climb_find_nothing(unlocked: AgentClient) -> None:
    with pytest.raises(StorageError):
        unlocked.read("heartbeats", "../../../../etc/passwd", 0, 10)
    with pytest.raises(AccessDeniedError):
        unlocked.read("../heartbeats", "ecg.bin", 0, 10)


def test_silent_and_stuck_clients_hold_up_nobody(unlocked: AgentClient, agent: AgentServer) -> None:
    silent = [raw_connection(agent) for _ in range(10)]
    for connection in silent[:5]:
        connection.sendall(b"\0\0")
    assert unlocked.read("heartbeats", "ecg.bin", 0, 10) == ECG[:10]
    for connection in silent:
        connection.close()


def test_message_that_stops_in_the_middle_ends_its_connection(
    agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_server, "_MESSAGE_TIMEOUT", 0.05)
    with raw_connection(agent) as connection:
        connection.sendall(b"\0\0\0\x10{")
        assert is_closed(connection)


def test_slow_operation_holds_up_nobody(unlocked: AgentClient, backend: Backend) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        backend.on_read = lambda: None
        entered.set()
        assert go_on.wait(30)

    backend.on_read = wait
    results: list[bytes] = []
    slow = threading.Thread(target=lambda: results.append(unlocked.read("heartbeats", "ecg.bin", 0, 5)))
    slow.start()
    assert entered.wait(30)
    assert unlocked.read("heartbeats", "ecg.bin", 10, 5) == ECG[10:15]
    assert results == []
    go_on.set()
    slow.join()
    assert results == [ECG[:5]]


def test_connections_beyond_the_bound_are_refused(
    agent: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_server, "MAX_CONNECTIONS", 2)
    first = [raw_connection(agent) for _ in range(2)]
    for connection in first:
        connection.sendall(frame({"op": "status"}))
        assert receive_answer(connection)["ok"]
    with raw_connection(agent) as third:
        assert is_closed(third)
    for connection in first:
        connection.close()


def test_stop_ends_connections_and_removes_the_socket(agent: AgentServer) -> None:
    with raw_connection(agent) as connection:
        connection.sendall(frame({"op": "status"}))
        receive_answer(connection)
        agent.stop()
        assert is_closed(connection)
    assert not agent.path.exists()
    agent.stop()


def test_socket_that_a_dead_server_left_is_replaced(run: Path, backend: Backend) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(run / "agent.sock"))
    stale.close()
    with AgentServer(run / "agent.sock", backend):
        assert AgentClient(run / "agent.sock").status().tier == "simulated"


def test_stop_leaves_the_socket_of_a_successor(run: Path, backend: Backend) -> None:
    first = AgentServer(run / "agent.sock", backend)
    first.start()
    with AgentServer(run / "agent.sock", backend):
        first.stop()
        assert AgentClient(run / "agent.sock").status().tier == "simulated"


def test_starting_twice_is_the_callers_mistake(agent: AgentServer) -> None:
    with pytest.raises(RuntimeError):
        agent.start()


@pytest.mark.parametrize("name", ["x" * 200, "no/such/agent.sock"])
def test_socket_that_cannot_be_made_is_told(run: Path, backend: Backend, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made"):
        AgentServer(run / name, backend).start()


def test_answers_are_not_mixed_between_clients(agent: AgentServer, unlocked: AgentClient) -> None:
    clients: list[Callable[[], bytes]] = [
        lambda n=n: AgentClient(agent.path).read("heartbeats", "ecg.bin", n * 1000, 1000)  # type: ignore[misc]
        for n in range(8)
    ]
    assert [client() for client in clients] == [ECG[n * 1000 : (n + 1) * 1000] for n in range(8)]
