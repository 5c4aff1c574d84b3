# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access: what a person may ask, who may answer, and what the log says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.cli.reverify import Reverifier
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, NetworkError, ProtocolError, StorageError
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import AccessRequest, AccessRequestSpec, RequestGrant
from sealroom.kbs.client import KbsClient
from sealroom_broker import requests
from sealroom_broker.audit import Record
from sealroom_broker.owners import Actor, add_token
from sealroom_broker.problem import Problem
from support.brokers import DESCRIPTION, GENERAL, URL, Data, World

HEALTH = "DUO:0000006"
ADMIN = "/kbs/v0/sealroom/admin"
WEEK = timedelta(days=7)
NO_ZONE = datetime.fromisoformat("2030-01-01T00:00:00")
TERMS = RequestGrant(minimum="simulated", until=testing.NOW + WEEK)


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


@pytest.fixture
def guest(world: World, data: Data) -> KbsClient:
    return world.guest()


def spec(**changes: Any) -> AccessRequestSpec:
    fields = {"dataset": "heartbeats", "purpose": GENERAL, "reason": "A study of arrhythmia."}
    return AccessRequestSpec.model_validate(fields | changes)


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(entry) for _, entry in world.broker.record.log.entries()]


def refused_by(call: Callable[[], object]) -> str:
    with pytest.raises(AccessDeniedError) as caught:
        call()
    return caught.value.reasons[0][0]


# --- asking ---


def test_the_owner_sees_the_request_beside_the_servers_evidence(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec(until=testing.NOW + WEEK))
    (seen,) = world.owner.requests()
    assert seen == asked
    assert guest.own_requests() == (asked,)
    assert (seen.state, seen.person.subject, seen.person.issuer) == ("open", "alice", "hub")
    assert (seen.server.tier, seen.server.simulated) == ("simulated", True)
    assert (seen.server.environment, seen.server.devices) == (
        world.environment.digest,
        {"cpu0": "simulated"},
    )
    assert (seen.created, seen.until, seen.server.attested) == (
        testing.NOW,
        testing.NOW + WEEK,
        testing.NOW,
    )


def test_the_requests_entry_names_the_same_evidence(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec(until=testing.NOW + WEEK))
    entry = entries(world)[asked.audit_index or 0]
    assert entry == entries(world)[-1]
    assert (entry.kind, entry.dataset, entry.purpose) == ("request", "heartbeats", GENERAL)
    assert entry.person is not None
    assert (entry.person.subject, entry.person.issuer) == ("alice", "hub")
    assert entry.ear is not None
    assert (entry.ear.tier, entry.ear.devices) == ("simulated", {"cpu0": "simulated"})
    assert (entry.evidence, entry.environment) == (asked.server.evidence, asked.server.environment)
    assert asked.id in entry.detail
    assert "until 2026-06-08" in entry.detail
    assert entry.detail.endswith("A study of arrhythmia.")


def test_an_auditor_verifies_the_evidence_of_a_request_again(world: World, guest: KbsClient) -> None:
    guest.request_access(spec())
    reverify = Reverifier(testing.development_roots(), [world.environment])
    report = verify_log(world.broker.record.log, world.broker.record.signer.verifier, reverify=reverify)
    assert (report.ok, report.kinds["request"], report.evidence, reverify.appraised) == (True, 1, 1, 1)


def test_a_reason_keeps_its_lines_and_letters(world: World, guest: KbsClient) -> None:
    reason = "Erstens: Vorhofflimmern.\n\N{ARABIC LETTER MEEM}\N{ZERO WIDTH NON-JOINER} \N{SNOWMAN}"
    guest.request_access(spec(reason=reason))
    assert world.owner.requests()[0].reason == reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reason": " \n "}, "reason is missing"),
        ({"reason": "a\x1b[2Jb"}, "control characters"),
        ({"reason": "a\x00b"}, "control characters"),
        ({"reason": "a\rb"}, "control characters"),
        ({"reason": "a\N{RIGHT-TO-LEFT OVERRIDE}b"}, "control characters"),
        ({"reason": "a\N{LINE SEPARATOR}b"}, "control characters"),
        ({"purpose": "research"}, "DUO code"),
        ({"purpose": ""}, "DUO code"),
        ({"until": testing.NOW}, "in the future"),
        ({"until": NO_ZONE}, "time zone"),
    ],
    ids=str,
)
def test_request_that_does_not_fit(
    world: World, guest: KbsClient, changes: dict[str, Any], says: str
) -> None:
    size = world.broker.record.log.size
    with pytest.raises(ProtocolError, match=says):
        guest.request_access(spec(**changes))
    assert world.owner.requests() == ()
    assert world.broker.record.log.size == size


@pytest.mark.parametrize("reason", ["", "x" * 2001])
def test_reason_of_another_length(world: World, guest: KbsClient, reason: str) -> None:
    with pytest.raises(ProtocolError, match="reason"):
        guest.request_access(spec().model_copy(update={"reason": reason}))
    assert world.owner.requests() == ()


def test_longest_reason_is_kept(world: World, guest: KbsClient) -> None:
    reason = "\N{GRINNING FACE}" * 2000
    guest.request_access(spec(reason=reason))
    assert entries(world)[-1].detail.endswith(reason)


def test_unknown_dataset_is_refused_as_in_a_release(world: World, guest: KbsClient) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        guest.request_access(spec(dataset="no-such"))
    assert caught.value.reasons == (("dataset.unknown", "This broker has no dataset no-such."),)
    assert caught.value.advice == ""


def test_dataset_whose_key_was_destroyed_is_not_asked_for(world: World, guest: KbsClient) -> None:
    world.owner.destroy_key("heartbeats", "The permit was returned.")
    assert refused_by(lambda: guest.request_access(spec())) == "dataset.destroyed"


def test_nobodys_server_asks_for_nothing(world: World, data: Data) -> None:
    guest = world.guest(person="")
    for call in (lambda: guest.request_access(spec()), guest.own_requests, guest.own_releases):
        assert refused_by(call) == "person.none"


def test_login_that_ended_is_presented_again(world: World, guest: KbsClient) -> None:
    """The client does so by itself; the broker alone refuses."""
    cookie = guest._cookie
    world.clock.forward(seconds=world.broker.config.periods.attestation)
    KbsClient.attest(guest)
    with pytest.raises(Problem) as caught:
        requests.ask(world.broker, cookie, spec(), world.clock())
    assert [reason.code for reason in caught.value.body.reasons] == ["person.ended"]
    assert guest.request_access(spec()).state == "open"


def test_session_that_proved_nothing_asks_for_nothing(world: World, data: Data) -> None:
    answer = world.http().post("/kbs/v0/sealroom/requests", content=spec().model_dump_json())
    assert (answer.status_code, answer.json()["reasons"][0]["code"]) == (401, "session.none")


def test_the_same_is_asked_for_once(world: World, guest: KbsClient) -> None:
    guest.request_access(spec())
    assert refused_by(lambda: guest.request_access(spec(reason="Again."))) == "request.open"
    other = world.guest()
    assert refused_by(lambda: other.request_access(spec())) == "request.open"
    guest.request_access(spec(purpose=HEALTH))
    world.guest("token-of-bob").request_access(spec())
    assert len(world.owner.requests()) == 3


def test_what_was_answered_may_be_asked_again(world: World, guest: KbsClient) -> None:
    first = guest.request_access(spec())
    world.owner.refuse_request(first.id, "Say more about the study.")
    world.clock.forward(minutes=1)
    second = guest.request_access(spec(reason="More about the study."))
    assert [one.state for one in guest.own_requests()] == ["open", "refused"]
    assert guest.own_requests()[0].id == second.id


def test_a_person_has_only_so_many_open_requests(world: World, guest: KbsClient) -> None:
    limits = world.broker.config.limits.model_copy(update={"requests": 2})
    config = world.broker.config.model_copy(update={"limits": limits})
    broker, cookie = replace(world.broker, config=config), guest._cookie
    for purpose in (GENERAL, HEALTH):
        last = requests.ask(broker, cookie, spec(purpose=purpose), world.clock())
    third = spec(purpose="DUO:0000007")
    with pytest.raises(Problem) as caught:
        requests.ask(broker, cookie, third, world.clock())
    assert caught.value.body.reasons[0].code == "request.limit"
    requests.take_back(broker, cookie, last.id, world.clock())
    assert requests.ask(broker, cookie, third, world.clock()).state == "open"


def test_at_most_ten_are_open_if_nobody_says_otherwise(world: World) -> None:
    assert world.broker.config.limits.requests == 10


# --- taking back ---


def test_a_person_takes_a_request_back(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    taken = guest.withdraw_request(asked.id)
    assert (taken.state, taken.answered, taken.answered_by) == ("withdrawn", world.clock(), "")
    entry = entries(world)[-1]
    assert (entry.kind, entry.detail) == (
        "request",
        f"Request {asked.id} (entry {asked.audit_index}) was taken back.",
    )
    size = world.broker.record.log.size
    assert guest.withdraw_request(asked.id) == taken
    assert world.broker.record.log.size == size
    with pytest.raises(ProtocolError, match="taken back by the person"):
        world.owner.grant_request(asked.id, TERMS)


def test_nobody_takes_another_persons_request_back(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    bob = world.guest("token-of-bob")
    for request in (asked.id, "0" * 16):
        with pytest.raises(ProtocolError, match="You have no such request"):
            bob.withdraw_request(request)
    assert bob.own_requests() == ()
    assert world.owner.requests(state="open") == (asked,)


def test_what_was_answered_is_not_taken_back(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    world.owner.refuse_request(asked.id, "No.")
    with pytest.raises(ProtocolError, match="refused already, by owner"):
        guest.withdraw_request(asked.id)


# --- answering ---


def test_a_grant_that_is_given_opens_the_dataset(world: World, data: Data, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    answered = world.owner.grant_request(
        asked.id, TERMS.model_copy(update={"answer": "For a week.", "servers": 1, "project": "arrhythmia"})
    )
    (grant,) = world.owner.grants("heartbeats")
    assert (answered.state, answered.answer, answered.answered_by, answered.grant) == (
        "granted",
        "For a week.",
        "owner",
        grant.id,
    )
    assert (grant.subject, grant.issuer, grant.group) == ("alice", "hub", "")
    assert (grant.purposes, grant.until, grant.servers, grant.project) == (
        (GENERAL,),
        testing.NOW + WEEK,
        1,
        "arrhythmia",
    )
    assert guest.own_requests() == (answered,)
    guest.release("heartbeats", data.request(SecretKey.generate()))


def test_a_grant_that_is_given_has_two_entries(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    answered = world.owner.grant_request(asked.id, TERMS)
    given, said = entries(world)[-2:]
    assert (given.kind, said.kind, given.actor, said.actor) == ("grant", "answer", "owner", "owner")
    assert given.grant == said.grant
    assert given.grant is not None
    assert given.grant.id == answered.grant
    assert said.person is not None
    assert said.person.subject == "alice"
    assert said.decision.allowed
    assert said.detail == f"Request {asked.id} (entry {asked.audit_index}) was granted."
    assert "purposes: DUO:0000042" in given.detail


def test_the_owner_decides_the_terms(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec(until=testing.NOW + 10 * WEEK))
    terms = RequestGrant(purposes=(HEALTH,), environments=(world.environment.digest,), gpu=True, forever=True)
    world.owner.grant_request(asked.id, terms)
    (grant,) = world.owner.grants()
    assert (grant.purposes, grant.environments, grant.gpu, grant.minimum, grant.until) == (
        (HEALTH,),
        (world.environment.digest,),
        True,
        "affirming",
        None,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"until": None}, "either when the grant ends or that it has no end"),
        ({"forever": True}, "either when the grant ends or that it has no end"),
        ({"until": testing.NOW - WEEK}, "in the future"),
        ({"until": NO_ZONE}, "time zone"),
        ({"purposes": ("research",)}, "DUO codes"),
        ({"environments": ("sha256:abc",)}, "digests"),
        ({"starts": testing.NOW + 2 * WEEK}, "must end after it begins"),
        ({"answer": "a\x07b"}, "control characters"),
        ({"servers": 0}, "servers"),
    ],
    ids=str,
)
def test_terms_that_do_not_fit_leave_the_request_open(
    world: World, guest: KbsClient, changes: dict[str, Any], says: str
) -> None:
    asked = guest.request_access(spec())
    size = world.broker.record.log.size
    with pytest.raises(ProtocolError, match=says):
        world.owner.grant_request(asked.id, TERMS.model_copy(update=changes))
    assert world.owner.grants() == ()
    assert world.owner.requests(state="open") == (asked,)
    if not world.postgresql:
        # Entries go before changes, so a change that is refused has none.
        assert world.broker.record.log.size == size


def test_project_that_is_halted_gets_no_grant(world: World, guest: KbsClient) -> None:
    world.grant(subject="bob", project="arrhythmia")
    world.owner.halt_project("arrhythmia", "An incident.")
    asked = guest.request_access(spec())
    with pytest.raises(ProtocolError, match="halted"):
        world.owner.grant_request(asked.id, TERMS.model_copy(update={"project": "arrhythmia"}))
    assert world.owner.requests(state="open") == (asked,)


def test_a_refusal_tells_the_person_why(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    world.clock.forward(hours=1)
    answered = world.owner.refuse_request(asked.id, "The study has no ethics approval.")
    assert (answered.state, answered.answer, answered.answered, answered.grant) == (
        "refused",
        "The study has no ethics approval.",
        world.clock(),
        "",
    )
    assert guest.own_requests() == (answered,)
    entry = entries(world)[-1]
    assert (entry.kind, entry.decision.allowed, entry.grant) == ("answer", False, None)
    assert [(one.code, one.sentence) for one in entry.decision.reasons] == [
        ("request.refused", "The study has no ethics approval.")
    ]


@pytest.mark.parametrize("answer", ["", "  ", "x" * 2001, "a\x1bb"])
def test_a_refusal_needs_a_sentence(world: World, guest: KbsClient, answer: str) -> None:
    asked = guest.request_access(spec())
    with pytest.raises(Problem):
        requests.refuse_request(world.broker, asked.id, answer, Actor("owner", "owner"), world.clock())
    assert world.owner.requests(state="open") == (asked,)


def test_of_two_owners_who_answer_one_after_the_other_the_second_is_told(
    world: World, guest: KbsClient
) -> None:
    asked = guest.request_access(spec())
    world.owner.grant_request(asked.id, TERMS)
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    for path, body in (("refuse", {"answer": "No."}), ("grant", {"forever": True})):
        answer = world.http().post(f"{ADMIN}/requests/{asked.id}/{path}", json=body, headers=headers)
        assert (answer.status_code, answer.json()["reasons"][0]["code"]) == (409, "request.granted")
        assert answer.json()["detail"] == "This request was granted already, by owner."
    assert len(world.owner.grants()) == 1


def test_of_two_owners_who_answer_at_once_one_wins(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    actors = [Actor(name, "owner") for name in ("ann", "ben", "cleo", "dan")]
    barrier, said = threading.Barrier(len(actors)), []

    def answer(actor: Actor) -> None:
        barrier.wait()
        try:
            requests.grant_request(world.broker, asked.id, TERMS, actor, world.clock())
            said.append(200)
        except Problem as problem:
            said.append(problem.status)

    threads = [threading.Thread(target=answer, args=(actor,)) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [200, 409, 409, 409]
    assert len(world.owner.grants()) == 1
    assert [entry.kind for entry in entries(world)].count("answer") == 1


def test_nothing_is_granted_without_its_entry(
    world: World, guest: KbsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = guest.request_access(spec())
    append = Record.append

    def full(self: Record, entry: AuditEntry) -> Any:
        if entry.kind == "answer":
            raise StorageError("No space left.")
        return append(self, entry)

    monkeypatch.setattr(Record, "append", full)
    with pytest.raises(NetworkError, match="could not keep its record"):
        world.owner.grant_request(asked.id, TERMS)
    assert world.owner.grants() == ()
    assert world.owner.requests(state="open") == (asked,)


def test_no_request_is_kept_without_its_entry(
    world: World, guest: KbsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Record, entry: AuditEntry) -> Any:
        raise StorageError("No space left.")

    monkeypatch.setattr(Record, "append", full)
    with pytest.raises(NetworkError, match="could not keep its record"):
        guest.request_access(spec())
    assert world.owner.requests() == ()


def test_requests_are_there_after_a_restart(world: World, guest: KbsClient) -> None:
    asked = guest.request_access(spec())
    world.restart()
    assert world.owner.requests() == (asked,)


# --- who may see and answer ---


def owner(world: World, name: str, **token: Any) -> OwnerClient:
    return OwnerClient(URL, add_token(world.broker.store, name, world.clock(), **token), http=world.http())


@pytest.fixture
def two(world: World, guest: KbsClient) -> tuple[AccessRequest, AccessRequest]:
    """Requests for two datasets."""
    world.seal(replace(DESCRIPTION, id="genomes", title="Genomes"))
    return guest.request_access(spec()), guest.request_access(spec(dataset="genomes"))


def test_requests_are_filtered(world: World, two: tuple[AccessRequest, AccessRequest]) -> None:
    hearts, genomes = two
    assert world.owner.requests("genomes") == (genomes,)
    assert world.owner.requests("no-such") == ()
    world.owner.refuse_request(hearts.id, "No.")
    assert [one.id for one in world.owner.requests(state="refused")] == [hearts.id]
    assert [one.id for one in world.owner.requests(state="open")] == [genomes.id]
    assert world.owner.requests("genomes", "refused") == ()


def test_unknown_state_is_refused(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    answer = world.http().get(f"{ADMIN}/requests?state=lost", headers=headers)
    assert (answer.status_code, "open, granted" in answer.json()["detail"]) == (400, True)


def test_token_for_a_dataset_sees_and_answers_its_requests_only(
    world: World, two: tuple[AccessRequest, AccessRequest]
) -> None:
    hearts, genomes = two
    limited = owner(world, "genomes-owner", datasets=["genomes"])
    assert limited.requests() == (genomes,)
    assert limited.requests("heartbeats") == ()
    with pytest.raises(ProtocolError, match="There is no such request"):
        limited.grant_request(hearts.id, TERMS)
    with pytest.raises(ProtocolError, match="There is no such request"):
        limited.refuse_request(hearts.id, "No.")
    assert limited.grant_request(genomes.id, TERMS).state == "granted"


@pytest.mark.parametrize("scope", ["auditor", "read-only"])
def test_token_that_may_only_read_answers_nothing(
    world: World, two: tuple[AccessRequest, AccessRequest], scope: Any
) -> None:
    reader = owner(world, "reader", scope=scope)
    assert {one.id for one in reader.requests()} == {one.id for one in two}
    for call in (
        lambda: reader.grant_request(two[0].id, TERMS),
        lambda: reader.refuse_request(two[0].id, "No."),
    ):
        assert refused_by(call) == "token.scope"
    assert len(world.owner.requests(state="open")) == 2


def test_one_request_is_shown_to_whom_it_concerns(
    world: World, two: tuple[AccessRequest, AccessRequest]
) -> None:
    limited = Actor("genomes-owner", "owner", frozenset({"genomes"}))
    assert requests.one_request(world.broker, limited, two[1].id) == two[1]
    with pytest.raises(Problem) as caught:
        requests.one_request(world.broker, limited, two[0].id)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "requests"),
        ("GET", "requests/0"),
        ("POST", "requests/0/grant"),
        ("POST", "requests/0/refuse"),
        ("GET", "explain?dataset=heartbeats&session=0"),
        ("GET", "environments/0"),
    ],
)
def test_without_a_token_nothing_is_answered(world: World, method: str, path: str) -> None:
    assert world.http().request(method, f"{ADMIN}/{path}", json={}).status_code == 401


def test_manifest_of_an_environment_is_read_by_its_digest(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}

    def get(digest: str) -> httpx.Response:
        return world.http().get(f"{ADMIN}/environments/{digest}", headers=headers)

    assert get(world.environment.digest).content == world.environment.raw
    for digest in ("sha256:" + "0" * 64, "..", "%2e%2e", world.environment.digest.upper()):
        assert get(digest).status_code in (404, 405), digest


def test_times_of_a_request_are_in_utc(world: World, guest: KbsClient) -> None:
    east = datetime.fromisoformat("2026-07-01T02:00:00+02:00")
    asked = guest.request_access(spec(until=east))
    assert asked.until == datetime(2026, 7, 1, tzinfo=UTC)
    assert "until 2026-07-01 00:00 UTC" in entries(world)[-1].detail
