# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access, and what is shown when access has ended or was narrowed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.audit.note import Signer
from sealroom.audit.proof import InclusionProof
from sealroom.datasets.messages import TermInfo
from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    FormatError,
    IntegrityError,
    NetworkError,
    ProtocolError,
    SignatureError,
)
from sealroom.kbs.calls import Reason
from sealroom_jupyter.desk import Desk
from sealroom_jupyter.errors import NotProvenError, UnknownReleaseError
from sealroom_jupyter.views import PURPOSES, asks
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import HEALTH, RESEARCH, own_release


@pytest.fixture
def desk(room: Room) -> Desk:
    room.turn()
    return Desk(room.attester, title=room.shelf.title, clock=room.clock)


def test_request_carries_the_persons_words_and_no_server(room: Room, desk: Desk) -> None:
    until = datetime(2027, 1, 31, tzinfo=UTC)
    made = desk.request("heartbeats", "DUO:0000042", "  First line.\r\nSecond\tline.\x07  ", until)
    (spec,) = room.broker.asked
    assert (spec.dataset, spec.purpose, spec.until) == ("heartbeats", "DUO:0000042", until)
    assert spec.reason == made.reason == "First line.\nSecond line."
    assert made.purpose == TermInfo(code="DUO:0000042", label="general research use")
    assert made.server is not None
    assert made.server.devices == {"cpu0": "simulated"}


@pytest.mark.parametrize("reason", ["", "   ", "\x00\x01", "x" * 2001])
def test_reason_that_is_empty_or_too_long_is_not_sent(room: Room, desk: Desk, reason: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 2000 characters"):
        desk.request("heartbeats", "DUO:0000042", reason)
    assert room.broker.asked == []


def test_request_without_a_person_is_the_brokers_refusal(room: Room, desk: Desk) -> None:
    room.broker.person = None
    with pytest.raises(AccessDeniedError) as caught:
        desk.request("heartbeats", "DUO:0000042", "To train.")
    assert [code for code, _ in caught.value.reasons] == ["person.none"]


def test_answer_of_the_owner_is_seen_with_the_next_look(room: Room, desk: Desk) -> None:
    desk.request("heartbeats", "DUO:0000042", "To train.")
    room.broker.answer("refused", "Write to the committee first.")
    assert [one.state for one in desk.requests()] == ["open"]
    room.clock.seconds += 2
    (seen,) = desk.requests()
    assert (seen.state, seen.answer, seen.answered_by) == (
        "refused",
        "Write to the committee first.",
        "Dr. Owner",
    )


def test_list_is_not_asked_for_twice_within_a_second(room: Room, desk: Desk) -> None:
    desk.requests()
    desk.requests()
    assert room.broker.requests_listed == 1


def test_request_that_was_answered_is_not_taken_back(room: Room, desk: Desk) -> None:
    made = desk.request("heartbeats", "DUO:0000042", "To train.")
    room.broker.answer("granted", "", grant="g-1")
    with pytest.raises(ProtocolError, match="no open request"):
        desk.take_back(made.id)


def test_nothing_is_asked_before_the_server_has_proven_itself(room: Room) -> None:
    desk = Desk(room.attester, title=room.shelf.title, clock=room.clock)
    for call in (desk.requests, desk.releases, lambda: desk.explain("heartbeats"), lambda: desk.proof(1)):
        with pytest.raises(NotProvenError):
            call()


def test_broker_that_is_away_is_no_empty_list(room: Room, desk: Desk) -> None:
    room.broker.down = True
    with pytest.raises(NetworkError):
        desk.requests()


def test_proof_is_of_the_entry_that_was_asked_for(room: Room, desk: Desk) -> None:
    room.broker.own = [own_release(12), own_release(8)]
    file = desk.proof(8)
    assert file.name == "sealroom-release-8.tlog-proof"
    assert InclusionProof.from_bytes(file.text.encode()).index == 8
    with pytest.raises(UnknownReleaseError):
        desk.proof(10)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"entry": "b3RoZXI="}, IntegrityError),
        ({"proof": ()}, IntegrityError),
        ({"index": 3}, IntegrityError),
        ({"entry": "!"}, FormatError),
        ({"proof": ("AA==",)}, FormatError),
        ({"checkpoint": "nothing"}, FormatError),
        ({"key": "nothing"}, FormatError),
        (
            {"key": str(Signer("sealroom.example/log", Ed25519PrivateKey.generate()).verifier)},
            SignatureError,
        ),
    ],
    ids=["entry", "path", "index", "base64", "hash", "checkpoint", "key", "other-key"],
)
def test_proof_that_does_not_hold_is_no_file(
    room: Room, desk: Desk, change: dict[str, Any], error: type[Error]
) -> None:
    room.broker.own = [own_release(8).model_copy(update=change)]
    with pytest.raises(error):
        desk.proof(change.get("index", 8))


def test_purposes_to_ask_for_are_those_of_the_terms() -> None:
    terms = [TermInfo(code="DUO:0000006", label="health"), TermInfo(code="DUO:0000019", label="publication")]
    assert [term.code for term in asks(terms)] == ["DUO:0000006"]
    assert asks(terms[1:]) == PURPOSES


# --- access that has ended


def test_withdrawal_says_why_and_what_to_do(room: Room) -> None:
    room.turn()
    room.shelf.unlock("heartbeats")
    room.broker.withdraw()
    room.turn(2)
    shown = room.shelf.dataset("heartbeats")
    assert shown.state == "withdrawn"
    assert shown.ended is not None
    assert shown.ended.sentence == "Your grant for Heartbeats was withdrawn."
    assert 'sealroom.request("heartbeats"' in shown.ended.advice
    assert shown.ended.at == room.clock.now()


def test_narrowed_grant_is_shown_although_the_dataset_is_only_locked(room: Room) -> None:
    room.turn()
    room.broker.purposes = (RESEARCH, HEALTH)
    room.shelf.unlock("heartbeats", RESEARCH.code)
    # The owner leaves one purpose: the release for the other ends, the grant stays.
    room.broker.purposes = (HEALTH,)
    room.broker.condition = "locked"
    sentence = "Your grant for Heartbeats does not allow general research use any more."
    for index, state in room.broker.releases.items():
        room.broker.releases[index] = state.model_copy(update={"state": "withdrawn", "sentence": sentence})
    room.turn(2)
    assert not room.vault.holds("heartbeats")
    shown = room.shelf.dataset("heartbeats")
    assert (shown.state, shown.reasons) == ("locked", ())
    assert shown.ended is not None
    assert shown.ended.sentence == sentence
    assert (
        shown.ended.advice == "Unlock it again; your grant allows: health or medical or biomedical research."
    )
    assert room.shelf.unlock("heartbeats", HEALTH.code).ended is None


def test_locking_by_hand_is_no_end_of_access(room: Room) -> None:
    room.turn()
    room.shelf.unlock("heartbeats")
    assert room.shelf.lock("heartbeats").ended is None


def test_other_refusal_after_the_end_points_to_the_explanation(room: Room) -> None:
    room.turn()
    room.shelf.unlock("heartbeats")
    room.broker.withdraw()
    room.turn(2)
    room.broker.condition = "refused"
    room.broker.reasons = (Reason(code="environment.other", sentence="Another environment."),)
    room.clock.seconds += 2
    ended = room.shelf.dataset("heartbeats").ended
    assert ended is not None
    assert "Why?" in ended.advice
