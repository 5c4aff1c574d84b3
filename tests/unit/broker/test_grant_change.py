# SPDX-License-Identifier: BSD-3-Clause
"""Grants that change while servers run by them: what is narrowed ends, what is extended goes on."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ProtocolError
from sealroom.kbs.calls import Grant, GrantChange, IdentityRequest, ReleaseState
from sealroom.kbs.client import KbsClient
from sealroom_broker.store import SessionRow
from sqlalchemy import select
from support.brokers import GENERAL, Data, World

READER = SecretKey.generate()
HEALTH = "DUO:0000006"
OTHER_ENVIRONMENT = "sha256:" + "b" * 64


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


@pytest.fixture
def grant(world: World, data: Data) -> str:
    return world.grant(purposes=(GENERAL, HEALTH), until=world.clock.now + timedelta(hours=2))


@pytest.fixture
def running(world: World, data: Data, grant: str) -> KbsClient:
    """A server of alice's that has the dataset."""
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    return guest


def change(world: World, grant: str, **fields: Any) -> Grant:
    return world.owner.change_grant(grant, GrantChange.model_validate(fields))


def state(guest: KbsClient) -> ReleaseState:
    (one,) = guest.session().releases
    return one


def last_entry(world: World) -> AuditEntry:
    log = world.broker.record.log
    return AuditEntry.from_bytes(log.entry(log.size - 1))


def denied(guest: KbsClient, data: Data, purpose: str = GENERAL) -> set[str]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER, purpose))
    return {code for code, _ in caught.value.reasons}


def back(guest: KbsClient) -> None:
    """Let a server prove itself and its person log in again."""
    guest.attest()
    guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice"))


# --- the change itself


def test_change_is_a_new_version_with_an_entry_in_words(world: World, grant: str) -> None:
    end = world.clock.now + timedelta(days=7)
    changed = change(world, grant, purposes=[HEALTH], until=end, outputs=True)
    assert (changed.version, changed.purposes, changed.until, changed.outputs) == (2, (HEALTH,), end, True)
    assert world.owner.grants() == (changed,)
    entry = last_entry(world)
    assert (entry.kind, entry.actor, entry.dataset) == ("change", "owner", "heartbeats")
    assert entry.grant is not None
    assert entry.grant.id == grant
    assert "purposes: DUO:0000042, DUO:0000006 -> DUO:0000006" in entry.detail
    assert "until: 2026-06-01 02:00:00 UTC -> 2026-06-08 00:00:00 UTC" in entry.detail
    assert "outputs: no -> yes" in entry.detail
    assert "environments" not in entry.detail


def test_entry_of_a_grant_says_its_terms(world: World, grant: str) -> None:
    entry = last_entry(world)
    assert entry.kind == "grant"
    assert (
        "purposes: DUO:0000042, DUO:0000006; environments: all approved; minimum: simulated" in entry.detail
    )


def test_every_version_has_a_digest_of_its_own(world: World, grant: str) -> None:
    digests = {last_entry(world).grant}
    for fields in ({"servers": 2}, {"outputs": True}, {"project": "p"}, {"dataset_key": True}, {"gpu": True}):
        change(world, grant, **fields)
        digests.add(last_entry(world).grant)
    assert len(digests) == 6


def test_change_that_changes_nothing_is_no_act(world: World, grant: str) -> None:
    size = world.broker.record.log.size
    assert change(world, grant, purposes=[GENERAL, HEALTH]).version == 1
    assert change(world, grant).version == 1
    assert world.broker.record.log.size == size


def test_what_is_null_stays(world: World, grant: str) -> None:
    answer = world.http().patch(
        f"/kbs/v0/sealroom/admin/grants/{grant}",
        json={"until": None, "servers": None, "gpu": True},
        headers={"Authorization": f"Bearer {world.owner_token}"},
    )
    assert answer.status_code == 200
    assert world.owner.grants()[0].until == world.clock.now + timedelta(hours=2)


def test_end_and_bound_are_taken_away_only_in_so_many_words(world: World, grant: str) -> None:
    assert change(world, grant, servers=1).servers == 1
    changed = change(world, grant, forever=True, any_servers=True)
    assert (changed.until, changed.servers) == (None, None)
    assert "until: 2026-06-01 02:00:00 UTC -> none" in last_entry(world).detail


def test_withdrawn_grant_does_not_change(world: World, grant: str) -> None:
    world.owner.withdraw_grant(grant)
    with pytest.raises(ProtocolError, match="withdrawn grant does not change"):
        change(world, grant, forever=True)
    assert world.owner.grants()[0].version == 2


def test_ended_grant_is_extended(world: World, data: Data, grant: str) -> None:
    world.clock.forward(hours=3)
    guest = world.guest()
    assert denied(guest, data) == {"grant.expired"}
    change(world, grant, until=world.clock.now + timedelta(hours=1))
    assert guest.release("heartbeats", data.request(READER)).grant == grant


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"purposes": []}, "at least one purpose"),
        ({"purposes": ["research"]}, "DUO codes"),
        ({"environments": ["sha256:abc"]}, "digests"),
        ({"starts": "2027-01-01T00:00:00Z"}, "must end after it begins"),
        ({"until": "2026-07-01T00:00:00Z", "forever": True}, "either ends or does not"),
        ({"servers": 1, "any_servers": True}, "either bounds the servers or does not"),
    ],
)
def test_change_that_does_not_fit(world: World, grant: str, fields: dict[str, Any], says: str) -> None:
    before = world.owner.grants()
    with pytest.raises(ProtocolError, match=says):
        change(world, grant, **fields)
    assert world.owner.grants() == before


@pytest.mark.parametrize(
    "body",
    [
        {"servers": 0},
        {"servers": -1},
        {"subject": "bob"},
        {"dataset": "other"},
        {"project": "a/b"},
        {"project": "x" * 65},
        {"minimum": "warning"},
    ],
    ids=str,
)
def test_what_no_change_can_say(world: World, grant: str, body: dict[str, Any]) -> None:
    answer = world.http().patch(
        f"/kbs/v0/sealroom/admin/grants/{grant}",
        json=body,
        headers={"Authorization": f"Bearer {world.owner_token}"},
    )
    assert answer.status_code == 400
    assert world.owner.grants()[0].version == 1


def test_grant_that_is_not_there(world: World) -> None:
    with pytest.raises(ProtocolError, match="no such grant"):
        change(world, "0" * 16, gpu=True)


# --- servers that run


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"purposes": (HEALTH,)}, "grant.purpose"),
        ({"environments": (OTHER_ENVIRONMENT,)}, "grant.environment"),
        ({"minimum": "affirming"}, "tier.below"),
        ({"gpu": True}, "grant.gpu"),
        ({"starts": testing.NOW + timedelta(hours=1)}, "grant.not_started"),
        ({"until": testing.NOW}, "grant.expired"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_running_server_loses_what_the_grant_no_longer_covers(
    world: World, data: Data, grant: str, running: KbsClient, fields: dict[str, Any], rule: str
) -> None:
    assert state(running).state == "active"
    change(world, grant, **fields)
    assert state(running).state == ("expired" if rule == "grant.expired" else "withdrawn")
    assert state(running).sentence
    assert denied(running, data) == {rule}
    assert running.datasets()[0].state != "unlocked"


def test_running_server_has_the_new_end_at_once(world: World, grant: str, running: KbsClient) -> None:
    end = world.clock.now + timedelta(minutes=10)
    change(world, grant, until=end)
    assert (state(running).state, state(running).until) == ("active", end)
    world.clock.forward(minutes=10)
    assert state(running).state == "expired"


def test_narrowing_that_still_covers_the_server_leaves_it_alone(
    world: World, grant: str, running: KbsClient
) -> None:
    change(world, grant, purposes=(GENERAL,), environments=(world.environment.digest,), servers=1)
    assert state(running).state == "active"


def test_results_may_leave_or_not_is_told(world: World, data: Data, grant: str) -> None:
    guest = world.guest()
    assert guest.datasets()[0].outputs is False
    assert guest.release("heartbeats", data.request(READER)).outputs is False
    change(world, grant, outputs=True)
    assert guest.datasets()[0].outputs is True
    assert guest.release("heartbeats", data.request(READER)).outputs is True


# --- how many servers


def test_bound_on_servers_refuses_the_next_one(
    world: World, data: Data, grant: str, running: KbsClient
) -> None:
    change(world, grant, servers=1)
    second = world.guest()
    assert second.datasets()[0].state == "refused"
    assert denied(second, data) == {"grant.servers"}
    # The one that has it may have it again.
    assert running.release("heartbeats", data.request(READER)).grant == grant
    assert state(running).state == "active"


def test_bound_counts_servers_of_one_person(world: World, data: Data) -> None:
    world.grant(group="cardiology", servers=1)
    world.grant(subject="bob", servers=1)
    for person in ("token-of-alice", "token-of-bob"):
        world.guest(person).release("heartbeats", data.request(READER))
        assert denied(world.guest(person), data) == {"grant.servers"}


def test_narrower_bound_takes_it_from_those_that_came_last(world: World, data: Data, grant: str) -> None:
    guests = [world.guest() for _ in range(3)]
    for guest in guests:
        guest.release("heartbeats", data.request(READER))
    change(world, grant, servers=2)
    assert [state(guest).state for guest in guests] == ["active", "active", "withdrawn"]
    change(world, grant, servers=1)
    assert [state(guest).state for guest in guests] == ["active", "withdrawn", "withdrawn"]


def test_server_whose_proof_is_too_old_gives_its_place_up(
    world: World, data: Data, grant: str, running: KbsClient
) -> None:
    change(world, grant, servers=1)
    world.clock.forward(seconds=world.broker.config.periods.attestation)
    second = world.guest()
    second.release("heartbeats", data.request(READER))
    # The first one is back: it has lost its release, and must ask again.
    back(running)
    assert running.session().releases == ()
    assert denied(running, data) == {"grant.servers"}
    assert state(second).state == "active"


def test_server_whose_proof_lapsed_keeps_its_place_while_nobody_takes_it(
    world: World, grant: str, running: KbsClient
) -> None:
    change(world, grant, servers=1)
    world.clock.forward(seconds=world.broker.config.periods.attestation)
    back(running)
    assert state(running).state == "active"


def test_servers_that_ask_at_once_do_not_get_more_than_the_bound(
    world: World, data: Data, grant: str
) -> None:
    change(world, grant, servers=2)
    guests = [world.guest() for _ in range(8)]
    # Ask for the session first: nothing but the release is raced for.
    for guest in guests:
        assert guest.session().releases == ()
    barrier, got, refused = threading.Barrier(len(guests)), list[str](), list[str]()

    def ask(guest: KbsClient) -> None:
        barrier.wait()
        try:
            got.append(guest.release("heartbeats", data.request(READER)).grant)
        except AccessDeniedError as error:
            refused.extend(code for code, _ in error.reasons)

    threads = [threading.Thread(target=ask, args=(guest,)) for guest in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [grant] * 2
    assert refused == ["grant.servers"] * 6
    assert sum(len(guest.session().releases) for guest in guests) == 2


def test_session_that_is_gone_has_no_place(world: World, data: Data, grant: str, running: KbsClient) -> None:
    change(world, grant, servers=1)
    with world.broker.store.write() as session:
        (row,) = session.scalars(select(SessionRow).where(SessionRow.subject == "alice"))
        session.delete(row)
    assert world.guest().release("heartbeats", data.request(READER)).grant == grant
