# SPDX-License-Identifier: BSD-3-Clause
"""Against a server that speaks the guest components' interface, and against answers that break it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import httpx
import pytest
from sealroom import testing
from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest import CocoDeviceProvider, CocoProvider, DeviceProvider, Provider
from sealroom.kbs.devices import decode_devices, encode_devices
from sealroom.kbs.evidence import snp_from_json
from support.guest_components import GuestComponents, answer, running

NONCE = bytes(range(224, 256))


@pytest.fixture
def components() -> Iterator[GuestComponents]:
    with running(GuestComponents(gpus=[testing.gpu(), testing.gpu("BLACKWELL")])) as served:
        yield served


def provider(given: httpx.Response | Exception | None = None) -> CocoProvider:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(given, Exception):
            raise given
        status, body = answer(GuestComponents(), str(request.url))
        return given or httpx.Response(status, content=body)

    return CocoProvider(snp_from_json, transport=httpx.MockTransport(handle))


def devices(components: GuestComponents) -> CocoDeviceProvider:
    return CocoDeviceProvider(decode_devices, base_url=components.url)


# Every byte value occurs in some of them, so also those that standard base64 writes with `+` and `/`.
@pytest.mark.parametrize("report_data", [b"\xfbn" * 32, b"\xff" * 64, bytes(64), os.urandom(64)])
def test_report_and_certificates_are_rebuilt(components: GuestComponents, report_data: bytes) -> None:
    evidence = CocoProvider(snp_from_json, base_url=components.url).evidence(report_data)
    assert evidence.report[0x50:0x90] == report_data
    assert evidence.certificates == testing.chip().certificates
    assert evidence.provider == "coco"


def test_components_that_do_not_take_binary_runtime_data_are_refused() -> None:
    with running(GuestComponents(takes_binary=False)) as old:
        asked = CocoProvider(snp_from_json, base_url=old.url)
        with pytest.raises(ProtocolError, match="covers other report data") as caught:
            asked.evidence(b"\xff" * 64)
    assert "binary runtime data" in caught.value.advice


def test_failure_of_the_attester_keeps_its_text(components: GuestComponents) -> None:
    components.fails = "no attester"
    with pytest.raises(ProtocolError, match="status 500: no attester"):
        CocoProvider(snp_from_json, base_url=components.url).evidence(bytes(64))
    with pytest.raises(ProtocolError, match="status 500: no attester"):
        devices(components).evidence(NONCE)


def test_is_a_provider() -> None:
    assert isinstance(provider(), Provider)
    assert provider().available() == ""


def test_absent_components_are_said() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "refused" in CocoProvider(snp_from_json, base_url=url).available()


def test_failure_of_the_components_keeps_its_text() -> None:
    with pytest.raises(ProtocolError, match="status 500: no attester"):
        provider(httpx.Response(500, text="no attester")).evidence(bytes(64))


def test_silence_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match="do not answer"):
        provider(httpx.ConnectTimeout("timed out")).evidence(bytes(64))


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"attestation_report": {}}), "[" * 100_000])
def test_malformed_evidence_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        provider(httpx.Response(200, text=text)).evidence(bytes(64))


def test_endless_evidence_is_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        provider(httpx.Response(200, content=bytes(2 << 20))).evidence(bytes(64))


# -- devices


def test_every_device_answers_the_nonce(components: GuestComponents) -> None:
    asked = devices(components)
    assert isinstance(asked, DeviceProvider)
    assert asked.available() == ""
    found = asked.evidence(NONCE)
    assert [device.arch for device in found] == ["HOPPER", "BLACKWELL"]
    assert [device.report[4:36] for device in found] == [NONCE, NONCE]
    assert [device.chain_pem for device in found] == [gpu.chain_pem for gpu in components.gpus]
    assert [path.partition("?")[0] for path in components.asked] == ["/info", "/aa/additional-evidence"]


def test_components_without_a_gpu_say_so() -> None:
    with running(GuestComponents()) as served:
        assert devices(served).available() == "the guest components attest no GPU"


def test_components_that_are_not_there_have_no_devices() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "refused" in CocoDeviceProvider(decode_devices, base_url=url).available()


@pytest.mark.parametrize("body", ["", "[]", "7", "[" * 100_000, '{"additional_tees": "nvidia"}'])
def test_malformed_information_means_no_devices(body: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    assert CocoDeviceProvider(decode_devices, transport=transport).available()


def test_components_that_are_too_old_for_devices_say_so() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(404, text="URL NOT FOUND"))
    asked = CocoDeviceProvider(decode_devices, transport=transport)
    assert "status 404" in asked.available()
    with pytest.raises(ProtocolError, match="status 404"):
        asked.evidence(NONCE)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("", "0 devices"),
        ('{"nvidia":{"device_evidence_list":[]}}', "malformed"),
        ("{", "malformed"),
        ("\udcff", "malformed"),
        ('{"nvidia-dpu":{}}', "malformed"),
        (encode_devices([testing.device_evidence(bytes(32))]), "another nonce"),
        (encode_devices([testing.device_evidence(NONCE)] * 32)[:-2], "malformed"),
    ],
    ids=["nothing", "empty-list", "no-json", "no-text", "other-device", "other-nonce", "cut"],
)
def test_other_device_evidence_is_refused(body: str, what: str) -> None:
    content = body.encode("utf-8", "surrogateescape")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with pytest.raises(ProtocolError, match=what):
        CocoDeviceProvider(decode_devices, transport=transport).evidence(NONCE)


@pytest.mark.parametrize("size", [0, 31, 33, 48])
def test_nonce_is_not_padded_or_cut(components: GuestComponents, size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        devices(components).evidence(bytes(size))
    assert components.asked == []
