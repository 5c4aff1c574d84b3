# SPDX-License-Identifier: BSD-3-Clause
"""Evidence bundles: our own document, so nothing in it is unknown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import FormatError
from sealroom.snp.bundle import MAX_BUNDLE, MAX_DEVICES, EvidenceBundle, device_nonce_for, report_data_for

GOOD = EvidenceBundle(
    nonce=bytes(range(32)),
    report=b"report",
    certificates={"VCEK": b"vcek", "ASK": b"ask"},
    runtime_data={"session": "1"},
    provider="simulated",
    created="2026-11-24T12:00:00Z",
)


def test_bundles_come_back() -> None:
    assert EvidenceBundle.from_json(GOOD.to_json()) == GOOD


def test_the_nonce_is_bound_by_its_digest() -> None:
    nonce = b"n" * 16

    assert report_data_for(nonce) == hashlib.sha512(b"sealroom-evidence/1\0" + nonce).digest()


def test_the_devices_evidence_is_bound_with_the_nonce() -> None:
    nonce, devices = b"n" * 16, '{"nvidia":{}}'
    covered = hashlib.sha384(devices.encode()).digest()

    bound = hashlib.sha512(b"sealroom-evidence/1+devices\0" + covered + nonce).digest()

    assert report_data_for(nonce, devices) == bound


def test_no_nonce_stands_for_devices() -> None:
    nonce, devices = b"n" * 16, '{"nvidia":{}}'
    covered = hashlib.sha384(devices.encode()).digest()

    # Whoever may choose a nonce chooses what would follow the other prefix.
    assert report_data_for(covered + nonce) != report_data_for(nonce, devices)


def test_devices_answer_a_nonce_of_their_own() -> None:
    nonce = b"n" * 16

    assert device_nonce_for(nonce) == hashlib.sha256(b"sealroom-evidence/1+device\0" + nonce).digest()


def test_bundles_with_devices_come_back() -> None:
    with_devices = dataclasses.replace(GOOD, devices='{"nvidia":{"device_evidence_list":[]}}')

    assert EvidenceBundle.from_json(with_devices.to_json()) == with_devices
    assert b"additional_evidence" not in GOOD.to_json()


def changed(**changes: Any) -> bytes:
    document = json.loads(GOOD.to_json())
    document.update(changes)
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_members_that_may_be_left_out() -> None:
    parsed = EvidenceBundle.from_json(changed(runtime_data=None, provider=None, created=None))

    assert (parsed.runtime_data, parsed.provider, parsed.created) == ({}, "", "")


REFUSED = {
    "another format": changed(format="sealroom-evidence/2"),
    "no format": changed(format=None),
    "another tee": changed(tee="tdx"),
    "no nonce": changed(nonce=None),
    "nonce of 15 bytes": changed(nonce="00" * 15),
    "nonce of 65 bytes": changed(nonce="00" * 65),
    "nonce that is no hex": changed(nonce="xyz"),
    "nonce that is a number": changed(nonce=5),
    "report that is no base64": changed(report="!"),
    "report with a line break": changed(report="cmVw\nb3J0"),
    "no report": changed(report=None),
    "devices that are no text": changed(additional_evidence={}),
    "devices beyond ASCII": changed(additional_evidence="\u00e9"),
    "too many devices": changed(additional_evidence="x" * (MAX_DEVICES + 1)),
    "certificates that are a list": changed(certificates=[]),
    "certificate that is a number": changed(certificates={"VCEK": 1}),
    "runtime data that is a list": changed(runtime_data=[1]),
    "runtime data that is zero": changed(runtime_data=0),
    "provider that is a number": changed(provider=1),
    "unknown member": changed(more="x"),
    "a list": b"[]",
    "no json": b"{",
    "no utf-8": b"\xff",
    "nested without end": b"[" * 100_000,
    "too long": b" " * (MAX_BUNDLE + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        EvidenceBundle.from_json(data)

    assert caught.value.check == "snp.bundle.format"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_document_raises_anything_else(value: object) -> None:
    for data in (
        json.dumps(value).encode(),
        changed(certificates=value),
        changed(nonce=value),
        changed(report=value),
    ):
        try:
            EvidenceBundle.from_json(data)
        except FormatError as error:
            assert error.check == "snp.bundle.format"  # noqa: PT017
