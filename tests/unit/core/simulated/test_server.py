# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import ConfigurationError, StorageError
from sealroom.guest import SimulatedProvider
from sealroom.guest.messages import STATUS_INVALID_PARAMETERS, ReportRequest, ReportResponse
from sealroom.simulated import Processor
from sealroom.simulated.server import Server


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's place that other users can reach, unlike pytest's own directories."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory / "sp.sock"
    shutil.rmtree(directory)


@pytest.fixture
def served(path: Path) -> Iterator[Path]:
    with testing.running_processor(path, request_seconds=0.5):
        yield path


def make(path: Path, **changes: object) -> Server:
    processor = Processor(testing.chain(), at=testing.EPOCH, measurement=bytes(48), host_data=bytes(32))
    return Server(processor, path, **changes)  # type: ignore[arg-type]


def dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, "the server closed the connection"
        data += part
    return data


def block(connection: socket.socket) -> bytes:
    (size,) = struct.unpack("<I", read(connection, 4))
    return read(connection, size)


def test_socket_is_the_owners_alone(served: Path) -> None:
    mode = served.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert served.stat().st_uid == os.geteuid()


def test_one_connection_can_ask_several_times(served: Path) -> None:
    with dial(served) as connection:
        for byte in (1, 2, 3):
            connection.sendall(ReportRequest(bytes([byte]) * 64).to_bytes())
            report = ReportResponse.from_bytes(block(connection)).report
            assert report[0x50:0x90] == bytes([byte]) * 64
            assert block(connection)


def test_request_in_pieces_is_answered(served: Path) -> None:
    request = ReportRequest(b"x" * 64).to_bytes()
    with dial(served) as connection:
        connection.sendall(request[:50])
        connection.sendall(request[50:])
        assert ReportResponse.from_bytes(block(connection)).status == 0


def test_request_with_reserved_bytes_is_refused_and_the_connection_stays(served: Path) -> None:
    with dial(served) as connection:
        connection.sendall(ReportRequest(bytes(64)).to_bytes()[:-1] + b"\1")
        assert ReportResponse.from_bytes(block(connection)).status == STATUS_INVALID_PARAMETERS
        assert block(connection) == b""
        connection.sendall(ReportRequest(bytes(64)).to_bytes())
        assert ReportResponse.from_bytes(block(connection)).status == 0


def test_request_that_ends_early_is_dropped(served: Path) -> None:
    with dial(served) as connection:
        connection.sendall(bytes(95))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert SimulatedProvider(served).evidence(bytes(64)).report


def test_request_that_never_ends_is_dropped(served: Path) -> None:
    with dial(served) as connection:
        connection.sendall(bytes(10))
        assert connection.recv(1) == b""
    assert SimulatedProvider(served).evidence(bytes(64)).report


def test_many_idle_connections_do_not_keep_others_out_for_ever(served: Path) -> None:
    with contextlib.ExitStack() as idle:
        for _ in range(20):
            idle.enter_context(dial(served))
        assert SimulatedProvider(served, timeout=60).evidence(bytes(64)).report


def test_many_clients_at_once_get_their_own_reports(served: Path) -> None:
    found: dict[int, bytes] = {}

    def ask(number: int) -> None:
        report = SimulatedProvider(served, timeout=60).evidence(bytes([number]) * 64).report
        found[number] = report[0x50:0x90]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: bytes([number]) * 64 for number in range(24)}


@given(data=st.binary(max_size=300))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_stop_the_server(served: Path, data: bytes) -> None:
    with dial(served) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert SimulatedProvider(served).evidence(bytes(64)).report


def test_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with testing.running_processor(path):
        assert SimulatedProvider(path).evidence(bytes(64)).report


def test_live_socket_is_not_replaced(served: Path) -> None:
    with pytest.raises(ConfigurationError, match="Another simulated processor answers"):
        make(served)
    assert SimulatedProvider(served).evidence(bytes(64)).report


def test_file_in_its_place_is_not_replaced(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="is not a socket"):
        make(path)
    assert path.read_text() == "mine"


def test_long_path_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longer than 100 bytes"):
        make(tmp_path / ("x" * 100))


def test_missing_directory_is_reported(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(StorageError, match="cannot be made"):
        make(tmp_path_factory.mktemp("sp") / "none" / "sp.sock")


def test_socket_is_gone_after_the_end(path: Path) -> None:
    with testing.running_processor(path):
        assert path.exists()
    assert not path.exists()
    assert not list(path.parent.iterdir())


def test_successors_socket_is_left_alone(path: Path) -> None:
    first = make(path)
    path.unlink()
    second = make(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_end_when_nobody_needs_it_any_more(path: Path) -> None:
    make(path).serve(alive=lambda: False)
    assert not path.exists()


def test_altered_report_leaves_altered(path: Path) -> None:
    with testing.running_processor(path, alter=lambda report: b"\0" * 4 + report[4:]):
        assert SimulatedProvider(path).evidence(bytes(64)).report[:4] == bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a socket for another user")
@pytest.mark.parametrize("owned", [True, False], ids=["users-directory", "roots-directory"])
def test_socket_belongs_to_the_user(path: Path, owned: bool) -> None:
    if owned:
        os.chown(path.parent, 65534, 65534)
    server = make(path, uid=65534, gid=65534)
    found = path.stat()
    server.close()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65534, 0o600)
    assert os.geteuid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_link_in_the_users_directory_is_not_followed(path: Path, tmp_path: Path) -> None:
    """A user who can write the directory gains nothing with a link to a file of root's."""
    secret = tmp_path / "secret"
    secret.write_text("root's")
    os.chown(path.parent, 65534, 65534)
    path.symlink_to(secret)
    with pytest.raises(ConfigurationError, match="is not a socket"):
        make(path, uid=65534)
    assert secret.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root can make a socket for another user")
def test_socket_for_another_user_needs_root(path: Path) -> None:
    with pytest.raises((ConfigurationError, StorageError)):
        make(path, uid=0)


def test_other_users_are_not_answered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "_peer_allowed", lambda *_: False)
    with testing.running_processor(path), dial(path) as connection:
        assert connection.recv(1) == b""
