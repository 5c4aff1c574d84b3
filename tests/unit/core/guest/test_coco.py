# SPDX-License-Identifier: BSD-3-Clause
"""Against a stand-in that speaks the guest components' interface."""

from __future__ import annotations

import base64
import json
import socket

import httpx
import pytest
from sealroom import testing
from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest import CocoProvider, Provider
from sealroom.kbs.evidence import snp_from_json, snp_to_json


def components(request: httpx.Request) -> httpx.Response:
    assert request.method == "GET"
    assert request.url.host == "127.0.0.1"
    assert request.url.path == "/aa/evidence"
    assert request.url.params["encoding"] == "base64"
    data = base64.b64decode(request.url.params["runtime_data"])
    chip = testing.chip()
    return httpx.Response(200, json=snp_to_json(chip.report(report_data=data), chip.certificates))


def provider(answer: httpx.Response | Exception | None = None) -> CocoProvider:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer or components(request)

    return CocoProvider(snp_from_json, transport=httpx.MockTransport(handle))


def test_report_and_certificates_are_rebuilt() -> None:
    evidence = provider().evidence(b"\xfbn" * 32)
    assert evidence.report[0x50:0x90] == b"\xfbn" * 32
    assert evidence.certificates == testing.chip().certificates
    assert evidence.provider == "coco"


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
