# SPDX-License-Identifier: BSD-3-Clause
"""Every recorded file gets the expected verdict at the stated time."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.x509 import ocsp
from sealroom.checks import Outcome
from sealroom.errors import Error, ExpiredError, NotYetValidError, SignatureError
from sealroom.kbs.evidence import snp_from_json
from sealroom.nvidia import (
    REPORT_CHECKS,
    Architecture,
    NvidiaRoots,
    OcspPolicy,
    VerifiedDevice,
    VerifiedRim,
    clear_rim_cache,
    compare,
    examine_device,
    load_chain,
    rim_ids,
    verify_device,
    verify_rim,
)
from sealroom.nvidia.ocsp import Answer
from sealroom.snp import Roots, verify_report
from support.nvidia import detail, development, outcome, refused
from support.vectors import cases

Row = dict[str, str]
MIDDLE = datetime(2025, 6, 1, tzinfo=UTC)
DEVICE_ANSWERS = datetime(2025, 8, 21, 20, tzinfo=UTC)
RIM_ANSWERS = datetime(2025, 10, 24, 20, tzinfo=UTC)
ROOTS = NvidiaRoots.nvidia()
ALL = cases("nvidia/MANIFEST.tsv", "{file}")


def rows(*beginnings: str) -> list[object]:
    """Return the rows of files whose names begin so; all of them where the vectors are absent."""
    return [
        param
        for param in ALL
        if not param.values[0]
        or (
            str(param.values[0]["file"]).startswith(beginnings)
            and not str(param.values[0]["file"]).endswith(".json")
        )
    ]


def name(row: Row) -> str:
    return row["file"].split(" ")[0].removesuffix(".report.bin")


def device(folder: Path, name: str, at: datetime = MIDDLE, nonce: bytes | None = None) -> VerifiedDevice:
    report = (folder / f"{name}.report.bin").read_bytes()
    chain = load_chain((folder / f"{name}.chain.pem").read_bytes())
    return verify_device(report, chain, roots=ROOTS, at=at, nonce=nonce)


def rim(folder: Path, name: str, at: datetime = MIDDLE) -> VerifiedRim:
    return verify_rim((folder / f"rim_{name}.xml").read_bytes(), roots=ROOTS, at=at)


@pytest.mark.parametrize("row", ALL)
def test_file_is_the_recorded_one(vectors: Path, row: Row) -> None:
    data = (vectors / "nvidia" / row["file"].split(" ")[0]).read_bytes()
    assert hashlib.sha256(data).hexdigest().startswith(row["sha256_16"])


# --- reports


@pytest.mark.parametrize("row", rows("hopper_5", "blackwell", "trustee_chain"))
def test_report(vectors: Path, row: Row) -> None:
    folder = vectors / "nvidia"
    nonce = bytes.fromhex(row["nonce/validity"].removeprefix("nonce="))

    examined = examine_device(
        (folder / f"{name(row)}.report.bin").read_bytes(),
        load_chain((folder / f"{name(row)}.chain.pem").read_bytes()),
        roots=ROOTS,
        at=MIDDLE,
        nonce=nonce,
    )

    assert {result.id for result in examined.checks} == set(REPORT_CHECKS)
    if row["expected verdict"].startswith("FAIL"):
        assert examined.verified is None
        assert examined.error is not None
        assert examined.error.check == "nvidia.chain.present"
        return
    assert examined.verified is not None
    assert not examined.verified.simulated
    report, said = examined.verified.report, row["what"]
    assert report.driver_version in said
    assert report.vbios_version in said
    assert f"{report.project}_{report.project_sku}_{report.chip_sku}" in said
    assert len(report.measurements) == 64
    without_fwid = "fwid absent" in row["observed here"]
    assert outcome(examined.checks, "nvidia.report.fwid") is (
        Outcome.NOT_ASKED if without_fwid else Outcome.PASSED
    )
    assert outcome(examined.checks, "nvidia.report.nonce") is Outcome.PASSED


def test_architectures_modes_and_chips(vectors: Path) -> None:
    folder = vectors / "nvidia"
    found = {
        name: (device(folder, name).architecture, device(folder, name).report.feature)
        for name in ("hopper_535.86.09", "hopper_590.12_0", "blackwell_575.32")
    }

    assert found == {
        "hopper_535.86.09": (Architecture.HOPPER, None),
        "hopper_590.12_0": (Architecture.HOPPER, "PPCIE"),
        "blackwell_575.32": (Architecture.BLACKWELL, None),
    }
    assert device(folder, "blackwell_575.32").chip == "GB100"


def test_two_gpus_of_one_server_answer_one_nonce_and_are_two(vectors: Path) -> None:
    first, second = (device(vectors / "nvidia", f"hopper_590.12_multi_{number}") for number in (0, 1))
    assert first.report.requester_nonce == second.report.requester_nonce
    assert first.ueid != second.ueid


def test_full_verdict(vectors: Path) -> None:
    folder = vectors / "nvidia"
    nonce = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
    genuine = device(folder, "hopper_550.90.07", nonce=nonce)

    results = compare(genuine, [rim(folder, "driver_550.90.07"), rim(folder, "vbios_96009F0001")])

    assert {result.outcome for result in results} == {Outcome.PASSED}
    assert detail(results, "nvidia.measurement.values").startswith("32 of 32 compared values are equal")
    assert rim_ids(genuine) == ("NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001")


def test_full_verdict_at_the_end_of_the_manifests_is_expired_and_not_bad(vectors: Path) -> None:
    folder, today = vectors / "nvidia", datetime(2026, 11, 24, tzinfo=UTC)
    assert device(folder, "hopper_550.90.07", today).report.driver_version == "550.90.07"
    for which in ("driver_550.90.07", "vbios_96009F0001"):
        error = refused(ExpiredError, "nvidia.rim.validity", partial(rim, folder, which, today))
        assert "HCC RIM L4 Signer" in error.message
        assert "says nothing bad about the GPU" in error.advice


def test_report_with_the_expired_manifest_of_its_driver_has_none(vectors: Path) -> None:
    folder = vectors / "nvidia"
    genuine = device(folder, "hopper_570.124.03")
    with pytest.raises(ExpiredError):
        rim(folder, "driver_570.124.03_expired")

    results = compare(genuine, [rim(folder, "vbios_96005E0004")])

    assert outcome(results, "nvidia.rim.present") is Outcome.FAILED
    assert "NV_GPU_DRIVER_GH100_570.124.03" in detail(results, "nvidia.rim.present")
    assert outcome(results, "nvidia.measurement.values") is not Outcome.PASSED


def test_manifest_that_was_issued_again_differs_at_index_9_alone(vectors: Path) -> None:
    folder = vectors / "nvidia"
    results = compare(device(folder, "hopper_570.124.03"), [rim(folder, "vbios_96005E0004")])

    assert outcome(results, "nvidia.measurement.reissued") is Outcome.FAILED
    assert "index 9" in detail(results, "nvidia.measurement.reissued")
    assert "VBIOS manifest 96.00.5E.00.04" in detail(results, "nvidia.measurement.reissued")
    assert detail(results, "nvidia.measurement.values").startswith("11 of 12 compared values are equal")


def test_claims_of_another_verifier_agree(vectors: Path) -> None:
    folder = vectors / "nvidia"
    claims = json.loads((folder / "hopper_550.90.07.trustee-claims.json").read_text())
    report = device(folder, "hopper_550.90.07").report

    def values(value: object) -> set[str]:
        if isinstance(value, dict):
            return set().union(*map(values, value.values()))
        if isinstance(value, list):
            return set().union(*map(values, value))
        return {str(value).lower()}

    said = values(claims)
    assert report.driver_version in said
    assert report.vbios_version.lower() in said
    assert {value.hex() for value in report.measurements} <= said


# --- reference manifests


@pytest.mark.parametrize("row", rows("rim_"))
def test_manifest(vectors: Path, row: Row) -> None:
    xml = (vectors / "nvidia" / row["file"]).read_bytes()
    window = re.fullmatch(r"valid (\S+)\.\.(\S+)", row["nonce/validity"])
    assert window is not None
    begins, ends = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in window.groups())
    inside = begins + (ends - begins) / 2
    clear_rim_cache()

    if row["expected verdict"].startswith("FAIL"):
        # Their authors changed them after they were signed.
        refused(SignatureError, "nvidia.rim.signature", lambda: verify_rim(xml, roots=ROOTS, at=inside))
        if "expired" in row["expected verdict"]:
            later = ends + timedelta(days=1)
            refused(ExpiredError, "nvidia.rim.validity", lambda: verify_rim(xml, roots=ROOTS, at=later))
        return
    kind = "driver" if "driver" in row["what"] else "vbios"
    verified = verify_rim(xml, roots=ROOTS, at=inside)
    assert verified.kind == kind
    assert verified.version in row["observed here"]
    assert sorted(verified.measurements) == (
        [7, *range(21, 41)] if kind == "driver" else [*range(7), *range(8, 13)]
    )
    assert max(map(len, verified.measurements.values())) <= 4
    for at, why in ((begins - timedelta(days=2), NotYetValidError), (ends + timedelta(days=2), ExpiredError)):
        refused(why, "nvidia.rim.validity", partial(verify_rim, xml, roots=ROOTS, at=at))


def test_manifest_of_another_driver_is_refused_for_its_version(vectors: Path) -> None:
    folder = vectors / "nvidia"
    results = compare(
        device(folder, "hopper_550.90.07"),
        [rim(folder, "driver_545.00_test"), rim(folder, "vbios_96009F0001")],
    )

    assert outcome(results, "nvidia.rim.version") is Outcome.FAILED
    assert "545.00" in detail(results, "nvidia.rim.version")
    assert outcome(results, "nvidia.rim.present") is Outcome.FAILED


# --- OCSP answers


@pytest.mark.parametrize("row", rows("ocsp_"))
def test_stored_answer_says_good(vectors: Path, row: Row) -> None:
    answer = Answer.from_der((vectors / "nvidia" / row["file"]).read_bytes())
    assert answer.response.certificate_status is ocsp.OCSPCertStatus.GOOD


def test_stored_answers_clear_device_and_manifests(vectors: Path) -> None:
    folder = vectors / "nvidia"
    answers = [path.read_bytes() for path in sorted(folder.glob("ocsp_*.der"))]
    verified = verify_device(
        (folder / "hopper_550.90.07.report.bin").read_bytes(),
        load_chain((folder / "hopper_550.90.07.chain.pem").read_bytes()),
        roots=ROOTS,
        at=DEVICE_ANSWERS,
        ocsp=answers,
        ocsp_policy=OcspPolicy.REQUIRED,
    )
    assert outcome(verified.checks, "nvidia.chain.ocsp") is Outcome.PASSED
    for name in ("rim_driver_550.90.07.xml", "rim_vbios_96009F0001.xml"):
        manifest = verify_rim(
            (folder / name).read_bytes(),
            roots=ROOTS,
            at=RIM_ANSWERS,
            ocsp=answers,
            ocsp_policy=OcspPolicy.REQUIRED,
        )
        assert outcome(manifest.checks, "nvidia.rim.ocsp") is Outcome.PASSED


# --- the processor's reports in the same folder


def test_processor_report_is_genuine_and_its_json_form_is_the_same(vectors: Path) -> None:
    raw = (vectors / "nvidia" / "snp_test-report.bin").read_bytes()
    form = json.loads((vectors / "nvidia" / "snp_test-report.bin.trustee-evidence.json").read_bytes())

    verified = verify_report(
        raw, (vectors / "snp" / "trustee" / "milan_vcek.der").read_bytes(), roots=Roots.amd(), at=MIDDLE
    )

    assert str(verified.line) == "Milan"
    assert snp_from_json(form) == (raw, {})


# --- trust anchors


@pytest.mark.parametrize(("file", "which"), [("root_device.pem", "device"), ("root_rim.pem", "rim")])
def test_packaged_root_is_the_recorded_one(vectors: Path, file: str, which: str) -> None:
    (der,) = load_chain((vectors / "nvidia" / file).read_bytes())
    packaged = ROOTS.device if which == "device" else ROOTS.rim
    assert packaged is not None
    assert packaged.der == der


def test_nothing_real_is_accepted_under_a_development_root(vectors: Path) -> None:
    folder = vectors / "nvidia"
    with pytest.raises(Error):
        verify_device(
            (folder / "hopper_550.90.07.report.bin").read_bytes(),
            load_chain((folder / "hopper_550.90.07.chain.pem").read_bytes()),
            roots=development(),
            at=MIDDLE,
        )
    with pytest.raises(Error):
        verify_rim((folder / "rim_vbios_96009F0001.xml").read_bytes(), roots=development(), at=MIDDLE)
