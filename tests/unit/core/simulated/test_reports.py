# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from pathlib import Path

import pytest
from sealroom import testing
from sealroom.simulated.reports import SIGNED, ReportFields, pack_tcb, sign_report
from sealroom.snp import ProductLine, Report, Roots, TcbVersion, verify_report

LINES = list(ProductLine)
SAME_NAMES = (
    "version",
    "guest_svn",
    "policy",
    "family_id",
    "image_id",
    "vmpl",
    "signature_algo",
    "platform_info",
    "key_info",
    "report_data",
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "report_id",
    "report_id_ma",
    "chip_id",
    "launch_mit_vector",
    "current_mit_vector",
)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
def test_report_of_every_line_and_version_verifies(line: ProductLine, version: int, kind: str) -> None:
    chip = testing.chip(line, kind="VCEK" if kind == "VCEK" else "VLEK")
    report = chip.report(version, report_data=bytes(range(64)))
    roots = Roots.development(chip.root.pem)
    verified = verify_report(report, chip.vek, roots=roots, at=testing.NOW, intermediates=chip.intermediates)
    assert verified.line is line
    assert verified.simulated
    assert verified.report.version == version
    assert verified.report.report_data == bytes(range(64))


def test_layout_agrees_with_the_parser_in_every_field() -> None:
    """Each field gets a value of its own; two readings of the specification have to agree."""
    tcbs = [bytes((4, 1, 0, 0, 0, 0, 20 + n, 200 + n)) for n in range(4)]
    fields = ReportFields(
        version=5,
        guest_svn=0x01020304,
        policy=0x3FF1F,
        family_id=b"f" * 16,
        image_id=b"i" * 16,
        vmpl=2,
        current_tcb=tcbs[3],
        platform_info=0x25,
        key_info=1,
        report_data=b"r" * 64,
        measurement=b"m" * 48,
        host_data=b"h" * 32,
        id_key_digest=b"k" * 48,
        author_key_digest=b"a" * 48,
        report_id=b"p" * 32,
        report_id_ma=b"q" * 32,
        reported_tcb=tcbs[0],
        cpuid=(0x19, 0x11, 0x01),
        chip_id=bytes(range(64)),
        committed_tcb=tcbs[1],
        current_version=(1, 58, 3),
        committed_version=(1, 57, 2),
        launch_tcb=tcbs[2],
        launch_mit_vector=0x0102030405060708,
        current_mit_vector=0x1112131415161718,
    )
    report = Report.from_bytes(sign_report(fields.signed_part(), testing.chip().key))
    for name in [
        "version",
        "guest_svn",
        "policy",
        "family_id",
        "image_id",
        "vmpl",
        "signature_algo",
        "platform_info",
        "key_info",
        "report_data",
        "measurement",
        "host_data",
        "id_key_digest",
        "author_key_digest",
        "report_id",
        "report_id_ma",
        "chip_id",
        "launch_mit_vector",
        "current_mit_vector",
    ]:
        assert getattr(report, name) == getattr(fields, name), name
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        assert getattr(report, name).to_bytes() == getattr(fields, name), name
    assert (report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step) == fields.cpuid
    assert (report.current_major, report.current_minor, report.current_build) == (1, 58, 3)
    assert (report.committed_major, report.committed_minor, report.committed_build) == (1, 57, 2)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ms-tee/milan_report.bin", ProductLine.MILAN),
        ("ms-tee/genoa_report.bin", ProductLine.GENOA),
        ("oak/turin_oc_report.bin", ProductLine.TURIN),
        ("sev-attest-tool/genoa_v2_report.bin", ProductLine.GENOA),
    ],
)
def test_real_report_is_laid_out_byte_for_byte(vectors: Path, file: str, line: ProductLine) -> None:
    raw = (vectors / "snp" / file).read_bytes()
    real = Report.from_bytes(raw, line)
    fields = ReportFields(
        version=real.version,
        guest_svn=real.guest_svn,
        policy=int(real.policy),
        family_id=real.family_id,
        image_id=real.image_id,
        vmpl=real.vmpl,
        current_tcb=pack_tcb(real.current_tcb, line),
        platform_info=int(real.platform_info),
        key_info=int(real.key_info),
        report_data=real.report_data,
        measurement=real.measurement,
        host_data=real.host_data,
        id_key_digest=real.id_key_digest,
        author_key_digest=real.author_key_digest,
        report_id=real.report_id,
        report_id_ma=real.report_id_ma,
        reported_tcb=pack_tcb(real.reported_tcb, line),
        cpuid=(real.cpuid_fam_id, real.cpuid_mod_id, real.cpuid_step),
        chip_id=real.chip_id,
        committed_tcb=pack_tcb(real.committed_tcb, line),
        current_version=(real.current_major, real.current_minor, real.current_build),
        committed_version=(real.committed_major, real.committed_minor, real.committed_build),
        launch_tcb=pack_tcb(real.launch_tcb, line),
        launch_mit_vector=real.launch_mit_vector,
        current_mit_vector=real.current_mit_vector,
    )
    assert fields.signed_part() == raw[:SIGNED]


def test_turin_puts_fmc_first() -> None:
    tcb = TcbVersion(fmc=1, bootloader=2, tee=3, snp=4, microcode=5)
    assert pack_tcb(tcb, ProductLine.TURIN).hex() == "0102030400000005"


def test_milan_puts_bootloader_first() -> None:
    tcb = TcbVersion(bootloader=2, tee=3, snp=4, microcode=5)
    assert pack_tcb(tcb, ProductLine.MILAN).hex() == "0203000000000405"


def test_version_2_names_no_processor() -> None:
    assert ReportFields.for_line(ProductLine.MILAN, version=2).cpuid == (0, 0, 0)


def test_mitigation_vectors_come_with_version_5() -> None:
    assert ReportFields.for_line(ProductLine.MILAN, version=4).launch_mit_vector == 0
    assert ReportFields.for_line(ProductLine.MILAN, version=5).launch_mit_vector == 1


def test_unknown_field_is_a_programming_mistake() -> None:
    with pytest.raises(TypeError, match="mesurement"):
        ReportFields.for_line(ProductLine.MILAN, mesurement=bytes(48))


def test_short_field_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="0x90 has 48 bytes"):
        ReportFields(measurement=bytes(47)).signed_part()


def test_part_of_another_length_is_not_signed() -> None:
    with pytest.raises(ValueError, match="672 bytes"):
        sign_report(bytes(10), testing.chip().key)


def test_patches_reach_reserved_bytes() -> None:
    assert ReportFields(patches={0x290: b"\x01"}).signed_part()[0x290] == 1
