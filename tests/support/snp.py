# SPDX-License-Identifier: BSD-3-Clause
"""Change one thing in a certificate and sign it again, and make revocation lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from sealroom.simulated.certificates import pss

_SIGNATURE = 512


def length(size: int) -> bytes:
    """Return a DER length."""
    if size < 0x80:
        return bytes((size,))
    body = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(body),)) + body


def tlv(tag: int, *content: bytes) -> bytes:
    """Return a DER element."""
    body = b"".join(content)
    return bytes((tag,)) + length(len(body)) + body


def split(der: bytes) -> tuple[bytes, bytes]:
    """Return the signed part and the AlgorithmIdentifier of a certificate or revocation list."""
    start = 4
    count = der[start + 1] & 0x7F if der[start + 1] & 0x80 else 0
    size = int.from_bytes(der[start + 2 : start + 2 + count], "big") if count else der[start + 1]
    end = start + 2 + count + size
    return der[start:end], der[end : len(der) - _SIGNATURE - 5]


def resign(
    der: bytes,
    key: rsa.RSAPrivateKey,
    change: Callable[[bytes], bytes],
    *,
    algorithm: Callable[[bytes], bytes] = lambda algorithm: algorithm,
) -> bytes:
    """Return a certificate with another content of its signed part, signed by `key`.

    Args:
        der: The certificate.
        key: Key to sign with.
        change: Gets the content of the signed part and returns the new one.
        algorithm: Gets the outer AlgorithmIdentifier and returns the new one.
    """
    tbs, outer = split(der)
    new = tlv(0x30, change(tbs[2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0) :]))
    return tlv(0x30, new, algorithm(outer), tlv(0x03, b"\0", key.sign(new, pss(), SHA384())))


def replace_once(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return a change that replaces bytes that stand there at least once, where they stand first."""

    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


def make_crl(
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    *,
    issued: datetime,
    next_update: datetime | None = None,
    revoked: Sequence[int] = (),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """Return a revocation list in DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(issued)
        .next_update(next_update or issued + timedelta(days=46))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, SHA384(), rsa_padding=pss()).public_bytes(Encoding.DER)


def utc(year: int, month: int = 1, day: int = 1) -> datetime:
    """Return midnight of a day in UTC."""
    return datetime(year, month, day, tzinfo=UTC)
