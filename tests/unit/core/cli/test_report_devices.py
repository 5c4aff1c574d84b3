# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom report show` on the reports of GPUs and switches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sealroom import testing
from sealroom.cli import run
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED
from sealroom.nvidia import OpaqueType
from sealroom.snp.bundle import EvidenceBundle, report_data_for
from unit.core.cli.verifying import NONCE, Bench, bench, sdk_list

__all__ = ["bench"]

GPU, SWITCH = testing.gpu(), testing.gpu("LS10")
Printed = pytest.CaptureFixture[str]


def show(capsys: Printed, *arguments: str) -> tuple[int, str]:
    status = run(["report", "show", *arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def fields(capsys: Printed, path: str) -> dict[str, Any]:
    assert run(["report", "show", "--json", path]) == EXIT_OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    "chip", [GPU, testing.gpu("BLACKWELL"), SWITCH], ids=["hopper", "blackwell", "switch"]
)
def test_every_field_is_shown_with_its_meaning(chip: Any, bench: Bench, capsys: Printed) -> None:
    report = chip.report(NONCE)

    status, printed = show(capsys, bench.save("report.bin", report))

    assert status == EXIT_OK
    assert NONCE.hex() in printed
    assert chip.vbios_version in printed
    assert f"measurement {chip.model.blocks - 1} " in printed
    for kind in dict(chip.fields(NONCE).opaque):
        assert f"{OpaqueType(kind).name if kind in set(OpaqueType) else 'unknown'} ({kind})" in printed
    assert report[-96:-64].hex() in printed
    assert "Nothing was verified" in printed


def test_fields_as_json(bench: Bench, capsys: Printed) -> None:
    (device,) = fields(capsys, bench.save("report.bin", GPU.report(NONCE)))["devices"]

    assert device["requester_nonce"] == NONCE.hex()
    assert (device["driver_version"], device["vbios_version"]) == (GPU.driver_version, GPU.vbios_version)
    assert device["feature"] == "SPT"
    assert device["measurements"] == [value.hex() for value in GPU.measurements]


def test_a_list_of_devices(bench: Bench, capsys: Printed) -> None:
    _, printed = show(capsys, bench.devices(GPU, SWITCH))

    assert f"Device 0: HOPPER, {GPU.uuid}" in printed
    assert f"Device 1: LS10, {SWITCH.uuid}" in printed
    assert len(fields(capsys, bench.save("sdk.json", sdk_list(GPU, GPU)))["devices"]) == 2


def test_a_bundle_with_devices_shows_them_after_the_processor(bench: Bench, capsys: Printed) -> None:
    devices = Path(bench.devices(GPU)).read_text()
    gathered = testing.evidence(report_data_for(NONCE, devices), testing.environment())
    made = EvidenceBundle(NONCE, gathered.report, gathered.certificates, devices).to_json()

    _, printed = show(capsys, bench.save("bundle.json", made))
    found = fields(capsys, bench.save("bundle.json", made))

    assert printed.index("REPORT_DATA") < printed.index("Device 0: HOPPER")
    assert printed.count("Nothing was verified") == 1
    assert found["line"] == "Genoa"
    assert found["devices"][0]["uuid"] == GPU.uuid


def test_an_unknown_field_is_shown_as_it_is(bench: Bench, capsys: Printed) -> None:
    report = GPU.report(NONCE, opaque={200: b"\xfe\xff"})

    _, printed = show(capsys, bench.save("report.bin", report))

    (row,) = [line for line in printed.splitlines() if "unknown (200)" in line]
    assert "feff" in row
    assert "not known here" in row


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda report: report[:1000], "[offset 0x3db, field measurement block 18]"),
        (lambda report: report[:37] + b"\0" + report[38:], "[offset 0x25, field MEASUREMENTS]"),
        (lambda report: report + b"\0\0", "field signature]"),
    ],
    ids=["cut", "response header", "two bytes more"],
)
def test_a_broken_report_is_refused_in_one_line_with_offset_and_field(
    change: Any, place: str, bench: Bench, capsys: Printed
) -> None:
    status, printed = show(capsys, bench.save("report.bin", change(GPU.report(NONCE))))

    assert status == EXIT_REFUSED
    assert len(printed.splitlines()) == 1
    assert printed.strip().endswith(place)


def test_a_manifest_is_no_report(bench: Bench, capsys: Printed) -> None:
    status, printed = show(capsys, bench.save("rim.xml", GPU.driver_rim))

    assert status == EXIT_REFUSED
    assert "holds no report" in printed
