# SPDX-License-Identifier: BSD-3-Clause
"""ID blocks: a recorded one, what is made here, and everything that may not be in one."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import ConfigurationError, Error, FormatError, SignatureError
from sealroom.snp import GuestPolicy
from sealroom.snp.idblock import (
    IdAuth,
    IdBlock,
    key_digest,
    load_key,
    load_private_key,
    public_key_bytes,
    public_key_from_bytes,
    sign_id_block,
    verify_id_block,
)
from sealroom.snp.structure import CURVE_ORDER

ID_KEY, AUTHOR_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
BLOCK = IdBlock(b"d" * 48, GuestPolicy(0x30000), b"f" * 16, b"i" * 16, 7)
AUTH = sign_id_block(BLOCK, ID_KEY, AUTHOR_KEY)

# Recorded in the tests of virtee/sev at 9cf2adb, tests/id-block.rs: made by another implementation.
_PAD = "00" * 24
RECORDED_BLOCK = bytes.fromhex(
    "a14d638341e5674628fe1e02fbedebe5e5ab4faf1dd72d8966068e615bb99efd13d214b35c231715b38e263dc6059745"
    + "00" * 32
    + "0100000000000000"
    + "0000030000000000"
)
RECORDED_AUTH = IdAuth(
    id_block_signature=bytes.fromhex(
        "e5d3bf7d9bf9e061bd4e8f7c6acae05909a9c3c69f04f318f0135eae71ff7d05ef5c8c6b1bc8c047613a7b6f01b738da"
        + _PAD
        + "d4194dca67de8381ec6d267c032b03dd3c1f5eafa6aa61e92964e5548bef332b1ae921f26de16ac33b642744d197a5d8"
    ).ljust(512, b"\0"),
    id_key=bytes.fromhex(
        "02000000"
        "1f6d3c80b8fb9ef29ff7dd47e8de3fcb95dd90438768b1932c55233c0c475df54ccab8c82c2ff22c1bcf09264d3e76f6"
        + _PAD
        + "3ebe939c38350b08cd9bda503c85380dfd7c6012f71966767b3214cbdea837ad1d6dbe0a19b150c7c1cdb947d0a8d7cc"
    ).ljust(1028, b"\0"),
    id_key_signature=bytes.fromhex(
        "bb887b94557f568689ff4855c3f7ed99810c3d54ecd429651134dc18dd020ecaa771a34cb97666771aa31f0eb462ea99"
        + _PAD
        + "f261e8b95da71b2a35425f48a219a77dbb0fee252f64d18ce99888b9fb4f70b104011b7dfea3e0349371a2bfaf6f9133"
    ).ljust(512, b"\0"),
    author_key=bytes.fromhex(
        "02000000"
        "8c8645dad57349a3c5ffc6c1a5f74a569f0f833c078bb22cd79474f0fe92ce716a73985ba2996233d14c90d68bc77062"
        + _PAD
        + "f5ac8771e0911103c9f2a2fe484377192accb388cc3afdb759b5563ecd08935fa9e2028108107aa74884c9a230793c86"
    ).ljust(1028, b"\0"),
)
RECORDED_ID_KEY = (
    "59fb2c686dfa4fef49f38339aa775c90051c28d57383ddc3baf3b5eb4b1496df3b0dbbdcbae5fe27677a644820773fe2"
)
RECORDED_AUTHOR = (
    "eed81169fb0cb5e0ec34794f128fd4e0c4a46f67c65a1adfa81fcb24bcc088c272369b7ffc3eb2b6af6a4284a1b36c5f"
)


def put(raw: bytes, at: int, data: bytes) -> bytes:
    return raw[:at] + data + raw[at + len(data) :]


# --- recorded


def test_recorded_block_is_verified_and_names_its_keys() -> None:
    verified = verify_id_block(RECORDED_BLOCK, RECORDED_AUTH.to_bytes())
    assert verified.id_key_digest.hex() == RECORDED_ID_KEY
    assert verified.author_key_digest is not None
    assert verified.author_key_digest.hex() == RECORDED_AUTHOR
    assert verified.block.policy == 0x30000
    assert verified.block.launch_digest == RECORDED_BLOCK[:48]


def test_recorded_block_is_made_here_byte_for_byte() -> None:
    assert IdBlock(RECORDED_BLOCK[:48], GuestPolicy(0x30000)).to_bytes() == RECORDED_BLOCK


def test_digest_is_over_amds_form() -> None:
    expected = hashlib.sha384(public_key_bytes(ID_KEY.public_key())).digest()
    assert key_digest(ID_KEY.public_key()) == expected


def test_recorded_key_has_its_digest() -> None:
    assert key_digest(public_key_from_bytes(RECORDED_AUTH.id_key)).hex() == RECORDED_ID_KEY


# --- made here


def test_layout_is_the_specifications() -> None:
    raw, auth = BLOCK.to_bytes(), AUTH.to_bytes()
    assert (len(raw), len(auth)) == (0x60, 0x1000)
    assert raw[0x30:0x50] == b"f" * 16 + b"i" * 16
    assert raw[0x50:0x60] == bytes.fromhex("01000000 07000000 0000030000000000")
    assert auth[:8] == bytes.fromhex("01000000 01000000")
    assert auth[0x240:0x644] == public_key_bytes(ID_KEY.public_key())
    assert auth[0x880:0xC84] == public_key_bytes(AUTHOR_KEY.public_key())


def test_key_is_curve_and_little_endian_numbers() -> None:
    raw, numbers = public_key_bytes(ID_KEY.public_key()), ID_KEY.public_key().public_numbers()
    assert len(raw) == 0x404
    assert raw[:4] == b"\2\0\0\0"
    assert int.from_bytes(raw[4:0x4C], "little") == numbers.x
    assert int.from_bytes(raw[0x4C:0x94], "little") == numbers.y
    assert not any(raw[0x94:])
    assert public_key_from_bytes(raw) == ID_KEY.public_key()


def test_what_was_signed_is_verified() -> None:
    verified = verify_id_block(BLOCK.to_bytes(), AUTH.to_bytes())
    assert verified.block == BLOCK
    assert verified.id_key_digest == key_digest(ID_KEY.public_key())
    assert verified.author_key_digest == key_digest(AUTHOR_KEY.public_key())


def test_without_an_author_there_is_no_author_digest() -> None:
    auth = sign_id_block(BLOCK, ID_KEY).to_bytes()
    assert not any(auth[0x680:0x1000])
    assert verify_id_block(BLOCK.to_bytes(), auth).author_key_digest is None


def test_bytes_come_back() -> None:
    assert IdBlock.from_bytes(BLOCK.to_bytes()) == BLOCK
    for auth in (AUTH, sign_id_block(BLOCK, ID_KEY)):
        assert IdAuth.from_bytes(auth.to_bytes()) == auth


# --- refused


def test_every_flipped_byte_is_refused() -> None:
    block, auth = BLOCK.to_bytes(), AUTH.to_bytes()
    for place in range(len(block)):
        with pytest.raises((FormatError, SignatureError)):
            verify_id_block(put(block, place, bytes([block[place] ^ 1])), auth)
    for place in [*range(0x100), *range(0x200, 0x2F0), *range(0x620, 0x930), *range(0xC70, 0x1000)]:
        with pytest.raises((FormatError, SignatureError)):
            verify_id_block(block, put(auth, place, bytes([auth[place] ^ 1])))


def test_block_of_another_key_is_refused() -> None:
    other = sign_id_block(BLOCK, AUTHOR_KEY)
    swapped = IdAuth(other.id_block_signature, AUTH.id_key)
    with pytest.raises(SignatureError, match="ID_BLOCK_SIG"):
        verify_id_block(BLOCK.to_bytes(), swapped.to_bytes())


def test_author_who_signed_another_key_is_refused() -> None:
    other = sign_id_block(BLOCK, AUTHOR_KEY, AUTHOR_KEY)
    swapped = IdAuth(AUTH.id_block_signature, AUTH.id_key, other.id_key_signature, AUTH.author_key)
    with pytest.raises(SignatureError, match="ID_KEY_SIG"):
        verify_id_block(BLOCK.to_bytes(), swapped.to_bytes())


ORDER = CURVE_ORDER.to_bytes(72, "little")
WRONG_AUTH = {
    "ID key algorithm": (0x000, b"\2", "ID_KEY_ALGO 2"),
    "author key algorithm": (0x004, b"\0", "AUTHOR_KEY_ALGO 0"),
    "first reserved byte": (0x008, b"\1", "offset 0x8 is set"),
    "reserved byte before the signature": (0x03F, b"\1", "offset 0x3f is set"),
    "r of zero": (0x040, bytes(72), "offset 0x40"),
    "s of the curve's order": (0x088, ORDER, "offset 0x88"),
    "byte after the signature": (0x0D0, b"\1", "offset 0xd0 is set"),
    "last byte of the signature": (0x23F, b"\1", "offset 0x23f is set"),
    "curve of the ID key": (0x240, b"\1", "ID_KEY is on curve 1"),
    "point off the curve": (0x244, b"\1" * 48, "ID_KEY is not a point"),
    "x of 72 bytes": (0x274, b"\1", "ID_KEY is not a point"),
    "byte after the ID key's point": (0x2D4, b"\1", "offset 0x2d4 is set"),
    "reserved byte after the ID key": (0x644, b"\1", "offset 0x644 is set"),
    "author's signature of zeros": (0x680, bytes(512), "ID_KEY_SIG"),
    "author key of zeros": (0x880, bytes(1028), "AUTHOR_KEY is on curve 0"),
    "reserved byte at the end": (0xFFF, b"\1", "offset 0xfff is set"),
}


@pytest.mark.parametrize("name", WRONG_AUTH)
def test_authentication_with_one_thing_wrong_is_refused(name: str) -> None:
    at, data, reason = WRONG_AUTH[name]
    with pytest.raises(FormatError, match=reason) as caught:
        IdAuth.from_bytes(put(AUTH.to_bytes(), at, data))
    assert caught.value.field
    assert caught.value.offset is not None


@pytest.mark.parametrize("change", [b"", b"\0"], ids=["short", "long"])
def test_other_lengths_are_refused(change: bytes) -> None:
    def resized(raw: bytes) -> bytes:
        return raw + change if change else raw[:-1]

    for parse, raw in (
        (IdBlock.from_bytes, BLOCK.to_bytes()),
        (IdAuth.from_bytes, AUTH.to_bytes()),
        (public_key_from_bytes, AUTH.id_key),
    ):
        with pytest.raises(FormatError, match="bytes and this has"):
            parse(resized(raw))


@pytest.mark.parametrize("version", [0, 2])
def test_other_versions_of_the_block_are_refused(version: int) -> None:
    with pytest.raises(FormatError, match="not 1"):
        IdBlock.from_bytes(put(BLOCK.to_bytes(), 0x50, bytes([version])))


@pytest.mark.parametrize(
    "block",
    [
        IdBlock(b"d" * 47, GuestPolicy(0x30000)),
        IdBlock(b"d" * 48, GuestPolicy(0x30000), b"f"),
        IdBlock(b"d" * 48, GuestPolicy(0x30000), image_id=b"i" * 17),
        IdBlock(b"d" * 48, GuestPolicy(0x30000), guest_svn=1 << 32),
        IdBlock(b"d" * 48, GuestPolicy(1 << 64)),
        IdBlock(b"d" * 48, GuestPolicy(-1)),
    ],
    ids=["digest", "family", "image", "svn", "policy", "negative policy"],
)
def test_block_with_a_field_of_another_size_is_not_signed(block: IdBlock) -> None:
    with pytest.raises(FormatError):
        sign_id_block(block, ID_KEY)


@pytest.mark.parametrize(
    "auth",
    [
        IdAuth(AUTH.id_block_signature[:-1], AUTH.id_key),
        IdAuth(AUTH.id_block_signature, AUTH.id_key + b"\0"),
        IdAuth(AUTH.id_block_signature, AUTH.id_key, author_key=AUTH.author_key),
        IdAuth(AUTH.id_block_signature, AUTH.id_key, AUTH.id_key_signature),
    ],
    ids=["signature", "key", "author without signature", "signature without author"],
)
def test_authentication_with_a_part_of_another_size_is_not_written(auth: IdAuth) -> None:
    with pytest.raises(FormatError):
        auth.to_bytes()


@given(st.integers(0, 0xFFF), st.binary(max_size=80))
def test_no_bytes_raise_anything_but_our_error(at: int, data: bytes) -> None:
    with contextlib.suppress(Error):
        verify_id_block(BLOCK.to_bytes(), put(AUTH.to_bytes(), at, data)[:0x1000])
    for parse in (IdBlock.from_bytes, IdAuth.from_bytes, public_key_from_bytes):
        with contextlib.suppress(Error):
            parse(data)


# --- keys in files


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, *, locked: bool = False) -> bytes:
    encryption = BestAvailableEncryption(b"secret") if locked else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_keys_are_read_from_pem() -> None:
    traditional = ID_KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    for data in (pem(ID_KEY), public(ID_KEY), traditional):
        assert load_key(data) == ID_KEY.public_key()
    assert load_private_key(pem(ID_KEY)).private_numbers() == ID_KEY.private_numbers()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(ID_KEY, locked=True),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
        public(ec.generate_private_key(ec.SECP521R1())),
        public(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "broken", "encrypted", "P-256", "Ed25519", "public P-521", "public Ed25519"],
)
def test_other_keys_are_refused(data: bytes) -> None:
    for load in (load_key, load_private_key):
        with pytest.raises(ConfigurationError):
            load(data)


def test_key_on_another_curve_has_no_digest() -> None:
    with pytest.raises(ConfigurationError, match="secp256r1"):
        key_digest(ec.generate_private_key(ec.SECP256R1()).public_key())
