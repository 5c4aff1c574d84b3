# SPDX-License-Identifier: BSD-3-Clause
"""`auth` and `attest` as a guest sees them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.audit.entry import AuditEntry
from sealroom.kbs.binding import HASH_ALGORITHMS, HashAlgorithm, cpu_report_data
from sealroom.kbs.client import snp_evidence
from sealroom.kbs.jwe import TeeKey
from sealroom.snp import ProductLine
from support.brokers import World

KEY = TeeKey.generate()
AUTH = {
    "version": "0.4.0",
    "tee": "snp",
    "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]},
}


def auth(http: httpx.Client, **changes: Any) -> httpx.Response:
    return http.post("/kbs/v0/auth", json=AUTH | changes)


def attest_body(
    world: World, nonce: str, key: TeeKey = KEY, algorithm: HashAlgorithm = "sha384", **report: Any
) -> dict[str, Any]:
    jwk = key.public_jwk()
    covered = report.pop("report_data", cpu_report_data(nonce, jwk, "", algorithm))
    return {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
        "tee-evidence": {
            "primary_evidence": snp_evidence(world.evidence(covered, **report)),
            "additional_evidence": "",
        },
    }


def attest(http: httpx.Client, body: object) -> httpx.Response:
    return http.post("/kbs/v0/attest", json=body)


def handshake(world: World, http: httpx.Client, **report: Any) -> httpx.Response:
    return attest(http, attest_body(world, auth(http).json()["nonce"], **report))


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["reasons"][0]["code"]


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(data) for _, data in world.broker.record.log.entries()]


# --- auth


def test_auth_answers_with_a_nonce_and_a_session(world: World) -> None:
    answer = auth(world.http())
    assert answer.status_code == 200
    assert len(base64.b64decode(answer.json()["nonce"])) == 32
    assert answer.json()["extra-params"] == ""
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("kbs-session-id=")
    assert len(cookie.split("=")[1].split(";")[0]) == 32
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "expires=" in cookie.lower()


def test_nonces_differ(world: World) -> None:
    http = world.http()
    assert auth(http).json()["nonce"] != auth(http).json()["nonce"]


@pytest.mark.parametrize("version", ["0.1.1", "0.4", "0.4.0 ", "0.4.1", "0.5.0", ""])
def test_other_protocol_version(world: World, version: str) -> None:
    answer = auth(world.http(), version=version)
    assert code(answer) == (401, "protocol.version")
    assert answer.json()["type"].endswith("/AttestationError")
    assert "expect =0.4.0 while the request is" in answer.json()["detail"]


@pytest.mark.parametrize("tee", ["sampledevice", "tdx", "nvidia", "SNP", "", "x" * 1000])
def test_tee_that_is_not_accepted(world: World, tee: str) -> None:
    assert code(auth(world.http(), tee=tee)) == (401, "tee.refused")


@pytest.mark.parametrize("extra", [{"supported-hash-algorithms": ["sm3"]}, {"supported-hash-algorithms": []}])
def test_no_common_hash_algorithm(world: World, extra: object) -> None:
    assert code(auth(world.http(), **{"extra-params": extra})) == (401, "hash.none")


@pytest.mark.parametrize("extra", ["", None, {}, {"more": 1}])
def test_guest_that_offers_no_hash_algorithms_gets_the_default(world: World, extra: object) -> None:
    assert auth(world.http(), **{"extra-params": extra}).json()["extra-params"] == ""


@pytest.mark.parametrize("algorithm", [one for one in HASH_ALGORITHMS if one != "sha384"])
def test_selected_hash_algorithm_is_the_one_that_is_checked(world: World, algorithm: HashAlgorithm) -> None:
    http = world.http()
    challenge = auth(http, **{"extra-params": {"supported-hash-algorithms": [algorithm]}}).json()
    assert challenge["extra-params"] == {"selected-hash-algorithm": algorithm}
    assert attest(http, attest_body(world, challenge["nonce"], algorithm=algorithm)).status_code == 200
    nonce = auth(http, **{"extra-params": {"supported-hash-algorithms": [algorithm]}}).json()["nonce"]
    assert attest(http, attest_body(world, nonce)).status_code == 401


# --- attest


def test_token_says_what_was_appraised_and_verifies_with_the_published_keys(world: World) -> None:
    http = world.http()
    answer = handshake(world, http)
    assert answer.status_code == 200, answer.text
    jwks = http.get("/kbs/v0/sealroom/jwks").json()
    token = ear.verify(answer.json()["token"], jwks=jwks, at=world.clock())
    assert token.result.tier == "simulated"
    assert token.result.simulated
    assert token.result.environment is not None
    assert token.result.environment.digest == world.environment.digest
    assert token.tee_pubkey == KEY.public_jwk()
    assert (token.expires - token.issued).total_seconds() == 900


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA"])
def test_every_kind_of_key(world: World, kind: Any) -> None:
    assert handshake(world, world.http(), key=TeeKey.generate(kind)).status_code == 200


@pytest.mark.parametrize("line", list(ProductLine))
def test_every_product_line_of_which_the_root_is_known(world: World, line: ProductLine) -> None:
    answer = handshake(world, world.http(), on=testing.chip(line))
    assert answer.status_code == (200 if line is ProductLine.GENOA else 401)


def test_cookie_only_goes_with_its_own_nonce(world: World) -> None:
    first, second = world.http(), world.http()
    nonce = auth(first).json()["nonce"]
    auth(second)
    assert code(attest(second, attest_body(world, nonce))) == (401, "nonce.other")


def test_no_session(world: World) -> None:
    nonce = auth(world.http()).json()["nonce"]
    assert code(attest(world.http(), attest_body(world, nonce))) == (401, "session.none")


def test_made_up_session(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    http.cookies.clear()
    answer = http.post(
        "/kbs/v0/attest", json=attest_body(world, nonce), headers={"Cookie": "kbs-session-id=" + "0" * 32}
    )
    assert code(answer) == (401, "session.none")


def test_nonce_that_is_too_old(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    world.clock.forward(seconds=300)
    assert code(attest(http, attest_body(world, nonce))) == (401, "nonce.expired")


def test_nonce_is_used_once_also_by_evidence_that_fails(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    assert attest(http, attest_body(world, nonce, report_data=bytes(64))).status_code == 401
    assert code(attest(http, attest_body(world, nonce))) == (401, "nonce.used")


def test_second_evidence_for_an_answered_nonce(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    assert attest(http, attest_body(world, nonce)).status_code == 200
    assert code(attest(http, attest_body(world, nonce, key=TeeKey.generate()))) == (401, "nonce.used")


def test_the_same_message_again_gets_the_same_token(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    first = attest(http, body)
    assert attest(http, body).json() == first.json()


def test_replayed_message_in_another_session(world: World) -> None:
    first, second = world.http(), world.http()
    body = attest_body(world, auth(first).json()["nonce"])
    assert attest(first, body).status_code == 200
    auth(second)
    assert code(attest(second, body)) == (401, "nonce.other")


def test_replayed_message_after_its_attestation_ended(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    assert attest(http, body).status_code == 200
    world.clock.forward(minutes=16)
    assert code(attest(http, body)) == (401, "nonce.used")


def test_report_for_another_nonce(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    other = cpu_report_data(base64.b64encode(bytes(32)).decode(), KEY.public_jwk())
    answer = attest(http, attest_body(world, nonce, report_data=other))
    assert code(answer) == (401, "snp.expected.report_data")


def test_report_for_another_key(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    other = cpu_report_data(nonce, TeeKey.generate().public_jwk())
    assert code(attest(http, attest_body(world, nonce, report_data=other)))[0] == 401


def test_altered_report_is_refused_with_the_check_and_recorded_with_its_evidence(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    body["tee-evidence"]["primary_evidence"]["attestation_report"]["measurement"][0] ^= 1
    answer = attest(http, body)
    assert code(answer) == (401, "snp.report.signature")
    assert answer.json()["detail"]
    entry = entries(world)[-1]
    assert (entry.kind, entry.decision.allowed) == ("refusal", False)
    assert entry.decision.reasons[0].code == "snp.report.signature"
    sent = answer.request.content
    assert entry.evidence == hashlib.sha256(sent).hexdigest()
    assert world.owner.audit_file(f"evidence/{entry.evidence}") == sent


def test_report_without_certificates(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    body["tee-evidence"]["primary_evidence"]["cert_chain"] = None
    assert code(attest(http, body)) == (401, "evidence.certificates")


def test_processor_under_a_root_that_nobody_knows(world: World) -> None:
    chip = testing.chip(root=testing.chain(names=testing.AMD_LIKE_NAMES))
    answer = handshake(world, world.http(), on=chip)
    assert answer.status_code == 401
    assert "simulated" not in answer.text.lower()


def test_initdata_that_belongs_to_the_report(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    assert world.environment.initdata is not None
    body["init-data"] = {"format": "toml", "body": world.environment.initdata.body}
    assert attest(http, body).status_code == 200


@pytest.mark.parametrize(
    "text", ['algorithm = "sha256"\nversion = "0.1.0"\n', "algorithm = 1", "= no TOML", ""]
)
def test_initdata_that_does_not_belong_to_the_report(world: World, text: str) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    body["init-data"] = {"format": "toml", "body": text}
    assert code(attest(http, body)) == (401, "evidence.initdata")


def test_initdata_of_another_format(world: World) -> None:
    http = world.http()
    body = attest_body(world, auth(http).json()["nonce"])
    body["init-data"] = {"format": "json", "body": "{}"}
    assert attest(http, body).status_code == 400


def test_other_measurement_is_contraindicated_and_opens_nothing(world: World) -> None:
    data = world.seal()
    world.grant()
    http = world.http()
    token = handshake(world, http, measurement=bytes(48)).json()["token"]
    jwks = http.get("/kbs/v0/sealroom/jwks").json()
    assert ear.verify(token, jwks=jwks, at=world.clock()).result.tier == "contraindicated"
    (offer,) = http.get("/kbs/v0/sealroom/datasets").json()["datasets"]
    assert offer["id"] == data.manifest.id
    assert "environment.unknown" in {reason["code"] for reason in offer["reasons"]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"runtime-data": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'{"version":"0.4.0","tee":["snp"]}',
    ],
)
@pytest.mark.parametrize("call", ["auth", "attest"])
def test_what_is_no_message(world: World, call: str, body: bytes) -> None:
    answer = world.http().post(f"/kbs/v0/{call}", content=body)
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("/ProtocolError")


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "EC"},
        KEY.public_jwk() | {"alg": "none"},
        KEY.public_jwk() | {"kid": "1"},
        KEY.public_jwk() | {"x": "AA"},
        KEY.public_jwk() | {"crv": "P-384"},
    ],
)
def test_key_that_nothing_can_be_encrypted_to(world: World, jwk: dict[str, str]) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    body = attest_body(world, nonce, report_data=cpu_report_data(nonce, jwk))
    body["runtime-data"]["tee-pubkey"] = jwk
    assert attest(http, body).status_code == 401


# --- sessions


def test_fresh_proof_keeps_the_session_and_its_person(world: World) -> None:
    guest = world.guest()
    first = guest.session()
    world.clock.forward(minutes=5)
    guest.attest()
    second = guest.session()
    assert second.person == first.person
    assert second.expires > first.expires


def test_old_proof_asks_for_a_new_one(world: World) -> None:
    http = world.http()
    handshake(world, http)
    world.clock.forward(minutes=15)
    for path in ("session", "datasets"):
        assert code(http.get(f"/kbs/v0/sealroom/{path}")) == (401, "attestation.expired")


def test_unattested_session_sees_nothing(world: World) -> None:
    http = world.http()
    auth(http)
    for path in ("session", "datasets"):
        assert code(http.get(f"/kbs/v0/sealroom/{path}")) == (401, "session.unattested")


def test_failed_proof_ends_the_standing_of_the_session(world: World) -> None:
    http = world.http()
    assert handshake(world, http).status_code == 200
    assert handshake(world, http, report_data=bytes(64)).status_code == 401
    assert code(http.get("/kbs/v0/sealroom/session")) == (401, "session.unattested")


def test_pending_handshake_does_not_end_the_standing_of_the_session(world: World) -> None:
    http = world.http()
    assert handshake(world, http).status_code == 200
    auth(http)
    assert http.get("/kbs/v0/sealroom/session").status_code == 200


def test_proof_with_another_key_drops_the_person(world: World) -> None:
    http = world.http()
    handshake(world, http)
    identity = {"provider": "jupyterhub", "token": "token-of-alice"}
    assert http.post("/kbs/v0/sealroom/identity", json=identity).status_code == 200
    handshake(world, http, key=TeeKey.generate())
    assert http.get("/kbs/v0/sealroom/session").json()["person"] is None


def test_sessions_survive_a_restart(world: World) -> None:
    guest = world.guest()
    before = guest.session()
    world.restart()
    assert guest.session() == before


def test_pending_handshake_survives_a_restart(world: World) -> None:
    http = world.http()
    nonce = auth(http).json()["nonce"]
    world.restart()
    assert attest(http, attest_body(world, nonce)).status_code == 200


def test_old_sessions_are_forgotten(world: World) -> None:
    http = world.http()
    handshake(world, http)
    world.clock.forward(days=2)
    auth(world.http())
    assert code(http.get("/kbs/v0/sealroom/session")) == (401, "session.none")


def test_database_holds_no_cookie(world: World) -> None:
    http = world.http()
    handshake(world, http)
    cookie = http.cookies["kbs-session-id"]
    world.broker.store.close()
    for path in (world.folder / "broker").glob("broker.sqlite*"):
        assert cookie.encode() not in path.read_bytes()


# --- recordings of a real broker and of its real client


def test_requests_of_the_real_client(world: World, vectors: Path) -> None:
    messages = json.loads((vectors / "kbs" / "client_requests.json").read_text())["messages"]
    for message in messages:
        if message["kind"] == "auth":
            # Its TEE is the sample one, which a development broker takes; see test_sample.
            for tee in ("sample", "snp"):
                answer = world.http().post("/kbs/v0/auth", json=message["body"] | {"tee": tee})
                assert answer.json()["extra-params"] == ""
        else:
            # Understood as far as its session, which is not ours.
            assert code(attest(world.http(), message["body"])) == (401, "session.none")


def test_another_version_is_refused_as_the_real_broker_does(world: World, vectors: Path) -> None:
    (exchange,) = json.loads((vectors / "kbs" / "server_oldversion.json").read_text())["exchange"]
    answer = world.http().post("/kbs/v0/auth", json=exchange["request"]["body"])
    recorded = exchange["response"]
    assert answer.status_code == recorded["status"]
    assert {name: answer.json()[name] for name in ("type", "detail")} == recorded["body"]


@pytest.mark.parametrize("kind", ["p256", "p521", "rsa"])
def test_keys_that_the_real_broker_encrypts_to(world: World, vectors: Path, kind: str) -> None:
    recording = json.loads((vectors / "kbs" / f"server_{kind}.json").read_text())
    key = TeeKey.from_pem(recording["tee_private_key_pem"].encode())
    assert handshake(world, world.http(), key=key).status_code == 200
