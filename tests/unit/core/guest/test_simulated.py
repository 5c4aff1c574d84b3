# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest import Provider, SimulatedProvider
from sealroom.guest.messages import ReportResponse
from sealroom.snp import verify_report


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp())
    yield directory / "sp.sock"
    shutil.rmtree(directory)


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A processor that says the same to everybody."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(96, socket.MSG_WAITALL)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def blocks(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def test_evidence_verifies(path: Path) -> None:
    with testing.running_processor(path):
        provider = SimulatedProvider(path)
        assert isinstance(provider, Provider)
        assert provider.available() == ""
        evidence = provider.evidence(b"n" * 64)
    assert (evidence.tee, evidence.provider) == ("snp", "simulated")
    verified = verify_report(
        evidence.report,
        evidence.certificates["VCEK"],
        roots=testing.development_roots(),
        at=testing.NOW,
        intermediates=[evidence.certificates["ASK"]],
    )
    assert verified.report.report_data == b"n" * 64


def test_evidence_is_not_printed(path: Path) -> None:
    with testing.running_processor(path):
        assert "report" not in repr(SimulatedProvider(path).evidence(bytes(64)))


def test_missing_socket_is_said(path: Path) -> None:
    assert "No such file" in SimulatedProvider(path).available()
    with pytest.raises(NetworkError, match="does not answer"):
        SimulatedProvider(path).evidence(bytes(64))


def test_file_is_no_processor(path: Path) -> None:
    path.write_bytes(b"")
    assert "is not a socket" in SimulatedProvider(path).available()


@pytest.mark.parametrize("size", [63, 65])
def test_report_data_is_not_padded_or_cut(path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        SimulatedProvider(path).evidence(bytes(size))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection after 0 of 4"),
        (b"\x10\0\0\0abc", "after 3 of 16"),
        (b"\xff\xff\xff\xff", "announces 4294967295 bytes"),
        (blocks(bytes(32), b""), "malformed"),
        (blocks(ReportResponse(0, bytes(1184)).to_bytes(), b"x" * 24), "malformed"),
        (blocks(ReportResponse(0, bytes(1184)).to_bytes())[:-1], "closed the connection"),
        (blocks(ReportResponse(0x16).to_bytes(), b""), "refused the request with status 0x16"),
    ],
    ids=["nothing", "cut", "too-long", "no-report", "bad-table", "one-byte-short", "refusal"],
)
def test_wrong_answer_is_a_protocol_error(path: Path, answer: bytes, reason: str) -> None:
    with answering(path, answer), pytest.raises(ProtocolError, match=reason):
        SimulatedProvider(path).evidence(bytes(64))


def test_processor_that_hangs_is_a_network_error(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(NetworkError, match="timed out"):
            SimulatedProvider(path, timeout=0.05).evidence(bytes(64))
