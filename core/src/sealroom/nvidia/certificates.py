# SPDX-License-Identifier: BSD-3-Clause
"""Certificates of devices and of the signers of reference manifests, and the walk from one to its root.

All are P-384 with SHA-384 (NVIDIA device identity PKI, RFC 5280). What this is not: a general path
validation; a chain here is a fixed list in which each certificate is issued by the next.

Invariants:

- A chain ends at exactly one pinned root: the last certificate is the root itself, byte for byte, or is
  issued by it.
- Signatures are verified before anything else in a certificate is believed; times are a check of their own.
- One certificate has one encoding: what is not covered by its signature is not free to vary either.
- What a certificate calls critical is understood here, or the certificate is refused (RFC 5280, 4.2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate as X509Certificate
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from sealroom.checks import Trail
from sealroom.errors import ChainError, Error, ExpiredError, FormatError, NotYetValidError

MAX_CERTIFICATES: Final = 8
"""Most certificates of a chain that are read; a device's has five."""
MAX_CERTIFICATE: Final = 8192
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_MALFORMED: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    # Where the program makes errors of warnings: what the library warns about is refused below anyway.
    Warning,
)
_UNDERSTOOD: Final = frozenset(
    {
        "2.5.29.14",  # subject key identifier
        "2.5.29.15",  # key usage
        "2.5.29.17",  # subject alternative name: nothing is looked up by name
        "2.5.29.19",  # basic constraints
        "2.5.29.35",  # authority key identifier
        "2.5.29.37",  # extended key usage
        "2.23.133.5.4.1",  # TCG DICE, firmware id of Hopper
        "2.23.133.5.4.1.1",  # TCG DICE, firmware id of Blackwell
    }
)
"""Extensions that may be critical: they are evaluated, or narrow nothing that is done here."""


@dataclass(frozen=True)
class Certificate:
    """A parsed certificate with a P-384 key."""

    der: bytes = field(repr=False)
    """The bytes."""
    x509: X509Certificate = field(repr=False, compare=False)
    """The parsed certificate."""
    key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)
    """The public key."""

    @classmethod
    def from_der(cls, der: bytes, what: str, check: str = "nvidia.chain.format") -> Certificate:
        """Parse a certificate.

        Args:
            der: The bytes, nothing after them.
            what: What it is, for messages.
            check: Id of the check that fails if it does not parse.

        Raises:
            FormatError: It is no certificate of this kind.
        """
        try:
            parsed = cls.of(x509.load_der_x509_certificate(der))
            if parsed.der != der:
                raise ValueError("it is not in DER")
            return parsed
        except _MALFORMED as error:
            raise FormatError(
                f"The {what} is not an X.509 certificate with a P-384 key: {_first_line(error)}.",
                field=what,
                check=check,
            ) from None

    @classmethod
    def of(cls, certificate: X509Certificate) -> Certificate:
        """Wrap a parsed certificate.

        Raises:
            ValueError: Its key is not on P-384, or it is signed with another algorithm.
        """
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("the key is not on P-384")
        if not isinstance(certificate.signature_hash_algorithm, SHA384):
            raise ValueError("it is not signed with SHA-384")
        # Parsed lazily by the library: malformed extensions and names show here, not later.
        if not understood(certificate.extensions):
            raise ValueError("a critical extension is not known here")
        # RFC 5280, 4.1.2.2.
        if certificate.serial_number <= 0:
            raise ValueError("the serial number is not positive")
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        certificate.subject.rfc4514_string()
        certificate.issuer.rfc4514_string()
        der = certificate.public_bytes(Encoding.DER)
        if not has_whole_bits(der, certificate.signature):
            raise ValueError("the signature is not encoded as whole bytes")
        return cls(der, certificate, key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex."""
        return hashlib.sha256(self.der).hexdigest()

    @cached_property
    def name(self) -> str:
        """Common name, or the whole subject without one."""
        names = self.x509.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return str(names[0].value) if names else self.x509.subject.rfc4514_string()

    @property
    def is_self_signed(self) -> bool:
        """Whether it is signed with its own key."""
        return self.issued_by(self)

    @cached_property
    def is_ca(self) -> bool:
        """Whether it may sign certificates: basic constraints and key usage say so."""
        try:
            constraints = self.x509.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
            usage = self.x509.extensions.get_extension_for_oid(ExtensionOID.KEY_USAGE).value
        except x509.ExtensionNotFound:
            return False
        return (
            isinstance(constraints, x509.BasicConstraints)
            and constraints.ca
            and isinstance(usage, x509.KeyUsage)
            and usage.key_cert_sign
        )

    @cached_property
    def may_sign_evidence(self) -> bool:
        """Whether nothing in it forbids to sign: a responder's certificate is for OCSP answers alone."""
        try:
            usage = self.x509.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.digital_signature:
                return False
        except x509.ExtensionNotFound:
            pass
        try:
            uses = self.x509.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return True
        return ExtendedKeyUsageOID.OCSP_SIGNING not in uses

    @cached_property
    def path_length(self) -> int | None:
        """How many CA certificates may follow; None without a limit."""
        try:
            constraints = self.x509.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
        except x509.ExtensionNotFound:
            return None
        return constraints.path_length if isinstance(constraints, x509.BasicConstraints) else None

    def issued_by(self, issuer: Certificate) -> bool:
        """Return whether the issuer's key signed this certificate and the names fit."""
        return _issued(self, issuer)


@lru_cache(maxsize=512)
def _issued(child: Certificate, issuer: Certificate) -> bool:
    # Devices share most of their chain; certificates are equal if their bytes are.
    try:
        child.x509.verify_directly_issued_by(issuer.x509)
    except (*_MALFORMED, InvalidSignature):
        return False
    return True


def clear_link_cache() -> None:
    """Forget which certificate issued which."""
    _issued.cache_clear()


def understood(extensions: x509.Extensions, also: Set[str] = frozenset()) -> bool:
    """Return whether every critical extension is known here (RFC 5280, 4.2).

    Args:
        extensions: The extensions.
        also: Numbers of more that are known.
    """
    critical = {one.oid.dotted_string for one in extensions if one.critical}
    return critical <= _UNDERSTOOD | also


def has_whole_bits(der: bytes, signature: bytes) -> bool:
    """Return whether a signature stands in a structure as a BIT STRING that leaves no bit unused.

    The number of unused bits is outside of what is signed, and with a last bit of zero the library reads the
    same signature from 0 and from 1: two encodings of one certificate.
    """
    return b"\0" + signature in der


def load_chain(data: bytes) -> list[bytes]:
    """Return the certificates in a file, in its order, as DER.

    Args:
        data: PEM blocks, or DER certificates one after the other.

    Raises:
        FormatError: There is none, too many, or something that is neither.
    """
    if data[:1] == b"\x30":
        return _split_der(data)
    blocks = _PEM.findall(data)
    if not blocks or len(blocks) > MAX_CERTIFICATES:
        raise FormatError(
            f"The chain holds {len(blocks)} certificates in PEM form, not 1 to {MAX_CERTIFICATES}.",
            field="chain",
            check="nvidia.chain.format",
        )
    if len(data) - sum(map(len, blocks)) > MAX_CERTIFICATE or b"-----" in _PEM.sub(b"", data):
        raise FormatError(
            "The chain has something else between its PEM blocks.", field="chain", check="nvidia.chain.format"
        )
    return [_der_of_pem(block) for block in blocks]


def _der_of_pem(block: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)
    except _MALFORMED as error:
        raise FormatError(
            f"A certificate of the chain does not decode: {_first_line(error)}.",
            field="chain",
            check="nvidia.chain.format",
        ) from None


def _split_der(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    while offset < len(data):
        header = data[offset : offset + 4]
        # Every certificate here is longer than 255 bytes and shorter than 65536: 30 82, two bytes of length.
        size = 4 + int.from_bytes(header[2:], "big")
        if header[:2] != b"\x30\x82" or offset + size > len(data) or len(found) == MAX_CERTIFICATES:
            raise FormatError(
                f"The chain is no list of certificates at offset {offset}.",
                field="chain",
                offset=offset,
                check="nvidia.chain.format",
            )
        found.append(data[offset : offset + size])
        offset += size
    return found


@dataclass(frozen=True, slots=True)
class Path:
    """Names of the checks of one kind of chain, and how it is called."""

    what: str
    prefix: str
    few: str
    """The check that fails if there are too few certificates."""


DEVICE: Final = Path("device chain", "nvidia.chain", "nvidia.chain.present")
RIM: Final = Path("chain of the reference manifest", "nvidia.rim", "nvidia.rim.links")


def build_chain(
    given: Sequence[bytes], root: Certificate | None, path: Path, trail: Trail
) -> tuple[Certificate, ...]:
    """Verify the signatures from the first certificate to a pinned root.

    Args:
        given: Certificates in DER, the signer first. The last may be the root itself or be left out.
        root: The pinned root; None trusts nobody.
        path: What the chain is.
        trail: Takes the results.

    Returns:
        The chain with the pinned root as its last.

    Raises:
        FormatError: A certificate does not parse.
        ChainError: The chain does not lead to the root.
    """
    certificates = _parse(given, path)
    trail.passed(f"{path.prefix}.format", f"{len(certificates)} certificates, all P-384 with SHA-384")
    if root is None:
        raise ChainError(f"No root was given for the {path.what}.", check=f"{path.prefix}.root")
    if certificates[-1].der == root.der:
        chain = certificates
    elif certificates[-1].issued_by(root):
        chain = (*certificates, root)
    else:
        raise ChainError(
            f"The {path.what} ends at {certificates[-1].name}, which {root.name}, the trusted root, did not "
            "issue.",
            check=f"{path.prefix}.root",
        )
    trail.passed(f"{path.prefix}.root", root.name)
    for child, issuer in pairwise(chain):
        if not child.issued_by(issuer):
            raise ChainError(
                f"{child.name} is not issued by {issuer.name}, which comes after it in the {path.what}.",
                check=f"{path.prefix}.links",
            )
    trail.passed(f"{path.prefix}.links", " <- ".join(one.name for one in chain))
    _check_authorities(chain, path, trail)
    return chain


def _parse(given: Sequence[bytes], path: Path) -> tuple[Certificate, ...]:
    if len(given) > MAX_CERTIFICATES or any(len(one) > MAX_CERTIFICATE for one in given):
        raise FormatError(f"The {path.what} is too long.", field="chain", check=f"{path.prefix}.format")
    if len(given) < 2:
        raise ChainError(
            f"The {path.what} has {len(given)} certificates; a signer and its issuers are at least two.",
            check=path.few,
        )
    return tuple(
        Certificate.from_der(der, f"certificate {number} of the {path.what}", f"{path.prefix}.format")
        for number, der in enumerate(given, start=1)
    )


def _check_authorities(chain: tuple[Certificate, ...], path: Path, trail: Trail) -> None:
    for below, authority in enumerate(chain[1:]):
        if not authority.is_ca:
            raise ChainError(
                f"{authority.name} may not sign certificates, and one of the {path.what} is signed by it.",
                check=f"{path.prefix}.authority",
            )
        if authority.path_length is not None and authority.path_length < below:
            raise ChainError(
                f"{authority.name} allows {authority.path_length} authorities below it; there are {below}.",
                check=f"{path.prefix}.authority",
            )
    if chain[0].is_ca:
        raise ChainError(
            f"{chain[0].name} is an authority, and no signer of evidence.", check=f"{path.prefix}.authority"
        )
    if not chain[0].may_sign_evidence:
        raise ChainError(
            f"{chain[0].name} is certified for another use than to sign evidence.",
            check=f"{path.prefix}.authority",
        )
    trail.passed(f"{path.prefix}.authority", "every issuer may sign certificates, the signer may not")


def check_times(chain: Sequence[Certificate], at: datetime, path: Path, trail: Trail, advice: str) -> None:
    """Check that every certificate is valid at a time.

    Raises:
        ExpiredError: One is past its end.
        NotYetValidError: One is not valid yet.
    """
    for one in chain:
        begins, ends = one.x509.not_valid_before_utc, one.x509.not_valid_after_utc
        error: Error | None = None
        if at < begins:
            error = NotYetValidError(
                f"{one.name} in the {path.what} is not valid before {begins:%Y-%m-%d %H:%M:%S} UTC.",
                check=f"{path.prefix}.validity",
            )
        elif at > ends:
            error = ExpiredError(
                f"{one.name} in the {path.what} expired on {ends:%Y-%m-%d %H:%M:%S} UTC.",
                advice=advice,
                check=f"{path.prefix}.validity",
            )
        if error is not None:
            raise error
    trail.passed(f"{path.prefix}.validity", f"all valid at {at:%Y-%m-%d %H:%M:%S} UTC")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["malformed"])[0].rstrip(".")[:120]
