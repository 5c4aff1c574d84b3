# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from sealroom.appraisal import CHECKS
from sealroom.snp import CHECKS as SNP_CHECKS
from sealroom.snp import Check


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_check_has_all_its_texts(check: Check) -> None:
    for text in (check.title, check.meaning, check.source, check.researcher, check.operator):
        assert text
    for text in (check.meaning, check.researcher, check.operator):
        assert text.endswith(".")


def test_ids_are_of_the_appraisal_and_no_other() -> None:
    assert all(name == check.id and name.startswith("appraisal.") for name, check in CHECKS.items())
    assert not set(CHECKS) & set(SNP_CHECKS)
