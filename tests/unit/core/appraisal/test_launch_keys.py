# SPDX-License-Identifier: BSD-3-Clause
"""The keys of the ID block: asked for only where the environment names them."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomli_w
from sealroom import testing
from sealroom.appraisal import (
    NO_EXPECTATION,
    AttestationResult,
    Claim,
    ClaimOutcome,
    Policy,
    Tier,
    appraise,
)
from sealroom.environments import Environment

ID_KEY, AUTHOR_KEY = b"\x1d" * 48, b"\xa0" * 48
AUTHOR_KEY_EN = 1
SIGNED: dict[str, Any] = {"id_key_digest": ID_KEY, "author_key_digest": AUTHOR_KEY, "key_info": AUTHOR_KEY_EN}


def environment(**names: bytes) -> Environment:
    content = tomllib.loads(testing.environment().raw.decode())
    content |= {name: value.hex() for name, value in names.items()}
    return Environment.from_toml(tomli_w.dumps(content).encode())


def judge(expected: Environment, **changes: Any) -> AttestationResult:
    evidence = testing.verified_evidence(b"n" * 64, expected, **changes)
    return appraise(evidence, environment=expected, policy=Policy.strict())


def claim(result: AttestationResult, check: str) -> Claim:
    return next(item for item in result.devices[0].claims if item.check == check)


@pytest.mark.parametrize("check", ["appraisal.id_key", "appraisal.author_key"])
@pytest.mark.parametrize("changes", [{}, SIGNED], ids=["no ID block", "any ID block"])
def test_key_that_is_not_named_is_not_checked_and_changes_nothing(
    check: str, changes: dict[str, Any]
) -> None:
    result = judge(environment(), **changes)
    assert claim(result, check).outcome is ClaimOutcome.NOT_CHECKED
    assert "the environment names no such key" in claim(result, check).sentence
    assert result.tier is Tier.SIMULATED


def test_named_keys_are_accepted() -> None:
    expected = environment(id_key_digest=ID_KEY, author_key_digest=AUTHOR_KEY)
    result = judge(expected, **SIGNED)
    assert not result.failures
    for check in ("appraisal.id_key", "appraisal.author_key"):
        assert claim(result, check).outcome is ClaimOutcome.PASSED
    assert expected.title in claim(result, "appraisal.id_key").sentence


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"id_key_digest": bytes(48)}, ["appraisal.id_key"]),
        ({"id_key_digest": AUTHOR_KEY}, ["appraisal.id_key"]),
        ({"author_key_digest": bytes(48)}, ["appraisal.author_key"]),
        ({"author_key_digest": ID_KEY}, ["appraisal.author_key"]),
        ({"key_info": 0}, ["appraisal.author_key"]),
        (
            {"id_key_digest": bytes(48), "author_key_digest": bytes(48), "key_info": 0},
            ["appraisal.id_key", "appraisal.author_key"],
        ),
    ],
    ids=["no ID block", "another ID key", "no author", "another author", "author not enabled", "neither"],
)
def test_key_that_is_not_the_named_one_is_contraindicated(changes: dict[str, Any], failed: list[str]) -> None:
    expected = environment(id_key_digest=ID_KEY, author_key_digest=AUTHOR_KEY)
    result = judge(expected, **(SIGNED | changes))
    assert [item.check for item in result.failures] == failed
    assert result.tier is Tier.CONTRAINDICATED
    assert result.devices[0].vector.executables == 96


def test_author_alone_may_be_named() -> None:
    expected = environment(author_key_digest=AUTHOR_KEY)
    assert not judge(expected, **(SIGNED | {"id_key_digest": b"\x77" * 48})).failures
    assert judge(expected).failures


@pytest.mark.parametrize("nobody", [NO_EXPECTATION, None], ids=["no expectation", "none named"])
def test_without_an_environment_no_key_is_checked(nobody: Any) -> None:
    evidence = testing.verified_evidence(b"n" * 64, environment(), **SIGNED)
    result = appraise(evidence, environment=nobody, policy=Policy.strict())
    for check in ("appraisal.id_key", "appraisal.author_key"):
        assert claim(result, check).outcome is ClaimOutcome.NOT_CHECKED
