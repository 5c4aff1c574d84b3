# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sealroom import testing
from sealroom.appraisal import (
    CHECKS,
    NO_EXPECTATION,
    AttestationResult,
    ClaimOutcome,
    Policy,
    ReferenceValues,
    Status,
    Tier,
    VerifiedEvidence,
    appraise,
)
from sealroom.appraisal.checks import DEVICE_CHECKS
from sealroom.environments import build
from sealroom.errors import BindingError
from sealroom.simulated.reports import DEFAULT_TCB
from sealroom.snp import CHECKS as SNP_CHECKS
from sealroom.snp import ProductLine, Report, Roots, TcbVersion, VerifiedReport, verify_report

ENVIRONMENT = testing.environment()


def relaxed(*lines: str) -> Policy:
    head = 'format = "sealroom-policy/1"\nname = "relaxed"\nversion = "1"\n'
    return Policy.from_toml((head + "\n".join(lines) + "\n").encode())


def judge(
    policy: Policy | None = None, /, *, on: testing.Chip | None = None, **changes: Any
) -> AttestationResult:
    evidence = testing.verified_evidence(b"n" * 64, ENVIRONMENT, on=on, **changes)
    return appraise(evidence, environment=ENVIRONMENT, policy=policy or Policy.strict())


def failed(result: AttestationResult) -> list[str]:
    return [claim.check for claim in result.failures]


def sentence(result: AttestationResult, check: str) -> str:
    return next(claim.sentence for claim in result.devices[0].claims if claim.check == check)


@pytest.fixture
def real(vectors: Path) -> tuple[VerifiedEvidence, ReferenceValues]:
    """A report of real hardware with the reference values that it meets."""
    folder = vectors / "snp/ms-tee"
    verified = verify_report(
        (folder / "genoa_report.bin").read_bytes(),
        (folder / "genoa_vcek.der").read_bytes(),
        roots=Roots.amd(),
        at=testing.NOW,
    )
    report = verified.report
    values = ReferenceValues(
        name="real",
        version="1",
        title="Real",
        digest="sha256:" + "0" * 64,
        tee="snp",
        measurements=frozenset({report.measurement}),
        host_data=report.host_data,
        guest_policy=int(report.policy),
        minimum_tcb={ProductLine.GENOA: report.launch_tcb},
    )
    return VerifiedEvidence(verified, report.report_data), values


# --- real hardware


def test_real_hardware_in_its_environment_is_affirming(
    real: tuple[VerifiedEvidence, ReferenceValues],
) -> None:
    result = appraise(real[0], environment=real[1], policy=Policy.strict())
    assert failed(result) == []
    assert result.tier is Tier.AFFIRMING
    assert not result.simulated
    device = result.devices[0]
    assert device.status is Status.AFFIRMING
    assert device.vector.as_claims() == {
        "instance-identity": 0,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 2,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    assert sentence(result, "appraisal.root") == "A real AMD processor made this report."


@pytest.mark.parametrize(
    ("change", "check", "claim"),
    [
        ({"measurements": frozenset({bytes(48)})}, "appraisal.measurement", "executables"),
        ({"measurements": frozenset()}, "appraisal.measurement", "executables"),
        ({"host_data": b"x" * 32}, "appraisal.host_data", "configuration"),
        ({"guest_policy": 0x30000 | 1 << 20}, "appraisal.guest_policy", "configuration"),
        ({"tee": "simulated"}, "appraisal.tee", "hardware"),
        ({"minimum_tcb": {}}, "appraisal.minimum_tcb", "hardware"),
    ],
    ids=["measurement", "no-measurement", "host_data", "guest_policy", "tee", "no-minimum-for-this-line"],
)
def test_real_hardware_outside_of_its_environment_is_contraindicated(
    real: tuple[VerifiedEvidence, ReferenceValues], change: dict[str, object], check: str, claim: str
) -> None:
    values = dataclasses.replace(real[1], **change)  # type: ignore[arg-type]
    result = appraise(real[0], environment=values, policy=Policy.strict())
    assert failed(result) == [check]
    assert result.tier is Tier.CONTRAINDICATED
    assert result.devices[0].vector.as_claims()[claim] == 96
    assert result.devices[0].vector.status is Status.CONTRAINDICATED


def test_without_an_expectation_real_hardware_is_at_best_a_warning(
    real: tuple[VerifiedEvidence, ReferenceValues],
) -> None:
    result = appraise(real[0], environment=NO_EXPECTATION, policy=Policy.strict())
    assert result.tier is Tier.WARNING
    assert result.environment is None
    assert result.devices[0].vector.executables == 33
    assert "not checked, because no environment was named" in sentence(result, "appraisal.measurement")


def test_no_environment_fails_closed(real: tuple[VerifiedEvidence, ReferenceValues]) -> None:
    result = appraise(real[0], environment=None, policy=Policy.strict())
    assert result.tier is Tier.CONTRAINDICATED
    assert failed(result) == ["appraisal.environment"]


def test_no_tier_is_better_than_its_vector(real: tuple[VerifiedEvidence, ReferenceValues]) -> None:
    order = [Status.AFFIRMING, Status.WARNING, Status.NONE, Status.CONTRAINDICATED]
    for environment in (real[1], NO_EXPECTATION, None):
        for device in appraise(real[0], environment=environment, policy=Policy.strict()).devices:
            assert order.index(device.status) >= order.index(device.vector.status)


# --- simulated processors


def test_simulated_processor_in_its_environment_is_simulated_and_never_affirming() -> None:
    result = judge()
    assert failed(result) == []
    assert result.tier is Tier.SIMULATED
    assert result.simulated
    device = result.devices[0]
    assert device.status is Status.CONTRAINDICATED
    assert device.vector.hardware == 97
    assert device.vector.runtime_opaque == 96
    assert "simulated" in sentence(result, "appraisal.root")


@pytest.mark.parametrize("line", list(ProductLine))
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
def test_simulated_processor_of_every_line(line: ProductLine, kind: str) -> None:
    chip = testing.chip(line, kind="VCEK" if kind == "VCEK" else "VLEK")
    assert judge(on=chip).tier is Tier.SIMULATED


def test_no_relaxation_makes_a_simulated_processor_affirming() -> None:
    everything = relaxed(
        "allow_debug_policy = true",
        "allow_migration = true",
        "allow_cxl = true",
        "allow_provisional_firmware = true",
        "allow_masked_chip_id = true",
        "allow_host_requested_report = true",
        "allowed_vmpl = [0, 1, 2, 3]",
    )
    assert judge(everything).tier is Tier.SIMULATED


def test_simulated_processor_does_not_pass_for_hardware() -> None:
    values = dataclasses.replace(ENVIRONMENT.reference_values, tee="snp")
    result = appraise(
        testing.verified_evidence(bytes(64), ENVIRONMENT), environment=values, policy=Policy.strict()
    )
    assert failed(result) == ["appraisal.tee"]
    assert result.tier is Tier.CONTRAINDICATED


def test_what_a_simulated_report_says_is_marked_in_every_sentence() -> None:
    for claim in judge().devices[0].claims:
        if claim.check.startswith("appraisal.") and claim.outcome is ClaimOutcome.PASSED:
            assert claim.sentence.startswith("Simulated: ")


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"measurement": b"x" * 48}, ["appraisal.measurement"]),
        ({"host_data": b"x" * 32}, ["appraisal.host_data"]),
        ({"policy": 0x30000 | 1 << 19}, ["appraisal.guest_policy", "appraisal.debug"]),
        ({"policy": 0x30000 | 1 << 18}, ["appraisal.guest_policy", "appraisal.migration"]),
        ({"policy": 0x30000 | 1 << 21}, ["appraisal.guest_policy", "appraisal.cxl"]),
        ({"policy": 0x20000}, ["appraisal.guest_policy"]),
        ({"vmpl": 1}, ["appraisal.vmpl"]),
        ({"vmpl": 0xFFFFFFFF}, ["appraisal.requester"]),
        ({"committed_version": (1, 55, 39)}, ["appraisal.provisional_firmware"]),
        ({"chip_id": bytes(64)}, ["appraisal.chip_id"]),
    ],
    ids=str,
)
def test_one_thing_wrong_is_refused_for_that_thing(change: dict[str, Any], check: list[str]) -> None:
    result = judge(**change)
    assert failed(result) == check
    assert result.tier is Tier.CONTRAINDICATED


def test_all_mismatches_are_collected() -> None:
    result = judge(measurement=b"x" * 48, host_data=b"x" * 32, vmpl=2)
    assert failed(result) == ["appraisal.measurement", "appraisal.host_data", "appraisal.vmpl"]


# --- firmware


def old(**component: int) -> TcbVersion:
    return dataclasses.replace(DEFAULT_TCB[ProductLine.GENOA], **component)


@pytest.mark.parametrize("component", ["bootloader", "snp", "microcode"])
def test_firmware_below_the_environments_minimum_is_refused(component: str) -> None:
    level = DEFAULT_TCB[ProductLine.GENOA].components()[component] - 1
    result = judge(on=testing.chip(tcb=old(**{component: level})))
    assert failed(result) == ["appraisal.minimum_tcb"]
    assert f"Too old: {component}." in sentence(result, "appraisal.minimum_tcb")


def test_firmware_that_was_old_at_launch_is_refused() -> None:
    launch = old(snp=22).to_bytes()
    assert failed(judge(launch_tcb=launch)) == ["appraisal.minimum_tcb"]


def test_newer_firmware_is_accepted() -> None:
    assert judge(on=testing.chip(tcb=old(microcode=99))).tier is Tier.SIMULATED


def test_policys_minimum_applies_besides_the_environments() -> None:
    policy = relaxed("[minimum_tcb.Genoa]", "bootloader = 10", "tee = 0", "snp = 24", "microcode = 84")
    assert failed(judge(policy)) == ["appraisal.minimum_tcb"]


def test_turins_fmc_counts() -> None:
    tcb = dataclasses.replace(DEFAULT_TCB[ProductLine.TURIN], fmc=0)
    result = judge(on=testing.chip(ProductLine.TURIN, tcb=tcb))
    assert "Too old: fmc." in sentence(result, "appraisal.minimum_tcb")


# --- the policy's demands


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ('product_lines = ["Milan"]', "appraisal.product_line"),
        ('signers = ["VLEK"]', "appraisal.signer"),
        ("minimum_guest_svn = 1", "appraisal.guest_svn"),
        ("require_rapl_disabled = true", "appraisal.rapl"),
        ("require_ciphertext_hiding = true", "appraisal.ciphertext_hiding"),
        ("require_smt_disabled = true", "appraisal.smt"),
        ("allowed_vmpl = [1]", "appraisal.vmpl"),
    ],
)
def test_demand_of_the_policy_refuses(line: str, check: str) -> None:
    assert failed(judge(relaxed(line))) == [check]


def test_report_of_an_old_version_is_refused_where_the_policy_says_so() -> None:
    on = testing.chip()
    values = {"measurement": ENVIRONMENT.shape().measurement_bytes[0], "host_data": ENVIRONMENT.host_data}
    verified = verify_report(
        on.report(3, **values),
        on.vek,
        roots=testing.development_roots(),
        at=testing.NOW,
        intermediates=on.intermediates,
    )
    evidence = VerifiedEvidence(verified, bytes(64))
    policy = relaxed("minimum_report_version = 4")
    assert failed(appraise(evidence, environment=ENVIRONMENT, policy=policy)) == ["appraisal.report_version"]


def test_alias_check_is_demanded_where_the_policy_says_so() -> None:
    policy = relaxed("require_alias_check = true")
    assert judge(policy).tier is Tier.SIMULATED
    assert failed(judge(policy, platform_info=0x05)) == ["appraisal.alias_check"]


def test_power_readings_have_to_be_off_on_both_sides() -> None:
    policy = relaxed("require_rapl_disabled = true")
    environment = testing.environment()
    template = environment.raw.replace(b"guest_policy = 196608", b"guest_policy = %d" % (0x30000 | 1 << 23))
    demanding = build(template)
    for platform, expected in ((0x2D, []), (0x25, ["appraisal.rapl"])):
        evidence = testing.verified_evidence(bytes(64), demanding, platform_info=platform)
        assert failed(appraise(evidence, environment=demanding, policy=policy)) == expected
    assert failed(judge(policy, platform_info=0x2D)) == ["appraisal.rapl"]


# --- relaxations are shown


def test_used_relaxation_is_said_in_its_claim_and_in_the_result() -> None:
    result = judge(relaxed("allowed_vmpl = [0, 1]"), vmpl=1)
    assert result.tier is Tier.SIMULATED
    assert result.policy.relaxations == ("allowed_vmpl",)
    assert "The policy accepts this" in sentence(result, "appraisal.vmpl")


def test_grave_relaxation_makes_real_hardware_a_warning(vectors: Path) -> None:
    folder = vectors / "snp/go-sev-guest"
    verified = verify_report(
        (folder / "milan_v2_debug_report.bin").read_bytes(),
        (folder / "milan_v2_debug_vcek.der").read_bytes(),
        roots=Roots.amd(),
        at=testing.NOW,
    )
    report = verified.report
    values = ReferenceValues(
        "debug",
        "1",
        "Debug",
        "sha256:" + "0" * 64,
        "snp",
        frozenset({report.measurement}),
        report.host_data,
        int(report.policy),
        {ProductLine.MILAN: TcbVersion(bootloader=0, tee=0, snp=0, microcode=0)},
    )
    evidence = VerifiedEvidence(verified, report.report_data)
    result = appraise(evidence, environment=values, policy=relaxed("allow_debug_policy = true"))
    assert failed(result) == []
    assert result.tier is Tier.WARNING
    assert result.devices[0].vector.configuration == 32
    assert result.devices[0].vector.runtime_opaque == 32


# --- form


def test_every_claim_has_a_known_check_and_a_sentence() -> None:
    for result in (judge(), judge(measurement=bytes(48), vmpl=0xFFFFFFFF)):
        for claim in result.devices[0].claims:
            assert claim.check in SNP_CHECKS or claim.check in CHECKS
            assert claim.sentence.endswith((".", "…", ").")), claim
            assert claim.sentence[0].isupper()


@pytest.mark.parametrize(
    "environment", [ENVIRONMENT, NO_EXPECTATION, None], ids=["known", "none-named", "none"]
)
def test_every_check_of_the_appraisal_is_accounted_for_once(environment: object) -> None:
    evidence = testing.verified_evidence(bytes(64), ENVIRONMENT)
    result = appraise(evidence, environment=environment, policy=Policy.strict())  # type: ignore[arg-type]
    ids = [claim.check for claim in result.devices[0].claims]
    of_the_processor = [check for check in CHECKS if check not in DEVICE_CHECKS]
    assert [item for item in ids if item.startswith("appraisal.")] == of_the_processor
    assert len(set(ids)) == len(ids)


def test_result_names_environment_policy_and_time() -> None:
    result = judge()
    assert result.environment is not None
    assert result.environment.digest == ENVIRONMENT.digest
    assert result.policy.digest == Policy.strict().digest
    assert result.at == testing.NOW


# --- evidence


def test_report_that_covers_other_data_is_no_evidence() -> None:
    verified = testing.verified_evidence(b"n" * 64).cpu
    with pytest.raises(BindingError) as caught:
        VerifiedEvidence(verified, b"m" * 64)
    assert caught.value.check == "snp.expected.report_data"


@pytest.mark.parametrize("size", [0, 63])
def test_report_data_is_compared_whole(size: int) -> None:
    with pytest.raises(BindingError):
        VerifiedEvidence(testing.verified_evidence(bytes(64)).cpu, bytes(size))


def test_report_that_was_only_parsed_is_no_evidence() -> None:
    with pytest.raises(TypeError):
        VerifiedEvidence(Report.from_bytes(testing.chip().report()), bytes(64))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        VerifiedReport(*(None for _ in range(7)))  # type: ignore[arg-type]
