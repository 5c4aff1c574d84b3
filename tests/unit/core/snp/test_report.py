# SPDX-License-Identifier: BSD-3-Clause
"""Parsing of reports: every field, round trips, and what version 2 does not say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import FormatError
from sealroom.simulated.reports import sign_report
from sealroom.snp import VMPL_HOST, GuestPolicy, KeyInfo, PlatformInfo, ProductLine, Report, TcbVersion


def test_every_field_is_read_from_its_place() -> None:
    chip = testing.chip(ProductLine.TURIN)
    raw = chip.report(
        guest_svn=7,
        policy=0x30000 | 1 << 19,
        family_id=b"f" * 16,
        image_id=b"i" * 16,
        vmpl=2,
        platform_info=0x67,
        key_info=0b011,
        report_data=b"d" * 64,
        measurement=b"m" * 48,
        host_data=b"h" * 32,
        id_key_digest=b"k" * 48,
        author_key_digest=b"a" * 48,
        report_id=b"r" * 32,
        report_id_ma=b"M" * 32,
        current_tcb=bytes((5, 6, 7, 8, 0, 0, 0, 9)),
        committed_tcb=bytes((4, 5, 6, 7, 0, 0, 0, 8)),
        launch_tcb=bytes((3, 4, 5, 6, 0, 0, 0, 7)),
        reported_tcb=bytes((2, 3, 4, 5, 0, 0, 0, 6)),
        cpuid=(0x1A, 0x11, 3),
        current_version=(1, 58, 40),
        committed_version=(1, 55, 39),
        launch_mit_vector=0x3F,
        current_mit_vector=0x7F,
    )

    report = Report.from_bytes(raw)

    assert report.version == 5
    assert report.guest_svn == 7
    assert report.policy == 0xB0000
    assert (report.family_id, report.image_id) == (b"f" * 16, b"i" * 16)
    assert report.vmpl == 2
    assert report.signature_algo == 1
    assert report.platform_info == 0x67
    assert (report.key_info.author_key_en, report.key_info.mask_chip_key) == (True, True)
    assert report.report_data == b"d" * 64
    assert report.measurement == b"m" * 48
    assert report.host_data == b"h" * 32
    assert (report.id_key_digest, report.author_key_digest) == (b"k" * 48, b"a" * 48)
    assert (report.report_id, report.report_id_ma) == (b"r" * 32, b"M" * 32)
    assert report.current_tcb == TcbVersion(fmc=5, bootloader=6, tee=7, snp=8, microcode=9)
    assert report.committed_tcb == TcbVersion(fmc=4, bootloader=5, tee=6, snp=7, microcode=8)
    assert report.launch_tcb == TcbVersion(fmc=3, bootloader=4, tee=5, snp=6, microcode=7)
    assert report.reported_tcb == TcbVersion(fmc=2, bootloader=3, tee=4, snp=5, microcode=6)
    assert (report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step) == (0x1A, 0x11, 3)
    assert report.chip_id == chip.chip_id
    assert (report.current_major, report.current_minor, report.current_build) == (1, 58, 40)
    assert (report.committed_major, report.committed_minor, report.committed_build) == (1, 55, 39)
    assert (report.launch_mit_vector, report.current_mit_vector) == (0x3F, 0x7F)
    assert report.line is ProductLine.TURIN
    assert report.to_bytes() == report.raw == raw


@pytest.mark.parametrize("line", ProductLine)
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_bytes_come_back_exactly(line: ProductLine, version: int) -> None:
    raw = testing.chip(line).report(version)

    assert Report.from_bytes(raw).to_bytes() == raw
    assert Report.from_bytes(raw, line).to_bytes() == raw


def test_recorded_reports_come_back_exactly(vectors: Path) -> None:
    paths = sorted((vectors / "snp").glob("*/*report*.bin"))
    parsed = 0
    for path in paths:
        raw = path.read_bytes()
        try:
            report = Report.from_bytes(raw)
        except FormatError as error:
            assert error.check.startswith("snp.report.")  # noqa: PT017
            assert error.offset is not None  # noqa: PT017
        else:
            assert report.to_bytes() == raw
            parsed += 1
    assert parsed > 150


@pytest.mark.parametrize("line", ProductLine)
def test_version_2_shows_its_layout_by_the_chip_id(line: ProductLine) -> None:
    report = Report.from_bytes(testing.chip(line).report(2))

    assert report.line is None
    assert (report.reported_tcb.fmc is not None) == (line is ProductLine.TURIN)


@pytest.mark.parametrize("line", ProductLine)
def test_version_2_with_a_masked_chip_id_shows_its_layout_by_reserved_bytes(line: ProductLine) -> None:
    report = Report.from_bytes(testing.chip(line, kind="VLEK").report(2))

    assert report.chip_id_masked
    assert (report.reported_tcb.fmc is not None) == (line is ProductLine.TURIN)


def test_version_2_takes_the_line_from_the_caller() -> None:
    raw = testing.chip(ProductLine.TURIN).report(2)

    assert Report.from_bytes(raw, ProductLine.TURIN).line is ProductLine.TURIN
    with pytest.raises(FormatError) as caught:
        Report.from_bytes(raw, ProductLine.GENOA)
    assert caught.value.check == "snp.report.tcb_layout"


def test_a_line_from_the_caller_does_not_override_cpuid() -> None:
    raw = testing.chip(ProductLine.GENOA).report(3)

    assert Report.from_bytes(raw, ProductLine.TURIN).line is ProductLine.GENOA


def test_errors_name_field_and_offset() -> None:
    raw = testing.chip().report(patches={0x20A: b"\x01"})

    with pytest.raises(FormatError) as caught:
        Report.from_bytes(raw)

    assert caught.value.offset == 0x20A
    assert caught.value.field == "reserved"
    assert "0x20a" in caught.value.message


def test_tcb_errors_name_which_tcb() -> None:
    raw = testing.chip().report(patches={0x1F3: b"\x01"})

    with pytest.raises(FormatError) as caught:
        Report.from_bytes(raw)

    assert (caught.value.field, caught.value.offset) == ("LAUNCH_TCB", 0x1F0)


def test_a_changed_copy_packs_its_new_values() -> None:
    report = Report.from_bytes(testing.chip().report())

    changed = dataclasses.replace(report, vmpl=VMPL_HOST)

    assert Report.from_bytes(changed.to_bytes()) == changed


def test_an_unsigned_report_parses() -> None:
    chip = testing.chip()
    report = Report.from_bytes(sign_report(chip.fields(key_info=7 << 2).signed_part(), chip.key))

    assert report.key_info.signing_key_name == "none"


def test_policy_bits() -> None:
    names = [
        "smt", "migrate_ma", "debug", "single_socket", "cxl_allow", "mem_aes_256_xts", "rapl_dis",
        "ciphertext_hiding_dram", "page_swap_disable",
    ]  # fmt: skip
    for name, bit in zip(names, (16, 18, 19, 20, 21, 22, 23, 24, 25), strict=True):
        policy = GuestPolicy(1 << bit)
        assert [one for one in names if getattr(policy, one)] == [name]
    assert (GuestPolicy(0x0137).abi_major, GuestPolicy(0x0137).abi_minor) == (1, 0x37)


def test_platform_bits() -> None:
    names = [
        "smt_en", "tsme_en", "ecc_en", "rapl_dis", "ciphertext_hiding_dram_en", "alias_check_complete",
        "tio_en",
    ]  # fmt: skip
    for name, bit in zip(names, (0, 1, 2, 3, 4, 5, 7), strict=True):
        info = PlatformInfo(1 << bit)
        assert [one for one in names if getattr(info, one)] == [name]


@pytest.mark.parametrize(
    ("value", "name"), [(0, "VCEK"), (1, "VLEK"), (2, "reserved"), (6, "reserved"), (7, "none")]
)
def test_signing_key_names(value: int, name: str) -> None:
    assert KeyInfo(value << 2).signing_key_name == name
    assert KeyInfo(value << 2).signing_key == value
