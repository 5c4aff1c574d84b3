# SPDX-License-Identifier: BSD-3-Clause
"""What `sealroom verify` found out, and how it is printed: every check, the verdict, and what to do.

What this is: presentation. What this is not: a judgement of its own; an error decides the exit status.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sealroom.cli._devices import is_unchecked
from sealroom.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNCHECKED,
    exit_code,
    output,
    place_of,
    sentence_of,
)
from sealroom.errors import Error
from sealroom.nvidia import CHECKS as NVIDIA_CHECKS
from sealroom.snp import CHECKS, CheckResult, Outcome, VerifiedReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sealroom.appraisal import AttestationResult
    from sealroom.cli._devices import DeviceOutcome, Examination, ManifestOutcome
    from sealroom.nvidia import VerifiedDevice

_MISSING: Final = frozenset({"snp.vek.present", "snp.ask.present"})
"""Checks whose failure means that something was not given, not that something is wrong."""
MANIFEST: Final = "reference manifest"
"""Kind of a manifest that is verified by itself."""
_WIDE: Final = 140
"""Columns of a terminal from which on a check's id has a column of its own."""
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
    devices: list[DeviceOutcome] = field(default_factory=list)
    """What was found out about each GPU and switch."""
    simulated: bool = False
    """A root is a development root."""
    manifests: list[ManifestOutcome] = field(default_factory=list)
    """What was found out about each reference manifest."""
    signed: str = ""
    """Who signed what, where it is no report."""

    def take(self, found: Examination) -> None:
        """Take what was found out about devices."""
        self.devices, self.manifests = found.devices, list(found.manifests.values())
        self.error = found.error

    @property
    def exit_code(self) -> int:
        """Exit status of the command."""
        if self.error is None:
            return EXIT_OK
        missing = self.error.check in _MISSING or is_unchecked(self.error)
        return EXIT_UNCHECKED if missing else exit_code(self.error)

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
    if outcomes.checks:
        _table(f"Checks of this {outcomes.kind}", outcomes.checks)
    for device in outcomes.devices:
        _table(f"Checks of {device.name}", device.checks)
    for manifest in outcomes.manifests:
        _table(f"Checks of the {manifest.name}", manifest.checks)
    if outcomes.result is not None:
        _show_appraisal(outcomes.result)
    for line in _verdict_lines(outcomes):
        out.say(line)


def _table(title: str, checks: Sequence[CheckResult]) -> None:
    """Print checks; on a narrow terminal an id stands below its title, so that the reasons have room."""
    terminal = sys.stdout.isatty()
    if terminal and shutil.get_terminal_size().columns < _WIDE:
        rows = [(_WORDS[one.outcome], f"{_title(one.id)}\n{one.id}", one.detail) for one in checks]
        output().table(title, ("Result", "Check", "Why"), rows)
        return
    wide = [(_WORDS[one.outcome], _title(one.id), one.id, one.detail) for one in checks]
    output().table(title, ("Result", "Check", "Id", "Why"), wide)


def _show_appraisal(result: AttestationResult) -> None:
    words = {"passed": "passed", "failed": "FAILED"}
    rows = [
        (words.get(claim.outcome, "not asked"), device.device, claim.check, claim.sentence)
        for device in result.devices
        for claim in device.claims
        if claim.check not in CHECKS and claim.check not in NVIDIA_CHECKS
    ]
    environment = f", environment {result.environment.title}" if result.environment else ""
    title = f"Appraisal: {result.tier} under policy {result.policy.name} {result.policy.version}{environment}"
    output().table(title, ("Result", "Device", "Id", "Why"), rows)


def _verdict_lines(outcomes: Outcomes) -> list[str]:
    lines = []
    if outcomes.simulated:
        lines.append(f"SIMULATED: the root is a development root. {_unprotected(outcomes)}")
    if outcomes.error is not None:
        word = "COULD NOT BE CHECKED" if outcomes.exit_code == EXIT_UNCHECKED else "REFUSED"
        lines.append(f"{word}: {sentence_of(outcomes.error)}")
        if outcomes.error.advice:
            lines.append(outcomes.error.advice)
        return lines
    what = _who_signed(outcomes)
    lines.append(f"ACCEPTED: {what}; judged as of {outcomes.at:%Y-%m-%d %H:%M:%S} UTC.")
    without = [one.name for one in outcomes.devices if not one.compared]
    if without:
        lines.append(
            f"Firmware was not compared with reference manifests for {', '.join(without)}: "
            "--rim FILE or --collateral DIRECTORY does that."
        )
    if outcomes.result is None and not outcomes.signed:
        lines.append("Authenticity alone was asked about; --environment and --policy judge what runs there.")
    return lines


def _unprotected(outcomes: Outcomes) -> str:
    """Say what a development root does not vouch for."""
    if outcomes.devices and outcomes.verified is None:
        return "No NVIDIA device stands behind this evidence."
    if outcomes.kind == MANIFEST:
        return "NVIDIA has not published these values."
    return "No AMD processor protects this server."


def _who_signed(outcomes: Outcomes) -> str:
    if outcomes.signed:
        return outcomes.signed
    devices = [one.gpu.device for one in outcomes.devices if one.gpu is not None]
    names = ", ".join(_counted(devices))
    if names and all(one.compared for one in outcomes.devices):
        names += " with the firmware of the reference manifests"
    if outcomes.verified is not None:
        kind = "a simulated" if outcomes.verified.simulated else "an AMD"
        what = f"{kind} {outcomes.verified.line} processor signed this report"
        return f"{what}, which covers {names}" if names else what
    return f"{names} signed this evidence" if names else "the broker signed this result"


def _counted(devices: Sequence[VerifiedDevice]) -> list[str]:
    """Name devices, each kind once: "2 NVIDIA Hopper GPUs"."""
    kinds = Counter(
        f"{'simulated' if one.simulated else 'NVIDIA'} "
        f"{'NVSwitch' if one.is_switch else f'{one.architecture.title()} GPU'}"
        for one in devices
    )
    return [
        f"{'a' if kind.startswith('s') else 'an'} {kind}"
        if number == 1
        else f"{number} {kind}{'es' if kind.endswith('h') else 's'}"
        for kind, number in kinds.items()
    ]


def _title(check: str) -> str:
    known = CHECKS.get(check) or NVIDIA_CHECKS.get(check)
    return known.title if known else check


def _as_json(outcomes: Outcomes) -> dict[str, object]:
    return {
        "verdict": outcomes.verdict,
        "kind": outcomes.kind,
        "simulated": outcomes.simulated,
        "at": outcomes.at.isoformat(),
        "line": str(outcomes.verified.line) if outcomes.verified else None,
        "checks": _checks_as_json(outcomes.checks),
        "devices": [
            {
                "device": device.name,
                "architecture": str(device.gpu.device.architecture) if device.gpu else None,
                "checks": _checks_as_json(device.checks),
                "error": _error_as_json(device.error),
            }
            for device in outcomes.devices
        ],
        "manifests": [
            {
                "manifest": manifest.name,
                "checks": _checks_as_json(manifest.checks),
                "error": _error_as_json(manifest.error),
            }
            for manifest in outcomes.manifests
        ],
        "appraisal": _appraisal_as_json(outcomes.result) if outcomes.result else None,
        "error": _error_as_json(outcomes.error),
    }


def _error_as_json(error: Error | None) -> dict[str, object] | None:
    if error is None:
        return None
    said = {"code": error.code, "message": error.message, "advice": error.advice, "check": error.check}
    return said | place_of(error)


def _checks_as_json(checks: Sequence[CheckResult]) -> list[dict[str, str]]:
    return [
        {"id": one.id, "title": _title(one.id), "outcome": str(one.outcome), "detail": one.detail}
        for one in checks
    ]


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
