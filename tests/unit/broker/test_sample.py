# SPDX-License-Identifier: BSD-3-Clause
"""The sample TEE at a development broker, and the calls of CoCo's administrator."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.cli.reverify import Reverifier
from sealroom.kbs.binding import cpu_digest
from sealroom.kbs.jwe import TeeKey
from sealroom.snp import Roots
from support.brokers import World, b64

KEY = TeeKey.generate()
PATH = "/kbs/v0/resource/default/keys/one"


def auth(http: httpx.Client) -> str:
    answer = http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "sample", "extra-params": ""})
    assert answer.status_code == 200, answer.text
    nonce: str = answer.json()["nonce"]
    return nonce


def body(nonce: str, **changes: Any) -> dict[str, Any]:
    jwk = KEY.public_jwk()
    evidence = {"svn": "1", "report_data": base64.b64encode(cpu_digest(nonce, jwk)).decode()}
    return {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""} | changes,
    }


def attest(world: World, **changes: Any) -> tuple[httpx.Client, httpx.Response]:
    http = world.http()
    return http, http.post("/kbs/v0/attest", json=body(auth(http), **changes))


def put(world: World, minimum: str) -> int:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    url = "/kbs/v0/sealroom/admin/resources/default/keys/one"
    spec = {"secret": b64(b"secret"), "minimum": minimum}
    return world.http().put(url, json=spec, headers=headers).status_code


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(data) for _, data in world.broker.record.log.entries()]


def test_sample_guest_gets_a_resource_that_says_sample(world: World) -> None:
    assert put(world, "sample") == 204
    http, answer = attest(world)
    assert answer.status_code == 200, answer.text
    assert KEY.decrypt(http.get(PATH).json()) == b"secret"
    entry = entries(world)[-1]
    assert entry.kind == "release"
    assert entry.ear is not None
    assert (entry.ear.tier, entry.ear.simulated) == ("none", True)


def test_its_token_says_that_nothing_was_proven(world: World) -> None:
    http, answer = attest(world)
    jwks = http.get("/kbs/v0/sealroom/jwks").json()
    token = ear.verify(answer.json()["token"], jwks=jwks, at=world.clock())
    assert token.result.tier == "none"
    assert token.result.simulated
    assert token.result.environment is None
    assert token.tee_pubkey == KEY.public_jwk()


@pytest.mark.parametrize("minimum", ["affirming", "simulated"])
def test_any_other_resource_is_refused_to_it(world: World, minimum: str) -> None:
    put(world, minimum)
    http, _ = attest(world)
    answer = http.get(PATH)
    assert answer.status_code == 403
    assert {one["code"] for one in answer.json()["reasons"]} == {"environment.unknown", "tier.below"}


def test_no_grant_opens_a_dataset_to_it(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    http, _ = attest(world)
    identity = {"provider": "jupyterhub", "token": "token-of-alice"}
    assert http.post("/kbs/v0/sealroom/identity", json=identity).status_code == 200
    answer = http.get("/kbs/v0/resource/sealroom/dataset-key/heartbeats")
    assert answer.status_code == 403
    assert {one["code"] for one in answer.json()["reasons"]} >= {"environment.unknown", "tier.below"}


def test_attested_guest_gets_a_resource_that_says_sample_too(world: World) -> None:
    put(world, "sample")
    assert world.guest("").resource("default", "keys", "one") == b"secret"


def test_attested_guest_of_a_strange_environment_does_not(world: World) -> None:
    put(world, "sample")
    guest = world.guest("", provider=lambda covered: world.evidence(covered, measurement=bytes(48)))
    token = guest.attest().token
    answer = world.http().get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def sample(report_data: object, **more: object) -> dict[str, object]:
    return {"primary_evidence": {"svn": "1", "report_data": report_data, **more}}


@pytest.mark.parametrize(
    "changes",
    [
        sample(base64.b64encode(bytes(48)).decode()),
        sample(""),
        sample("not base64"),
        sample(1),
        sample("ü"),
        sample("", more=1),
        {"primary_evidence": None},
        {"primary_evidence": []},
        {"additional_evidence": '{"sampledevice":{"svn":"1"}}'},
    ],
)
def test_sample_evidence_that_is_refused(world: World, changes: dict[str, Any]) -> None:
    _, answer = attest(world, **changes)
    assert answer.status_code == 401
    assert [one["code"] for one in answer.json()["reasons"]] == ["evidence.sample"]


def test_initdata_with_sample_evidence(world: World) -> None:
    http = world.http()
    sent = body(auth(http)) | {"init-data": {"format": "toml", "body": 'algorithm = "sha384"'}}
    assert http.post("/kbs/v0/attest", json=sent).status_code == 401


def test_sample_evidence_in_an_snp_handshake(world: World) -> None:
    http = world.http()
    answer = http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert http.post("/kbs/v0/attest", json=body(answer.json()["nonce"])).status_code == 401


def test_handshake_cannot_change_the_tee_of_its_session(world: World) -> None:
    """`auth` for another TEE begins another session: what was proven stays where it was."""
    put(world, "sample")
    http, _ = attest(world)
    before = http.cookies["kbs-session-id"]
    http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert http.cookies["kbs-session-id"] != before


def test_auditor_who_names_a_development_root_can_check_it(world: World) -> None:
    put(world, "sample")
    http, _ = attest(world)
    http.get(PATH)
    log, key = world.broker.record.log, world.broker.record.signer.verifier
    report = verify_log(log, key, reverify=Reverifier(Roots.development(testing.chain().pem), []))
    assert report.ok, report.findings
    without = verify_log(log, key, reverify=Reverifier(None, []))
    assert [one.code for one in without.findings] == ["evidence.unchecked"]


# --- the administrator's calls of `kbs-client`


def admin(world: World, method: str, path: str = PATH, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    return world.http().request(method, path, headers=headers, **more)


def test_resource_as_kbs_client_sets_and_deletes_it(world: World) -> None:
    assert admin(world, "POST", content=b"\x00secret\xff").status_code == 200
    assert entries(world)[-1].kind == "registration"
    guest = world.guest("")
    token = guest.attest().token
    headers = {"Authorization": f"Bearer {token}"}
    # Only an affirming server gets it.
    assert world.http().get(PATH, headers=headers).status_code == 403
    assert admin(world, "DELETE").status_code == 200
    assert admin(world, "DELETE").status_code == 404


def test_resource_is_set_with_an_owners_token_only(world: World) -> None:
    token = world.guest("").attest().token
    for headers in ({}, {"Authorization": f"Bearer {token}"}, {"Authorization": "Bearer x"}):
        assert world.http().post(PATH, content=b"x", headers=headers).status_code == 401
        assert world.http().delete(PATH, headers=headers).status_code == 401


def test_empty_resource_is_not_set(world: World) -> None:
    assert admin(world, "POST", content=b"").status_code == 400


@pytest.mark.parametrize(
    "call", ["attestation-policy", "resource-policy", "reference-value", "reference-value/x"]
)
def test_trustees_other_calls_of_an_administrator_are_not_found(world: World, call: str) -> None:
    assert admin(world, "POST", f"/kbs/v0/{call}", json={}).status_code == 404


@pytest.mark.parametrize("name", ["-a/-b/-c", "1.ok/2ok./3...", "123--_default/1Abff-_/___-afds44BC"])
def test_names_that_trustee_takes(world: World, name: str) -> None:
    assert admin(world, "POST", f"/kbs/v0/resource/{name}", content=b"x").status_code == 200


def test_cookie_counts_before_a_token_as_with_trustee(world: World) -> None:
    put(world, "sample")
    http, _ = attest(world)
    assert http.get(PATH, headers={"Authorization": "Bearer stale"}).status_code == 200
    token = http.post("/kbs/v0/attest", json=body(auth(http))).json()["token"]
    stranger = world.http()
    auth(stranger)
    assert stranger.get(PATH).status_code == 401
    assert stranger.get(PATH, headers={"Authorization": f"Bearer {token}"}).status_code == 200
