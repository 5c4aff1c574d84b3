# SPDX-License-Identifier: BSD-3-Clause
"""Verification of SEV-SNP reports: did an AMD processor with this firmware sign these bytes?

What this is: authenticity. What this is not: appraisal. A report that allows debugging, runs old firmware
or measures another image is verified all the same; `sealroom.appraisal` says whether it is acceptable.
Freshness and binding are the caller's: compare `report_data` of the result, or use `check_expectations`.

Invariants:

- No IO and no clock: certificates, revocation lists and the time are arguments.
- Nothing but `sealroom.errors.Error` is raised, whatever the bytes. A time without a time zone is a
  `TypeError`.
- It stops at the first check that fails. Only a report that passed every check becomes a `VerifiedReport`.
- What is remembered between calls is a chain whose signatures were verified for exactly these bytes, roots
  and intermediates. Validity, revocation and everything about the report are evaluated every time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from typing import Final

from sealroom.errors import BindingError, ChainError, Error, FormatError, SignatureError, VerificationError
from sealroom.remember import Memory
from sealroom.snp.certificates import CaCertificate, Vek, VekKind
from sealroom.snp.checks import CHECKS, REPORT_CHECKS, CheckResult, Outcome, Trail
from sealroom.snp.crl import check_revocation
from sealroom.snp.fields import KeyInfo
from sealroom.snp.report import Report, decode
from sealroom.snp.roots import Roots
from sealroom.snp.structure import check_structure
from sealroom.snp.tcb import ProductLine
from sealroom.snp.x509 import require_time

MAX_CACHED_CHAINS: Final = 1024
"""Most verified chains that are remembered; one is about 4 KiB."""
MAX_INTERMEDIATES: Final = 16
"""Most intermediate certificates that are looked at; a chain of AMD's has one and a root."""
_PROOF: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """An endorsement certificate and the certificates that lead to a pinned root."""

    vek: Vek
    """The VCEK or VLEK."""
    ask: CaCertificate
    """The ASK or ASVK that signed it."""
    ark: CaCertificate
    """The pinned root that signed the ASK or ASVK."""
    proof: InitVar[object] = None

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only verify_vek and verify_report make a VerifiedChain")


@dataclass(frozen=True, slots=True)
class VerifiedReport:
    """A report that an AMD processor signed, or a simulated one if `simulated`.

    Only `verify_report` makes it.
    """

    report: Report
    """The fields."""
    line: ProductLine
    """Product line of the processor."""
    vek: Vek
    """The VCEK or VLEK that the report was verified with."""
    chain: tuple[CaCertificate, CaCertificate]
    """ASK or ASVK, and the pinned root."""
    roots: Roots
    """The roots that were trusted."""
    at: datetime
    """The reference time."""
    checks: tuple[CheckResult, ...]
    """Every check of `REPORT_CHECKS`, in the order in which they were made."""
    proof: InitVar[object] = None

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only verify_report makes a VerifiedReport")

    @property
    def simulated(self) -> bool:
        """True if the root is a development root: no AMD processor stands behind this report."""
        return self.roots.simulated


@dataclass(frozen=True, slots=True)
class Examination:
    """What every check said about one report, whether it is authentic or not."""

    checks: tuple[CheckResult, ...]
    """Every check of `REPORT_CHECKS`: passed, failed or not asked."""
    verified: VerifiedReport | None
    """The verified report, or None."""
    error: Error | None
    """Why it is not authentic, or None."""


def verify_report(
    report: bytes,
    vek: bytes,
    *,
    roots: Roots,
    at: datetime,
    intermediates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
) -> VerifiedReport:
    """Verify that a report was signed by a processor that the roots vouch for.

    Args:
        report: The report, exactly 1184 bytes.
        vek: The VCEK or VLEK certificate in DER.
        roots: The roots to trust; there is no default on purpose.
        at: The reference time, with a time zone.
        intermediates: Certificates in DER that came with the evidence (ASK, ASVK, ARK). They are not
            trusted: they only
            help where the roots hold no intermediate.
        crls: Revocation lists in DER. Without any, revocation is not asked about, and the result says so.

    Returns:
        The verified report with what was checked.

    Raises:
        FormatError: Something is malformed.
        VerificationError: The report is not authentic: `SignatureError`, `ChainError`, `ExpiredError`,
            `NotYetValidError`, `RevokedError`, `RevocationUnavailableError`, `BindingError`. `check` names
            the check.
        TypeError: `at` has no time zone.
    """
    return _verify(report, vek, roots, at, intermediates, crls, Trail())


def examine_report(
    report: bytes,
    vek: bytes,
    *,
    roots: Roots,
    at: datetime,
    intermediates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
) -> Examination:
    """Verify a report and account for every check, for people to read; arguments as for `verify_report`.

    Raises:
        TypeError: `at` has no time zone.
    """
    trail = Trail()
    try:
        verified = _verify(report, vek, roots, at, intermediates, crls, trail)
    except Error as error:
        return Examination(complete_results(trail, error), None, error)
    return Examination(verified.checks, verified, None)


def complete_results(trail: Trail, error: Error) -> tuple[CheckResult, ...]:
    """Return the results up to a failure, the failure, and all other checks as not asked.

    Args:
        trail: What was checked before the failure.
        error: The failure.
    """
    results = list(trail.results)
    if error.check in CHECKS:
        results.append(CheckResult(error.check, Outcome.FAILED, error.message))
    seen = {result.id for result in results}
    return tuple(results) + tuple(
        CheckResult(check, Outcome.NOT_ASKED, "an earlier check failed")
        for check in CHECKS
        if check in REPORT_CHECKS and check not in seen
    )


def _verify(
    raw: bytes,
    vek: bytes,
    roots: Roots,
    at: datetime,
    extra: Sequence[bytes],
    crls: Sequence[bytes],
    trail: Trail,
) -> VerifiedReport:
    # 1. The report's structure, by itself.
    # 2. The endorsement certificate and its chain to a pinned root: signatures, then validity, then
    #    revocation.
    # 3. The report against the certificate: line, layouts, key, firmware, chip.
    # 4. The report's signature. Last, because it costs the most.
    require_time(at)
    at = at.astimezone(UTC)
    raw = bytes(raw)
    # (1): structure.
    named = check_structure(raw, trail)
    key_info = KeyInfo(int.from_bytes(raw[0x48:0x4C], "little"))
    if key_info.signing_key == KeyInfo.NONE:
        raise SignatureError(
            "The report is not signed: SIGNING_KEY says none (offset 0x48).",
            advice=CHECKS["snp.report.signing_key"].operator,
            check="snp.report.signing_key",
        )
    trail.passed("snp.report.signing_key", key_info.signing_key_name)
    # (2): certificate and chain.
    chain = _verified_chain(bytes(vek), roots, extra, trail)
    _check_times(chain, at, trail)
    check_revocation(crls, (chain.ask, chain.ark), chain.ark, at, trail)
    # (3): report against certificate.
    _check_line(named, chain.vek.line, trail)
    report = decode(raw, chain.vek.line, trail)
    _check_tcb_order(report, trail)
    _check_binding(report, chain.vek, trail)
    # (4): signature.
    if not chain.vek.signed(raw, report.signature_r, report.signature_s):
        raise SignatureError("The report is not signed by the certified key.", check="snp.report.signature")
    trail.passed("snp.report.signature", f"signed by the {chain.vek.kind}")
    return VerifiedReport(
        report,
        chain.vek.line,
        chain.vek,
        (chain.ask, chain.ark),
        roots,
        at,
        tuple(trail.results),
        proof=_PROOF,
    )


def verify_vek(
    vek: bytes,
    *,
    roots: Roots,
    at: datetime,
    intermediates: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
) -> VerifiedChain:
    """Verify an endorsement certificate without a report; arguments and errors as for `verify_report`."""
    require_time(at)
    trail = Trail()
    chain = _verified_chain(bytes(vek), roots, intermediates, trail)
    _check_times(chain, at.astimezone(UTC), trail)
    check_revocation(crls, (chain.ask, chain.ark), chain.ark, at.astimezone(UTC), trail)
    return chain


def choose_vek(report: bytes, certificates: Mapping[str, bytes]) -> bytes:
    """Return the endorsement certificate that a report is to be verified with.

    A host may send a VCEK and a VLEK; SIGNING_KEY in the report says which of them counts. The choice is no
    check: `verify_report` refuses a certificate of the wrong kind.

    Args:
        report: Bytes that claim to be a report.
        certificates: Certificates in DER by kind, as in a certificate table.

    Returns:
        The certificate of the kind that the report names, or the only one there is; empty without any.
    """
    vcek, vlek = certificates.get("VCEK", b""), certificates.get("VLEK", b"")
    named = KeyInfo(int.from_bytes(report[0x48:0x4C], "little")).signing_key
    return vlek or vcek if named == KeyInfo.VLEK else vcek or vlek


_ChainKey = tuple[str | bytes, ...]
"""Fingerprint of the roots, then SHA-256 of the endorsement certificate and of each that came along."""


_CHAINS: Final[Memory[_ChainKey, tuple[VerifiedChain, tuple[CheckResult, ...]]]] = Memory(MAX_CACHED_CHAINS)


def clear_chain_cache() -> None:
    """Forget every verified chain."""
    _CHAINS.clear()


def _verified_chain(vek: bytes, roots: Roots, extra: Sequence[bytes], trail: Trail) -> VerifiedChain:
    if len(extra) > MAX_INTERMEDIATES:
        raise FormatError(
            f"{len(extra)} intermediate certificates are more than the {MAX_INTERMEDIATES} that are read.",
            field="certificates",
            check="snp.ask.format",
        )
    given = tuple(bytes(one) for one in extra)
    key: _ChainKey = (roots.fingerprint, *(hashlib.sha256(one).digest() for one in (vek, *given)))
    known = _CHAINS.get(key)
    if known is not None:
        trail.results.extend(known[1])
        return known[0]
    start = len(trail.results)
    chain = _build_chain(vek, roots, given, trail)
    _CHAINS.put(key, (chain, tuple(trail.results[start:])))
    return chain


def _build_chain(der: bytes, roots: Roots, extra: tuple[bytes, ...], trail: Trail) -> VerifiedChain:
    """Find and verify the signatures from an endorsement certificate to a pinned root."""
    if not der:
        raise ChainError(
            "No endorsement certificate (VCEK or VLEK) was given.",
            advice=CHECKS["snp.vek.present"].operator,
            check="snp.vek.present",
        )
    trail.passed("snp.vek.present", "given")
    vek = Vek.from_der(der, trail=trail)
    given = _parse_intermediates(extra, roots)
    candidates = [
        one
        for one in (*roots.intermediates, *given)
        if one.role != "ARK" and one.certificate.subject.raw == vek.certificate.issuer.raw
    ]
    if not candidates:
        raise ChainError(
            f"There is no certificate of {vek.certificate.issuer.common_name}, which issued the {vek.kind}.",
            advice=CHECKS["snp.ask.present"].operator,
            check="snp.ask.present",
        )
    trail.passed("snp.ask.present", candidates[0].name)
    trail.passed("snp.ask.format", f"{candidates[0].role}, RSA 4096")
    ark = _pinned_root(vek.line, roots, given)
    trail.passed("snp.ark.pinned", f"{'development root' if roots.simulated else 'AMD'}: {ark.name}")
    trail.passed("snp.ark.self_signed", "verified when the roots were loaded")
    genuine = [one for one in candidates if one in roots.intermediates or ark.signed(one.certificate)]
    if not genuine:
        raise SignatureError(
            f"{candidates[0].name} is not signed by the pinned {ark.name}.", check="snp.ask.signature"
        )
    trail.passed("snp.ask.signature", f"signed by {ark.name}")
    for ask in genuine:
        if ask.signed(vek.certificate):
            trail.passed("snp.vek.signature", f"signed by {ask.name}")
            return VerifiedChain(vek, ask, ark, proof=_PROOF)
    raise SignatureError(f"The {vek.kind} is not signed by {genuine[0].name}.", check="snp.vek.signature")


def _parse_intermediates(extra: tuple[bytes, ...], roots: Roots) -> list[CaCertificate]:
    """Parse the certificates that came along, but for those that the roots hold anyway."""
    pinned = {one.certificate.der for one in (*roots.arks, *roots.intermediates)}
    return [CaCertificate.from_der(one) for one in extra if one not in pinned]


def _pinned_root(line: ProductLine, roots: Roots, given: Sequence[CaCertificate]) -> CaCertificate:
    """Return the pinned root of a line, and refuse evidence that brings another."""
    ark = roots.ark(line)
    what = "development roots" if roots.simulated else "AMD's roots"
    if ark is None:
        raise ChainError(f"{what[0].upper()}{what[1:]} have none for {line}.", check="snp.ark.pinned")
    for one in given:
        if one.role == "ARK" and one.line is line and one.certificate.der != ark.certificate.der:
            raise ChainError(
                f"The evidence brings a root {one.name} of its own, which is not the pinned one of {what}.",
                advice=CHECKS["snp.ark.pinned"].operator,
                check="snp.ark.pinned",
            )
    return ark


def _check_times(chain: VerifiedChain, at: datetime, trail: Trail) -> None:
    chain.vek.certificate.check_validity(at, str(chain.vek.kind), "snp.vek.validity")
    trail.passed("snp.vek.validity", f"until {chain.vek.certificate.not_after.date()}")
    for one, check in ((chain.ask, "snp.ask.validity"), (chain.ark, "snp.ark.validity")):
        one.check_validity(at)
        trail.passed(check, f"until {one.certificate.not_after.date()}")


def _check_line(named: ProductLine | None, line: ProductLine, trail: Trail) -> None:
    if named is None:
        trail.not_asked("snp.binding.line", f"version 2 does not say; {line} from the certificate")
    elif named is not line:
        raise ChainError(
            f"The report is of a {named} processor and the certificate of {line}.", check="snp.binding.line"
        )
    else:
        trail.passed("snp.binding.line", str(line))


def _check_tcb_order(report: Report, trail: Trail) -> None:
    """Refuse orders that firmware cannot report. COMMITTED below CURRENT can be: provisional firmware."""
    for name, tcb in (("REPORTED_TCB", report.reported_tcb), ("COMMITTED_TCB", report.committed_tcb)):
        above = report.current_tcb.below(tcb)
        if above:
            raise VerificationError(
                (
                    f"{name} ({tcb}) is above CURRENT_TCB ({report.current_tcb}) in {', '.join(above)}, "
                    "which cannot be."
                ),
                check="snp.report.tcb_order",
            )
    trail.passed("snp.report.tcb_order", "reported and committed are at most current")


def _check_binding(report: Report, vek: Vek, trail: Trail) -> None:
    """Check that the certificate is for the key, the firmware and the chip that the report names."""
    expected = KeyInfo.VCEK if vek.kind is VekKind.VCEK else KeyInfo.VLEK
    if report.key_info.signing_key != expected:
        raise BindingError(
            (
                f"The report says that a {report.key_info.signing_key_name} signed it, and the "
                f"certificate is a {vek.kind}."
            ),
            check="snp.binding.signing_key",
        )
    trail.passed("snp.binding.signing_key", str(vek.kind))
    if report.reported_tcb != vek.tcb:
        raise BindingError(
            f"The {vek.kind} is for firmware {vek.tcb} and the report says {report.reported_tcb}.",
            advice=CHECKS["snp.binding.tcb"].operator,
            check="snp.binding.tcb",
        )
    trail.passed("snp.binding.tcb", str(vek.tcb))
    if vek.hwid is None:
        trail.not_asked("snp.binding.chip_id", "a VLEK is not bound to a chip")
    elif report.chip_id_masked:
        trail.not_asked("snp.binding.chip_id", "the platform masks CHIP_ID")
    elif report.chip_id[: len(vek.hwid)] != vek.hwid:
        raise BindingError(
            f"The VCEK is for chip {vek.hwid[:8].hex()}… and the report of chip {report.chip_id[:8].hex()}….",
            check="snp.binding.chip_id",
        )
    else:
        trail.passed("snp.binding.chip_id", f"{vek.hwid[:8].hex()}…")


def check_expectations(
    report: Report, *, report_data: bytes | None = None, host_data: bytes | None = None
) -> tuple[CheckResult, ...]:
    """Compare what a report carries with what the caller expects; all of each field, nothing padded or cut.

    Args:
        report: The report, usually of a `VerifiedReport`.
        report_data: Expected REPORT_DATA, 64 bytes; None if there is no expectation.
        host_data: Expected HOST_DATA, 32 bytes; None if there is no expectation.

    Returns:
        One result for each field; no expectation is "not asked".
    """
    results = []
    for check, name, actual, expected in (
        ("snp.expected.report_data", "REPORT_DATA", report.report_data, report_data),
        ("snp.expected.host_data", "HOST_DATA", report.host_data, host_data),
    ):
        if expected is None:
            results.append(CheckResult(check, Outcome.NOT_ASKED, "no expectation was given"))
        elif len(expected) != len(actual):
            detail = f"the expectation is {len(expected)} bytes and {name} has {len(actual)}"
            results.append(CheckResult(check, Outcome.FAILED, detail))
        elif hmac.compare_digest(expected, actual):
            results.append(CheckResult(check, Outcome.PASSED, f"{actual[:8].hex()}…"))
        else:
            detail = f"{name} is {actual.hex()} and {expected.hex()} was expected"
            results.append(CheckResult(check, Outcome.FAILED, detail))
    return tuple(results)
