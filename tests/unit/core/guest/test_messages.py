# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import Error, FormatError
from sealroom.guest.messages import (
    REPORT_SIZE,
    RESPONSE_HEADER,
    STATUS_INVALID_PARAMETERS,
    ReportRequest,
    ReportResponse,
    read_certificates,
)


def test_request_has_amds_layout() -> None:
    data = ReportRequest(b"d" * 64, vmpl=2, key_sel=1).to_bytes()
    assert len(data) == 0x60
    assert data[:0x40] == b"d" * 64
    assert data[0x40:0x48] == struct.pack("<II", 2, 1)
    assert not any(data[0x48:])


@given(
    data=st.binary(min_size=64, max_size=64),
    vmpl=st.integers(0, 2**32 - 1),
    key_sel=st.integers(0, 2**32 - 1),
)
def test_request_round_trips(data: bytes, vmpl: int, key_sel: int) -> None:
    request = ReportRequest(data, vmpl, key_sel)
    assert ReportRequest.from_bytes(request.to_bytes()) == request


@pytest.mark.parametrize("size", [0, 95, 97])
def test_request_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match=f"96 bytes, not {size}"):
        ReportRequest.from_bytes(bytes(size))


def test_request_with_reserved_bytes_is_refused() -> None:
    with pytest.raises(FormatError) as caught:
        ReportRequest.from_bytes(bytes(0x48) + b"\1" + bytes(23))
    assert caught.value.offset == 0x48


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_is_not_padded_or_cut(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        ReportRequest(bytes(size)).to_bytes()


def test_response_round_trips() -> None:
    response = ReportResponse(0, b"r" * REPORT_SIZE)
    assert ReportResponse.from_bytes(response.to_bytes()) == response
    refusal = ReportResponse(STATUS_INVALID_PARAMETERS)
    assert ReportResponse.from_bytes(refusal.to_bytes()) == refusal


def test_short_response_is_refused() -> None:
    with pytest.raises(FormatError, match="at least 32 bytes"):
        ReportResponse.from_bytes(bytes(RESPONSE_HEADER - 1))


@pytest.mark.parametrize("extra", [-1, 1])
def test_response_of_another_length_than_it_says_is_refused(extra: int) -> None:
    data = ReportResponse(0, bytes(REPORT_SIZE)).to_bytes()
    with pytest.raises(FormatError):
        ReportResponse.from_bytes(data[:extra] if extra < 0 else data + bytes(extra))


def test_success_without_a_report_is_refused() -> None:
    with pytest.raises(FormatError):
        ReportResponse.from_bytes(bytes(RESPONSE_HEADER))


def test_refusal_with_a_report_is_refused() -> None:
    data = ReportResponse(STATUS_INVALID_PARAMETERS, bytes(REPORT_SIZE)).to_bytes()
    with pytest.raises(FormatError):
        ReportResponse.from_bytes(data)


@given(st.binary(max_size=2000))
def test_no_bytes_raise_anything_but_our_error(data: bytes) -> None:
    for parse in (ReportRequest.from_bytes, ReportResponse.from_bytes, read_certificates):
        with contextlib.suppress(Error):
            parse(data)


@pytest.mark.parametrize("table", [b"", bytes(4096)])
def test_host_that_gives_no_certificates_gives_none(table: bytes) -> None:
    assert read_certificates(table) == {}
