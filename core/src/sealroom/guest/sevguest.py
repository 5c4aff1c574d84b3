# SPDX-License-Identifier: BSD-3-Clause
"""Evidence from `/dev/sev-guest` (Linux, include/uapi/linux/sev-guest.h): SNP_GET_EXT_REPORT.

The kernel speaks MSG_REPORT_REQ and MSG_REPORT_RSP with the firmware; this hands it a request, a buffer for
the answer and one for the certificate table.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
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

DEVICE = Path("/dev/sev-guest")
SNP_GET_EXT_REPORT = 0xC0205302
"""_IOWR('S', 0x2, struct snp_guest_request_ioctl), 32 bytes."""
MESSAGE_VERSION = 1
RESPONSE_SIZE = 4000
_REQUEST = struct.Struct("=B7xQQQ")
_EXTENDED = struct.Struct("=96sQI4x")

Ioctl = Callable[[int, int, bytearray], int]


class SevGuestProvider:
    """Asks the kernel through the sev-guest driver.

    Args:
        device: The driver's device file.
        ioctl: The system call; a stand-in takes its place in tests.
    """

    name = "sev-guest"

    def __init__(self, device: Path = DEVICE, *, ioctl: Ioctl | None = None) -> None:
        self._device = device
        self._ioctl = ioctl or (
            lambda descriptor, request, argument: fcntl.ioctl(descriptor, request, argument)
        )

    def available(self) -> str:
        """Return why it cannot be used; empty if the device is there and may be used."""
        if not self._device.exists():
            return f"{self._device} is not there"
        return "" if os.access(self._device, os.R_OK | os.W_OK) else f"{self._device} may not be used"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Ask for an extended report over 64 bytes of report data."""
        check_report_data(report_data)
        table = ctypes.create_string_buffer(MAX_TABLE)
        answer = ctypes.create_string_buffer(RESPONSE_SIZE)
        extended = ctypes.create_string_buffer(
            _EXTENDED.pack(ReportRequest(report_data).to_bytes(), ctypes.addressof(table), MAX_TABLE),
            _EXTENDED.size,
        )
        request = bytearray(
            _REQUEST.pack(MESSAGE_VERSION, ctypes.addressof(extended), ctypes.addressof(answer), 0)
        )
        try:
            descriptor = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ioctl(descriptor, SNP_GET_EXT_REPORT, request)
            finally:
                os.close(descriptor)
        except OSError as error:
            *_, firmware = _REQUEST.unpack(request)
            raise NetworkError(
                f"The sev-guest driver gives no report: {error.strerror or error} "
                f"(firmware status {firmware:#x})."
            ) from error
        return self._read(answer.raw, table.raw)

    def _read(self, answer: bytes, table: bytes) -> GuestEvidence:
        # The buffer is longer than the message; what follows it is not part of the answer.
        status, size = struct.unpack_from("<II", answer)
        if status != STATUS_SUCCESS:
            raise ProtocolError(f"The secure processor refused the request with status {status:#x}.")
        try:
            response = ReportResponse.from_bytes(answer[: RESPONSE_HEADER + min(size, REPORT_SIZE)])
            certificates = read_certificates(table)
        except FormatError as error:
            raise ProtocolError(f"The sev-guest driver's answer is malformed: {error.message}") from error
        return GuestEvidence("snp", response.report, certificates, self.name)
