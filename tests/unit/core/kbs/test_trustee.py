# SPDX-License-Identifier: BSD-3-Clause
"""A dataset's key as a resource of a key broker."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.canonical import canonical_json
from sealroom.crypt4gh import SecretKey, write_public_key, write_secret_key
from sealroom.datasets.manifest import verify_manifest
from sealroom.errors import AccessDeniedError, Error, ProtocolError
from sealroom.kbs.client import KbsClient
from sealroom.kbs.jwe import TeeKey, encrypt
from sealroom.kbs.trustee import MAX_RESOURCE, DatasetKey, TrusteeSource
from support.fake_broker import result

SECRET = SecretKey(bytes(range(1, 33)))
RAW = SECRET.reveal()
WHOLE = DatasetKey(SECRET, "heartbeats", b'{"manifest":1}', bytes(64))


class Holder:
    """A key broker that has one resource."""

    def __init__(self, resource: bytes) -> None:
        self.resource_bytes = resource
        self.asked: list[tuple[str, str, str]] = []

    def resource(self, repository: str, kind: str, tag: str) -> bytes:
        self.asked.append((repository, kind, tag))
        return self.resource_bytes


def pkcs8(key: Any) -> bytes:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def changed(**fields: Any) -> bytes:
    return canonical_json(json.loads(WHOLE.to_bytes()) | fields)


def test_document_comes_back_as_it_was() -> None:
    assert DatasetKey.from_bytes(WHOLE.to_bytes()) == WHOLE


def test_document_is_canonical_json_with_these_members() -> None:
    assert json.loads(WHOLE.to_bytes()) == {
        "format": "sealroom-trustee/1",
        "dataset": "heartbeats",
        "secret_key": base64.b64encode(RAW).decode(),
        "manifest": base64.b64encode(b'{"manifest":1}').decode(),
        "signature": base64.b64encode(bytes(64)).decode(),
    }
    assert WHOLE.to_bytes() == canonical_json(json.loads(WHOLE.to_bytes()))


@pytest.mark.parametrize(
    "resource",
    [RAW, write_secret_key(SECRET), write_secret_key(SECRET, comment=b"x"), pkcs8(SECRET._key)],
    ids=["raw", "crypt4gh", "crypt4gh-comment", "pkcs8"],
)
def test_a_bare_key_is_read_and_says_nothing_else(resource: bytes) -> None:
    assert DatasetKey.from_bytes(resource) == DatasetKey(SECRET)


WRONG = {
    "nothing": b"",
    "31 bytes": RAW[:-1],
    "33 bytes": RAW + b"\n",
    "a base64 text": base64.b64encode(RAW),
    "a hex text": RAW.hex().encode(),
    "no JSON": b"{",
    "JSON that is no object": b"[]",
    "nested JSON": b"[" * 100_000,
    "not UTF-8": b"\xff" * 40,
    "JSON with spaces": json.dumps(json.loads(WHOLE.to_bytes())).encode(),
    "JSON with a newline behind it": WHOLE.to_bytes() + b"\n",
    "a member twice": WHOLE.to_bytes().replace(b'{"dataset"', b'{"dataset":"other","dataset"', 1),
    "another format": changed(format="sealroom-trustee/2"),
    "an unknown member": changed(more=1),
    "no dataset": changed(dataset=""),
    "a short key": changed(secret_key=base64.b64encode(RAW[:31]).decode()),
    "a key that is no base64": changed(secret_key="?" * 44),
    "a key that is a number": changed(secret_key=1),
    "a key in another base64": changed(secret_key=base64.urlsafe_b64encode(b"\xff" * 32).decode()),
    "no manifest": changed(manifest=""),
    "a short signature": changed(signature=base64.b64encode(bytes(63)).decode()),
    "a Crypt4GH public key": write_public_key(SECRET.public),
    "a Crypt4GH key that is cut": write_secret_key(SECRET)[:60],
    "a key of another kind": pkcs8(Ed25519PrivateKey.generate()),
    "a PEM that is cut": pkcs8(X25519PrivateKey.generate())[:60],
    "more than a Trustee takes": b" " * (MAX_RESOURCE + 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_dataset_key(what: str) -> None:
    with pytest.raises(ProtocolError):
        DatasetKey.from_bytes(WRONG[what])


def test_locked_key_says_what_to_do() -> None:
    with pytest.raises(ProtocolError, match="locked with a passphrase") as caught:
        DatasetKey.from_bytes(write_secret_key(SECRET, b"passphrase"))
    assert "without one" in caught.value.advice


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(Error):
        DatasetKey.from_bytes(data)


def test_manifest_that_is_too_large_for_a_resource() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        DatasetKey(SECRET, "heartbeats", bytes(MAX_RESOURCE), bytes(64)).to_bytes()


def test_nothing_secret_is_printed() -> None:
    text = repr(WHOLE)
    for secret in (RAW.hex(), repr(RAW)[2:-1], base64.b64encode(RAW).decode()):
        assert secret not in text


def test_wiped_key_is_gone() -> None:
    key = DatasetKey.from_bytes(WHOLE.to_bytes())
    key.wipe()
    with pytest.raises(RuntimeError):
        key.to_bytes()


# --- the source


def test_a_trustee_is_asked_for_default_sealroom_and_the_dataset() -> None:
    holder = Holder(WHOLE.to_bytes())
    assert TrusteeSource(holder).fetch("heartbeats") == WHOLE
    assert holder.asked == [("default", "sealroom", "heartbeats")]


def test_a_broker_of_ours_is_asked_for_its_own_name() -> None:
    holder = Holder(RAW)
    assert TrusteeSource.of_broker(holder).fetch("heartbeats") == DatasetKey(SECRET)
    assert holder.asked == [("sealroom", "dataset-key", "heartbeats")]


def test_document_of_another_dataset_is_refused() -> None:
    with pytest.raises(ProtocolError, match="another dataset"):
        TrusteeSource(Holder(WHOLE.to_bytes())).fetch("brainwaves")


def trustee(status: int, body: Any, calls: list[str]) -> httpx.Client:
    """Return a client of a stand-in that answers as the recorded Trustee did, for any key."""
    nonce = base64.b64encode(bytes(32)).decode()
    keys: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        cookie = {"set-cookie": "kbs-session-id=one"}
        if request.url.path == "/kbs/v0/auth":
            return httpx.Response(200, json={"nonce": nonce, "extra-params": ""}, headers=cookie)
        if request.url.path == "/kbs/v0/attest":
            runtime = json.loads(request.content)["runtime-data"]
            keys.append(runtime["tee-pubkey"])
            return httpx.Response(200, json={"token": result(runtime)}, headers=cookie)
        return httpx.Response(status, json=body or encrypt(WHOLE.to_bytes(), keys[-1]))

    return httpx.Client(transport=httpx.MockTransport(handle))


class Evidence:
    tee = "sample"
    provider = "test"
    certificates: dict[str, bytes] = {}  # noqa: RUF012

    def __init__(self, report: bytes) -> None:
        self.report = report


def client(http: httpx.Client) -> KbsClient:
    return KbsClient(
        "http://trustee.example",
        Evidence,
        tee="sample",
        encode=lambda evidence: {"svn": "1", "report_data": base64.b64encode(evidence.report).decode()},
        key=TeeKey.generate(),
        http=http,
    )


def test_key_comes_through_our_client_from_a_trustee() -> None:
    calls: list[str] = []
    with client(trustee(200, None, calls)) as kbs:
        assert TrusteeSource(kbs).fetch("heartbeats") == WHOLE
    assert calls == ["/kbs/v0/auth", "/kbs/v0/attest", "/kbs/v0/resource/default/sealroom/heartbeats"]


def test_refusal_of_a_trustee_is_a_refusal_here() -> None:
    body = {"type": "https://github.com/confidential-containers/kbs/errors/PolicyDeny", "detail": "No."}
    with client(trustee(403, body, [])) as kbs, pytest.raises(AccessDeniedError, match="No"):
        TrusteeSource(kbs).fetch("heartbeats")


# --- a recording of a real Trustee

RECORDING: Any = json.loads(
    (Path(__file__).parents[3] / "recordings" / "trustee_dataset_key.json").read_text()
)


def recorded_trustee(sent: list[Any]) -> httpx.Client:
    """Return a client of a stand-in that answers as the real Trustee did, and insists on what it was sent."""
    exchange = {one["request"]["path"]: one for one in RECORDING["exchange"]}

    def handle(request: httpx.Request) -> httpx.Response:
        one = exchange[request.url.path]
        body = json.loads(request.content) if request.content else None
        assert (request.method, body) == (one["request"]["method"], one["request"]["body"])
        sent.append(request.url.path)
        answer = one["response"]
        headers = {"set-cookie": "kbs-session-id=recorded"}
        return httpx.Response(answer["status"], json=answer["body"], headers=headers)

    return httpx.Client(transport=httpx.MockTransport(handle))


def test_our_client_gets_the_datasets_key_from_the_recorded_trustee() -> None:
    sent: list[str] = []
    with KbsClient(
        "http://trustee.example",
        lambda covered: Evidence(covered[:48]),
        tee="sample",
        encode=lambda evidence: {"svn": "1", "report_data": base64.b64encode(evidence.report).decode()},
        key=TeeKey.from_pem(base64.b64decode(RECORDING["tee_key"])),
        http=recorded_trustee(sent),
    ) as kbs:
        found = TrusteeSource(kbs).fetch(RECORDING["dataset"])
    assert sent == [one["request"]["path"] for one in RECORDING["exchange"]]
    # What the Trustee gave out is byte for byte what the owner's command had written for it.
    assert hashlib.sha256(found.to_bytes()).hexdigest() == RECORDING["resource_sha256"]
    manifest = verify_manifest(found.manifest, found.signature, base64.b64decode(RECORDING["owner_key"]))
    assert (manifest.id, manifest.dataset_key) == ("heartbeats", found.secret.public.to_base64())
