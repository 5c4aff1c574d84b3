# SPDX-License-Identifier: BSD-3-Clause
"""Replays what the real client of Confidential Containers sent to a broker of ours.

The requests are byte for byte the recorded ones; the broker gives the recorded nonce again, which the
client's evidence covers.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.messages import Challenge
from support import brokers, recordings
from support.brokers import World, b64

RECORDING = json.loads((Path(__file__).parents[2] / "recordings" / "coco_client.json").read_text())
RUNS: dict[str, Any] = {run["name"]: run for run in RECORDING["runs"]}
RELEASED = [name for name, run in RUNS.items() if "secret" in run]
RESOURCES = {"default/keys/sample": "sample", "default/keys/simulated": "simulated"}


class Root:
    """The development root that the recorded evidence leads to."""

    def __init__(self, pem: bytes) -> None:
        self.pem = pem


def give_nonce(monkeypatch: pytest.MonkeyPatch, nonce: str) -> None:
    challenge = Challenge(nonce=nonce)
    monkeypatch.setattr(Challenge, "with_nonce", lambda *_: challenge)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Any:
    return RUNS[request.param]


@pytest.fixture
def world(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A broker that knows the recording's root, gives its nonce, and has its resources."""
    if "root" in run:
        root = Root(base64.b64decode(run["root"]))
        monkeypatch.setattr(testing, "chain", lambda **_: root)
    give_nonce(monkeypatch, run["nonce"])
    with brokers.world(tmp_path) as made:
        headers = {"Authorization": f"Bearer {made.owner_token}"}
        for path, minimum in RESOURCES.items():
            url = f"/kbs/v0/sealroom/admin/resources/{path}"
            spec = {"secret": RUNS["sample_p256"]["secret"], "minimum": minimum}
            assert made.http().put(url, json=spec, headers=headers).status_code == 204
        yield made


def replay(world: World, run: Any) -> list[httpx.Response]:
    """Send the recorded requests; the token that is presented is the one of this run."""
    http, token, answers = world.http(), "", []
    for one in run["exchange"]:
        client = http if one["proof"] == "cookie" or one["method"] == "POST" else world.http()
        headers = {"Content-Type": one["content-type"]} if "content-type" in one else {}
        if one["proof"] == "bearer":
            headers["Authorization"] = f"Bearer {token}"
        answer = client.request(one["method"], one["path"], content=one.get("body", ""), headers=headers)
        assert answer.status_code == one["status"], answer.text
        token = answer.json().get("token", token)
        answers.append(answer)
    return answers


@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_broker_answers_the_recorded_requests_as_it_did(world: World, run: Any) -> None:
    answers = replay(world, run)
    assert len(answers) == len(run["exchange"])


@pytest.mark.parametrize("run", RELEASED, indirect=True)
def test_the_real_clients_key_opens_what_the_broker_sends(world: World, run: Any) -> None:
    key = TeeKey.from_pem(base64.b64decode(run["tee_key"]))
    opened = [b64(key.decrypt(one.json())) for one in replay(world, run) if "ciphertext" in one.json()]
    assert opened == [run["secret"], run["secret_by_token"]]


@pytest.mark.parametrize("run", RELEASED, indirect=True)
def test_recorded_evidence_with_the_nonce_of_another_handshake_is_refused(
    world: World, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_nonce(monkeypatch, b64(bytes(32)))
    posts = [one for one in run["exchange"] if one["method"] == "POST"]
    http = world.http()
    statuses = [http.post(one["path"], content=one["body"]).status_code for one in posts]
    assert statuses == [200, 401]


@pytest.mark.parametrize("run", ["sample_p256"], indirect=True)
def test_what_the_administrator_of_the_real_client_sends(world: World, run: Any) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    for one in RECORDING["admin"]:
        more = {"Content-Type": one["content-type"]} if one["content-type"] else {}
        answer = world.http().request(one["method"], one["path"], content=one["body"], headers=headers | more)
        assert answer.status_code == one["status"], answer.text


# --- what a real Trustee was sent, sent to a broker of ours

TO_TRUSTEE = {
    "server_p256.json": 200,
    "server_p521.json": 200,
    "server_rsa.json": 200,
    # Trustee took the sample device; we take no devices that nothing vouches for.
    "server_p256_sampledevice.json": 401,
    "server_tampered.json": 401,
}


@pytest.fixture
def development(tmp_path: Path) -> Any:
    with brokers.world(tmp_path) as made:
        headers = {"Authorization": f"Bearer {made.owner_token}"}
        spec = {"secret": b64(b"secret"), "minimum": "sample"}
        url = "/kbs/v0/sealroom/admin/resources/default/test/key"
        assert made.http().put(url, json=spec, headers=headers).status_code == 204
        yield made


@pytest.mark.parametrize("name", TO_TRUSTEE)
def test_what_a_trustee_was_sent(development: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recorded = recordings.load_json("kbs", name)
    calls = {one["request"]["path"].split("/")[3]: one for one in recorded["exchange"]}
    give_nonce(monkeypatch, calls["auth"]["response"]["body"]["nonce"])
    http = development.http()
    assert http.post("/kbs/v0/auth", json=calls["auth"]["request"]["body"]).status_code == 200
    answer = http.post("/kbs/v0/attest", json=calls["attest"]["request"]["body"])
    assert answer.status_code == TO_TRUSTEE[name], answer.text
    if answer.status_code == 200:
        key = TeeKey.from_pem(recorded["tee_private_key_pem"].encode())
        assert key.decrypt(http.get("/kbs/v0/resource/default/test/key").json()) == b"secret"


def test_an_earlier_run_of_the_real_client(development: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recordings.load_json("kbs", "client_requests.json")
    key = TeeKey.from_pem(recorded["first_exchange_tee_key"].encode())
    auth, attest = (one["body"] for one in recorded["messages"][:2])
    give_nonce(monkeypatch, attest["runtime-data"]["nonce"])
    http = development.http()
    assert http.post("/kbs/v0/auth", json=auth).status_code == 200
    assert http.post("/kbs/v0/attest", json=attest).status_code == 200
    assert key.decrypt(http.get("/kbs/v0/resource/default/test/key").json()) == b"secret"
