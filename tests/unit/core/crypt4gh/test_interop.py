# SPDX-License-Identifier: BSD-3-Clause
"""Both ways with the reference implementation, PyPI's crypt4gh."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from crypt4gh import header as their_header
from crypt4gh import lib, sodium
from crypt4gh.keys import c4gh, get_private_key, get_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    DataKey,
    Header,
    HeaderKeyError,
    SecretKey,
    TagError,
    decrypt_stream,
    encrypt_stream,
    make_header,
    open_header,
    read_public_key,
    read_secret_key,
    reencrypt,
    write_public_key,
    write_secret_key,
)
from sealroom.errors import FormatError, IntegrityError

SIZES = [0, 1, 65535, 65536, 65537, 131072, 200_000]
READER, WRITER = SecretKey.generate(), SecretKey.generate()


@pytest.fixture(autouse=True, scope="module")
def no_key_bytes_in_logs() -> Iterator[None]:
    """At DEBUG it logs keys, and pytest keeps what is logged."""
    logger = logging.getLogger("crypt4gh")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def their_encrypt(plain: bytes, *readers: SecretKey, writer: SecretKey = WRITER) -> bytes:
    out = io.BytesIO()
    lib.encrypt([(0, writer.reveal(), r.public.raw) for r in readers], io.BytesIO(plain), out)
    return out.getvalue()


def their_decrypt(data: bytes, reader: SecretKey) -> bytes:
    out = io.BytesIO()
    lib.decrypt([(0, reader.reveal(), None)], io.BytesIO(data), out)
    return out.getvalue()


def our_encrypt(plain: bytes, *readers: SecretKey) -> bytes:
    out = io.BytesIO()
    encrypt_stream(io.BytesIO(plain), out, [r.public for r in readers])
    return out.getvalue()


def our_decrypt(data: bytes, reader: SecretKey, writer: SecretKey | None = None) -> bytes:
    out = io.BytesIO()
    decrypt_stream(io.BytesIO(data), out, reader, expected_writer=writer.public if writer else None)
    return out.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_they_wrote(size: int) -> None:
    plain = os.urandom(size)
    assert our_decrypt(their_encrypt(plain, READER), READER, WRITER) == plain


@pytest.mark.parametrize("size", SIZES)
def test_they_read_what_we_wrote(size: int) -> None:
    plain = os.urandom(size)
    assert their_decrypt(our_encrypt(plain, READER), READER) == plain


@given(st.integers(min_value=-3, max_value=3), st.integers(min_value=0, max_value=3))
@settings(max_examples=25, deadline=None)
def test_round_trip_around_segment_boundaries(delta: int, segments: int) -> None:
    plain = os.urandom(max(0, segments * 65536 + delta))
    assert our_decrypt(our_encrypt(plain, READER), READER) == plain
    assert our_decrypt(their_encrypt(plain, READER), READER) == plain


def test_files_for_several_readers_open_both_ways() -> None:
    other = SecretKey.generate()
    for reader in (READER, other):
        assert our_decrypt(their_encrypt(b"data", READER, other), reader) == b"data"
        assert their_decrypt(our_encrypt(b"data", READER, other), reader) == b"data"


def test_headers_of_one_reader_are_as_long_as_theirs() -> None:
    assert len(our_encrypt(b"data", READER)) == len(their_encrypt(b"data", READER))


def test_they_read_a_header_that_we_reencrypted() -> None:
    other, data = SecretKey.generate(), their_encrypt(b"data", READER)
    header = Header.from_prefix(data)
    again = reencrypt(header, READER, [other.public], expected_writer=WRITER.public)
    assert their_decrypt(again.to_bytes() + data[header.size :], other) == b"data"


def test_we_read_a_header_that_they_reencrypted() -> None:
    other, data = SecretKey.generate(), our_encrypt(b"data", READER)
    out = io.BytesIO()
    keys = [(0, READER.reveal(), None)]
    lib.reencrypt(keys, [(0, READER.reveal(), other.public.raw)], io.BytesIO(data), out, trim=True)
    assert our_decrypt(out.getvalue(), other) == b"data"


def test_they_read_a_file_with_two_data_keys() -> None:
    first, second = DataKey.generate(), DataKey.generate()
    body = b""
    for key, plain in ((first, b"a" * 65536), (second, b"b" * 10)):
        out = bytearray(len(plain) + 28)
        sodium.chacha20poly1305_encrypt(out, plain, key.reveal())
        body += out
    data = make_header([first, second], [READER.public]).to_bytes() + body
    logging.disable(logging.ERROR)
    try:
        assert their_decrypt(data, READER) == b"a" * 65536 + b"b" * 10
    finally:
        logging.disable(logging.NOTSET)
    assert our_decrypt(data, READER) == b"a" * 65536 + b"b" * 10


def test_edit_list_of_theirs_is_parsed_and_refused() -> None:
    edits = [3, 100, 5, 10]
    packets = [
        their_header.make_packet_data_enc(0, os.urandom(32)),
        their_header.make_packet_data_edit_list(edits),
    ]
    keys = [(0, WRITER.reveal(), READER.public.raw)]
    data = their_header.serialize([p for packet in packets for p in their_header.encrypt(packet, keys)])
    assert open_header(Header.from_bytes(data), READER).edit_list == tuple(edits)
    with pytest.raises(FormatError, match="edit list") as caught:
        our_decrypt(data, READER)
    assert "seal it again" in caught.value.diagnostics()


def test_another_writer_is_refused() -> None:
    with pytest.raises(IntegrityError, match="somebody else"):
        our_decrypt(their_encrypt(b"data", READER, writer=SecretKey.generate()), READER, WRITER)


def test_another_reader_is_refused() -> None:
    with pytest.raises(HeaderKeyError):
        our_decrypt(their_encrypt(b"data", READER), SecretKey.generate())


@pytest.mark.parametrize("change", ["flip", "cut inside a segment"])
def test_changed_body_is_refused(change: str) -> None:
    data = bytearray(their_encrypt(os.urandom(100_000), READER))
    if change == "flip":
        data[-1] ^= 1
    else:
        del data[-1:]
    with pytest.raises(TagError):
        our_decrypt(bytes(data), READER)


def test_leftover_too_short_for_a_segment_is_refused() -> None:
    data = their_encrypt(os.urandom(65536), READER)
    with pytest.raises(FormatError):
        our_decrypt(data + bytes(20), READER)


class Trickle(io.BytesIO):
    """A stream that gives less than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1000) if size and size > 1000 else size)


def test_streams_that_give_little_at_a_time_are_read_whole() -> None:
    plain, out, back = os.urandom(CIPHER_SEGMENT * 2), io.BytesIO(), io.BytesIO()
    encrypt_stream(Trickle(plain), out, [READER.public])
    assert their_decrypt(out.getvalue(), READER) == plain
    decrypt_stream(Trickle(out.getvalue()), back, READER)
    assert back.getvalue() == plain


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_we_read_their_key_files(tmp_path: Path, passphrase: str | None) -> None:
    encoded = passphrase.encode() if passphrase else None
    c4gh.generate(tmp_path / "key.sec", tmp_path / "key.pub", encoded, b"comment")
    secret = read_secret_key((tmp_path / "key.sec").read_bytes(), encoded)
    assert read_public_key((tmp_path / "key.pub").read_bytes()) == secret.public
    assert get_private_key(tmp_path / "key.sec", lambda: passphrase) == secret.reveal()


@pytest.mark.parametrize("kdf", ["scrypt", "bcrypt", "pbkdf2_hmac_sha256"])
def test_they_read_our_locked_key_files(tmp_path: Path, kdf: str) -> None:
    (tmp_path / "key.sec").write_bytes(write_secret_key(READER, b"open sesame", kdf=kdf))  # type: ignore[arg-type]
    assert get_private_key(tmp_path / "key.sec", lambda: "open sesame") == READER.reveal()


def test_they_read_our_plain_key_files(tmp_path: Path) -> None:
    (tmp_path / "key.sec").write_bytes(write_secret_key(READER, comment=b"mine"))
    (tmp_path / "key.pub").write_bytes(write_public_key(READER.public))
    assert get_private_key(tmp_path / "key.sec", None) == READER.reveal()
    assert get_public_key(tmp_path / "key.pub") == READER.public.raw
