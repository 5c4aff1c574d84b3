# SPDX-License-Identifier: BSD-3-Clause
"""Make certificates in the form of AMD's: ARK, ASK, ASVK, VCEK and VLEK.

Names stand in AMD's attribute order and signatures are RSASSA-PSS with SHA-384 and a salt of 48 bytes, as in
AMD 57230 rev 1.00 (VCEK Certificate and KDS Interface Specification), section 3.

- The names say SIMULATED unless the caller asks for others (interoperability tests of verifiers that
  compare them).
- A mistake can be asked for, one at a time: negative tests are made from `vek(...)` with one argument
  changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from sealroom.snp import ProductLine, TcbVersion

OID = "1.3.6.1.4.1.3704.1."
"""Arc of AMD's extensions."""
SALT = 48
SERIALS = {ProductLine.MILAN: 0x010000, ProductLine.GENOA: 0x020000, ProductLine.TURIN: 0x030000}
"""Serial of each line's ARK; its ASK and ASVK are numbered from there as AMD's are."""
PRODUCT_NAMES = {ProductLine.MILAN: "Milan-B0", ProductLine.GENOA: "Genoa", ProductLine.TURIN: "Turin"}
FIRST_ORDER = ("3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8")
"""TCB extensions of Milan and Genoa in the order of real certificates."""
TURIN_ORDER = ("3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8")
VCEK_LIFE = timedelta(days=7 * 365 + 2)
VLEK_LIFE = timedelta(days=365)

VekKind = Literal["VCEK", "VLEK"]


@dataclass(frozen=True, slots=True)
class Names:
    """What the subject names hold beside the common name, and where the revocation lists would be."""

    unit: str = "SIMULATED"
    country: str = "XX"
    locality: str = "Nowhere"
    state: str = "XX"
    organisation: str = "Sealroom SIMULATED root, not AMD"
    crl_base: str = "http://simulated.invalid"

    def of(self, common_name: str) -> x509.Name:
        """Return the full name for a common name, in AMD's attribute order."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.unit),
                x509.NameAttribute(NameOID.COUNTRY_NAME, self.country),
                x509.NameAttribute(NameOID.LOCALITY_NAME, self.locality),
                x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, self.state),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )


SIMULATED_NAMES = Names()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that signs others, with its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


def pss(salt: int = SALT) -> padding.PSS:
    """Return the signature padding of AMD's certificates."""
    return padding.PSS(padding.MGF1(SHA384()), salt)


def make_ark(
    line: ProductLine, key: rsa.RSAPrivateKey, *, not_before: datetime, names: Names = SIMULATED_NAMES
) -> Authority:
    """Make a self-signed root for a product line; it lives 25 years, as AMD's."""
    name = names.of(f"ARK-{line}")
    builder = _builder(name, name, key.public_key(), SERIALS[line], not_before, timedelta(days=25 * 365 + 6))
    builder = (
        builder.add_extension(_key_usage(crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_crl_points(f"{names.crl_base}/vcek/v1/{line}/crl"), critical=False)
    )
    return Authority(builder.sign(key, SHA384(), rsa_padding=pss()), key)


def make_intermediate(
    line: ProductLine,
    key: rsa.RSAPrivateKey,
    ark: Authority,
    *,
    not_before: datetime,
    vlek: bool = False,
    names: Names = SIMULATED_NAMES,
) -> Authority:
    """Make the ASK of a product line, or its ASVK if `vlek`."""
    service, offset, common_name = ("vlek", 0x101, f"SEV-VLEK-{line}") if vlek else ("vcek", 1, f"SEV-{line}")
    subject, issuer = names.of(common_name), ark.certificate.subject
    life = timedelta(days=25 * 365 + 6)
    builder = _builder(subject, issuer, key.public_key(), SERIALS[line] + offset, not_before, life)
    issuer_key_id = x509.SubjectKeyIdentifier.from_public_key(ark.key.public_key())
    builder = (
        builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(crl_sign=False), critical=True)
        .add_extension(_crl_points(f"{names.crl_base}/{service}/v1/{line}/crl"), critical=False)
    )
    return Authority(builder.sign(ark.key, SHA384(), rsa_padding=pss()), key)


def make_vek(
    issuer: Authority,
    public_key: ec.EllipticCurvePublicKey,
    line: ProductLine,
    tcb: TcbVersion,
    *,
    kind: VekKind = "VCEK",
    chip_id: bytes = b"",
    csp_id: str = "CN=simulated.invalid",
    not_before: datetime,
    not_after: datetime | None = None,
    extensions: Mapping[str, bytes | None] | None = None,
    names: Names = SIMULATED_NAMES,
    issuer_name: x509.Name | None = None,
    salt: int = SALT,
) -> bytes:
    """Make a VCEK or VLEK certificate with serial 0.

    Args:
        issuer: ASK for a VCEK, ASVK for a VLEK.
        public_key: The chip's key, P-384.
        line: Product line, which decides the extensions.
        tcb: TCB that the key is derived for.
        kind: VCEK or VLEK.
        chip_id: CHIP_ID of the report (64 bytes); a VCEK carries 64 of them, on Turin 8.
        csp_id: Cloud provider's name, in a VLEK only.
        not_before: Start of its life.
        not_after: End; by default AMD's seven years (VLEK: one).
        extensions: Extensions by the last part of their OID ("3.1"), replacing what would stand there; None
            leaves one out.
        names: Organisation texts.
        issuer_name: Name to put as issuer instead of the issuer's own.
        salt: PSS salt length.

    Returns:
        The certificate in DER.
    """
    values: dict[str, bytes | None] = dict(vek_extensions(line, tcb, kind, chip_id, csp_id))
    values.update(extensions or {})
    life = VCEK_LIFE if kind == "VCEK" else VLEK_LIFE
    builder = _builder(
        names.of(f"SEV-{kind}"),
        issuer_name or issuer.certificate.subject,
        public_key,
        1,
        not_before,
        (not_after - not_before) if not_after else life,
    )
    for suffix, value in values.items():
        if value is not None:
            oid = x509.ObjectIdentifier(OID + suffix)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        der = builder.sign(issuer.key, SHA384(), rsa_padding=pss(salt)).public_bytes(Encoding.DER)
    return _with_serial_zero(der, issuer.key, salt)


def vek_extensions(
    line: ProductLine, tcb: TcbVersion, kind: VekKind, chip_id: bytes, csp_id: str
) -> dict[str, bytes]:
    """Return AMD's extensions by the last part of their OID, in AMD's order."""
    turin = line is ProductLine.TURIN
    product = line.value if kind == "VLEK" else PRODUCT_NAMES[line]
    levels = {
        "3.1": tcb.bootloader,
        "3.2": tcb.tee,
        "3.3": tcb.snp,
        "3.8": tcb.microcode,
        "3.9": tcb.fmc or 0,
    }
    order = TURIN_ORDER if turin else FIRST_ORDER
    values = {"1": der_integer(1 if turin else 0), "2": der_ia5(product)}
    values |= {suffix: der_integer(levels.get(suffix, 0)) for suffix in order}
    if kind == "VCEK":
        # hwID is raw bytes, not DER; Turin's chip id has 8.
        values["4"] = chip_id[:8] if turin else chip_id
    else:
        values["5"] = der_ia5(csp_id)
    return values


def der_integer(value: int) -> bytes:
    """Encode a small non-negative integer; from 128 on it takes a leading zero."""
    body = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((0x02, len(body))) + body


def der_ia5(text: str) -> bytes:
    """Encode an IA5String of fewer than 128 characters."""
    body = text.encode("ascii")
    return bytes((0x16, len(body))) + body


def issue_time(at: datetime) -> datetime:
    """Return the second to write into a certificate that is issued now."""
    return at.astimezone(UTC).replace(microsecond=0)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    serial: int,
    not_before: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    start = issue_time(not_before)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + life)
    )


def _with_serial_zero(der: bytes, key: rsa.RSAPrivateKey, salt: int) -> bytes:
    # AMD's chip certificates have serial 0, which pyca's builder refuses: change the byte and sign again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificate = x509.load_der_x509_certificate(der)
        tbs, old = certificate.tbs_certificate_bytes, certificate.signature
    serial = b"\xa0\x03\x02\x01\x02\x02\x01"  # version 3, then INTEGER of one byte
    at = tbs.index(serial) + len(serial)
    patched = tbs[:at] + b"\x00" + tbs[at + 1 :]
    new = key.sign(patched, pss(salt), SHA384())
    return der[: -len(old)].replace(tbs, patched, 1) + new


def _key_usage(*, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _crl_points(url: str) -> x509.CRLDistributionPoints:
    uri = x509.UniformResourceIdentifier(url)
    return x509.CRLDistributionPoints([x509.DistributionPoint([uri], None, None, None)])
