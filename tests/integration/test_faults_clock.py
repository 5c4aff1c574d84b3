# SPDX-License-Identifier: BSD-3-Clause
"""A clock that jumps by an hour, either way, while requests are open and grants, permits and halts hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, Error
from sealroom.kbs.calls import AccessRequestSpec, IdentityRequest, RequestGrant
from sealroom.kbs.client import KbsClient
from sealroom_broker.housekeeping import tidy
from support.brokers import Data, World
from support.brokers import world as open_world

pytestmark = pytest.mark.integration

READER = SecretKey.generate()
HOURS = pytest.mark.parametrize("hours", [1, -1])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as made:
        yield made
        assert verify_log(made.broker.record.log, made.broker.record.signer.verifier).ok


def ask(guest: KbsClient, **fields: Any) -> str:
    spec = {"dataset": "heartbeats", "purpose": "DUO:0000042", "reason": "Arrhythmia."} | fields
    return guest.request_access(AccessRequestSpec.model_validate(spec)).id


def again(guest: KbsClient) -> None:
    """Prove the server again and present its person's login, as a guest does after a jump."""
    guest.attest()
    guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice"))


def refusal(guest: KbsClient, data: Data) -> list[str]:
    """Return the codes that a release is refused with; none if it is not."""
    try:
        guest.release("heartbeats", data.request(READER))
    except AccessDeniedError as error:
        return [code for code, _ in error.reasons]
    return []


@HOURS
def test_open_request_survives_a_jump_and_is_answered(world: World, hours: int) -> None:
    data = world.seal()
    guest = world.guest()
    asked = ask(guest)
    world.clock.forward(hours=hours)
    world.restart()
    assert [(one.id, one.state) for one in world.owner.requests()] == [(asked, "open")]
    until = world.clock() + timedelta(days=7)
    given = world.owner.grant_request(asked, RequestGrant(until=until, minimum="simulated"))
    again(guest)
    assert [one.state for one in guest.own_requests()] == ["granted"]
    assert refusal(guest, data) == []
    with pytest.raises(Error, match="already"):
        world.owner.refuse_request(asked, "Twice.")
    assert [one.id for one in world.owner.grants()] == [given.grant]


@HOURS
def test_request_is_taken_back_after_a_jump_and_not_answered(world: World, hours: int) -> None:
    world.seal()
    guest = world.guest()
    asked = ask(guest)
    world.clock.forward(hours=hours)
    again(guest)
    assert guest.withdraw_request(asked).state == "withdrawn"
    world.clock.forward(hours=-hours)
    terms = RequestGrant(until=world.clock() + timedelta(days=7), minimum="simulated")
    with pytest.raises(Error, match="taken back"):
        world.owner.grant_request(asked, terms)
    assert world.owner.grants() == ()


def test_request_whose_wish_is_past_stays_for_the_owner_to_decide(world: World) -> None:
    world.seal()
    asked = ask(world.guest(), until=world.clock() + timedelta(minutes=30))
    world.clock.forward(hours=1)
    past = RequestGrant(until=world.clock() - timedelta(minutes=30), minimum="simulated")
    with pytest.raises(Error):
        world.owner.grant_request(asked, past)
    assert world.owner.grants() == ()
    assert [one.state for one in world.owner.requests()] == ["open"]
    later = RequestGrant(until=world.clock() + timedelta(days=1), minimum="simulated")
    assert world.owner.grant_request(asked, later).state == "granted"


def test_grant_that_ends_within_the_hour_ends_with_the_jump(world: World) -> None:
    data = world.seal()
    guest = world.guest()
    asked = ask(guest)
    until = world.clock() + timedelta(minutes=30)
    world.owner.grant_request(asked, RequestGrant(until=until, minimum="simulated"))
    assert refusal(guest, data) == []
    world.clock.forward(hours=1)
    again(guest)
    assert refusal(guest, data) == ["grant.expired"]
    assert [one.state for one in guest.session().releases] == ["expired"]


def test_grant_that_begins_within_the_hour_does_not_begin_where_the_clock_is_set_back(world: World) -> None:
    data = world.seal()
    world.grant(starts=world.clock().isoformat())
    guest = world.guest()
    assert refusal(guest, data) == []
    world.clock.forward(hours=-1)
    again(guest)
    assert refusal(guest, data) != []


@HOURS
def test_withdrawal_holds_after_a_jump(world: World, hours: int) -> None:
    data = world.seal()
    grant = world.grant()
    guest = world.guest()
    assert refusal(guest, data) == []
    world.owner.withdraw_grant(grant)
    world.clock.forward(hours=hours)
    again(guest)
    assert refusal(guest, data) == ["grant.withdrawn"]
    assert [one.state for one in guest.session().releases] == ["withdrawn"]


@HOURS
def test_halt_of_a_project_holds_after_a_jump(world: World, hours: int) -> None:
    data = world.seal()
    world.grant(project="arrhythmia")
    guest = world.guest()
    assert refusal(guest, data) == []
    world.owner.halt_project("arrhythmia", "The vote was withdrawn.")
    world.clock.forward(hours=hours)
    again(guest)
    assert refusal(guest, data) != []
    assert [one.state for one in world.owner.projects()] == ["halted"]
    world.owner.resume_project("arrhythmia", "It was renewed.")
    assert refusal(guest, data) == []


def test_key_that_was_destroyed_at_the_permits_end_stays_so_where_the_clock_is_set_back(world: World) -> None:
    data = Data.seal(world.folder)
    permit = data.registration().model_copy(update={"keep_until": world.clock() + timedelta(minutes=30)})
    world.owner.register_dataset(permit)
    world.grant()
    guest = world.guest()
    assert refusal(guest, data) == []
    world.clock.forward(hours=1)
    assert tidy(world.broker) == ("heartbeats",)
    world.clock.forward(hours=-1)
    again(guest)
    assert refusal(guest, data) == ["dataset.destroyed"]
    (dataset,) = world.owner.datasets()
    assert dataset.destroyed is not None
