# SPDX-License-Identifier: BSD-3-Clause
"""Releases: who gets headers, who does not, and that the record always comes first."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import Header, SecretKey, open_header
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.seal import Description
from sealroom.environments import generate_key
from sealroom.errors import AccessDeniedError, NetworkError, ProtocolError, StorageError
from sealroom.kbs.calls import IdentityRequest
from sealroom.kbs.client import KbsClient
from sealroom_broker import release as release_module
from sealroom_broker.audit import Record
from sqlalchemy.exc import OperationalError
from support.brokers import GENERAL, Data, World, b64

READER = SecretKey.generate()


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def denied(guest: KbsClient, data: Data, dataset: str = "heartbeats", **request: Any) -> set[str]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release(dataset, data.request(READER, **request))
    return {code for code, _ in caught.value.reasons}


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(entry) for _, entry in world.broker.record.log.entries()]


def releases(world: World) -> list[AuditEntry]:
    return [entry for entry in entries(world) if entry.kind == "release"]


# --- what is released


def test_headers_open_for_the_readers_key_only(world: World, data: Data) -> None:
    world.grant()
    answer = world.guest().release("heartbeats", data.request(READER))
    assert set(answer.headers) == {"ecg.bin", "labels.csv"}
    for name, header in answer.headers.items():
        raw = Header.from_bytes(base64.b64decode(header))
        original = open_header(Header.from_bytes(data.headers()[name]), data.dataset_key)
        assert open_header(raw, READER).data_keys[0].reveal() == original.data_keys[0].reveal()
        with pytest.raises(Exception, match="does not open"):
            open_header(raw, data.dataset_key)


def test_answer_carries_the_signed_manifest_and_the_entry(world: World, data: Data) -> None:
    grant = world.grant()
    answer = world.guest().release("heartbeats", data.request(READER))
    assert answer.grant == grant
    assert answer.manifest == b64(data.manifest.to_bytes())
    assert answer.owner_key == b64(data.signing_key.public_key().public_bytes_raw())
    entry = entries(world)[answer.audit_index]
    assert entry.leaf_hash().hex() == answer.audit_leaf


def test_entry_says_who_got_what_where_and_why(world: World, data: Data) -> None:
    grant = world.grant()
    world.guest().release("heartbeats", data.request(READER))
    (entry,) = releases(world)
    assert entry.person is not None
    assert entry.person.subject == "alice"
    assert entry.dataset == "heartbeats"
    assert entry.manifest_sha256 == data.manifest.sha256
    assert entry.purpose == GENERAL
    assert entry.grant is not None
    assert entry.grant.id == grant
    assert entry.environment == world.environment.digest
    assert entry.ear is not None
    assert (entry.ear.tier, entry.ear.simulated, entry.ear.devices) == (
        "simulated",
        True,
        {"cpu0": "simulated"},
    )
    assert entry.headers == tuple(hashlib.sha256(one).hexdigest() for one in data.headers().values())
    assert world.owner.audit_file(f"evidence/{entry.evidence}")


def test_part_of_the_files(world: World, data: Data) -> None:
    world.grant()
    headers = {"ecg.bin": data.headers()["ecg.bin"]}
    answer = world.guest().release("heartbeats", data.request(READER, headers=headers))
    assert set(answer.headers) == {"ecg.bin"}


def test_log_of_all_this_verifies(world: World, data: Data) -> None:
    world.grant()
    world.guest().release("heartbeats", data.request(READER))
    denied(world.guest("token-of-bob"), data)
    key = world.broker.record.signer.verifier
    report = verify_log(world.broker.record.log, key)
    assert report.ok, report.findings
    assert report.kinds == {"start": 1, "registration": 1, "grant": 1, "release": 1, "refusal": 1}


def test_offers_say_locked_then_unlocked(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    (offer,) = guest.datasets()
    assert (offer.state, offer.reasons) == ("locked", ())
    assert [one.label for one in offer.purposes] == ["general research use"]
    assert (offer.owner, offer.contact, offer.files) == ("Heart Centre", "data@heart.example", 2)
    guest.release("heartbeats", data.request(READER))
    assert guest.datasets()[0].state == "unlocked"


# --- who is refused


def test_person_without_a_grant_is_told_whom_to_ask(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest("token-of-bob")
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    assert [code for code, _ in caught.value.reasons] == ["grant.none"]
    assert "data@heart.example" in caught.value.message
    (offer,) = guest.datasets()
    assert (offer.state, offer.ask, offer.purposes) == ("not_granted", "data@heart.example", ())
    (entry,) = [entry for entry in entries(world) if entry.kind == "refusal"]
    assert entry.person is not None
    assert entry.person.subject == "bob"
    assert entry.evidence


def test_nobody_bound(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest("")
    assert denied(guest, data) == {"person.none"}
    assert guest.datasets()[0].state == "not_granted"


def test_unknown_dataset(world: World, data: Data) -> None:
    assert denied(world.guest(), data, dataset="no-such") == {"dataset.unknown"}


@pytest.mark.parametrize("dataset", ["../heartbeats", "heartbeats%2f..", "Heartbeats", "heartbeats\0", "ü"])
def test_dataset_names_that_try_tricks(world: World, data: Data, dataset: str) -> None:
    world.grant()
    with pytest.raises((AccessDeniedError, ProtocolError)):
        world.guest().release(dataset, data.request(READER))
    assert not releases(world)


def test_expired_grant(world: World, data: Data) -> None:
    world.grant(until=world.clock.now.isoformat())
    guest = world.guest()
    assert denied(guest, data) == {"grant.expired"}
    assert guest.datasets()[0].state == "expired"


def test_grant_that_has_not_begun(world: World, data: Data) -> None:
    world.grant(starts=testing.NOW.replace(year=2027).isoformat())
    guest = world.guest()
    assert denied(guest, data) == {"grant.not_started"}
    assert guest.datasets()[0].state == "refused"


def test_wrong_purpose(world: World, data: Data) -> None:
    world.grant()
    assert denied(world.guest(), data, purpose="DUO:0000006") == {"grant.purpose"}


def test_environment_that_the_grant_does_not_cover(world: World, data: Data) -> None:
    world.grant(environments=["sha256:" + "0" * 64])
    guest = world.guest()
    assert denied(guest, data) == {"grant.environment"}
    assert guest.datasets()[0].state == "refused"


def test_environment_one_digest_off(world: World, data: Data) -> None:
    digest = world.environment.digest
    world.grant(environments=[digest[:-1] + ("0" if digest[-1] != "0" else "1")])
    assert denied(world.guest(), data) == {"grant.environment"}


def test_environment_that_is_not_approved_any_more(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    assert guest.datasets()[0].state == "locked"
    for path in (world.folder / "environments").glob("*.sig"):
        path.unlink()
    assert denied(guest, data) == {"environment.unknown"}


def test_environment_of_a_publisher_that_nobody_knows(world: World, data: Data) -> None:
    world.grant()
    stranger = testing.environment(name="stranger")
    world.publish(stranger, generate_key())
    guest = world.guest(provider=lambda covered: testing.evidence(covered, stranger))
    assert denied(guest, data) == {"environment.unknown", "tier.below"}


def test_tier_below_the_grants_minimum(world: World, data: Data) -> None:
    world.grant(minimum="affirming")
    guest = world.guest()
    assert denied(guest, data) == {"tier.below"}
    assert guest.datasets()[0].state == "refused"


def test_simulated_server_that_fails_a_check(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest(provider=lambda covered: world.evidence(covered, policy=0x30000 | 1 << 19))
    assert "tier.below" in denied(guest, data)


def test_file_that_the_manifest_does_not_name(world: World, data: Data) -> None:
    world.grant()
    headers = {**data.headers(), "extra.bin": data.headers()["ecg.bin"]}
    assert denied(world.guest(), data, headers=headers) == {"file.unknown"}
    assert not releases(world)


def test_header_that_was_changed(world: World, data: Data) -> None:
    world.grant()
    header = bytearray(data.headers()["ecg.bin"])
    header[-1] ^= 1
    with pytest.raises(
        AccessDeniedError, match=r"ecg\.bin is not the one that its owner registered"
    ) as caught:
        world.guest().release("heartbeats", data.request(READER, headers={"ecg.bin": bytes(header)}))
    assert [code for code, _ in caught.value.reasons] == ["file.header"]


def test_headers_that_were_swapped(world: World, data: Data) -> None:
    world.grant()
    headers = data.headers()
    swapped = {"ecg.bin": headers["labels.csv"], "labels.csv": headers["ecg.bin"]}
    assert denied(world.guest(), data, headers=swapped) == {"file.header"}


def test_header_of_another_dataset(world: World, data: Data) -> None:
    world.grant()
    other = world.seal(Description(id="other", title="Other", owner="Somebody else"))
    headers = {"ecg.bin": other.headers()["ecg.bin"]}
    assert denied(world.guest(), data, headers=headers) == {"file.header"}


def test_person_who_is_refused_learns_nothing_about_headers(world: World, data: Data) -> None:
    assert denied(world.guest("token-of-bob"), data, headers={"no-such": b"x"}) == {"grant.none"}


def test_no_headers(world: World, data: Data) -> None:
    world.grant()
    with pytest.raises(ProtocolError, match="at least one file"):
        world.guest().release("heartbeats", data.request(READER, headers={}))


@pytest.mark.parametrize("key", ["", "AAAA", "not base64", b64(bytes(31))])
def test_readers_key_that_is_none(world: World, data: Data, key: str) -> None:
    world.grant()
    request = data.request(READER).model_copy(update={"reader_key": key})
    with pytest.raises(ProtocolError):
        world.guest().release("heartbeats", request)
    assert not releases(world)


def test_proof_that_is_too_old_is_made_anew_and_not_refused(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    world.clock.forward(minutes=20)
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


# --- whose session it is


def test_other_persons_token_in_my_session(world: World, data: Data) -> None:
    guest = world.guest("token-of-alice")
    with pytest.raises(AccessDeniedError) as caught:
        guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-bob"))
    assert [code for code, _ in caught.value.reasons] == ["person.other"]
    person = guest.session().person
    assert person is not None
    assert person.subject == "alice"


def test_same_person_of_another_server_in_my_session(world: World) -> None:
    guest = world.guest("token-of-alice")
    with pytest.raises(AccessDeniedError):
        guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice", server="gpu"))


def test_the_same_person_again(world: World) -> None:
    guest = world.guest("token-of-alice")
    guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice"))


def test_hub_that_cannot_be_asked_is_no_pass(world: World, data: Data) -> None:
    world.grant()
    world.people.reachable = False
    guest = world.guest("")
    with pytest.raises(NetworkError, match="cannot be reached"):
        guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice"))
    assert denied(guest, data) == {"person.none"}


def test_unknown_token(world: World) -> None:
    with pytest.raises(AccessDeniedError):
        world.guest("token-of-mallory")


# --- the end of a grant


def test_withdrawal_shows_at_the_next_look_and_refuses_the_next_release(world: World, data: Data) -> None:
    grant = world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    assert guest.session().releases[0].state == "active"
    world.owner.withdraw_grant(grant)
    (state,) = guest.session().releases
    assert state.state == "withdrawn"
    assert "was withdrawn" in state.sentence
    assert guest.datasets()[0].state == "withdrawn"
    assert denied(guest, data) == {"grant.withdrawn"}


def test_release_ends_with_its_own_grant_although_another_one_runs(world: World, data: Data) -> None:
    first = world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.grant(group="cardiology")
    world.owner.withdraw_grant(first)
    assert guest.session().releases[0].state == "withdrawn"
    assert guest.datasets()[0].state == "locked"
    guest.release("heartbeats", data.request(READER))
    assert [one.state for one in guest.session().releases] == ["active"]


def test_grant_that_ends_while_the_data_are_open(world: World, data: Data) -> None:
    until = testing.NOW.replace(minute=10)
    world.grant(until=until.isoformat())
    guest = world.guest()
    assert guest.release("heartbeats", data.request(READER)).until == until
    assert guest.session().releases[0].until == until
    world.clock.forward(minutes=10)
    assert guest.session().releases[0].state == "expired"


def test_environment_that_loses_its_approval_ends_what_is_open(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    for path in (world.folder / "environments").glob("*.sig"):
        path.unlink()
    (state,) = guest.session().releases
    assert state.state == "withdrawn"
    assert "not approved" in state.sentence


def test_fresh_proof_keeps_what_is_open(world: World, data: Data) -> None:
    world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.clock.forward(minutes=14)
    guest.attest()
    assert guest.session().releases[0].state == "active"


def test_releases_and_grants_survive_a_restart(world: World, data: Data) -> None:
    grant = world.grant()
    guest = world.guest()
    guest.release("heartbeats", data.request(READER))
    world.restart()
    assert guest.session().releases[0].state == "active"
    assert [one.id for one in world.owner.grants()] == [grant]
    assert guest.release("heartbeats", data.request(READER)).grant == grant


# --- the record comes first


def failing(*_: object, **__: object) -> Any:
    raise StorageError("No space left on device.")


def test_log_that_cannot_be_written_means_no_key(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant()
    guest = world.guest()
    opened: list[object] = []
    monkeypatch.setattr(release_module, "reencrypt", opened.append)
    monkeypatch.setattr(Record, "append", failing)
    with pytest.raises(NetworkError, match="nothing was done"):
        guest.release("heartbeats", data.request(READER))
    assert not opened
    monkeypatch.undo()
    assert not releases(world)
    assert guest.session().releases == ()


@pytest.mark.parametrize("step", ["os.fsync", "os.write"])
def test_disk_that_fails_under_the_log_means_no_key(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world.grant()
    guest = world.guest()
    guest.attest()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fail_at_the_server(*_: object) -> None:
        raise OperationalError("INSERT", {}, OSError(28, "No space left on device"))

    if world.postgresql:  # the entry's row is there already, in a transaction that does not commit
        monkeypatch.setattr("sealroom_broker.sharedlog._add_hashes", fail_at_the_server)
    else:
        monkeypatch.setattr(f"sealroom.audit.log.{step}", fail)
    with pytest.raises(NetworkError, match="nothing was done"):
        guest.release("heartbeats", data.request(READER))
    monkeypatch.undo()
    assert not releases(world)
    assert guest.session().releases == ()
    guest.release("heartbeats", data.request(READER))
    assert len(releases(world)) == 1


def test_crash_after_the_entry_leaves_the_entry_and_no_key(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant()
    guest = world.guest()

    def crash(*_: object, **__: object) -> None:
        assert len(releases(world)) == 1, "the entry is durable before a header is opened"
        raise SystemError("the process ends here")

    monkeypatch.setattr(release_module, "reencrypt", crash)
    with pytest.raises(NetworkError, match="failed"):
        guest.release("heartbeats", data.request(READER))
    assert len(releases(world)) == 1


def test_store_that_cannot_commit_means_no_key(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grant()
    guest = world.guest()
    opened: list[object] = []
    monkeypatch.setattr(release_module, "reencrypt", opened.append)
    monkeypatch.setattr(release_module, "ReleaseRow", failing)
    with pytest.raises(NetworkError):
        guest.release("heartbeats", data.request(READER))
    assert not opened
    # In a file the entry is there before the commit; in the database it is part of it.
    assert len(releases(world)) == (0 if world.postgresql else 1)


def test_refusal_that_cannot_be_recorded_is_still_none(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = world.guest("token-of-bob")
    monkeypatch.setattr(Record, "append", failing)
    with pytest.raises(NetworkError):
        guest.release("heartbeats", data.request(READER))


def test_evidence_that_cannot_be_kept_is_not_attested(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Record, "keep_evidence", failing)
    with pytest.raises(NetworkError):
        world.guest()


def test_newer_manifest_of_a_dataset_is_what_counts(world: World, data: Data) -> None:
    world.grant()
    newer = data.manifest.model_copy(update={"title": "Heartbeats, second edition"})
    assert isinstance(newer, Manifest)
    signature = data.signing_key.sign(newer.to_bytes())
    registration = data.registration(manifest=b64(newer.to_bytes()), signature=b64(signature))
    world.owner.register_dataset(registration)
    guest = world.guest()
    assert guest.datasets()[0].title == "Heartbeats, second edition"
    assert guest.release("heartbeats", data.request(READER)).manifest == b64(newer.to_bytes())
