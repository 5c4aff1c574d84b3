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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sealroom.cli._evidence import Evidence, Token, read_file, recognise
from sealroom.cli._verdict import Outcomes, show
from sealroom.cli.common import json_option
from sealroom.errors import (
    AppraisalError,
    BindingError,
    ConfigurationError,
    Error,
    FormatError,
    FreshnessError,
    StorageError,
)
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
    from sealroom.environments import Environment

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
    roots = Roots.amd()
    if root:
        with _given(root):
            roots = Roots.from_pem(read_file(root))
    outcomes = Outcomes(found.kind, at, list(found.checks), simulated=roots.simulated)
    intermediates = found.others()
    if chain:
        with _given(chain):
            intermediates += load_certificates(read_file(chain))
    examination = examine_report(
        found.report,
        _one_certificate(vek) if vek else found.vek(),
        roots=roots,
        at=at,
        intermediates=intermediates,
        crls=[_revocation_list(path) for path in crls],
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


@contextmanager
def _given(path: Path) -> Iterator[None]:
    """Turn the error of a file beside the evidence into one of the command line: it refuses nothing."""
    try:
        yield
    except StorageError:
        raise
    except Error as error:
        raise ConfigurationError(f"{path} cannot be used: {error.message}", advice=error.advice) from error


def _one_certificate(path: Path) -> bytes:
    with _given(path):
        certificates = load_certificates(read_file(path))
        if len(certificates) != 1:
            raise FormatError(f"It holds {len(certificates)} certificates, not one.")
        return certificates[0]


def _revocation_list(path: Path) -> bytes:
    with _given(path):
        data = read_file(path)
        if data[:1] == b"\x30":
            return data
        blocks = _CRL.findall(data)
        if len(blocks) != 1:
            raise FormatError(f"It holds {len(blocks)} revocation lists in PEM form, not one.")
        try:
            return base64.b64decode(b"".join(blocks[0].split()), validate=True)
        except binascii.Error as error:
            raise FormatError("The revocation list in PEM form does not decode.") from error


def _environment(path: Path) -> Environment:
    from sealroom.environments import Environment

    with _given(path):
        return Environment.from_toml(read_file(path))


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

    policy = Policy.strict()
    if expected.policy:
        with _given(expected.policy):
            policy = Policy.from_toml(read_file(expected.policy))
    environment = _environment(expected.environment) if expected.environment else None
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

    if jwks is None:
        raise click.UsageError("A token is checked with --jwks FILE, the broker's public keys.")
    if expected.report_data or expected.host_data or expected.policy or expected.nonce:
        raise click.UsageError("A token is compared with an --environment only.")
    outcomes = Outcomes("attestation result token", at)
    with _given(jwks):
        keys = _json_object(read_file(jwks))
    try:
        outcomes.result = ear.verify(token.text, jwks=keys, at=at).result
        outcomes.simulated = outcomes.result.simulated
        outcomes.error = _appraisal_error(outcomes.result)
        if expected.environment and outcomes.error is None:
            manifest = _environment(expected.environment)
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


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("It is no JSON document.") from error
    if not isinstance(document, dict):
        raise FormatError("It is no JSON object.")
    return document
