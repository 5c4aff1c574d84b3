# SPDX-License-Identifier: BSD-3-Clause
"""The certificates of an SEV-SNP chain: VCEK or VLEK, ASK or ASVK, ARK.

What this is: what each certificate of AMD's says, checked against what it must say. What this is not: proof
that AMD signed it; `sealroom.snp.verify` checks the signatures.

Invariants:

- The product line of a chain comes from names that are signed, never from a caller.
- An extension of AMD's that is not known here is refused, since it could change what the others mean.
- hwID is told from its length: bare as AMD issues it, or wrapped in an OCTET STRING, never by its first byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from sealroom.errors import ChainError, FormatError
from sealroom.snp import der
from sealroom.snp.checks import Trail
from sealroom.snp.der import Reader
from sealroom.snp.structure import SIGNED_SIZE
from sealroom.snp.tcb import ProductLine, TcbVersion
from sealroom.snp.x509 import (
    Certificate,
    CheckIds,
    Extension,
    Name,
    parse_certificate,
    read_rsa_key,
    refuse_unknown,
    signature_verifies,
)

_AMD: Final = "1.3.6.1.4.1.3704.1"
STRUCT_VERSION: Final = f"{_AMD}.1"
PRODUCT_NAME: Final = f"{_AMD}.2"
BL_SPL: Final = f"{_AMD}.3.1"
TEE_SPL: Final = f"{_AMD}.3.2"
SNP_SPL: Final = f"{_AMD}.3.3"
RESERVED_SPLS: Final = tuple(f"{_AMD}.3.{n}" for n in (4, 5, 6, 7))
UCODE_SPL: Final = f"{_AMD}.3.8"
FMC_SPL: Final = f"{_AMD}.3.9"
HWID: Final = f"{_AMD}.4"
CSP_ID: Final = f"{_AMD}.5"

_AMD_EXTENSIONS: Final = {
    STRUCT_VERSION: "structVersion",
    PRODUCT_NAME: "productName",
    BL_SPL: "blSPL",
    TEE_SPL: "teeSPL",
    SNP_SPL: "snpSPL",
    **{oid: f"spl{n}" for oid, n in zip(RESERVED_SPLS, (4, 5, 6, 7), strict=True)},
    UCODE_SPL: "ucodeSPL",
    FMC_SPL: "fmcSPL",
    HWID: "hwID",
    CSP_ID: "cspID",
}
"""AMD's extensions (AMD 57230 rev 1.00, VCEK certificate definition)."""

_KEY_INFO_PREFIX: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""SubjectPublicKeyInfo of an uncompressed point on P-384, up to its coordinates (RFC 5480, section 2)."""
_KEY_USAGE: Final = "2.5.29.15"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_ECDSA: Final = ec.ECDSA(hashes.SHA384())
_VEK_IDS: Final = CheckIds(
    "snp.vek.der", "snp.vek.version", "snp.vek.signature_algorithm", "snp.vek.extensions"
)


class VekKind(StrEnum):
    """Whose key signed: the chip's or the one loaded by the cloud provider."""

    VCEK = "VCEK"
    VLEK = "VLEK"


_ISSUER_PREFIX: Final = {VekKind.VCEK: "SEV-", VekKind.VLEK: "SEV-VLEK-"}


@dataclass(frozen=True, slots=True)
class Vek:
    """A VCEK or VLEK certificate: what it says, not yet verified."""

    certificate: Certificate
    """The X.509 envelope."""
    kind: VekKind
    """VCEK or VLEK."""
    line: ProductLine
    """Product line, from the issuer's name."""
    struct_version: int
    """structVersion: version of AMD's extensions."""
    product_name: str
    """productName, such as `Milan-B0`."""
    tcb: TcbVersion
    """Firmware versions that the key is for."""
    hwid: bytes | None
    """hwID: the chip's id, 64 or 8 bytes; None in a VLEK."""
    csp_id: str | None
    """cspID: the cloud provider that the key was made for; None in a VCEK."""
    public_key: ec.EllipticCurvePublicKey
    """The certified key."""

    @classmethod
    def from_der(cls, data: bytes, *, trail: Trail | None = None) -> Vek:
        """Parse a VCEK or VLEK certificate and check all that it must say by itself.

        Args:
            data: DER bytes of exactly one certificate.
            trail: Where passed checks are recorded.

        Raises:
            FormatError: The bytes are no such certificate.
            ChainError: It says something that AMD's certificates do not say.
        """
        trail = Trail() if trail is None else trail
        certificate = parse_certificate(data, _VEK_IDS)
        trail.passed("snp.vek.der", f"{len(data)} bytes")
        trail.passed("snp.vek.version", "version 3")
        trail.passed("snp.vek.signature_algorithm", "RSASSA-PSS, SHA-384, salt 48")
        kind, line = _read_names(certificate)
        trail.passed(
            "snp.vek.names", f"{certificate.subject.common_name} issued by {certificate.issuer.common_name}"
        )
        key = _read_p384_key(certificate.key_info)
        trail.passed("snp.vek.key", "point on P-384")
        extensions = _read_extensions(certificate)
        numbers = _read_numbers(extensions)
        trail.passed("snp.vek.extensions", f"{len(certificate.extensions)} extensions, all known")
        _check_required(extensions, line)
        trail.passed("snp.vek.required_extensions", "all there")
        _check_kind(extensions, kind)
        trail.passed("snp.vek.kind", f"a {kind}")
        hwid = _read_hwid(extensions[HWID], line) if kind is VekKind.VCEK else None
        if hwid is None:
            trail.not_asked("snp.vek.hwid", "a VLEK has no chip id")
        else:
            trail.passed("snp.vek.hwid", f"{len(hwid)} bytes")
        product_name = _read_string(extensions[PRODUCT_NAME], "productName")
        _check_product_name(product_name, line)
        trail.passed("snp.vek.product_name", product_name)
        return cls(
            certificate=certificate,
            kind=kind,
            line=line,
            struct_version=numbers[STRUCT_VERSION],
            product_name=product_name,
            tcb=TcbVersion(
                bootloader=numbers[BL_SPL],
                tee=numbers[TEE_SPL],
                snp=numbers[SNP_SPL],
                microcode=numbers[UCODE_SPL],
                fmc=numbers.get(FMC_SPL),
            ),
            hwid=hwid,
            csp_id=_read_string(extensions[CSP_ID], "cspID") if kind is VekKind.VLEK else None,
            public_key=key,
        )

    def signed(self, report: bytes, r: int, s: int) -> bool:
        """Tell whether the certified key signed a report (FIPS 186-5, section 6.4).

        Args:
            report: The bytes of the report; the signed ones are its first 672.
            r: R of the signature.
            s: S of the signature.
        """
        try:
            self.public_key.verify(utils.encode_dss_signature(r, s), report[:SIGNED_SIZE], _ECDSA)
        except InvalidSignature:
            return False
        return True


def _read_names(certificate: Certificate) -> tuple[VekKind, ProductLine]:
    """Return kind and line that subject and issuer give."""
    subject, issuer = certificate.subject.common_name, certificate.issuer.common_name
    for kind, prefix in _ISSUER_PREFIX.items():
        for line in ProductLine:
            if subject == f"SEV-{kind}" and issuer == f"{prefix}{line}":
                if certificate.subject.others != certificate.issuer.others:
                    raise ChainError(
                        (
                            "Subject and issuer of the endorsement certificate differ in more than their "
                            "common name."
                        ),
                        check="snp.vek.names",
                    )
                return kind, line
    raise ChainError(
        f"A certificate for {subject!r} issued by {issuer!r} is no VCEK or VLEK of a known line.",
        check="snp.vek.names",
    )


def _read_p384_key(key_info: bytes) -> ec.EllipticCurvePublicKey:
    if len(key_info) != len(_KEY_INFO_PREFIX) + 96 or not key_info.startswith(_KEY_INFO_PREFIX):
        raise ChainError("The endorsement certificate's key is not on P-384.", check="snp.vek.key")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), key_info[-97:])
    except ValueError as error:
        raise ChainError(
            "The endorsement certificate's key is no point on P-384.", check="snp.vek.key"
        ) from error


def _read_extensions(certificate: Certificate) -> dict[str, Extension]:
    """Return AMD's extensions by object identifier, after refusing those that are not known."""
    amd = [extension for extension in certificate.extensions if extension.oid.startswith(f"{_AMD}.")]
    refuse_unknown(amd, _AMD_EXTENSIONS, "snp.vek.extensions", critical_only=False)
    refuse_unknown(certificate.extensions, _AMD_EXTENSIONS, "snp.vek.extensions", critical_only=True)
    return {extension.oid: extension for extension in amd}


def _read_numbers(extensions: dict[str, Extension]) -> dict[str, int]:
    """Return the extensions that are numbers of one byte."""
    numbers: dict[str, int] = {}
    for oid, extension in extensions.items():
        if oid in (PRODUCT_NAME, HWID, CSP_ID):
            continue
        name = _AMD_EXTENSIONS[oid]
        try:
            value = _known_number(extension.value)
        except FormatError:
            value = _read_number(extension.value, name)  # The error then names the extension.
        limit = {STRUCT_VERSION: 1}.get(oid, 0 if oid in RESERVED_SPLS else 255)
        if value > limit:
            raise FormatError(
                f"{name} is {value} and can be at most {limit} (extension {oid}).",
                field=name,
                offset=extension.offset,
                check="snp.vek.extensions",
            )
        numbers[oid] = value
    return numbers


def _read_number(raw: bytes, name: str) -> int:
    reader = Reader(raw, "snp.vek.extensions")
    value = reader.integer(name)
    reader.finish(name)
    return value


@lru_cache(maxsize=512)
def _known_number(raw: bytes) -> int:
    """Return an INTEGER by its bytes; nearly all that stand in certificates are of one byte."""
    return _read_number(raw, "")


def _check_required(extensions: dict[str, Extension], line: ProductLine) -> None:
    required = [STRUCT_VERSION, PRODUCT_NAME, BL_SPL, TEE_SPL, SNP_SPL, UCODE_SPL]
    if line is ProductLine.TURIN:
        required.append(FMC_SPL)
    elif FMC_SPL in extensions:
        raise ChainError(
            f"A certificate for {line} has fmcSPL, which is Turin's.", check="snp.vek.required_extensions"
        )
    for oid in required:
        if oid not in extensions:
            raise ChainError(
                f"The endorsement certificate lacks {_AMD_EXTENSIONS[oid]} (extension {oid}).",
                check="snp.vek.required_extensions",
            )


def _check_kind(extensions: dict[str, Extension], kind: VekKind) -> None:
    needed, foreign = (HWID, CSP_ID) if kind is VekKind.VCEK else (CSP_ID, HWID)
    if needed not in extensions:
        raise ChainError(f"The {kind} certificate lacks {_AMD_EXTENSIONS[needed]}.", check="snp.vek.kind")
    if foreign in extensions:
        raise ChainError(f"The {kind} certificate has {_AMD_EXTENSIONS[foreign]}.", check="snp.vek.kind")


def _read_hwid(extension: Extension, line: ProductLine) -> bytes:
    """Return the chip id, bare or wrapped in an OCTET STRING; the two lengths tell them apart."""
    size, value = line.chip_id_size, extension.value
    if len(value) == size:
        return value
    if len(value) == size + 2 and value[:2] == bytes((der.OCTET_STRING, size)):
        return value[2:]
    raise FormatError(
        f"hwID is {len(value)} bytes and {line} has {size}.",
        field="hwID",
        offset=extension.offset,
        check="snp.vek.hwid",
    )


def _read_string(extension: Extension, name: str) -> str:
    reader = Reader(extension.value, "snp.vek.extensions")
    if not reader.next_is(der.IA5_STRING):
        raise reader.fail("is no IA5String.", name)
    text = reader.text(name)
    reader.finish(name)
    return text


def _check_product_name(name: str, line: ProductLine) -> None:
    """Check that a product name is one of a line, with or without a stepping such as `-B0`."""
    product, dash, stepping = name.partition("-")
    well_formed = not dash or (len(stepping) == 2 and stepping.isalnum())
    if product not in line.product_names or not well_formed:
        raise ChainError(
            f"productName {name!r} is not a product of {line}, which the issuer's name gives.",
            check="snp.vek.product_name",
        )


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """An ARK, ASK or ASVK certificate: what it says, not yet verified."""

    certificate: Certificate
    """The X.509 envelope."""
    line: ProductLine
    """Product line, from its own name."""
    role: str
    """ARK, ASK or ASVK."""
    public_key: rsa.RSAPublicKey
    """Its key."""

    @classmethod
    def from_der(cls, data: bytes) -> CaCertificate:
        """Parse an ARK, ASK or ASVK certificate and check all that it must say by itself.

        Args:
            data: DER bytes of exactly one certificate.

        Raises:
            FormatError: The bytes are no such certificate.
            ChainError: It says something that AMD's certificates do not say.
        """
        return _read_ca(bytes(data))

    @property
    def name(self) -> str:
        """Its common name, such as `SEV-Milan`."""
        return self.certificate.subject.common_name

    def signed(self, certificate: Certificate) -> bool:
        """Tell whether this certificate's key signed another, and is named as its issuer."""
        return self.signed_bytes(certificate.issuer, certificate.tbs, certificate.signature)

    def signed_bytes(self, issuer: Name, tbs: bytes, signature: bytes) -> bool:
        """Tell whether this certificate's key signed some bytes whose issuer is named."""
        return issuer.raw == self.certificate.subject.raw and signature_verifies(
            self.public_key, signature, tbs
        )

    def check_validity(self, at: datetime) -> None:
        """Refuse a time outside the validity; see `Certificate.check_validity`."""
        self.certificate.check_validity(
            at, f"{self.role} certificate", "snp.ark.validity" if self.role == "ARK" else "snp.ask.validity"
        )


@lru_cache(maxsize=64)
def _read_ca(data: bytes) -> CaCertificate:
    """Parse a certificate by its bytes; the same few come along with the evidence of every chip."""
    check = "snp.ask.format"
    certificate = parse_certificate(data, CheckIds(check, check, check, check))
    role, line = _read_ca_name(certificate.subject.common_name)
    if (
        certificate.issuer.common_name != f"ARK-{line}"
        or certificate.issuer.others != certificate.subject.others
    ):
        raise ChainError(
            (
                f"The {role} certificate is issued by {certificate.issuer.common_name!r} and not by "
                f"ARK-{line}."
            ),
            check=check,
        )
    _check_may_sign(certificate, role)
    return CaCertificate(certificate, line, role, read_rsa_key(certificate.key_info, check))


def _read_ca_name(common_name: str) -> tuple[str, ProductLine]:
    for line in ProductLine:
        for role, prefix in (("ARK", "ARK-"), ("ASK", "SEV-"), ("ASVK", "SEV-VLEK-")):
            if common_name == f"{prefix}{line}":
                return role, line
    raise ChainError(
        f"A certificate for {common_name!r} is no ARK, ASK or ASVK of a known line.", check="snp.ask.format"
    )


def _check_may_sign(certificate: Certificate, role: str) -> None:
    """Check basicConstraints and keyUsage (RFC 5280, sections 4.2.1.9 and 4.2.1.3)."""
    check = "snp.ask.format"
    refuse_unknown(certificate.extensions, (_KEY_USAGE, _BASIC_CONSTRAINTS), check, critical_only=True)
    values = {extension.oid: extension.value for extension in certificate.extensions}
    if _BASIC_CONSTRAINTS not in values or _KEY_USAGE not in values:
        raise ChainError(f"The {role} certificate does not say that it may sign certificates.", check=check)
    outer = Reader(values[_BASIC_CONSTRAINTS], check)
    constraints = outer.enter(der.SEQUENCE, "basicConstraints")
    outer.finish("basicConstraints")
    authority = constraints.next_is(der.BOOLEAN) and constraints.boolean("cA")
    if constraints.more():
        constraints.integer("pathLenConstraint")
    constraints.finish("basicConstraints")
    reader = Reader(values[_KEY_USAGE], check)
    usage = reader.take(der.BIT_STRING, "keyUsage")
    reader.finish("keyUsage")
    # Bit 5, keyCertSign, is 04h of the first byte after the count of unused bits.
    if not authority or len(usage) < 2 or not usage[1] & 0x04:
        raise ChainError(f"The {role} certificate may not sign certificates.", check=check)
