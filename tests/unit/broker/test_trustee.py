# SPDX-License-Identifier: BSD-3-Clause
"""Trustee mode: the dataset's key itself leaves, where a grant says so."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.cli.reverify import Reverifier
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.trustee import open_with_key
from sealroom.datasets.vault import Vault
from sealroom.errors import AccessDeniedError
from sealroom.kbs.client import KbsClient
from sealroom.kbs.trustee import DatasetKey, TrusteeSource
from sealroom.snp import Roots
from sealroom_broker.audit import Record
from sealroom_broker.trustee import DETAIL
from support.brokers import FILES, World

PATH = "/kbs/v0/resource/sealroom/dataset-key/heartbeats"


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(data) for _, data in world.broker.record.log.entries()]


def fetch(guest: KbsClient, dataset: str = "heartbeats") -> DatasetKey:
    return TrusteeSource.of_broker(guest).fetch(dataset)


def reasons(guest: KbsClient, dataset: str = "heartbeats") -> list[str]:
    with pytest.raises(AccessDeniedError) as caught:
        fetch(guest, dataset)
    return [code for code, _ in caught.value.reasons]


def asked(world: World, guest: KbsClient, query: str) -> httpx.Response:
    headers = {"Cookie": f"kbs-session-id={guest._cookie}"}
    return world.http().get(f"{PATH}{query}", headers=headers)


def test_key_that_the_grant_lets_leave_opens_the_dataset(world: World) -> None:
    data = world.seal()
    world.grant(dataset_key=True)
    resource = fetch(world.guest())
    assert resource.secret == data.dataset_key
    vault = Vault()
    owner_key = data.signing_key.public_key().public_bytes_raw()
    open_with_key(vault, "heartbeats", DatasetDirectory(data.folder), resource, owner_key=owner_key)
    buffer = bytearray(len(FILES["ecg.bin"]))
    vault.read_into("heartbeats", "ecg.bin", 0, memoryview(buffer))
    assert bytes(buffer) == FILES["ecg.bin"]


def test_entry_says_that_the_key_itself_left_and_to_whom(world: World) -> None:
    data = world.seal()
    grant = world.grant(dataset_key=True)
    fetch(world.guest())
    entry = entries(world)[-1]
    assert (entry.kind, entry.detail, entry.dataset) == ("release", DETAIL, "heartbeats")
    assert entry.decision.allowed
    assert entry.person is not None
    assert entry.person.subject == "alice"
    assert entry.grant is not None
    assert entry.grant.id == grant
    assert (entry.purpose, entry.headers) == ("DUO:0000042", ())
    assert entry.manifest_sha256 == data.manifest.sha256
    assert entry.evidence


def test_log_with_such_an_entry_verifies_with_its_evidence(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    fetch(world.guest())
    log, signer = world.broker.record.log, world.broker.record.signer
    reverify = Reverifier(Roots.development(testing.chain().pem), [world.environment])
    report = verify_log(log, signer.verifier, reverify=reverify)
    assert report.ok, report.findings
    assert (report.evidence, reverify.appraised) == (1, 1)


def test_release_is_in_the_sessions_state_and_ends_with_the_grant(world: World) -> None:
    world.seal()
    grant = world.grant(dataset_key=True)
    guest = world.guest()
    fetch(guest)
    (release,) = guest.session().releases
    assert (release.dataset, release.state) == ("heartbeats", "active")
    world.owner.withdraw_grant(grant)
    (release,) = guest.session().releases
    assert release.state == "withdrawn"
    assert reasons(guest) == ["grant.withdrawn"]


def test_key_comes_with_the_token_in_place_of_the_cookie(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    guest = world.guest()
    token = guest.attest().token
    answer = world.http().get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert DatasetKey.from_bytes(guest._key.decrypt(answer.json())).dataset == "heartbeats"


# --- what does not let it leave


def test_grant_that_does_not_say_so(world: World) -> None:
    world.seal()
    world.grant()
    assert reasons(world.guest()) == ["grant.dataset_key"]
    entry = entries(world)[-1]
    assert (entry.kind, entry.detail) == ("refusal", "Resource sealroom/dataset-key/heartbeats")
    assert entry.decision.reasons[0].code == "grant.dataset_key"


def test_grant_of_another_person_that_says_so(world: World) -> None:
    world.seal()
    world.grant()
    world.grant(subject="bob", dataset_key=True)
    assert reasons(world.guest()) == ["grant.dataset_key"]


def test_no_grant_at_all(world: World) -> None:
    world.seal()
    assert reasons(world.guest()) == ["grant.none"]


def test_session_without_a_person(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    assert reasons(world.guest("")) == ["person.none"]


def test_login_that_has_ended(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    guest = world.guest()
    world.clock.forward(minutes=16)
    guest._identity = None
    guest.attest()
    assert reasons(guest) == ["person.ended"]


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"until": testing.NOW + timedelta(seconds=1)}, "grant.expired"),
        ({"starts": testing.NOW + timedelta(days=1)}, "grant.not_started"),
        ({"minimum": "affirming"}, "tier.below"),
        ({"gpu": True}, "grant.gpu"),
        ({"environments": ["sha256:" + "0" * 64]}, "grant.environment"),
    ],
)
def test_every_other_rule_holds_too(world: World, terms: dict[str, Any], code: str) -> None:
    world.seal()
    world.grant(dataset_key=True, **terms)
    world.clock.forward(seconds=2)
    assert reasons(world.guest()) == [code]


def test_environment_that_is_not_approved(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    guest = world.guest(provider=lambda covered: world.evidence(covered, measurement=bytes(48)))
    assert "environment.unknown" in reasons(guest)


def test_second_server_where_one_is_allowed(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True, servers=1)
    fetch(world.guest())
    assert reasons(world.guest()) == ["grant.servers"]


def test_dataset_that_is_not_registered(world: World) -> None:
    assert reasons(world.guest(), "brainwaves") == ["dataset.unknown"]


def test_destroyed_key(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    world.owner.destroy_key("heartbeats", "The permit has ended.")
    assert reasons(world.guest()) == ["dataset.destroyed"]


def test_proof_that_is_too_old(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    guest = world.guest()
    world.clock.forward(minutes=15)
    assert asked(world, guest, "").status_code == 401


def test_no_session(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    assert world.http().get(PATH).status_code == 401


# --- purposes


def test_several_purposes_need_one_to_be_named(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True, purposes=["DUO:0000042", "DUO:0000007"])
    guest = world.guest()
    assert reasons(guest) == ["grant.purpose"]
    assert asked(world, guest, "?purpose=DUO:0000007").status_code == 200
    assert entries(world)[-1].purpose == "DUO:0000007"


def test_purpose_that_is_not_granted(world: World) -> None:
    world.seal()
    world.grant(dataset_key=True)
    answer = asked(world, world.guest(), "?purpose=DUO:0000007")
    assert answer.status_code == 403
    assert [one["code"] for one in answer.json()["reasons"]] == ["grant.purpose"]


def test_purpose_of_a_grant_that_keeps_the_key_does_not_count(world: World) -> None:
    world.seal()
    world.grant(purposes=["DUO:0000007"])
    world.grant(dataset_key=True)
    guest = world.guest()
    assert asked(world, guest, "?purpose=DUO:0000007").status_code == 403
    fetch(guest)
    assert entries(world)[-1].purpose == "DUO:0000042"


# --- the order


def test_key_that_cannot_be_recorded_does_not_leave(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.seal()
    world.grant(dataset_key=True)
    guest = world.guest()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "append", fail)
    answer = asked(world, guest, "")
    assert answer.status_code == 500
    assert "ciphertext" not in answer.json()


def test_static_resource_cannot_take_the_name_of_a_datasets_key(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    put = "/kbs/v0/sealroom/admin/resources/sealroom/dataset-key/heartbeats"
    assert world.http().put(put, json={"secret": "eA=="}, headers=headers).status_code == 400
    assert world.http().post(PATH, content=b"x", headers=headers).status_code == 400


def test_answer_shows_no_key(world: World) -> None:
    data = world.seal()
    world.grant(dataset_key=True)
    guest = world.guest()
    answer = asked(world, guest, "")
    assert set(answer.json()) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    assert data.dataset_key.reveal() not in answer.content
    inside = json.loads(guest._key.decrypt(answer.json()))
    assert set(inside) == {"format", "dataset", "secret_key", "manifest", "signature"}
    assert SecretKey(base64.b64decode(inside["secret_key"])) == data.dataset_key
