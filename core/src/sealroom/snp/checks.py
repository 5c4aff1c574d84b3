# SPDX-License-Identifier: BSD-3-Clause
"""The checks that SEV-SNP verification makes, each with a stable id.

What this is: the vocabulary of results. Every check has one id that appears in errors (`Error.check`), in
`VerifiedReport.checks`, in the table of `sealroom verify` and in `docs/reference/checks.md`, which is
generated from `CATALOGUE`. What this is not: the checks themselves; those stand in `report`,
`certificates`, `crl` and `verify`.

Where a check fails, nothing after it was made; the results say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sealroom.checks import Check, CheckResult, Outcome, Trail
from sealroom.snp._catalogue import CATALOGUE, GROUPS

__all__ = ["CHECKS", "REPORT_CHECKS", "Check", "CheckResult", "Outcome", "Trail"]

CHECKS: Mapping[str, Check] = MappingProxyType({row[0]: Check(*row) for row in CATALOGUE})
"""Every check by its id, in the order in which they are listed."""

REPORT_CHECKS: frozenset[str] = frozenset(check.id for check in CHECKS.values() if GROUPS[check.group].always)
"""Ids of the checks that `verify_report` makes, or says were not asked, for every report."""
