# SPDX-License-Identifier: BSD-3-Clause
"""What `sealroom verify` found out, and how it is printed: every check, the verdict, and what to do.

What this is: presentation. What this is not: a judgement of its own; an error decides the exit status.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, exit_code, output
from sealroom.errors import Error
from sealroom.snp import CHECKS, CheckResult, Outcome, VerifiedReport

if TYPE_CHECKING:
    from sealroom.appraisal import AttestationResult

_MISSING: Final = frozenset({"snp.vek.present", "snp.ask.present"})
"""Checks whose failure means that something was not given, not that something is wrong."""
_WORDS: Final = {Outcome.PASSED: "passed", Outcome.FAILED: "FAILED", Outcome.NOT_ASKED: "not asked"}


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
