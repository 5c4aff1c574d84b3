# SPDX-License-Identifier: BSD-3-Clause
"""The catalogue of checks: complete sentences, stable ids, and every id that the code uses."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from sealroom.snp import CHECKS, REPORT_CHECKS, Check, Outcome
from sealroom.snp._catalogue import CATALOGUE, GROUPS
from sealroom.snp.checks import Trail

ID = re.compile(r"snp\.[a-z]+\.[a-z_]+")


def test_ids_are_unique_and_well_formed() -> None:
    assert len(CATALOGUE) == len(CHECKS)
    assert all(ID.fullmatch(check) for check in CHECKS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_every_check_says_what_it_means(check: Check) -> None:
    assert check.group in GROUPS
    assert not check.title.endswith(".")
    assert check.source
    for sentence in (check.meaning, check.researcher, check.operator):
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_ids_in_the_code_are_those_of_the_catalogue() -> None:
    used = {
        found
        for path in files("sealroom.snp").iterdir()
        if path.name.endswith(".py") and path.name != "_catalogue.py"
        for found in re.findall(r'"(snp\.[a-z]+\.[a-z_]+)"', path.read_text(encoding="utf-8"))
    }
    used |= {
        f"snp.crl.{name}"
        for name in ("format", "issuer", "signature", "not_revoked", "not_future", "not_stale")
    }

    # The nonce is compared by the command line, which knows how it was bound.
    assert used == set(CHECKS) - {"snp.expected.nonce"}


def test_checks_of_every_report() -> None:
    assert {CHECKS[check].group for check in REPORT_CHECKS} == {"report", "vek", "chain", "crl", "binding"}


def test_a_trail_keeps_the_order() -> None:
    trail = Trail()
    trail.passed("snp.report.length", "1184 bytes")
    trail.not_asked("snp.crl.format", "none given")
    trail.failed("snp.report.signature", "no")

    assert [one.outcome for one in trail.results] == [Outcome.PASSED, Outcome.NOT_ASKED, Outcome.FAILED]


def test_the_reference_page_is_what_the_code_says() -> None:
    tool = Path(__file__).parents[4] / "tools" / "checks_reference.py"

    stale = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False
    )

    assert stale.returncode == 0, stale.stderr
