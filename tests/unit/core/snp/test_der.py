# SPDX-License-Identifier: BSD-3-Clause
"""The DER reader refuses what DER does not allow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import FormatError
from sealroom.snp import der
from sealroom.snp.der import Reader
from support.snp import tlv


def reader(data: bytes) -> Reader:
    return Reader(data, "snp.vek.der")


READS: dict[str, Callable[[Reader], object]] = {
    "integer": lambda one: one.integer("f"),
    "oid": lambda one: one.oid("f"),
    "boolean": lambda one: one.boolean("f"),
    "null": lambda one: one.null("f"),
    "bits": lambda one: one.bits("f"),
    "text": lambda one: one.text("f"),
    "time": lambda one: one.time("f"),
    "sequence": lambda one: one.enter(der.SEQUENCE, "f"),
}

REFUSED = {
    "nothing": ("integer", ""),
    "tag and no length": ("integer", "02"),
    "another tag": ("integer", "0401ff"),
    "content missing": ("integer", "020200"),
    "indefinite length": ("sequence", "30800000"),
    "length of four bytes": ("sequence", "308400000001ff"),
    "long form below 128": ("sequence", "30817f" + "00" * 127),
    "long form with a leading zero": ("sequence", "308200ff" + "00" * 255),
    "length bytes missing": ("sequence", "3082ff"),
    "integer without content": ("integer", "0200"),
    "negative integer": ("integer", "0201ff"),
    "integer with a needless zero": ("integer", "0202007f"),
    "integer too long": ("integer", tlv(2, b"\x01" * 1025).hex()),
    "empty object identifier": ("oid", "0600"),
    "object identifier that does not end": ("oid", "0602 2a86"),
    "object identifier with a needless byte": ("oid", "0603 2a8001"),
    "object identifier too long": ("oid", tlv(6, b"\x01" * 33).hex()),
    "boolean of two bytes": ("boolean", "0102ffff"),
    "boolean that is neither": ("boolean", "010101"),
    "null with content": ("null", "050100"),
    "bit string without its count": ("bits", "0300"),
    "bit string with unused bits": ("bits", "030204f0"),
    "number as text": ("text", "020100"),
    "text that is not utf-8": ("text", "0c01ff"),
    "printable string with a star": ("text", "13012a"),
    "ia5 string with an umlaut": ("text", "1601e4"),
    "time without seconds": ("time", tlv(0x17, b"2601010000Z").hex()),
    "time without z": ("time", tlv(0x17, b"2601010000000").hex()),
    "time with a sign": ("time", tlv(0x17, b"+60101000000Z").hex()),
    "thirty-first of february": ("time", tlv(0x17, b"260231000000Z").hex()),
    "second 60": ("time", tlv(0x17, b"260101000060Z").hex()),
    "long time with a fraction": ("time", tlv(0x18, b"20260101000000.5Z").hex()),
    "year 0": ("time", tlv(0x18, b"00000101000000Z").hex()),
}


@pytest.mark.parametrize(("kind", "data"), REFUSED.values(), ids=REFUSED)
def test_refused(kind: str, data: str) -> None:
    with pytest.raises(FormatError) as caught:
        READS[kind](reader(bytes.fromhex(data)))

    assert caught.value.check == "snp.vek.der"
    assert caught.value.field == "f"
    assert caught.value.offset == 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
    ],
)
def test_two_digit_years_turn_in_1950(data: bytes, expected: datetime) -> None:
    assert reader(tlv(0x17, data)).time("f") == expected


def test_four_digit_years() -> None:
    assert reader(tlv(0x18, b"20500101000000Z")).time("f") == datetime(2050, 1, 1, tzinfo=UTC)


@given(st.integers(0, 1 << 512))
def test_integers(value: int) -> None:
    body = value.to_bytes(value.bit_length() // 8 + 1, "big")

    assert reader(tlv(2, body)).integer("f") == value


@pytest.mark.parametrize(
    ("data", "dotted"),
    [
        ("0603551d13", "2.5.29.19"),
        ("06022a03", "1.2.3"),
        ("060b2b060104019c7801030881", None),
        ("0603883703", "2.999.3"),
    ],
)
def test_object_identifiers(data: str, dotted: str | None) -> None:
    if dotted is None:
        with pytest.raises(FormatError):
            reader(bytes.fromhex(data)).oid("f")
    else:
        assert reader(bytes.fromhex(data)).oid("f") == dotted


def test_nothing_is_read_outside_of_what_was_entered() -> None:
    outer = reader(tlv(0x30, b"\x02\x02\x01") + b"\x01")
    inner = outer.enter(der.SEQUENCE, "outer")

    with pytest.raises(FormatError):
        inner.integer("f")


def test_what_follows_is_refused() -> None:
    one = reader(b"\x05\x00\x00")
    one.null("f")

    with pytest.raises(FormatError) as caught:
        one.finish("f")

    assert caught.value.offset == 2


@given(st.sampled_from(sorted(READS)), st.binary(max_size=64))
def test_no_bytes_raise_anything_else(kind: str, data: bytes) -> None:
    try:
        READS[kind](reader(data))
    except FormatError as error:
        assert error.offset is not None  # noqa: PT017
