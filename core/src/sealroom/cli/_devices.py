# SPDX-License-Identifier: BSD-3-Clause
"""Verify the evidence of GPUs and NVSwitches for `sealroom verify`, and account for every check.

Plan: 1 authenticity of each device; 2 the reference manifests; 3 comparison of each device with those of its
versions; 4 which of the errors decides.

"Could not be checked" is never "accepted": a device without certificates, and one for which a manifest is
missing where manifests were given or searched for, is neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sealroom.appraisal import DeviceFiles, VerifiedGpu, verified_gpu
from sealroom.appraisal.evidence import device_name
from sealroom.checks import CheckResult, Outcome
from sealroom.cli.common import EXIT_UNCHECKED, exit_code
from sealroom.errors import AppraisalError, ChainError, Error, ExpiredError, FormatError
from sealroom.kbs.devices import Device
from sealroom.nvidia import (
    CHECKS,
    NvidiaRoots,
    OcspPolicy,
    VerifiedDevice,
    VerifiedRim,
    examine_device,
    load_chain,
    rim_ids,
    verify_rim,
)

if TYPE_CHECKING:
    from sealroom.collateral.devices import DeviceSource

_PRESENT: Final = "nvidia.rim.present"
_CHAIN: Final = "nvidia.chain.present"
_DEVICE: Final = "nvidia.chain.device"
_ROOT: Final = "nvidia.chain.root"
_DEVELOPMENT: Final = "If this is a simulated device, name its development roots with --root."
_VALIDITY: Final = "nvidia.rim.validity"
_VERSION: Final = "nvidia.rim.version"
_REISSUED: Final = "nvidia.measurement.reissued"
_VALUES: Final = "nvidia.measurement.values"
_COMPARED: Final = frozenset(
    {
        _PRESENT,
        _VERSION,
        "nvidia.rim.roots",
        "nvidia.rim.collision",
        "nvidia.measurement.count",
        _VALUES,
        _REISSUED,
    }
)
"""What `sealroom.nvidia.compare` says; the other results of a comparison are about one manifest each."""


class MissingError(ChainError):
    """Something was not given, and nothing that was given is wrong."""


@dataclass(frozen=True, slots=True)
class Given:
    """What devices are verified with."""

    roots: NvidiaRoots
    """Whom to trust."""
    at: datetime
    """The reference time."""
    chain: tuple[bytes, ...] = ()
    """Certificates for a report that came without any."""
    rims: Mapping[bytes, str] = field(default_factory=dict)
    """Reference manifests, with the names of their files."""
    ocsp: tuple[bytes, ...] = ()
    """OCSP answers."""
    ocsp_policy: OcspPolicy = OcspPolicy.OFF
    """What is done about revocation."""
    store: DeviceSource | None = None
    """Where manifests and answers are that were not given."""
    allow_missing_rim: bool = False
    """The policy accepts a device for which a manifest is missing."""
    allow_expired_rim: bool = False
    """The policy accepts a manifest whose signer's certificate has ended."""


@dataclass(slots=True)
class ManifestOutcome:
    """What was found out about one reference manifest."""

    name: str
    """Kind, version and the beginning of its SHA-256; the file's name if it is not authentic."""
    checks: list[CheckResult] = field(default_factory=list)
    """Every check with its result."""
    error: Error | None = None
    """Why it does not count."""
    rim: VerifiedRim | None = None
    """The manifest; also there if its signer's certificate has ended."""
    used: bool = False
    """It was compared with a device."""
    answers: tuple[bytes, ...] = ()
    """OCSP answers about its signer, from the store."""


@dataclass(slots=True)
class DeviceOutcome:
    """What was found out about one device."""

    name: str
    """`gpu0`, …"""
    checks: list[CheckResult] = field(default_factory=list)
    """Every check with its result, but for those of manifests."""
    error: Error | None = None
    """Why it is refused or could not be checked; None if it is accepted."""
    gpu: VerifiedGpu | None = None
    """The verified device."""

    @property
    def compared(self) -> bool:
        """Whether its measurements are those of its manifests."""
        return any(one.id == _VALUES and one.outcome is Outcome.PASSED for one in self.checks)


@dataclass(slots=True)
class Examination:
    """What was found out about some devices and the manifests for them."""

    devices: list[DeviceOutcome] = field(default_factory=list)
    manifests: dict[bytes, ManifestOutcome] = field(default_factory=dict)
    """By their content, in the order in which they came."""

    @property
    def error(self) -> Error | None:
        """The error that decides; None if every device is accepted."""
        # A manifest that does not count is missing for the devices: the reason before what follows from it.
        errors = [one.error for one in self.manifests.values() if not one.used]
        return decisive([*errors, *(one.error for one in self.devices)])


def examine(devices: Sequence[Device], nonce: bytes | None, given: Given) -> Examination:
    """Verify devices and compare them with reference manifests.

    Args:
        devices: The evidence.
        nonce: The 32 bytes that each has to answer; None asks nothing.
        given: What they are verified with.
    """
    found = Examination()
    for xml in given.rims:
        found.manifests[xml] = examine_manifest(xml, given)
    verified: list[VerifiedDevice] = []
    for number, device in enumerate(devices):
        outcome = DeviceOutcome(f"gpu{number}")
        genuine = _examine(device, nonce, given, outcome)
        if genuine is not None:
            outcome.name = device_name(genuine, verified)
            verified.append(genuine)
            _compare(genuine, nonce, given, outcome, found.manifests, several=len(devices) > 1)
        found.devices.append(outcome)
    if len(verified) == len(devices):
        _unused(found.manifests.values())
    return found


def examine_manifest(xml: bytes, given: Given) -> ManifestOutcome:
    """Verify a reference manifest and account for every check.

    Args:
        xml: The manifest.
        given: Roots, time, and what is known and done about revocation.
    """
    sha256 = hashlib.sha256(xml).hexdigest()
    outcome = ManifestOutcome(given.rims.get(xml) or f"reference manifest ({sha256[:12]})")
    outcome.answers = _answers(xml, given)
    try:
        try:
            outcome.rim = _verify_rim(xml, given, outcome.answers)
        except ExpiredError as error:
            # Whether it is genuine is to be known all the same: a policy may accept its age.
            outcome.error = error
            outcome.rim = _verify_rim(xml, given, outcome.answers, allow_expired=True)
    except Error as error:
        outcome.error = error
        outcome.checks.append(failed(error))
        return outcome
    outcome.name = outcome.rim.rim_id
    outcome.checks += outcome.rim.checks
    if outcome.error is not None:
        _replace(outcome.checks, failed(outcome.error))
        if given.allow_expired_rim:
            outcome.error = None
    return outcome


def _verify_rim(
    xml: bytes, given: Given, answers: Sequence[bytes], *, allow_expired: bool = False
) -> VerifiedRim:
    return verify_rim(
        xml,
        roots=given.roots,
        at=given.at,
        ocsp=(*given.ocsp, *answers),
        ocsp_policy=given.ocsp_policy,
        allow_expired=allow_expired,
    )


def _answers(xml: bytes, given: Given) -> tuple[bytes, ...]:
    """Return the store's OCSP answers about a manifest's signer and its issuers."""
    if given.store is None or given.ocsp_policy is OcspPolicy.OFF:
        return ()
    from sealroom.collateral.check import rim_certificates

    try:
        chain = rim_certificates(xml)
        return tuple(given.store.ocsp(chain, roots=given.roots, at=given.at, first=0))
    except FormatError:
        # What is wrong with the manifest is said where it is verified.
        return ()


def failed(error: Error) -> CheckResult:
    """Return the result of the check that an error is about."""
    return CheckResult(error.check, Outcome.FAILED, error.message)


def is_unchecked(error: Error) -> bool:
    """Return whether an error says that something was missing, not that something is wrong."""
    return isinstance(error, MissingError) or error.check == _PRESENT or exit_code(error) == EXIT_UNCHECKED


def decisive(errors: Iterable[Error | None]) -> Error | None:
    """Return the first error that refuses; without any, the first that says what is missing."""
    found = sorted((one for one in errors if one is not None), key=is_unchecked)
    return found[0] if found else None


# --- authenticity ---


def _examine(
    device: Device, nonce: bytes | None, given: Given, outcome: DeviceOutcome
) -> VerifiedDevice | None:
    try:
        chain = load_chain(device.chain_pem) if device.chain_pem else list(given.chain)
    except FormatError as error:
        outcome.error = error
        outcome.checks.append(failed(error))
        return None
    if not chain:
        outcome.error = MissingError(
            "The device's certificates did not come with its report.",
            advice="Give them with --chain FILE.",
            check=_CHAIN,
        )
        outcome.checks.append(CheckResult(_CHAIN, Outcome.NOT_ASKED, "none were given"))
        return None
    answers = list(given.ocsp)
    if given.store is not None and given.ocsp_policy is not OcspPolicy.OFF:
        answers += given.store.ocsp(chain, roots=given.roots, at=given.at)
    found = examine_device(
        device.report,
        chain,
        roots=given.roots,
        at=given.at,
        nonce=nonce,
        ocsp=answers,
        ocsp_policy=given.ocsp_policy,
    )
    outcome.checks += found.checks
    outcome.error = found.error
    if isinstance(found.error, ChainError) and found.error.check == _ROOT and not given.roots.simulated:
        outcome.error = ChainError(found.error.message, advice=_DEVELOPMENT, check=_ROOT)
    if found.verified is not None and device.arch not in ("", str(found.verified.architecture)):
        outcome.error = ChainError(
            f"The evidence says {device.arch}, and the certificates say {found.verified.architecture}.",
            check=_DEVICE,
        )
        _replace(outcome.checks, failed(outcome.error))
        return None
    return found.verified


def _replace(checks: list[CheckResult], result: CheckResult) -> None:
    checks[:] = [result if one.id == result.id else one for one in checks]


# --- comparison ---


def _compare(
    device: VerifiedDevice,
    nonce: bytes | None,
    given: Given,
    outcome: DeviceOutcome,
    manifests: dict[bytes, ManifestOutcome],
    *,
    several: bool,
) -> None:
    """Compare a device with the manifests of its versions; a single one with all that were given."""
    try:
        stored = _from_store(device, given, manifests)
    except FormatError as error:
        outcome.error = error
        outcome.checks.append(CheckResult(_PRESENT, Outcome.FAILED, error.message))
        return
    chosen = {
        xml: one
        for xml, one in manifests.items()
        if one.rim is not None
        and (xml in stored or (xml in given.rims and (not several or _concerns(one.rim, device))))
    }
    for one in chosen.values():
        one.used = True
    answers = (answer for one in chosen.values() for answer in one.answers)
    outcome.gpu = verified_gpu(
        device,
        nonce=device.report.requester_nonce if nonce is None else nonce,
        files=DeviceFiles(tuple(chosen), tuple(dict.fromkeys((*given.ocsp, *answers)))),
        ocsp_policy=given.ocsp_policy,
    )
    results = [one for one in outcome.gpu.comparison if one.id in _COMPARED]
    if given.rims or given.store is not None:
        results = [_asked(one) for one in results]
    outcome.checks += results
    errors = [_manifest_error(one) for one in chosen.values() if one.error is not None]
    errors += [
        _comparison_error(one)
        # What says why values differ is said rather than that they do.
        for one in sorted(results, key=lambda one: one.id != _REISSUED)
        if one.outcome is Outcome.FAILED and not (one.id == _PRESENT and given.allow_missing_rim)
    ]
    outcome.error = decisive(errors)


def _from_store(device: VerifiedDevice, given: Given, manifests: dict[bytes, ManifestOutcome]) -> set[bytes]:
    """Return the manifests that the store has for a device; those that are new are verified."""
    if given.store is None:
        return set()
    stored = given.store.rims(rim_ids(device), roots=given.roots)
    for xml in stored:
        if xml not in manifests:
            manifests[xml] = examine_manifest(xml, given)
    return set(stored)


def _concerns(rim: VerifiedRim, device: VerifiedDevice) -> bool:
    report = device.report
    return rim.version == (report.driver_version if rim.kind == "driver" else report.vbios_version)


def _asked(result: CheckResult) -> CheckResult:
    """Return a result where manifests were given or searched for: that none fits is what is missing."""
    if result.id == _PRESENT and result.outcome is Outcome.NOT_ASKED:
        return CheckResult(_PRESENT, Outcome.FAILED, result.detail)
    return result


def _unused(manifests: Iterable[ManifestOutcome]) -> None:
    """Say of each manifest that no device has its version: it was given to be compared with one."""
    for one in manifests:
        if one.rim is not None and not one.used:
            one.error = AppraisalError(
                f"The {one.name} is for none of these devices.",
                advice=CHECKS[_VERSION].operator,
                check=_VERSION,
            )
            one.checks.append(failed(one.error))


def _manifest_error(manifest: ManifestOutcome) -> Error:
    error = manifest.error
    if error is None:
        raise RuntimeError("there is nothing wrong with this manifest")
    message = f"The device is genuine, and the {manifest.name} does not count: {error.message}"
    return type(error)(message, advice=error.advice, check=error.check)


def _comparison_error(result: CheckResult) -> Error:
    detail = result.detail.strip().rstrip(".")
    return AppraisalError(
        f"The device is genuine. {detail[:1].upper()}{detail[1:]}.",
        advice=CHECKS[result.id].operator,
        check=result.id,
    )
