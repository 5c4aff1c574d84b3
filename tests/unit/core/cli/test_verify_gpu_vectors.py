# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify` gives each recorded GPU report, manifest and OCSP answer the verdict of its table."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from support.vectors import cases
from unit.core.cli.verifying import Bench, bench, failures, outcomes

__all__ = ["bench"]

Row = dict[str, str]
TABLE = "nvidia/MANIFEST.tsv"
TODAY = "2026-11-24"
BOTH_RIMS_VALID = "2025-06-01"
DEVICE_ANSWERS, RIM_ANSWERS = "2025-08-21T20:00", "2025-10-24T20:00"
REPORT, DRIVER, VBIOS = "hopper_550.90.07", "rim_driver_550.90.07", "rim_vbios_96009F0001"
ABOUT_DEVICE = ("certificate_l2", "certificate_l3", "certificate_l4")
ABOUT_DRIVER = ("driver_rim_l4", "driver_rim_l3", "rim_l2")
ABOUT_VBIOS = ("vbios_l4", "driver_rim_l3", "rim_l2")


def rows(pattern: str) -> list[object]:
    """Return the rows whose file fits; the skipped one where the vectors are absent."""
    every = cases(TABLE, "{file}")
    return [one for one in every if not one.values[0] or re.match(pattern, str(one.values[0]["file"]))]


class Folder:
    """The recorded files, as arguments."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, name: str) -> str:
        return str(self._path / name)

    def report(self, name: str = REPORT) -> list[str]:
        return [self.path(f"{name}.report.bin"), "--chain", self.path(f"{name}.chain.pem")]

    def rims(self, *names: str) -> list[str]:
        return [part for name in names for part in ("--rim", self.path(f"{name}.xml"))]

    def answers(self, *names: str) -> list[str]:
        return [part for name in names for part in ("--ocsp", self.path(f"ocsp_gpu_{name}.der"))]

    def read(self, name: str) -> bytes:
        return Path(self.path(name)).read_bytes()


@pytest.fixture
def folder(vectors: Path) -> Folder:
    return Folder(vectors / "nvidia")


# --- every row ---


@pytest.mark.parametrize("row", rows(r".*\.report\.bin \+"))
@pytest.mark.parametrize("at", [BOTH_RIMS_VALID, TODAY])
def test_a_report_gets_its_verdict_at_any_time(row: Row, at: str, folder: Folder, bench: Bench) -> None:
    name = row["file"].split(".report.bin")[0]
    nonce = row["nonce/validity"].removeprefix("nonce=")

    status, result = bench.json(*folder.report(name), "--nonce", nonce, at=at)

    genuine = not row["expected verdict"].startswith("FAIL")
    (device,) = result["devices"]
    assert status == (EXIT_OK if genuine else EXIT_REFUSED)
    assert (result["verdict"], result["simulated"]) == ("accepted" if genuine else "refused", False)
    assert (failures(device) == []) is genuine
    if genuine:
        assert outcomes(device)["nvidia.report.nonce"] == "passed"
        assert device["architecture"] == name.split("_")[0].upper().replace("TRUSTEE", "HOPPER")


@pytest.mark.parametrize("row", rows(r"rim_.*\.xml"))
def test_a_manifest_gets_its_verdict_while_its_signer_is_valid_and_today(
    row: Row, folder: Folder, bench: Bench
) -> None:
    begins, ends = row["nonce/validity"].removeprefix("valid ").split("..")
    middle = f"{begins}T12:00" if ends[:7] == begins[:7] else f"{int(begins[:4]) + 1}-01-01"
    unaltered = not row["expected verdict"].startswith("FAIL")
    path = folder.path(row["file"])

    then, now = bench.json(path, at=middle), bench.json(path, at=TODAY)

    assert then[0] == (EXIT_OK if unaltered else EXIT_REFUSED)
    assert now[0] == EXIT_REFUSED
    codes = {result["error"]["code"] for _, result in (then, now) if result["error"]}
    assert codes == {"expired" if unaltered else "signature"}


@pytest.mark.parametrize("row", rows(r"ocsp_.*\.der"))
def test_an_ocsp_answer_is_what_makes_its_certificate_good(row: Row, folder: Folder, bench: Bench) -> None:
    name = row["file"].removeprefix("ocsp_gpu_").removesuffix(".der")
    of_device = name in ABOUT_DEVICE
    needed = ABOUT_DEVICE if of_device else ABOUT_VBIOS if name == "vbios_l4" else ABOUT_DRIVER
    evidence = (
        folder.report() if of_device else [folder.path(f"{VBIOS if name == 'vbios_l4' else DRIVER}.xml")]
    )
    at = DEVICE_ANSWERS if of_device else RIM_ANSWERS
    others = [one for one in needed if one != name]

    with_it = bench.json(*evidence, *folder.answers(*needed), "--ocsp-policy", "required", at=at)
    without = bench.json(*evidence, *folder.answers(*others), "--ocsp-policy", "required", at=at)
    stale = bench.json(*evidence, *folder.answers(*needed), "--ocsp-policy", "required", at=f"{at[:8]}30")

    assert (with_it[0], without[0], stale[0]) == (EXIT_OK, EXIT_UNCHECKED, EXIT_UNCHECKED)
    assert without[1]["error"]["code"] == stale[1]["error"]["code"] == "revocation_unavailable"


# --- a report with its manifests ---


def test_the_complete_set_is_accepted_while_both_signers_are_valid(folder: Folder, bench: Bench) -> None:
    status, printed = bench.text(*folder.report(), *folder.rims(DRIVER, VBIOS), at=BOTH_RIMS_VALID)

    assert status == EXIT_OK
    assert "32 of 32 compared values are equal; index 35 passed over" in printed
    assert (
        "ACCEPTED: an NVIDIA Hopper GPU with the firmware of the reference manifests signed this evidence"
        in printed
    )
    assert "SIMULATED" not in printed


def test_an_ended_signer_is_not_called_a_bad_gpu(folder: Folder, bench: Bench) -> None:
    status, printed = bench.text(*folder.report(), *folder.rims(DRIVER, VBIOS), at=TODAY)

    assert status == EXIT_REFUSED
    assert (
        "REFUSED: The device is genuine, and the driver manifest 550.90.07 (fec809461fee) does not count: "
        "HCC RIM L4 Signer in the chain of the reference manifest expired on 2026-06-01" in printed
    )
    assert "which says nothing bad about the GPU. Fetch the manifest anew" in printed


@pytest.mark.parametrize(
    ("given", "missing"),
    [(DRIVER, "NV_GPU_VBIOS_1010_0200_882_96009F0001"), (VBIOS, "NV_GPU_DRIVER_GH100_550.90.07")],
)
def test_one_manifest_alone_could_not_be_checked(
    given: str, missing: str, folder: Folder, bench: Bench
) -> None:
    status, printed = bench.text(*folder.report(), *folder.rims(given), at=BOTH_RIMS_VALID)

    assert status == EXIT_UNCHECKED
    assert "COULD NOT BE CHECKED: The device is genuine. No reference manifest for" in printed
    assert missing in printed.split("COULD NOT BE CHECKED")[1]


def test_a_manifest_of_another_version(folder: Folder, bench: Bench) -> None:
    status, printed = bench.text(*folder.report(), *folder.rims("rim_driver_545.00_test"), at="2024-06-30")

    assert status == EXIT_REFUSED
    assert "is for another version: the device has driver 550.90.07" in printed


def test_a_reissued_index_9_is_named_with_what_to_do(folder: Folder, bench: Bench) -> None:
    given = [*folder.report("hopper_570.124.03"), *folder.rims("rim_vbios_96005E0004")]

    status, printed = bench.text(*given, at="2025-01-01")

    assert status == EXIT_REFUSED
    said = printed.split("REFUSED: ")[1]
    assert "Only index 9 differs from VBIOS manifest 96.00.5E.00.04" in said
    assert "fetch it anew and compare again" in said


def test_an_altered_manifest(folder: Folder, bench: Bench) -> None:
    given = [*folder.report("hopper_535.86.09"), *folder.rims("rim_driver_535.86.09_mismatch")]

    status, result = bench.json(*given, at="2026-01-01")

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("signature", "nvidia.rim.signature")
    assert result["manifests"][0]["manifest"].endswith("rim_driver_535.86.09_mismatch.xml")


def test_answers_about_device_and_manifests_under_each_policy(folder: Folder, bench: Bench) -> None:
    given = [*folder.report(), *folder.rims(DRIVER, VBIOS)]
    given += folder.answers(*ABOUT_DEVICE, *ABOUT_DRIVER, "vbios_l4")
    # The answers about the device are two months older than those about the manifests.
    results = {
        policy: bench.json(*given, "--ocsp-policy", policy, at=RIM_ANSWERS)
        for policy in ("off", "soft", "required")
    }

    assert [results[policy][0] for policy in ("off", "soft", "required")] == [
        EXIT_OK,
        EXIT_OK,
        EXIT_UNCHECKED,
    ]
    soft = results["soft"][1]
    assert outcomes(soft["devices"][0])["nvidia.chain.ocsp"] == "not_asked"
    assert [outcomes(one)["nvidia.rim.ocsp"] for one in soft["manifests"]] == ["passed", "passed"]
    off = results["off"][1]
    assert [outcomes(one)["nvidia.rim.ocsp"] for one in off["manifests"]] == ["not_asked", "not_asked"]


# --- one thing wrong ---


def test_another_nonce(folder: Folder, bench: Bench) -> None:
    status, result = bench.json(*folder.report(), "--nonce", "00" * 32, at=TODAY)

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("freshness", "nvidia.report.nonce")


def test_without_its_chain_it_could_not_be_checked(folder: Folder, bench: Bench) -> None:
    status, printed = bench.text(folder.path(f"{REPORT}.report.bin"), at=TODAY)

    assert status == EXIT_UNCHECKED
    assert "Give them with --chain FILE." in printed


def test_the_chain_of_another_gpu(folder: Folder, bench: Bench) -> None:
    chain = folder.path("hopper_590.12_0.chain.pem")

    status, result = bench.json(folder.path(f"{REPORT}.report.bin"), "--chain", chain, at=TODAY)

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.report.signature"


@pytest.mark.parametrize("place", [4, 120, -1], ids=["nonce", "measurement", "signature"])
def test_a_report_with_one_bit_changed(place: int, folder: Folder, bench: Bench) -> None:
    report = bytearray(folder.read(f"{REPORT}.report.bin"))
    report[place] ^= 1
    evidence = bench.save("report.bin", bytes(report))

    status, result = bench.json(evidence, "--chain", folder.path(f"{REPORT}.chain.pem"), at=TODAY)

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.report.signature"


@pytest.mark.parametrize(
    ("size", "place"),
    [(1000, "[offset 0x3db, field measurement block 18]"), (20, "[offset 0x4, field request nonce]")],
)
def test_a_report_that_was_cut_says_where_it_ends(
    size: int, place: str, folder: Folder, bench: Bench
) -> None:
    evidence = bench.save("report.bin", folder.read(f"{REPORT}.report.bin")[:size])

    status, printed = bench.text(evidence, "--chain", folder.path(f"{REPORT}.chain.pem"), at=TODAY)

    assert status == EXIT_REFUSED
    (line,) = [line for line in printed.splitlines() if line.startswith("REFUSED")]
    assert line.startswith(f"REFUSED: The report ends at {size} bytes, inside")
    assert line.endswith(place)


def test_expectations_about_a_processor(folder: Folder, bench: Bench) -> None:
    for option, size in (("--report-data", 64), ("--host-data", 32), ("--nonce", 16), ("--nonce", 64)):
        assert bench.text(*folder.report(), option, "00" * size, at=TODAY)[0] == EXIT_USAGE


# --- other forms of evidence ---


def test_a_list_of_two_recorded_gpus_as_nvidias_tools_save_it(folder: Folder, bench: Bench) -> None:
    names = ("hopper_590.12_multi_0", "hopper_590.12_multi_1")
    items = [
        {
            "arch": "HOPPER",
            "evidence": base64.b64encode(folder.read(f"{name}.report.bin")).decode(),
            "certificate": base64.b64encode(folder.read(f"{name}.chain.pem")).decode(),
        }
        for name in names
    ]
    evidence = bench.save("evidence.json", json.dumps(items).encode())

    status, printed = bench.text(evidence, at=TODAY)

    assert status == EXIT_OK
    assert "ACCEPTED: 2 NVIDIA Hopper GPUs signed this evidence" in printed
    assert "not compared with reference manifests for gpu0, gpu1" in printed


def test_a_recorded_answer_of_nvidias_service_needs_its_keys(folder: Folder, bench: Bench) -> None:
    token = folder.path("nras_hopper_550.90.07_detached_eat.json")

    without = bench.text(token, at="2025-06-01")
    strange = bench.json(token, "--jwks", bench.save("jwks.json", b'{"keys": []}'), at="2025-06-01")

    assert without[0] == EXIT_USAGE
    assert "--jwks" in without[1]
    assert strange[0] == EXIT_REFUSED
    assert failures(strange[1]) == ["nvidia.nras.token"]
