# SPDX-License-Identifier: BSD-3-Clause
"""The ID block: what a guest's owner signs so that firmware launches nothing else.

What this is: ID block and ID authentication information as SNP_LAUNCH_FINISH takes them, made, read, signed
and verified, and the key digests that a report then carries (ID_KEY_DIGEST, AUTHOR_KEY_DIGEST). What this is
not: evidence. Firmware makes the same checks at launch; a report with the digest of a key says that they
passed for that key.

Layouts: AMD 56860 rev 1.58, section SNP_LAUNCH_FINISH, tables ID Block, ID Authentication Information
Structure, ECDSA P-384 public key and signature.

Invariants:

- `X.from_bytes(b).to_bytes() == b` for every `b` that parses.
- Reserved bytes that are set, numbers out of range and points off the curve are refused with their offset.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from sealroom.errors import ConfigurationError, FormatError, SignatureError
from sealroom.snp.fields import GuestPolicy
from sealroom.snp.structure import CURVE_ORDER

ID_BLOCK_SIZE: Final = 0x60
ID_AUTH_SIZE: Final = 0x1000
PUBLIC_KEY_SIZE: Final = 0x404
SIGNATURE_SIZE: Final = 0x200
DIGEST_SIZE: Final = 48

_BLOCK: Final = struct.Struct("<48s16s16sIIQ")
_VERSION: Final = 1
_ALGORITHM: Final = 1
"""ECDSA P-384 with SHA-384 (AMD 56860 rev 1.58, Signature Algorithms)."""
_CURVE: Final = 2
"""P-384 (AMD 56860 rev 1.58, ECDSA P-384 public key)."""
_NUMBER: Final = 72
"""Bytes of a number, little-endian; P-384 uses the first 48."""
_SIGNATURE_AT, _ID_KEY_AT, _ID_KEY_SIG_AT, _AUTHOR_KEY_AT = 0x040, 0x240, 0x680, 0x880
_RESERVED: Final = ((0x008, 0x040), (0x644, 0x680), (0xC84, 0x1000))


@dataclass(frozen=True, slots=True)
class IdBlock:
    """What the ID key signs: the launch digest and policy that the guest must have, and its identity."""

    launch_digest: bytes
    """LD: 48 bytes, the only launch measurement that firmware then accepts."""
    policy: GuestPolicy
    """POLICY: the only guest policy that firmware then accepts."""
    family_id: bytes = bytes(16)
    """FAMILY_ID: 16 bytes for the report."""
    image_id: bytes = bytes(16)
    """IMAGE_ID: 16 bytes for the report."""
    guest_svn: int = 0
    """GUEST_SVN: security version of the guest, for the report."""

    @classmethod
    def from_bytes(cls, raw: bytes) -> IdBlock:
        """Parse the 96 bytes of an ID block.

        Raises:
            FormatError: The length or the version is wrong.
        """
        _length(raw, ID_BLOCK_SIZE, "ID block")
        digest, family_id, image_id, version, guest_svn, policy = _BLOCK.unpack(raw)
        if version != _VERSION:
            raise FormatError(f"ID block version {version} is not 1.", field="VERSION", offset=0x50)
        return cls(digest, GuestPolicy(policy), family_id, image_id, guest_svn)

    def to_bytes(self) -> bytes:
        """Return the 96 bytes of the ID block.

        Raises:
            FormatError: A field has not its length or is out of range.
        """
        for name, value, size in (
            ("LD", self.launch_digest, DIGEST_SIZE),
            ("FAMILY_ID", self.family_id, 16),
            ("IMAGE_ID", self.image_id, 16),
        ):
            if len(value) != size:
                raise FormatError(f"{name} has {size} bytes, not {len(value)}.", field=name)
        if not 0 <= self.guest_svn < 1 << 32 or not 0 <= self.policy < 1 << 64:
            raise FormatError("GUEST_SVN has 32 bits and POLICY 64.", field="GUEST_SVN")
        return _BLOCK.pack(
            self.launch_digest, self.family_id, self.image_id, _VERSION, self.guest_svn, self.policy
        )


@dataclass(frozen=True, slots=True)
class IdAuth:
    """ID authentication information: signatures and keys as they stand in it, and not yet verified."""

    id_block_signature: bytes
    """ID_BLOCK_SIG: 512 bytes, by the ID key over the ID block."""
    id_key: bytes
    """ID_KEY: 1028 bytes."""
    id_key_signature: bytes | None = None
    """ID_KEY_SIG: 512 bytes, by the author key over ID_KEY; None if no author key is used."""
    author_key: bytes | None = None
    """AUTHOR_KEY: 1028 bytes; None if no author key is used."""

    @classmethod
    def from_bytes(cls, raw: bytes) -> IdAuth:
        """Parse the 4096 bytes of the ID authentication information.

        Raises:
            FormatError: The length, an algorithm, a key or a signature is malformed.
        """
        _length(raw, ID_AUTH_SIZE, "ID authentication information")
        for name, at in (("ID_KEY_ALGO", 0), ("AUTHOR_KEY_ALGO", 4)):
            algorithm = int.from_bytes(raw[at : at + 4], "little")
            if algorithm != _ALGORITHM:
                raise FormatError(
                    f"{name} {algorithm} is not 1, ECDSA P-384 with SHA-384.", field=name, offset=at
                )
        for start, end in _RESERVED:
            _zero(raw[start:end], "reserved", start)
        signature = raw[_SIGNATURE_AT : _SIGNATURE_AT + SIGNATURE_SIZE]
        id_key = raw[_ID_KEY_AT : _ID_KEY_AT + PUBLIC_KEY_SIZE]
        _read_signature(signature, "ID_BLOCK_SIG", _SIGNATURE_AT)
        _read_key(id_key, "ID_KEY", _ID_KEY_AT)
        id_key_signature = raw[_ID_KEY_SIG_AT : _ID_KEY_SIG_AT + SIGNATURE_SIZE]
        author_key = raw[_AUTHOR_KEY_AT : _AUTHOR_KEY_AT + PUBLIC_KEY_SIZE]
        if not any(id_key_signature) and not any(author_key):
            return cls(signature, id_key)
        _read_signature(id_key_signature, "ID_KEY_SIG", _ID_KEY_SIG_AT)
        _read_key(author_key, "AUTHOR_KEY", _AUTHOR_KEY_AT)
        return cls(signature, id_key, id_key_signature, author_key)

    def to_bytes(self) -> bytes:
        """Return the 4096 bytes of the ID authentication information.

        Without an author key its place is zero and AUTHOR_KEY_ALGO is 1 all the same; AUTHOR_KEY_EN of
        SNP_LAUNCH_FINISH tells firmware whether to look at it.

        Raises:
            FormatError: A field has not its length, or only one of the author's two is there.
        """
        if (self.author_key is None) != (self.id_key_signature is None):
            raise FormatError("An author key and its signature come together.", field="AUTHOR_KEY")
        out = bytearray(ID_AUTH_SIZE)
        out[0:8] = _ALGORITHM.to_bytes(4, "little") * 2
        for name, at, value, size in (
            ("ID_BLOCK_SIG", _SIGNATURE_AT, self.id_block_signature, SIGNATURE_SIZE),
            ("ID_KEY", _ID_KEY_AT, self.id_key, PUBLIC_KEY_SIZE),
            ("ID_KEY_SIG", _ID_KEY_SIG_AT, self.id_key_signature, SIGNATURE_SIZE),
            ("AUTHOR_KEY", _AUTHOR_KEY_AT, self.author_key, PUBLIC_KEY_SIZE),
        ):
            if value is None:
                continue
            if len(value) != size:
                raise FormatError(f"{name} has {size} bytes, not {len(value)}.", field=name, offset=at)
            out[at : at + size] = value
        return bytes(out)


@dataclass(frozen=True, slots=True)
class VerifiedIdBlock:
    """An ID block whose signatures were verified. Made by `verify_id_block` alone."""

    block: IdBlock
    id_key_digest: bytes
    """ID_KEY_DIGEST that the guest's reports carry, 48 bytes."""
    author_key_digest: bytes | None
    """AUTHOR_KEY_DIGEST that they carry, 48 bytes; None if no author key is used."""


def public_key_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a P-384 public key in AMD's form of 1028 bytes: curve, x and y little-endian, zeros.

    Raises:
        ConfigurationError: The key is on another curve.
    """
    if not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError(f"An ID or author key is on P-384, not on {key.curve.name}.")
    numbers = key.public_numbers()
    point = numbers.x.to_bytes(_NUMBER, "little") + numbers.y.to_bytes(_NUMBER, "little")
    return (_CURVE.to_bytes(4, "little") + point).ljust(PUBLIC_KEY_SIZE, b"\0")


def public_key_from_bytes(raw: bytes) -> ec.EllipticCurvePublicKey:
    """Read a public key in AMD's form of 1028 bytes.

    Raises:
        FormatError: The length, curve, a reserved byte or the point is wrong.
    """
    _length(raw, PUBLIC_KEY_SIZE, "public key")
    return _read_key(raw, "public key", 0)


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the digest by which a report names an ID key or an author key: SHA-384 of AMD's form.

    Raises:
        ConfigurationError: The key is on another curve.
    """
    return hashlib.sha384(public_key_bytes(key)).digest()


def load_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Read the public half of a key from PEM, private or public.

    Raises:
        ConfigurationError: It is not a P-384 key in unencrypted PEM.
    """
    if b"PRIVATE KEY" in pem:
        return load_private_key(pem).public_key()
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError("The key is not a public key in PEM.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError("The key is not on P-384, which ID and author keys are.")
    return key


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read an ID key or author key from PEM.

    Raises:
        ConfigurationError: It is not an unencrypted P-384 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError("The key is not an unencrypted private key in PEM.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError("The key is not on P-384, which ID and author keys are.")
    return key


def sign_id_block(
    block: IdBlock,
    id_key: ec.EllipticCurvePrivateKey,
    author_key: ec.EllipticCurvePrivateKey | None = None,
) -> IdAuth:
    """Sign an ID block, and the ID key with an author key if there is one.

    Raises:
        FormatError: A field of the block is wrong.
        ConfigurationError: A key is on another curve.
    """
    public = public_key_bytes(id_key.public_key())
    signature = _sign(id_key, block.to_bytes())
    if author_key is None:
        return IdAuth(signature, public)
    author = public_key_bytes(author_key.public_key())
    return IdAuth(signature, public, _sign(author_key, public), author)


def verify_id_block(block: bytes, auth: bytes) -> VerifiedIdBlock:
    """Verify the signatures of an ID block, as firmware does at launch.

    Args:
        block: The 96 bytes of the ID block.
        auth: The 4096 bytes of the ID authentication information.

    Returns:
        The block with the key digests. Whose keys they are is for the caller to compare.

    Raises:
        FormatError: One of them is malformed.
        SignatureError: A signature does not verify.
    """
    parsed, keys = IdBlock.from_bytes(block), IdAuth.from_bytes(auth)
    _verify(keys.id_key, keys.id_block_signature, block, "ID_BLOCK_SIG")
    author_digest = None
    if keys.author_key is not None and keys.id_key_signature is not None:
        _verify(keys.author_key, keys.id_key_signature, keys.id_key, "ID_KEY_SIG")
        author_digest = hashlib.sha384(keys.author_key).digest()
    return VerifiedIdBlock(parsed, hashlib.sha384(keys.id_key).digest(), author_digest)


# --- numbers and bytes


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA384())))
    return (r.to_bytes(_NUMBER, "little") + s.to_bytes(_NUMBER, "little")).ljust(SIGNATURE_SIZE, b"\0")


def _verify(key: bytes, signature: bytes, data: bytes, name: str) -> None:
    r, s = _read_signature(signature, name, 0)
    try:
        _read_key(key, name, 0).verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise SignatureError(f"{name} does not verify.") from error


def _read_signature(raw: bytes, name: str, at: int) -> tuple[int, int]:
    """Return r and s; `at` is where the signature starts, for errors."""
    _zero(raw[2 * _NUMBER :], name, at + 2 * _NUMBER)
    r, s = (int.from_bytes(raw[start : start + _NUMBER], "little") for start in (0, _NUMBER))
    for value, start in ((r, 0), (s, _NUMBER)):
        if not 0 < value < CURVE_ORDER:
            raise FormatError(
                f"{name} has a number that is out of range at offset {at + start:#x}.",
                field=name,
                offset=at + start,
            )
    return r, s


def _read_key(raw: bytes, name: str, at: int) -> ec.EllipticCurvePublicKey:
    """Return a key; `at` is where it starts, for errors."""
    curve = int.from_bytes(raw[:4], "little")
    if curve != _CURVE:
        raise FormatError(f"{name} is on curve {curve}, not on 2, P-384.", field=name, offset=at)
    _zero(raw[4 + 2 * _NUMBER :], name, at + 4 + 2 * _NUMBER)
    x, y = (int.from_bytes(raw[start : start + _NUMBER], "little") for start in (4, 4 + _NUMBER))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except ValueError as error:
        raise FormatError(f"{name} is not a point on P-384.", field=name, offset=at + 4) from error


def _length(raw: bytes, size: int, name: str) -> None:
    if len(raw) != size:
        raise FormatError(
            f"The {name} has {size} bytes and this has {len(raw)}.", field=name, offset=min(len(raw), size)
        )


def _zero(raw: bytes, name: str, start: int) -> None:
    """Refuse a set byte; `start` is where `raw` lies, for errors."""
    for index, byte in enumerate(raw):
        if byte:
            at = start + index
            raise FormatError(f"The reserved byte at offset {at:#x} is set.", field=name, offset=at)
