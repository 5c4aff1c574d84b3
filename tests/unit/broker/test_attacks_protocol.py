# SPDX-License-Identifier: BSD-3-Clause
"""Attacks on the protocol, each a test named for the attack. `docs/explanation/attacks.md` lists them all.

What other modules test is not repeated here. Where sockets matter the broker is a process of its own.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.appraisal.result import (
    AttestationResult,
    DeviceResult,
    EnvironmentReference,
    PolicyReference,
    Tier,
    Trustworthiness,
)
from sealroom.crypt4gh import SecretKey
from sealroom.errors import ProtocolError
from sealroom.kbs.binding import cpu_digest, cpu_report_data
from sealroom.kbs.calls import Grant, Person
from sealroom.kbs.client import snp_evidence
from sealroom.kbs.jwe import TeeKey, b64url
from sealroom_broker.app import create_app
from sealroom_broker.broker import open_broker
from sealroom_broker.config import load_config
from sealroom_broker.decide import Dataset, Facts, Refused, Server, decide
from sealroom_broker.owners import add_token
from sealroom_broker.setup import Plan, initialise
from support.broker_process import BrokerProcess, Hub
from support.brokers import GENERAL, World, b64

VICTIM, ATTACKER = TeeKey.generate(), TeeKey.generate()
READER = SecretKey.generate()
AUTH = {"version": "0.4.0", "tee": "snp", "extra-params": {"supported-hash-algorithms": ["sha384"]}}
SECRET = b"the-secret-of-the-victim"


def nonce_of(http: httpx.Client, **changes: Any) -> str:
    answer = http.post("/kbs/v0/auth", json=AUTH | changes)
    assert answer.status_code == 200, answer.text
    nonce: str = answer.json()["nonce"]
    return nonce


def message(world: World, nonce: str, jwk: dict[str, str], **more: Any) -> dict[str, Any]:
    covered = more.pop("covered", None) or cpu_report_data(nonce, jwk)
    return {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
        "tee-evidence": {
            "primary_evidence": snp_evidence(world.evidence(covered, **more)),
            "additional_evidence": "",
        },
    }


def attest(http: httpx.Client, body: object) -> httpx.Response:
    return http.post("/kbs/v0/attest", json=body)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["reasons"][0]["code"]


def put(world: World) -> str:
    """Store a resource that simulated servers get, and return its path."""
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    spec = {"secret": b64(SECRET), "minimum": "simulated"}
    url = "/kbs/v0/sealroom/admin/resources/default/keys/one"
    assert world.http().put(url, json=spec, headers=headers).status_code == 204
    return "/kbs/v0/resource/default/keys/one"


def victim(world: World) -> tuple[httpx.Client, str]:
    """Return a victim's attested session and its token."""
    http = world.http()
    answer = attest(http, message(world, nonce_of(http), VICTIM.public_jwk()))
    assert answer.status_code == 200
    token: str = answer.json()["token"]
    return http, token


def steal_cookie(world: World, from_whom: httpx.Client) -> httpx.Client:
    http = world.http()
    http.cookies.set("kbs-session-id", from_whom.cookies["kbs-session-id"])
    return http


# --- replays


def test_evidence_of_an_earlier_handshake_in_the_same_session(world: World) -> None:
    """Its own old evidence, under the new nonce of the same session: nothing new was proven."""
    http = world.http()
    old = message(world, nonce_of(http), VICTIM.public_jwk())
    assert attest(http, old).status_code == 200
    nonce = nonce_of(http)
    old["runtime-data"]["nonce"] = nonce
    assert code(attest(http, old)) == (401, "snp.expected.report_data")
    assert http.get("/kbs/v0/sealroom/session").status_code == 401


def test_evidence_of_another_session_under_my_nonce(world: World) -> None:
    seen = message(world, nonce_of(world.http()), VICTIM.public_jwk())
    http = world.http()
    seen["runtime-data"]["nonce"] = nonce_of(http)
    assert code(attest(http, seen)) == (401, "snp.expected.report_data")


def test_evidence_with_my_key_put_in_place_of_the_servers(world: World) -> None:
    """Somebody between server and broker swaps the key, to have the secrets encrypted to theirs."""
    http = world.http()
    seen = message(world, nonce_of(http), VICTIM.public_jwk())
    seen["runtime-data"]["tee-pubkey"] = ATTACKER.public_jwk()
    assert code(attest(http, seen)) == (401, "snp.expected.report_data")


def test_nonce_of_another_session_in_my_session(world: World) -> None:
    """Real evidence for the victim's nonce, with my key, sent with my cookie."""
    nonce = nonce_of(world.http())
    http = world.http()
    nonce_of(http)
    assert code(attest(http, message(world, nonce, ATTACKER.public_jwk()))) == (401, "nonce.other")


def test_message_that_is_repeated_says_nothing_new_to_whoever_repeats_it(world: World) -> None:
    """Whoever saw cookie and message gets the victim's token again, and with it nothing that opens."""
    path = put(world)
    http = world.http()
    body = message(world, nonce_of(http), VICTIM.public_jwk())
    first = attest(http, body)
    thief = steal_cookie(world, http)
    assert attest(thief, body).json() == first.json()
    with pytest.raises(ProtocolError):
        ATTACKER.decrypt(thief.get(path).json())


# --- cookies, tokens and keys that do not belong together


def test_stolen_cookie_gets_what_only_the_victims_key_opens(world: World) -> None:
    path = put(world)
    http, _ = victim(world)
    stolen = steal_cookie(world, http).get(path).json()
    with pytest.raises(ProtocolError):
        ATTACKER.decrypt(stolen)
    assert VICTIM.decrypt(stolen) == SECRET


def test_stolen_token_gets_what_only_the_victims_key_opens(world: World) -> None:
    path = put(world)
    _, token = victim(world)
    stolen = world.http().get(path, headers={"Authorization": f"Bearer {token}"}).json()
    with pytest.raises(ProtocolError):
        ATTACKER.decrypt(stolen)


def test_stolen_cookie_with_evidence_of_my_key_loses_the_victims_person(world: World) -> None:
    http, _ = victim(world)
    identity = {"provider": "jupyterhub", "token": "token-of-alice"}
    assert http.post("/kbs/v0/sealroom/identity", json=identity).status_code == 200
    thief = steal_cookie(world, http)
    nonce = nonce_of(thief)
    assert attest(thief, message(world, nonce, ATTACKER.public_jwk())).status_code == 200
    assert thief.get("/kbs/v0/sealroom/session").json()["person"] is None


def test_release_to_a_stolen_cookie_is_for_the_victims_key(world: World) -> None:
    """The reader's key in the request is the thief's; the answer around it is not for the thief."""
    data = world.seal()
    world.grant()
    guest = world.guest()
    thief = world.http()
    thief.cookies.set("kbs-session-id", str(guest._cookie))
    path = "/kbs/v0/sealroom/datasets/heartbeats/release"
    answer = thief.post(path, content=data.request(READER).model_dump_json())
    assert answer.status_code == 200
    with pytest.raises(ProtocolError):
        ATTACKER.decrypt(answer.json())


@pytest.mark.parametrize("call", ["session", "datasets"])
def test_token_stands_for_the_cookie_at_resources_only(world: World, call: str) -> None:
    _, token = victim(world)
    headers = {"Authorization": f"Bearer {token}"}
    assert world.http().get(f"/kbs/v0/sealroom/{call}", headers=headers).status_code == 401


def changed_token(token: str, part: int) -> str:
    parts = token.split(".")
    parts[part] = parts[part][:-2] + ("AA" if parts[part][-2:] != "AA" else "BB")
    return ".".join(parts)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["header", "claims", "signature"])
def test_changed_token_opens_nothing(world: World, part: int) -> None:
    path = put(world)
    _, token = victim(world)
    headers = {"Authorization": f"Bearer {changed_token(token, part)}"}
    assert world.http().get(path, headers=headers).status_code == 401


def test_token_of_an_earlier_proof_opens_nothing(world: World) -> None:
    path = put(world)
    http, token = victim(world)
    assert attest(http, message(world, nonce_of(http), VICTIM.public_jwk())).status_code == 200
    headers = {"Authorization": f"Bearer {token}"}
    assert world.http().get(path, headers=headers).status_code == 401


def test_token_that_is_too_old_opens_nothing(world: World) -> None:
    path = put(world)
    _, token = victim(world)
    world.clock.forward(minutes=15)
    headers = {"Authorization": f"Bearer {token}"}
    assert code(world.http().get(path, headers=headers)) == (401, "attestation.expired")


def test_cookie_that_was_chosen_by_somebody_else_is_not_taken_over(world: World) -> None:
    """Session fixation: a cookie that the broker did not make begins a session under another one."""
    http = world.http()
    http.cookies.set("kbs-session-id", "0" * 32)
    answer = http.post("/kbs/v0/auth", json=AUTH)
    assert "0" * 32 not in answer.headers["set-cookie"]


# --- downgrades


def test_weaker_hash_than_the_one_that_was_selected(world: World) -> None:
    http = world.http()
    offered = {"extra-params": {"supported-hash-algorithms": ["sha256", "sha384"]}}
    nonce = nonce_of(http, **offered)
    covered = cpu_report_data(nonce, VICTIM.public_jwk(), "", "sha256")
    body = message(world, nonce, VICTIM.public_jwk(), covered=covered)
    assert code(attest(http, body)) == (401, "snp.expected.report_data")


@pytest.mark.parametrize(
    "version",
    ["0.3.0", "0.1.1", "0.4", "0.4.0-rc1", "0.4.0+x", "00.4.0", "=0.4.0", "v0.4.0", "1.0.0", "0.4.0\n"],
)
def test_downgrade_of_the_protocols_version(world: World, version: str) -> None:
    answer = world.http().post("/kbs/v0/auth", json=AUTH | {"version": version})
    assert code(answer) == (401, "protocol.version")


EC, RSA = TeeKey.generate("P-256").public_jwk(), TeeKey.generate("RSA").public_jwk()
ZERO = b64url(bytes(32))
BAD_KEYS = {
    "the point at infinity": EC | {"x": ZERO, "y": ZERO},
    "a point that is not on the curve": EC | {"y": EC["x"]},
    "a coordinate beyond the field": EC | {"x": b64url(b"\xff" * 32)},
    "a point of another curve": EC | {"crv": "P-521"},
    "a curve that is not there": EC | {"crv": "P-192"},
    "a coordinate with a zero before it": EC | {"x": b64url(b"\0" + bytes(32))},
    "key agreement without key wrap": EC | {"alg": "ECDH-ES"},
    "no encryption": EC | {"alg": "none"},
    "RSA with the old padding": RSA | {"alg": "RSA1_5"},
    "RSA with SHA-1": RSA | {"alg": "RSA-OAEP"},
    "RSA of 1024 bits": RSA | {"n": b64url(b"\xff" * 128)},
    "RSA of 16384 bits": RSA | {"n": b64url(b"\xff" * 2048)},
    "RSA with an even modulus": RSA | {"n": b64url(b"\x80" + bytes(255))},
    "RSA with the modulus zero": RSA | {"n": ""},
    "RSA with the exponent 1": RSA | {"e": "AQ"},
    "RSA with an even exponent": RSA | {"e": "Ag"},
    "RSA with an endless exponent": RSA | {"e": b64url(b"\xff" * 256)},
    "a shared secret": {"kty": "oct", "alg": "A256KW", "k": ZERO},
    "a key of a signature": {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": ZERO},
    "a key that the broker does not know": {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA"},
    "a private key beside the public one": EC | {"d": ZERO},
}


@pytest.mark.parametrize("what", BAD_KEYS)
def test_key_that_would_give_the_secret_away(world: World, what: str) -> None:
    """Real evidence that covers it: the server itself wants to have its secrets encrypted to that."""
    http = world.http()
    nonce = nonce_of(http)
    answer = attest(http, message(world, nonce, BAD_KEYS[what]))
    assert answer.status_code == 401
    assert answer.json()["type"].endswith("/AttestationError")
    assert http.get("/kbs/v0/sealroom/session").status_code == 401


# --- a production broker


@pytest.fixture
def production(world: World, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a production broker that approves the same environments."""
    plan = Plan(
        mode="production",
        environments=[tmp_path / "environments"],
        publishers=[tmp_path / "environments" / "publisher.pub.pem"],
    )
    config = initialise(tmp_path / "production", plan)
    broker = open_broker(load_config(config), clock=world.clock, identity=world.people)
    development, world.broker = world.broker, broker
    world.app = create_app(broker)
    yield world.http()
    development.close()


def test_sample_tee_at_a_production_broker(production: httpx.Client) -> None:
    answer = production.post("/kbs/v0/auth", json=AUTH | {"tee": "sample"})
    assert code(answer) == (401, "tee.refused")
    assert "proves nothing" in answer.json()["detail"]


def test_sample_evidence_in_an_snp_handshake_of_a_production_broker(production: httpx.Client) -> None:
    nonce = nonce_of(production)
    body = {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": EC},
        "tee-evidence": {"primary_evidence": {"svn": "1", "report_data": ""}, "additional_evidence": ""},
    }
    assert attest(production, body).status_code == 401


def test_simulated_root_at_a_production_broker(world: World, production: httpx.Client) -> None:
    answer = attest(production, message(world, nonce_of(production), EC))
    assert code(answer) == (401, "evidence.simulated")


def test_sample_resource_at_a_production_broker(world: World, production: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {add_token(world.broker.store, 'owner', world.clock())}"}
    for minimum in ("simulated", "sample"):
        spec = {"secret": "eA==", "minimum": minimum}
        url = "/kbs/v0/sealroom/admin/resources/a/b/c"
        assert production.put(url, json=spec, headers=headers).status_code == 400


def test_affirming_processor_beside_a_contraindicated_gpu() -> None:
    """The tier of the whole is the worst of its devices, so that a good processor covers up nothing."""
    result = AttestationResult(
        devices=tuple(
            DeviceResult(name, tier, Trustworthiness(), ())
            for name, tier in (("cpu0", Tier.AFFIRMING), ("gpu0", Tier.CONTRAINDICATED))
        ),
        environment=EnvironmentReference("e", "1", "E", "sha256:" + "a" * 64),
        policy=PolicyReference("strict", "1", "sha256:" + "b" * 64),
        at=testing.NOW,
        simulated=False,
    )
    assert result.tier is Tier.CONTRAINDICATED
    digest = "sha256:" + "a" * 64
    for gpu in (False, True):
        grant = Grant(
            id="g",
            created=testing.NOW,
            dataset="d",
            subject="alice",
            issuer="hub",
            purposes=(GENERAL,),
            gpu=gpu,
        )
        facts = Facts(
            server=Server(
                tier=result.tier.value,
                simulated=result.simulated,
                environment=digest,
                until=testing.NOW.replace(year=2027),
                devices={one.device: one.tier.value for one in result.devices},
            ),
            person=Person(subject="alice", name="alice", issuer="hub"),
            login_until=testing.NOW.replace(year=2027),
            dataset=Dataset(id="d", title="D", owner="O", ask="O"),
            grants=(grant,),
            approved=frozenset({digest}),
            purpose=GENERAL,
            now=testing.NOW,
            development=False,
        )
        verdict = decide(facts)
        assert isinstance(verdict, Refused)
        assert "tier.below" in {one.rule for one in verdict.denials}


# --- JSON


def raw_attest(world: World, change: Any) -> httpx.Response:
    http = world.http()
    body = json.dumps(message(world, nonce_of(http), VICTIM.public_jwk()))
    return http.post("/kbs/v0/attest", content=change(body))


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("call", ["auth", "attest", "sealroom/identity"])
def test_json_nested_ten_thousand_deep(world: World, call: str, open_: str, close: str) -> None:
    body = open_ * 10_000 + "1" + close * 10_000
    http, _ = victim(world)
    for content in (body, '{"version":"0.4.0","tee":"snp","extra-params":%s}' % body):  # noqa: UP031
        answer = http.post(f"/kbs/v0/{call}", content=content)
        assert answer.status_code == 400
        assert answer.json()["type"].endswith("/ProtocolError")


def test_nested_json_inside_the_evidence(world: World) -> None:
    http = world.http()
    body = message(world, nonce_of(http), VICTIM.public_jwk())
    body["tee-evidence"]["additional_evidence"] = "[" * 100_000
    covered = cpu_report_data(body["runtime-data"]["nonce"], VICTIM.public_jwk(), "[" * 100_000)
    body["tee-evidence"]["primary_evidence"] = snp_evidence(world.evidence(covered))
    assert attest(http, body).status_code == 401


def test_second_key_behind_the_one_that_the_evidence_covers(world: World) -> None:
    """A member that stands twice is read once: as what the evidence has to cover and what is encrypted to."""
    other = json.dumps(ATTACKER.public_jwk())
    answer = raw_attest(
        world, lambda body: body.replace('"tee-pubkey": {', f'"tee-pubkey": {other}, "tee-pubkey": {{')
    )
    assert answer.status_code in (200, 400, 401)
    if answer.status_code == 200:
        claims = json.loads(base64.urlsafe_b64decode(answer.json()["token"].split(".")[1] + "=="))
        annotated = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
        assert annotated["runtime_data_claims"]["tee-pubkey"] == VICTIM.public_jwk()
    last = json.dumps(VICTIM.public_jwk())
    answer = raw_attest(world, lambda body: body.replace(last, f'{last}, "tee-pubkey": {other}'))
    assert answer.status_code in (400, 401)


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "9" * 5000, "1." + "0" * 5000, "NaN", "Infinity", "0x10", "1_0"]
)
def test_numbers_that_are_too_big_or_none(world: World, number: str) -> None:
    answer = raw_attest(world, lambda body: body.replace('"version": 5', f'"version": {number}', 1))
    assert answer.status_code in (400, 401)
    answer = world.http().post(
        "/kbs/v0/auth", content=f'{{"version":"0.4.0","tee":"snp","extra-params":{{"x":{number}}}}}'
    )
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "\\udfff\\ud800", "\\u202e", "\\uffff"])
def test_strange_characters_in_every_text(world: World, text: str) -> None:
    for name in ("version", "tee"):
        body = json.dumps(AUTH | {name: "TEXT"}).replace("TEXT", text)
        assert world.http().post("/kbs/v0/auth", content=body).status_code in (400, 401)
    for name in ("nonce", "kty", "x"):
        answer = raw_attest(world, lambda body, name=name: _with_text(body, name, text))
        assert answer.status_code in (400, 401)


def _with_text(body: str, name: str, text: str) -> str:
    fields = json.loads(body)
    place = fields["runtime-data"] if name == "nonce" else fields["runtime-data"]["tee-pubkey"]
    place[name] = "TEXT"
    return json.dumps(fields).replace("TEXT", text)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/x-www-form-urlencoded", b"version=0.4.0&tee=snp"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n{}\r\n--x--"),
        (
            "text/xml",
            b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
        ),
        ("application/x-yaml", b"version: 0.4.0\ntee: snp\n"),
        ("application/cbor", b"\xa2gversione0.4.0ctee\x63snp"),
        ("application/json; charset=utf-16", json.dumps(AUTH).encode("utf-16")),
        ("application/json; charset=utf-7", b"+AHsAfQ-"),
    ],
)
def test_body_of_another_content_type(world: World, kind: str, content: bytes) -> None:
    """Whatever the type says, a body is JSON in UTF-8 or refused."""
    answer = world.http().post("/kbs/v0/auth", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400


def test_gzip_bomb(world: World) -> None:
    """A body is never unpacked: a kilobyte stays a kilobyte."""
    bomb = gzip.compress(json.dumps(AUTH).encode() + b" " * (64 << 20))
    assert len(bomb) < 100_000
    for coding in ("gzip", "deflate", "br", "gzip, gzip"):
        answer = world.http().post("/kbs/v0/auth", content=bomb, headers={"Content-Encoding": coding})
        assert answer.status_code == 400


# --- over sockets


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker in a process of its own that does not wait long for anybody."""
    with Hub() as hub:
        broker = BrokerProcess.prepare(tmp_path_factory.mktemp("attacked"), hub)
        broker.settings(
            "[limits]\nhead_seconds = 2\nbody_seconds = 2\nanswer_seconds = 2\nrate = 10000\nburst = 10000"
        )
        broker.start()
        yield broker
        broker.kill()


@pytest.fixture(scope="module")
def cookie(process: BrokerProcess) -> str:
    """The cookie of an attested session, for which there is a resource `default/keys/one`."""
    with httpx.Client(base_url=process.url, trust_env=False) as http:
        headers = {"Authorization": f"Bearer {process.token}"}
        spec = {"secret": b64(SECRET), "minimum": "sample"}
        put = http.put("/kbs/v0/sealroom/admin/resources/default/keys/one", json=spec, headers=headers)
        assert put.status_code == 204
        nonce = nonce_of(http, tee="sample")
        evidence = {"svn": "1", "report_data": b64(cpu_digest(nonce, EC))}
        body = {
            "init-data": None,
            "runtime-data": {"nonce": nonce, "tee-pubkey": EC},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        }
        assert attest(http, body).status_code == 200
        return http.cookies["kbs-session-id"]


def exchange(broker: BrokerProcess, request: bytes, *, end: bool = False) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with socket.create_connection(("127.0.0.1", broker.port)) as client:
        client.settimeout(60)
        client.sendall(request)
        if end:
            client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := client.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    return received


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def alive(broker: BrokerProcess) -> bool:
    return status(exchange(broker, b"GET /healthz HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")) == 200


TRICKS = [
    "default/keys/..",
    "default/../keys",
    "../../../etc/passwd",
    "default/keys/%2e%2e",
    "default/%2e%2e/%2e%2e/sealroom/admin/datasets",
    "default/keys/%2e",
    "default//keys/one",
    "/default/keys/one",
    "default/keys/one/",
    "default/keys%2fone/x",
    "default/keys/one%2f..",
    "default/keys/one%00",
    "default/keys/one%00.txt",
    "default/keys/%c0%ae%c0%ae",
    "default/keys/%ff",
    "default/keys/%e2%80%ae",
    "default/keys/o%cc%88ne",
    "default/keys/%ef%bd%8fne",
    "default/keys/on%d0%b5",
    "default/keys/one%20",
    "default/keys/one%0d%0aSet-Cookie:x",
    "default/keys/one;x=1",
    "default/keys/one%3fx",
    "default\\keys\\one",
    "default/keys/..%5c..%5cone",
    "default/keys/one.",
    "default/keys/.one",
    "default/keys/ONE",
    "default/keys/%6Fne%",
    "default/keys/" + "a" * 129,
    "default/keys/" + "a" * 20_000,
    "file:///etc/passwd",
    "default/keys/one#x",
]


@pytest.mark.parametrize("name", TRICKS, ids=range(len(TRICKS)))
def test_path_tricks_in_the_names_of_resources(process: BrokerProcess, cookie: str, name: str) -> None:
    """None of them is another spelling of `default/keys/one`, and none leads anywhere else."""
    head = (
        f"GET /kbs/v0/resource/{name} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n"
        f"Cookie: kbs-session-id={cookie}\r\n\r\n"
    )
    received = exchange(process, head.encode())
    assert status(received) in (400, 401, 404), received[:200]
    assert b"ciphertext" not in received
    assert b"root:" not in received
    assert b"Set-Cookie:x" not in received
    head = head.replace(name, "default/keys/one")
    assert status(exchange(process, head.encode())) == 200


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "a%2fb", "heartbeats%00", "heartbeats.", "a" * 20_000, "%ff", "a\\b"]
)
@pytest.mark.parametrize("place", ["resource/sealroom/dataset-key/{}", "sealroom/datasets/{}/release"])
def test_path_tricks_in_the_names_of_datasets(
    process: BrokerProcess, cookie: str, place: str, name: str
) -> None:
    method = "POST" if place.endswith("release") else "GET"
    head = (
        f"{method} /kbs/v0/{place.format(name)} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n"
        f"Cookie: kbs-session-id={cookie}\r\nContent-Length: 0\r\n\r\n"
    )
    assert status(exchange(process, head.encode())) in (400, 401, 403, 404, 405)
    assert alive(process)


POST = b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Type: application/json\r\n"
BODY = json.dumps(AUTH).encode()


@pytest.mark.parametrize("end", [True, False], ids=["closed", "silent"])
def test_body_that_is_cut(process: BrokerProcess, end: bool) -> None:
    """Less than was announced: it is not read as what it might have become."""
    request = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:-1]
    received = exchange(process, request, end=end)
    assert not received or status(received) in (400, 408)
    assert alive(process)


BROKEN = {
    "a length that is negative": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length that is no number": POST + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n" + BODY,
    "a chunk that is longer than was said": POST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "a chunk size that overflows": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}",
    "a head without an end": POST + b"X: " + b"x" * 200_000,
    "a version of HTTP that is not there": b"POST /kbs/v0/auth HTTP/9.9\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a zero byte in the path": b"GET /kbs/v0/resource/a/b/c\0 HTTP/1.1\r\nHost: b\r\n\r\n",
    "a line end in a header": POST + b"Cookie: kbs-session-id=a\nX: b\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("what", BROKEN)
def test_request_that_is_no_http(process: BrokerProcess, what: str) -> None:
    received = exchange(process, BROKEN[what], end=True)
    assert not received or 400 <= status(received) < 500, received[:200]
    assert alive(process)


def test_request_smuggled_behind_another(process: BrokerProcess) -> None:
    """With both a length and chunks, what follows the chunks is not taken for another request's body."""
    inner = b"GET /kbs/v0/sealroom/version HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"
    request = (
        b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n" + inner
    )
    received = exchange(process, request)
    # The chunks count (RFC 9112, section 6.1), or the request is refused; the length never cuts it in two.
    assert received.count(b"HTTP/1.1 ") <= 2
    assert status(received) == 400
    assert alive(process)


def test_oversize_json_over_a_socket(process: BrokerProcess) -> None:
    """The announced length is enough: the broker does not take ten gigabytes in first."""
    received = exchange(process, POST + b"Content-Length: 10737418240\r\n\r\n{")
    assert status(received) == 413


def test_endless_chunks(process: BrokerProcess) -> None:
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        client.settimeout(60)
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(1000):
                client.sendall(chunk)
        except ConnectionError:
            pass
        else:
            pytest.fail("the broker took 64 MiB of a body without an end")
    assert alive(process)
