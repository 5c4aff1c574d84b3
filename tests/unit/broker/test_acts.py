# SPDX-License-Identifier: BSD-3-Clause
"""An owner's acts as functions, as calls and pages use them: who may do what, and the entry first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest
from sealroom.audit.entry import AuditEntry
from sealroom.canonical import canonical_json
from sealroom.datasets.seal import Description
from sealroom.errors import StorageError
from sealroom.kbs.calls import GrantChange, GrantSpec
from sealroom_broker import acts
from sealroom_broker.audit import Receipt, Record
from sealroom_broker.entries import grant_digest
from sealroom_broker.owners import Actor
from sealroom_broker.problem import Problem
from sealroom_broker.store import DatasetRow, GrantRow, ProjectRow
from support.brokers import Data, World

OWNER = Actor("owner", "owner")
AUDITOR = Actor("auditor", "auditor")
READER = Actor("reader", "read-only")
OTHERS = Actor("robot", "owner", frozenset({"other"}))
SPEC = GrantSpec(dataset="heartbeats", subject="bob", minimum="simulated", project="vroni")

Act = Callable[[World, str, Actor], object]
ACTS: dict[str, Act] = {
    "give": lambda w, _, who: acts.give_grant(w.broker, SPEC, who, w.clock.now),
    "change": lambda w, g, who: acts.change_grant(w.broker, g, GrantChange(gpu=True), who, w.clock.now),
    "withdraw": lambda w, g, who: acts.withdraw(w.broker, g, who, w.clock.now),
    "halt": lambda w, _, who: acts.halt(w.broker, "vroni", "Incident", who, w.clock.now),
    "destroy": lambda w, _, who: acts.destroy_key(w.broker, "heartbeats", "Over", who, w.clock.now),
}
KINDS = {
    "give": "grant",
    "change": "change",
    "withdraw": "withdrawal",
    "halt": "halt",
    "destroy": "destruction",
}


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


@pytest.fixture
def grant(world: World, data: Data) -> str:
    return world.grant(project="vroni")


def snapshot(world: World) -> object:
    """Return all that acts change."""
    with world.broker.store.read() as session:
        return (
            [(one.id, one.version, one.withdrawn, one.gpu) for one in session.query(GrantRow)],
            [(one.id, one.wrapped_key, one.destroyed) for one in session.query(DatasetRow)],
            [(one.name, one.halted) for one in session.query(ProjectRow)],
        )


@pytest.mark.parametrize("name", ACTS)
def test_act_has_one_entry_by_its_actor(world: World, grant: str, name: str) -> None:
    size = world.broker.record.log.size
    ACTS[name](world, grant, OWNER)
    (raw,) = [entry for _, entry in world.broker.record.log.entries(size)]
    entry = AuditEntry.from_bytes(raw)
    assert (entry.kind, entry.actor, entry.time) == (KINDS[name], "owner", world.clock.now)
    assert entry.project == ("" if name == "destroy" else "vroni")


@pytest.mark.parametrize("name", ACTS)
def test_act_that_cannot_be_recorded_does_not_hold(
    world: World, grant: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(world)

    def fail(*_: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(Record, "append", fail)
    with pytest.raises(StorageError, match="disk is full"):
        ACTS[name](world, grant, OWNER)
    assert snapshot(world) == before


@pytest.mark.parametrize("name", ACTS)
def test_entry_is_written_before_the_act_can_be_seen(
    world: World, grant: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen, append = snapshot(world), list[object](), Record.append

    def look(record: Record, entry: AuditEntry) -> Receipt:
        receipt = append(record, entry)
        seen.append(snapshot(world))
        return receipt

    monkeypatch.setattr(Record, "append", look)
    ACTS[name](world, grant, OWNER)
    assert seen == [before]
    assert snapshot(world) != before


@pytest.mark.parametrize("actor", [AUDITOR, READER, OTHERS], ids=lambda one: one.name)
@pytest.mark.parametrize("name", ACTS)
def test_act_of_somebody_who_may_not(world: World, grant: str, name: str, actor: Actor) -> None:
    before, size = snapshot(world), world.broker.record.log.size
    with pytest.raises(Problem) as caught:
        ACTS[name](world, grant, actor)
    assert caught.value.status == 403
    assert snapshot(world) == before
    assert world.broker.record.log.size == size


def test_who_may_not_learns_nothing_of_what_a_change_would_do(world: World, grant: str) -> None:
    # The refusal comes before the terms are looked at, and before the state of the project.
    acts.halt(world.broker, "vroni", "Incident", OWNER, world.clock.now)
    with pytest.raises(Problem) as caught:
        acts.change_grant(world.broker, grant, GrantChange(project="x"), OTHERS, world.clock.now)
    assert caught.value.status == 403
    assert "vroni" not in caught.value.body.detail


def test_lists_leave_out_what_somebody_may_not_see(world: World, grant: str) -> None:
    other = Data.seal(world.folder, Description(id="other", title="Other", owner="Heart Centre"))
    world.owner.register_dataset(other.registration())
    theirs = world.grant(dataset="other", project="herzfit")
    assert [one.id for one in acts.owned_datasets(world.broker, OTHERS).datasets] == ["other"]
    assert [one.id for one in acts.grants(world.broker, OTHERS).grants] == [theirs]
    assert [one.name for one in acts.projects(world.broker, OTHERS).projects] == ["herzfit"]
    assert len(acts.grants(world.broker, AUDITOR).grants) == 2
    assert len(acts.projects(world.broker, READER).projects) == 2


def test_registration_says_when_the_permit_ends(world: World, data: Data) -> None:
    end = world.clock.now + timedelta(days=30)
    message = data.registration().model_copy(update={"keep_until": end})
    owned, changed = acts.register_dataset(world.broker, message, OWNER, world.clock.now)
    assert (owned.keep_until, changed) == (end, True)
    assert acts.register_dataset(world.broker, message, OWNER, world.clock.now) == (owned, False)


def test_grants_of_a_program_before_keep_their_digest(world: World, data: Data) -> None:
    """Computed by the version without bounds on servers, outputs, projects and dataset keys."""
    grant = world.grant()
    (found,) = [one for one in world.owner.grants() if one.id == grant]
    old = {"created", "dataset", "environments", "gpu", "group", "id", "issuer", "minimum", "purposes"}
    old |= {"starts", "subject", "until", "visa", "withdrawn"}
    fields = found.model_dump(mode="json", include=old)
    assert grant_digest(found) == "sha256:" + hashlib.sha256(canonical_json(fields)).hexdigest()
