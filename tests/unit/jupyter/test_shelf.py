# SPDX-License-Identifier: BSD-3-Clause
"""Datasets: what is listed, what unlocking sends and refuses, and when keys go."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sealroom import errors
from sealroom.kbs.calls import DatasetState
from sealroom_jupyter.errors import NotProvenError, UnknownDatasetError
from support.sealed import PLAIN
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import HEALTH, NO_GRANT, RESEARCH


@pytest.fixture
def proven(room: Room) -> Room:
    room.turn()
    return room


# -- unlocking


def test_unlock_opens_the_files(proven: Room) -> None:
    shown = proven.shelf.unlock("heartbeats")
    assert (shown.state, shown.here) == ("unlocked", True)
    assert shown.purpose is not None
    assert shown.purpose.code == "DUO:0000042"
    assert shown.names == tuple(sorted(PLAIN))
    assert [file.name for file in proven.shelf.files("heartbeats")] == sorted(PLAIN)
    assert proven.read() == PLAIN["ecg.bin"][:16]


def test_unlock_sends_headers_and_a_new_key_each_time_and_nothing_else(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.shelf.lock("heartbeats")
    proven.shelf.unlock("heartbeats")
    first, second = proven.broker.released
    assert set(first.headers) == set(PLAIN)
    assert sum(len(text) for text in first.headers.values()) < 2000
    assert first.reader_key != second.reader_key


def test_unlock_twice_asks_the_broker_once(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.shelf.unlock("heartbeats", "DUO:0000042")
    assert len(proven.broker.released) == 1


def test_unlock_for_another_purpose_is_another_release(proven: Room) -> None:
    proven.broker.purposes = (RESEARCH, HEALTH)
    proven.shelf.unlock("heartbeats", "DUO:0000042")
    shown = proven.shelf.unlock("heartbeats", "DUO:0000006")
    assert shown.purpose is not None
    assert shown.purpose.code == "DUO:0000006"
    assert len(proven.broker.released) == 2


def test_unlock_without_a_purpose_where_several_are_allowed_names_them(proven: Room) -> None:
    proven.broker.purposes = (RESEARCH, HEALTH)
    with pytest.raises(errors.ConfigurationError) as caught:
        proven.shelf.unlock("heartbeats")
    assert "DUO:0000006 (health" in caught.value.advice
    assert proven.broker.released == []


def test_unlock_without_a_grant_is_refused_by_the_broker_itself(proven: Room) -> None:
    proven.broker.condition, proven.broker.reasons = "not_granted", (NO_GRANT,)
    with pytest.raises(errors.AccessDeniedError) as caught:
        proven.shelf.unlock("heartbeats")
    assert caught.value.reasons == (("grant.none", NO_GRANT.sentence),)
    assert len(proven.broker.released) == 1, "the refusal stands in the broker's log"
    assert not proven.vault.holds("heartbeats")


def test_unlock_of_an_unknown_dataset(proven: Room) -> None:
    with pytest.raises(UnknownDatasetError, match="no dataset 'nothing'"):
        proven.shelf.unlock("nothing")


def test_unlock_before_the_server_is_proven(room: Room) -> None:
    with pytest.raises(NotProvenError, match="has not proven itself"):
        room.shelf.unlock("heartbeats")


def test_unlock_while_the_broker_is_down(proven: Room) -> None:
    proven.broker.down = True
    with pytest.raises(errors.NetworkError):
        proven.shelf.unlock("heartbeats")
    assert proven.attester.state.phase == "unreachable"


def test_unlock_when_the_files_are_not_on_this_machine(proven: Room) -> None:
    shutil.rmtree(proven.broker.sealed.root / "heartbeats")  # type: ignore[union-attr]
    with pytest.raises(errors.StorageError, match="not on this machine"):
        proven.shelf.unlock("heartbeats")
    assert proven.broker.released == []


# -- files that are not what they should be


def change_manifest(room: Room, **fields: object) -> None:
    path = room.broker.sealed.directory.path / "dataset.json"  # type: ignore[union-attr]
    body = {**json.loads(path.read_bytes()), **fields}
    path.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def test_another_manifest_on_disk_is_refused_before_anything_is_sent(proven: Room) -> None:
    change_manifest(proven, title="Something else")
    with pytest.raises(errors.IntegrityError, match="not those that the data owner registered"):
        proven.shelf.unlock("heartbeats")
    assert proven.broker.released == []
    shown = proven.shelf.dataset("heartbeats")
    assert (shown.state, shown.reasons[0].code) == ("refused", "manifest.differs")
    assert shown.title == "Heartbeats of record 208", "the broker's word, not the disk's"


def test_a_manifest_that_is_not_one_is_refused_and_said(proven: Room) -> None:
    path = proven.broker.sealed.directory.path / "dataset.json"  # type: ignore[union-attr]
    path.write_bytes(b"{}")
    with pytest.raises(errors.IntegrityError, match="cannot be used"):
        proven.shelf.unlock("heartbeats")
    assert "malformed" in proven.shelf.dataset("heartbeats").reasons[0].sentence


def test_a_released_manifest_that_differs_from_the_one_on_disk_is_refused(proven: Room) -> None:
    proven.broker.change_manifest = True
    with pytest.raises(errors.IntegrityError, match="not those that the data owner registered"):
        proven.shelf.unlock("heartbeats")
    assert not proven.vault.holds("heartbeats")
    with pytest.raises(UnknownDatasetError):
        proven.shelf.record("heartbeats")


def test_a_signature_on_disk_that_is_not_the_owners_is_refused(proven: Room) -> None:
    path = proven.broker.sealed.directory.path / "dataset.json.sig"  # type: ignore[union-attr]
    path.write_bytes(b"A" * 86 + b"==\n")
    with pytest.raises(errors.SignatureError):
        proven.shelf.unlock("heartbeats")
    assert not proven.vault.holds("heartbeats")


def test_a_changed_header_is_refused_before_anything_is_sent(proven: Room) -> None:
    path = proven.broker.sealed.directory.sealed_file("ecg.bin")  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.IntegrityError, match=r"header of ecg\.bin"):
        proven.shelf.unlock("heartbeats")
    assert proven.broker.released == []


def test_a_changed_segment_is_refused_when_it_is_read(proven: Room) -> None:
    path = proven.broker.sealed.directory.sealed_file("ecg.bin")  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    proven.shelf.unlock("heartbeats")
    with pytest.raises(errors.IntegrityError, match=r"ecg\.bin"):
        proven.read()


# -- how access ends


def test_a_withdrawal_ends_access_at_the_next_turn(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.broker.withdraw()
    assert proven.read()
    proven.turn(2)
    with pytest.raises(errors.AccessDeniedError, match="was withdrawn") as caught:
        proven.read()
    assert caught.value.advice == "Ask data@heart.example."
    shown = proven.shelf.dataset("heartbeats")
    assert (shown.state, shown.reasons[0].code) == ("withdrawn", "grant.withdrawn")


def test_a_withdrawal_ends_access_when_the_list_says_so_first(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.broker.withdraw()
    proven.clock.seconds += 1.5
    assert proven.shelf.dataset("heartbeats").state == "withdrawn"
    assert not proven.vault.holds("heartbeats")


def test_an_expired_release_says_so(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    for index, state in proven.broker.releases.items():
        proven.broker.releases[index] = state.model_copy(update={"state": "expired"})
    proven.turn(2)
    with pytest.raises(errors.AccessDeniedError, match="has expired"):
        proven.read()


def test_a_grant_that_ends_while_the_broker_is_down_ends_access_on_time(proven: Room) -> None:
    proven.broker.until = proven.clock.now() + timedelta(seconds=30)
    shown = proven.shelf.unlock("heartbeats")
    assert shown.until == proven.broker.until
    proven.broker.down = True
    proven.turn(2)
    proven.clock.seconds += 29
    with pytest.raises(errors.AccessDeniedError, match="ended at"):
        proven.read()
    assert proven.shelf.dataset("heartbeats").state == "refused"


def test_a_session_that_the_broker_forgot_is_bound_and_released_again(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.broker.forget()
    proven.turn(2)
    assert proven.read() == PLAIN["ecg.bin"][:16]
    assert len(proven.broker.released) == 2
    assert proven.shelf.record("heartbeats").audit_index == 9


def test_a_forgotten_release_that_is_not_given_again_ends_access(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.broker.forget()
    proven.broker.withdraw()
    proven.turn(2)
    with pytest.raises(errors.AccessDeniedError, match="was withdrawn"):
        proven.read()


def test_a_forgotten_release_that_cannot_be_asked_for_is_kept_for_the_grace_only(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.broker.releases.clear()

    def gone() -> None:
        raise errors.NetworkError("Gone.")

    proven.broker.on_release = gone
    proven.turn(2)
    assert proven.read()
    proven.turn(30)
    proven.turn(31)
    assert not proven.vault.holds("heartbeats")


def test_lock_drops_the_keys_and_says_who_did(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    assert proven.shelf.lock("heartbeats").state == "locked"
    with pytest.raises(errors.AccessDeniedError, match="You locked Heartbeats"):
        proven.read()
    proven.turn(2)
    assert proven.shelf.dataset("heartbeats").state == "locked"


def test_lock_of_what_is_locked_changes_nothing(proven: Room) -> None:
    assert proven.shelf.lock("heartbeats").state == "locked"
    with pytest.raises(errors.AccessDeniedError, match="is locked"):
        proven.read()


# -- what is listed


def absent_dataset(**fields: object) -> DatasetState:
    values = {
        "id": "chest-xray",
        "title": "Chest X-rays",
        "owner": "Clinic",
        "size": 5,
        "files": 1,
        "manifest_sha256": "00" * 32,
        "state": "locked",
    }
    return DatasetState.model_validate({**values, **fields})


def test_a_dataset_of_the_broker_that_is_not_here_is_listed_so(proven: Room) -> None:
    proven.broker.extra = (absent_dataset(),)
    shown = proven.shelf.dataset("chest-xray")
    assert (shown.here, shown.state) == (False, "locked")
    assert [item.id for item in proven.shelf.datasets()] == ["heartbeats", "chest-xray"]


def test_a_dataset_that_nobody_has_is_listed_by_its_placeholder(proven: Room) -> None:
    (Path(proven.settings.datasets[0]) / "chest-xray.absent.json").write_text(
        json.dumps({"title": "Chest X-rays", "reason": "It was not downloaded."})
    )
    shown = proven.shelf.dataset("chest-xray")
    assert (shown.here, shown.state, shown.title) == (False, "refused", "Chest X-rays")
    assert shown.reasons[0].sentence == "It was not downloaded."
    proven.broker.down = True
    proven.turn(2)
    assert proven.shelf.dataset("chest-xray").reasons[0].sentence == "It was not downloaded."


@pytest.mark.parametrize("text", ["", "[]", '{"owner": 3}', "\x00"])
def test_a_placeholder_that_is_not_one_is_passed_over(proven: Room, text: str) -> None:
    (Path(proven.settings.datasets[0]) / "chest-xray.absent.json").write_text(text)
    assert [item.id for item in proven.shelf.datasets()] == ["heartbeats"]


def test_a_sealed_dataset_that_the_broker_does_not_offer_says_so(proven: Room) -> None:
    proven.broker.sealed = None
    shown = proven.shelf.dataset("heartbeats")
    assert (shown.here, shown.state, shown.reasons[0].code) == (True, "refused", "dataset.unknown")
    assert shown.size == sum(len(data) for data in PLAIN.values())


def test_before_the_proof_what_is_here_is_listed_with_the_reason(room: Room) -> None:
    shown = room.shelf.dataset("heartbeats")
    assert (shown.state, shown.reasons[0].code) == ("refused", "broker.not_proven")
    assert "has not proven itself" in shown.reasons[0].sentence


def test_while_the_broker_is_down_open_datasets_stay_open_and_others_say_why(proven: Room) -> None:
    proven.broker.extra = (absent_dataset(),)
    proven.shelf.unlock("heartbeats")
    proven.broker.down = True
    proven.turn(2)
    assert proven.shelf.dataset("heartbeats").state == "unlocked"
    other = proven.shelf.dataset("chest-xray")
    assert (other.state, other.reasons[0].code) == ("refused", "broker.network")


def test_the_broker_is_not_asked_for_every_look(proven: Room) -> None:
    for _ in range(5):
        proven.shelf.datasets()
    assert proven.broker.listed == 1


def test_released_earlier_and_locked_here_is_locked(proven: Room) -> None:
    proven.broker.condition = "unlocked"
    assert proven.shelf.dataset("heartbeats").state == "locked"


# -- preview and record


def test_preview_says_what_is_sent_and_what_not(proven: Room) -> None:
    items = {item.label: item.value for item in proven.shelf.preview("heartbeats").items}
    assert items["Who"] == "Rosalind (http://hub.example)"
    assert items["Proof of this server"].startswith("Simulated TEE")
    assert re.fullmatch(r"the encrypted headers of 4 files, \d+ bytes together", items["File headers"])
    assert "data" in items["Not sent"]
    assert proven.broker.released == []


def test_record_says_what_was_proven_by_whom_on_what(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    record = proven.shelf.record("heartbeats")
    assert record.manifest_sha256 == proven.broker.sealed.manifest.sha256  # type: ignore[union-attr]
    assert record.person is not None
    assert record.person.subject == "rosalind"
    assert record.purpose is not None
    assert record.purpose.code == "DUO:0000042"
    assert (record.grant, record.audit_index) == ("grant-1", 8)
    assert record.server is not None
    assert record.server.tier == "simulated"
    assert record.server.devices[0].claims[0].check == "measurement"
    assert record.token_sha256 == "ab" * 32
    assert record.unlocked_at == proven.clock.now()


def test_record_is_kept_after_the_dataset_was_locked(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    proven.shelf.lock("heartbeats")
    assert proven.shelf.record("heartbeats").dataset == "heartbeats"


def test_nothing_that_is_shown_holds_a_secret(proven: Room) -> None:
    proven.shelf.unlock("heartbeats")
    shown = [
        *(item.model_dump_json() for item in proven.shelf.datasets()),
        proven.shelf.record("heartbeats").model_dump_json(),
        proven.shelf.preview("heartbeats").model_dump_json(),
        repr(proven.attester.state),
    ]
    text = "\n".join(shown)
    assert "hub-token-secret" not in text
    assert not any(header[:40] in text for header in proven.broker.released[0].headers.values())
