# SPDX-License-Identifier: BSD-3-Clause
"""Verification of device reports: did an NVIDIA device with this identity sign these bytes?

What this is: authenticity. What this is not: whether the device's firmware is what NVIDIA published;
`compare` says that, and `sealroom.appraisal` whether it is acceptable.

Invariants:

- No IO and no clock: certificates, OCSP answers and the time are arguments.
- Nothing but `sealroom.errors.Error` is raised, whatever the bytes. A time without a time zone is a
  `TypeError`.
- It stops at the first check that fails. Only a report that passed every check becomes a `VerifiedDevice`.
- What is remembered between calls is a chain whose signatures were verified for exactly these bytes and
  roots.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from sealroom.checks import CheckResult, Outcome, Trail
from sealroom.errors import BindingError, ChainError, Error, FreshnessError, SignatureError
from sealroom.nvidia.certificates import DEVICE, Certificate, build_chain, check_times, clear_link_cache
from sealroom.nvidia.checks import CHECKS, REPORT_CHECKS
from sealroom.nvidia.dice import certified_fwid
from sealroom.nvidia.ocsp import OcspPolicy, check_revocation
from sealroom.nvidia.opaque import Architecture
from sealroom.nvidia.roots import NvidiaRoots
from sealroom.nvidia.spdm import DeviceReport
from sealroom.remember import Memory

NONCE_SIZE: Final = 32
MAX_CACHED_CHAINS: Final = 1024
_CHIP: Final = re.compile(r"(?:NVIDIA )?(GH|GB|LS_?)([0-9]{1,3})")
_ARCHITECTURES: Final = {"GH": Architecture.HOPPER, "GB": Architecture.BLACKWELL, "LS": Architecture.LS10}
_PROOF: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedDevice:
    """A report that an NVIDIA device signed, or a simulated one if `simulated`; `verify_device` makes it."""

    report: DeviceReport
    """The fields."""
    architecture: Architecture
    """What the certificates say that the device is."""
    chain: tuple[Certificate, ...]
    """The signer, its issuers, the pinned root."""
    ueid: str
    """Serial number of the certificate of the device's boot ROM, which is unique per device."""
    roots: NvidiaRoots
    """What was trusted."""
    at: datetime
    """The reference time."""
    checks: tuple[CheckResult, ...]
    """Every check of `REPORT_CHECKS`, in the order in which they were made."""
    proof: InitVar[object] = None

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only verify_device makes a VerifiedDevice")

    @property
    def simulated(self) -> bool:
        """True if the root is a development root: no NVIDIA device stands behind this report."""
        return self.roots.simulated

    @property
    def is_switch(self) -> bool:
        """Whether this is an NVSwitch."""
        return self.architecture is Architecture.LS10

    @property
    def chip(self) -> str:
        """Chip as the ids of manifests name it, for example `GH100`."""
        return _chip(self.chain[0])


@dataclass(frozen=True, slots=True)
class DeviceExamination:
    """What every check said about one report, whether it is authentic or not."""

    checks: tuple[CheckResult, ...]
    """Every check of `REPORT_CHECKS`: passed, failed or not asked."""
    verified: VerifiedDevice | None
    """The verified device, or None."""
    error: Error | None
    """Why it is not authentic, or None."""


def verify_device(
    report: bytes,
    chain: Sequence[bytes],
    *,
    roots: NvidiaRoots,
    at: datetime,
    nonce: bytes | None = None,
    ocsp: Sequence[bytes] = (),
    ocsp_policy: OcspPolicy = OcspPolicy.OFF,
) -> VerifiedDevice:
    """Verify that a report was signed by a device that the roots vouch for.

    Args:
        report: SPDM request, response and signature.
        chain: The device's certificates in DER, the signer first; the root may be left out.
        roots: The roots to trust; there is no default on purpose.
        at: The reference time, with a time zone.
        nonce: The 32 bytes that the report has to answer; None asks nothing, and the result says so.
        ocsp: OCSP answers in DER about the chain, in any order; others are passed over.
        ocsp_policy: What is done about revocation.

    Returns:
        The verified device with what was checked.

    Raises:
        FormatError: Something is malformed.
        VerificationError: The report is not authentic: `SignatureError`, `ChainError`, `ExpiredError`,
            `NotYetValidError`, `RevokedError`, `RevocationUnavailableError`, `BindingError` (firmware id),
            `FreshnessError` (nonce). `check` names the check.
        TypeError: `at` has no time zone.
        ValueError: `nonce` does not have 32 bytes.
    """
    return _verify(report, chain, roots, at, nonce, ocsp, ocsp_policy, Trail())


def examine_device(
    report: bytes,
    chain: Sequence[bytes],
    *,
    roots: NvidiaRoots,
    at: datetime,
    nonce: bytes | None = None,
    ocsp: Sequence[bytes] = (),
    ocsp_policy: OcspPolicy = OcspPolicy.OFF,
) -> DeviceExamination:
    """Verify a report and account for every check, for people to read; arguments as for `verify_device`.

    Raises:
        TypeError: `at` has no time zone.
        ValueError: `nonce` does not have 32 bytes.
    """
    trail = Trail()
    try:
        verified = _verify(report, chain, roots, at, nonce, ocsp, ocsp_policy, trail)
    except Error as error:
        return DeviceExamination(_complete(trail, error), None, error)
    return DeviceExamination(verified.checks, verified, None)


def with_revocation(
    device: VerifiedDevice, *, ocsp: Sequence[bytes], ocsp_policy: OcspPolicy
) -> VerifiedDevice:
    """Return a verified device whose revocation was asked about, as of the time it was verified at.

    For those who learn only from the verified device which answers to look for.

    Args:
        device: A verified device.
        ocsp: OCSP answers in DER about its chain, in any order; others are passed over.
        ocsp_policy: What is done about revocation.

    Raises:
        FormatError: An answer is malformed.
        VerificationError: `RevokedError`, `RevocationUnavailableError` or `SignatureError`.
    """
    check, trail = "nvidia.chain.ocsp", Trail()
    check_revocation(device.chain[1:], ocsp, ocsp_policy, device.at, trail, check)
    (result,) = trail.results
    checks = tuple(result if one.id == check else one for one in device.checks)
    return VerifiedDevice(
        device.report,
        device.architecture,
        device.chain,
        device.ueid,
        device.roots,
        device.at,
        checks,
        proof=_PROOF,
    )


def _complete(trail: Trail, error: Error) -> tuple[CheckResult, ...]:
    results = list(trail.results)
    if error.check in CHECKS:
        results.append(CheckResult(error.check, Outcome.FAILED, error.message))
    seen = {result.id for result in results}
    later = (check for check in REPORT_CHECKS if check not in seen)
    return (*results, *(CheckResult(check, Outcome.NOT_ASKED, "an earlier check failed") for check in later))


def _verify(
    raw: bytes,
    given: Sequence[bytes],
    roots: NvidiaRoots,
    at: datetime,
    nonce: bytes | None,
    ocsp: Sequence[bytes],
    ocsp_policy: OcspPolicy,
    trail: Trail,
) -> VerifiedDevice:
    if at.tzinfo is None:
        raise TypeError("at needs a time zone")
    if nonce is not None and len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    at = at.astimezone(UTC)
    # 1. The report's structure.
    report = DeviceReport.from_bytes(raw)
    _report_trail(report, trail)
    # 2. The chain: signatures, validity, revocation.
    chain = _verified_chain(given, roots, trail)
    architecture = _architecture(chain[0], report)
    trail.passed("nvidia.chain.device", f"{architecture}, {chain[0].name}")
    check_times(chain, at, DEVICE, trail, "The device's identity has ended; ask its maker.")
    # The signer's key is made by the device at each boot, and nobody but the device could revoke it.
    check_revocation(chain[1:], ocsp, ocsp_policy, at, trail, "nvidia.chain.ocsp")
    # 3. The signature.
    _check_signature(report, chain[0].key)
    trail.passed("nvidia.report.signature", f"signed by {chain[0].name}")
    # 4. The report against certificate and question.
    _check_fwid(report, chain[0], trail)
    _check_nonce(report, nonce, trail)
    ueid = str(chain[1].x509.serial_number)
    return VerifiedDevice(report, architecture, chain, ueid, roots, at, tuple(trail.results), proof=_PROOF)


def _report_trail(report: DeviceReport, trail: Trail) -> None:
    trail.passed("nvidia.report.request", "SPDM 1.1 GET_MEASUREMENTS")
    trail.passed("nvidia.report.response", "SPDM 1.1 MEASUREMENTS")
    trail.passed("nvidia.report.length", f"{len(report.raw)} bytes")
    trail.passed("nvidia.report.blocks", f"{len(report.measurements)} measurements")
    trail.passed("nvidia.report.opaque", f"{len(report.opaque)} fields")
    if report.trailing:
        trail.not_asked(
            "nvidia.report.trailing",
            f"{len(report.trailing)} byte after the signature is covered by nothing and was not read",
        )
    else:
        trail.passed("nvidia.report.trailing", "nothing follows the signature")


def _check_signature(report: DeviceReport, key: ec.EllipticCurvePublicKey) -> None:
    half = len(report.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise SignatureError(
            "The report is not signed by the device that the certificates name.",
            check="nvidia.report.signature",
        ) from None


def _check_fwid(report: DeviceReport, leaf: Certificate, trail: Trail) -> None:
    if report.fwid is None:
        who = "a switch's" if report.is_switch else "this driver's (535 and older)"
        trail.not_asked("nvidia.report.fwid", f"{who} reports name no firmware id")
        return
    certified = certified_fwid(leaf)
    if certified is None:
        raise BindingError(
            f"The report names a firmware id, and the certificate of {leaf.name} names none.",
            check="nvidia.report.fwid",
        )
    if not hmac.compare_digest(certified, report.fwid):
        raise BindingError(
            f"The report's firmware id is {report.fwid.hex()[:16]}…, and the certificate's is "
            f"{certified.hex()[:16]}….",
            check="nvidia.report.fwid",
        )
    trail.passed("nvidia.report.fwid", f"{report.fwid.hex()[:16]}… in report and certificate")


def _check_nonce(report: DeviceReport, nonce: bytes | None, trail: Trail) -> None:
    if nonce is None:
        trail.not_asked("nvidia.report.nonce", "no nonce was given")
        return
    if not hmac.compare_digest(report.requester_nonce, nonce):
        raise FreshnessError(
            "The report is genuine and answers another nonce than the one given.",
            advice="Ask the device for a fresh report.",
            check="nvidia.report.nonce",
        )
    trail.passed("nvidia.report.nonce", "the report answers the given nonce")


def _chip(leaf: Certificate) -> str:
    found = _CHIP.match(leaf.name)
    return "" if found is None else (found.group(1) + found.group(2)).replace("_", "")


def _architecture(leaf: Certificate, report: DeviceReport) -> Architecture:
    architecture = _ARCHITECTURES.get(_chip(leaf)[:2])
    if architecture is None:
        raise ChainError(
            f"{leaf.name} is no GPU or switch of an architecture that is known here.",
            advice="Update Sealroom; if that does not help, report it.",
            check="nvidia.chain.device",
        )
    if architecture is not Architecture.LS10 and report.is_switch:
        raise ChainError(
            f"The certificate is of {leaf.name}, and the report names no driver, as only an NVSwitch's does.",
            check="nvidia.chain.device",
        )
    return architecture


_Key = tuple[str | bytes, ...]
"""Fingerprint of the roots, then SHA-256 of each certificate that came along."""
_Known = tuple[tuple[Certificate, ...], tuple[CheckResult, ...]]


_CHAINS: Final[Memory[_Key, _Known]] = Memory(MAX_CACHED_CHAINS)


def clear_device_cache() -> None:
    """Forget every verified chain, and which certificate issued which."""
    _CHAINS.clear()
    clear_link_cache()


def _verified_chain(given: Sequence[bytes], roots: NvidiaRoots, trail: Trail) -> tuple[Certificate, ...]:
    certificates = [bytes(one) for one in given]
    key: _Key = (roots.fingerprint, *(hashlib.sha256(one).digest() for one in certificates))
    known = _CHAINS.get(key)
    if known is not None:
        trail.results.extend(known[1])
        return known[0]
    start = len(trail.results)
    chain = build_chain(certificates, roots.device, DEVICE, trail)
    if sum(one.der != chain[-1].der for one in chain) < 2:
        raise ChainError(
            "The device chain has no certificate of a boot ROM between signer and root.",
            check="nvidia.chain.present",
        )
    trail.passed("nvidia.chain.present", f"{len(certificates)} certificates")
    _CHAINS.put(key, (chain, tuple(trail.results[start:])))
    return chain
