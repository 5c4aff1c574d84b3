# SPDX-License-Identifier: BSD-3-Clause
"""GPUs beside a processor: each test has one thing wrong and expects the claim that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sealroom import testing
from sealroom.appraisal import (
    CHECKS,
    NO_EXPECTATION,
    AttestationResult,
    ClaimOutcome,
    DeviceFiles,
    DeviceResult,
    Policy,
    Status,
    Tier,
    VerifiedEvidence,
    VerifiedGpu,
    appraise,
)
from sealroom.appraisal.checks import DEVICE_CHECKS
from sealroom.environments import Environment
from sealroom.errors import BindingError, FreshnessError
from sealroom.nvidia import CHECKS as NVIDIA_CHECKS
from sealroom.nvidia import verify_device
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_certificates import Life
from support import gpus
from support.gpus import DRIVER, NONCE, VBIOS

ENVIRONMENT = gpus.environment()
GPU = testing.gpu()
STRICT = Policy.strict()


def relaxed(*lines: str) -> Policy:
    head = 'format = "sealroom-policy/1"\nname = "relaxed"\nversion = "1"\n'
    return Policy.from_toml((head + "\n".join(lines) + "\n").encode())


def judge(
    *devices: VerifiedGpu,
    policy: Policy = STRICT,
    environment: Environment = ENVIRONMENT,
    genuine: bool = True,
) -> AttestationResult:
    evidence = gpus.evidence(devices, environment, genuine=genuine)
    return appraise(evidence, environment=gpus.values(environment, genuine=genuine), policy=policy)


def device(result: AttestationResult, name: str = "gpu0") -> DeviceResult:
    return next(one for one in result.devices if one.device == name)


def failed(result: AttestationResult, name: str = "gpu0") -> list[str]:
    return [claim.check for claim in device(result, name).failures]


def of_appraisal(result: AttestationResult, name: str = "gpu0") -> list[str]:
    return [check for check in failed(result, name) if check.startswith("appraisal.")]


def sentence(result: AttestationResult, check: str, name: str = "gpu0") -> str:
    return next(claim.sentence for claim in device(result, name).claims if claim.check == check)


def outcome(result: AttestationResult, check: str, name: str = "gpu0") -> ClaimOutcome:
    return next(claim.outcome for claim in device(result, name).claims if claim.check == check)


def genuine(on: SimulatedGpu | None = None, **options: Any) -> VerifiedGpu:
    return gpus.verified(on, genuine=True, **options)


def other_files(on: SimulatedGpu = GPU, **changes: Any) -> DeviceFiles:
    return dataclasses.replace(gpus.files(on), **changes)


# --- everything right


def test_gpu_in_its_environment_is_affirming() -> None:
    result = judge(genuine())
    assert [(one.device, one.tier) for one in result.devices] == [
        ("cpu0", Tier.AFFIRMING),
        ("gpu0", Tier.AFFIRMING),
    ]
    assert result.tier is Tier.AFFIRMING
    assert result.failures == ()
    assert device(result).vector.as_claims() == {
        "instance-identity": 2,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 2,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    assert "32 of 32" in sentence(result, "appraisal.gpu.measurements")


def test_simulated_gpu_is_simulated_and_never_affirming() -> None:
    result = judge(gpus.verified(), genuine=False)
    assert result.failures == ()
    assert result.simulated
    assert device(result).tier is Tier.SIMULATED
    assert device(result).status is Status.CONTRAINDICATED
    assert device(result).vector.hardware == 97
    for claim in device(result).claims:
        if claim.check in DEVICE_CHECKS and claim.outcome is ClaimOutcome.PASSED:
            assert claim.sentence.startswith("Simulated: ")


@pytest.mark.parametrize("is_genuine", [True, False])
def test_every_claim_has_a_known_check_and_a_sentence_and_stands_once(is_genuine: bool) -> None:
    result = judge(gpus.verified(genuine=is_genuine), genuine=is_genuine)
    ids = [claim.check for claim in device(result).claims]
    assert len(set(ids)) == len(ids)
    assert [check for check in ids if check.startswith("appraisal.")] == list(DEVICE_CHECKS)
    for claim in device(result).claims:
        assert claim.check in NVIDIA_CHECKS or claim.check in CHECKS
        assert claim.sentence.endswith((".", ")"))
        assert claim.sentence[0].isupper()


def test_several_gpus_and_switches_have_results_of_their_own() -> None:
    result = judge(*protected_pcie(), environment=gpus.environment(2))
    assert [one.device for one in result.devices] == ["cpu0", "gpu0", "gpu1", "switch0"]
    assert result.failures == ()
    assert result.tier is Tier.AFFIRMING
    switch = device(result, "switch0")
    assert "NVSwitch" in sentence(result, "appraisal.gpu.root", "switch0")
    assert outcome(result, "appraisal.gpu.driver", "switch0") is ClaimOutcome.NOT_CHECKED
    assert switch.tier is Tier.AFFIRMING


def test_blackwell_gpu() -> None:
    gpu = testing.gpu("BLACKWELL")
    environment = gpus.environment(architectures=["BLACKWELL"], vbios=[gpu.vbios_version])
    assert judge(genuine(gpu), environment=environment).tier is Tier.AFFIRMING


# --- reference values


def test_missing_reference_values_are_told_with_their_ids() -> None:
    result = judge(genuine(known=other_files(rims=())))
    assert result.tier is Tier.CONTRAINDICATED
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    said = sentence(result, "appraisal.gpu.reference")
    assert said.startswith("Reference values are missing: ")
    assert GPU.driver_rim_id in said
    assert GPU.vbios_rim_id in said
    assert outcome(result, "appraisal.gpu.measurements") is ClaimOutcome.NOT_CHECKED


@pytest.mark.parametrize(("present", "absent"), [("driver", "VBIOS"), ("vbios", "driver")])
def test_one_missing_manifest_is_told(present: Any, absent: str) -> None:
    result = judge(genuine(known=other_files(rims=(GPU.rim(present),))))
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    assert f"No reference manifest for {absent}" in sentence(result, "appraisal.gpu.reference")
    assert outcome(result, "appraisal.gpu.measurements") is ClaimOutcome.NOT_CHECKED


ENDED = Life(testing.gpu_root().at, testing.NOW - timedelta(days=1))


def expired() -> DeviceFiles:
    rims = (GPU.driver_rim, GPU.rim("vbios", signer_life=ENDED))
    return other_files(rims=rims)


def test_expired_reference_values_are_told_as_that_and_nothing_else() -> None:
    result = judge(genuine(known=expired()))
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    assert "nvidia.rim.validity" in failed(result)
    said = sentence(result, "appraisal.gpu.reference")
    assert said.startswith("The reference values are expired: ")
    assert "`sealroom collateral refresh`" in said
    assert outcome(result, "appraisal.gpu.measurements") is ClaimOutcome.PASSED


def test_expired_reference_values_still_tell_wrong_firmware() -> None:
    result = judge(genuine(known=expired(), measurements={3: b"x" * 48}))
    assert of_appraisal(result) == ["appraisal.gpu.reference", "appraisal.gpu.measurements"]


def test_reissued_manifest_is_told_with_its_index() -> None:
    rims = (GPU.driver_rim, GPU.rim("vbios", reissued=True))
    result = judge(genuine(known=other_files(rims=rims)))
    assert of_appraisal(result) == ["appraisal.gpu.measurements"]
    said = sentence(result, "appraisal.gpu.measurements")
    assert said.startswith("Only index 9 differs from VBIOS manifest 96.00.9F.00.01")
    assert "fetch it anew" in said


def test_other_firmware_is_told_with_index_and_source() -> None:
    result = judge(genuine(measurements={3: b"x" * 48}))
    assert of_appraisal(result) == ["appraisal.gpu.measurements"]
    assert device(result).vector.executables == 96
    said = sentence(result, "appraisal.gpu.measurements")
    assert "index 3: measured 7878787878787878…" in said
    assert "VBIOS manifest" in said


def test_manifest_of_another_version_does_not_count() -> None:
    rims = (GPU.rim("driver", version="580.95.06"), GPU.vbios_rim)
    result = judge(genuine(known=other_files(rims=rims)))
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    assert "is for another version" in sentence(result, "appraisal.gpu.reference")


def test_manifest_that_somebody_changed_does_not_count() -> None:
    rims = (GPU.driver_rim.replace(b'active="True"', b'active="False"', 1), GPU.vbios_rim)
    result = judge(genuine(known=other_files(rims=rims)))
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    assert "nvidia.rim.signature" in failed(result)
    assert sentence(result, "appraisal.gpu.reference").startswith("The reference values do not count: ")


def test_manifest_that_is_none_does_not_count() -> None:
    result = judge(genuine(known=other_files(rims=(b"<x/>", GPU.vbios_rim))))
    assert "nvidia.rim.format" in failed(result)
    assert of_appraisal(result) == ["appraisal.gpu.reference"]


def digest_of(gpu: VerifiedGpu, kind: str) -> str:
    return "sha256:" + next(one.sha256 for one in gpu.references if one.kind == kind)


def test_only_manifests_that_the_environment_names_count() -> None:
    gpu = genuine()
    for rims, expected in (
        ([digest_of(gpu, "driver"), digest_of(gpu, "vbios")], []),
        ([GPU.driver_rim_id, GPU.vbios_rim_id], []),
        ([GPU.driver_rim_id, digest_of(gpu, "vbios")], []),
        ([digest_of(gpu, "driver"), "sha256:" + "00" * 32], ["appraisal.gpu.reference"]),
        ([GPU.vbios_rim_id], ["appraisal.gpu.reference"]),
    ):
        assert of_appraisal(judge(gpu, environment=gpus.environment(rims=rims))) == expected


# --- revocation


def test_without_answers_on_revocation_a_strict_policy_refuses() -> None:
    result = judge(genuine(known=other_files(ocsp=())))
    assert of_appraisal(result) == ["appraisal.gpu.revocation"]
    assert device(result).vector.hardware == 96
    assert "Revocation could not be checked" in sentence(result, "appraisal.gpu.revocation")


@pytest.mark.parametrize("part", ["device", "manifests"])
def test_answers_have_to_be_there_for_device_and_manifests(part: str) -> None:
    answers = GPU.rim_ocsp(at=testing.NOW) if part == "device" else GPU.ocsp(at=testing.NOW)
    result = judge(genuine(known=other_files(ocsp=tuple(answers))))
    assert of_appraisal(result) == ["appraisal.gpu.revocation"]


def test_answers_that_are_too_old_do_not_count() -> None:
    old = gpus.files(GPU, testing.NOW - timedelta(days=2))
    assert of_appraisal(judge(genuine(known=old))) == ["appraisal.gpu.revocation"]


def test_revoked_signer_of_manifests_is_refused_whatever_the_policy_says() -> None:
    answers = (*GPU.ocsp(at=testing.NOW), *GPU.rim_ocsp(at=testing.NOW, statuses={1: "revoked"}))
    policy = relaxed('gpu_ocsp = "soft"')
    result = judge(genuine(known=other_files(ocsp=answers)), policy=policy)
    assert result.tier is Tier.CONTRAINDICATED
    assert "appraisal.gpu.revocation" in of_appraisal(result)
    assert "revoked" in sentence(result, "appraisal.gpu.revocation")


# --- the environment


@pytest.mark.parametrize(
    ("section", "check", "said"),
    [
        ({"architectures": ["BLACKWELL"]}, "architecture", "another kind of GPU"),
        ({"modes": ["MPT"]}, "mode", "It says SPT; allowed is MPT."),
        (
            {"drivers": ["580.95.06"]},
            "driver",
            "The GPU driver is 580.95.05; the environment names 580.95.06.",
        ),
        ({"vbios": ["96.00.9F.00.02"]}, "vbios", "the environment names 96.00.9F.00.02"),
    ],
    ids=str,
)
def test_gpu_that_the_environment_does_not_name(section: dict[str, Any], check: str, said: str) -> None:
    result = judge(genuine(), environment=gpus.environment(**section))
    assert of_appraisal(result) == [f"appraisal.gpu.{check}"]
    assert said in sentence(result, f"appraisal.gpu.{check}")
    assert result.tier is Tier.CONTRAINDICATED


def test_any_vbios_is_accepted_only_where_the_environment_says_so() -> None:
    result = judge(genuine(), environment=gpus.environment(vbios=["any"]))
    assert result.tier is Tier.AFFIRMING
    assert "accepts every signed one" in sentence(result, "appraisal.gpu.vbios")


def test_gpu_without_a_section_in_the_environment_is_refused() -> None:
    expected = gpus.environment()
    values = dataclasses.replace(gpus.values(expected, genuine=True), gpu=None)
    result = appraise(gpus.evidence([genuine()], expected, genuine=True), environment=values, policy=STRICT)
    checks = ["appraisal.gpu.architecture", "appraisal.gpu.driver", "appraisal.gpu.vbios"]
    assert of_appraisal(result) == checks
    assert result.tier is Tier.CONTRAINDICATED


def test_missing_gpu_has_a_result_of_its_own() -> None:
    result = judge()
    assert device(result, "cpu0").tier is Tier.AFFIRMING
    assert device(result).tier is Tier.CONTRAINDICATED
    assert failed(result) == ["appraisal.gpu.count"]
    assert sentence(result, "appraisal.gpu.count") == (
        "The environment names 1 GPU, and the server has shown none."
    )
    assert [claim.check for claim in device(result).claims] == list(DEVICE_CHECKS)
    assert device(result).vector.status is Status.CONTRAINDICATED
    assert result.tier is Tier.CONTRAINDICATED


def test_missing_gpu_of_a_simulated_server_is_contraindicated_and_not_simulated() -> None:
    assert judge(genuine=False).tier is Tier.CONTRAINDICATED


@pytest.mark.parametrize("wanted", [2, 8])
def test_too_few_gpus(wanted: int) -> None:
    result = judge(genuine(), environment=gpus.environment(wanted))
    assert failed(result) == ["appraisal.gpu.count"]
    assert f"names {wanted} GPUs, and 1 GPU proved" in sentence(result, "appraisal.gpu.count")


def test_too_many_gpus() -> None:
    result = judge(genuine(), genuine(testing.gpu(seed=b"2" * 32)))
    assert failed(result) == failed(result, "gpu1") == ["appraisal.gpu.count"]


def test_gpu_that_nobody_expects_is_judged_and_shown() -> None:
    expected = gpus.environment(0)
    result = judge(genuine(measurements={3: b"x" * 48}), environment=expected)
    assert of_appraisal(result) == ["appraisal.gpu.count", "appraisal.gpu.measurements"]
    assert "names no GPU, and 1 GPU proved" in sentence(result, "appraisal.gpu.count")
    assert result.tier is Tier.CONTRAINDICATED


def test_environment_without_gpus_and_a_server_without_one() -> None:
    result = judge(environment=gpus.environment(0))
    assert [one.device for one in result.devices] == ["cpu0"]
    assert result.tier is Tier.AFFIRMING


def test_shapes_of_one_measurement_accept_each_of_their_numbers() -> None:
    expected = gpus.environment()
    values = gpus.values(expected, genuine=True)
    measurement = expected.shape().measurement_bytes[0]
    values = dataclasses.replace(values, gpu_counts={measurement: frozenset({0, 1})})
    for devices in ([], [genuine()]):
        evidence = gpus.evidence(devices, expected, genuine=True)
        assert appraise(evidence, environment=values, policy=STRICT).tier is Tier.AFFIRMING


def test_without_an_expectation_a_gpu_is_at_best_a_warning() -> None:
    evidence = gpus.evidence([genuine()], genuine=True)
    result = appraise(evidence, environment=NO_EXPECTATION, policy=STRICT)
    assert device(result).failures == ()
    assert device(result).tier is Tier.WARNING
    assert "not checked, because no environment was named" in sentence(result, "appraisal.gpu.driver")


def test_no_environment_fails_closed() -> None:
    evidence = gpus.evidence([genuine()], genuine=True)
    result = appraise(evidence, environment=None, policy=STRICT)
    assert failed(result) == ["appraisal.gpu.count"]
    assert result.tier is Tier.CONTRAINDICATED


# --- the policy


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ('gpu_architectures = ["BLACKWELL"]', "architecture"),
        ('gpu_modes = ["MPT", "PPCIE"]', "mode"),
        ('minimum_gpu_driver = "590"', "driver"),
        ('minimum_gpu_driver = "580.95.6"', "driver"),
    ],
)
def test_demand_of_the_policy_refuses(line: str, check: str) -> None:
    assert of_appraisal(judge(genuine(), policy=relaxed(line))) == [f"appraisal.gpu.{check}"]


@pytest.mark.parametrize("minimum", ["", "580", "580.95", "580.95.05", "535.999.999.999"])
def test_driver_that_is_new_enough(minimum: str) -> None:
    policy = relaxed(f'minimum_gpu_driver = "{minimum}"')
    assert judge(genuine(), policy=policy).tier is Tier.AFFIRMING


def test_mode_that_an_old_driver_does_not_name() -> None:
    old = testing.gpu(driver_version="550.90.07")
    assert genuine(old).device.report.feature is None
    named: dict[str, Any] = {"drivers": ["550.90.07"]}
    assert judge(genuine(old), environment=gpus.environment(**named)).tier is Tier.AFFIRMING
    result = judge(genuine(old), environment=gpus.environment(**named, modes=["SPT"]))
    assert of_appraisal(result) == ["appraisal.gpu.mode"]
    assert "too old to name its mode" in sentence(result, "appraisal.gpu.mode")


def test_mode_that_is_not_known() -> None:
    result = judge(genuine(opaque={36: b"\7\0"}))
    assert of_appraisal(result) == ["appraisal.gpu.mode"]
    assert "not known here" in sentence(result, "appraisal.gpu.mode")


def test_unchecked_revocation_is_accepted_by_name_and_shown() -> None:
    policy = relaxed('gpu_ocsp = "soft"')
    result = judge(genuine(known=other_files(ocsp=())), policy=policy)
    assert result.tier is Tier.AFFIRMING
    assert result.policy.relaxations == ("gpu_ocsp",)
    assert device(result).vector.configuration == 3
    assert outcome(result, "appraisal.gpu.revocation") is ClaimOutcome.NOT_CHECKED
    assert "which the policy accepts" in sentence(result, "appraisal.gpu.revocation")


def test_missing_reference_values_are_accepted_by_name_and_only_a_warning() -> None:
    policy = relaxed("allow_missing_rim = true")
    for rims in ((), (GPU.driver_rim,)):
        result = judge(genuine(known=other_files(rims=rims)), policy=policy)
        assert result.failures == ()
        assert device(result).tier is Tier.WARNING
        assert device(result).vector.executables == 33
        assert "The policy accepts this" in sentence(result, "appraisal.gpu.reference")


def test_missing_reference_values_do_not_excuse_wrong_ones() -> None:
    known = other_files(rims=(GPU.vbios_rim,))
    result = judge(
        genuine(known=known, measurements={3: b"x" * 48}), policy=relaxed("allow_missing_rim = true")
    )
    assert of_appraisal(result) == ["appraisal.gpu.measurements"]


def test_expired_reference_values_are_accepted_by_name_and_only_a_warning() -> None:
    result = judge(genuine(known=expired()), policy=relaxed("allow_expired_rim = true"))
    assert result.failures == ()
    assert device(result).tier is Tier.WARNING
    assert device(result).vector.configuration == 32
    assert "The policy accepts this" in sentence(result, "appraisal.gpu.reference")
    assert "the policy accepts this" in sentence(result, "nvidia.rim.validity")


def test_relaxation_that_is_not_needed_changes_nothing() -> None:
    policy = relaxed("allow_expired_rim = true", "allow_missing_rim = true")
    assert judge(genuine(), policy=policy).tier is Tier.AFFIRMING


@pytest.mark.parametrize(
    "relaxation", ["allow_missing_rim = true", "allow_expired_rim = true", 'gpu_ocsp = "off"']
)
def test_no_relaxation_accepts_wrong_firmware(relaxation: str) -> None:
    result = judge(genuine(measurements={3: b"x" * 48}), policy=relaxed(relaxation))
    assert "appraisal.gpu.measurements" in of_appraisal(result)


# --- devices that belong together


def protected_pcie(gpu_count: int = 2, *, linked: bool = True, **changes: Any) -> Sequence[VerifiedGpu]:
    """GPUs in protected PCIe mode and the switch between them."""
    switch = testing.gpu("LS10", seed=b"s" * 32)
    neighbour = switch if linked else testing.gpu("LS10", seed=b"t" * 32)
    chips = [
        testing.gpu(feature="PPCIE", switches=[neighbour], seed=bytes([number]) * 32, **changes)
        for number in range(1, gpu_count + 1)
    ]
    return [*map(genuine, chips), genuine(testing.gpu("LS10", seed=b"s" * 32, gpus=chips))]


def test_same_chip_twice_is_told() -> None:
    result = judge(genuine(), genuine(), environment=gpus.environment(2))
    assert of_appraisal(result) == ["appraisal.gpu.fleet"]
    assert "stands in the evidence twice" in sentence(result, "appraisal.gpu.fleet")
    assert device(result).vector.instance_identity == 96


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"feature": "MPT"}, "different modes: MPT, SPT"),
        ({"driver_version": "580.95.06"}, "different drivers: 580.95.05, 580.95.06"),
    ],
)
def test_gpus_that_differ_are_told(other: dict[str, Any], said: str) -> None:
    environment = gpus.environment(2, drivers=[DRIVER, "580.95.06"])
    result = judge(genuine(), genuine(testing.gpu(seed=b"o" * 32, **other)), environment=environment)
    assert of_appraisal(result) == of_appraisal(result, "gpu1") == ["appraisal.gpu.fleet"]
    assert said in sentence(result, "appraisal.gpu.fleet")


def test_gpus_of_two_architectures_are_told() -> None:
    blackwell = testing.gpu("BLACKWELL")
    environment = gpus.environment(
        2, architectures=["HOPPER", "BLACKWELL"], vbios=[VBIOS, blackwell.vbios_version]
    )
    result = judge(genuine(), genuine(blackwell), environment=environment)
    assert "different architectures: BLACKWELL, HOPPER" in sentence(result, "appraisal.gpu.fleet")


def test_protected_pcie_without_its_switch_is_told() -> None:
    result = judge(*protected_pcie()[:2], environment=gpus.environment(2))
    assert of_appraisal(result) == ["appraisal.gpu.fleet"]
    assert "no switch between them" in sentence(result, "appraisal.gpu.fleet")


def test_link_to_another_switch_is_told() -> None:
    result = judge(*protected_pcie(linked=False), environment=gpus.environment(2))
    assert of_appraisal(result) == ["appraisal.gpu.fleet"]
    assert "linked to a switch that has not proven itself" in sentence(result, "appraisal.gpu.fleet")


def test_switch_beside_gpus_that_need_none_is_told() -> None:
    result = judge(genuine(), genuine(testing.gpu("LS10")))
    assert of_appraisal(result) == ["appraisal.gpu.fleet"]


def test_switch_that_the_environment_does_not_name() -> None:
    environment = gpus.environment(2, switch_vbios=[])
    result = judge(*protected_pcie(), environment=environment)
    assert of_appraisal(result, "gpu0") == []
    assert of_appraisal(result, "switch0") == ["appraisal.gpu.architecture", "appraisal.gpu.vbios"]
    assert result.tier is Tier.CONTRAINDICATED


def test_switch_alone_is_no_gpu() -> None:
    result = judge(genuine(testing.gpu("LS10")))
    assert [one.device for one in result.devices] == ["cpu0", "gpu0", "switch0"]
    assert failed(result) == ["appraisal.gpu.count"]


# --- roots


def test_simulated_gpu_beside_a_real_processor_spoils_everything() -> None:
    evidence = gpus.evidence([gpus.verified()], genuine=True)
    result = appraise(evidence, environment=gpus.values(ENVIRONMENT, genuine=True), policy=STRICT)
    assert result.simulated
    assert {one.tier for one in result.devices} == {Tier.CONTRAINDICATED}
    assert failed(result, "cpu0") == ["appraisal.root"]
    assert failed(result) == ["appraisal.gpu.root"]
    assert "side by side" in sentence(result, "appraisal.gpu.root")


def test_real_gpu_beside_a_simulated_processor_spoils_everything() -> None:
    evidence = gpus.evidence([genuine()])
    result = appraise(evidence, environment=ENVIRONMENT, policy=STRICT)
    assert result.simulated
    assert {one.tier for one in result.devices} == {Tier.CONTRAINDICATED}
    assert failed(result, "cpu0") == ["appraisal.root"]


def test_one_simulated_gpu_among_real_ones_spoils_everything() -> None:
    environment = gpus.environment(2)
    evidence = gpus.evidence(
        [genuine(), gpus.verified(testing.gpu(seed=b"3" * 32))], environment, genuine=True
    )
    result = appraise(evidence, environment=gpus.values(environment, genuine=True), policy=STRICT)
    assert {one.tier for one in result.devices} == {Tier.CONTRAINDICATED}


# --- binding


def test_gpu_that_answers_another_nonce_is_no_evidence() -> None:
    verified = genuine()
    with pytest.raises(FreshnessError) as caught:
        dataclasses.replace(verified, expected_nonce=b"h" * 32)
    assert caught.value.check == "appraisal.gpu.nonce"


def test_nonce_of_another_length_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError):
        dataclasses.replace(genuine(), expected_nonce=NONCE[:31])


def test_gpus_that_answer_different_nonces_are_no_evidence() -> None:
    other = genuine(testing.gpu(seed=b"4" * 32), nonce=b"h" * 32)
    with pytest.raises(BindingError) as caught:
        gpus.evidence([genuine(), other], gpus.environment(2), genuine=True)
    assert caught.value.check == "appraisal.gpu.nonce"


def test_devices_verified_as_of_another_time_are_the_callers_mistake() -> None:
    later = testing.NOW + timedelta(seconds=1)
    with pytest.raises(TypeError, match="one time"):
        gpus.evidence([genuine(at=later)], genuine=True)


def test_device_that_was_only_verified_is_no_evidence() -> None:
    cpu = gpus.evidence(genuine=True)
    device_only = verify_device(
        GPU.report(NONCE), GPU.chain_der, roots=gpus.roots(), at=testing.NOW, nonce=NONCE
    )
    with pytest.raises(TypeError):
        VerifiedEvidence(cpu.cpu, cpu.report_data, (device_only,))  # type: ignore[arg-type]


def test_device_that_nothing_was_compared_with_affirms_nothing() -> None:
    bare = dataclasses.replace(genuine(), comparison=(), references=())
    result = judge(bare)
    assert of_appraisal(result) == ["appraisal.gpu.reference"]
    assert "nothing was compared" in sentence(result, "appraisal.gpu.reference").lower()
