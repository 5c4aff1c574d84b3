# SPDX-License-Identifier: BSD-3-Clause
"""What Sealroom's builders make, go-sev-guest judges as Sealroom does; and the other way round."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from interop import peers
from interop.cases import Case, pem, right, verdicts, wrong
from sealroom.errors import BindingError, Error, SignatureError
from sealroom.simulated.reports import KEY_INFO_VLEK, ReportFields
from sealroom.snp import ProductLine, Roots, verify_report
from sealroom.testing import CHIP_ID, NOW

LACKS = {
    # It knows no extension fmcSPL, so no certificate of Turin's.
    "turin": "not an AMD KDS OID: 1.3.6.1.4.1.3704.1.3.9",
    # A version 2 report does not say its product, and it looks for a stepping in the certificate's.
    "genoa-vcek-v2": 'unknown product name (new stepping published?): "Genoa"',
}
"""What go-sev-guest 0.15.0 refuses and should not: cases whose names start so, and its reason."""


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return peers.program("go-sev-guest")
    except peers.UnavailableError as error:
        pytest.skip(str(error))


def test_reports_of_the_builders_are_accepted(program: Path, tmp_path: Path) -> None:
    cases = right()
    assert all(case.accepted_by_sealroom() for case in cases.values())
    found = verdicts(program, cases, tmp_path)
    assert found == {name: _lack(name) or "accepted" for name in cases}


def test_reports_with_one_thing_wrong_are_refused(program: Path, tmp_path: Path) -> None:
    cases = {name: case for name, case in wrong().items() if case.line is not ProductLine.TURIN}
    assert not any(case.accepted_by_sealroom() for case in cases.values())
    found = verdicts(program, cases, tmp_path)
    assert [name for name, verdict in found.items() if verdict == "accepted"] == []


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("product", ["Milan-B0", "Genoa-B1"])
def test_report_of_its_test_signer_is_accepted(
    program: Path, tmp_path: Path, product: str, version: int, kind: str
) -> None:
    signed = _signed(program, tmp_path, product, version, kind)
    verified = verify_report(signed.report, signed.vek, roots=_roots(signed), at=NOW)
    assert verified.report.report_data == b"\x5a" * 64
    assert verified.vek.kind == kind
    assert verified.simulated


def test_report_of_its_test_signer_is_refused_when_changed(program: Path, tmp_path: Path) -> None:
    signed = _signed(program, tmp_path, "Milan-B0", 3, "VCEK")
    changed = bytearray(signed.report)
    changed[0x90] ^= 1
    with pytest.raises(SignatureError):
        verify_report(bytes(changed), signed.vek, roots=_roots(signed), at=NOW)


def test_report_of_its_test_signer_is_refused_for_another_chip(program: Path, tmp_path: Path) -> None:
    signed = _signed(program, tmp_path, "Milan-B0", 3, "VCEK")
    other = tmp_path / "other"
    other.mkdir()
    stranger = _signed(program, other, "Milan-B0", 3, "VCEK", chip_id=CHIP_ID[ProductLine.GENOA])
    with pytest.raises(BindingError) as refused:
        verify_report(signed.report, stranger.vek, roots=_roots(signed), at=NOW)
    assert isinstance(refused.value, Error)
    assert refused.value.check == "snp.binding.chip_id"


def _lack(name: str) -> str:
    return next((reason for prefix, reason in LACKS.items() if name.startswith(prefix)), "")


def _roots(signed: Case) -> Roots:
    return Roots.development(pem(signed.ask) + pem(signed.ark))


def _signed(
    program: Path, directory: Path, product: str, version: int, kind: str, chip_id: bytes | None = None
) -> Case:
    """Return a report of a line as go-sev-guest's `AmdSigner` signs and certifies it."""
    line = ProductLine(product.partition("-")[0])
    changes: dict[str, Any] = {"report_data": b"\x5a" * 64, "chip_id": chip_id or CHIP_ID[line]}
    if kind == "VLEK":
        changes |= {"chip_id": bytes(64), "key_info": KEY_INFO_VLEK}
    unsigned = ReportFields.for_line(line, version=version, **changes).signed_part()
    (directory / "unsigned.bin").write_bytes(unsigned.ljust(1184, b"\0"))
    subprocess.run([program, "sign", product, kind, directory], check=True, timeout=60)
    report, vek, ask, ark = (
        (directory / name).read_bytes() for name in ("report.bin", "vek.der", "ask.der", "ark.der")
    )
    return Case(line, "VLEK" if kind == "VLEK" else "VCEK", report, vek, ask, ark)
