# SPDX-License-Identifier: BSD-3-Clause
"""Replays what a real Trustee KBS and its real client said to each other, in both directions."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from pydantic import JsonValue
from sealroom.errors import AccessDeniedError, ProtocolError
from sealroom.kbs.binding import cpu_digest, device_nonce
from sealroom.kbs.client import Evidence, KbsClient
from sealroom.kbs.devices import Device
from sealroom.kbs.jwe import TeeKey, b64url_decode, check_public_jwk, encrypt
from sealroom.kbs.messages import AttestRequest, AttestResponse, AuthRequest, Challenge, KbsError, parse
from support import recordings
from support.fake_broker import result

RELEASED = ["server_p256.json", "server_p521.json", "server_rsa.json", "server_p256_sampledevice.json"]
RECORDINGS = [*RELEASED, "server_missing.json", "server_tampered.json", "server_policydeny.json"]


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def recording(name: str) -> Any:
    return recordings.load_json("kbs", name)


def exchange(name: str, path: str) -> tuple[Any, Any]:
    """Return the request's body and the response of a recording's call."""
    for one in recording(name)["exchange"]:
        if one["request"]["path"].startswith(f"/kbs/v0/{path}"):
            return one["request"]["body"], one["response"]
    raise AssertionError(f"{name} has no {path}")


def key_of(name: str) -> TeeKey:
    return TeeKey.from_pem(recording(name)["tee_private_key_pem"].encode())


# --- the broker's side: what real clients send is understood ---


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_requests_are_understood(name: str) -> None:
    body, _ = exchange(name, "auth")
    auth = parse(AuthRequest, written(body))
    auth.check_version()
    assert auth.hash_algorithms == ("sha256", "sha384", "sha512")
    body, _ = exchange(name, "attest")
    attest = parse(AttestRequest, written(body))
    check_public_jwk(attest.runtime_data.tee_pubkey)
    assert json.loads(attest.to_json()) == body


@pytest.mark.parametrize("name", [name for name in RECORDINGS if "tampered" not in name])
def test_recorded_evidence_covers_nonce_key_and_devices(name: str) -> None:
    body, _ = exchange(name, "attest")
    attest = parse(AttestRequest, written(body))
    runtime, tee = attest.runtime_data, attest.tee_evidence
    assert isinstance(tee.primary_evidence, dict)
    covered = base64.b64decode(str(tee.primary_evidence["report_data"]))
    assert covered == cpu_digest(runtime.nonce, runtime.tee_pubkey, tee.additional_evidence)


def test_recorded_device_evidence_covers_nonce_and_key() -> None:
    body, _ = exchange("server_p256_sampledevice.json", "attest")
    attest = parse(AttestRequest, written(body))
    device = json.loads(attest.tee_evidence.additional_evidence)["sampledevice"]
    covered = device_nonce(attest.runtime_data.nonce, attest.runtime_data.tee_pubkey)
    assert base64.b64decode(device["report_data"]) == covered


def test_the_tampered_recording_covers_something_else() -> None:
    body, _ = exchange("server_tampered.json", "attest")
    attest = parse(AttestRequest, written(body))
    assert isinstance(attest.tee_evidence.primary_evidence, dict)
    covered = base64.b64decode(str(attest.tee_evidence.primary_evidence["report_data"]))
    assert covered != cpu_digest(attest.runtime_data.nonce, attest.runtime_data.tee_pubkey)


def test_the_recorded_old_version_is_refused_with_trustees_sentence() -> None:
    body, response = exchange("server_oldversion.json", "auth")
    with pytest.raises(ProtocolError) as caught:
        parse(AuthRequest, written(body)).check_version()
    assert response["body"]["detail"] == f"Attestation error: {caught.value.message}"


def test_the_real_clients_requests_are_understood() -> None:
    messages = recording("client_requests.json")["messages"]
    for message in messages:
        if message["kind"] == "auth":
            auth = parse(AuthRequest, written(message["body"]))
            auth.check_version()
            assert json.loads(auth.to_json()) == message["body"]
            continue
        attest = parse(AttestRequest, written(message["body"]))
        assert json.loads(attest.to_json()) == message["body"]
        check_public_jwk(attest.runtime_data.tee_pubkey)
        assert isinstance(attest.tee_evidence.primary_evidence, dict)
        covered = base64.b64decode(str(attest.tee_evidence.primary_evidence["report_data"]))
        assert covered == cpu_digest(attest.runtime_data.nonce, attest.runtime_data.tee_pubkey)
    assert [message["kind"] for message in messages] == ["auth", "attest"] * 2


def test_a_secret_for_the_real_client_opens_with_its_key() -> None:
    recorded = recording("client_requests.json")
    key = TeeKey.from_pem(recorded["first_exchange_tee_key"].encode())
    jwk = recorded["messages"][1]["body"]["runtime-data"]["tee-pubkey"]
    assert key.public_jwk() == jwk
    assert key.decrypt(encrypt(b"secret", jwk)) == b"secret"


@pytest.mark.parametrize("name", RELEASED)
def test_our_message_has_the_form_of_the_recorded_one(name: str) -> None:
    _, response = exchange(name, "resource")
    body, _ = exchange(name, "attest")
    ours = encrypt(b"dataset-key-0123456789", body["runtime-data"]["tee-pubkey"])
    assert list(ours) == list(response["body"])
    theirs_header, our_header = (
        json.loads(b64url_decode(jwe["protected"], "header")) for jwe in (response["body"], ours)
    )
    assert list(our_header) == list(theirs_header)
    assert list(our_header.get("epk", {})) == list(theirs_header.get("epk", {}))
    # Byte for byte what the client makes when it writes the parsed header again.
    raw = b64url_decode(ours["protected"], "header")
    assert raw == json.dumps(our_header, separators=(",", ":")).encode()


# --- the guest's side: what a real broker answers is understood, and our requests are the recorded ones ---


@pytest.mark.parametrize("name", RELEASED)
def test_the_recorded_secret_is_decrypted(name: str) -> None:
    _, response = exchange(name, "resource")
    assert key_of(name).decrypt(response["body"]).decode() == recording(name)["plaintext"]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_answers_are_understood(name: str) -> None:
    _, response = exchange(name, "auth")
    challenge = parse(Challenge, written(response["body"]))
    assert challenge.algorithm == "sha384"
    assert len(challenge.nonce_bytes()) == 32
    _, response = exchange(name, "attest")
    if response["status"] == 200:
        assert parse(AttestResponse, written(response["body"])).token.count(".") == 2
    else:
        assert parse(KbsError, written(response["body"])).name == "AttestationError"


@dataclass(frozen=True)
class SampleEvidence:
    """Evidence of the protocol's `sample` TEE, which proves nothing."""

    report: bytes
    tee: str = "sample"
    provider: str = "recording"
    certificates: dict[str, bytes] = field(default_factory=dict)


def sample_json(evidence: Evidence) -> JsonValue:
    return {"svn": "1", "report_data": base64.b64encode(evidence.report).decode()}


class Replay:
    """A broker that answers as the recorded one did, and insists on the recorded requests."""

    def __init__(self, name: str, *, strict: bool = True) -> None:
        self._exchange = {one["request"]["path"]: one for one in recording(name)["exchange"]}
        self._strict = strict
        self.calls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request.url.path.removeprefix("/kbs/v0/").partition("/")[0])
        one = self._exchange[request.url.path]
        if self._strict:
            assert request.method == one["request"]["method"]
            assert (json.loads(request.content) if request.content else None) == one["request"]["body"]
        if not request.url.path.endswith("/auth"):
            assert request.headers["cookie"] == "kbs-session-id=recorded"
        headers = {"set-cookie": "kbs-session-id=recorded; Path=/"}
        body = one["response"]["body"]
        if not self._strict and request.url.path.endswith("/attest"):
            # The recording is of another key, whose private half is not there; the result is about ours.
            body = {"token": result(json.loads(request.content)["runtime-data"])}
        return httpx.Response(one["response"]["status"], json=body, headers=headers)


class SampleDevices:
    """The protocol's `sampledevice`, whose recorded evidence is sent as it is."""

    def evidence(self, nonce: bytes) -> list[Device]:
        assert len(nonce) == 32
        return []


def replaying_client(name: str, replay: Replay) -> KbsClient:
    recorded = recording(name)
    devices = exchange(name, "attest")[0]["tee-evidence"]["additional_evidence"]
    return KbsClient(
        "http://broker.example",
        # The sample TEE takes the digest as it is, without the zeros that fill REPORT_DATA.
        lambda report_data: SampleEvidence(bytes(48) if "tampered" in name else report_data[:48]),
        tee="sample",
        encode=sample_json,
        devices=SampleDevices(),
        encode_devices=lambda _: devices,
        key=key_of(name) if recorded.get("tee_private_key_pem") else None,
        http=httpx.Client(transport=httpx.MockTransport(replay)),
    )


@pytest.mark.parametrize("name", RELEASED)
def test_our_client_gets_the_secret_from_the_recorded_broker(name: str) -> None:
    replay = Replay(name)
    with replaying_client(name, replay) as client:
        secret = client.resource("default", "test", "key")
    assert secret.decode() == recording(name)["plaintext"]
    assert replay.calls == ["auth", "attest", "resource"]


def test_our_client_takes_the_recorded_refusal_of_tampered_evidence() -> None:
    replay = Replay("server_tampered.json")
    with (
        replaying_client("server_tampered.json", replay) as client,
        pytest.raises(AccessDeniedError) as caught,
    ):
        client.attest()
    assert "RCAR handshake Attest failed" in caught.value.message
    assert replay.calls == ["auth", "attest"]


def test_our_client_takes_the_recorded_refusal_by_policy_without_attesting_again() -> None:
    # Trustee answers a refusal by policy with 401, where the guest's own client would attest again.
    replay = Replay("server_policydeny.json", strict=False)
    with (
        replaying_client("server_policydeny.json", replay) as client,
        pytest.raises(AccessDeniedError) as caught,
    ):
        client.resource("default", "test", "key")
    assert caught.value.message == "Access denied by policy"
    assert replay.calls == ["auth", "attest", "resource"]


def test_our_client_attests_again_once_at_the_recorded_401_for_a_missing_resource() -> None:
    replay = Replay("server_missing.json")
    with (
        replaying_client("server_missing.json", replay) as client,
        pytest.raises(AccessDeniedError) as caught,
    ):
        client.resource("default", "test", "none")
    assert caught.value.message == "Plugin internal error"
    assert replay.calls == ["auth", "attest", "resource"] * 2
