# SPDX-License-Identifier: BSD-3-Clause
"""What a check is: the words that every verifier and the appraisal share.

What this is: the form of a check's description and of its result. What this is not: the checks; each
verifier has a table `CHECKS` of its own (`sealroom.snp`, `sealroom.nvidia`, `sealroom.appraisal`).

Invariants:

- An id is never reused for another meaning.
- A check is "passed" only if the code that makes it ran and found nothing wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_ASKED = "not_asked"
    """Nothing was given to check against, or an earlier check failed; the detail says which."""


class CheckResult(NamedTuple):
    """The outcome of one check on one piece of evidence."""

    id: str
    """Id of the check, a key of one of the `CHECKS` tables."""
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
    """What the check is about; a key of its table's groups."""
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
