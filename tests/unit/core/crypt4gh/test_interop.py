# SPDX-License-Identifier: BSD-3-Clause
"""Both ways with the reference implementation, PyPI's crypt4gh."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crypt4gh import header as their_header
from crypt4gh import lib, sodium
from crypt4gh.keys import c4gh, get_private_key, get_public_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
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
    needs_passphrase,
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


def with_edits(plain: bytes, edits: list[int], *, ours: bool = False) -> bytes:
    """Encrypt with the reference implementation, or with ours, and an edit list in the header."""
    key, body = DataKey.generate(), io.BytesIO()
    for start in range(0, len(plain), 65536):
        part = plain[start : start + 65536]
        segment = bytearray(len(part) + 28)
        sodium.chacha20poly1305_encrypt(segment, part, key.reveal())
        body.write(segment)
    if ours:
        return make_header([key], [READER.public], edit_list=edits).to_bytes() + body.getvalue()
    packets = [
        their_header.make_packet_data_enc(0, key.reveal()),
        their_header.make_packet_data_edit_list(edits),
    ]
    keys = [(0, WRITER.reveal(), READER.public.raw)]
    sealed = [p for packet in packets for p in their_header.encrypt(packet, keys)]
    return bytes(their_header.serialize(sealed)) + body.getvalue()


def edited(plain: bytes, edits: list[int]) -> bytes:
    """Apply an edit list as the format describes it."""
    out, at = b"", 0
    for index, length in enumerate(edits):
        out += plain[at : at + length] if index % 2 else b""
        at += length
    return out + (plain[at:] if len(edits) % 2 else b"")


EDITS = [
    [3, 100, 5, 10],
    [0, 70_000],
    [65536, 65536],
    [65535, 2, 65536, 10],
    [100],
    [70_000, 1, 0],
    [0, 1, 0],
]


@pytest.mark.parametrize("edits", EDITS, ids=str)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
def test_edit_lists_are_applied_alike(edits: list[int], ours: bool) -> None:
    plain = os.urandom(200_000)
    data = with_edits(plain, edits, ours=ours)
    assert our_decrypt(data, READER) == their_decrypt(data, READER) == edited(plain, edits)


lengths = st.sampled_from([0, 1, 7, 65535, 65536, 65537, 100_000])


@given(st.lists(lengths, min_size=1, max_size=6), st.sampled_from([65536, 131_072, 131_073, 300_000]))
@settings(max_examples=40, deadline=None)
def test_any_edit_list_is_applied_or_refused(edits: list[int], size: int) -> None:
    plain = os.urandom(size)
    data = with_edits(plain, edits)
    if sum(edits) > size:
        with pytest.raises(FormatError, match="beyond the end"):
            our_decrypt(data, READER)
    else:
        assert our_decrypt(data, READER) == edited(plain, edits)


def test_part_that_they_rearranged_is_what_we_read() -> None:
    plain, out = os.urandom(300_000), io.BytesIO()
    data = their_encrypt(plain, READER, writer=READER)
    keys = [(0, READER.reveal(), READER.public.raw)]
    lib.rearrange(keys, io.BytesIO(data), out, offset=70_000, span=100_000)
    assert (
        our_decrypt(out.getvalue(), READER) == their_decrypt(out.getvalue(), READER) == plain[70_000:170_000]
    )


def test_edit_list_survives_a_new_reader() -> None:
    other, plain, edits = SecretKey.generate(), os.urandom(100_000), [10, 20, 30, 40]
    data = with_edits(plain, edits)
    header = Header.from_prefix(data)
    again = reencrypt(header, READER, [other.public]).to_bytes() + data[header.size :]
    assert their_decrypt(again, other) == our_decrypt(again, other) == edited(plain, edits)


def test_empty_edit_list_is_refused() -> None:
    data = with_edits(b"data", [], ours=True)
    with pytest.raises(FormatError, match="edit list is empty"):
        our_decrypt(data, READER)


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


def ssh_keys(place: Path, passphrase: str, *options: str) -> tuple[bytes, bytes]:
    """Let OpenSSH make an Ed25519 key pair."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(place / "key"), *options]
    subprocess.run(command, check=True, capture_output=True)
    return (place / "key").read_bytes(), (place / "key.pub").read_bytes()


needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@needs_ssh
@pytest.mark.parametrize(
    ("passphrase", "options"),
    [("", []), ("open sesame", ["-a", "4"]), ("open sesame", ["-a", "4", "-Z", "aes256-cbc"])],
    ids=["none", "bcrypt, aes256-ctr", "bcrypt, aes256-cbc"],
)
def test_keys_of_openssh_are_converted_as_they_do_it(
    tmp_path: Path, passphrase: str, options: list[str]
) -> None:
    sec, pub = ssh_keys(tmp_path, passphrase, *options)
    assert needs_passphrase(sec) == bool(passphrase)
    secret = read_secret_key(sec, passphrase.encode() or None)
    assert read_public_key(pub) == secret.public
    assert get_public_key(tmp_path / "key.pub") == secret.public.raw
    theirs = get_private_key(tmp_path / "key", lambda: passphrase)
    plain = os.urandom(70_000)
    out = io.BytesIO()
    lib.decrypt([(0, theirs, None)], io.BytesIO(our_encrypt(plain, secret)), out)
    assert out.getvalue() == plain
    assert our_decrypt(their_encrypt(plain, SecretKey(theirs)), secret) == plain


@needs_ssh
def test_wrong_or_missing_passphrase_of_openssh_is_refused(tmp_path: Path) -> None:
    sec, _ = ssh_keys(tmp_path, "right", "-a", "4")
    with pytest.raises(FormatError, match="locked"):
        read_secret_key(sec)
    with pytest.raises(FormatError, match="does not open it"):
        read_secret_key(sec, b"wrong")


@needs_ssh
def test_keys_of_openssh_of_another_kind_are_refused(tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(FormatError, match="another kind"):
        read_secret_key((tmp_path / "key").read_bytes())
    with pytest.raises(FormatError):
        read_public_key((tmp_path / "key.pub").read_bytes())


@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_x25519_keys_in_pem_form_are_read(tmp_path: Path, passphrase: bytes | None) -> None:
    key = X25519PrivateKey.from_private_bytes(READER.reveal())
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    sec = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    pub = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert needs_passphrase(sec) == (passphrase is not None)
    assert read_secret_key(sec, passphrase) == READER
    assert read_public_key(pub) == READER.public
