# SPDX-License-Identifier: BSD-3-Clause
"""A notebook server's side of requests, explanations and proofs, against a broker as a program of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sealroom import cli, testing
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import InclusionProof
from sealroom.errors import AccessDeniedError, Error, ProtocolError
from sealroom.guest import GuestEvidence
from sealroom.kbs.calls import GrantSpec, RequestGrant
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.real import connector, read_token
from sealroom_jupyter.service import SealroomService
from sealroom_jupyter.settings import Settings
from support.broker_process import BrokerProcess, Hub
from support.brokers import Data

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

GENERAL = "DUO:0000042"


class Processor:
    """The processor of a server of the approved environment."""

    name = "simulated"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        return testing.evidence(report_data)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with Hub() as hub:
        made = BrokerProcess.prepare(tmp_path_factory.mktemp("broker"), hub)
        made.start()
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture(scope="module")
def data(broker: BrokerProcess) -> Data:
    sealed = Data.seal(broker.folder)
    with broker.owner() as owner:
        owner.register_dataset(sealed.registration())
    return sealed


@pytest.fixture
def notebook(broker: BrokerProcess, data: Data) -> Iterator[SealroomService]:
    """Alice's server; it has proven itself, and takes its turns when a test says so."""
    settings = Settings(broker_url=broker.url, datasets=(data.folder.parent,))
    made = SealroomService(
        settings,
        detect=lambda run_dir: Processor(),
        connect=connector(settings),
        read_token=read_token,
        hub_token=HubToken("hub-token-of-alice"),
    )
    made.attester.turn()
    assert made.status().phase == "verified", made.status().error
    yield made
    made.stop()


@pytest.fixture
def no_grants(broker: BrokerProcess) -> Iterator[None]:
    yield
    with broker.owner() as owner:
        for grant in owner.grants():
            if grant.withdrawn is None:
                owner.withdraw_grant(grant.id)


def test_from_the_question_to_the_proof(
    broker: BrokerProcess, notebook: SealroomService, no_grants: None, tmp_path: Path
) -> None:
    # Why not: the rule that fails, and nothing released.
    found = notebook.explain("heartbeats", GENERAL)
    assert not found.allowed
    assert "grant.none" in {rule.code for rule in found.rules if rule.outcome == "failed"}
    assert "person.none" in {rule.code for rule in found.rules if rule.outcome == "passed"}
    # Asked, with what this server proved.
    wanted = datetime.now(UTC) + timedelta(days=7)
    made = notebook.request("heartbeats", GENERAL, "To train a network.", wanted)
    assert (made.state, made.person and made.person.subject) == ("open", "alice")
    assert made.server is not None
    assert (made.server.tier, made.server.simulated) == ("simulated", True)
    with broker.owner() as owner:
        (asked,) = owner.requests("heartbeats", "open")
        assert (asked.id, asked.reason) == (made.id, "To train a network.")
        owner.grant_request(made.id, RequestGrant(until=wanted, minimum="simulated", answer="Welcome."))
    notebook._desk.forget()
    (seen,) = [one for one in notebook.requests() if one.id == made.id]
    assert (seen.state, seen.answer) == ("granted", "Welcome.")
    assert notebook.explain("heartbeats", GENERAL).allowed
    assert notebook.unlock("heartbeats", "").state == "unlocked"
    # The proof, checked with the log's key from the owner.
    index = notebook.record("heartbeats").audit_index
    assert index is not None
    assert index in [one.index for one in notebook.releases()]
    file = notebook.proof(index)
    key = broker.config.parent / "audit.pub"
    proof = InclusionProof.from_bytes(file.text.encode())
    entry, _ = proof.verify(VerifierKey.parse(key.read_text()))
    assert proof.index == index
    path = tmp_path / file.name
    path.write_text(file.text)
    done = CliRunner().invoke(cli.cli, ["audit", "check-proof", str(path), "--key", str(key), "--json"])
    assert done.exit_code == 0, done.output
    assert "heartbeats" in json.dumps(json.loads(done.output))
    assert entry.model_dump_json()
    # Withdrawn: gone at the next turn, with a sentence and what to do.
    with broker.owner() as owner:
        owner.withdraw_grant(seen.grant)
    notebook.attester.turn()
    (shown,) = [one for one in notebook.datasets() if one.id == "heartbeats"]
    assert shown.state == "withdrawn"
    assert shown.ended is not None
    assert "withdrawn" in shown.ended.sentence
    with pytest.raises(AccessDeniedError):
        notebook.files("heartbeats")


def test_refusal_is_shown_in_the_owners_words(
    broker: BrokerProcess, notebook: SealroomService, no_grants: None
) -> None:
    made = notebook.request("heartbeats", GENERAL, "To look around.")
    with pytest.raises(Error):
        notebook.request("heartbeats", GENERAL, "To look around again.")
    with broker.owner() as owner:
        owner.refuse_request(made.id, "Write to the committee first.")
    notebook._desk.forget()
    seen = notebook.requests()[0]
    assert (seen.state, seen.answer) == ("refused", "Write to the committee first.")
    with pytest.raises(ProtocolError):
        notebook.take_back(made.id)


def test_request_is_taken_back(notebook: SealroomService, broker: BrokerProcess, no_grants: None) -> None:
    made = notebook.request("heartbeats", GENERAL, "By mistake.")
    assert notebook.take_back(made.id).state == "withdrawn"
    with broker.owner() as owner:
        assert owner.requests("heartbeats", "open") == ()


def test_narrowed_grant_ends_what_it_allows_no_more(
    broker: BrokerProcess, notebook: SealroomService, no_grants: None
) -> None:
    from sealroom.kbs.calls import GrantChange

    both = (GENERAL, "DUO:0000006")
    with broker.owner() as owner:
        grant = owner.add_grant(
            GrantSpec(dataset="heartbeats", subject="alice", purposes=both, minimum="simulated")
        )
        notebook.unlock("heartbeats", GENERAL)
        owner.change_grant(grant.id, GrantChange(purposes=("DUO:0000006",)))
    notebook.attester.turn()
    (shown,) = [one for one in notebook.datasets() if one.id == "heartbeats"]
    assert shown.state == "locked"
    assert shown.ended is not None
    assert "health or medical or biomedical research" in shown.ended.advice
    with pytest.raises(AccessDeniedError):
        notebook.files("heartbeats")
