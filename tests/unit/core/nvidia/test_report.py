# SPDX-License-Identifier: BSD-3-Clause
"""Reports: bytes to fields, every length checked, nothing but our own error for bad bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.errors import FormatError
from sealroom.nvidia import DeviceReport, OpaqueType
from sealroom.nvidia.opaque import read_opaque, vbios_text
from sealroom.nvidia.spdm import MAX_REPORT, SIGNATURE_SIZE
from sealroom.simulated.gpu_reports import GpuReportFields
from support.gpu_vectors import read, real, take_apart
from support.nvidia import NONCE, error_of, outcome, refused, verify

REPORT = testing.gpu().report(NONCE)
OPAQUE_LENGTH = 45 + int.from_bytes(REPORT[42:45], "little") + 32
REPORTS = real(
    "hopper_535.86.09",
    "hopper_550.90.07",
    "hopper_570.124.03",
    "hopper_590.12_0",
    "hopper_590.12_multi_1",
    "blackwell_575.32",
)


def bad(raw: bytes, check: str) -> FormatError:
    error = refused(FormatError, check, lambda: DeviceReport.from_bytes(raw))
    assert isinstance(error, FormatError)
    assert error.field
    assert error.offset is not None
    assert 0 <= error.offset <= max(len(raw), MAX_REPORT)
    return error


def laid_out(**changes: Any) -> bytes:
    return replace(testing.gpu().fields(NONCE), **changes).signed_part() + bytes(SIGNATURE_SIZE)


def patched(offset: int, data: bytes) -> bytes:
    return REPORT[:offset] + data + REPORT[offset + len(data) :]


# --- what is read


@pytest.mark.parametrize("name", REPORTS)
def test_parts_of_a_real_report(name: str) -> None:
    raw = read(f"{name}.report.bin")
    report, taken = DeviceReport.from_bytes(raw), take_apart(raw)

    assert report.requester_nonce == taken.nonce
    assert report.responder_nonce == taken.responder_nonce
    assert report.measurements == taken.measurements
    assert tuple(report.opaque.items()) == taken.opaque
    assert report.signature == taken.signature
    assert report.signed + report.signature == raw
    assert report.trailing == taken.rest == b""


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL", "LS10"])
def test_fields_of_a_simulated_report(architecture: Any) -> None:
    gpu = testing.gpu(architecture)
    report = DeviceReport.from_bytes(gpu.report(NONCE))

    assert report.requester_nonce == NONCE
    assert report.measurements == gpu.measurements
    assert report.vbios_version == gpu.vbios_version
    assert report.driver_version == gpu.driver_version
    assert report.is_switch is (architecture == "LS10")
    assert report.slot == 0


@pytest.mark.parametrize("feature", ["SPT", "MPT", "PPCIE", None])
def test_mode(feature: Any) -> None:
    assert DeviceReport.from_bytes(testing.gpu(feature=feature).report(NONCE)).feature == feature


@pytest.mark.parametrize(("status", "mode"), [(b"\xaa", "PPCIE"), (b"\x55", None)])
def test_driver_without_a_mode_says_whether_protected_pcie_is_on(status: bytes, mode: str | None) -> None:
    raw = testing.gpu(feature=None).report(NONCE, opaque={OpaqueType.PROTECTED_PCIE_STATUS: status})
    assert DeviceReport.from_bytes(raw).feature == mode


def test_mode_that_is_not_known_is_none() -> None:
    raw = testing.gpu().report(NONCE, opaque={OpaqueType.FEATURE_FLAG: b"\7\0"})
    assert DeviceReport.from_bytes(raw).feature is None


@pytest.mark.parametrize(("nvdec0", "disabled"), [(True, False), (False, True)])
def test_video_decoder(nvdec0: bool, disabled: bool) -> None:
    assert DeviceReport.from_bytes(testing.gpu(nvdec0=nvdec0).report(NONCE)).nvdec0_disabled is disabled


def test_old_driver_names_no_firmware_id_and_no_mode() -> None:
    report = DeviceReport.from_bytes(testing.gpu(driver_version="535.86.09").report(NONCE))
    assert (report.fwid, report.feature, report.chip_info) == (None, None, "")


def test_unknown_opaque_field_is_kept() -> None:
    raw = testing.gpu().report(NONCE, opaque={999: b"new"})
    assert DeviceReport.from_bytes(raw).opaque[999] == b"new"


def test_absent_texts_are_empty() -> None:
    left_out: dict[int, bytes | None] = dict.fromkeys(
        (OpaqueType.VBIOS_VERSION, OpaqueType.PROJECT, OpaqueType.CHIP_SKU)
    )
    report = DeviceReport.from_bytes(testing.gpu().report(NONCE, opaque=left_out))
    assert (report.vbios_version, report.project, report.chip_sku) == ("", "", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (bytes.fromhex("009f009601000000"), "96.00.9F.00.01"),
        (bytes.fromhex("008800970f000000"), "97.00.88.00.0F"),
        (b"96.10.6d.00.01\0", "96.10.6D.00.01"),
    ],
)
def test_vbios_version(value: bytes, text: str) -> None:
    assert vbios_text(value) == text


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DeviceReport.from_bytes(REPORT).opaque[1] = b""  # type: ignore[index]


# --- the byte after the signature


def test_one_byte_after_the_signature_is_accepted_and_named() -> None:
    """A published guest appends one; Trustee passes over it, and NVIDIA's verifier takes it for signature.

    The lengths in the report determine where the signature ends. What stands after it is covered by nothing,
    so it is neither read nor called good: the check is "not asked", and says how many bytes there are.
    """
    verified = verify(report=REPORT + b"\0")

    assert verified.report.trailing == b"\0"
    assert verified.report.signed == REPORT[:-SIGNATURE_SIZE]
    assert outcome(verified.checks, "nvidia.report.trailing") is Outcome.NOT_ASKED
    (said,) = (one.detail for one in verified.checks if one.id == "nvidia.report.trailing")
    assert said == "1 byte after the signature is covered by nothing and was not read"


def test_no_byte_after_the_signature_is_a_passed_check() -> None:
    assert outcome(verify().checks, "nvidia.report.trailing") is Outcome.PASSED


@pytest.mark.parametrize("name", REPORTS)
def test_one_byte_after_a_real_report_changes_no_field(name: str) -> None:
    raw = read(f"{name}.report.bin")
    report, longer = DeviceReport.from_bytes(raw), DeviceReport.from_bytes(raw + b"\xff")
    assert longer.trailing == b"\xff"
    assert replace(longer, raw=raw, trailing=b"") == report


@pytest.mark.parametrize("count", [2, 3, 96, 1000])
def test_more_bytes_after_the_signature_are_refused(count: int) -> None:
    error = bad(REPORT + bytes(count), "nvidia.report.trailing")
    assert error.offset == len(REPORT)


# --- what is refused


@pytest.mark.parametrize("size", [0, 3, 4, 36, 37, 40, 41, 45, 100, 3600, len(REPORT) - 97, len(REPORT) - 1])
def test_report_that_ends_early(size: int) -> None:
    bad(REPORT[:size], "nvidia.report.length")


def test_report_that_is_longer_than_any() -> None:
    bad(REPORT + bytes(MAX_REPORT), "nvidia.report.length")


@pytest.mark.parametrize(
    "header", [b"\x12\xe0\x01\xff", b"\x11\xe1\x01\xff", b"\x11\xe0\x00\xff", b"\x11\xe0\x01\x01"]
)
def test_request_that_is_another(header: bytes) -> None:
    assert bad(laid_out(request_header=header), "nvidia.report.request").offset == 0


@pytest.mark.parametrize("header", [b"\x12\x60\x00\x00", b"\x11\x7f\x00\x00", b"\x11\x60\x00\x01"])
def test_response_that_is_another(header: bytes) -> None:
    assert bad(laid_out(response_header=header), "nvidia.report.response").offset == 37


@pytest.mark.parametrize("count", [0, 65, 255])
def test_number_of_blocks_that_is_impossible(count: int) -> None:
    assert bad(patched(41, bytes([count])), "nvidia.report.blocks").offset == 41


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        pytest.param(42, b"\0\0\0", id="record length"),
        pytest.param(45, b"\2", id="index of the first"),
        pytest.param(45 + 55, b"\1", id="index of the second"),
        pytest.param(46, b"\0", id="specification"),
        pytest.param(47, b"\x34\0", id="size"),
        pytest.param(50, b"\x20\0", id="value size"),
    ],
)
def test_block_that_is_malformed(offset: int, data: bytes) -> None:
    bad(patched(offset, data), "nvidia.report.blocks")


def test_block_with_a_shorter_value() -> None:
    bad(laid_out(measurements=(bytes(32),) * 64), "nvidia.report.blocks")


def test_opaque_length_beyond_the_end() -> None:
    bad(patched(OPAQUE_LENGTH, b"\xff\xff"), "nvidia.report.length")


@pytest.mark.parametrize(
    "opaque",
    [
        pytest.param(((3, b"580.1\0"), (3, b"580.2\0")), id="twice"),
        pytest.param(((3, b"580.1\0x"),), id="text after its end"),
        pytest.param(((3, b"580\x1b[2J\0"),), id="driver that is no text"),
        pytest.param(((17, b"\xff"),), id="project that is no text"),
        pytest.param(((35, b"GB\n100\0"),), id="chip that is no text"),
        pytest.param(((20, bytes(32)),), id="firmware id of another size"),
        pytest.param(((6, b"\1"),), id="VBIOS of one byte"),
        pytest.param(((36, b""),), id="mode without a value"),
        pytest.param(((36, bytes(8)),), id="mode of eight bytes"),
    ],
)
def test_opaque_field_that_is_malformed(opaque: tuple[tuple[int, bytes], ...]) -> None:
    bad(laid_out(opaque=opaque), "nvidia.report.opaque")


def test_opaque_field_beyond_the_opaque_data() -> None:
    with pytest.raises(FormatError, match="reaches beyond") as caught:
        read_opaque(b"\x03\x00\x05\x00abc", 1000)
    assert caught.value.offset == 1000


def test_message_is_one_printable_line() -> None:
    error = bad(laid_out(opaque=((3, b"\x1b[31m\0"),)), "nvidia.report.opaque")
    assert error.message.isprintable()


# --- properties


@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    for data in (raw, REPORT[:41] + raw, REPORT[: OPAQUE_LENGTH + 2] + raw):
        error = error_of(partial(DeviceReport.from_bytes, data))
        assert error is None or error.check.startswith("nvidia.report.")
        assert error is not None or DeviceReport.from_bytes(data).raw == data


blocks = st.lists(st.binary(min_size=48, max_size=48), min_size=1, max_size=64).map(tuple)
unknown = st.lists(
    st.tuples(st.integers(min_value=40, max_value=65535), st.binary(max_size=40)),
    max_size=8,
    unique_by=lambda one: one[0],
).map(tuple)


@given(blocks, unknown, st.binary(min_size=32, max_size=32), st.binary(max_size=1))
def test_what_is_laid_out_is_read_back(
    measurements: tuple[bytes, ...], opaque: tuple[tuple[int, bytes], ...], nonce: bytes, rest: bytes
) -> None:
    fields = GpuReportFields(nonce, nonce[::-1], measurements, opaque)
    report = DeviceReport.from_bytes(fields.signed_part() + bytes(96) + rest)

    assert report.requester_nonce == nonce
    assert report.responder_nonce == nonce[::-1]
    assert report.measurements == measurements
    assert dict(report.opaque) == dict(opaque)
    assert report.signed == fields.signed_part()
    assert report.trailing == rest


@given(st.integers(min_value=0, max_value=len(REPORT) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_refused_or_is_another_report(offset: int, change: int) -> None:
    changed = patched(offset, bytes([REPORT[offset] ^ change]))
    try:
        report = DeviceReport.from_bytes(changed)
    except FormatError:
        return
    assert report != DeviceReport.from_bytes(REPORT)
