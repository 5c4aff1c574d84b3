# SPDX-License-Identifier: BSD-3-Clause
"""The status service: who may say what about which server, and what is believed."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sealroom.errors import NetworkError, SignatureError
from sealroom_spawner.results import Result, ResultVerifier
from sealroom_spawner.status import EXPIRED, Event, ServerStatus, Stage, StatusClient
from sealroom_spawner.store import MAX_EVENTS, Store
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.web import Application, RequestHandler

from .conftest import SERVICE_TOKEN, FakeHub, FakeVerifier, Serve

SIMULATED = Result("simulated", "simulated-cpu", "key-1", until=time.time() + 3600)


async def say(url: str, token: str, body: Any, *, server: str = "") -> HTTPResponse:
    path = f"servers/{server}/events" if server else "servers/events"
    return await AsyncHTTPClient().fetch(
        f"{url}/api/{path}",
        method="POST",
        headers={"Authorization": f"token {token}"} if token else {},
        body=body if isinstance(body, (str, bytes)) else json.dumps(body),
        raise_error=False,
    )


def event(stage: str, sentence: str = "So it is.", token: str = "") -> dict[str, str]:
    return {"stage": stage, "sentence": sentence, "token": token}


async def test_a_server_says_where_it_is(status_url: str, hub: FakeHub, store: Store) -> None:
    assert (await say(status_url, hub.server_token("alice"), event("evidence"))).code == 204
    status = store.get("alice", "")
    assert status is not None
    assert (status.stage, status.tier, status.sentence) == (Stage.EVIDENCE, "none", "So it is.")


async def test_a_verified_result_gives_the_tier(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["ear"] = SIMULATED
    await say(status_url, hub.server_token("alice"), event("verified", token="ear"))
    status = store.get("alice", "")
    assert status is not None
    assert (status.tier, status.environment) == ("simulated", "simulated-cpu")


async def test_verified_without_a_result_is_refused(status_url: str, hub: FakeHub, store: Store) -> None:
    answer = await say(status_url, hub.server_token("alice"), event("verified"))
    assert answer.code == 400
    assert "presents its attestation result" in json.loads(answer.body)["message"]
    assert store.get("alice", "") is None


async def test_a_result_that_does_not_verify_proves_nothing(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["forged"] = SignatureError("The signature is wrong.")
    await say(status_url, hub.server_token("alice"), event("verified", token="forged"))
    status = store.get("alice", "")
    assert status is not None
    assert (status.stage, status.tier) == (Stage.REFUSED, "none")
    assert "does not verify" in status.sentence


async def test_a_result_past_its_end_proves_nothing(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["ear"] = dataclasses.replace(SIMULATED, until=time.time() - 1)
    await say(status_url, hub.server_token("alice"), event("verified", token="ear"))
    status = await StatusClient(status_url, SERVICE_TOKEN).get("alice", "")
    assert (status.tier, status.sentence) == ("none", EXPIRED)


def test_a_result_holds_until_its_end_and_no_longer() -> None:
    status = ServerStatus("alice", "", Stage.VERIFIED, "simulated", "s", until=100.0)
    assert status.as_of(99.9) == status
    assert status.as_of(100.0).tier == "none"


def test_a_result_without_an_end_proves_nothing() -> None:
    assert ServerStatus("alice", "", Stage.VERIFIED, "affirming", "s").as_of(1.0).tier == "none"


def test_a_memory_without_ends_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "s.sqlite")
    old.execute(
        "CREATE TABLE servers (user TEXT NOT NULL, server TEXT NOT NULL, stage TEXT NOT NULL, "
        "tier TEXT NOT NULL, sentence TEXT NOT NULL, environment TEXT NOT NULL, "
        "key TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (user, server))"
    )
    old.execute("INSERT INTO servers VALUES ('alice', '', 'verified', 'simulated', 's', 'e', 'k', 1.0)")
    old.commit()
    old.close()
    store = Store(tmp_path / "s.sqlite")
    assert [(status.user, status.as_of(2.0).tier) for status in store.all()] == [("alice", "none")]
    store.close()


async def test_another_servers_result_proves_nothing(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["ear"] = SIMULATED
    await say(status_url, hub.server_token("alice"), event("verified", token="ear"))
    await say(status_url, hub.server_token("bob"), event("verified", token="ear"))
    status = store.get("bob", "")
    assert status is not None
    assert (status.stage, status.tier) == (Stage.REFUSED, "none")
    assert "belongs to another server" in status.sentence


async def test_a_server_may_present_its_result_again(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["ear"] = SIMULATED
    token = hub.server_token("alice")
    for _ in range(2):
        await say(status_url, token, event("verified", token="ear"))
    status = store.get("alice", "")
    assert status is not None
    assert status.tier == "simulated"


async def test_a_result_that_could_not_be_checked_is_asked_for_again(
    status_url: str, hub: FakeHub, store: Store, verifier: FakeVerifier
) -> None:
    verifier.results["ear"] = NetworkError("The broker is away.")
    assert (await say(status_url, hub.server_token("alice"), event("verified", token="ear"))).code == 503
    assert store.get("alice", "") is None


async def test_the_token_says_which_server_speaks_not_the_path(
    status_url: str, hub: FakeHub, store: Store
) -> None:
    await say(status_url, hub.server_token("alice", "second"), event("evidence"), server="other")
    assert store.get("alice", "second") is not None
    assert store.get("alice", "other") is None


@pytest.mark.parametrize(
    "model",
    [
        {"name": "alice", "scopes": []},
        {"name": "alice", "scopes": ["access:services!service=sealroom"]},
        {"name": "alice", "scopes": ["access:servers!server=alice/"]},
        {"name": "bob", "scopes": ["access:services", "access:servers!server=alice/"]},
        {
            "name": "alice",
            "scopes": [
                "access:services",
                "access:servers!server=alice/",
                "access:servers!server=alice/second",
            ],
        },
        {"name": "alice", "scopes": ["access:services", "access:servers!user=alice"]},
    ],
)
async def test_only_a_servers_own_token_may_report(
    status_url: str, hub: FakeHub, store: Store, model: dict[str, Any]
) -> None:
    hub.tokens["t"] = model
    assert (await say(status_url, "t", event("evidence"))).code == 403
    assert store.all() == []


@pytest.mark.parametrize("token", ["", "unknown", SERVICE_TOKEN])
async def test_nobody_else_may_report(status_url: str, store: Store, token: str) -> None:
    assert (await say(status_url, token, event("evidence"))).code == 403
    assert store.all() == []


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '"x"', b"\xff", {"stage": "evidence"}, {"stage": "won", "sentence": "x"},
     {"stage": "evidence", "sentence": 1}, {"stage": "evidence", "sentence": "x", "token": 1}],
)  # fmt: skip
async def test_what_is_no_event_is_refused(status_url: str, hub: FakeHub, store: Store, body: Any) -> None:
    assert (await say(status_url, hub.server_token("alice"), body)).code == 400
    assert store.all() == []


async def test_a_sentence_is_cut_and_its_control_characters_go(
    status_url: str, hub: FakeHub, store: Store
) -> None:
    await say(status_url, hub.server_token("alice"), event("evidence", "a\n\x1b[31mb\u202e" + "x" * 9999))
    status = store.get("alice", "")
    assert status is not None
    assert status.sentence.startswith("a[31mbx")
    assert len(status.sentence) == 500


async def test_a_hub_that_does_not_answer_is_said(serve: Serve, store: Store, verifier: FakeVerifier) -> None:
    from sealroom_spawner.service import Hub, make_app

    app = make_app(
        prefix="/s/", hub=Hub("http://127.0.0.1:1/hub/api", "t", "sealroom"), token="t", store=store,
        verifier=verifier,  # type: ignore[arg-type]
    )  # fmt: skip
    answer = await say(f"{await serve(app)}/s", "t", event("evidence"))
    assert answer.code == 503


# What the spawner asks


async def test_the_spawner_begins_reads_and_ends(status_url: str, hub: FakeHub) -> None:
    client = StatusClient(status_url, SERVICE_TOKEN)
    await client.begin("alice", "")
    await say(status_url, hub.server_token("alice"), event("evidence"))
    status = await client.get("alice", "")
    assert [e.stage for e in status.events] == [Stage.EVIDENCE]
    await client.begin("alice", "")
    assert (await client.get("alice", "")).events == ()
    await client.end("alice", "")
    with pytest.raises(NetworkError):
        await client.get("alice", "")


async def test_names_with_odd_characters_reach_the_service(status_url: str, store: Store) -> None:
    client = StatusClient(status_url, SERVICE_TOKEN)
    await client.begin("a/b@c.de", "two")
    assert store.get("a/b@c.de", "two") is not None
    assert (await client.get("a/b@c.de", "two")).user == "a/b@c.de"


@pytest.mark.parametrize("token", ["", "other"])
async def test_nobody_but_the_hub_asks_so(status_url: str, token: str, store: Store) -> None:
    with pytest.raises(NetworkError):
        await StatusClient(status_url, token).begin("alice", "")
    assert store.all() == []


async def test_a_servers_token_is_not_the_hubs(status_url: str, hub: FakeHub) -> None:
    with pytest.raises(NetworkError):
        await StatusClient(status_url, hub.server_token("alice")).get("alice", "")


async def test_a_service_that_is_away_is_said() -> None:
    with pytest.raises(NetworkError, match="did not answer"):
        await StatusClient("http://127.0.0.1:1", "t").get("alice", "")


def test_the_client_does_not_show_its_token() -> None:
    assert "secret" not in repr(StatusClient("http://x", "secret"))


# The memory


def test_statuses_survive_json(store: Store) -> None:
    store.begin("alice", "", at=1.0)
    store.record("alice", "", Event(Stage.VERIFIED, "s", "simulated", 2.0), environment="e", key="k")
    status = store.get("alice", "")
    assert status is not None
    assert ServerStatus.from_json(json.loads(json.dumps(status.to_json()))) == status


def test_the_memory_survives_a_restart(tmp_path: Path) -> None:
    first = Store(tmp_path / "s.sqlite")
    first.begin("alice", "", at=1.0)
    first.record("alice", "", Event(Stage.VERIFIED, "s", "simulated", 2.0))
    first.close()
    second = Store(tmp_path / "s.sqlite")
    assert [status.tier for status in second.all()] == ["simulated"]
    second.close()


def test_the_memory_is_private(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    assert (tmp_path / "s.sqlite").stat().st_mode & 0o077 == 0
    store.close()


def test_a_server_that_talks_forever_fills_no_disk(store: Store) -> None:
    for number in range(MAX_EVENTS + 20):
        store.record("alice", "", Event(Stage.EVIDENCE, str(number)))
    status = store.get("alice", "")
    assert status is not None
    assert len(status.events) == MAX_EVENTS
    assert status.events[-1].sentence == str(MAX_EVENTS + 19)


def test_a_failed_write_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.begin("alice", "", at=1.0)
    with pytest.raises(sqlite3.Error):
        store.record("alice", "", Event(Stage.VERIFIED, object(), "simulated"))  # type: ignore[arg-type]
    status = store.get("alice", "")
    assert status is not None
    assert status.tier == "none"


def test_people_have_their_own_servers(store: Store) -> None:
    for user in ("alice", "bob"):
        store.begin(user, "", at=1.0)
    assert [status.user for status in store.of_user("alice")] == ["alice"]


# Pages for people (the login itself is the hub's and is tried with a real hub)


async def test_people_without_login_are_sent_to_the_hub(status_url: str) -> None:
    answer = await AsyncHTTPClient().fetch(
        f"{status_url}/api/servers", raise_error=False, follow_redirects=False
    )
    assert answer.code in (302, 403)


# Verifying results


async def test_keys_that_cannot_be_had_are_no_verdict() -> None:
    with pytest.raises(NetworkError, match="could not be checked"):
        await ResultVerifier("http://127.0.0.1:1").verify("token")


async def test_a_token_that_nobody_signed_is_refused(serve: Serve) -> None:
    from sealroom.errors import Error

    asked: list[str] = []

    class Jwks(RequestHandler):
        def get(self) -> None:
            asked.append(self.request.path)
            self.write({"keys": []})

    verifier = ResultVerifier(await serve(Application([("/kbs/v0/sealroom/jwks", Jwks)])))
    for _ in range(2):
        with pytest.raises(Error):
            await verifier.verify("e30.e30.e30")
    assert len(asked) == 1


async def test_a_new_key_of_the_brokers_is_asked_for_at_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from sealroom import testing
    from sealroom.appraisal import NO_EXPECTATION, Policy, appraise, ear, keys

    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    published = [old]

    class Jwks(RequestHandler):
        def get(self) -> None:
            self.write(ear.jwks({keys.thumbprint(k.public_key()): k.public_key() for k in published}))

    result = appraise(testing.verified_evidence(), environment=NO_EXPECTATION, policy=Policy.strict())

    def token(key: ec.EllipticCurvePrivateKey) -> str:
        return ear.issue(
            result, key=key, kid=keys.thumbprint(key.public_key()), issuer="broker", nonce="n", tee_pubkey={},
            lifetime=timedelta(minutes=5), at=datetime.now(UTC),
        )  # fmt: skip

    monkeypatch.setattr("sealroom_spawner.results.JWKS_PAUSE", 0.0)
    verifier = ResultVerifier(await serve(Application([("/kbs/v0/sealroom/jwks", Jwks)])))
    assert (await verifier.verify(token(old))).until > time.time()
    published.append(new)
    assert (await verifier.verify(token(new))).tier == (await verifier.verify(token(old))).tier


async def test_a_genuine_result_is_not_believed_where_all_processors_are_simulated(serve: Serve) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from sealroom import testing
    from sealroom.appraisal import NO_EXPECTATION, Policy, Tier, appraise, ear, keys
    from sealroom.errors import VerificationError

    key = ec.generate_private_key(ec.SECP256R1())
    kid = keys.thumbprint(key.public_key())

    class Jwks(RequestHandler):
        def get(self) -> None:
            self.write(ear.jwks({kid: key.public_key()}))

    result = appraise(testing.verified_evidence(), environment=NO_EXPECTATION, policy=Policy.strict())
    forged = dataclasses.replace(
        result,
        simulated=False,
        devices=tuple(
            dataclasses.replace(
                device,
                tier=Tier.AFFIRMING,
                vector=dataclasses.replace(device.vector, hardware=2, runtime_opaque=2, executables=3),
            )
            for device in result.devices
        ),
    )
    token = ear.issue(
        forged, key=key, kid=kid, issuer="broker", nonce="n", tee_pubkey={}, lifetime=timedelta(minutes=5),
        at=datetime.now(UTC),
    )  # fmt: skip
    url = await serve(Application([("/kbs/v0/sealroom/jwks", Jwks)]))
    assert (await ResultVerifier(url).verify(token)).tier == "affirming"
    with pytest.raises(VerificationError, match="simulated ones only"):
        await ResultVerifier(url, simulated_only=True).verify(token)
