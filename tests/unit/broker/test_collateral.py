# SPDX-License-Identifier: BSD-3-Clause
"""A broker with a store of certificates: servers that send none, revocation lists, and the audit."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.cli.reverify import Reverifier
from sealroom.collateral import layout
from sealroom.collateral.store import Store
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ChainError, ConfigurationError, NetworkError, NotYetValidError
from sealroom.guest import GuestEvidence
from sealroom.snp import ProductLine, Roots, VekKind
from sealroom.testing.services import Fault, running_kds
from sealroom_broker.attest import Attestations
from sealroom_broker.collateral import open_sources
from sealroom_broker.config import Collateral, load_config
from support.brokers import World
from support.vectors import REAL_NOW

ROOTS = testing.development_roots()
GENOA = ProductLine.GENOA


def configure(world: World, section: str) -> Store:
    """Give the broker a store, start it again and return the store."""
    path = world.config_path
    path.write_text(path.read_text() + f'\n[collateral]\nstore = "collateral"\n{section}\n')
    world.restart()
    return Store(path.parent / "collateral")


def bare(world: World, report_data: bytes) -> GuestEvidence:
    """Return evidence without certificates, as a host that gives none lets a guest gather it."""
    gathered = world.evidence(report_data)
    return GuestEvidence(gathered.tee, gathered.report, {}, gathered.provider)


def codes(caught: pytest.ExceptionInfo[AccessDeniedError]) -> list[str]:
    return [code for code, _ in caught.value.reasons]


def test_report_without_a_certificate_is_refused_without_a_store(world: World) -> None:
    guest = world.guest("", provider=lambda data: bare(world, data))
    with pytest.raises(AccessDeniedError) as caught:
        guest.attest()
    assert codes(caught) == ["evidence.certificates"]


def test_certificate_that_one_server_sent_serves_the_next_one(world: World) -> None:
    store = configure(world, "")
    with pytest.raises(NetworkError, match="not in the store"):
        world.guest("", provider=lambda data: bare(world, data)).attest()
    world.guest("").attest()
    assert any("/vcek/" in name for name in store.names())
    world.guest("", provider=lambda data: bare(world, data)).attest()


def test_what_was_taken_from_the_store_is_kept_and_an_auditor_verifies_with_it(world: World) -> None:
    store = configure(world, 'crl = "soft"')
    with running_kds(crl_at=testing.later(days=-1)) as kds:
        store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
    world.guest("").attest()
    data = world.seal()
    world.grant()
    guest = world.guest(provider=lambda data: bare(world, data))
    answer = guest.release("heartbeats", data.request(SecretKey.generate()))
    entry = AuditEntry.from_bytes(world.broker.record.log.entry(answer.audit_index))
    assert set(entry.collateral) == {"snp.vek", "snp.ask", "snp.crl"}
    evidence = world.broker.config.audit / "evidence"

    def kept(digest: str) -> bytes:
        return (evidence / digest).read_bytes()

    reverify = Reverifier(ROOTS, [world.environment], collateral=kept)
    reverify(entry, kept(entry.evidence))
    assert reverify.appraised == 1
    without = entry.model_copy(update={"collateral": {}})
    with pytest.raises(ChainError, match="no certificate of a processor"):
        reverify(without, kept(entry.evidence))


def test_revocation_list_is_required_if_that_is_configured(world: World) -> None:
    store = configure(world, 'crl = "required"')
    with pytest.raises(NetworkError, match="revocation list of Genoa is not in the store"):
        world.guest("").attest()
    with running_kds(crl_at=testing.later(days=-1)) as kds:
        store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
        world.guest("").attest()


class Judge:
    """Finds a certificate too young the first time; stands in for one that was fetched during the call."""

    def __init__(self) -> None:
        self.times: list[datetime] = []

    def judge(self, _request: object, _pending: object, now: datetime) -> str:
        self.times.append(now)
        if len(self.times) == 1:
            raise NotYetValidError("The VCEK is not valid yet.")
        return "judged"


def attestations(judge: Judge, present: datetime) -> Any:
    nothing: Any = None
    return Attestations(
        nothing, cast("Any", judge), nothing, nothing, issuer="broker", lifetime=timedelta(minutes=5),
        clock=lambda: present,
    )  # fmt: skip


def test_certificate_that_was_fetched_during_the_call_is_judged_at_one_later_time() -> None:
    judge, later = Judge(), testing.NOW + timedelta(seconds=2)
    judged = attestations(judge, later)._judged(None, None, testing.NOW)
    assert judged == ("judged", later)
    assert judge.times == [testing.NOW, later]


def test_certificate_that_is_too_young_stays_so_while_no_time_passes() -> None:
    with pytest.raises(NotYetValidError):
        attestations(Judge(), testing.NOW)._judged(None, None, testing.NOW)


@pytest.mark.parametrize("policy", ["soft", "required"])
def test_revoked_intermediate_is_refused(world: World, policy: str) -> None:
    store = configure(world, f'crl = "{policy}"')
    serial = testing.chain().ask.certificate.serial_number
    with running_kds(crl_at=testing.later(days=-1), revoked=[serial]) as kds:
        store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
    with pytest.raises(AccessDeniedError) as caught:
        world.guest("").attest()
    assert codes(caught) == ["snp.crl.not_revoked"]


def test_development_broker_asks_no_service_about_simulated_processors(world: World) -> None:
    with running_kds() as kds:
        configure(world, f'network = true\nkds_url = "{kds.url}"')
        world.guest("").attest()
        world.guest("", provider=lambda data: bare(world, data)).attest()
        assert kds.requests == []


def test_store_that_is_damaged_stops_no_server_that_sends_its_certificate(world: World) -> None:
    store = configure(world, "")
    world.guest("").attest()
    for name in store.names():
        (store.path / name).write_bytes(b"damaged")
    world.guest("").attest()
    store.path.rename(store.path.with_name("away"))
    store.path.write_bytes(b"a file where the folder should be")
    world.guest("").attest()


@pytest.mark.parametrize("line", ["network = true", 'crl = "soft"', 'crl = "required"'])
def test_network_and_lists_need_a_store(tmp_path: Path, line: str) -> None:
    (tmp_path / "broker.toml").write_text(f'mode = "production"\n[collateral]\n{line}\n')
    with pytest.raises(ConfigurationError, match="need a store"):
        load_config(tmp_path / "broker.toml")


@pytest.mark.parametrize("line", ['crl = "maybe"', 'kds_url = "ftp://h"', "patience = 0", 'stroe = "x"'])
def test_setting_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "broker.toml").write_text(f'mode = "production"\n[collateral]\nstore = "s"\n{line}\n')
    with pytest.raises(ConfigurationError, match="collateral"):
        load_config(tmp_path / "broker.toml")


def test_store_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text('mode = "production"\n[collateral]\nstore = "s"\n')
    assert load_config(tmp_path / "broker.toml").collateral.store == tmp_path / "s"


def test_production_fetches_for_a_report_without_a_certificate(tmp_path: Path, vectors: Path) -> None:
    at = REAL_NOW["now>=2026-02-05"]
    report = (vectors / "snp" / "ms-tee" / "milan_report.bin").read_bytes()
    vek = (vectors / "snp" / "ms-tee" / "milan_vcek.der").read_bytes()
    with running_kds() as kds:
        kds.fail(Fault(body=vek))
        sources = open_sources(Collateral(store=tmp_path / "s", network=True, kds_url=kds.url))
        found = sources.endorsements.resolve(report, {}, roots=Roots.amd(), at=at)
        sources.close()
    assert found.vek == vek
    assert found.beside({}) == {"snp.vek": (vek,)}
