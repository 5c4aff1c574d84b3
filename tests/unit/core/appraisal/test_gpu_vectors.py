# SPDX-License-Identifier: BSD-3-Clause
"""Reports of real GPUs beside a report of a real processor, with NVIDIA's own reference manifests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealroom.appraisal import (
    AttestationResult,
    DeviceFiles,
    GpuReferences,
    Policy,
    ReferenceValues,
    Tier,
    VerifiedEvidence,
    appraise,
    verified_gpu,
)
from sealroom.nvidia import NvidiaRoots, load_chain, verify_device
from sealroom.snp import Roots, verify_report

FULL = datetime(2025, 6, 1, tzinfo=UTC)
"""When the signers of both manifests of driver 550.90.07 were valid."""
LATER = datetime(2026, 4, 1, tzinfo=UTC)
"""When the VBIOS manifest's signer had ended."""
DRIVER_RIM, VBIOS_RIM = "rim_driver_550.90.07.xml", "rim_vbios_96009F0001.xml"
OFFLINE = Policy.from_toml(
    b'format = "sealroom-policy/1"\nname = "offline"\nversion = "1"\ngpu_ocsp = "soft"\n'
)
HOPPER = "hopper_550.90.07"


def judge(
    vectors: Path,
    name: str = HOPPER,
    rims: Sequence[str] = (DRIVER_RIM, VBIOS_RIM),
    *,
    at: datetime = FULL,
    policy: Policy = OFFLINE,
    **expected: object,
) -> AttestationResult:
    folder = vectors / "nvidia"
    raw = (folder / f"{name}.report.bin").read_bytes()
    chain = load_chain((folder / f"{name}.chain.pem").read_bytes())
    device = verify_device(raw, chain, roots=NvidiaRoots.nvidia(), at=at)
    files = DeviceFiles(tuple((folder / rim).read_bytes() for rim in rims))
    gpu = verified_gpu(device, nonce=device.report.requester_nonce, files=files)
    cpu = verify_report(
        (vectors / "snp/oak/milan_oc_release_report.bin").read_bytes(),
        (vectors / "snp/oak/milan_oc_release_vcek.der").read_bytes(),
        roots=Roots.amd(),
        at=at,
    )
    report = cpu.report
    references = GpuReferences(
        architectures=frozenset({str(device.architecture)}),
        modes=frozenset({"SPT", "MPT", "PPCIE"}),
        drivers=frozenset({device.report.driver_version}),
        vbios=None,
    )
    values = ReferenceValues(
        name="real",
        version="1",
        title="Real",
        digest="sha256:" + "0" * 64,
        tee="snp",
        measurements=frozenset({report.measurement}),
        host_data=report.host_data,
        guest_policy=int(report.policy),
        minimum_tcb={cpu.line: report.launch_tcb},
        gpu=dataclasses.replace(references, **expected),  # type: ignore[arg-type]
        gpu_counts={report.measurement: frozenset({1})},
    )
    evidence = VerifiedEvidence(cpu, report.report_data, (gpu,))
    return appraise(evidence, environment=values, policy=policy)


def failed(result: AttestationResult) -> list[str]:
    return [claim.check for claim in result.failures if claim.check.startswith("appraisal.")]


def sentence(result: AttestationResult, check: str) -> str:
    return next(claim.sentence for claim in result.devices[1].claims if claim.check == check)


def test_hopper_with_its_manifests_is_affirming(vectors: Path) -> None:
    result = judge(vectors)
    assert result.failures == ()
    assert [device.tier for device in result.devices] == [Tier.AFFIRMING, Tier.AFFIRMING]
    assert "32 of 32 compared values are equal" in sentence(result, "appraisal.gpu.measurements")


def test_under_the_strict_policy_it_lacks_answers_on_revocation(vectors: Path) -> None:
    result = judge(vectors, policy=Policy.strict())
    assert failed(result) == ["appraisal.gpu.revocation"]
    assert result.tier is Tier.CONTRAINDICATED


def test_expired_manifest_is_told_as_that(vectors: Path) -> None:
    result = judge(vectors, at=LATER)
    assert failed(result) == ["appraisal.gpu.reference"]
    said = sentence(result, "appraisal.gpu.reference")
    assert said.startswith("The reference values are expired: ")
    assert "2026-02-22" in said
    assert "32 of 32" in sentence(result, "appraisal.gpu.measurements")


def test_missing_manifest_is_told_as_that(vectors: Path) -> None:
    result = judge(vectors, rims=[DRIVER_RIM])
    assert failed(result) == ["appraisal.gpu.reference"]
    assert "NV_GPU_VBIOS_1010_0200_882_96009F0001" in sentence(result, "appraisal.gpu.reference")


def test_reissued_manifest_is_told_with_its_index(vectors: Path) -> None:
    policy = Policy.from_toml(OFFLINE.raw + b"allow_missing_rim = true\n")
    result = judge(vectors, "hopper_570.124.03", ["rim_vbios_96005E0004.xml"], policy=policy)
    assert failed(result) == ["appraisal.gpu.measurements"]
    said = sentence(result, "appraisal.gpu.measurements")
    assert said.startswith("Only index 9 differs from VBIOS manifest 96.00.5E.00.04")


def test_manifests_of_another_gpu_do_not_count(vectors: Path) -> None:
    result = judge(vectors, "hopper_570.124.03")
    assert failed(result) == ["appraisal.gpu.reference"]
    assert "is for another version" in sentence(result, "appraisal.gpu.reference")


def test_protected_pcie_gpu_without_its_switches_is_told(vectors: Path) -> None:
    result = judge(vectors, "hopper_590.12_0", [])
    assert failed(result) == ["appraisal.gpu.fleet", "appraisal.gpu.reference"]
    assert "no switch between them has proven itself" in sentence(result, "appraisal.gpu.fleet")


@pytest.mark.parametrize("name", ["hopper_535.86.09", "blackwell_575.32"])
def test_gpu_without_manifests_is_contraindicated(vectors: Path, name: str) -> None:
    result = judge(vectors, name, [])
    assert failed(result) == ["appraisal.gpu.reference"]
    assert result.devices[1].tier is Tier.CONTRAINDICATED


def test_old_driver_does_not_name_its_mode(vectors: Path) -> None:
    assert failed(judge(vectors, modes=frozenset({"SPT"}))) == ["appraisal.gpu.mode"]


def test_other_driver_than_the_environments(vectors: Path) -> None:
    assert failed(judge(vectors, drivers=frozenset({"580.95.05"}))) == ["appraisal.gpu.driver"]
