# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.errors import FormatError
from sealroom.kbs.evidence import snp_from_json, snp_to_json
from support import recordings

REPORTS = [
    "go-sev-guest/milan_v2_debug_report.bin",
    "sev-attest-tool/genoa_v2_report.bin",
    "trustee/milan_vcek_report.bin",
    "ms-tee/milan_report.bin",
    "ms-tee/genoa_report.bin",
    "oak/milan_oc_release_report.bin",
    "oak/milan_oc_staging_report.bin",
    "oak/turin_oc_report.bin",
    "constellation/aws2_vlek_report.bin",
    "trustee-azure/az_v0_report.bin",
    "trustee-azure/az_v1_report.bin",
    "lit-sev-snp-utils/guest_report.bin",
]
MILAN, GENOA, TURIN = (0x19, 0x01), (0x19, 0xA0), (0x1A, 0x02)


def report(version: int = 3, cpu: tuple[int, int] = GENOA, chip_id: bytes = bytes(range(64))) -> bytes:
    """Return a report in which every field that the version has is set, and no reserved byte."""
    turin = cpu[0] == 0x1A
    tcb = bytes([1, 2, 3, 4, 0, 0, 0, 5]) if turin else bytes([1, 2, 0, 0, 0, 0, 3, 4])
    data = bytearray(1184)
    struct.pack_into("<IIQ", data, 0, version, 7, 0x30000)
    data[0x10:0x30] = bytes(range(32))
    struct.pack_into("<II", data, 0x30, 1, 1)
    struct.pack_into("<QI", data, 0x40, 0x67, 4)
    data[0x50:0x180] = bytes(index % 251 for index in range(0x130))
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        data[offset : offset + 8] = tcb
    if version >= 3:
        data[0x188:0x18B] = bytes([*cpu, 1])
    data[0x1A0:0x1E0] = (chip_id[:8] + bytes(56)) if turin else chip_id
    data[0x1E8:0x1EB], data[0x1EC:0x1EF] = bytes([21, 55, 1]), bytes([20, 54, 1])
    if version >= 5:
        struct.pack_into("<QQ", data, 0x1F8, 0x3F, 2**63)
    data[0x2A0:0x330] = bytes(index % 250 + 1 for index in range(144))
    return bytes(data)


def as_json(data: bytes, **certificates: bytes) -> Any:
    return json.loads(json.dumps(snp_to_json(data, certificates)))


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_report_keeps_its_bytes(name: str) -> None:
    data = (recordings.folder("snp") / name).read_bytes()
    certificates = {"VCEK": b"\x30\x82", "ASK": b"ask"}
    assert snp_from_json(as_json(data, **certificates)) == (data, certificates)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("cpu", [MILAN, GENOA, TURIN], ids=["milan", "genoa", "turin"])
def test_every_version_and_line_keeps_its_bytes(version: int, cpu: tuple[int, int]) -> None:
    data = report(version, cpu)
    assert snp_from_json(as_json(data)) == (data, {})


@pytest.mark.parametrize("cpu", [MILAN, TURIN], ids=["milan", "turin"])
def test_a_version_2_report_of_a_masked_chip_keeps_its_bytes(cpu: tuple[int, int]) -> None:
    data = report(2, cpu, chip_id=bytes(64))
    assert snp_from_json(as_json(data)) == (data, {})
    assert (as_json(data)["attestation_report"]["reported_tcb"]["fmc"] is not None) == (cpu == TURIN)


def test_the_json_is_the_one_of_the_sev_crate() -> None:
    fields = as_json(report(5, TURIN), VLEK=b"\1\2")
    assert fields["cert_chain"] == [{"cert_type": "VLEK", "data": [1, 2]}]
    body = fields["attestation_report"]
    assert list(body) == [
        "version", "guest_svn", "policy", "family_id", "image_id", "vmpl", "sig_algo",
        "current_tcb", "plat_info", "key_info", "report_data", "measurement", "host_data",
        "id_key_digest", "author_key_digest", "report_id", "report_id_ma", "reported_tcb",
        "cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "chip_id", "committed_tcb", "current",
        "committed", "launch_tcb", "launch_mit_vector", "current_mit_vector", "signature",
    ]  # fmt: skip
    assert body["reported_tcb"] == {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    assert body["current"] == {"major": 1, "minor": 55, "build": 21}
    assert body["current_mit_vector"] == 2**63
    assert len(body["signature"]["r"]) == len(body["signature"]["s"]) == 72


def test_an_old_report_has_null_where_it_has_no_field() -> None:
    fields = as_json(report(2, MILAN))
    body = fields["attestation_report"]
    assert fields["cert_chain"] is None
    assert body["cpuid_fam_id"] is body["launch_mit_vector"] is body["reported_tcb"]["fmc"] is None


def test_an_older_crate_that_does_not_write_optional_fields_is_understood() -> None:
    data = report(3, MILAN)
    evidence = as_json(data)
    for name in ("launch_mit_vector", "current_mit_vector"):
        del evidence["attestation_report"][name]
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        del evidence["attestation_report"][name]["fmc"]
    assert snp_from_json(evidence)[0] == data


@pytest.mark.parametrize(
    "offset", [0x3A, 0x4C, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x208, 0x29F, 0x330, 0x49F], ids=hex
)
def test_a_reserved_byte_cannot_be_carried(offset: int) -> None:
    data = bytearray(report(3))
    data[offset] = 1
    with pytest.raises(FormatError, match="reserved byte"):
        snp_to_json(bytes(data), {})


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_another_length_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="1184"):
        snp_to_json(report().ljust(size, b"\0")[:size], {})


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(FormatError, match="version"):
        snp_to_json(struct.pack("<I", version) + report()[4:], {})
    evidence = as_json(report())
    evidence["attestation_report"]["version"] = version
    with pytest.raises(FormatError, match="version"):
        snp_from_json(evidence)


def test_an_unknown_kind_of_certificate_is_not_written() -> None:
    with pytest.raises(FormatError, match="cert_type"):
        snp_to_json(report(), {"ASVK": b""})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", "3"),
        ("version", True),
        ("guest_svn", -1),
        ("guest_svn", 2**32),
        ("policy", 2**64),
        ("policy", 1.0),
        ("vmpl", None),
        ("measurement", [0] * 47),
        ("measurement", [0] * 49),
        ("measurement", "0" * 48),
        ("measurement", [256] + [0] * 47),
        ("measurement", [-1] + [0] * 47),
        ("measurement", [True] + [0] * 47),
        ("measurement", [0.0] + [0] * 47),
        ("current_tcb", None),
        ("current_tcb.fmc", 256),
        ("current_tcb.snp", 256),
        ("current_tcb.snp", None),
        ("current_tcb.extra", 1),
        ("current.major", 256),
        ("current.patch", 1),
        ("cpuid_fam_id", 256),
        ("launch_mit_vector", 1),
        ("signature", None),
        ("signature.r", [0] * 71),
        ("signature.t", [0] * 72),
        ("unknown", 1),
    ],
)
def test_a_wrong_field_is_refused(path: str, value: object) -> None:
    evidence = as_json(report(3))
    target = evidence["attestation_report"]
    *parents, last = path.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(FormatError):
        snp_from_json(evidence)


@pytest.mark.parametrize("name", sorted(as_json(report(5))["attestation_report"]))
def test_a_missing_field_is_refused(name: str) -> None:
    evidence = as_json(report(5))
    del evidence["attestation_report"][name]
    with pytest.raises(FormatError, match=name.split("_")[0]):
        snp_from_json(evidence)


def test_two_tcb_layouts_in_one_report_are_refused() -> None:
    evidence = as_json(report(3, TURIN))
    evidence["attestation_report"]["launch_tcb"]["fmc"] = None
    with pytest.raises(FormatError, match="layout"):
        snp_from_json(evidence)


def test_a_tcb_layout_of_another_line_than_the_cpu_is_refused() -> None:
    evidence = as_json(report(3, GENOA))
    evidence["attestation_report"]["cpuid_fam_id"] = 0x1A
    with pytest.raises(FormatError, match="product line"):
        snp_from_json(evidence)


@pytest.mark.parametrize(
    "evidence", [None, [], {}, "x", {"attestation_report": None}, {"report": "x"}], ids=str
)
def test_what_is_no_evidence_is_refused(evidence: object) -> None:
    with pytest.raises(FormatError):
        snp_from_json(evidence)


@pytest.mark.parametrize(
    "chain",
    [
        {},
        "VCEK",
        [None],
        [{"cert_type": "VCEK"}],
        [{"cert_type": "VCEK", "data": [1], "extra": 1}],
        [{"cert_type": "XYZ", "data": [1]}],
        [{"cert_type": 7, "data": [1]}],
        [{"cert_type": "VCEK", "data": [300]}],
        [{"cert_type": "VCEK", "data": "MIIF"}],
        [{"cert_type": "VCEK", "data": [0] * 70_000}],
        [{"cert_type": "VCEK", "data": [1]}, {"cert_type": "VCEK", "data": [1]}],
        [{"cert_type": "VCEK", "data": [1]}] * 9,
    ],
    ids=[
        "object",
        "text",
        "null-item",
        "no-data",
        "extra",
        "unknown-kind",
        "number-kind",
        "no-byte",
        "base64",
        "long",
        "twice",
        "many",
    ],
)
def test_a_wrong_certificate_chain_is_refused(chain: object) -> None:
    with pytest.raises(FormatError):
        snp_from_json({**as_json(report()), "cert_chain": chain})


def test_a_hosts_own_table_entry_is_passed_over() -> None:
    chain = [
        {"cert_type": {"OTHER": "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"}, "data": [1]},
        {"cert_type": "VCEK", "data": [2]},
    ]
    assert snp_from_json({**as_json(report()), "cert_chain": chain})[1] == {"VCEK": b"\2"}


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)


@given(name=st.sampled_from(sorted(as_json(report(5))["attestation_report"])), value=JSON, chain=JSON)
@settings(deadline=None)
def test_nothing_but_our_error_leaves_from_json(name: str, value: object, chain: object) -> None:
    evidence = as_json(report(5, TURIN))
    evidence["attestation_report"][name] = value
    evidence["cert_chain"] = chain
    try:
        data, _ = snp_from_json(evidence)
    except FormatError:
        return
    assert len(data) == 1184


@given(
    data=st.binary(min_size=1180, max_size=1184)
    | st.binary(min_size=1180, max_size=1180).map(b"\3\0\0\0".__add__)
)
@settings(deadline=None)
def test_nothing_but_our_error_leaves_to_json(data: bytes) -> None:
    try:
        evidence = snp_to_json(data, {})
    except FormatError:
        return
    assert snp_from_json(evidence)[0] == data
