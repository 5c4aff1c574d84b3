# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.canonical import MAX_DEPTH, canonical_json
from sealroom.errors import FormatError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def test_rfc_8785_sorts_keys_by_utf16_code_units() -> None:
    # RFC 8785, section 3.2.3: the example's keys, in the order that it gives.
    keys = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    written = canonical_json(dict.fromkeys(reversed(keys), 0))
    assert list(json.loads(written)) == keys


def test_rfc_8785_writes_strings_and_literals() -> None:
    # RFC 8785, section 3.2.2, without its numbers.
    value = {"string": '\u20ac$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical_json(value).decode() == expected


@given(VALUES)
def test_reads_back_as_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(TEXT, st.integers(0, 9), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1.0, "float"),
        ([float("nan")], "float"),
        (2**53, "2\\^53"),
        (-(2**53), "2\\^53"),
        ({1: "x"}, "key"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
    ],
)
def test_refuses_what_has_no_canonical_form(value: object, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        canonical_json(value)


def test_refuses_deep_nesting() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(FormatError, match="nested"):
        canonical_json(value)


def test_refuses_nesting_far_beyond_the_recursion_limit() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(FormatError, match="nested"):
        canonical_json(value)
    while value:  # taken apart by hand: the interpreter's own recursion is not under test
        value = value.pop()
