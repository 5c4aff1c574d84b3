# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify`: check evidence offline and account for every check.

Plan:

1. Recognise the file: an SNP report by itself, with a certificate table, in an Azure HCL report, in JSON, in
   an evidence bundle; an NVIDIA report or a list of them; a reference manifest; an attestation result as a
   token.
2. Verify it to the makers' roots, or to the roots that were given.
3. Compare it with what the caller expects, and devices with reference manifests.
4. Appraise it, if an environment or a policy was given.
5. Print every check and the verdict. "Could not be checked" is never "accepted".
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import click

from sealroom.appraisal import CHECKS as APPRAISAL_CHECKS
from sealroom.appraisal import VerifiedGpu, appraise_devices
from sealroom.cli._arguments import (
    Expectations,
    Files,
    beside,
    environment_of,
    json_object,
    one_certificate,
    quiet,
    revocation_list,
    with_options,
)
from sealroom.cli._devices import examine, examine_manifest, failed
from sealroom.cli._evidence import (
    DeviceEvidence,
    Evidence,
    Manifest,
    NrasToken,
    Recognised,
    Token,
    read_file,
    recognise,
)
from sealroom.cli._verdict import MANIFEST, Outcomes, show
from sealroom.cli.common import json_option
from sealroom.errors import (
    AppraisalError,
    BindingError,
    ConfigurationError,
    Error,
    FormatError,
    FreshnessError,
    NetworkError,
    StorageError,
)
from sealroom.kbs.devices import decode_devices
from sealroom.nvidia import NvidiaRoots
from sealroom.nvidia.spdm import NONCE_SIZE as DEVICE_NONCE_SIZE
from sealroom.snp import (
    CHECKS,
    CheckResult,
    Outcome,
    Roots,
    VerifiedReport,
    check_expectations,
    choose_vek,
    examine_report,
    load_certificates,
)
from sealroom.snp.bundle import device_nonce_for, report_data_for

if TYPE_CHECKING:
    from sealroom.appraisal import AttestationResult


@click.command("verify")
@with_options
@json_option
def command(
    evidence: Path,
    nonce: bytes | None,
    report_data: bytes | None,
    host_data: bytes | None,
    environment: Path | None,
    policy: Path | None,
    at: datetime,
    **files: Any,
) -> int:
    """Check EVIDENCE offline: a report of a processor or a GPU, or an attestation result token.

    Exit status: 0 accepted, 1 refused, 2 could not be checked, 64 wrong usage.
    """
    expected = Expectations(nonce, report_data, host_data, environment, policy)
    given = Files(**files)
    data = read_file(evidence)
    try:
        found = recognise(data)
    except Error as error:
        outcomes = Outcomes("evidence", at, error=error)
        if error.check:
            outcomes.checks.append(failed(error))
    else:
        outcomes = _verify(found, given, expected, at)
    show(outcomes)
    return outcomes.exit_code


def _verify(found: Recognised, files: Files, expected: Expectations, at: datetime) -> Outcomes:
    match found:
        case Evidence():
            return _verify_report(found, files, expected, at)
        case DeviceEvidence():
            return _verify_devices(found, files, expected, at)
        case Manifest():
            return _verify_manifest(found, files, expected, at)
        case Token():
            return _verify_token(found, files.jwks, expected, at)
        case NrasToken():
            return _verify_nras(found, files.jwks, expected, at)
        case _:
            assert_never(found)


def _verify_report(found: Evidence, files: Files, expected: Expectations, at: datetime) -> Outcomes:
    """Verify a report and the devices that it covers, compare with the expectations and appraise."""
    roots = files.roots()
    outcomes = Outcomes(found.kind, at, list(found.checks), simulated=roots.snp.simulated)
    try:
        vek, intermediates, crls = _endorsements(found, files, roots.snp, at)
    except NetworkError as error:
        outcomes.error = error
        outcomes.checks.append(CheckResult("snp.vek.present", Outcome.NOT_ASKED, error.message))
        return outcomes
    examination = examine_report(
        found.report, vek, roots=roots.snp, at=at, intermediates=intermediates, crls=crls
    )
    outcomes.checks += examination.checks
    outcomes.verified, outcomes.error = examination.verified, examination.error
    if examination.verified is None:
        return outcomes
    outcomes.checks += _expectations(examination.verified, found, expected)
    outcomes.error = _first_failure(outcomes.checks)
    if outcomes.error is None and found.devices:
        _add_devices(outcomes, found, files, roots.nvidia, expected)
    if outcomes.error is None and expected.appraises:
        outcomes.result = _appraise(examination.verified, outcomes, expected)
        outcomes.error = _appraisal_error(outcomes.result)
    return outcomes


def _endorsements(
    found: Evidence, files: Files, roots: Roots, at: datetime
) -> tuple[bytes, list[bytes], list[bytes]]:
    """Return the endorsement certificate, what leads to a root, and revocation lists."""
    vek = one_certificate(files.vek) if files.vek else found.vek()
    intermediates = found.others()
    if files.chain:
        with beside(files.chain):
            intermediates += load_certificates(read_file(files.chain))
    crls = [revocation_list(path) for path in files.crl]
    if files.collateral is None:
        return vek, intermediates, crls
    from sealroom.collateral.resolver import resolve

    kinds = dict(found.certificates)
    if files.vek:
        kinds = {"VCEK": vek} if choose_vek(found.report, {"VCEK": vek, "VLEK": b""}) else {"VLEK": vek}
    more = resolve(found.report, kinds, roots=roots, at=at, store=files.collateral, note=quiet)
    return vek or more.vek, [*intermediates, *more.intermediates], [*crls, *more.crls]


def _add_devices(
    outcomes: Outcomes, found: Evidence, files: Files, roots: NvidiaRoots, expected: Expectations
) -> None:
    """Verify the devices that a bundle's report covers."""
    given = files.devices(roots, outcomes.at, expected.load_policy() if expected.appraises else None)
    nonce = device_nonce_for(found.nonce) if found.nonce is not None else None
    try:
        devices = decode_devices(found.devices)
    except FormatError as error:
        outcomes.error = error
        return
    outcomes.take(examine(devices, nonce, given))


def _verify_devices(found: DeviceEvidence, files: Files, expected: Expectations, at: datetime) -> Outcomes:
    """Verify devices by themselves."""
    if expected.report_data or expected.host_data:
        raise click.UsageError("A device's report has neither REPORT_DATA nor HOST_DATA.")
    if expected.nonce is not None and len(expected.nonce) != DEVICE_NONCE_SIZE:
        raise click.UsageError(f"A device's nonce has {DEVICE_NONCE_SIZE} bytes, not {len(expected.nonce)}.")
    roots = files.roots().nvidia
    outcomes = Outcomes(found.kind, at, simulated=roots.simulated)
    with beside(files.chain) if files.chain else nullcontext():
        chain = files.device_chain()
    given = files.devices(roots, at, expected.load_policy() if expected.appraises else None)
    outcomes.take(examine(found.devices, expected.nonce, replace(given, chain=chain)))
    if outcomes.error is None and expected.appraises:
        outcomes.result = appraise_devices(
            _gpus(outcomes), environment=expected.load_environment(), policy=expected.load_policy()
        )
        outcomes.error = _appraisal_error(outcomes.result)
    return outcomes


def _gpus(outcomes: Outcomes) -> tuple[VerifiedGpu, ...]:
    return tuple(one.gpu for one in outcomes.devices if one.gpu is not None)


def _verify_manifest(found: Manifest, files: Files, expected: Expectations, at: datetime) -> Outcomes:
    """Verify a reference manifest."""
    if expected != Expectations():
        raise click.UsageError("A reference manifest is verified by itself.")
    roots = files.roots().nvidia
    given = files.devices(roots, at)
    outcomes = Outcomes(MANIFEST, at, simulated=roots.simulated)
    examined = examine_manifest(found.data, given)
    outcomes.checks += examined.checks
    outcomes.error = examined.error
    if examined.rim is not None:
        maker = "a simulated maker" if roots.simulated else "NVIDIA"
        outcomes.signed = f"{maker} signed this {examined.rim.rim_id}"
    return outcomes


def _verify_nras(found: NrasToken, jwks: Path | None, expected: Expectations, at: datetime) -> Outcomes:
    """Verify a token of NVIDIA's service with its public keys."""
    from sealroom.nvidia import nras

    if jwks is None:
        raise click.UsageError("A token of NVIDIA's service is checked with --jwks FILE, its public keys.")
    if expected != Expectations(nonce=expected.nonce):
        raise click.UsageError("A token of NVIDIA's service is compared with a --nonce only.")
    if expected.nonce is not None and len(expected.nonce) != nras.NONCE_SIZE:
        raise click.UsageError(f"A nonce has {nras.NONCE_SIZE} bytes here, not {len(expected.nonce)}.")
    outcomes = Outcomes("token of NVIDIA's attestation service", at)
    with beside(jwks):
        keys = json_object(read_file(jwks))
    try:
        result = nras.verify_token(found.data, jwks=keys, at=at, nonce=expected.nonce)
    except Error as error:
        outcomes.error = error
        outcomes.checks.append(failed(error))
    else:
        outcomes.checks += result.checks
        outcomes.signed = "NVIDIA's attestation service signed this result"
    return outcomes


def _expectations(verified: VerifiedReport, found: Evidence, expected: Expectations) -> list[CheckResult]:
    """Compare the report with the nonce and the data that the caller expects."""
    report = verified.report
    return [
        _nonce_check(report.report_data, found, expected.nonce),
        *check_expectations(report, report_data=expected.report_data, host_data=expected.host_data),
    ]


def _nonce_check(report_data: bytes, found: Evidence, chosen: bytes | None) -> CheckResult:
    check, claimed = "snp.expected.nonce", found.nonce
    if chosen is not None and claimed not in (None, chosen):
        return CheckResult(check, Outcome.FAILED, "the file answers another nonce than the one given")
    nonce = claimed if chosen is None else chosen
    if nonce is None:
        return CheckResult(check, Outcome.NOT_ASKED, "no nonce was given")
    whose = "the nonce in the file" if chosen is None else "the given nonce"
    if report_data_for(nonce, found.devices) != report_data:
        why = f"REPORT_DATA does not answer {whose}"
        if found.devices:
            why += " together with the evidence of devices that is in the file"
        return CheckResult(check, Outcome.FAILED, why)
    covers = " and covers the evidence of devices" if found.devices else ""
    if chosen is None:
        fresh = f"answers the file's own nonce{covers}; give yours to see that it is fresh"
        return CheckResult(check, Outcome.NOT_ASKED, fresh)
    return CheckResult(check, Outcome.PASSED, f"REPORT_DATA answers the given nonce{covers}")


def _first_failure(checks: list[CheckResult]) -> Error | None:
    """Return the error for the first expectation that failed."""
    for result in checks:
        if result.outcome is Outcome.FAILED:
            kind = FreshnessError if result.id == "snp.expected.nonce" else BindingError
            message = f"The report is genuine, but {result.detail}."
            return kind(message, advice=CHECKS[result.id].operator, check=result.id)
    return None


def _appraise(verified: VerifiedReport, outcomes: Outcomes, expected: Expectations) -> AttestationResult:
    from sealroom.appraisal import VerifiedEvidence, appraise

    evidence = VerifiedEvidence(verified, verified.report.report_data, _gpus(outcomes))
    return appraise(evidence, environment=expected.load_environment(), policy=expected.load_policy())


def _appraisal_error(result: AttestationResult) -> Error | None:
    from sealroom.appraisal import Tier

    if result.tier not in (Tier.CONTRAINDICATED, Tier.NONE):
        return None
    failures = result.failures
    if not failures:
        return AppraisalError(f"The appraisal says {result.tier}.")
    first = failures[0]
    known = APPRAISAL_CHECKS.get(first.check)
    return AppraisalError(
        f"The evidence is genuine and not acceptable: {first.sentence}",
        advice=known.operator if known else "",
        check=first.check,
    )


def _verify_token(token: Token, jwks: Path | None, expected: Expectations, at: datetime) -> Outcomes:
    """Verify an attestation result token with the broker's public keys."""
    from sealroom.appraisal import ear

    if jwks is None:
        raise click.UsageError("A token is checked with --jwks FILE, the broker's public keys.")
    if expected.report_data or expected.host_data or expected.policy or expected.nonce:
        raise click.UsageError("A token is compared with an --environment only.")
    outcomes = Outcomes("attestation result token", at)
    with beside(jwks):
        keys = json_object(read_file(jwks))
    try:
        outcomes.result = ear.verify(token.text, jwks=keys, at=at).result
        outcomes.simulated = outcomes.result.simulated
        outcomes.error = _appraisal_error(outcomes.result)
        if expected.environment and outcomes.error is None:
            manifest = environment_of(expected.environment)
            named = outcomes.result.environment
            if named is None or named.digest != manifest.digest:
                about = named.name if named else "no environment"
                raise AppraisalError(
                    f"The token is about {about} and not about {manifest.name} {manifest.version}.",
                    check="appraisal.environment",
                )
    except (ConfigurationError, StorageError):
        raise
    except Error as error:
        outcomes.error = error
    return outcomes
