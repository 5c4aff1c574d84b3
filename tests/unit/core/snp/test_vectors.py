# SPDX-License-Identifier: BSD-3-Clause
"""Every recorded case, real and simulated, gets the expected verdict at the stated time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from sealroom.errors import Error
from sealroom.snp import REPORT_CHECKS, Outcome, Report, Roots, verify_crl, verify_report, verify_vek
from support.vectors import REAL_NOW, SIMULATED_NOW, VECTORS, cases

Row = dict[str, str]


@cache
def simulated_roots(line: str) -> Roots:
    folder = VECTORS / "snp" / "simulated"
    pem = b"".join((folder / f"{line}_{kind}_ark.pem").read_bytes() for kind in ("ask", "asvk"))
    return Roots.development(pem)


def test_the_folder_of_vectors_is_not_empty(vectors: Path) -> None:
    assert (vectors / "snp" / "CASES.tsv").is_file()
    assert (vectors / "snp" / "simulated" / "CASES.tsv").is_file()


@pytest.mark.parametrize("row", cases("snp/simulated/CASES.tsv", "{line}-{case}"))
def test_simulated_case(vectors: Path, row: Row) -> None:
    folder = vectors / "snp" / "simulated"
    report = (folder / row["report"]).read_bytes()
    vek = (folder / row["vek"]).read_bytes()

    def verify() -> None:
        verified = verify_report(report, vek, roots=simulated_roots(row["line"]), at=SIMULATED_NOW)
        assert verified.simulated
        assert {result.id for result in verified.checks} == REPORT_CHECKS

    judge(row, verify)


@pytest.mark.parametrize("row", cases("snp/simulated/CASES.tsv", "{line}-{case}"))
def test_simulated_case_is_refused_under_amds_roots(vectors: Path, row: Row) -> None:
    folder = vectors / "snp" / "simulated"
    with pytest.raises(Error):
        verify_report(
            (folder / row["report"]).read_bytes(),
            (folder / row["vek"]).read_bytes(),
            roots=Roots.amd(),
            at=SIMULATED_NOW,
        )


@pytest.mark.parametrize("row", cases("snp/CASES.tsv", "{id}"))
def test_real_case(vectors: Path, row: Row) -> None:
    folder, at, roots = vectors / "snp", REAL_NOW[row["now"]], Roots.amd()

    def read(column: str) -> bytes:
        return (folder / row[column]).read_bytes() if row[column] else b""

    def verify() -> None:
        if row["signer"] == "CRL":
            verify_crl(read("report"), roots=roots, at=at)
        elif not row["report"]:
            verify_vek(read("vek"), roots=roots, at=at)
        else:
            verified = verify_report(read("report"), read("vek"), roots=roots, at=at)
            assert (str(verified.line), str(verified.vek.kind)) == (row["line"], row["signer"])
            assert not verified.simulated

    if row["expected"] == "parse":
        raw = read("report")
        assert Report.from_bytes(raw).to_bytes() == raw
    else:
        judge(row, verify)


def judge(row: Row, verify: Callable[[], None]) -> None:
    """Run a verification and compare it with the expected verdict; "policy" is authentic."""
    if row["expected"] == "reject":
        with pytest.raises(Error) as caught:
            verify()
        assert caught.value.check
        assert caught.value.message.endswith(".")
    else:
        verify()


def test_packaged_roots_are_the_recorded_ones(vectors: Path) -> None:
    recorded = {
        hashlib.sha256(one.certificate.der).hexdigest()
        for path in sorted((vectors / "snp" / "amd-roots").glob("*.pem"))
        for roots in [Roots.from_pem(path.read_bytes())]
        for one in (*roots.arks, *roots.intermediates)
    }
    packaged = Roots.amd()
    assert recorded == {
        hashlib.sha256(one.certificate.der).hexdigest() for one in (*packaged.arks, *packaged.intermediates)
    }
    assert not packaged.simulated


def test_real_revocation_list_clears_a_milan_chain(vectors: Path) -> None:
    folder = vectors / "snp"
    verified = verify_report(
        (folder / "ms-tee" / "milan_report.bin").read_bytes(),
        (folder / "ms-tee" / "milan_vcek.der").read_bytes(),
        roots=Roots.amd(),
        at=REAL_NOW["now in 2026-08-19..2026-10-04"],
        crls=[(folder / "amd-crl" / "milan_vcek_2026-08.crl").read_bytes()],
    )
    outcomes = {result.id: result.outcome for result in verified.checks}
    assert outcomes["snp.crl.not_revoked"] is Outcome.PASSED
    assert outcomes["snp.crl.not_stale"] is Outcome.PASSED
