# SPDX-License-Identifier: BSD-3-Clause
"""The Attester's states: what it says, what it drops, and that it comes back by itself."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sealroom import errors, testing
from sealroom.kbs.devices import decode_devices
from sealroom.snp.bundle import EvidenceBundle, device_nonce_for, report_data_for
from sealroom_jupyter.errors import EvidenceError, NotProvenError
from sealroom_jupyter.ports import HubLogin, HubToken
from sealroom_jupyter.status import describe
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import ROSALIND


def stages(room: Room) -> list[str]:
    return [event.stage for event in room.events]


def unlocked(room: Room) -> None:
    room.turn()
    room.shelf.unlock("heartbeats")
    assert room.vault.holds("heartbeats")


def test_first_turn_proves_and_binds_the_person(room: Room) -> None:
    assert room.attester.state.phase == "starting"
    pause = room.turn()
    state = room.attester.state
    assert (state.phase, state.person, state.provider) == ("verified", ROSALIND, "simulated")
    assert pause == room.settings.poll_interval
    assert stages(room) == ["evidence", "verified"]
    assert room.events[-1].token == "token-1"
    request = room.broker.identities[0]
    assert (request.provider, request.token, request.server) == ("jupyterhub", "hub-token-secret", "named")


def test_turns_in_between_only_ask_about_the_session(room: Room) -> None:
    room.turn()
    for _ in range(5):
        room.turn(2)
    assert room.broker.attested == 1
    assert len(room.broker.identities) == 1


def test_proves_again_before_the_result_ends(room: Room) -> None:
    room.turn()
    room.turn(239)
    assert room.broker.attested == 1
    room.turn(1)
    assert room.broker.attested == 2
    assert room.events[-1].token == "token-2"


def test_short_results_are_renewed_at_two_thirds_of_their_life(room: Room) -> None:
    room.broker.lifetime = timedelta(seconds=30)
    room.turn()
    room.turn(19)
    assert room.broker.attested == 1
    room.turn(1)
    assert room.broker.attested == 2


def test_prove_makes_a_fresh_proof(room: Room) -> None:
    room.turn()
    state = room.attester.prove()
    assert room.broker.attested == 2
    assert state.phase == "verified"


def test_a_result_that_the_client_got_by_itself_is_taken(room: Room) -> None:
    room.turn()
    room.broker.attest()
    room.turn(2)
    proof = room.attester.state.proof
    assert proof is not None
    assert proof.token == "token-2"


def test_without_a_hub_nobody_is_bound_and_the_server_is_proven(room: Room) -> None:
    room.attester._login = HubLogin(HubToken(""), "")
    room.turn()
    state = room.attester.state
    assert (state.phase, state.person, state.error) == ("verified", None, None)
    assert room.broker.identities == []


# -- refusals


def test_refused_evidence_ends_trust_at_once(room: Room) -> None:
    unlocked(room)
    reason = ("snp.signature", "The report is not signed by this chip.")
    room.broker.refusal = errors.AccessDeniedError("The evidence is refused.", reasons=(reason,))
    room.turn(241)
    state = room.attester.state
    assert (state.phase, state.proof) == ("refused", None)
    assert state.error is not None
    assert state.error.message == "The evidence is refused. The report is not signed by this chip."
    assert not room.vault.holds("heartbeats")
    with pytest.raises(errors.AccessDeniedError, match="not signed by this chip"):
        room.read()
    assert stages(room)[-1] == "refused"


def test_a_contraindicated_result_shows_its_checks_and_gives_nothing(room: Room) -> None:
    room.broker.tier = "contraindicated"
    room.turn()
    state = room.attester.state
    assert state.phase == "refused"
    shown = describe(state, room.settings)
    assert (shown.tier, shown.title) == ("contraindicated", "Not verified")
    assert [claim.outcome for claim in shown.devices[0].claims] == ["failed"]
    with pytest.raises(NotProvenError, match="does not accept it"), room.attester.session():
        pass


@pytest.mark.parametrize("tier", ["affirming", "warning"])
def test_a_simulated_processor_is_not_believed_to_be_genuine(room: Room, tier: str) -> None:
    unlocked(room)
    room.broker.tier = tier
    room.attester.prove()
    state = room.attester.state
    assert (state.phase, state.proof) == ("refused", None)
    assert describe(state, room.settings).tier == "none"
    assert not room.vault.holds("heartbeats")


def test_a_result_that_turns_contraindicated_drops_keys(room: Room) -> None:
    unlocked(room)
    room.broker.tier = "contraindicated"
    room.turn(241)
    assert not room.vault.holds("heartbeats")


def test_a_result_with_a_wrong_signature_is_a_refusal(room: Room) -> None:
    def wrong(*_: object) -> None:
        raise errors.SignatureError("The token's signature does not verify.")

    room.attester._read_token = wrong  # type: ignore[assignment]
    room.turn()
    state = room.attester.state
    assert (state.phase, state.proof) == ("refused", None)


def test_a_refused_server_is_proven_again_by_itself(room: Room) -> None:
    room.broker.refusal = errors.AccessDeniedError("No.")
    pauses = [room.turn() for _ in range(8)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    room.broker.refusal = None
    assert room.turn() == room.settings.poll_interval
    assert room.attester.state.phase == "verified"


def test_the_same_refusal_is_reported_once(room: Room) -> None:
    room.broker.refusal = errors.AccessDeniedError("No.")
    for _ in range(3):
        room.turn()
    assert stages(room).count("refused") == 1


@pytest.mark.parametrize("code", ["nonce.expired", "nonce.used", "session.none", "attestation.expired"])
def test_a_late_handshake_is_no_refusal(room: Room, code: str) -> None:
    unlocked(room)
    room.broker.refusal = errors.AccessDeniedError("Too late.", reasons=((code, "Too late."),))
    room.turn(241)
    assert room.vault.holds("heartbeats")
    assert room.attester.state.phase == "unreachable"


def test_a_login_that_the_hub_does_not_know_leaves_the_server_proven_and_drops_keys(room: Room) -> None:
    unlocked(room)
    room.broker.forget()
    room.broker.identity_refusal = errors.AccessDeniedError("The hub does not know this login.")
    room.turn(2)
    state = room.attester.state
    assert (state.phase, state.person) == ("verified", None)
    assert state.error is not None
    assert "does not know" in state.error.message
    with pytest.raises(errors.AccessDeniedError, match="does not know this login"):
        room.read()


# -- things that do not answer


def test_a_silent_broker_keeps_keys_for_the_grace_and_not_longer(room: Room) -> None:
    unlocked(room)
    room.broker.down = True
    room.turn(2)
    assert room.attester.state.phase == "unreachable"
    room.turn(59)
    assert room.read()
    room.turn(1)
    assert not room.vault.holds("heartbeats")
    with pytest.raises(errors.AccessDeniedError, match="could not be confirmed for too long"):
        room.read()
    assert stages(room)[-1] == "refused"


def test_a_broker_that_comes_back_in_time_changes_nothing(room: Room) -> None:
    unlocked(room)
    room.broker.down = True
    room.turn(2)
    room.turn(50)
    room.broker.down = False
    assert room.turn(2) == room.settings.poll_interval
    room.broker.down = True
    room.turn(50)
    assert room.read()
    assert room.broker.attested == 1


def test_after_the_grace_the_server_is_proven_again_by_itself(room: Room) -> None:
    unlocked(room)
    room.broker.down = True
    room.turn(2)
    room.turn(61)
    assert room.attester.state.proof is None
    room.broker.down = False
    room.turn(1)
    assert room.attester.state.phase == "verified"
    assert room.shelf.unlock("heartbeats").state == "unlocked"


def test_a_broker_that_is_down_at_the_start_is_said_and_waited_for(room: Room) -> None:
    room.broker.down = True
    pauses = [room.turn() for _ in range(3)]
    assert pauses == [1, 2, 4]
    state = room.attester.state
    assert state.phase == "unreachable"
    assert state.error is not None
    assert state.error.advice == "Check that it runs."
    assert room.events[-1].sentence == "The broker cannot be reached."
    assert "refused" not in stages(room)
    room.broker.down = False
    room.turn()
    assert room.attester.state.phase == "verified"


def test_a_result_that_ran_out_is_not_shown_as_proven(room: Room) -> None:
    room.turn()
    room.clock.seconds += 301
    state = room.attester.state
    assert (state.phase, state.proof) == ("evidence", None)
    with pytest.raises(NotProvenError, match="run out"), room.attester.session():
        pass


def test_a_result_that_cannot_be_renewed_ends_with_its_life(room: Room) -> None:
    room.broker.lifetime = timedelta(seconds=30)
    unlocked(room)
    room.turn(15)
    room.broker.down = True
    room.turn(10)
    assert room.vault.holds("heartbeats")
    room.turn(6)
    assert not room.vault.holds("heartbeats")
    with pytest.raises(errors.AccessDeniedError, match="has run out and could not be renewed"):
        room.read()


def test_a_silent_processor_does_not_end_a_proof_that_holds(room: Room) -> None:
    unlocked(room)
    room.processor.broken = errors.NetworkError("The simulated secure processor does not answer: refused.")
    room.turn(241)
    state = room.attester.state
    assert state.phase == "verified"
    assert state.error is not None
    assert "does not answer" in state.error.message
    assert room.read()
    with pytest.raises(EvidenceError):
        room.attester.prove()


def test_a_processor_that_is_gone_at_the_start_is_said_plainly(room: Room) -> None:
    room.processor.broken = OSError("no such file")
    room.turn()
    state = room.attester.state
    assert (state.phase, state.proof) == ("refused", None)
    assert state.error is not None
    assert state.error.message == "The secure processor of this server gives no evidence."
    assert describe(state, room.settings).tier == "none"
    room.processor.broken = None
    room.turn()
    assert room.attester.state.phase == "verified"


def test_a_hub_that_is_down_leaves_the_server_proven(room: Room) -> None:
    room.broker.hub_down = True
    assert room.turn() == 1
    state = room.attester.state
    assert (state.phase, state.person) == ("verified", None)
    assert state.error is not None
    assert "hub cannot be reached" in state.error.message
    room.broker.hub_down = False
    room.turn()
    assert (room.attester.state.person, room.attester.state.error) == (ROSALIND, None)


def test_a_mistake_of_ours_counts_as_a_failure_and_the_watch_goes_on(room: Room) -> None:
    unlocked(room)
    session = room.broker.session

    def wrong() -> None:
        raise KeyError("mistake")

    room.broker.session = wrong  # type: ignore[method-assign, assignment]
    room.turn(2)
    assert room.vault.holds("heartbeats")
    room.turn(61)
    assert not room.vault.holds("heartbeats")
    room.broker.session = session  # type: ignore[method-assign]
    room.turn()
    assert room.attester.state.phase == "verified"


# -- the thread, and evidence over one's own nonce


def test_start_proves_in_the_background_and_stop_ends_it(room: Room) -> None:
    room.attester.start()
    thread = room.attester._thread
    assert thread is not None
    for _ in range(200):
        if room.attester.state.phase == "verified":
            break
        thread.join(0.02)
    assert room.attester.state.phase == "verified"
    room.attester.stop()
    assert not thread.is_alive()
    assert room.broker.down


def test_evidence_covers_the_own_nonce_and_needs_no_broker(room: Room) -> None:
    room.broker.down = True
    made = room.attester.evidence(b"n" * 16)
    assert room.processor.asked == [
        __import__("hashlib").sha512(b"sealroom-evidence/1\0" + b"n" * 16).digest()
    ]
    assert (made.format, made.nonce, made.provider) == ("sealroom-evidence/1", (b"n" * 16).hex(), "simulated")
    assert set(made.certificates) == {"VCEK", "ASK"}


def test_evidence_without_a_gpu_has_no_member_for_it(room: Room) -> None:
    made = room.attester.evidence(b"n" * 16)
    assert "additional_evidence" not in json.loads(made.model_dump_json())
    assert EvidenceBundle.from_json(made.model_dump_json().encode()).devices == ""


def test_evidence_of_gpus_answers_the_own_nonce_and_is_covered(room: Room) -> None:
    room.gpus.chips = [testing.gpu(), testing.gpu("BLACKWELL")]
    nonce = b"n" * 16
    made = EvidenceBundle.from_json(room.attester.evidence(nonce).model_dump_json().encode())
    devices = decode_devices(made.devices)
    assert [one.arch for one in devices] == ["HOPPER", "BLACKWELL"]
    assert room.gpus.asked == [device_nonce_for(nonce)]
    assert room.processor.asked == [report_data_for(nonce, made.devices)]
    assert made.runtime_data["prefix"] == "sealroom-evidence/1+devices\0"


def test_a_gpu_without_evidence_is_said_and_the_processor_is_not_asked(room: Room) -> None:
    room.gpus.broken = EvidenceError("The GPU of this server gives no evidence: it is away.")
    with pytest.raises(EvidenceError, match="it is away"):
        room.attester.evidence(b"n" * 16)
    assert room.processor.asked == []


@pytest.mark.parametrize("size", [0, 15, 65])
def test_evidence_refuses_a_nonce_of_the_wrong_length(room: Room, size: int) -> None:
    with pytest.raises(errors.FormatError, match=f"{size} bytes"):
        room.attester.evidence(b"n" * size)
    assert room.processor.asked == room.gpus.asked == []


def test_the_hub_token_is_not_printed() -> None:
    assert "secret" not in repr(HubToken("secret"))
    with pytest.raises(TypeError):
        __import__("pickle").dumps(HubToken("secret"))
