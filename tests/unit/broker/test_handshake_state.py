# SPDX-License-Identifier: BSD-3-Clause
"""What a handshake reads and writes: grants that may be the person's, and evidence with what rests on it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, NetworkError, StorageError
from sealroom.kbs.calls import Person
from sealroom_broker.audit import FolderEvidence
from sealroom_broker.files import create_private
from sealroom_broker.sessions import Sessions
from sealroom_broker.store import EvidenceRow, SessionRow
from sqlalchemy import func, select
from support.brokers import PEOPLE, World
from support.brokers import world as open_world
from support.postgres import Postgres


def test_only_grants_that_may_be_the_persons_are_read(world: World) -> None:
    world.seal()
    own = {world.grant(), world.grant(group="cardiology")}
    others = {world.grant(subject="bob"), world.grant(subject="carol")}
    assert _read(world, PEOPLE["token-of-alice"]) == own
    # Which groups a person is in is for the decision to say.
    assert not others & _read(world, PEOPLE["token-of-alice"])
    assert _read(world, None) == set()


def _read(world: World, person: Person | None) -> set[str]:
    guest = world.guest("token-of-alice" if person else "")
    if person is None:
        guest.attest()
    with world.broker.store.read() as session:
        row = session.scalars(select(SessionRow).order_by(SessionRow.created.desc())).all()
        mine = next(one for one in row if (one.subject is None) == (person is None))
        attested = world.broker.sessions.with_token(mine.token or "", world.clock(), within=session)
        facts = world.broker.finder.facts(session, attested, "heartbeats", None, world.clock())
    return {grant.id for grant in facts.grants}


def test_many_grants_of_others_change_nothing_for_a_person_without_one(world: World) -> None:
    data = world.seal()
    for number in range(20):
        world.grant(subject=f"person-{number}")
    with pytest.raises(AccessDeniedError) as refused:
        world.guest().release("heartbeats", data.request(SecretKey.generate()))
    assert [code for code, _ in refused.value.reasons] == ["grant.none"]


def test_evidence_in_the_database_is_kept_only_with_the_session_that_rests_on_it(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create()
    with open_world(tmp_path, postgresql=url) as made:
        monkeypatch.setattr(Sessions, "attested", _failing)
        with pytest.raises(NetworkError):
            made.guest("").attest()
        assert _evidence(made) == 0
        monkeypatch.undo()
        made.guest("").attest()
        assert _evidence(made) == 1
    postgres.give_back(url)


def _failing(*_: Any) -> None:
    raise StorageError("The disk is full.")


def _evidence(made: World) -> int:
    with made.broker.store.read() as session:
        return session.scalar(select(func.count()).select_from(EvidenceRow)) or 0


def test_nobody_goes_on_before_the_evidence_that_another_is_writing_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, durable, order = threading.Event(), threading.Event(), []

    def slow(path: Path, content: bytes) -> None:
        create_private(path, content)
        writing.set()
        durable.wait(10)
        order.append("durable")

    monkeypatch.setattr("sealroom_broker.audit.create_private", slow)
    evidence = FolderEvidence(tmp_path)

    def second() -> None:
        evidence.keep(b"the same")
        order.append("went on")

    first = threading.Thread(target=evidence.keep, args=(b"the same",))
    first.start()
    assert writing.wait(10)
    other = threading.Thread(target=second)
    other.start()
    other.join(0.2)
    assert order == []
    durable.set()
    first.join()
    other.join()
    assert order == ["durable", "went on"]
