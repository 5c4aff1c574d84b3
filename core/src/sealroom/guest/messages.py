# SPDX-License-Identifier: BSD-3-Clause
"""The messages between a guest and its secure processor (AMD 56860 rev 1.58, section 7.3).

What this is: MSG_REPORT_REQ and MSG_REPORT_RSP. What it is not: a verifier.

- Lengths and reserved bytes are checked, nothing is padded or cut.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sealroom.errors import FormatError
from sealroom.snp.table import parse_certificate_table

REQUEST_SIZE = 0x60
RESPONSE_HEADER = 0x20
REPORT_SIZE = 0x4A0
MAX_TABLE = 64 * 1024
"""A table of four certificates has about 6 KiB; the limit only bounds what is read."""
STATUS_SUCCESS = 0
STATUS_INVALID_PARAMETERS = 0x16
STATUS_INVALID_KEY_SELECTION = 0x27


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """MSG_REPORT_REQ."""

    report_data: bytes
    """64 bytes that the processor copies into the report."""
    vmpl: int = 0
    key_sel: int = 0
    """0: VLEK if the platform has one, else VCEK; 1: VCEK; 2: VLEK."""

    @classmethod
    def from_bytes(cls, data: bytes) -> ReportRequest:
        """Parse the 96 bytes of a request."""
        if len(data) != REQUEST_SIZE:
            raise FormatError(
                f"A report request has {REQUEST_SIZE} bytes, not {len(data)}.",
                field="MSG_REPORT_REQ",
                offset=0,
            )
        vmpl, key_sel = struct.unpack_from("<II", data, 0x40)
        if any(data[0x48:]):
            raise FormatError(
                "Reserved bytes of a report request are not zero.", field="RESERVED", offset=0x48
            )
        return cls(data[:0x40], vmpl, key_sel)

    def to_bytes(self) -> bytes:
        """Lay out the request."""
        if len(self.report_data) != 64:
            raise ValueError(f"report_data has 64 bytes, not {len(self.report_data)}")
        return self.report_data + struct.pack("<II", self.vmpl, self.key_sel) + bytes(24)


@dataclass(frozen=True, slots=True)
class ReportResponse:
    """MSG_REPORT_RSP."""

    status: int
    report: bytes = b""
    """1184 bytes, or nothing if the status is an error."""

    @classmethod
    def from_bytes(cls, data: bytes) -> ReportResponse:
        """Parse a response; bytes after the report are not allowed."""
        if len(data) < RESPONSE_HEADER:
            raise FormatError(
                f"A report response has at least {RESPONSE_HEADER} bytes, not {len(data)}.",
                field="MSG_REPORT_RSP",
                offset=len(data),
            )
        status, size = struct.unpack_from("<II", data)
        expected = REPORT_SIZE if status == STATUS_SUCCESS else 0
        if size != expected or len(data) != RESPONSE_HEADER + size:
            raise FormatError(
                f"A report response with status {status:#x} holds {expected} bytes of report, not {size} in "
                f"{len(data)} bytes.",
                field="REPORT_SIZE",
                offset=4,
            )
        return cls(status, data[RESPONSE_HEADER:])

    def to_bytes(self) -> bytes:
        """Lay out the response."""
        return struct.pack("<II", self.status, len(self.report)) + bytes(24) + self.report


def read_certificates(table: bytes) -> dict[str, bytes]:
    """Read the table that came with a report; some hosts give none, which is an empty one."""
    return parse_certificate_table(table) if any(table) else {}
