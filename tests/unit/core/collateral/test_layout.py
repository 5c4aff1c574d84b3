# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.collateral import layout
from sealroom.collateral.layout import Entry, Kind
from sealroom.errors import FormatError
from sealroom.snp import ProductLine, Roots, TcbVersion, VekKind

TCB = TcbVersion(3, 0, 8, 115)
TURIN_TCB = TcbVersion(1, 0, 2, 71, fmc=0)


def test_names_of_amds_entries_are_as_documented() -> None:
    amd = Roots.amd()
    assert layout.vcek_name(amd, ProductLine.MILAN, bytes(range(64)), TCB) == (
        f"amd/milan/vcek/{bytes(range(64)).hex()}/bl3-tee0-snp8-ucode115.der"
    )
    assert layout.vcek_name(amd, ProductLine.TURIN, bytes(range(8)), TURIN_TCB) == (
        "amd/turin/vcek/0001020304050607/fmc0-bl1-tee0-snp2-ucode71.der"
    )
    assert layout.crl_name(amd, ProductLine.GENOA, VekKind.VCEK) == "amd/genoa/crl.der"
    assert layout.crl_name(amd, ProductLine.GENOA, VekKind.VLEK) == "amd/genoa/crl-vlek.der"


def test_entries_under_a_development_root_are_apart() -> None:
    roots = testing.development_roots()
    name = layout.vcek_name(roots, ProductLine.GENOA, bytes(64), TCB)
    assert name.startswith(f"development/{roots.fingerprint[:16]}/amd/genoa/")
    assert Entry.parse(name).fingerprint == roots.fingerprint[:16]


def test_parsed_name_says_what_it_was_made_of() -> None:
    amd = Roots.amd()
    entry = Entry.parse(layout.vcek_name(amd, ProductLine.TURIN, bytes(range(8)), TURIN_TCB))
    assert (entry.kind, entry.line, entry.hwid, entry.tcb) == (
        Kind.VCEK,
        ProductLine.TURIN,
        bytes(range(8)),
        TURIN_TCB,
    )
    entry = Entry.parse(layout.vlek_name(amd, ProductLine.MILAN, TCB, b"vlek"))
    assert (entry.kind, entry.tcb, entry.digest) == (Kind.VLEK, TCB, hashlib.sha256(b"vlek").hexdigest())
    entry = Entry.parse(layout.ca_name(amd, ProductLine.MILAN, "ASVK", b"ca"))
    assert (entry.kind, entry.role) == (Kind.CA, "ASVK")
    assert Entry.parse("amd/milan/crl-vlek.json").vlek is True
    assert Entry.parse("amd/milan/crl.der").vlek is False
    assert Entry.parse(layout.ocsp_name(amd, b"certificate")).kind is Kind.OCSP
    folder = layout.rim_folder(amd, "NV_GPU_DRIVER_GH100_550.90.07")
    assert Entry.parse(f"{folder}/current.json").rim_id == "NV_GPU_DRIVER_GH100_550.90.07"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/amd/milan/crl.der",
        "../amd/milan/crl.der",
        "amd/../amd/milan/crl.der",
        "amd/milan/./crl.der",
        "amd/milan//crl.der",
        "amd/milan/crl.der\n",
        "amd/Milan/crl.der",
        "amd/venice/crl.der",
        "amd/milan/vcek/" + "00" * 64 + "/bl03-tee0-snp8-ucode115.der",
        "amd/milan/vcek/" + "00" * 64 + "/bl3-tee0-snp8-ucode256.der",
        "amd/milan/vcek/" + "00" * 32 + "/bl3-tee0-snp8-ucode115.der",
        "nvidia/rim/../current.json",
        "nvidia/rim/a..b/current.json",
        "nvidia/rim/.hidden/current.json",
        "nvidia/rim/" + "a" * 129 + "/current.json",
        "nvidia/ocsp/" + "A" * 64 + ".der",
        "development/xyz/amd/milan/crl.der",
        ".lock",
    ],
)
def test_other_name_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        Entry.parse(name)


@given(st.text(max_size=60) | st.from_regex(r"(amd|nvidia)/[a-z./0-9-]{1,60}"))
def test_whatever_parses_stays_inside_the_store(name: str) -> None:
    try:
        entry = Entry.parse(name)
    except FormatError:
        return
    assert entry.name == name
    assert not name.startswith("/")
    assert ".." not in name.split("/")


@given(
    st.builds(
        TcbVersion,
        *(st.integers(0, 255) for _ in range(4)),
        fmc=st.none() | st.integers(0, 255),
    )
)
def test_tcb_survives_its_name(tcb: TcbVersion) -> None:
    assert layout.parse_tcb(layout.tcb_text(tcb)) == tcb


@pytest.mark.parametrize(
    "text", ["", "bl1", "bl1-tee0-snp2", "bl1-tee0-snp2-ucode300", "bl-1-tee0-snp2-ucode3"]
)
def test_text_that_is_no_tcb_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="is no TCB"):
        layout.parse_tcb(text)
