# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sealroom.audit.entry import (
    MAX_HEADERS,
    AuditEntry,
    AuditPerson,
    AuditReason,
    Decision,
    EarSummary,
    GrantVersion,
    header_digests,
)
from sealroom.audit.tlog import leaf_hash
from sealroom.canonical import canonical_json
from sealroom.errors import FormatError

DIGEST = "sha256:" + "ab" * 32
ENTRY = AuditEntry(
    time=datetime(2026, 11, 2, 10, 0, 0, 5, tzinfo=UTC),
    kind="release",
    person=AuditPerson(subject="u1", name="Ada", issuer="hub"),
    server="ada/",
    dataset="heartbeats",
    manifest_sha256="cd" * 32,
    purpose="DUO:0000042",
    grant=GrantVersion(id="g1", version=DIGEST),
    decision=Decision(allowed=True),
    environment=DIGEST,
    policy=DIGEST,
    ear=EarSummary(tier="simulated", simulated=True, devices={"cpu0": "simulated"}),
    evidence="ef" * 32,
    headers=("01" * 32,),
)


def test_an_entry_reads_back() -> None:
    assert AuditEntry.from_bytes(ENTRY.to_bytes()) == ENTRY


def test_the_bytes_are_canonical_and_say_everything() -> None:
    data = json.loads(ENTRY.to_bytes())
    assert canonical_json(data) == ENTRY.to_bytes()
    assert data["time"] == "2026-11-02T10:00:00.000005Z"
    assert "index" not in data
    assert ENTRY.leaf_hash() == leaf_hash(ENTRY.to_bytes())


def test_the_bytes_do_not_depend_on_the_time_zone() -> None:
    elsewhere = ENTRY.time.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert ENTRY.model_copy(update={"time": elsewhere.astimezone(UTC)}).to_bytes() == ENTRY.to_bytes()
    assert AuditEntry(time=elsewhere, kind="start", decision=Decision(allowed=True)).time.tzinfo is UTC


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="time zone"):
        AuditEntry(time=datetime(2026, 1, 1), kind="start", decision=Decision(allowed=True))  # noqa: DTZ001


RIMS = ("01" * 32, "02" * 32)


def test_collateral_is_named_by_kind_and_digest() -> None:
    entry = ENTRY.model_copy(update={"collateral": {"nvidia.rim": RIMS}})
    assert json.loads(entry.to_bytes())["collateral"] == {"nvidia.rim": list(RIMS)}
    assert AuditEntry.from_bytes(entry.to_bytes()) == entry


def test_an_entry_without_collateral_is_spelled_as_it_always_was() -> None:
    assert b"collateral" not in ENTRY.to_bytes()
    assert AuditEntry.from_bytes(ENTRY.to_bytes()).collateral == {}


@pytest.mark.parametrize(
    "collateral",
    [{}, {"nvidia.rim": []}, {"nvidia.rim": [*RIMS[::-1]]}, {"nvidia.rim": [RIMS[0]] * 2}, {"A": [RIMS[0]]}],
    ids=["empty", "empty-kind", "unsorted", "twice", "strange-kind"],
)
def test_collateral_has_one_spelling(collateral: dict[str, list[str]]) -> None:
    with pytest.raises(FormatError):
        AuditEntry.from_bytes(changed(collateral=collateral))


def changed(**fields: Any) -> bytes:
    return canonical_json({**json.loads(ENTRY.to_bytes()), **fields})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        ENTRY.to_bytes() + b"\n",
        ENTRY.to_bytes().replace(b'"dataset"', b' "dataset"'),
        changed(kind="other"),
        changed(format="sealroom-audit/2"),
        changed(more=1),
        changed(index=1),
        changed(evidence="EF" * 32),
        changed(evidence="ef" * 31),
        changed(environment="ab" * 32),
        changed(time="2026-11-02T10:00:00Z"),
        changed(time="2026-11-02T11:00:00.000005+01:00"),
        changed(time=1793613600),
        changed(decision={"allowed": "yes"}),
    ],
)
def test_what_is_no_entry_in_canonical_form_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        AuditEntry.from_bytes(data)


def test_a_missing_default_is_another_spelling_and_refused() -> None:
    content = json.loads(ENTRY.to_bytes())
    del content["actor"]
    with pytest.raises(FormatError, match="canonical"):
        AuditEntry.from_bytes(canonical_json(content))


@given(st.binary() | st.dictionaries(st.text(), st.text()).map(lambda value: json.dumps(value).encode()))
def test_nothing_but_our_error_leaves_from_bytes(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        AuditEntry.from_bytes(data)


@given(st.integers(0, len(ENTRY.to_bytes()) - 1), st.integers(1, 255))
def test_every_changed_byte_is_another_entry_or_none(index: int, flip: int) -> None:
    data = bytearray(ENTRY.to_bytes())
    data[index] ^= flip
    try:
        entry = AuditEntry.from_bytes(bytes(data))
    except FormatError:
        return
    assert entry != ENTRY
    assert entry.to_bytes() == bytes(data)


def test_an_entry_that_is_too_long_for_the_log_is_refused() -> None:
    reasons = tuple(AuditReason(code="x", sentence="y" * 1000) for _ in range(70))
    with pytest.raises(FormatError, match="65535"):
        ENTRY.model_copy(update={"decision": Decision(allowed=False, reasons=reasons)}).to_bytes()


def test_headers_are_named_by_digest_in_the_order_of_their_names() -> None:
    digests = header_digests({"b": b"2", "a": b"1"})
    assert digests == (hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest())
    assert header_digests({}) == ()


def test_very_many_headers_are_named_by_one_root_and_fit() -> None:
    headers = {f"{number:05}": str(number).encode() for number in range(MAX_HEADERS + 1)}
    (root,) = header_digests(headers)
    assert root.startswith("merkle:")
    assert header_digests({**headers, "00000": b"other"}) != (root,)
    most = {name: headers[name] for name in sorted(headers)[:MAX_HEADERS]}
    ENTRY.model_copy(update={"headers": header_digests(most)}).to_bytes()
