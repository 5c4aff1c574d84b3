# SPDX-License-Identifier: BSD-3-Clause
"""Certificate tables: what a host may write, and everything it may not."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import FormatError
from sealroom.snp.table import (
    KINDS,
    MAX_TABLE,
    build_certificate_table,
    parse_certificate_table,
    split_extended_report,
)

VCEK = uuid.UUID(next(guid for guid, kind in KINDS.items() if kind == "VCEK")).bytes
ASK = uuid.UUID(next(guid for guid, kind in KINDS.items() if kind == "ASK")).bytes
END = bytes(24)


def entry(guid: bytes, offset: int, length: int) -> bytes:
    return guid + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


@given(
    st.dictionaries(
        st.sampled_from([*KINDS.values(), str(uuid.UUID(int=7))]), st.binary(min_size=1, max_size=40)
    )
)
def test_tables_come_back(certificates: dict[str, bytes]) -> None:
    assert parse_certificate_table(build_certificate_table(certificates)) == certificates


def test_padding_after_the_last_certificate_is_allowed() -> None:
    table = build_certificate_table({"VCEK": b"abc"}) + bytes(4000)

    assert parse_certificate_table(table) == {"VCEK": b"abc"}


def test_an_empty_table() -> None:
    assert parse_certificate_table(END) == {}


def test_certificates_may_stand_in_any_order() -> None:
    table = entry(VCEK, 75, 1) + entry(ASK, 72, 3) + END + b"askv"

    assert parse_certificate_table(table) == {"VCEK": b"v", "ASK": b"ask"}


REFUSED = {
    "nothing at all": b"",
    "no last entry": entry(VCEK, 24, 1),
    "half an entry": entry(VCEK, 24, 1)[:20],
    "offset beyond the end": entry(VCEK, 49, 1) + END + b"a",
    "length beyond the end": entry(VCEK, 48, 2) + END + b"a",
    "offset and length overflow 32 bits": entry(VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + END + b"a",
    "offset plus length wraps around": entry(VCEK, 0xFFFFFFF0, 0x20) + END + b"a" * 64,
    "inside the list of entries": entry(VCEK, 0, 24) + END + b"a",
    "inside the last entry": entry(VCEK, 47, 2) + END + b"a",
    "empty certificate": entry(VCEK, 48, 0) + END,
    "one kind twice": entry(VCEK, 72, 1) + entry(VCEK, 73, 1) + END + b"ab",
    "two overlap": entry(VCEK, 72, 2) + entry(ASK, 73, 2) + END + b"abc",
    "bytes behind the last certificate": entry(VCEK, 48, 1) + END + b"ab",
    "bytes behind an empty table": END + b"a",
    "too many entries": b"".join(entry(bytes((i, *bytes(15))), 5000, 1) for i in range(1, 67)),
    "too long": bytes(MAX_TABLE + 1),
}


@pytest.mark.parametrize("table", REFUSED.values(), ids=REFUSED)
def test_refused(table: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_certificate_table(table)

    assert caught.value.check == "snp.table.format"
    assert caught.value.offset is not None


def test_a_kind_that_is_no_guid_is_refused() -> None:
    with pytest.raises(FormatError):
        build_certificate_table({"certificate": b"a"})


def test_extended_reports() -> None:
    chip = testing.chip()

    report, certificates = split_extended_report(chip.report() + build_certificate_table(chip.certificates))

    assert len(report) == 1184
    assert certificates == chip.certificates


def test_a_report_alone_is_no_extended_report() -> None:
    with pytest.raises(FormatError):
        split_extended_report(testing.chip().report())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        parse_certificate_table(data)
    except FormatError as error:
        assert error.check == "snp.table.format"  # noqa: PT017
