# SPDX-License-Identifier: BSD-3-Clause
"""Whether what was fetched, imported or stored is authentic: signed by the maker, and what its name says.

What this is: the check before something is stored and after it is read. What this is not: the verification of
evidence, which `sealroom.snp` and `sealroom.nvidia` make at the reference time. Certificates are judged here
as of their own validity: one that has expired is authentic still, and an auditor of old evidence needs it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509

from sealroom.collateral import layout
from sealroom.collateral.layout import Entry, Kind
from sealroom.collateral.store import Fetched, Store
from sealroom.errors import BindingError, ChainError, ConfigurationError, FormatError, SignatureError
from sealroom.snp import (
    CaCertificate,
    ProductLine,
    RevocationList,
    Roots,
    TcbVersion,
    VekKind,
    VerifiedChain,
    verify_crl,
    verify_vek,
)
from sealroom.snp.x509 import CheckIds, parse_certificate

if TYPE_CHECKING:
    from sealroom.nvidia import NvidiaRoots, VerifiedRim

_CERTIFICATE: Final = re.compile(rb"<(?:[A-Za-z0-9_-]+:)?X509Certificate>([^<]{1,20000})</")
_ENVELOPE: Final = CheckIds(
    "snp.vek.der", "snp.vek.version", "snp.vek.signature_algorithm", "snp.vek.extensions"
)
MAX_RIM_CERTIFICATES: Final = 8
"""Most certificates in a manifest; real ones have four."""


# --- AMD ---


def check_vek(
    data: bytes,
    *,
    roots: Roots,
    intermediates: Sequence[bytes] = (),
    line: ProductLine,
    tcb: TcbVersion,
    hwid: bytes | None,
) -> VerifiedChain:
    """Check that a certificate is authentic and is the one that was asked for.

    Args:
        data: The certificate in DER.
        roots: The roots to trust.
        intermediates: Certificates in DER that may lead to them.
        line: Product line that it must be for.
        tcb: TCB that it must be for.
        hwid: Chip that it must be for; None asks for a VLEK.

    Raises:
        FormatError: It is no such certificate.
        VerificationError: It is not authentic (`ChainError`, `SignatureError`), or is for something else
            (`BindingError`).
    """
    chain = verify_vek(data, roots=roots, at=vek_validity(data)[0], intermediates=intermediates)
    vek = chain.vek
    wanted = VekKind.VLEK if hwid is None else VekKind.VCEK
    if vek.kind is not wanted:
        raise BindingError(f"It is a {vek.kind} and not a {wanted}.", check="snp.vek.kind")
    if vek.line is not line:
        raise BindingError(f"It is for {vek.line} and not for {line}.", check="snp.binding.line")
    if vek.tcb != tcb:
        raise BindingError(f"It is for the TCB {vek.tcb} and not for {tcb}.", check="snp.binding.tcb")
    if vek.hwid != hwid:
        raise BindingError("It is for another chip.", check="snp.binding.chip_id")
    return chain


def vek_validity(data: bytes) -> tuple[datetime, datetime]:
    """Return first and last moment of an endorsement certificate's validity, not verified.

    Raises:
        FormatError: It is no certificate.
    """
    envelope = parse_certificate(data, _ENVELOPE)
    return envelope.not_before, envelope.not_after


def check_ca(data: bytes, *, roots: Roots, line: ProductLine, role: str) -> CaCertificate:
    """Check that an ARK is the pinned one, or that the pinned ARK signed an ASK or ASVK.

    Raises:
        FormatError: It is no such certificate.
        VerificationError: It is not authentic, or is another's.
    """
    certificate = CaCertificate.from_der(data)
    if certificate.line is not line or certificate.role != role:
        raise BindingError(
            f"It is the {certificate.role} of {certificate.line} and not the {role} of {line}.",
            check="snp.ask.format",
        )
    ark = roots.ark(line)
    if ark is None:
        raise ChainError(f"The roots have none for {line}.", check="snp.ark.pinned")
    if role == "ARK" and data != ark.certificate.der:
        raise ChainError(f"{certificate.name} is not the pinned root.", check="snp.ark.pinned")
    if not ark.signed(certificate.certificate):
        raise SignatureError(f"{certificate.name} is not signed by {ark.name}.", check="snp.ask.signature")
    return certificate


def check_crl(data: bytes, *, roots: Roots, line: ProductLine) -> RevocationList:
    """Check that a revocation list is signed by the pinned root of a line, whatever its age.

    Raises:
        FormatError: It is no revocation list.
        VerificationError: It is not authentic, or is of another line.
    """
    parsed = RevocationList.from_der(data)
    ark = roots.ark(line)
    if ark is None or parsed.issuer.raw != ark.certificate.subject.raw:
        raise BindingError(
            f"It is the revocation list of {parsed.issuer.common_name!r} and not of {line}'s root.",
            check="snp.crl.issuer",
        )
    return verify_crl(data, roots=roots, at=parsed.this_update)


# --- NVIDIA ---


def rim_certificates(xml: bytes) -> list[bytes]:
    """Return the certificates in a manifest's signature in DER, as they stand: the signer first.

    Not verified: `verify_rim` decides whether they lead to the root.

    Raises:
        FormatError: There is none, there are too many, or one does not decode.
    """
    blocks = _CERTIFICATE.findall(xml)
    if not 1 <= len(blocks) <= MAX_RIM_CERTIFICATES:
        raise FormatError(
            f"The manifest has {len(blocks)} certificates in its signature.",
            field="X509Certificate",
            check="nvidia.rim.format",
        )
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in blocks]
    except binascii.Error as error:
        raise FormatError(
            "A certificate in the manifest's signature does not decode.",
            field="X509Certificate",
            check="nvidia.rim.format",
        ) from error


def check_rim(xml: bytes, *, roots: NvidiaRoots, rim_id: str) -> VerifiedRim:
    """Check that a manifest is authentic, as of a time at which its signer was valid, and has that id.

    Raises:
        FormatError: It is no manifest.
        VerificationError: It is not authentic, or is for another version than its id says.
    """
    from sealroom.nvidia import verify_rim

    rim = verify_rim(xml, roots=roots, at=_start_of_validity(rim_certificates(xml)))
    # The id ends with the version that is signed; the VBIOS's without its dots.
    wanted = rim_id.upper()
    if not wanted.endswith((f"_{rim.version}".upper(), f"_{rim.version.replace('.', '')}".upper())):
        raise BindingError(
            f"It is for version {rim.version} and not the one that {rim_id} names.",
            check="nvidia.rim.version",
        )
    return rim


def _start_of_validity(certificates: Sequence[bytes]) -> datetime:
    """Return the first moment at which all these certificates are valid."""
    try:
        parsed = [x509.load_der_x509_certificate(one) for one in certificates]
        return max(one.not_valid_before_utc for one in parsed)
    except ValueError as error:
        raise FormatError(
            "A certificate in the manifest's signature is malformed.",
            field="X509Certificate",
            check="nvidia.rim.format",
        ) from error


# --- entries of a store ---


class Checker:
    """Checks entries by their names, under all the roots that somebody trusts.

    Args:
        store: Where intermediates are looked for.
        roots: AMD's roots and development roots, each for its own part of a store.
        nvidia: The same for NVIDIA.
    """

    def __init__(
        self, store: Store | None, roots: Sequence[Roots], nvidia: Sequence[NvidiaRoots] = ()
    ) -> None:
        self._store = store
        self._roots = {layout.area(one): one for one in roots}
        self._nvidia = {layout.area(one): one for one in nvidia}
        self._intermediates: dict[tuple[str, ProductLine], list[bytes]] = {}

    def add_intermediates(self, entry: Entry, data: bytes) -> None:
        """Let an ASK or ASVK that was checked lead to a root."""
        if entry.line is not None:
            self._given(entry.fingerprint, entry.line).append(data)

    def check(self, entry: Entry, data: bytes) -> None:
        """Check one entry.

        Raises:
            FormatError: The content is malformed.
            VerificationError: It is not authentic, or not what the name says.
            ConfigurationError: It is of a development root that was not given.
        """
        if entry.kind in (Kind.CRL_INFO, Kind.RIM_CURRENT):
            Fetched.from_json(data)
        elif entry.line is not None:
            self._check_amd(entry, entry.line, data)
        else:
            self._check_nvidia(entry, data)

    def _check_amd(self, entry: Entry, line: ProductLine, data: bytes) -> None:
        roots = self._roots.get(_area(entry))
        if roots is None:
            raise _no_root(entry)
        if entry.kind is Kind.CRL:
            check_crl(data, roots=roots, line=line)
            return
        if entry.digest and not hashlib.sha256(data).hexdigest().startswith(entry.digest):
            raise _not_its_digest(entry)
        if entry.kind is Kind.CA:
            check_ca(data, roots=roots, line=line, role=entry.role)
        elif entry.tcb is not None:
            given = self._given(entry.fingerprint, line)
            check_vek(data, roots=roots, intermediates=given, line=line, tcb=entry.tcb, hwid=entry.hwid)

    def _check_nvidia(self, entry: Entry, data: bytes) -> None:
        roots = self._nvidia.get(_area(entry))
        if roots is None:
            raise _no_root(entry)
        if entry.kind is Kind.RIM:
            if hashlib.sha256(data).hexdigest() != entry.digest:
                raise _not_its_digest(entry)
            check_rim(data, roots=roots, rim_id=entry.rim_id)
        else:
            from sealroom.collateral.ocsp import issue_time

            issue_time(data)

    def _given(self, fingerprint: str, line: ProductLine) -> list[bytes]:
        """Return the ASK and ASVK that the store has for a line."""
        key = (fingerprint, line)
        if key not in self._intermediates:
            folder = f"{_area_of(fingerprint)}amd/{line.lower()}"
            self._intermediates[key] = intermediates(self._store, folder) if self._store else []
        return self._intermediates[key]


def intermediates(store: Store, folder: str) -> list[bytes]:
    """Return the ASK and ASVK certificates in a line's folder, at most eight, not verified."""
    entries = [Entry.parse(name) for name in store.names(folder, below=False)]
    found = [store.read(one.name) for one in entries if one.kind is Kind.CA and one.role != "ARK"]
    return [one for one in found if one is not None and _parses(one)][:8]


def _parses(data: bytes) -> bool:
    try:
        CaCertificate.from_der(data)
    except (FormatError, ChainError):
        return False
    return True


def _area_of(fingerprint: str) -> str:
    return f"development/{fingerprint}/" if fingerprint else ""


def _area(entry: Entry) -> str:
    return _area_of(entry.fingerprint)


def _no_root(entry: Entry) -> ConfigurationError:
    return ConfigurationError(
        f"{entry.name} is of a development root that was not given.",
        advice="Name the root with --root, or leave such entries out.",
    )


def _not_its_digest(entry: Entry) -> BindingError:
    return BindingError(f"{entry.name} does not have the content that its name says.")
