# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.crypt4gh import (
    DataKey,
    Header,
    HeaderKeyError,
    SecretKey,
    make_header,
    open_header,
    reencrypt,
)
from sealroom.crypt4gh.header import _seal_packet
from sealroom.errors import Error, FormatError, IntegrityError

READER, OTHER, WRITER = SecretKey.generate(), SecretKey.generate(), SecretKey.generate()
KEY = DataKey.generate()


def payload(kind: int, rest: bytes) -> bytes:
    return kind.to_bytes(4, "little") + rest


def with_packets(*payloads: bytes, writer: SecretKey = WRITER) -> Header:
    return Header(tuple(_seal_packet(data, writer, READER.public) for data in payloads))


DATA_KEY = payload(0, bytes(4) + KEY.reveal())


def test_header_for_one_reader_has_124_bytes_and_opens() -> None:
    header = make_header([KEY], [READER.public])
    assert header.size == len(header.to_bytes()) == 124
    opened = open_header(header, READER)
    assert [key.reveal() for key in opened.data_keys] == [KEY.reveal()]
    assert opened.edit_list is None
    assert opened.ignored == 0


def test_header_parses_the_same_from_bytes_prefix_and_stream() -> None:
    header = make_header([KEY, DataKey.generate()], [READER.public, OTHER.public])
    data = header.to_bytes()
    stream = io.BytesIO(data + b"body")
    assert Header.from_bytes(data) == Header.from_prefix(data + b"body") == Header.read(stream) == header
    assert stream.read() == b"body"


def test_each_reader_opens_all_data_keys_and_ignores_the_others_packets() -> None:
    keys = [DataKey.generate(), DataKey.generate()]
    header = make_header(keys, [OTHER.public, READER.public])
    for reader in (READER, OTHER):
        opened = open_header(header, reader)
        assert [key.reveal() for key in opened.data_keys] == [key.reveal() for key in keys]
        assert opened.ignored == 2


def test_edit_list_is_parsed() -> None:
    header = make_header([KEY], [READER.public], edit_list=[0, 100, 65536, 7])
    assert open_header(header, READER).edit_list == (0, 100, 65536, 7)


def test_wrong_key_names_the_tried_key() -> None:
    with pytest.raises(HeaderKeyError, match="does not open") as caught:
        open_header(make_header([KEY], [READER.public]), OTHER)
    assert f"tried, {OTHER.public.fingerprint}" in str(caught.value)
    assert "ask the data owner" in caught.value.diagnostics()


def test_wrong_key_says_for_how_many_readers_there_is_room_and_who_wrote() -> None:
    header = make_header([KEY], [READER.public, WRITER.public], writer=WRITER)
    short = Header((*header.packets, b"\0\0\0\0short"))
    with pytest.raises(HeaderKeyError) as caught:
        open_header(short, OTHER)
    said = str(caught.value)
    assert f"room for 3 readers at most (3 packets, written by {WRITER.public.fingerprint})" in said
    assert READER.public.fingerprint not in said


def test_wrong_key_names_some_of_many_writers() -> None:
    packets = [make_header([KEY], [READER.public]).packets[0] for _ in range(9)]
    with pytest.raises(HeaderKeyError, match=r"and 6 more\)"):
        open_header(Header(tuple(packets)), OTHER)


def test_packet_of_unknown_method_is_ignored() -> None:
    good = with_packets(DATA_KEY)
    unknown = (7).to_bytes(4, "little") + good.packets[0][4:]
    opened = open_header(Header((unknown, *good.packets)), READER)
    assert (len(opened.data_keys), opened.ignored) == (1, 1)


def test_packet_of_unknown_type_is_ignored() -> None:
    opened = open_header(with_packets(payload(9, b"something new"), DATA_KEY), READER)
    assert (len(opened.data_keys), opened.ignored) == (1, 1)


def test_packet_too_short_for_any_method_is_ignored() -> None:
    good = with_packets(DATA_KEY)
    assert open_header(Header((b"\0\0\0\0short", *good.packets)), READER).ignored == 1


def test_padding_of_a_packet_is_allowed() -> None:
    opened = open_header(with_packets(DATA_KEY + bytes(50)), READER)
    assert opened.data_keys[0].reveal() == KEY.reveal()


def test_packet_whose_writer_is_a_small_order_point_is_ignored() -> None:
    good = with_packets(DATA_KEY)
    hostile = good.packets[0][:4] + bytes(32) + good.packets[0][36:]
    assert open_header(Header((hostile, *good.packets)), READER).ignored == 1


def test_packet_added_by_another_writer_is_refused() -> None:
    theirs = with_packets(payload(0, bytes(4) + DataKey.generate().reveal()), writer=OTHER)
    header = Header((*with_packets(DATA_KEY).packets, *theirs.packets))
    assert len(open_header(header, READER).data_keys) == 2
    with pytest.raises(IntegrityError, match="Packet 1") as caught:
        open_header(header, READER, expected_writer=WRITER.public)
    assert OTHER.public.fingerprint in str(caught.value)


def test_packets_for_other_readers_may_have_any_writer() -> None:
    for_other = make_header([KEY], [OTHER.public], writer=OTHER)
    header = Header((*for_other.packets, *with_packets(DATA_KEY).packets))
    assert open_header(header, READER, expected_writer=WRITER.public).ignored == 1


def test_second_edit_list_is_refused() -> None:
    edit = payload(1, (1).to_bytes(4, "little") + bytes(8))
    with pytest.raises(IntegrityError, match="more than one edit list"):
        open_header(with_packets(DATA_KEY, edit, edit), READER)


def test_unknown_data_encryption_method_is_refused() -> None:
    with pytest.raises(FormatError, match="method 1"):
        open_header(with_packets(payload(0, (1).to_bytes(4, "little") + bytes(32))), READER)


def test_short_data_key_is_refused() -> None:
    with pytest.raises(FormatError, match="32 bytes"):
        open_header(with_packets(payload(0, bytes(4 + 31))), READER)


def test_cut_edit_list_is_refused() -> None:
    with pytest.raises(FormatError, match="edit list is cut"):
        open_header(with_packets(DATA_KEY, payload(1, (2).to_bytes(4, "little") + bytes(8))), READER)


def test_header_with_only_an_edit_list_is_refused() -> None:
    with pytest.raises(HeaderKeyError):
        open_header(with_packets(payload(1, (1).to_bytes(4, "little") + bytes(8))), READER)


def replaced(offset: int, value: bytes) -> bytes:
    data = bytearray(make_header([KEY], [READER.public]).to_bytes())
    data[offset : offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0, b"crypt4gX", "magic_number"),
        (8, (2).to_bytes(4, "little"), "version"),
        (12, (0).to_bytes(4, "little"), "header_packet_count"),
        (12, (1025).to_bytes(4, "little"), "header_packet_count"),
        (16, (3).to_bytes(4, "little"), "length"),
        (16, (2**31).to_bytes(4, "little"), "length"),
        (16, (200).to_bytes(4, "little"), "packet"),
        (12, (2).to_bytes(4, "little"), "length"),
    ],
    ids=[
        "magic",
        "version 2",
        "no packets",
        "too many packets",
        "length below its own size",
        "length beyond the bound",
        "length beyond the end",
        "one packet too few",
    ],
)
def test_malformed_header_is_refused(offset: int, value: bytes, field: str) -> None:
    for parse in (Header.from_bytes, lambda data: Header.read(io.BytesIO(data))):
        with pytest.raises(FormatError) as caught:
            parse(replaced(offset, value))
        assert caught.value.field == field


def test_bytes_behind_an_exact_header_are_refused() -> None:
    with pytest.raises(FormatError, match="3 bytes follow"):
        Header.from_bytes(make_header([KEY], [READER.public]).to_bytes() + b"abc")


def test_every_flipped_byte_is_noticed() -> None:
    data = make_header([KEY], [READER.public], writer=WRITER).to_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(Error):
            open_header(Header.from_bytes(bytes(changed)), READER)


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_no_bytes_make_the_parser_raise_anything_else(data: bytes) -> None:
    for text in (data, b"crypt4gh\x01\0\0\0" + data):
        for parse in (Header.from_bytes, Header.from_prefix, lambda data: Header.read(io.BytesIO(data))):
            try:
                open_header(parse(text), READER)
            except Error:
                continue


@given(st.binary(max_size=200))
def test_no_payload_makes_open_raise_anything_else(data: bytes) -> None:
    try:
        open_header(with_packets(data), READER)
    except Error:
        return


def test_reencrypted_header_opens_for_the_new_reader_only() -> None:
    header = make_header([KEY], [READER.public], writer=WRITER)
    again = reencrypt(header, READER, [OTHER.public], expected_writer=WRITER.public)
    assert open_header(again, OTHER).data_keys[0].reveal() == KEY.reveal()
    with pytest.raises(HeaderKeyError):
        open_header(again, READER)


def test_reencryption_leaves_out_packets_of_others_and_keeps_the_edit_list() -> None:
    header = make_header([KEY], [SecretKey.generate().public, READER.public], edit_list=[1, 2])
    again = reencrypt(header, READER, [OTHER.public])
    assert len(again.packets) == 2
    assert open_header(again, OTHER).edit_list == (1, 2)


def test_reencryption_refuses_another_writer() -> None:
    with pytest.raises(IntegrityError):
        reencrypt(make_header([KEY], [READER.public]), READER, [OTHER.public], expected_writer=WRITER.public)


def test_header_without_key_or_reader_is_the_callers_mistake() -> None:
    for keys, readers in (([], [READER.public]), ([KEY], [])):
        with pytest.raises(TypeError):
            make_header(keys, readers)


def test_packets_and_keys_are_not_printed() -> None:
    header = make_header([KEY], [READER.public])
    opened = open_header(header, READER)
    assert KEY.reveal().hex() not in repr(opened)
    assert repr(header) == "Header()"
