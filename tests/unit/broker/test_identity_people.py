# SPDX-License-Identifier: BSD-3-Clause
"""People in sessions and grants: who says who somebody is, and for how long that holds."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sealroom.audit.entry import AuditEntry
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ProtocolError
from sealroom.kbs.calls import IdentityRequest, Person, Visa
from sealroom.kbs.jwe import TeeKey
from sealroom_broker.identity import Login
from sealroom_broker.migrate import _settings, migrate
from sealroom_broker.problem import Problem
from sealroom_broker.registry import adopt_issuer, grants_of
from sealroom_broker.store import GrantRow, SessionRow, Store
from support.brokers import PEOPLE, Data, World

READER = SecretKey.generate()
ALICE = IdentityRequest(provider="jupyterhub", token="token-of-alice")


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def denied(world: World, data: Data, guest: Any) -> set[str]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    return {code for code, _ in caught.value.reasons}


# --- how long a login holds


def test_login_is_presented_again_by_the_client_when_it_has_ended(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    world.clock.forward(minutes=14)
    guest.attest()
    world.clock.forward(minutes=2)
    assert guest.session().person is None
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"
    assert guest.session().person is not None


def test_token_that_was_revoked_opens_nothing_after_one_period(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    monkeypatch.delitem(PEOPLE, "token-of-alice")
    world.clock.forward(minutes=14)
    guest.attest()
    assert [one.state for one in guest.session().releases] == ["active"]
    world.clock.forward(minutes=1)
    assert [one.state for one in guest.session().releases] == ["withdrawn"]
    assert denied(world, data, guest) == {"person.token"}


def test_login_that_ended_is_refused_by_the_broker_itself(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    guest._identity = None  # a client that does not present it again
    world.clock.forward(minutes=14)
    guest.attest()
    world.clock.forward(minutes=2)
    assert denied(world, data, guest) == {"person.ended"}
    entry = [AuditEntry.from_bytes(one) for _, one in world.broker.record.log.entries()][-1]
    assert (entry.kind, entry.decision.reasons[0].code) == ("refusal", "person.ended")


def test_session_says_when_the_login_is_due(world: World) -> None:
    guest = world.guest()
    first = guest.session()
    assert (first.login_until, first.login_due) == (world.clock() + timedelta(minutes=15), False)
    world.clock.forward(minutes=7, seconds=30)
    assert guest.session().login_due
    guest.identity(ALICE)
    assert not guest.session().login_due


def test_session_of_nobody_has_no_login(world: World) -> None:
    state = world.guest("").session()
    assert (state.person, state.login_until, state.login_due) == (None, None, False)


def test_login_ends_with_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until = world.clock() + timedelta(minutes=2)
    monkeypatch.setattr(world.people, "check", lambda *_: Login(PEOPLE["token-of-alice"], until))
    guest = world.guest("")
    assert guest.identity(ALICE).until == until
    world.clock.forward(minutes=2)
    assert guest.session().person is None


def test_no_login_holds_longer_than_a_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until = world.clock() + timedelta(days=1000)
    monkeypatch.setattr(world.people, "check", lambda *_: Login(PEOPLE["token-of-alice"], until))
    assert world.guest("").identity(ALICE).until == world.clock() + timedelta(days=1)


def test_login_checked_for_a_key_that_the_session_no_longer_has(world: World) -> None:
    sessions = world.broker.sessions
    cookie = world.guest("")
    cookie.attest()
    attested = sessions.current(cookie._cookie, world.clock())
    with world.broker.store.write() as session:
        row = session.get(SessionRow, attested.id)
        assert row is not None
        row.tee_pubkey = TeeKey.generate().public_jwk()
    until = world.clock() + timedelta(minutes=1)
    with pytest.raises(Problem) as caught:
        sessions.bind(attested, PEOPLE["token-of-alice"], "", world.clock(), until)
    assert (caught.value.status, caught.value.body.reasons[0].code) == (401, "session.changed")


def test_what_is_known_of_a_person_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = world.clock()
    visa = Visa(issuer="v", value="d", source="s", by="dac", asserted=now, until=now)
    person = Person(
        subject="u-1", name="Ada", groups=("g",), issuer="i", email="a@lab.example", visas=(visa,)
    )
    monkeypatch.setattr(world.people, "check", lambda *_: Login(person))
    guest = world.guest("")
    guest.identity(ALICE)
    assert guest.session().person == person


# --- who says so


def test_grant_gets_the_one_issuer_of_the_broker(world: World, data: Data) -> None:
    world.grant()
    assert [one.issuer for one in world.owner.grants()] == ["hub"]


def test_grant_of_an_issuer_that_the_broker_does_not_know(world: World, data: Data) -> None:
    with pytest.raises(ProtocolError, match="does not know the issuer"):
        world.grant(issuer="https://elsewhere.example")


def test_grant_at_a_broker_with_several_issuers_names_one(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.people, "issuers", ("hub", "https://login.example"), raising=False)
    with pytest.raises(ProtocolError, match=r"name one of hub, https://login\.example"):
        world.grant()
    world.grant(issuer="hub")
    assert world.guest().release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_same_name_at_another_issuer_has_no_grant(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant()
    world.grant(group="cardiology")
    other = PEOPLE["token-of-alice"].model_copy(update={"issuer": "https://login.example"})
    monkeypatch.setitem(PEOPLE, "token-of-alice", other)
    assert denied(world, data, world.guest()) == {"grant.none"}


@pytest.mark.parametrize("who", [{"subject": "alice", "visa": "v"}, {"group": "g", "visa": "v"}])
def test_grant_that_names_two(world: World, data: Data, who: dict[str, str]) -> None:
    world.people.visa_issuers = ("https://visas.example",)
    with pytest.raises(ProtocolError, match="either a person or a group or a visa"):
        world.grant(**({"subject": ""} | who))


def test_grant_for_a_visa_at_a_broker_that_trusts_no_issuer_of_visas(world: World, data: Data) -> None:
    with pytest.raises(ProtocolError, match="trusts no issuer of visas"):
        world.grant(subject="", visa="https://data.example/heartbeats")


# --- state of an earlier version


def earlier(path: Path) -> None:
    """Make a database as the first version left it, with one grant and one session."""
    store = Store(path)
    settings = _settings()
    with store.engine.execution_options(immediate=True).begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    store.close()
    database = sqlite3.connect(path)
    columns = "id, manifest, manifest_sha256, signature, owner_key, wrapped_key, registered, version"
    values = "'d', x'00', '', x'00', x'00', x'00', '2026-01-01', 1"
    database.execute(f"INSERT INTO datasets ({columns}) VALUES ({values})")
    grant = "'g', 1, 'd', 'alice', '', '[]', '[]', 'affirming', NULL, NULL, '2026-01-01', NULL"
    database.execute(f"INSERT INTO grants VALUES ({grant})")
    columns = "id, created, tee, algorithm, nonce_until, simulated, issuer, subject, server, bound"
    values = "'s', '2026-01-01', 'snp', 'sha384', '2026-01-01', 0, 'hub', 'alice', '', '2026-01-01'"
    database.execute(f"INSERT INTO sessions ({columns}) VALUES ({values})")
    database.execute("INSERT INTO owner_tokens VALUES (1, 'owner', 'x', '2026-01-01')")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("issuers", "expected"), [(("hub",), "hub"), (("hub", "https://login.example"), ""), ((), "")]
)
def test_grants_of_an_earlier_version(tmp_path: Path, issuers: tuple[str, ...], expected: str) -> None:
    earlier(tmp_path / "b.sqlite")
    store = Store(tmp_path / "b.sqlite")
    migrate(store)
    with store.write() as session:
        assert adopt_issuer(session, issuers) == (1 if expected else 0)
    with store.write() as session:
        assert adopt_issuer(session, issuers) == 0
        (grant,) = grants_of(session)
        assert (grant.subject, grant.issuer, grant.visa) == ("alice", expected, "")
    store.close()


def test_session_of_an_earlier_version_has_no_login_that_stands(tmp_path: Path) -> None:
    earlier(tmp_path / "b.sqlite")
    store = Store(tmp_path / "b.sqlite")
    migrate(store)
    with store.read() as session:
        row = session.get(SessionRow, "s")
        assert row is not None
        assert (row.subject, row.login_until) == ("alice", None)
    store.close()


def test_start_says_which_grants_it_gave_an_issuer(world: World, data: Data) -> None:
    world.grant()
    with world.broker.store.write() as session:
        for row in session.query(GrantRow):
            row.issuer = ""
    world.restart()
    assert [one.issuer for one in world.owner.grants()] == ["hub"]
    details = [AuditEntry.from_bytes(one).detail for _, one in world.broker.record.log.entries()]
    assert details[-1].endswith("1 grants without an issuer are now for people of hub.")


def test_downgrade_leaves_nothing_wider_than_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "b.sqlite")
    migrate(store)
    store.close()
    database = sqlite3.connect(tmp_path / "b.sqlite")
    columns = "id, manifest, manifest_sha256, signature, owner_key, wrapped_key, registered, version"
    values = "'d', x'00', '', x'00', x'00', x'00', '2026-01-01', 1"
    database.execute(f"INSERT INTO datasets ({columns}) VALUES ({values})")
    columns = "id, version, dataset, subject, 'group', purposes, environments, minimum, created, visa"
    values = "'g', 1, 'd', '', '', '[]', '[]', 'affirming', '2026-01-01', 'v'"
    database.execute(f"INSERT INTO grants ({columns}) VALUES ({values})".replace("'group'", '"group"'))
    for number, scope in enumerate(("owner", "auditor")):
        database.execute(
            "INSERT INTO owner_tokens (id, name, sha256, created, scope) VALUES (?, ?, ?, '2026-01-01', ?)",
            (number, scope, scope, scope),
        )
    database.commit()
    database.close()
    settings = _settings()
    with store.engine.execution_options(immediate=True).begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0002")
    store.close()
    database = sqlite3.connect(tmp_path / "b.sqlite")
    assert database.execute("SELECT name FROM owner_tokens").fetchall() == [("owner",)]
    ((withdrawn,),) = database.execute("SELECT withdrawn FROM grants").fetchall()
    database.close()
    assert withdrawn is not None
