# SPDX-License-Identifier: BSD-3-Clause
"""TCB versions and product lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import FormatError
from sealroom.snp import ProductLine, TcbVersion, line_from_cpuid

LEVEL = st.integers(0, 255)
OLD = st.builds(TcbVersion, bootloader=LEVEL, tee=LEVEL, snp=LEVEL, microcode=LEVEL)
NEW = st.builds(TcbVersion, bootloader=LEVEL, tee=LEVEL, snp=LEVEL, microcode=LEVEL, fmc=LEVEL)


@given(OLD)
def test_old_layout_comes_back(tcb: TcbVersion) -> None:
    assert TcbVersion.from_bytes(tcb.to_bytes(), ProductLine.MILAN) == tcb
    assert TcbVersion.from_bytes(tcb.to_bytes(), ProductLine.GENOA) == tcb


@given(NEW)
def test_turin_layout_comes_back(tcb: TcbVersion) -> None:
    assert TcbVersion.from_bytes(tcb.to_bytes(), ProductLine.TURIN) == tcb


def test_layouts_differ() -> None:
    raw = bytes((1, 2, 0, 0, 0, 0, 0, 8))

    assert TcbVersion.from_bytes(raw, ProductLine.MILAN) == TcbVersion(
        bootloader=1, tee=2, snp=0, microcode=8
    )
    assert TcbVersion.from_bytes(raw, ProductLine.TURIN) == TcbVersion(
        fmc=1, bootloader=2, tee=0, snp=0, microcode=8
    )


@pytest.mark.parametrize("size", [0, 7, 9])
def test_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(FormatError):
        TcbVersion.from_bytes(bytes(size), ProductLine.MILAN)


@given(OLD, OLD)
def test_comparison_is_by_component(one: TcbVersion, other: TcbVersion) -> None:
    lower = [name for name, value in one.components().items() if value < other.components()[name]]

    assert list(one.below(other)) == lower
    assert one.at_least(other) == (not lower)


def test_a_higher_component_does_not_make_up_for_a_lower_one() -> None:
    new = TcbVersion(bootloader=9, tee=9, snp=9, microcode=1)

    assert not new.at_least(TcbVersion(bootloader=1, tee=1, snp=1, microcode=2))


@given(OLD, NEW)
def test_layouts_are_not_comparable(old: TcbVersion, new: TcbVersion) -> None:
    assert "fmc" in old.below(new)
    assert "fmc" in new.below(old)


@pytest.mark.parametrize(
    ("family", "models", "line"),
    [
        (0x19, range(0x10), ProductLine.MILAN),
        (0x19, range(0x10, 0x20), ProductLine.GENOA),
        (0x19, range(0xA0, 0xB0), ProductLine.GENOA),
        (0x1A, range(0x12), ProductLine.TURIN),
    ],
)
def test_known_parts(family: int, models: range, line: ProductLine) -> None:
    assert {line_from_cpuid(family, model) for model in models} == {line}


def test_every_other_part_is_unknown() -> None:
    known = sum(line_from_cpuid(family, model) is not None for family in range(256) for model in range(256))

    assert known == 16 + 16 + 16 + 18
