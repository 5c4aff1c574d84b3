# SPDX-License-Identifier: BSD-3-Clause
"""The checks that SEV-SNP verification makes, each with a stable id.

What this is: the vocabulary of results. Every check has one id that appears in errors (`Error.check`), in
`VerifiedReport.checks`, in the table of `sealroom verify` and in `docs/reference/checks.md`, which is
generated from `CATALOGUE`. What this is not: the checks themselves; those stand in `report`,
`certificates`, `crl` and `verify`.

Invariants:

- An id is never reused for another meaning.
- A check is "passed" only if the code that makes it ran and found nothing wrong.
- Where a check fails, nothing after it was made; the results say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from sealroom.snp._catalogue import CATALOGUE, GROUPS


class Outcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_ASKED = "not_asked"
    """Nothing was given to check against, or an earlier check failed; the detail says which."""


class CheckResult(NamedTuple):
    """The outcome of one check on one piece of evidence."""

    id: str
    """Id of the check, a key of `CHECKS`."""
    outcome: Outcome
    """Passed, failed or not asked."""
    detail: str
    """One sentence: what was seen, or why nothing was asked."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check means and to whom."""

    id: str
    """Stable id such as `snp.report.length`."""
    group: str
    """What the check is about; a key of `GROUPS`."""
    title: str
    """A few words for tables."""
    meaning: str
    """What is compared with what."""
    source: str
    """Document, revision and place that demand it."""
    researcher: str
    """What a failure means to the person whose server this is."""
    operator: str
    """What a failure means to those who run the machine, and what they can do."""


CHECKS: Mapping[str, Check] = MappingProxyType({row[0]: Check(*row) for row in CATALOGUE})
"""Every check by its id, in the order in which they are listed."""

REPORT_CHECKS: frozenset[str] = frozenset(check.id for check in CHECKS.values() if GROUPS[check.group].always)
"""Ids of the checks that `verify_report` makes, or says were not asked, for every report."""


class Trail:
    """Collects the results of checks in the order in which they are made."""

    __slots__ = ("results",)

    def __init__(self, results: Iterable[CheckResult] = ()) -> None:
        self.results = list(results)
        """The results so far."""

    def passed(self, check: str, detail: str) -> None:
        """Record that a check was made and found nothing wrong."""
        self.results.append(CheckResult(check, Outcome.PASSED, detail))

    def not_asked(self, check: str, detail: str) -> None:
        """Record that a check was not made, and why."""
        self.results.append(CheckResult(check, Outcome.NOT_ASKED, detail))

    def failed(self, check: str, detail: str) -> None:
        """Record that a check failed."""
        self.results.append(CheckResult(check, Outcome.FAILED, detail))
