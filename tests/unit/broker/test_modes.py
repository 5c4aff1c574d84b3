# SPDX-License-Identifier: BSD-3-Clause
"""A production broker, and the two trust sets that never meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.appraisal import Policy
from sealroom.errors import AccessDeniedError, ConfigurationError, ProtocolError
from sealroom.kbs.client import KbsClient
from sealroom.snp import Roots
from sealroom_broker.app import create_app
from sealroom_broker.broker import Broker, open_broker
from sealroom_broker.config import Environments, load_config
from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.evidence import EvidenceJudge
from sealroom_broker.owners import add_token
from sealroom_broker.setup import Plan, initialise
from support.brokers import URL, Clock, People, World


@pytest.fixture
def production(world: World, tmp_path: Path) -> Iterator[World]:
    """The world's broker replaced by a production broker that approves the same environments."""
    plan = Plan(
        mode="production",
        environments=[tmp_path / "environments"],
        publishers=[tmp_path / "environments" / "publisher.pub.pem"],
    )
    config = initialise(tmp_path / "production", plan)
    broker = open_broker(load_config(config), clock=world.clock, identity=world.people)
    development, world.broker = world.broker, broker
    world.app = create_app(broker)
    world.owner._token = add_token(broker.store, "owner", world.clock())
    yield world
    development.close()


def test_production_refuses_simulated_evidence_with_a_sentence(production: World) -> None:
    guest = KbsClient(URL, production.evidence, http=production.http())
    with pytest.raises(AccessDeniedError, match="processor is simulated") as caught:
        guest.attest()
    assert [code for code, _ in caught.value.reasons] == ["evidence.simulated"]
    assert "AMD SEV-SNP" in caught.value.message


def test_production_approves_no_simulated_environment(production: World) -> None:
    assert production.broker.environments.digests() == frozenset()


def test_production_takes_no_grant_that_accepts_a_simulated_processor(production: World) -> None:
    production.seal()
    with pytest.raises(ProtocolError, match="production broker"):
        production.grant(minimum="simulated")
    production.grant(minimum="affirming")


def test_production_page_says_so(production: World) -> None:
    assert "AMD&#x27;s processors only" in production.http().get("/").text


def test_production_does_not_start_with_a_development_root(tmp_path: Path) -> None:
    path = initialise(tmp_path / "b", Plan(mode="production"))
    path.write_text(
        path.read_text().replace("[environments]", 'development_root = "ark.pem"\n[environments]')
    )
    with pytest.raises(ConfigurationError, match="must not have a development_root"):
        load_config(path)


def test_production_does_not_start_with_a_development_root_put_past_the_file(tmp_path: Path) -> None:
    path = initialise(tmp_path / "b", Plan(mode="production"))
    config = load_config(path).model_copy(update={"development_root": tmp_path / "ark.pem"})
    with pytest.raises(ConfigurationError, match="must not have a development root"):
        open_broker(config)


def opened(path: Path) -> Broker:
    return open_broker(load_config(path), clock=Clock(), identity=People())


def test_state_of_a_development_broker_is_not_taken_over_by_production(tmp_path: Path) -> None:
    (tmp_path / "ark.pem").write_bytes(testing.chain().pem)
    path = initialise(tmp_path / "b", Plan(mode="development", development_root=tmp_path / "ark.pem"))
    opened(path).close()
    lines = [line for line in path.read_text().splitlines() if not line.startswith("development_root")]
    path.write_text("\n".join(lines).replace('mode = "development"', 'mode = "production"'))
    with pytest.raises(ConfigurationError, match="made in mode development"):
        opened(path)
    path.write_text("\n".join(lines))
    opened(path).close()


def test_development_without_a_root_refuses_simulated_evidence(world: World) -> None:
    world.config_path.write_text(
        "\n".join(
            line for line in world.config_path.read_text().splitlines() if "development_root" not in line
        )
    )
    world.restart()
    with pytest.raises(AccessDeniedError, match="processor is simulated"):
        world.guest("").attest()


def test_amds_roots_are_never_given_as_the_development_root(tmp_path: Path) -> None:
    environments = ApprovedEnvironments(Environments(), "development")
    with pytest.raises(TypeError, match="simulated processors only"):
        EvidenceJudge(environments, Policy.strict(), Roots.amd())


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_development_root_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    root = tmp_path / "ark.pem"
    if content is not None:
        root.write_bytes(content)
    path = initialise(tmp_path / "b", Plan(mode="development", development_root=root))
    with pytest.raises(Exception, match=r"root|certificates"):
        opened(path)


def test_missing_keys_stop_the_start(tmp_path: Path) -> None:
    path = initialise(tmp_path / "b", Plan(mode="production"))
    for name in ("kek.key", "audit.pem"):
        saved = (tmp_path / "b" / name).rename(tmp_path / "saved")
        with pytest.raises(ConfigurationError, match="cannot be read"):
            opened(path)
        saved.rename(tmp_path / "b" / name)


def test_log_of_another_name_or_key(tmp_path: Path) -> None:
    path = initialise(tmp_path / "b", Plan(mode="production"))
    path.write_text(path.read_text().replace('name = "sealroom-broker"', 'name = "another"'))
    with pytest.raises(Exception, match="not signed by"):
        opened(path)
