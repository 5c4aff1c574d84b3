# SPDX-License-Identifier: BSD-3-Clause
"""The envelope that AMD's certificates and revocation lists share: signature, names, validity, extensions.

What this is: a strict parser of X.509 version 3 as AMD uses it, and the check of one RSASSA-PSS signature.
What this is not: a path validator; `sealroom.snp.verify` puts the pieces together.

Invariants:

- The signature algorithm is RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes, said the
  same way in both places. Nothing else verifies, whatever the key would allow.
- The signed bytes are a slice of the input, never a re-encoding.
- No extension stands twice; a critical one that the caller does not know is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sealroom.errors import ExpiredError, FormatError, NotYetValidError
from sealroom.snp import der
from sealroom.snp.der import Reader

MAX_CERTIFICATE: Final = 8192
"""Longest certificate in bytes; AMD's have 1289 to 1690."""
MAX_ATTRIBUTES: Final = 16
"""Most attributes of a name; AMD's have six."""
MAX_EXTENSIONS: Final = 32
"""Most extensions of a certificate; AMD's have at most eleven."""
RSA_BITS: Final = 4096
"""Size of AMD's root and intermediate keys (AMD 57230 rev 1.00)."""
SALT: Final = 48
"""Salt length of the signatures (AMD 57230 rev 1.00)."""

_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_SHA384: Final = "2.16.840.1.101.3.4.2.2"
_RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
_COMMON_NAME: Final = "2.5.4.3"

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=SALT)
_HASH: Final = hashes.SHA384()


@dataclass(frozen=True, slots=True)
class Name:
    """A distinguished name."""

    raw: bytes
    """The DER encoding; names are compared by it."""
    attributes: tuple[tuple[str, str], ...]
    """Pairs of object identifier and value, in order."""
    common_name: str
    """The CN, or an empty string if there is none or more than one."""
    others: tuple[tuple[str, str], ...]
    """All attributes but CN."""

    @classmethod
    def read(cls, reader: Reader, field: str) -> Name:
        """Take a Name (RFC 5280, section 4.1.2.4) in which each part has one attribute."""
        start, content, end = reader.span(der.SEQUENCE, field)
        raw = reader.data[start:end]
        try:
            return _known_name(raw)
        except FormatError:
            # Read it again in place: the error then has the offset in the whole input.
            _read_attributes(Reader(reader.data, reader.check, content, end), field)
            raise


def _read_attributes(parts: Reader, field: str) -> tuple[tuple[str, str], ...]:
    attributes: list[tuple[str, str]] = []
    while parts.more():
        if len(attributes) == MAX_ATTRIBUTES:
            raise parts.fail("has too many attributes.", field)
        part = parts.enter(der.SET, field)
        attribute = part.enter(der.SEQUENCE, field)
        attributes.append((attribute.oid(field), attribute.text(field)))
        attribute.finish(field)
        part.finish(field)
    return tuple(attributes)


@lru_cache(maxsize=64)
def _known_name(raw: bytes) -> Name:
    """Return a name by its bytes; the same few names stand in every certificate."""
    attributes = _read_attributes(Reader(raw, "").enter(der.SEQUENCE, "name"), "name")
    common = [value for kind, value in attributes if kind == _COMMON_NAME]
    others = tuple(pair for pair in attributes if pair[0] != _COMMON_NAME)
    return Name(raw, attributes, common[0] if len(common) == 1 else "", others)


class Extension(NamedTuple):
    """One extension of a certificate or revocation list."""

    oid: str
    """Object identifier in dotted form."""
    critical: bool
    """A reader that does not know the extension must refuse the certificate."""
    value: bytes
    """Content of the OCTET STRING."""
    offset: int
    """Where the extension starts in the input."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed and not yet verified certificate."""

    der: bytes
    """The whole certificate."""
    tbs: bytes
    """The signed part."""
    serial: int
    """Serial number; 0 in every VCEK and VLEK."""
    issuer: Name
    """Who signed."""
    subject: Name
    """Whom it is about."""
    not_before: datetime
    """First moment of validity."""
    not_after: datetime
    """Last moment of validity."""
    key_info: bytes
    """SubjectPublicKeyInfo as DER."""
    extensions: tuple[Extension, ...]
    """Extensions in order."""
    signature: bytes
    """Signature over `tbs`."""

    def check_validity(self, at: datetime, what: str, check: str) -> None:
        """Refuse a time outside the validity.

        Args:
            at: The reference time, with a time zone.
            what: The certificate's name in the error.
            check: Id of the check.

        Raises:
            NotYetValidError: The time is before notBefore.
            ExpiredError: The time is after notAfter.
        """
        if at < self.not_before:
            raise NotYetValidError(
                f"The {what} is not valid before {self.not_before:%Y-%m-%d %H:%M:%S} UTC, and the time is "
                f"{at:%Y-%m-%d %H:%M:%S}.",
                check=check,
            )
        if at > self.not_after:
            raise ExpiredError(
                (
                    f"The {what} expired at {self.not_after:%Y-%m-%d %H:%M:%S} UTC, and the time is "
                    f"{at:%Y-%m-%d %H:%M:%S}."
                ),
                check=check,
            )


@dataclass(frozen=True, slots=True)
class CheckIds:
    """Ids of the checks that parsing one kind of certificate makes."""

    der: str
    version: str
    signature_algorithm: str
    extensions: str


def parse_certificate(data: bytes, ids: CheckIds) -> Certificate:
    """Parse one certificate that fills the input.

    Args:
        data: DER bytes.
        ids: Which check a refusal fails.

    Raises:
        FormatError: The bytes are no such certificate.
    """
    if len(data) > MAX_CERTIFICATE:
        raise FormatError(
            f"A certificate of {len(data)} bytes is longer than the {MAX_CERTIFICATE} that are read.",
            field="Certificate",
            offset=MAX_CERTIFICATE,
            check=ids.der,
        )
    tbs_bytes, signature = split_signed(data, "Certificate", ids)
    tbs = Reader(tbs_bytes, ids.der).enter(der.SEQUENCE, "tbsCertificate")
    _read_version(tbs, ids)
    at = tbs.pos
    serial = tbs.integer("serialNumber")
    if serial.bit_length() > 160:
        raise tbs.fail("is longer than 20 bytes.", "serialNumber", at)
    tbs.element(der.SEQUENCE, "signature")
    issuer = Name.read(tbs, "issuer")
    validity = tbs.enter(der.SEQUENCE, "validity")
    not_before, not_after = validity.time("notBefore"), validity.time("notAfter")
    validity.finish("validity")
    subject = Name.read(tbs, "subject")
    key_info = tbs.element(der.SEQUENCE, "subjectPublicKeyInfo")
    extensions = read_extensions(tbs.enter(der.context(3), "extensions"), ids.extensions)
    tbs.finish("tbsCertificate")
    return Certificate(
        data, tbs_bytes, serial, issuer, subject, not_before, not_after, key_info, extensions, signature
    )


def _read_version(tbs: Reader, ids: CheckIds) -> None:
    if not tbs.next_is(der.context(0)):
        raise FormatError(
            "The certificate is of X.509 version 1, not 3.",
            field="version",
            offset=tbs.pos,
            check=ids.version,
        )
    explicit = tbs.enter(der.context(0), "version")
    version = explicit.integer("version") + 1
    explicit.finish("version")
    if version != 3:
        raise FormatError(
            f"The certificate is of X.509 version {version}, not 3.",
            field="version",
            offset=tbs.pos,
            check=ids.version,
        )


def split_signed(data: bytes, field: str, ids: CheckIds) -> tuple[bytes, bytes]:
    """Split a signed structure into its signed part and its signature, and check the algorithm.

    Args:
        data: DER of `SEQUENCE { tbs SEQUENCE, AlgorithmIdentifier, BIT STRING }`.
        field: Name of the structure in errors.
        ids: Which check a refusal fails.

    Returns:
        The signed part with its tag and length, and the signature.

    Raises:
        FormatError: The structure is another, or the algorithm is not the one AMD uses.
    """
    outer = Reader(data, ids.der)
    signed = outer.enter(der.SEQUENCE, field)
    outer.finish(field)
    tbs = signed.element(der.SEQUENCE, "signed part")
    outside_at = signed.pos
    outside = signed.element(der.SEQUENCE, "signatureAlgorithm")
    signature = signed.bits("signatureValue")
    signed.finish(field)
    if len(signature) != RSA_BITS // 8:
        raise FormatError(
            f"The signature is {len(signature)} bytes and AMD's are {RSA_BITS // 8}.",
            field="signatureValue",
            check=ids.signature_algorithm,
        )
    try:
        _known_pss(outside)
    except FormatError:
        # Read it again in place: the error then has the offset in the whole input.
        check_pss(Reader(data, ids.signature_algorithm, outside_at, outside_at + len(outside)))
    if outside != _inner_algorithm(tbs, ids):
        raise FormatError(
            "The signature algorithm inside the signed part is not the one outside.",
            field="signature",
            check=ids.signature_algorithm,
        )
    return tbs, signature


def _inner_algorithm(tbs: bytes, ids: CheckIds) -> bytes:
    """Return the AlgorithmIdentifier in a certificate's or revocation list's signed part."""
    reader = Reader(tbs, ids.der).enter(der.SEQUENCE, "signed part")
    if reader.next_is(der.context(0)):  # A certificate: version, then serialNumber.
        reader.span(der.context(0), "version")
        reader.span(der.INTEGER, "serialNumber")
    elif reader.next_is(
        der.INTEGER
    ):  # A revocation list's version, or the serialNumber of a version 1 certificate.
        reader.span(der.INTEGER, "version")
    return reader.element(der.SEQUENCE, "signature")


def check_pss(reader: Reader) -> None:
    """Check that the next element is the AlgorithmIdentifier of RSASSA-PSS with AMD's parameters.

    RFC 4055, section 3.1. The trailer field may stand there with its default value, as in AMD's older
    certificates.
    """
    algorithm = reader.enter(der.SEQUENCE, "signatureAlgorithm")
    if algorithm.oid("signatureAlgorithm") != _RSASSA_PSS:
        raise algorithm.fail("is not RSASSA-PSS.", "signatureAlgorithm")
    parameters = algorithm.enter(der.SEQUENCE, "RSASSA-PSS-params")
    algorithm.finish("signatureAlgorithm")
    explicit = parameters.enter(der.context(0), "hashAlgorithm")
    _check_sha384(explicit, "hashAlgorithm")
    explicit.finish("hashAlgorithm")
    explicit = parameters.enter(der.context(1), "maskGenAlgorithm")
    mask = explicit.enter(der.SEQUENCE, "maskGenAlgorithm")
    explicit.finish("maskGenAlgorithm")
    if mask.oid("maskGenAlgorithm") != _MGF1:
        raise mask.fail("is not MGF1.", "maskGenAlgorithm")
    _check_sha384(mask, "maskGenAlgorithm")
    mask.finish("maskGenAlgorithm")
    explicit = parameters.enter(der.context(2), "saltLength")
    salt = explicit.integer("saltLength")
    explicit.finish("saltLength")
    if salt != SALT:
        raise parameters.fail(f"is {salt} and must be {SALT}.", "saltLength")
    if parameters.more():
        explicit = parameters.enter(der.context(3), "trailerField")
        if explicit.integer("trailerField") != 1:
            raise explicit.fail("is not 1.", "trailerField")
        explicit.finish("trailerField")
    parameters.finish("RSASSA-PSS-params")


@lru_cache(maxsize=16)
def _known_pss(raw: bytes) -> None:
    """Check an AlgorithmIdentifier by its bytes; two encodings stand in all certificates."""
    check_pss(Reader(raw, ""))


def _check_sha384(reader: Reader, field: str) -> None:
    """Check that the next element is the AlgorithmIdentifier of SHA-384, with NULL parameters or none."""
    algorithm = reader.enter(der.SEQUENCE, field)
    if algorithm.oid(field) != _SHA384:
        raise algorithm.fail("is not SHA-384.", field)
    if algorithm.more():
        algorithm.null(field)
    algorithm.finish(field)


def read_extensions(explicit: Reader, check: str) -> tuple[Extension, ...]:
    """Read the content of an Extensions field (RFC 5280, section 4.1).

    Args:
        explicit: Reader of the content of the explicit tag.
        check: Id of the check that a refusal of an extension fails.

    Raises:
        FormatError: An extension stands twice or is malformed.
    """
    inner = Reader(explicit.data, check, explicit.pos, explicit.end)
    sequence = inner.enter(der.SEQUENCE, "extensions")
    inner.finish("extensions")
    found: list[Extension] = []
    seen: set[str] = set()
    while sequence.more():
        at = sequence.pos
        if len(found) == MAX_EXTENSIONS:
            raise sequence.fail("are too many.", "extensions")
        one = sequence.enter(der.SEQUENCE, "extension")
        oid = one.oid("extnID")
        critical = one.next_is(der.BOOLEAN) and one.boolean("critical")
        field = f"extension {oid}"
        value = one.take(der.OCTET_STRING, field)
        one.finish(field)
        if oid in seen:
            raise sequence.fail("stands twice.", field, at)
        seen.add(oid)
        found.append(Extension(oid, critical, value, at))
    return tuple(found)


def refuse_unknown(
    extensions: Collection[Extension], known: Collection[str], check: str, *, critical_only: bool
) -> None:
    """Refuse extensions that are not in a list.

    Args:
        extensions: What stands in the certificate.
        known: Object identifiers that the caller reads, or may ignore.
        check: Id of the check.
        critical_only: Let unknown ones pass that are not critical.

    Raises:
        FormatError: One is unknown.
    """
    for extension in extensions:
        if extension.oid not in known and (extension.critical or not critical_only):
            raise FormatError(
                f"extension {extension.oid} at offset {extension.offset}: is not known.",
                field=f"extension {extension.oid}",
                offset=extension.offset,
                check=check,
            )


def read_rsa_key(key_info: bytes, check: str) -> rsa.RSAPublicKey:
    """Read an RSA key of AMD's size.

    Args:
        key_info: SubjectPublicKeyInfo as DER.
        check: Id of the check that a refusal fails.

    Raises:
        FormatError: Another algorithm, size or exponent.
    """
    outer = Reader(key_info, check)
    info = outer.enter(der.SEQUENCE, "subjectPublicKeyInfo")
    algorithm = info.enter(der.SEQUENCE, "key algorithm")
    if algorithm.oid("key algorithm") != _RSA_ENCRYPTION:
        raise algorithm.fail("is not RSA.", "key algorithm")
    algorithm.null("key algorithm")
    algorithm.finish("key algorithm")
    bits = Reader(info.bits("subjectPublicKey"), check)
    info.finish("subjectPublicKeyInfo")
    numbers = bits.enter(der.SEQUENCE, "RSAPublicKey")
    bits.finish("RSAPublicKey")
    modulus, exponent = numbers.integer("modulus"), numbers.integer("publicExponent")
    numbers.finish("RSAPublicKey")
    if modulus.bit_length() != RSA_BITS or exponent != 65537 or not modulus & 1:
        raise FormatError(
            f"An RSA key of {modulus.bit_length()} bits with exponent {exponent} is not one of AMD's.",
            field="subjectPublicKey",
            check=check,
        )
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise FormatError("The RSA key is not usable.", field="subjectPublicKey", check=check) from error


def signature_verifies(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    """Tell whether a signature is the key's: RSASSA-PSS with AMD's parameters (RFC 8017, section 8.1.2)."""
    try:
        key.verify(signature, signed, _PSS, _HASH)
    except InvalidSignature:
        return False
    return True


def require_time(at: datetime) -> None:
    """Refuse a reference time without a time zone; that is the programmer's mistake.

    Raises:
        TypeError: The time is naive.
    """
    if at.tzinfo is None or at.utcoffset() is None:
        raise TypeError("the reference time needs a time zone")
