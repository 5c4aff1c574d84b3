# SPDX-License-Identifier: BSD-3-Clause
"""Against a stand-in for the driver that reads and writes the same structures at the same addresses."""

from __future__ import annotations

import ctypes
import errno
import struct
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest import Provider, SevGuestProvider
from sealroom.guest.messages import ReportRequest, ReportResponse
from sealroom.snp.table import build_certificate_table


class Driver:
    """SNP_GET_EXT_REPORT as include/uapi/linux/sev-guest.h describes it."""

    def __init__(self, *, status: int = 0, fails: int = 0, table: bytes | None = None) -> None:
        self.status, self.fails = status, fails
        self.table = build_certificate_table(testing.chip().certificates) if table is None else table

    def __call__(self, descriptor: int, request: int, argument: bytearray) -> int:
        # _IOWR('S', 2, 32 bytes)
        assert request == (3 << 30) | (32 << 16) | (ord("S") << 8) | 2
        assert len(argument) == 32
        version, req_data, resp_data, _ = struct.unpack("=B7xQQQ", argument)
        assert version == 1
        if self.fails:
            struct.pack_into("=Q", argument, 24, 0x16)
            raise OSError(self.fails, "Input/output error")
        extended = ctypes.string_at(req_data, 112)
        asked = ReportRequest.from_bytes(extended[:96])
        address, length = struct.unpack_from("=QI", extended, 96)
        assert length >= len(self.table)
        ctypes.memmove(address, self.table, len(self.table))
        report = b"" if self.status else testing.chip().report(report_data=asked.report_data)
        message = ReportResponse(self.status, report).to_bytes()
        ctypes.memmove(resp_data, message, len(message))
        return 0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sev-guest"
    path.write_bytes(b"")
    return path


def test_report_and_certificates_are_read(device: Path) -> None:
    provider = SevGuestProvider(device, ioctl=Driver())
    assert isinstance(provider, Provider)
    assert provider.available() == ""
    evidence = provider.evidence(b"n" * 64)
    assert evidence.report[0x50:0x90] == b"n" * 64
    assert evidence.certificates == testing.chip().certificates
    assert evidence.provider == "sev-guest"


def test_host_without_certificates_gives_none(device: Path) -> None:
    assert SevGuestProvider(device, ioctl=Driver(table=b"")).evidence(bytes(64)).certificates == {}


def test_absent_device_is_said(tmp_path: Path) -> None:
    assert "is not there" in SevGuestProvider(tmp_path / "none").available()


def test_file_that_is_no_device_is_a_network_error(device: Path) -> None:
    with pytest.raises(NetworkError, match="gives no report"):
        SevGuestProvider(device).evidence(bytes(64))


def test_firmware_error_is_named(device: Path) -> None:
    with pytest.raises(NetworkError, match="firmware status 0x16"):
        SevGuestProvider(device, ioctl=Driver(fails=errno.EIO)).evidence(bytes(64))


def test_refusal_is_named(device: Path) -> None:
    with pytest.raises(ProtocolError, match="status 0x27"):
        SevGuestProvider(device, ioctl=Driver(status=0x27)).evidence(bytes(64))


def test_request_names_level_0_and_leaves_the_key_to_the_firmware(device: Path) -> None:
    """key_sel 0 lets the firmware choose: VLEK where one is loaded, else VCEK."""
    seen: list[bytes] = []

    class Recorder(Driver):
        def __call__(self, descriptor: int, request: int, argument: bytearray) -> int:
            _, req_data, _, _ = struct.unpack("=B7xQQQ", argument)
            seen.append(ctypes.string_at(req_data, 96))
            return super().__call__(descriptor, request, argument)

    SevGuestProvider(device, ioctl=Recorder()).evidence(b"n" * 64)
    assert seen == [b"n" * 64 + bytes(32)]


def test_malformed_table_is_refused(device: Path) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        SevGuestProvider(device, ioctl=Driver(table=b"x" * 30)).evidence(bytes(64))
