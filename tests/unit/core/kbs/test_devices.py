# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import Error, FormatError
from sealroom.kbs.devices import (
    MAX_CHAIN,
    MAX_DEVICES,
    MAX_REPORT,
    MAX_TEXT,
    Device,
    decode_devices,
    encode_devices,
)
from support.vectors import ABSENT, VECTORS

REAL = sorted(path.name for path in (VECTORS / "nvidia").glob("*.report.bin"))

devices = st.builds(
    Device,
    arch=st.sampled_from(["HOPPER", "BLACKWELL", "LS10"]),
    uuid=st.text(min_size=1, max_size=64),
    # Not only empty: an empty text is refused. Not only hexadecimal digits when written in base64.
    report=st.binary(max_size=200).map(lambda tail: b"\x11\xe0\x01\xff" + tail),
    chain_pem=st.binary(min_size=1, max_size=200),
)


@given(st.lists(devices, max_size=4))
def test_devices_round_trip(some: list[Device]) -> None:
    assert decode_devices(encode_devices(some)) == tuple(some)


def test_nothing_is_an_empty_text() -> None:
    assert encode_devices([]) == ""
    assert decode_devices("") == ()


def test_form_is_the_one_of_cocos_attester() -> None:
    gathered = testing.device_evidence(bytes(32))
    assert json.loads(encode_devices([gathered])) == {
        "nvidia": {
            "device_evidence_list": [
                {
                    "arch": "HOPPER",
                    "uuid": gathered.uuid,
                    "evidence": base64.b64encode(gathered.report).decode(),
                    "certificate": base64.b64encode(gathered.chain_pem).decode(),
                }
            ]
        }
    }


@pytest.mark.parametrize("name", REAL or [pytest.param("", marks=pytest.mark.skip(reason=ABSENT))])
def test_real_reports_are_read_in_base64_and_in_the_former_hexadecimal_form(name: str) -> None:
    path = VECTORS / "nvidia" / name
    report, chain = path.read_bytes(), path.with_name(name.replace("report.bin", "chain.pem")).read_bytes()
    for evidence in (base64.b64encode(report).decode(), report.hex(), report.hex().upper()):
        (device,) = decode_devices(text(arch="Hopper", evidence=evidence, certificate=b64(chain)))
        assert device == Device("HOPPER", "GPU-1", report, chain)


def test_a_guest_without_uuids_is_understood() -> None:
    items = json.loads(text())
    del items["nvidia"]["device_evidence_list"][0]["uuid"]
    assert decode_devices(json.dumps(items))[0].uuid == "unknown"


def test_unknown_members_of_a_newer_guest_are_passed_over() -> None:
    assert decode_devices(text(firmware="2")) == decode_devices(text())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def text(**changes: Any) -> str:
    """Return the evidence of one device, right but for `changes`."""
    item = {
        "arch": "HOPPER",
        "uuid": "GPU-1",
        "evidence": b64(b"\x11\xe0\x01\xff"),
        "certificate": b64(b"pem"),
    }
    return json.dumps({"nvidia": {"device_evidence_list": [item | changes]}})


def with_items(count: int) -> str:
    item = json.loads(text())["nvidia"]["device_evidence_list"][0]
    return json.dumps({"nvidia": {"device_evidence_list": [item] * count}})


WRONG: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "additional_evidence"),
    "deep JSON": ("[" * 100_000, "additional_evidence"),
    "too long": (" " * (MAX_TEXT + 1), "additional_evidence"),
    "a list": ("[]", "additional_evidence"),
    "no kind": ("{}", "additional_evidence"),
    "another kind": ('{"sampledevice":{}}', "additional_evidence"),
    "another kind beside": (text()[:-1] + ',"tpm":{}}', "additional_evidence"),
    "a kind twice": (text()[:-1] + "," + text()[1:], "additional_evidence"),
    "no object": ('{"nvidia":[]}', "nvidia"),
    "no list": ('{"nvidia":{"device_evidence_list":{}}}', "device_evidence_list"),
    "an empty list": (with_items(0), "device_evidence_list"),
    "too many": (with_items(MAX_DEVICES + 1), "device_evidence_list"),
    "no device": ('{"nvidia":{"device_evidence_list":[1]}}', "device_evidence_list[0]"),
    "unknown architecture": (text(arch="AMPERE"), "device_evidence_list[0].arch"),
    "architecture as a number": (text(arch=9), "device_evidence_list[0].arch"),
    "empty uuid": (text(uuid=""), "device_evidence_list[0].uuid"),
    "long uuid": (text(uuid="x" * 65), "device_evidence_list[0].uuid"),
    "no evidence": (text(evidence=None), "device_evidence_list[0].evidence"),
    "evidence in neither form": (text(evidence="11e0!"), "device_evidence_list[0].evidence"),
    "evidence with half a byte": (text(evidence="11e00"), "device_evidence_list[0].evidence"),
    "evidence with a line end": (text(evidence="11e0\n"), "device_evidence_list[0].evidence"),
    "URL-safe evidence": (text(evidence="EeAB_w=="), "device_evidence_list[0].evidence"),
    "long evidence": (text(evidence=b64(b"\xff" * (MAX_REPORT + 1))), "device_evidence_list[0].evidence"),
    "no certificate": (text(certificate=[]), "device_evidence_list[0].certificate"),
    "certificate without its end": (text(certificate="AAA"), "device_evidence_list[0].certificate"),
    "long certificate": (text(certificate=b64(bytes(MAX_CHAIN + 1))), "device_evidence_list[0].certificate"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_evidence_with_one_mistake_is_refused_and_the_place_is_named(mistake: str) -> None:
    wrong, field = WRONG[mistake]
    with pytest.raises(FormatError) as caught:
        decode_devices(wrong)
    assert caught.value.field == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
shapes: dict[str, Callable[[Any], Any]] = {
    "document": lambda value: value,
    "nvidia": lambda value: {"nvidia": value},
    "list": lambda value: {"nvidia": {"device_evidence_list": value}},
    "device": lambda value: {"nvidia": {"device_evidence_list": [value]}},
}


@given(json_values, st.sampled_from(sorted(shapes)))
def test_no_document_raises_anything_but_our_error(value: Any, shape: str) -> None:
    with contextlib.suppress(Error):
        decode_devices(json.dumps(shapes[shape](value)))


@given(st.text())
def test_no_text_raises_anything_but_our_error(some: str) -> None:
    with contextlib.suppress(Error):
        decode_devices(some)
