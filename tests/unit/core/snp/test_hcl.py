# SPDX-License-Identifier: BSD-3-Clause
"""Azure's HCL reports."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import BindingError, Error, FormatError
from sealroom.snp import Roots, verify_report
from sealroom.snp.hcl import MAX_HCL, HclReport
from support.vectors import REAL_NOW

RUNTIME = b'{"keys":[]}'


def hcl(
    runtime: bytes = RUNTIME,
    *,
    covered: bytes | None = None,
    magic: bytes = b"HCLA",
    kind: int = 2,
    hash_type: int = 1,
    size: int | None = None,
    length: int | None = None,
    tail: bytes = bytes(100),
) -> bytes:
    digest = hashlib.sha256(runtime).digest() if covered is None else covered
    report = testing.chip().report(report_data=digest.ljust(64, b"\0"))
    header = struct.pack("<4sIIII12x", magic, 1, 2346, 2, 0)
    runtime_header = struct.pack(
        "<IIIII", 20 + len(runtime) if size is None else size, 1, kind, hash_type,
        len(runtime) if length is None else length,
    )  # fmt: skip
    return header + report + runtime_header + runtime + tail


@pytest.mark.parametrize("name", ["az_v0", "az_v1"])
def test_recorded_hcl_reports(vectors: Path, name: str) -> None:
    folder = vectors / "snp" / "trustee-azure"

    parsed = HclReport.from_bytes((folder / f"{name}_hcl.bin").read_bytes())

    assert parsed.report == (folder / f"{name}_report.bin").read_bytes()
    assert {key["kid"] for key in json.loads(parsed.runtime_data)["keys"]} == {"HCLAkPub", "HCLEkPub"}
    verify_report(
        parsed.report, (folder / f"{name}_vcek.der").read_bytes(), roots=Roots.amd(), at=REAL_NOW[""]
    )


def test_covered_runtime_data_is_returned() -> None:
    assert HclReport.from_bytes(hcl()).runtime_data == RUNTIME


@pytest.mark.parametrize(("hash_type", "name"), [(2, "sha384"), (3, "sha512")])
def test_longer_digests(hash_type: int, name: str) -> None:
    data = hcl(covered=hashlib.new(name, RUNTIME).digest(), hash_type=hash_type)

    assert HclReport.from_bytes(data).runtime_data == RUNTIME


REFUSED = {
    "another magic": {"magic": b"HCLB"},
    "another type": {"kind": 4},
    "unknown hash": {"hash_type": 0},
    "hash 4": {"hash_type": 4},
    "lengths that differ": {"size": 21},
    "longer than the file": {"length": 5000, "size": 5020},
    "bytes after it": {"tail": b"\0\1"},
    "longer than any": {"tail": bytes(MAX_HCL)},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_refused(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError) as caught:
        HclReport.from_bytes(hcl(**changes))  # type: ignore[arg-type]

    assert caught.value.check == "snp.hcl.format"


@pytest.mark.parametrize("size", [0, 4, 0x20, 0x4C0, 0x4D3])
def test_cut_reports_are_refused(size: int) -> None:
    with pytest.raises(FormatError):
        HclReport.from_bytes(hcl()[:size])


@pytest.mark.parametrize(
    "covered",
    [bytes(32), hashlib.sha256(RUNTIME).digest() + b"\1"],
    ids=["another digest", "more than the digest"],
)
def test_runtime_data_that_is_not_covered_is_refused(covered: bytes) -> None:
    with pytest.raises(BindingError) as caught:
        HclReport.from_bytes(hcl(covered=covered))

    assert caught.value.check == "snp.hcl.runtime_data"


@given(st.binary(max_size=64), st.integers(0, 1500))
def test_no_bytes_raise_anything_else(data: bytes, at: int) -> None:
    good = hcl()
    try:
        HclReport.from_bytes(good[:at] + data + good[at + len(data) :])
    except Error as error:
        assert error.check.startswith("snp.hcl.")  # noqa: PT017
