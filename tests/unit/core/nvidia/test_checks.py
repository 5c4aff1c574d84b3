# SPDX-License-Identifier: BSD-3-Clause
"""The catalogue of checks: complete sentences, stable ids, and every id that the code uses."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from sealroom.checks import Check
from sealroom.nvidia import CHECKS, GROUPS, REPORT_CHECKS
from sealroom.nvidia.certificates import DEVICE, RIM

ID = re.compile(r"nvidia\.[a-z]+\.[a-z]+")
OF_EACH_CHAIN = ("format", "root", "links", "authority", "validity")


def test_ids_are_well_formed_and_keys() -> None:
    assert all(ID.fullmatch(check) for check in CHECKS)
    assert all(check.id == name for name, check in CHECKS.items())


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_every_check_says_what_it_means(check: Check) -> None:
    assert check.group in GROUPS
    assert not check.title.endswith(".")
    assert check.source
    for sentence in (check.meaning, check.researcher, check.operator):
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_titles_are_told_apart() -> None:
    assert len({check.title for check in CHECKS.values()}) == len(CHECKS)


def test_ids_in_the_code_are_those_of_the_catalogue() -> None:
    used = {
        found
        for path in files("sealroom.nvidia").iterdir()
        if path.name.endswith(".py") and path.name != "checks.py"
        for found in re.findall(r'"(nvidia\.[a-z]+\.[a-z]+)"', path.read_text(encoding="utf-8"))
    }
    used |= {f"{path.prefix}.{name}" for path in (DEVICE, RIM) for name in OF_EACH_CHAIN}
    assert used == set(CHECKS)


def test_checks_of_every_report() -> None:
    groups = {CHECKS[check].group for check in REPORT_CHECKS}
    assert groups == {"device_report", "device_chain", "device_binding"}
    assert not any(check.startswith(("nvidia.rim.", "nvidia.nras.")) for check in REPORT_CHECKS)


def test_the_byte_after_the_signature_is_explained() -> None:
    check = CHECKS["nvidia.report.trailing"]
    assert "One is tolerated" in check.meaning
    assert "More are refused" in check.meaning
