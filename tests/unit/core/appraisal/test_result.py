# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from sealroom.appraisal import Status, Tier, Trustworthiness


def test_worst_tier_wins() -> None:
    assert Tier.worst([Tier.AFFIRMING, Tier.WARNING]) is Tier.WARNING
    assert Tier.worst([Tier.SIMULATED, Tier.AFFIRMING]) is Tier.SIMULATED
    assert Tier.worst([Tier.SIMULATED, Tier.CONTRAINDICATED]) is Tier.CONTRAINDICATED
    assert Tier.worst([]) is Tier.NONE


def test_simulated_is_contraindicated_to_those_who_know_no_tiers() -> None:
    assert Tier.SIMULATED.status is Status.CONTRAINDICATED


@pytest.mark.parametrize("tier", [tier for tier in Tier if tier is not Tier.SIMULATED])
def test_other_tiers_are_their_own_status(tier: Tier) -> None:
    assert tier.status.value == tier.value


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0, "none"),
        (2, "affirming"),
        (31, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
    ],
)
def test_status_of_a_vector_is_that_of_its_worst_claim(value: int, status: str) -> None:
    assert Trustworthiness(hardware=value).status.value == status
    if value:
        assert Trustworthiness(hardware=value, executables=2).status.value == status


@pytest.mark.parametrize("value", [-1, 1])
def test_malfunction_and_unexpected_evidence_are_contraindicated(value: int) -> None:
    assert Trustworthiness(hardware=value).status is Status.CONTRAINDICATED
