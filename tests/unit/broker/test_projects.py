# SPDX-License-Identifier: BSD-3-Clause
"""Projects: halted at once, with every grant and every running server of theirs, and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import Description
from sealroom.errors import AccessDeniedError, ConfigurationError, ProtocolError
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import GrantChange
from sealroom.kbs.client import KbsClient
from sealroom_broker.audit import Record
from sealroom_broker.owners import add_token
from support.brokers import URL, Data, World

READER = SecretKey.generate()
ADMIN = "/kbs/v0/sealroom/admin"
OTHER = Description(id="other", title="Other", owner="Heart Centre")


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def denied(guest: KbsClient, data: Data) -> list[tuple[str, str]]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release(data.manifest.id, data.request(READER))
    return list(caught.value.reasons)


def states(guest: KbsClient) -> list[str]:
    return [one.state for one in guest.session().releases]


def kinds(world: World) -> list[str]:
    return [AuditEntry.from_bytes(entry).kind for _, entry in world.broker.record.log.entries()]


def test_halt_ends_running_servers_and_refuses_releases_at_once(world: World, data: Data) -> None:
    world.grant(project="vroni")
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    halted = world.owner.halt_project("vroni", "Incident 7")
    assert (halted.state, halted.since, halted.reason) == ("halted", world.clock.now, "Incident 7")
    (release,) = guest.session().releases
    assert release.state == "withdrawn"
    assert release.sentence == (
        "The project vroni was halted on 2026-06-01 00:00 UTC, and with it your use of Heartbeats. "
        "Ask data@heart.example."
    )
    assert denied(guest, data) == [("project.halted", release.sentence)]
    (offer,) = guest.datasets()
    assert (offer.state, offer.purposes) == ("refused", ())


def test_halt_is_in_the_log_in_the_owners_words(world: World, data: Data) -> None:
    grant = world.grant(project="vroni")
    world.owner.halt_project("vroni", "  Incident 7 ")
    denied(world.guest(), data)
    world.owner.resume_project("vroni", "Solved")
    entries = [AuditEntry.from_bytes(entry) for _, entry in world.broker.record.log.entries()]
    halt, refusal, resume = entries[-3:]
    assert (halt.kind, halt.actor, halt.project, halt.detail) == ("halt", "owner", "vroni", "Incident 7")
    assert (refusal.kind, refusal.project) == ("refusal", "vroni")
    assert refusal.decision.reasons[0].sentence == (
        f"The project vroni of the grant {grant} was halted on 2026-06-01 00:00 UTC."
    )
    assert (resume.kind, resume.project, resume.detail) == ("resume", "vroni", "Solved")
    assert verify_log(world.broker.record.log, world.broker.record.signer.verifier).ok


def test_resumed_project_goes_on(world: World, data: Data) -> None:
    world.grant(project="vroni")
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.owner.halt_project("vroni", "Incident")
    world.clock.forward(minutes=1)
    resumed = world.owner.resume_project("vroni", "Solved")
    assert (resumed.state, resumed.since) == ("running", world.clock.now)
    assert states(guest) == ["active"]
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_other_projects_and_other_grants_go_on(world: World, data: Data) -> None:
    world.grant(project="vroni")
    world.grant(subject="bob", project="herzfit")
    other = Data.seal(world.folder, OTHER)
    world.owner.register_dataset(other.registration())
    world.grant(dataset="other")
    world.owner.halt_project("vroni", "Incident")
    alice, bob = world.guest(), world.guest("token-of-bob")
    assert [code for code, _ in denied(alice, data)] == ["project.halted"]
    assert alice.release("other", other.request(READER)).dataset == "other"
    assert bob.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_grant_of_no_project_still_opens_what_a_halted_one_does_not(world: World, data: Data) -> None:
    free = world.grant()
    world.clock.forward(minutes=1)
    world.grant(project="vroni")
    world.owner.halt_project("vroni", "Incident")
    assert world.guest().release("heartbeats", data.request(READER)).grant == free


def test_halted_project_gets_no_new_grants_until_it_goes_on(world: World, data: Data) -> None:
    world.grant(project="vroni")
    world.owner.halt_project("vroni", "Incident")
    with pytest.raises(ProtocolError, match="vroni is halted"):
        world.grant(subject="bob", project="vroni")
    assert len(world.owner.grants()) == 1
    world.owner.resume_project("vroni", "Solved")
    world.grant(subject="bob", project="vroni")


@pytest.mark.parametrize(("before", "after"), [("vroni", ""), ("vroni", "herzfit"), ("", "vroni")])
def test_change_of_project_does_not_get_round_a_halt(
    world: World, data: Data, before: str, after: str
) -> None:
    world.grant(subject="bob", project="vroni")
    grant = world.grant(project=before)
    world.owner.halt_project("vroni", "Incident")
    with pytest.raises(ProtocolError, match="vroni is halted"):
        world.owner.change_grant(grant, GrantChange(project=after))


def test_grant_moves_between_running_projects(world: World, data: Data) -> None:
    grant = world.grant(project="vroni")
    assert world.owner.change_grant(grant, GrantChange(project="herzfit")).project == "herzfit"
    assert [one.name for one in world.owner.projects()] == ["herzfit"]


def test_projects_are_listed_with_their_grants_and_datasets(world: World, data: Data) -> None:
    world.owner.register_dataset(Data.seal(world.folder, OTHER).registration())
    world.grant(project="vroni")
    world.grant(dataset="other", project="vroni")
    world.owner.withdraw_grant(world.grant(subject="bob", project="vroni"))
    world.grant(project="herzfit")
    world.grant()
    herzfit, vroni = world.owner.projects()
    assert (herzfit.name, herzfit.state, herzfit.grants, herzfit.since) == ("herzfit", "running", 1, None)
    assert (vroni.name, vroni.grants, vroni.datasets) == ("vroni", 2, ("heartbeats", "other"))


@pytest.mark.parametrize("turn", ["halt_project", "resume_project"])
def test_project_that_no_grant_names(world: World, data: Data, turn: str) -> None:
    world.grant(project="vroni")
    with pytest.raises(ProtocolError, match="No grant is of a project Vroni"):
        getattr(world.owner, turn)("Vroni", "Incident")


def test_halting_again_and_resuming_what_runs_changes_nothing(world: World, data: Data) -> None:
    world.grant(project="vroni")
    assert world.owner.resume_project("vroni", "Nothing was wrong").since is None
    first = world.owner.halt_project("vroni", "Incident")
    world.clock.forward(hours=1)
    size = world.broker.record.log.size
    assert world.owner.halt_project("vroni", "Again") == first
    assert world.broker.record.log.size == size
    assert kinds(world)[-2:] == ["grant", "halt"]


def test_halt_outlives_a_restart(world: World, data: Data) -> None:
    world.grant(project="vroni")
    world.owner.halt_project("vroni", "Incident")
    world.restart()
    assert [code for code, _ in denied(world.guest(), data)] == ["project.halted"]


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 2001}, {"why": "x"}], ids=str
)
def test_halt_needs_a_reason(world: World, data: Data, body: dict[str, Any]) -> None:
    world.grant(project="vroni")
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    answer = world.http().post(f"{ADMIN}/projects/vroni/halt", json=body, headers=headers)
    assert answer.status_code == 400
    assert world.owner.projects()[0].state == "running"


def test_client_does_not_send_a_halt_without_a_reason(world: World) -> None:
    with pytest.raises(ConfigurationError, match="between 1 and 2000"):
        world.owner.halt_project("vroni", " ")


def test_token_of_one_dataset_halts_only_what_is_wholly_its_own(world: World, data: Data) -> None:
    world.owner.register_dataset(Data.seal(world.folder, OTHER).registration())
    world.grant(project="mine")
    world.grant(project="both")
    world.grant(dataset="other", project="both")
    world.grant(dataset="other", project="theirs")
    token = add_token(world.broker.store, "robot", world.clock(), datasets=["heartbeats"])
    robot = OwnerClient(URL, token, http=world.http())
    assert [(one.name, one.datasets) for one in robot.projects()] == [
        ("both", ("heartbeats",)),
        ("mine", ("heartbeats",)),
    ]
    assert robot.halt_project("mine", "Incident").state == "halted"
    for project in ("both", "theirs"):
        with pytest.raises(AccessDeniedError):
            robot.halt_project(project, "Incident")
    assert {one.name: one.state for one in world.owner.projects()} == {
        "mine": "halted",
        "both": "running",
        "theirs": "running",
    }


@pytest.mark.parametrize("scope", ["auditor", "read-only"])
def test_who_only_reads_does_not_halt(world: World, data: Data, scope: Any) -> None:
    world.grant(project="vroni")
    reader = OwnerClient(
        URL, add_token(world.broker.store, "robot", world.clock(), scope=scope), http=world.http()
    )
    assert reader.projects()[0].state == "running"
    with pytest.raises(AccessDeniedError):
        reader.halt_project("vroni", "Incident")
    assert kinds(world)[-1] == "grant"


def test_halt_that_cannot_be_recorded_does_not_hold(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant(project="vroni")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "append", fail)
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    body = {"reason": "Incident"}
    assert world.http().post(f"{ADMIN}/projects/vroni/halt", json=body, headers=headers).status_code == 500
    monkeypatch.undo()
    assert world.owner.projects()[0].state == "running"
