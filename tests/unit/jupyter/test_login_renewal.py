# SPDX-License-Identifier: BSD-3-Clause
"""The person's login is presented again when the broker asks for it."""

from __future__ import annotations

from sealroom import errors
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import ROSALIND


def unlocked(room: Room) -> None:
    room.turn()
    room.shelf.unlock("heartbeats")
    assert room.vault.holds("heartbeats")


def test_login_is_presented_again_when_it_is_due(room: Room) -> None:
    unlocked(room)
    room.broker.login_due = True
    room.turn(2)
    room.turn(2)
    assert len(room.broker.identities) == 2
    assert room.vault.holds("heartbeats")
    assert room.attester.state.error is None


def test_hub_that_cannot_be_asked_for_a_while_takes_nothing_away(room: Room) -> None:
    unlocked(room)
    room.broker.login_due = room.broker.hub_down = True
    for _ in range(3):
        room.turn(2)
    assert room.attester.state.person == ROSALIND
    assert room.vault.holds("heartbeats")
    room.broker.hub_down = False
    room.turn(2)
    assert not room.broker.login_due


def test_login_that_is_refused_when_it_is_due_ends_access_at_once(room: Room) -> None:
    unlocked(room)
    room.broker.login_due = True
    room.broker.identity_refusal = errors.AccessDeniedError("The hub does not know this login.")
    room.turn(2)
    state = room.attester.state
    assert (state.phase, state.person) == ("verified", None)
    assert state.error is not None
    assert not room.vault.holds("heartbeats")
