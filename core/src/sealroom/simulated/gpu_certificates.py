# SPDX-License-Identifier: BSD-3-Clause
"""Make certificates in the form of NVIDIA's: device chain, chain of reference values, OCSP responders.

Attribute order, string types, extensions and their order are those of real chains (Hopper, Blackwell and
LS10), all on P-384 with ecdsa-with-SHA384. What differs is the organisation, which says SIMULATED, and the
addresses, which lead nowhere.

- Serial numbers follow from the key, so the same key gives the same certificate.
- A mistake can be asked for, one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from sealroom.simulated.certificates import issue_time

ORGANISATION = "SIMULATED Sealroom"
"""Organisation where a real one has `NVIDIA Corporation`: as long, so that a chain fits NVML's buffer."""
ROOT_ORGANISATION = "SIMULATED"
"""Organisation of the roots, where real ones have `NVIDIA`."""
OCSP_ADDRESS = "http://ocsp.nowhere.invalid"
CRL_ADDRESS = "http://crl.nowhere.invalid"
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""End of the life of device certificates."""
HOPPER_DICE = x509.ObjectIdentifier("2.23.133.5.4.1")
"""TCG DICE extension whose last 48 bytes are the FWID (Hopper, LS10)."""
BLACKWELL_DICE = x509.ObjectIdentifier("2.23.133.5.4.1.1")
"""TCG DICE DiceTcbInfo, whose first FWID counts (Blackwell)."""
_DEVICE_ID = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
"""DMTF SPDM, othername of a device."""
_OCSP_NO_CHECK = x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.5")
_SHA384_IDENTIFIER = bytes.fromhex("0609608648016503040202")
"""2.16.840.1.101.3.4.2.2 in DER."""

Key = ec.EllipticCurvePrivateKey
Extension = tuple[x509.ExtensionType, bool]


def new_key() -> Key:
    """Return a new P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True, slots=True)
class EcAuthority:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid."""

    not_before: datetime
    not_after: datetime = FOREVER


def issue(
    subject: x509.Name,
    key: Key,
    issuer: EcAuthority | None,
    life: Life,
    extensions: Sequence[Extension],
    *,
    serial: int | None = None,
) -> EcAuthority:
    """Issue a certificate; it is self-signed without an issuer."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial_of(key) if serial is None else serial)
        .not_valid_before(issue_time(life.not_before))
        .not_valid_after(issue_time(life.not_after))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = issuer.key if issuer else key
    return EcAuthority(builder.sign(signer, SHA384(), ecdsa_deterministic=True), key)


def root(name: x509.Name, key: Key, life: Life, *, reference_values: bool = False) -> EcAuthority:
    """Make a self-signed root, of devices or of reference values."""
    constraints = [_ca(), _usage(crl=True)]
    ids: list[Extension] = [_key_id(key), _issuer_id(key)]
    return issue(name, key, None, life, [*ids, *constraints] if reference_values else [*constraints, *ids])


def intermediate(
    name: x509.Name,
    key: Key,
    issuer: EcAuthority,
    life: Life,
    *,
    path_length: int | None = None,
    crl: str = "",
) -> EcAuthority:
    """Make an intermediate; `crl` is the last part of the address of its issuer's revocation list."""
    extensions = [_ca(path_length), _usage(crl=True)]
    if crl:
        extensions.append(_crl_point(crl))
    extensions += [_ocsp_address(), _key_id(key), _issuer_id(issuer.key)]
    return issue(name, key, issuer, life, extensions)


def brom(chip: str, engine: str, key: Key, issuer: EcAuthority, life: Life) -> EcAuthority:
    """Make the certificate of a chip's boot ROM, whose serial number is the chip's own."""
    serial = chip_serial(key)
    extensions = [_ca(), _usage(crl=False)]
    if chip.startswith("GB"):
        extensions.append(_ocsp_address())
    extensions += [_key_id(key), _issuer_id(issuer.key)]
    name = _device_name(f"{chip} A01 {engine} BROM", f"{serial:X}")
    return issue(name, key, issuer, life, extensions, serial=serial)


def leaf(
    chip: str,
    engine: str,
    key: Key,
    issuer: EcAuthority,
    life: Life,
    *,
    fwid: bytes | None,
    identity: str | None = None,
) -> EcAuthority:
    """Make the certificate of the key that signs reports.

    Args:
        chip: Chip's name in certificates: GH100, GB100 or LS_10.
        engine: GSP of a GPU, FSP of a switch.
        key: The key that signs reports.
        issuer: The boot ROM.
        life: From when to when it is valid.
        fwid: The firmware's id, 48 bytes; None leaves the extension out.
        identity: Another text for the alternative name.
    """
    serial = serial_of(key, size=20)
    identity = identity or f"NVIDIA:{chip}:{key_digest(issuer.key)[:8].hex().upper()}"
    extensions: list[Extension] = [
        (_key_usage(digital_signature=True), True),
        _key_id(key),
        _issuer_id(issuer.key),
        (x509.SubjectAlternativeName([x509.OtherName(_DEVICE_ID, der(0x0C, identity.encode()))]), False),
    ]
    if fwid is not None:
        blackwell = chip.startswith("GB")
        value = _tcb_info(f"{chip} A01 {engine}", fwid) if blackwell else _composite_id(issuer.key, fwid)
        oid = BLACKWELL_DICE if blackwell else HOPPER_DICE
        extensions.append((x509.UnrecognizedExtension(oid, value), False))
    name = _device_name(f"{chip} A01 {engine} FMC LF", f"{serial:X}")
    return issue(name, key, issuer, life, extensions, serial=serial)


def signer(name: x509.Name, key: Key, issuer: EcAuthority, life: Life) -> EcAuthority:
    """Make the certificate of the key that signs reference values."""
    extensions = [
        _key_id(key),
        _issuer_id(issuer.key),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        _ocsp_address(),
    ]
    return issue(name, key, issuer, life, extensions)


def responder(
    common_name: str, key: Key, issuer: EcAuthority, life: Life, *, usage: bool = True
) -> EcAuthority:
    """Make the certificate of an OCSP responder; `usage` off leaves out that it may sign answers."""
    extensions: list[Extension] = [(_key_usage(digital_signature=True), True)]
    if usage:
        extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING, _OCSP_NO_CHECK]), False))
    extensions += [_key_id(key), _issuer_id(issuer.key)]
    return issue(name_of(common_name, country=True), key, issuer, life, extensions)


def name_of(common_name: str, *, country: bool = False) -> x509.Name:
    """Return the name of an intermediate or a responder."""
    parts = [
        x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
    ]
    return x509.Name([*parts, _country()] if country else parts)


def root_name(common_name: str, *, reference_values: bool = False) -> x509.Name:
    """Return the name of a root; the two kinds have other orders."""
    parts = [
        x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, ROOT_ORGANISATION),
    ]
    return x509.Name([_country(), *reversed(parts)] if reference_values else parts)


def signer_name(common_name: str) -> x509.Name:
    """Return the name of the signer of reference values."""
    return x509.Name(
        [
            _country(),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "XX"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Nowhere"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def key_digest(key: Key) -> bytes:
    """Return the SHA-256 of a public key, from which serial numbers follow."""
    return hashlib.sha256(public_info(key)).digest()


def serial_of(key: Key, *, size: int = 16) -> int:
    """Return the serial number for a key: positive, of exactly `size` bytes."""
    return int.from_bytes(bytes([key_digest(key)[0] & 0x3F | 0x40]) + key_digest(key)[1:size], "big")


def chip_serial(key: Key) -> int:
    """Return the serial number of a chip's boot ROM: 9 bytes, the first 0x41."""
    return int.from_bytes(b"\x41" + key_digest(key)[:8], "big")


def public_info(key: Key) -> bytes:
    """Return a key's SubjectPublicKeyInfo in DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der(tag: int, *parts: bytes) -> bytes:
    """Encode a DER element of at most 65535 bytes."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    return (
        bytes((tag, 0x81, size)) + body
        if size < 0x100
        else bytes((tag, 0x82, *size.to_bytes(2, "big"))) + body
    )


def _composite_id(device: Key, fwid: bytes) -> bytes:
    # CompositeDeviceID of TCG DICE: version, device key, FWID.
    return der(0x30, der(0x02, b"\1"), public_info(device), _fwid(fwid))


def _tcb_info(model: str, fwid: bytes) -> bytes:
    # DiceTcbInfo: vendor, model, version, svn, layer, index, fwids, flags, vendor info, type.
    return der(
        0x30,
        der(0x80, b"NVIDIA"),
        der(0x81, model.encode()),
        der(0x82, b"01"),
        *(der(tag, value) for tag, value in ((0x83, b"\1"), (0x84, b"\0"), (0x85, b"\0"))),
        der(0xA6, _fwid(fwid), _fwid(bytes(48))),
        *(der(tag, value) for tag, value in ((0x87, b"\0\x80\0\0\1"), (0x88, b"\xc0"), (0x89, b"\0"))),
    )


def _fwid(digest: bytes) -> bytes:
    return der(0x30, _SHA384_IDENTIFIER, der(0x04, digest))


def _device_name(common_name: str, serial: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, serial),
            _country(),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _country() -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COUNTRY_NAME, "XX")


def _ca(path_length: int | None = None) -> Extension:
    return x509.BasicConstraints(ca=True, path_length=path_length), True


def _usage(*, crl: bool) -> Extension:
    return _key_usage(key_cert_sign=True, crl_sign=crl), True


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _key_id(key: Key) -> Extension:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False


def _issuer_id(key: Key) -> Extension:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False


def _ocsp_address() -> Extension:
    address = x509.UniformResourceIdentifier(OCSP_ADDRESS)
    return (
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, address)]
        ),
        False,
    )


def _crl_point(name: str) -> Extension:
    uri = x509.UniformResourceIdentifier(f"{CRL_ADDRESS}/{name}")
    return x509.CRLDistributionPoints([x509.DistributionPoint([uri], None, None, None)]), False
