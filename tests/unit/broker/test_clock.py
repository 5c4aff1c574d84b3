# SPDX-License-Identifier: BSD-3-Clause
"""A clock that jumps by an hour, either way: nothing holds longer, nothing is used twice, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError
from sealroom.kbs.calls import IdentityRequest
from sealroom_broker.sessions import SKEW, UNPROVEN
from sealroom_broker.store import SessionRow
from sqlalchemy import func, select
from support.brokers import World

READER = SecretKey.generate()
AUTH = {"version": "0.4.0", "tee": "snp", "extra-params": ""}
HOURS = [1, -1]


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["reasons"][0]["code"]


@pytest.mark.parametrize("hours", HOURS)
def test_pending_nonce_does_not_survive_a_jump(world: World, hours: int) -> None:
    http = world.http()
    nonce = http.post("/kbs/v0/auth", json=AUTH).json()["nonce"]
    world.clock.forward(hours=hours)
    body = {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": {"kty": "EC"}},
        "tee-evidence": {"primary_evidence": {}, "additional_evidence": ""},
    }
    assert code(http.post("/kbs/v0/attest", json=body)) == (401, "nonce.expired")
    world.clock.forward(hours=-hours)
    assert code(http.post("/kbs/v0/attest", json=body)) == (401, "nonce.used")


@pytest.mark.parametrize(("hours", "reason"), [(1, "attestation.expired"), (-1, "attestation.ahead")])
def test_proof_does_not_survive_a_jump_and_is_made_again(world: World, hours: int, reason: str) -> None:
    data, _ = world.seal(), world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.clock.forward(hours=hours)
    headers = {"Cookie": f"kbs-session-id={guest._cookie}"}
    assert code(world.http().get("/kbs/v0/sealroom/session", headers=headers)) == (401, reason)
    # The guest proves itself, presents its login again, and goes on with the same session and release.
    guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice"))
    assert [(one.state, one.audit_index) for one in guest.session().releases] == [("active", 3)]
    guest.release("heartbeats", data.request(READER))
    key = world.broker.record.signer.verifier
    assert verify_log(world.broker.record.log, key).ok
    assert verify_log(world.broker.record.log, key).kinds["release"] == 2


def test_clocks_of_two_machines_may_differ_a_little(world: World) -> None:
    guest = world.guest()
    world.clock.now -= SKEW
    assert guest.session().person is not None


def test_login_does_not_hold_longer_when_the_clock_is_set_back(world: World) -> None:
    guest = world.guest()
    world.clock.forward(hours=-1)
    headers = {"Cookie": f"kbs-session-id={guest._cookie}"}
    guest.attest()
    state = world.http().get("/kbs/v0/sealroom/session", headers=headers).json()
    assert state["person"] is None or state["login_due"]


@pytest.mark.parametrize("hours", HOURS)
def test_grants_and_keys_survive_a_jump(world: World, hours: int) -> None:
    world.seal()
    grant = world.grant()
    jwks = world.http().get("/kbs/v0/sealroom/jwks").json()
    world.clock.forward(hours=hours)
    world.restart()
    assert [one.id for one in world.owner.grants()] == [grant]
    assert world.http().get("/kbs/v0/sealroom/jwks").json() == jwks


def test_grant_that_ends_within_the_hour_ends_with_the_jump(world: World) -> None:
    data = world.seal()
    world.grant(until=world.clock.now.replace(minute=30).isoformat())
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.clock.forward(hours=1)
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    assert [name for name, _ in caught.value.reasons] == ["grant.expired"]


def test_sessions_that_never_proved_anything_are_forgotten_soon(world: World) -> None:
    http = world.http()

    def begun() -> int:
        http.cookies.clear()
        http.post("/kbs/v0/auth", json=AUTH)
        with world.broker.store.read() as session:
            return session.scalar(select(func.count()).select_from(SessionRow)) or 0

    guest = world.guest()
    assert [begun() for _ in range(3)] == [2, 3, 4]
    world.clock.now += world.broker.config.periods.nonce_delta + UNPROVEN
    assert begun() == 5
    world.clock.forward(seconds=1)
    assert begun() == 3
    assert guest.session().person is not None
