# SPDX-License-Identifier: BSD-3-Clause
"""Tokens with a scope, for some datasets, and with an end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sealroom.errors import AccessDeniedError, ConfigurationError
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import GrantSpec
from sealroom_broker.__main__ import _moment
from sealroom_broker.owners import Actor, add_token, list_tokens
from support.brokers import DESCRIPTION, URL, Data, World, b64

ADMIN = "/kbs/v0/sealroom/admin"
GRANT = GrantSpec(dataset="heartbeats", subject="alice", minimum="simulated")


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def client(world: World, name: str = "robot", **scope: Any) -> OwnerClient:
    return OwnerClient(URL, add_token(world.broker.store, name, world.clock(), **scope), http=world.http())


def refusal(call: Any, *arguments: Any) -> list[str]:
    with pytest.raises(AccessDeniedError) as caught:
        call(*arguments)
    return [code for code, _ in caught.value.reasons]


def test_auditor_reads_everything_and_changes_nothing(world: World, data: Data) -> None:
    grant = world.grant()
    auditor = client(world, scope="auditor")
    assert [one.id for one in auditor.datasets()] == ["heartbeats"]
    assert [one.id for one in auditor.grants()] == [grant]
    assert auditor.audit_key()
    assert auditor.audit_file("checkpoint")
    before = world.broker.record.log.size
    assert refusal(auditor.add_grant, GRANT) == ["token.scope"]
    assert refusal(auditor.withdraw_grant, grant) == ["token.scope"]
    assert refusal(auditor.register_dataset, data.registration()) == ["token.scope"]
    assert world.broker.record.log.size == before
    assert world.owner.grants()[0].withdrawn is None


def test_read_only_sees_datasets_and_grants_and_not_the_log(world: World, data: Data) -> None:
    world.grant()
    reader = client(world, scope="read-only")
    assert (len(reader.datasets()), len(reader.grants())) == (1, 1)
    assert refusal(reader.audit_key) == ["token.scope"]
    assert refusal(reader.audit_file, "checkpoint") == ["token.scope"]
    assert refusal(reader.add_grant, GRANT) == ["token.scope"]


@pytest.mark.parametrize("scope", ["auditor", "read-only"])
def test_resources_are_the_owners(world: World, scope: str) -> None:
    token = add_token(world.broker.store, "robot", world.clock(), scope=scope)  # type: ignore[arg-type]
    headers = {"Authorization": f"Bearer {token}"}
    http, body = world.http(), {"secret": b64(b"x"), "minimum": "simulated"}
    assert http.put(f"{ADMIN}/resources/a/b/c", json=body, headers=headers).status_code == 403
    assert http.delete(f"{ADMIN}/resources/a/b/c", headers=headers).status_code == 403


def test_token_for_one_dataset(world: World, data: Data) -> None:
    other = Data.seal(world.folder, DESCRIPTION.__class__(id="other", title="Other", owner="Heart Centre"))
    world.owner.register_dataset(other.registration())
    theirs = world.grant(dataset="other")
    robot = client(world, datasets=["heartbeats"])
    mine = robot.add_grant(GRANT)
    assert [one.id for one in robot.datasets()] == ["heartbeats"]
    assert [one.id for one in robot.grants()] == [mine.id]
    assert robot.grants("other") == ()
    robot.register_dataset(data.registration())
    robot.withdraw_grant(mine.id)
    before = world.broker.record.log.size
    assert refusal(robot.add_grant, GRANT.model_copy(update={"dataset": "other"})) == ["token.scope"]
    assert refusal(robot.withdraw_grant, theirs) == ["token.scope"]
    assert refusal(robot.register_dataset, other.registration()) == ["token.scope"]
    assert refusal(robot.audit_file, "checkpoint") == ["token.scope"]
    assert world.broker.record.log.size == before
    assert [one.withdrawn for one in world.owner.grants("other")] == [None]


def test_new_dataset_with_a_token_for_another_one(world: World) -> None:
    data = Data.seal(world.folder)
    robot = client(world, datasets=["other"])
    assert refusal(robot.register_dataset, data.registration()) == ["token.scope"]
    assert world.owner.datasets() == ()


def test_token_that_has_ended(world: World) -> None:
    robot = client(world, expires=world.clock() + timedelta(hours=1))
    assert robot.datasets() == ()
    world.clock.forward(hours=1)
    with pytest.raises(AccessDeniedError, match="has ended"):
        robot.datasets()


def test_what_is_known_of_tokens(world: World) -> None:
    until = world.clock() + timedelta(days=30)
    token = add_token(
        world.broker.store, "robot", world.clock(), scope="read-only", datasets=["b", "a"], expires=until
    )
    owner, robot = list_tokens(world.broker.store)
    assert (owner.scope, owner.datasets, owner.expires) == ("owner", None, None)
    assert (robot.scope, robot.datasets, robot.expires) == ("read-only", frozenset({"a", "b"}), until)
    assert token not in repr(robot)
    assert Actor(robot.name, robot.scope, robot.datasets).words == "read-only of a, b"


@pytest.mark.parametrize("scope", [{"datasets": []}, {"expires": datetime(2000, 1, 1, tzinfo=UTC)}])
def test_token_that_would_be_good_for_nothing(world: World, scope: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        add_token(world.broker.store, "robot", world.clock(), **scope)


def test_ends_as_they_are_written() -> None:
    assert _moment("2099-03-31") == datetime(2099, 3, 31, 23, 59, 59, tzinfo=UTC)
    assert _moment("2099-03-31T12:00+01:00") == datetime(2099, 3, 31, 11, tzinfo=UTC)
    assert _moment("+2w") - _moment("+1w") > timedelta(days=6)


@pytest.mark.parametrize("text", ["", "tomorrow", "+0d", "+1y", "2099-13-01", "+99999w9"])
def test_ends_that_are_none(text: str) -> None:
    with pytest.raises(Exception, match="neither a date"):
        _moment(text)
