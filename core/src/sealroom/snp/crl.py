# SPDX-License-Identifier: BSD-3-Clause
"""Revocation lists of AMD's roots.

What this is: a strict parser of X.509 revocation lists and the answer to one question: is a certificate of
this chain revoked? What this is not: a fetcher. VCEKs and VLEKs all have serial number 0, so a list can
speak about ASK, ASVK and ARK only.

Invariants:

- Revoked, a stale list, a list from the future and no list of this root are different errors.
- A stale list never clears a certificate; a revocation in any genuine list counts, however old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sealroom.errors import FormatError, RevocationUnavailableError, RevokedError, SignatureError
from sealroom.snp import der
from sealroom.snp.certificates import CaCertificate
from sealroom.snp.checks import Trail
from sealroom.snp.der import Reader
from sealroom.snp.roots import Roots
from sealroom.snp.x509 import CheckIds, Name, read_extensions, refuse_unknown, require_time, split_signed

MAX_CRL: Final = 1 << 20
"""Longest list in bytes; AMD's have less than 1000."""
_FORMAT: Final = "snp.crl.format"
_IDS: Final = CheckIds(_FORMAT, _FORMAT, _FORMAT, _FORMAT)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed and not yet verified revocation list."""

    tbs: bytes
    """The signed part."""
    issuer: Name
    """Who signed."""
    this_update: datetime
    """When it was issued."""
    next_update: datetime
    """When the next one is due; after it this one is stale."""
    revoked: tuple[tuple[int, datetime], ...]
    """Pairs of serial number and time of revocation."""
    signature: bytes
    """Signature over `tbs`."""

    @classmethod
    def from_der(cls, data: bytes) -> RevocationList:
        """Parse a revocation list.

        Args:
            data: DER bytes of exactly one list.

        Raises:
            FormatError: The bytes are no list of X.509 version 2 with nextUpdate, or a critical extension
                is unknown.
        """
        if len(data) > MAX_CRL:
            raise FormatError(
                f"A revocation list of {len(data)} bytes is longer than the {MAX_CRL} that are read.",
                field="CertificateList",
                check=_FORMAT,
            )
        tbs_bytes, signature = split_signed(data, "CertificateList", _IDS)
        tbs = Reader(tbs_bytes, _FORMAT).enter(der.SEQUENCE, "tbsCertList")
        if tbs.integer("version") != 1:
            raise tbs.fail("is not 2.", "version")
        tbs.element(der.SEQUENCE, "signature")
        issuer = Name.read(tbs, "issuer")
        this_update = tbs.time("thisUpdate")
        if not (tbs.next_is(der.UTC_TIME) or tbs.next_is(der.GENERALIZED_TIME)):
            raise tbs.fail("missing: without it nobody can tell when the list is stale.", "nextUpdate")
        next_update = tbs.time("nextUpdate")
        revoked = _read_revoked(tbs) if tbs.next_is(der.SEQUENCE) else ()
        if tbs.more():
            extensions = read_extensions(tbs.enter(der.context(0), "crlExtensions"), _FORMAT)
            refuse_unknown(extensions, (), _FORMAT, critical_only=True)
        tbs.finish("tbsCertList")
        return cls(tbs_bytes, issuer, this_update, next_update, revoked, signature)

    def signed_by(self, ark: CaCertificate) -> bool:
        """Tell whether a root's key signed this list, and is named as its issuer."""
        return ark.signed_bytes(self.issuer, self.tbs, self.signature)


def _read_revoked(tbs: Reader) -> tuple[tuple[int, datetime], ...]:
    entries = tbs.enter(der.SEQUENCE, "revokedCertificates")
    found: list[tuple[int, datetime]] = []
    while entries.more():
        entry = entries.enter(der.SEQUENCE, "revokedCertificate")
        serial, when = entry.integer("userCertificate"), entry.time("revocationDate")
        if entry.more():
            sequence = Reader(entry.data, _FORMAT, entry.pos, entry.end)
            refuse_unknown(read_extensions(sequence, _FORMAT), (), _FORMAT, critical_only=True)
        found.append((serial, when))
    return tuple(found)


def check_revocation(
    crls: Sequence[bytes], chain: Sequence[CaCertificate], ark: CaCertificate, at: datetime, trail: Trail
) -> None:
    """Check that no certificate of a chain is revoked.

    Lists of other roots are left out: a verifier may hold those of all product lines.

    Args:
        crls: Revocation lists in DER. None at all means that revocation is not asked about.
        chain: The certificates whose serial numbers are looked up.
        ark: The root that the chain ends in.
        at: The reference time.
        trail: Where passed checks are recorded.

    Raises:
        FormatError: A list is malformed.
        SignatureError: A list names this root as its issuer and is not signed by it.
        RevokedError: A certificate is on a list.
        RevocationUnavailableError: No list is of this root, or none is current at the time.
    """
    if not crls:
        for check in ("format", "issuer", "signature", "not_revoked", "not_future", "not_stale"):
            trail.not_asked(f"snp.crl.{check}", "no revocation list was given")
        return
    # 1. Every list is well formed, and those of this root are signed by it.
    lists = [RevocationList.from_der(data) for data in crls]
    trail.passed("snp.crl.format", f"{len(lists)} well formed")
    own = [one for one in lists if one.issuer.raw == ark.certificate.subject.raw]
    if not own:
        raise RevocationUnavailableError(
            f"None of the revocation lists is of {ark.name}, so revocation could not be checked.",
            check="snp.crl.issuer",
        )
    trail.passed("snp.crl.issuer", f"{len(own)} of {ark.name}")
    if not all(one.signed_by(ark) for one in own):
        raise SignatureError(
            f"A revocation list in the name of {ark.name} is not signed by it.", check="snp.crl.signature"
        )
    trail.passed("snp.crl.signature", f"signed by {ark.name}")
    # 2. Nothing is revoked by any of them, whatever its age.
    _refuse_revoked(own, chain)
    trail.passed(
        "snp.crl.not_revoked", ", ".join(f"{one.name} {one.certificate.serial:06x}" for one in chain)
    )
    # 3. One of them speaks for the reference time.
    _require_current(own, at)
    trail.passed("snp.crl.not_future", "issued before the time")
    trail.passed("snp.crl.not_stale", "next list due after the time")


def _refuse_revoked(lists: Sequence[RevocationList], chain: Sequence[CaCertificate]) -> None:
    revoked = {serial: when for one in lists for serial, when in one.revoked}
    for certificate in chain:
        when = revoked.get(certificate.certificate.serial)
        if when is not None:
            raise RevokedError(
                (
                    f"{certificate.name} with serial number {certificate.certificate.serial:06x} was "
                    f"revoked on {when:%Y-%m-%d}."
                ),
                check="snp.crl.not_revoked",
            )


def _require_current(lists: Sequence[RevocationList], at: datetime) -> None:
    issued = [one for one in lists if one.this_update <= at]
    if not issued:
        first = min(one.this_update for one in lists)
        raise RevocationUnavailableError(
            (
                f"The revocation list was issued at {first:%Y-%m-%d %H:%M:%S} UTC, after the time "
                f"{at:%Y-%m-%d %H:%M:%S}."
            ),
            check="snp.crl.not_future",
        )
    last = max(one.next_update for one in issued)
    if at > last:
        raise RevocationUnavailableError(
            f"The revocation list is stale: the next one was due at {last:%Y-%m-%d %H:%M:%S} UTC, "
            f"before the time {at:%Y-%m-%d %H:%M:%S}.",
            check="snp.crl.not_stale",
        )


def verify_crl(data: bytes, *, roots: Roots, at: datetime) -> RevocationList:
    """Verify one revocation list by itself.

    Args:
        data: DER bytes of the list.
        roots: The roots that may have signed it.
        at: The reference time, with a time zone.

    Raises:
        Error: As `check_revocation` does.
    """
    require_time(at)
    parsed = RevocationList.from_der(data)
    for ark in roots.arks:
        if ark.certificate.subject.raw == parsed.issuer.raw:
            check_revocation([data], [ark], ark, at.astimezone(UTC), Trail())
            return parsed
    raise RevocationUnavailableError(
        f"The revocation list is of {parsed.issuer.common_name!r}, which is none of the roots.",
        check="snp.crl.issuer",
    )
