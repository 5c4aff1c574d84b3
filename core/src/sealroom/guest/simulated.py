# SPDX-License-Identifier: BSD-3-Clause
"""Evidence from a simulated secure processor on a Unix socket.

One request is the 96 bytes of MSG_REPORT_REQ; the answer is MSG_REPORT_RSP and the certificate table, each
after its length (unsigned, 4 bytes, little-endian).
"""

from __future__ import annotations

import socket
import stat
import struct
from pathlib import Path

from sealroom.errors import FormatError, NetworkError, ProtocolError
from sealroom.guest.messages import (
    MAX_TABLE,
    REPORT_SIZE,
    RESPONSE_HEADER,
    STATUS_SUCCESS,
    ReportRequest,
    ReportResponse,
    read_certificates,
)
from sealroom.guest.provider import GuestEvidence, check_report_data

SOCKET_NAME = "sp.sock"
"""Name of the socket in a server's run directory."""


class SimulatedProvider:
    """Asks the simulated processor that belongs to this server.

    Args:
        path: The processor's socket.
        timeout: Seconds to wait for each step of the answer.
    """

    name = "simulated"

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def available(self) -> str:
        """Return why it cannot be used; empty if the socket is there."""
        try:
            mode = self._path.stat().st_mode
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return "" if stat.S_ISSOCK(mode) else f"{self._path} is not a socket"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Ask for a report over 64 bytes of report data."""
        check_report_data(report_data)
        advice = "Stop this server and start it again from the hub."
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._path))
                connection.sendall(ReportRequest(report_data).to_bytes())
                answer = _receive_block(connection, RESPONSE_HEADER + REPORT_SIZE)
                table = _receive_block(connection, MAX_TABLE)
        except OSError as error:
            raise NetworkError(
                f"The simulated secure processor does not answer: {error.strerror or error}.", advice=advice
            ) from error
        try:
            response = ReportResponse.from_bytes(answer)
            certificates = read_certificates(table)
        except FormatError as error:
            raise ProtocolError(
                f"The simulated secure processor's answer is malformed: {error.message}", advice=advice
            ) from error
        if response.status != STATUS_SUCCESS:
            raise ProtocolError(
                f"The simulated secure processor refused the request with status {response.status:#x}."
            )
        return GuestEvidence("snp", response.report, certificates, self.name)


def _receive_block(connection: socket.socket, limit: int) -> bytes:
    (size,) = struct.unpack("<I", _receive(connection, 4))
    if size > limit:
        raise ProtocolError(
            f"The simulated secure processor announces {size} bytes; at most {limit} are expected."
        )
    return _receive(connection, size)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ProtocolError(
                f"The simulated secure processor closed the connection after {len(data)} of {size} bytes."
            )
        data += part
    return bytes(data)
