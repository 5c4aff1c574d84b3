# SPDX-License-Identifier: BSD-3-Clause
"""Which roots a verification trusts.

What this is: AMD's root certificates as pinned package data, and explicitly given development roots. What
this is not: a trust store that grows; AMD's roots and others are never in one `Roots`.

Invariants:

- `Roots.amd()` loads only files whose SHA-256 is written here.
- `Roots.development` never holds a root of AMD's, and everything verified with it is marked simulated.
- Every intermediate in a `Roots` was verified with a root in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pkgutil import get_data
from typing import Final

from sealroom.errors import ChainError, ConfigurationError, FormatError, SignatureError
from sealroom.snp.certificates import CaCertificate
from sealroom.snp.tcb import ProductLine

AMD_SHA256: Final = {
    "ark-milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "ask-milan": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "asvk-milan": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "ark-genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "ask-genoa": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "asvk-genoa": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "ark-turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "ask-turin": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "asvk-turin": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
}
"""SHA-256 of AMD's certificates; where they come from is in `roots/PROVENANCE.md`."""

MAX_CERTIFICATES: Final = 64
"""Most certificates in one PEM file that is given."""
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def load_certificates(data: bytes) -> list[bytes]:
    """Return the certificates in a PEM file, or the one in a DER file, as DER.

    Args:
        data: Content of the file.

    Raises:
        FormatError: It holds no certificate, too many, or one that does not decode.
    """
    if data[:1] == b"\x30":
        return [data]
    blocks = _PEM.findall(data)
    if not blocks or len(blocks) > MAX_CERTIFICATES:
        raise FormatError(f"The file holds {len(blocks)} certificates in PEM form.", field="certificates")
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in blocks]
    except binascii.Error as error:
        raise FormatError("A certificate in PEM form does not decode.", field="certificates") from error


@dataclass(frozen=True, slots=True)
class Roots:
    """The roots that one verification trusts, and intermediates verified with them."""

    arks: tuple[CaCertificate, ...]
    """Root certificates, at most one a line."""
    intermediates: tuple[CaCertificate, ...]
    """ASK and ASVK certificates that these roots signed."""
    simulated: bool
    """True for development roots: what they vouch for is no AMD processor."""
    fingerprint: str
    """SHA-256 over all certificates, in hex: names this set of roots."""

    @classmethod
    def amd(cls) -> Roots:
        """Return AMD's roots of the three product lines.

        Raises:
            ConfigurationError: The installed files are not the ones that were released.
        """
        return _amd()

    @classmethod
    def development(cls, pem: bytes) -> Roots:
        """Return roots of simulated processors.

        Args:
            pem: Root certificates (ARK) in PEM, with or without the intermediates that they signed; or one
                in DER.

        Raises:
            FormatError: A certificate does not parse.
            ChainError: A certificate is not what its name says, or there is no root.
            SignatureError: A root is not signed by itself, or an intermediate by no root.
            ConfigurationError: One of them is a root of AMD's.
        """
        certificates = load_certificates(pem)
        if any(hashlib.sha256(one).hexdigest() in AMD_SHA256.values() for one in certificates):
            raise ConfigurationError(
                "A certificate of AMD's was given as a development root.",
                advice="Leave it out: AMD's roots are built in and are never mixed with others.",
            )
        return _build(certificates, simulated=True)

    @classmethod
    def from_pem(cls, pem: bytes) -> Roots:
        """Return AMD's roots if that is what the file holds, and development roots otherwise.

        Args:
            pem: Certificates in PEM, or one in DER.

        Raises:
            Error: As `development` does; also if the file mixes AMD's certificates with others.
        """
        digests = {hashlib.sha256(one).hexdigest() for one in load_certificates(pem)}
        return cls.amd() if digests <= set(AMD_SHA256.values()) else cls.development(pem)

    def ark(self, line: ProductLine) -> CaCertificate | None:
        """Return the root of a line, if there is one."""
        return next((ark for ark in self.arks if ark.line is line), None)


@cache
def _amd() -> Roots:
    certificates = []
    for name, digest in AMD_SHA256.items():
        data = get_data("sealroom.snp", f"roots/{name}.der") or b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ConfigurationError(
                f"The installed root certificate {name} is not the released one.",
                advice="Install Sealroom again.",
            )
        certificates.append(data)
    return _build(certificates, simulated=False)


def _build(certificates: Iterable[bytes], *, simulated: bool) -> Roots:
    unique = sorted(set(certificates))
    parsed = [CaCertificate.from_der(data) for data in unique]
    arks = tuple(one for one in parsed if one.role == "ARK")
    intermediates = tuple(one for one in parsed if one.role != "ARK")
    if not arks:
        raise ChainError("No root certificate (ARK) was given.", check="snp.ark.pinned")
    if len({ark.line for ark in arks}) != len(arks):
        raise ChainError(
            "Two different root certificates of one product line were given.", check="snp.ark.pinned"
        )
    for ark in arks:
        if not ark.signed(ark.certificate):
            raise SignatureError(
                f"The root certificate {ark.name} is not signed by itself.", check="snp.ark.self_signed"
            )
    for one in intermediates:
        if not any(ark.line is one.line and ark.signed(one.certificate) for ark in arks):
            raise SignatureError(
                f"The certificate {one.name} is not signed by a root that was given with it.",
                check="snp.ask.signature",
            )
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in unique)).hexdigest()
    return Roots(arks, intermediates, simulated, digest)
