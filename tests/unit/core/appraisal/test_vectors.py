# SPDX-License-Identifier: BSD-3-Clause
"""Every case marked `policy` or `accept` in the shared vectors, under the strict policy and a relaxed one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from sealroom.appraisal import NO_EXPECTATION, AttestationResult, Policy, Tier, VerifiedEvidence, appraise
from sealroom.snp import Roots, verify_report
from support.vectors import REAL_NOW, SIMULATED_NOW, cases

SIMULATED = {
    "ok_maskchip": ("appraisal.chip_id", "allow_masked_chip_id = true"),
    "pol_debug": ("appraisal.debug", "allow_debug_policy = true"),
    "pol_migrate": ("appraisal.migration", "allow_migration = true"),
    "pol_cxl": ("appraisal.cxl", "allow_cxl = true"),
    "vmpl_1": ("appraisal.vmpl", "allowed_vmpl = [0, 1]"),
    "vmpl_ffffffff": ("appraisal.requester", "allow_host_requested_report = true"),
    "committed_lt_current": ("appraisal.provisional_firmware", "allow_provisional_firmware = true"),
}
"""Case -> the check that refuses it, and the one relaxation under which it is accepted."""
REAL = {
    "milan-v2-debug": SIMULATED["pol_debug"],
    "milan-v2-debug-newcert": SIMULATED["pol_debug"],
    "milan-v2-provisional-a": SIMULATED["committed_lt_current"],
    "milan-vlek-eu-v3": SIMULATED["committed_lt_current"],
    "genoa-v2": SIMULATED["vmpl_1"],
}


def relaxed(line: str) -> Policy:
    return Policy.from_toml(
        f'format = "sealroom-policy/1"\nname = "relaxed"\nversion = "1"\n{line}\n'.encode()
    )


def judge(report: bytes, vek: bytes, roots: Roots, at: datetime, policy: Policy) -> AttestationResult:
    verified = verify_report(report, vek, roots=roots, at=at)
    evidence = VerifiedEvidence(verified, verified.report.report_data)
    return appraise(evidence, environment=NO_EXPECTATION, policy=policy)


def of_kind(table: str, name: str, kind: str) -> Sequence[object]:
    return [
        case
        for case in cases(table, name)
        if not case.values[0]
        or (case.values[0]["expected"] == kind and case.values[0]["report"].endswith(".bin"))
    ]


def simulated(vectors: Path, row: dict[str, str], policy: Policy) -> AttestationResult:
    folder = vectors / "snp/simulated"
    kind = "asvk" if row["vlek"] == "1" else "ask"
    roots = Roots.development((folder / f"{row['line']}_{kind}_ark.pem").read_bytes())
    report, vek = ((folder / row[column]).read_bytes() for column in ("report", "vek"))
    return judge(report, vek, roots, SIMULATED_NOW, policy)


def real(vectors: Path, row: dict[str, str], policy: Policy) -> AttestationResult:
    report, vek = ((vectors / "snp" / row[column]).read_bytes() for column in ("report", "vek"))
    return judge(report, vek, Roots.amd(), REAL_NOW[row["now"]], policy)


def failed(result: AttestationResult) -> list[str]:
    return [claim.check for claim in result.failures]


@pytest.mark.parametrize("row", of_kind("snp/simulated/CASES.tsv", "{line}-{case}", "policy"))
def test_simulated_policy_case(vectors: Path, row: dict[str, str]) -> None:
    check, relaxation = SIMULATED[row["case"]]
    strict = simulated(vectors, row, Policy.strict())
    assert strict.tier is Tier.CONTRAINDICATED
    assert failed(strict) == [check]
    accepted = simulated(vectors, row, relaxed(relaxation))
    assert accepted.tier is Tier.SIMULATED
    assert accepted.policy.relaxations == (relaxation.split(" ")[0],)


@pytest.mark.parametrize("row", of_kind("snp/simulated/CASES.tsv", "{line}-{case}", "accept"))
def test_simulated_accepted_case_passes_the_strict_policy(vectors: Path, row: dict[str, str]) -> None:
    assert simulated(vectors, row, Policy.strict()).tier is Tier.SIMULATED


@pytest.mark.parametrize("row", of_kind("snp/CASES.tsv", "{id}", "policy"))
def test_real_policy_case(vectors: Path, row: dict[str, str]) -> None:
    check, relaxation = REAL[row["id"]]
    strict = real(vectors, row, Policy.strict())
    assert strict.tier is Tier.CONTRAINDICATED
    assert failed(strict) == [check]
    accepted = real(vectors, row, relaxed(relaxation))
    assert accepted.tier is Tier.WARNING
    assert accepted.policy.relaxations == (relaxation.split(" ")[0],)


@pytest.mark.parametrize("row", of_kind("snp/CASES.tsv", "{id}", "accept"))
def test_real_accepted_case_passes_the_strict_policy(vectors: Path, row: dict[str, str]) -> None:
    result = real(vectors, row, Policy.strict())
    assert failed(result) == []
    # Nobody said what should run there, so it is not affirming.
    assert result.tier is Tier.WARNING


@pytest.mark.parametrize("relaxation", sorted({line for _, line in SIMULATED.values()}))
@pytest.mark.parametrize("row", of_kind("snp/simulated/CASES.tsv", "{line}-{case}", "policy"))
def test_another_relaxation_does_not_help(vectors: Path, row: dict[str, str], relaxation: str) -> None:
    check, own = SIMULATED[row["case"]]
    if relaxation != own:
        assert failed(simulated(vectors, row, relaxed(relaxation))) == [check]
