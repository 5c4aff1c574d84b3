# SPDX-License-Identifier: BSD-3-Clause
"""Unknown is never affirming: over any set of claims, and over any set of mistakes in the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.appraisal import (
    CHECKS,
    NO_EXPECTATION,
    RELAXATIONS,
    AttestationResult,
    Claim,
    ClaimOutcome,
    DeviceFiles,
    Policy,
    Status,
    Tier,
    Trustworthiness,
    appraise,
)
from sealroom.appraisal.checks import DEVICE_CHECKS
from sealroom.appraisal.claims import tier_of
from sealroom.checks import Outcome
from support import gpus

REQUIRED = sorted(CHECKS)
ORDER = [Status.AFFIRMING, Status.WARNING, Status.NONE, Status.CONTRAINDICATED]
GOOD = Trustworthiness(configuration=2, executables=3, hardware=2)

vectors = st.builds(
    Trustworthiness,
    configuration=st.sampled_from([0, 2, 3, 32, 96]),
    executables=st.sampled_from([0, 3, 33, 96]),
    hardware=st.sampled_from([0, 2, 96, 97]),
)
outcomes = st.dictionaries(st.sampled_from(REQUIRED), st.sampled_from(ClaimOutcome))


def claims(made: Mapping[str, ClaimOutcome]) -> list[Claim]:
    return [Claim(check, outcome, "A sentence.") for check, outcome in made.items()]


@given(outcomes, st.sets(st.sampled_from(REQUIRED), min_size=1), vectors, st.booleans())
def test_affirming_needs_every_required_check_a_good_vector_and_a_real_root(
    made: dict[str, ClaimOutcome], required: set[str], vector: Trustworthiness, simulated: bool
) -> None:
    tier = tier_of(claims(made), vector, required=frozenset(required), simulated=simulated)
    if tier is Tier.AFFIRMING:
        assert not simulated
        assert all(made.get(check) is ClaimOutcome.PASSED for check in required)
        assert ClaimOutcome.FAILED not in made.values()
        assert vector.status is Status.AFFIRMING
    assert ORDER.index(tier.status) >= ORDER.index(vector.status) or tier is Tier.CONTRAINDICATED


@given(
    st.sets(st.sampled_from(REQUIRED)), st.sampled_from([ClaimOutcome.FAILED, ClaimOutcome.NOT_CHECKED, None])
)
def test_whatever_is_not_passed_takes_affirming_away(bad: set[str], outcome: ClaimOutcome | None) -> None:
    made = dict.fromkeys(REQUIRED, ClaimOutcome.PASSED)
    for check in bad:
        if outcome is None:
            del made[check]
        else:
            made[check] = outcome
    tier = tier_of(claims(made), GOOD, required=frozenset(REQUIRED), simulated=False)
    if not bad:
        assert tier is Tier.AFFIRMING
    else:
        assert tier is (Tier.CONTRAINDICATED if outcome is ClaimOutcome.FAILED else Tier.NONE)


# --- whole servers

GPU = testing.gpu()
FILES = gpus.files(GPU)
ENVIRONMENT = gpus.environment()
MISTAKES: Mapping[str, Mapping[str, Any]] = {
    "rims": {"rims": ()},
    "driver_rim": {"rims": (GPU.vbios_rim,)},
    "strange_rim": {"rims": (*FILES.rims, GPU.rim("driver", version="1.2"))},
    "reissued": {"rims": (GPU.driver_rim, GPU.rim("vbios", reissued=True))},
    "ocsp": {"ocsp": ()},
    "device_ocsp": {"ocsp": FILES.ocsp[:3]},
}
REPORTS: Mapping[str, Mapping[str, Any]] = {
    "values": {"measurements": {21: bytes(48)}},
    "mode": {"opaque": {36: b"\1\0"}},
    "driver": {"opaque": {3: b"580.95.06\0"}},
    "vbios": {"opaque": {6: bytes.fromhex("009f009602000000")}},
}
CPU: Mapping[str, Mapping[str, Any]] = {
    "measurement": {"measurement": bytes(48)},
    "host_data": {"host_data": bytes(32)},
    "vmpl": {"vmpl": 2},
}
policies = st.sets(
    st.sampled_from(["allow_missing_rim = true", "allow_expired_rim = true", 'gpu_ocsp = "soft"'])
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([None, *MISTAKES]),
    st.sampled_from([None, *REPORTS]),
    st.sampled_from([None, *CPU]),
    policies,
    st.sampled_from(["known", "none named", "none"]),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([0, 1, 2]),
)
def test_no_server_is_affirming_of_which_something_is_unknown_or_wrong(
    files: str | None,
    report: str | None,
    cpu: str | None,
    relaxed: set[str],
    expectation: str,
    genuine: tuple[bool, bool],
    count: int,
) -> None:
    known = dataclasses.replace(FILES, **MISTAKES[files]) if files else FILES
    chips = [GPU, testing.gpu(seed=b"p" * 32)][:count]
    devices = [
        gpus.verified(chip, genuine=genuine[1], known=known, **(REPORTS[report] if report else {}))
        for chip in chips
    ]
    evidence = gpus.evidence(devices, ENVIRONMENT, genuine=genuine[0], **(CPU[cpu] if cpu else {}))
    policy = Policy.from_toml(
        ('format = "sealroom-policy/1"\nname = "p"\nversion = "1"\n' + "\n".join(sorted(relaxed))).encode()
    )
    environment: Any = {
        "known": gpus.values(ENVIRONMENT, genuine=genuine[0]),
        "none named": NO_EXPECTATION,
        "none": None,
    }[expectation]
    result = appraise(evidence, environment=environment, policy=policy)
    sound(result, policy)
    wrong = (files and not (files.endswith("ocsp") and 'gpu_ocsp = "soft"' in relaxed)) or report or cpu
    if wrong or expectation != "known" or not all(genuine) or count != 1:
        assert result.tier is not Tier.AFFIRMING
    else:
        assert result.tier is Tier.AFFIRMING


def sound(result: AttestationResult, policy: Policy) -> None:
    for device in result.devices:
        made = {claim.check: claim.outcome for claim in device.claims}
        expected = DEVICE_CHECKS if device.device != "cpu0" else set(CHECKS) - set(DEVICE_CHECKS)
        assert set(expected) <= set(made)
        if device.tier is Tier.AFFIRMING:
            assert not result.simulated
            assert ClaimOutcome.FAILED not in made.values()
            if device.device != "cpu0":
                optional = {"appraisal.gpu.revocation"} if policy.gpu_ocsp != "required" else set()
                assert all(made[check] is ClaimOutcome.PASSED for check in set(DEVICE_CHECKS) - optional)
        assert ORDER.index(device.status) >= ORDER.index(device.vector.status)
    if result.simulated:
        assert not {device.tier for device in result.devices} & {Tier.AFFIRMING, Tier.WARNING}


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(min_value=0, max_value=200)), st.sampled_from([Outcome.FAILED, Outcome.NOT_ASKED]))
def test_result_of_the_comparison_that_is_missing_or_bad_takes_affirming_away(
    places: set[int], outcome: Outcome
) -> None:
    """Any of the results of a good comparison, dropped or made bad, and the vector says the same."""
    good = gpus.verified(GPU, genuine=True)
    hit = [one for number, one in enumerate(good.comparison) if number in places]
    kept = tuple(
        one._replace(outcome=outcome) if number in places else one
        for number, one in enumerate(good.comparison)
    )
    changed = dataclasses.replace(good, comparison=kept)
    evidence = gpus.evidence([changed], ENVIRONMENT, genuine=True)
    result = appraise(evidence, environment=gpus.values(ENVIRONMENT, genuine=True), policy=Policy.strict())
    sound(result, Policy.strict())
    if outcome is Outcome.FAILED:
        assert (result.tier is Tier.AFFIRMING) is not bool(hit)
    decisive = {"nvidia.rim.present", "nvidia.measurement.values", "nvidia.rim.ocsp"}
    if {one.id for one in hit} & decisive:
        assert result.tier is not Tier.AFFIRMING


@pytest.mark.parametrize("name", sorted(RELAXATIONS))
def test_no_relaxation_makes_a_simulated_gpu_more_than_simulated(name: str) -> None:
    values = {"allowed_vmpl": "[0, 1, 2, 3]", "gpu_ocsp": '"off"'}
    head = 'format = "sealroom-policy/1"\nname = "p"\nversion = "1"\n'
    policy = Policy.from_toml(f"{head}{name} = {values.get(name, 'true')}\n".encode())
    evidence = gpus.evidence([gpus.verified(known=DeviceFiles(FILES.rims, FILES.ocsp))])
    result = appraise(evidence, environment=ENVIRONMENT, policy=policy)
    assert {device.tier for device in result.devices} == {Tier.SIMULATED}
