# SPDX-License-Identifier: BSD-3-Clause
"""The servers that the broker has seen, as owners see them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sealroom import testing
from sealroom.crypt4gh import SecretKey
from sealroom.guest import GuestEvidence
from sealroom.kbs.calls import AccessRequestSpec, IdentityRequest
from sealroom.kbs.client import KbsClient
from sealroom_broker.owners import Actor
from sealroom_broker.seen import servers_seen
from support.brokers import DESCRIPTION, GENERAL, URL, Data, World

OWNER = Actor("owner", "owner")


@pytest.fixture
def data(world: World) -> Data:
    made = world.seal()
    world.grant()
    return made


def test_a_server_is_seen_with_its_person_and_its_proof(world: World, data: Data) -> None:
    guest = KbsClient(URL, world.evidence, http=world.http())
    guest.identity(IdentityRequest(provider="jupyterhub", token="token-of-alice", server="gpu"))
    index = guest.release("heartbeats", data.request(SecretKey.generate())).audit_index
    (seen,) = servers_seen(world.broker, OWNER)
    assert seen.person is not None
    assert (seen.person.subject, seen.server, seen.login_until is not None) == ("alice", "gpu", True)
    assert (seen.tier, seen.simulated, seen.devices) == ("simulated", True, {"cpu0": "simulated"})
    assert (seen.environment, seen.attested) == (world.environment.digest, testing.NOW)
    assert seen.until == testing.NOW + world.broker.config.periods.attestation_delta
    assert [(one.dataset, one.state, one.audit_index) for one in seen.releases] == [
        ("heartbeats", "active", index)
    ]
    assert world.broker.record.log.get(f"evidence/{seen.evidence}")


def test_a_withdrawn_release_is_shown_as_it_stands(world: World, data: Data) -> None:
    world.guest().release("heartbeats", data.request(SecretKey.generate()))
    (grant,) = world.owner.grants()
    world.owner.withdraw_grant(grant.id)
    (seen,) = servers_seen(world.broker, OWNER)
    assert [one.state for one in seen.releases] == ["withdrawn"]


def test_the_newest_server_comes_first(world: World) -> None:
    first = world.guest()
    world.clock.forward(minutes=1)
    world.guest("token-of-bob")
    assert _subjects(world) == ["bob", "alice"]
    world.clock.forward(minutes=1)
    first.attest()
    assert _subjects(world) == ["alice", "bob"]


def _subjects(world: World, actor: Actor = OWNER) -> list[str]:
    return [seen.person.subject if seen.person else "" for seen in servers_seen(world.broker, actor)]


def test_a_server_whose_proof_is_too_old_is_still_shown(world: World) -> None:
    world.guest()
    world.clock.forward(seconds=world.broker.config.periods.attestation)
    (seen,) = servers_seen(world.broker, OWNER)
    assert not seen.stands(world.clock())
    assert seen.stands(world.clock() - timedelta(seconds=1))


def test_a_server_without_a_person_is_shown_as_nobodys(world: World) -> None:
    world.guest(person="").attest()
    assert _subjects(world) == [""]


def test_a_handshake_that_proved_nothing_is_no_server(world: World) -> None:
    world.http().post(
        "/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": {}}
    ).raise_for_status()
    assert servers_seen(world.broker, OWNER) == []


def test_what_the_appraisal_found_wrong_is_told(world: World) -> None:
    def other(report_data: bytes) -> GuestEvidence:
        return world.evidence(report_data, measurement=bytes(48))

    guest = world.guest(person="", provider=other)
    guest.attest()
    (seen,) = servers_seen(world.broker, OWNER)
    assert seen.tier == "contraindicated"
    assert any("measurement" in reason.code for reason in seen.reasons), seen.reasons
    assert all(reason.sentence for reason in seen.reasons)


def test_a_token_for_a_dataset_sees_the_servers_that_concern_it(world: World, data: Data) -> None:
    world.seal(replace(DESCRIPTION, id="genomes", title="Genomes"))
    world.guest().release("heartbeats", data.request(SecretKey.generate()))
    world.guest("token-of-bob").request_access(
        AccessRequestSpec(dataset="genomes", purpose=GENERAL, reason="A study of arrhythmia.")
    )
    world.guest("token-of-bob")
    hearts, genomes = (Actor(name, "owner", frozenset({name})) for name in ("heartbeats", "genomes"))
    assert (_subjects(world, hearts), _subjects(world, genomes)) == (["alice"], ["bob"])
    assert len(servers_seen(world.broker, OWNER)) == 3
    both = Actor("both", "read-only", frozenset({"heartbeats", "genomes"}))
    assert sorted(_subjects(world, both)) == ["alice", "bob"]


def test_a_token_sees_its_datasets_releases_only(world: World, data: Data) -> None:
    other = world.seal(replace(DESCRIPTION, id="genomes", title="Genomes"))
    world.grant(dataset="genomes")
    guest = world.guest()
    for name, made in (("heartbeats", data), ("genomes", other)):
        guest.release(name, made.request(SecretKey.generate()))
    (seen,) = servers_seen(world.broker, Actor("hearts", "owner", frozenset({"heartbeats"})))
    assert [one.dataset for one in seen.releases] == ["heartbeats"]
