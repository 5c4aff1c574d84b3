# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify`: check evidence offline and account for every check.

Plan:

1. Recognise the file: a report by itself, with a certificate table, in an Azure HCL report, in JSON, in an
evidence
   bundle; or an attestation result as a token.
2. Verify it to AMD's roots, or to the root that was given.
3. Compare it with what the caller expects.
4. Appraise it, if an environment or a policy was given.
5. Print every check and the verdict. "Could not be checked" is never "accepted".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sealroom.cli._evidence import Evidence, Token, read_file, recognise
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, exit_code, json_option, output
from sealroom.errors import AppraisalError, BindingError, Error, FormatError, FreshnessError
from sealroom.snp import (
    CHECKS,
    CheckResult,
    Outcome,
    Roots,
    VerifiedReport,
    check_expectations,
    examine_report,
    load_certificates,
)
from sealroom.snp.bundle import NONCE_SIZES, report_data_for

if TYPE_CHECKING:
    from sealroom.appraisal import AttestationResult

_MISSING: Final = frozenset({"snp.vek.present", "snp.ask.present"})
"""Checks whose failure means that something was not given, not that something is wrong."""
_WORDS: Final = {Outcome.PASSED: "passed", Outcome.FAILED: "FAILED", Outcome.NOT_ASKED: "not asked"}
_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)


def _hex(sizes: range) -> Callable[[click.Context, click.Parameter, str | None], bytes | None]:
    """Return the callback of an option that takes bytes of some lengths in hexadecimal."""

    def convert(context: click.Context, parameter: click.Parameter, value: str | None) -> bytes | None:
        if value is None:
            return None
        try:
            data = bytes.fromhex(value)
        except ValueError as error:
            raise click.BadParameter("This is no hexadecimal string.", context, parameter) from error
        if len(data) not in sizes:
            wanted = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            raise click.BadParameter(f"These are {len(data)} bytes, not {wanted}.", context, parameter)
        return data

    return convert


def _time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime:
    """Return a time in ISO 8601, which is in UTC without a zone; the present if there is none."""
    if value is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is no time in ISO 8601.", context, parameter) from error


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the command line asks for beside authenticity."""

    nonce: bytes | None = None
    report_data: bytes | None = None
    host_data: bytes | None = None
    environment: Path | None = None
    policy: Path | None = None


@dataclass(slots=True)
class Outcomes:
    """What `verify` found out, before it is printed."""

    kind: str
    """What the file is, in words."""
    at: datetime
    """The reference time."""
    checks: list[CheckResult] = field(default_factory=list)
    """Every check with its result."""
    error: Error | None = None
    """Why the evidence is refused or could not be checked; None if it is accepted."""
    verified: VerifiedReport | None = None
    """The verified report."""
    result: AttestationResult | None = None
    """The appraisal, if one was asked for or the file is a token."""
    simulated: bool = False
    """The root is a development root."""

    @property
    def exit_code(self) -> int:
        """Exit status of the command."""
        if self.error is None:
            return EXIT_OK
        return EXIT_UNCHECKED if self.error.check in _MISSING else exit_code(self.error)

    @property
    def verdict(self) -> str:
        """The verdict in one word."""
        return {EXIT_OK: "accepted", EXIT_REFUSED: "refused"}.get(self.exit_code, "unchecked")


_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.argument("evidence", type=_FILE),
    click.option("--vek", type=_FILE, help="VCEK or VLEK certificate, PEM or DER."),
    click.option("--chain", type=_FILE, help="ASK or ASVK certificate, PEM or DER."),
    click.option("--root", type=_FILE, help="Development root of a simulated processor, PEM or DER."),
    click.option("--crl", type=_FILE, multiple=True, help="Revocation list of the root, PEM or DER."),
    click.option(
        "--nonce", metavar="HEX", callback=_hex(NONCE_SIZES), help="The nonce that you chose, in hex."
    ),
    click.option(
        "--report-data",
        metavar="HEX",
        callback=_hex(range(64, 65)),
        help="All 64 bytes of REPORT_DATA, in hex.",
    ),
    click.option(
        "--host-data", metavar="HEX", callback=_hex(range(32, 33)), help="All 32 bytes of HOST_DATA, in hex."
    ),
    click.option("--environment", type=_FILE, help="Environment manifest to appraise against."),
    click.option("--policy", type=_FILE, help="Appraisal policy; strict without it."),
    click.option("--jwks", type=_FILE, help="Public keys of the broker, for an attestation result token."),
    click.option(
        "--at", metavar="ISO8601", callback=_time, help="Reference time; now without it, UTC without a zone."
    ),
)


def _with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("verify")
@_with_options
@json_option
def command(
    evidence: Path,
    vek: Path | None,
    chain: Path | None,
    root: Path | None,
    crl: tuple[Path, ...],
    nonce: bytes | None,
    report_data: bytes | None,
    host_data: bytes | None,
    environment: Path | None,
    policy: Path | None,
    jwks: Path | None,
    at: datetime,
) -> int:
    """Check EVIDENCE offline: a report or an attestation result token.

    Exit status: 0 accepted, 1 refused, 2 could not be checked, 64 wrong usage.
    """
    expected = Expectations(nonce, report_data, host_data, environment, policy)
    data = read_file(evidence)
    try:
        found = recognise(data)
    except Error as error:
        outcomes = Outcomes("evidence", at, error=error)
        if error.check:
            outcomes.checks.append(CheckResult(error.check, Outcome.FAILED, error.message))
    else:
        if isinstance(found, Token):
            outcomes = _verify_token(found, jwks, expected, at)
        else:
            outcomes = _verify_report(found, vek, chain, root, crl, expected, at)
    show(outcomes)
    return outcomes.exit_code


def _verify_report(
    found: Evidence,
    vek: Path | None,
    chain: Path | None,
    root: Path | None,
    crls: tuple[Path, ...],
    expected: Expectations,
    at: datetime,
) -> Outcomes:
    """Verify a report, compare it with the expectations and appraise it."""
    roots = Roots.from_pem(read_file(root)) if root else Roots.amd()
    outcomes = Outcomes(found.kind, at, list(found.checks), simulated=roots.simulated)
    intermediates = found.others() + (load_certificates(read_file(chain)) if chain else [])
    examination = examine_report(
        found.report,
        _one_certificate(vek) if vek else found.vek(),
        roots=roots,
        at=at,
        intermediates=intermediates,
        crls=[_revocation_list(read_file(path)) for path in crls],
    )
    outcomes.checks += examination.checks
    outcomes.verified, outcomes.error = examination.verified, examination.error
    if examination.verified is None:
        return outcomes
    outcomes.checks += _expectations(examination.verified, found, expected)
    outcomes.error = _first_failure(outcomes.checks)
    if outcomes.error is None and (expected.environment or expected.policy):
        outcomes.result = _appraise(examination.verified, expected)
        outcomes.error = _appraisal_error(outcomes.result)
    return outcomes


def _one_certificate(path: Path) -> bytes:
    certificates = load_certificates(read_file(path))
    if len(certificates) != 1:
        raise FormatError(f"{path} holds {len(certificates)} certificates and must hold one.")
    return certificates[0]


def _revocation_list(data: bytes) -> bytes:
    if data[:1] == b"\x30":
        return data
    blocks = _CRL.findall(data)
    if len(blocks) != 1:
        raise FormatError(f"A file of a revocation list holds {len(blocks)} of them in PEM form.")
    try:
        return base64.b64decode(b"".join(blocks[0].split()), validate=True)
    except binascii.Error as error:
        raise FormatError("The revocation list in PEM form does not decode.") from error


def _expectations(verified: VerifiedReport, found: Evidence, expected: Expectations) -> list[CheckResult]:
    """Compare the report with the nonce and the data that the caller expects."""
    report = verified.report
    return [
        _nonce_check(report.report_data, found.nonce, expected.nonce),
        *check_expectations(report, report_data=expected.report_data, host_data=expected.host_data),
    ]


def _nonce_check(report_data: bytes, claimed: bytes | None, chosen: bytes | None) -> CheckResult:
    check = "snp.expected.nonce"
    if chosen is not None:
        if claimed not in (None, chosen):
            return CheckResult(check, Outcome.FAILED, "the file answers another nonce than the one given")
        if report_data_for(chosen) != report_data:
            return CheckResult(check, Outcome.FAILED, "REPORT_DATA does not answer the given nonce")
        return CheckResult(check, Outcome.PASSED, "REPORT_DATA answers the given nonce")
    if claimed is None:
        return CheckResult(check, Outcome.NOT_ASKED, "no nonce was given")
    if report_data_for(claimed) != report_data:
        return CheckResult(check, Outcome.FAILED, "REPORT_DATA does not answer the nonce in the file")
    return CheckResult(
        check, Outcome.NOT_ASKED, "answers the file's own nonce; give yours to see that it is fresh"
    )


def _first_failure(checks: list[CheckResult]) -> Error | None:
    """Return the error for the first expectation that failed."""
    for result in checks:
        if result.outcome is Outcome.FAILED:
            kind = FreshnessError if result.id == "snp.expected.nonce" else BindingError
            message = f"The report is genuine, but {result.detail}."
            return kind(message, advice=CHECKS[result.id].operator, check=result.id)
    return None


def _appraise(verified: VerifiedReport, expected: Expectations) -> AttestationResult:
    from sealroom.appraisal import NO_EXPECTATION, Policy, VerifiedEvidence, appraise
    from sealroom.environments import Environment

    policy = Policy.from_toml(read_file(expected.policy)) if expected.policy else Policy.strict()
    environment = Environment.from_toml(read_file(expected.environment)) if expected.environment else None
    return appraise(
        VerifiedEvidence(cpu=verified, report_data=verified.report.report_data),
        environment=environment or NO_EXPECTATION,
        policy=policy,
    )


def _appraisal_error(result: AttestationResult) -> Error | None:
    from sealroom.appraisal import Tier

    if result.tier not in (Tier.CONTRAINDICATED, Tier.NONE):
        return None
    failures = result.failures
    if not failures:
        return AppraisalError(f"The appraisal says {result.tier}.")
    return AppraisalError(
        f"The evidence is genuine and not acceptable: {failures[0].sentence}", check=failures[0].check
    )


def _verify_token(token: Token, jwks: Path | None, expected: Expectations, at: datetime) -> Outcomes:
    """Verify an attestation result token with the broker's public keys."""
    from sealroom.appraisal import ear
    from sealroom.environments import Environment

    if jwks is None:
        raise click.UsageError("A token is checked with --jwks FILE, the broker's public keys.")
    if expected.report_data or expected.host_data or expected.policy or expected.nonce:
        raise click.UsageError("A token is compared with an --environment only.")
    outcomes = Outcomes("attestation result token", at)
    try:
        keys = json.loads(read_file(jwks))
    except ValueError as error:
        raise FormatError(f"{jwks} is no JSON document.") from error
    try:
        outcomes.result = ear.verify(token.text, jwks=keys, at=at).result
        outcomes.simulated = outcomes.result.simulated
        outcomes.error = _appraisal_error(outcomes.result)
        if expected.environment and outcomes.error is None:
            manifest = Environment.from_toml(read_file(expected.environment))
            named = outcomes.result.environment
            if named is None or named.digest != manifest.digest:
                about = named.name if named else "no environment"
                raise AppraisalError(
                    f"The token is about {about} and not about {manifest.name} {manifest.version}.",
                    check="appraisal.environment",
                )
    except Error as error:
        outcomes.error = error
    return outcomes


def show(outcomes: Outcomes) -> None:
    """Print every check and the verdict."""
    out = output()
    if out.json:
        out.result(_as_json(outcomes))
        return
    rows = [(_WORDS[one.outcome], _title(one.id), one.id, one.detail) for one in outcomes.checks]
    if rows:
        out.table(f"Checks of this {outcomes.kind}", ("Result", "Check", "Id", "Why"), rows)
    if outcomes.result is not None:
        _show_appraisal(outcomes.result)
    for line in _verdict_lines(outcomes):
        out.say(line)


def _show_appraisal(result: AttestationResult) -> None:
    words = {"passed": "passed", "failed": "FAILED"}
    rows = [
        (words.get(claim.outcome, "not asked"), device.device, claim.check, claim.sentence)
        for device in result.devices
        for claim in device.claims
        if claim.check not in CHECKS
    ]
    environment = f", environment {result.environment.title}" if result.environment else ""
    title = f"Appraisal: {result.tier} under policy {result.policy.name} {result.policy.version}{environment}"
    output().table(title, ("Result", "Device", "Id", "Why"), rows)


def _verdict_lines(outcomes: Outcomes) -> list[str]:
    lines = []
    if outcomes.simulated:
        lines.append("SIMULATED: the root is a development root. No AMD processor protects this server.")
    if outcomes.error is not None:
        word = "COULD NOT BE CHECKED" if outcomes.exit_code == EXIT_UNCHECKED else "REFUSED"
        lines.append(f"{word}: {outcomes.error.message}")
        if outcomes.error.advice:
            lines.append(outcomes.error.advice)
        return lines
    if outcomes.verified is not None:
        who = "a simulated processor" if outcomes.simulated else f"an AMD {outcomes.verified.line} processor"
        what = f"{who} signed this report"
    else:
        what = "the broker signed this result"
    lines.append(f"ACCEPTED: {what}; judged as of {outcomes.at:%Y-%m-%d %H:%M:%S} UTC.")
    if outcomes.result is None:
        lines.append("Authenticity alone was asked about; --environment and --policy judge what runs there.")
    return lines


def _title(check: str) -> str:
    return CHECKS[check].title if check in CHECKS else check


def _as_json(outcomes: Outcomes) -> dict[str, object]:
    error = outcomes.error
    return {
        "verdict": outcomes.verdict,
        "kind": outcomes.kind,
        "simulated": outcomes.simulated,
        "at": outcomes.at.isoformat(),
        "line": str(outcomes.verified.line) if outcomes.verified else None,
        "checks": [
            {"id": one.id, "title": _title(one.id), "outcome": str(one.outcome), "detail": one.detail}
            for one in outcomes.checks
        ],
        "appraisal": _appraisal_as_json(outcomes.result) if outcomes.result else None,
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "advice": error.advice, "check": error.check},
    }


def _appraisal_as_json(result: AttestationResult) -> dict[str, object]:
    return {
        "tier": str(result.tier),
        "environment": result.environment.digest if result.environment else None,
        "policy": result.policy.digest,
        "devices": [
            {
                "device": device.device,
                "tier": str(device.tier),
                "claims": [
                    {"check": claim.check, "outcome": str(claim.outcome), "sentence": claim.sentence}
                    for claim in device.claims
                ],
            }
            for device in result.devices
        ],
    }
