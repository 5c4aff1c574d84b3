# SPDX-License-Identifier: BSD-3-Clause
"""The owner's calls."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import VerifierKey
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ConfigurationError, ProtocolError
from sealroom.kbs.admin import AuditReader, OwnerClient
from sealroom.kbs.calls import DatasetRegistration
from sealroom_broker.audit import Record
from sealroom_broker.owners import add_token, list_tokens, remove_token
from support.brokers import URL, Data, World, b64

ADMIN = "/kbs/v0/sealroom/admin"


@pytest.fixture
def data(world: World) -> Data:
    return Data.seal(world.folder)


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(entry) for _, entry in world.broker.record.log.entries()]


def test_registered_dataset_is_listed_and_recorded(world: World, data: Data) -> None:
    owned = world.owner.register_dataset(data.registration())
    assert (owned.id, owned.files, owned.size) == ("heartbeats", 2, data.manifest.size)
    assert world.owner.datasets() == (owned,)
    entry = entries(world)[-1]
    assert (entry.kind, entry.actor, entry.dataset) == ("registration", "owner", "heartbeats")
    assert entry.manifest_sha256 == data.manifest.sha256


def test_registering_the_same_again_changes_nothing(world: World, data: Data) -> None:
    first = world.owner.register_dataset(data.registration())
    size = world.broker.record.log.size
    assert world.owner.register_dataset(data.registration()) == first
    assert world.broker.record.log.size == size


def test_secret_key_is_not_stored_in_clear(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    world.broker.store.close()
    secret = data.dataset_key.reveal()
    for path in (world.folder / "broker").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret not in content, path
            assert b64(secret).encode() not in content, path


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("signature", b64(bytes(64)), "signature"),
        ("owner_key", b64(bytes(32)), "signature"),
        ("owner_key", b64(bytes(31)), "signature"),
        ("secret_key", b64(bytes(range(32))), "not the one that the dataset's files are sealed to"),
        ("secret_key", b64(bytes(31)), "31"),
        ("secret_key", "not base64", "secret_key is not base64"),
        ("manifest", b64(b"{}"), "signature"),
    ],
)
def test_registration_that_does_not_fit(world: World, data: Data, field: str, value: str, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        world.owner.register_dataset(data.registration(**{field: value}))
    assert world.owner.datasets() == ()


def test_manifest_changed_after_it_was_signed(world: World, data: Data) -> None:
    changed = data.manifest.model_copy(update={"owner": "Mallory"}).to_bytes()
    with pytest.raises(ProtocolError, match="signature"):
        world.owner.register_dataset(data.registration(manifest=b64(changed)))


def test_dataset_id_of_another_owner(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    key = Ed25519PrivateKey.generate()
    manifest = data.manifest.to_bytes()
    other = data.registration(
        signature=b64(key.sign(manifest)), owner_key=b64(key.public_key().public_bytes_raw())
    )
    with pytest.raises(ProtocolError, match="another owner"):
        world.owner.register_dataset(other)


def version_of(data: Data, version: int, previous: str) -> DatasetRegistration:
    manifest = data.manifest.model_copy(update={"version": version, "previous": previous}).to_bytes()
    return data.registration(manifest=b64(manifest), signature=b64(data.signing_key.sign(manifest)))


def test_next_version_takes_the_place_and_the_version_before_does_not_come_back(
    world: World, data: Data
) -> None:
    world.owner.register_dataset(data.registration())
    owned = world.owner.register_dataset(version_of(data, 2, data.manifest.sha256))
    assert owned.manifest_sha256 != data.manifest.sha256
    with pytest.raises(
        ProtocolError, match=r"Version 2 of heartbeats is registered, and this is version 1\."
    ):
        world.owner.register_dataset(data.registration())
    assert world.owner.datasets() == (owned,)


def test_next_version_of_another_manifest(world: World, data: Data) -> None:
    owned = world.owner.register_dataset(data.registration())
    with pytest.raises(ProtocolError, match="follows another manifest than the registered one"):
        world.owner.register_dataset(version_of(data, 2, "0" * 64))
    assert world.owner.datasets() == (owned,)


def test_version_that_follows_one_that_was_never_registered(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    owned = world.owner.register_dataset(version_of(data, 3, "0" * 64))
    assert world.owner.datasets() == (owned,)


def test_grants_are_listed_with_the_withdrawn_ones(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    first, second = world.grant(), world.grant(group="cardiology", minimum="affirming")
    world.owner.withdraw_grant(first)
    listed = {grant.id: grant for grant in world.owner.grants("heartbeats")}
    assert set(listed) == {first, second}
    assert listed[first].withdrawn == world.clock.now
    assert listed[second].withdrawn is None
    assert world.owner.grants("no-such") == ()
    assert [entry.kind for entry in entries(world)[-3:]] == ["grant", "grant", "withdrawal"]
    assert entries(world)[-1].actor == "owner"


def test_withdrawing_again_changes_nothing(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    grant = world.grant()
    first = world.owner.withdraw_grant(grant)
    world.clock.forward(hours=1)
    size = world.broker.record.log.size
    assert world.owner.withdraw_grant(grant) == first
    assert world.broker.record.log.size == size


@pytest.mark.parametrize("grant", ["0" * 16, "..", "%2e%2e", "x" * 500])
def test_no_such_grant(world: World, grant: str) -> None:
    assert world.http().delete(f"{ADMIN}/grants/{grant}", headers=bearer(world)).status_code in (404, 405)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dataset": "no-such"}, "no dataset no-such"),
        ({"subject": "alice", "group": "cardiology"}, "either a person or a group"),
        ({"subject": ""}, "either a person or a group"),
        ({"purposes": []}, "at least one purpose"),
        ({"purposes": ["research"]}, "DUO codes"),
        ({"environments": ["sha256:abc"]}, "digests"),
        ({"starts": "2026-06-02T00:00:00Z", "until": "2026-06-01T00:00:00Z"}, "must end after it begins"),
        ({"until": "2026-06-01T00:00:00"}, "time zone"),
    ],
)
def test_grant_that_does_not_fit(world: World, data: Data, fields: dict[str, Any], says: str) -> None:
    world.owner.register_dataset(data.registration())
    with pytest.raises(ProtocolError, match=says):
        world.grant(**fields)
    assert world.owner.grants() == ()


@pytest.mark.parametrize(
    "body", ['{"dataset":"heartbeats","subject":"a","minimun":"simulated"}', "{}", "[]", ""]
)
def test_what_is_no_grant(world: World, body: str) -> None:
    assert world.http().post(f"{ADMIN}/grants", content=body, headers=bearer(world)).status_code == 400


def test_change_that_cannot_be_recorded_does_not_hold(
    world: World, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.owner.register_dataset(data.registration())
    grant = world.grant()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "append", fail)
    http = world.http()
    assert http.delete(f"{ADMIN}/grants/{grant}", headers=bearer(world)).status_code == 500
    body = {"dataset": "heartbeats", "subject": "bob"}
    assert http.post(f"{ADMIN}/grants", json=body, headers=bearer(world)).status_code == 500
    monkeypatch.undo()
    assert [(one.id, one.withdrawn) for one in world.owner.grants()] == [(grant, None)]


# --- the log


def test_owner_verifies_the_log_over_the_network(world: World, data: Data) -> None:
    world.owner.register_dataset(data.registration())
    key = VerifierKey.parse(world.owner.audit_key())
    assert verify_log(AuditReader(world.owner), key).ok


@pytest.mark.parametrize(
    "path",
    [
        "lock",
        "../broker.toml",
        "tile/../../kek.key",
        "evidence/" + "0" * 64,
        "evidence/x",
        "tile/0",
        "",
        "x" * 300,
    ],
)
def test_what_is_no_file_of_the_log(world: World, path: str) -> None:
    answer = world.http().get(f"{ADMIN}/audit/{path}", headers=bearer(world))
    assert answer.status_code == 404
    assert b"mode" not in answer.content


# --- tokens


def bearer(world: World) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.owner_token}"}


CALLS = [
    ("GET", "datasets"),
    ("POST", "datasets"),
    ("GET", "grants"),
    ("POST", "grants"),
    ("PATCH", "grants/x"),
    ("DELETE", "grants/x"),
    ("DELETE", "datasets/x/key"),
    ("GET", "projects"),
    ("POST", "projects/x/halt"),
    ("POST", "projects/x/resume"),
    ("PUT", "resources/a/b/c"),
    ("DELETE", "resources/a/b/c"),
    ("GET", "audit/key"),
    ("GET", "audit/checkpoint"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic {token}", "token {token}", "{token}"]
)
def test_every_call_needs_the_owners_token(world: World, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.format(token=world.owner_token)}
    answer = world.http().request(method, f"{ADMIN}/{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_list_of_calls_is_complete(world: World) -> None:
    from sealroom_broker.admin_routes import ROUTES

    assert len(ROUTES) == len(CALLS)


def test_wrong_token_has_advice(world: World) -> None:
    client = OwnerClient(URL, "wrong", http=world.http())
    with pytest.raises(AccessDeniedError) as caught:
        client.datasets()
    assert "sealroom-broker token" in caught.value.diagnostics()


def test_cookie_of_a_session_opens_nothing_here(world: World) -> None:
    http = world.http()
    http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert http.get(f"{ADMIN}/datasets").status_code == 401


def test_tokens_are_stored_hashed(world: World) -> None:
    world.broker.store.close()
    for path in (world.folder / "broker").glob("broker.sqlite*"):
        assert world.owner_token.encode() not in path.read_bytes()


def test_removed_token_opens_nothing(world: World) -> None:
    assert [one.name for one in list_tokens(world.broker.store)] == ["owner"]
    remove_token(world.broker.store, "owner")
    with pytest.raises(AccessDeniedError):
        world.owner.datasets()


def test_two_owners_are_told_apart_in_the_log(world: World, data: Data) -> None:
    second = OwnerClient(URL, add_token(world.broker.store, "clinic-b", world.clock()), http=world.http())
    second.register_dataset(data.registration())
    assert entries(world)[-1].actor == "clinic-b"


@pytest.mark.parametrize("name", ["", "two words", "owner", "../x", "x" * 65])
def test_token_name_that_cannot_be(world: World, name: str) -> None:
    with pytest.raises(ConfigurationError):
        add_token(world.broker.store, name, world.clock())


def test_no_such_token_to_remove(world: World) -> None:
    with pytest.raises(ConfigurationError, match="no token named"):
        remove_token(world.broker.store, "nobody")


# --- static resources


def put(world: World, path: str = "default/keys/one", **body: Any) -> httpx.Response:
    content = {"secret": b64(b"the secret"), "minimum": "simulated"} | body
    return world.http().put(f"{ADMIN}/resources/{path}", json=content, headers=bearer(world))


def test_resource_reaches_an_attested_guest(world: World) -> None:
    assert put(world).status_code == 204
    assert world.guest("").resource("default", "keys", "one") == b"the secret"
    entry = entries(world)[-1]
    assert (entry.kind, entry.detail) == ("release", "Resource default/keys/one")
    assert entry.evidence


def test_resource_with_the_token_in_place_of_the_cookie(world: World) -> None:
    put(world)
    guest = world.guest("")
    token = guest.attest().token
    answer = world.http().get(
        "/kbs/v0/resource/default/keys/one", headers={"Authorization": f"Bearer {token}"}
    )
    assert set(answer.json()) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    wrong = world.http().get(
        "/kbs/v0/resource/default/keys/one", headers={"Authorization": f"Bearer {token}x"}
    )
    assert wrong.status_code == 401


def test_resource_without_a_session(world: World) -> None:
    put(world)
    assert world.http().get("/kbs/v0/resource/default/keys/one").status_code == 401


def test_resource_needs_affirming_unless_it_says_otherwise(world: World) -> None:
    put(world, minimum="affirming")
    with pytest.raises(AccessDeniedError) as caught:
        world.guest("").resource("default", "keys", "one")
    assert [code for code, _ in caught.value.reasons] == ["tier.below"]
    assert entries(world)[-1].kind == "refusal"


def test_resource_for_an_environment_that_is_not_approved(world: World) -> None:
    put(world)
    guest = world.guest("", provider=lambda covered: world.evidence(covered, measurement=bytes(48)))
    with pytest.raises(AccessDeniedError) as caught:
        guest.resource("default", "keys", "one")
    assert {code for code, _ in caught.value.reasons} == {"environment.unknown", "tier.below"}


def test_resource_that_cannot_be_recorded_is_not_released(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world)
    guest = world.guest("")
    guest.attest()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "append", fail)
    with pytest.raises(Exception, match="failed"):
        guest.resource("default", "keys", "one")


def test_no_such_resource_is_404_so_that_a_guest_gives_up(world: World) -> None:
    token = world.guest("").attest().token
    headers = {"Authorization": f"Bearer {token}"}
    assert world.http().get("/kbs/v0/resource/default/keys/none", headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["a/b", "a/b/c/d", "a/../c", "a/b/.hidden", "a/b/c%00", "a//c", "a/b/ü"])
def test_names_that_are_no_resource(world: World, path: str) -> None:
    assert put(world, path).status_code in (400, 404)
    guest = world.guest("")
    token = guest.attest().token
    answer = world.http().get(f"/kbs/v0/resource/{path}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize("body", [{"secret": ""}, {"secret": "not base64"}, {"minimum": "none"}, {"more": 1}])
def test_what_is_no_resource(world: World, body: dict[str, Any]) -> None:
    assert put(world, **body).status_code == 400


def test_deleted_resource(world: World) -> None:
    put(world)
    url = f"{ADMIN}/resources/default/keys/one"
    assert world.http().delete(url, headers=bearer(world)).status_code == 204
    assert world.http().delete(url, headers=bearer(world)).status_code == 404


def test_stored_resource_does_not_show(world: World) -> None:
    secret = SecretKey.generate().reveal()
    put(world, secret=b64(secret))
    digest = hashlib.sha256(secret).digest()
    world.broker.store.close()
    for path in (world.folder / "broker").rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()
            assert digest not in path.read_bytes()
