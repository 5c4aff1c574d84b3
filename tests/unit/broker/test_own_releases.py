# SPDX-License-Identifier: BSD-3-Clause
"""A person's own releases with inclusion proofs, from a log in a folder and from one in the database."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from alembic import command
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import verify_inclusion_of
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, IntegrityError, SignatureError
from sealroom.kbs.calls import OwnRelease
from sealroom.kbs.client import KbsClient
from sealroom_broker import proofs
from sealroom_broker.entries import start_entry
from sealroom_broker.migrate import _settings, migrate
from sealroom_broker.store import ReleaseRow, Store, holder_key
from sqlalchemy import select, update
from support.brokers import GENERAL, Data, World


@pytest.fixture
def data(world: World) -> Data:
    made = world.seal()
    world.grant()
    world.grant(subject="bob")
    return made


def release(guest: KbsClient, data: Data) -> int:
    return guest.release("heartbeats", data.request(SecretKey.generate())).audit_index


def checked(world: World, one: OwnRelease, **changes: Any) -> AuditEntry:
    """Check a release as its person does who has the log's key from elsewhere."""
    key = VerifierKey.parse(str(world.broker.record.signer.verifier))
    entry = changes.get("entry", base64.b64decode(one.entry))
    proof = [base64.b64decode(node) for node in one.proof]
    verify_inclusion_of(entry, changes.get("index", one.index), proof, one.checkpoint.encode(), key)
    return AuditEntry.from_bytes(entry)


def test_a_release_is_shown_with_a_proof_that_holds(world: World, data: Data) -> None:
    guest = world.guest()
    index = release(guest, data)
    (one,) = guest.own_releases()
    assert (one.index, one.time, one.dataset, one.purpose) == (index, testing.NOW, "heartbeats", GENERAL)
    assert one.key == str(world.broker.record.signer.verifier)
    entry = checked(world, one)
    assert entry.person is not None
    assert (entry.kind, entry.person.subject, entry.grant and entry.grant.id) == (
        "release",
        "alice",
        one.grant,
    )


def test_releases_of_all_the_persons_sessions_and_of_nobody_else(world: World, data: Data) -> None:
    first, second, bob = world.guest(), world.guest(), world.guest("token-of-bob")
    mine = [release(first, data), release(second, data)]
    theirs = release(bob, data)
    mine.append(release(first, data))
    for guest in (first, second):
        assert [one.index for one in guest.own_releases()] == mine[::-1]
    assert [one.index for one in bob.own_releases()] == [theirs]
    for one in first.own_releases():
        checked(world, one)


def test_a_session_that_is_forgotten_leaves_its_releases(world: World, data: Data) -> None:
    index = release(world.guest(), data)
    world.clock.forward(seconds=3 * world.broker.config.periods.session)
    guest = world.guest()  # a handshake forgets what is old
    assert [one.index for one in guest.own_releases()] == [index]


def test_proofs_are_of_the_log_as_it_is_now(world: World, data: Data) -> None:
    guest = world.guest()
    release(guest, data)
    before = guest.own_releases()[0]
    for _ in range(5):
        release(guest, data)
    after = guest.own_releases()[-1]
    assert (before.entry, before.index) == (after.entry, after.index)
    assert before.checkpoint != after.checkpoint
    for one in (before, after):
        checked(world, one)


def test_proofs_across_full_tiles(world: World, data: Data) -> None:
    guest = world.guest()
    early = release(guest, data)
    with world.broker.store.write():
        for number in range(300):
            world.broker.record.append(start_entry(f"entry {number}", world.clock()))
    late = release(guest, data)
    assert (early < 256, late > 256) == (True, True)
    assert [one.index for one in guest.own_releases()] == [late, early]
    for one in guest.own_releases():
        checked(world, one)


def test_tampered_proofs_are_refused(world: World, data: Data) -> None:
    guest = world.guest()
    release(guest, data)
    world.clock.forward(minutes=1)
    release(guest, data)
    newer, older = guest.own_releases()
    with pytest.raises(IntegrityError):
        checked(world, older, entry=base64.b64decode(newer.entry))
    with pytest.raises(IntegrityError):
        checked(world, older, index=newer.index)
    with pytest.raises(IntegrityError):
        checked(world, older.model_copy(update={"proof": older.proof[:-1]}))
    with pytest.raises(SignatureError):
        checked(world, older.model_copy(update={"checkpoint": older.checkpoint.replace("\n", "\n1", 1)}))


def test_a_refusal_is_no_release(world: World, data: Data) -> None:
    guest = world.guest()
    with pytest.raises(AccessDeniedError):
        guest.release("heartbeats", data.request(SecretKey.generate(), "DUO:0000006"))
    assert guest.own_releases() == ()


def test_releases_come_in_pages(world: World, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MAX_RELEASES", 2)
    guest = world.guest()
    made = [release(guest, data) for _ in range(5)]
    seen: list[int] = []
    while page := guest.own_releases(seen[-1] if seen else None):
        assert len(page) <= 2
        seen += [one.index for one in page]
    assert seen == made[::-1]


@pytest.mark.parametrize("before", ["-1", "", "x", "1e3", "9" * 30])
def test_a_page_that_is_none(world: World, data: Data, before: str) -> None:
    guest = world.guest()
    cookies = {"Cookie": f"kbs-session-id={guest._cookie}"}
    answer = world.http().get(f"/kbs/v0/sealroom/releases?before={before}", headers=cookies)
    assert (answer.status_code, answer.json()["detail"]) == (400, "before is the index of an entry.")


def test_without_an_attested_session_nothing_is_shown(world: World, data: Data) -> None:
    assert world.http().get("/kbs/v0/sealroom/releases").status_code == 401


def test_releases_from_before_the_person_stood_in_them_are_found_by_their_session(
    world: World, data: Data
) -> None:
    """What the migration fills in is what a release says of itself."""
    release(world.guest(), data)
    with world.broker.store.read() as session:
        holders = session.scalars(select(ReleaseRow.holder)).all()
    expected = hashlib.sha256(json.dumps(["hub", "alice"]).encode()).hexdigest()
    assert holders == [expected] == [holder_key("hub", "alice")]
    with world.broker.store.write() as session:
        session.execute(update(ReleaseRow).values(holder=""))
    _down_and_up(world.broker.store)
    with world.broker.store.read() as session:
        assert session.scalars(select(ReleaseRow.holder)).all() == [expected]


def _down_and_up(store: Store) -> None:
    settings = _settings()
    with store.engine.execution_options(**store.database.writing).begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0005")
    migrate(store)
