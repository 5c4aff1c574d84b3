# SPDX-License-Identifier: BSD-3-Clause
"""How many requests a client may make, and how much refused evidence it may leave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom_broker.config import Limits, Postgresql
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.limits import KnownTokens, RateLimit
from sealroom_broker.migrate import migrate
from sealroom_broker.owners import add_token, remove_token
from sealroom_broker.problem import Problem
from sealroom_broker.quota import Buckets, EvidenceQuota, LocalBuckets, SharedBuckets, client_of
from sealroom_broker.store import BucketRow, Store
from sqlalchemy import func, select, text
from support.brokers import URL, World
from support.postgres import Postgres

KIB = 1 << 10


@pytest.fixture(params=["local", "shared"])
def buckets(request: pytest.FixtureRequest) -> Iterator[Buckets]:
    """Buckets of a process, and those of a PostgreSQL server."""
    if request.param == "local":
        yield LocalBuckets()
        return
    server: Postgres = request.getfixturevalue("postgres")
    store = Store(PostgresqlDatabase(Postgresql(url=server.create())))
    migrate(store)
    yield SharedBuckets(store)
    store.close()


def test_bucket_holds_its_size_and_no_more(buckets: Buckets) -> None:
    taken = [buckets.take("a", 1, rate=1e-6, size=3) for _ in range(5)]
    assert taken == [True, True, True, False, False]
    assert buckets.take("b", 3, rate=1e-6, size=3)
    assert not buckets.take("c", 4, rate=1e-6, size=3)


def test_bucket_is_refilled_with_time(buckets: Buckets) -> None:
    assert buckets.take("a", 3, rate=1e9, size=3)
    assert buckets.take("a", 3, rate=1e9, size=3)


def test_what_is_given_back_can_be_taken_again_and_makes_no_bucket_fuller(buckets: Buckets) -> None:
    assert buckets.take("a", 3, rate=1e-6, size=3)
    buckets.give("a", 100, size=3)
    assert [buckets.take("a", 3, rate=1e-6, size=3) for _ in range(2)] == [True, False]


def test_two_processes_have_one_bucket(postgres: Postgres) -> None:
    url = postgres.create()
    stores = [Store(PostgresqlDatabase(Postgresql(url=url))) for _ in range(2)]
    migrate(stores[0])
    one, two = map(SharedBuckets, stores)
    taken = [each.take("a", 1, rate=1e-6, size=4) for _ in range(4) for each in (one, two)]
    assert taken.count(True) == 4
    for store in stores:
        store.close()


def test_old_buckets_are_forgotten(postgres: Postgres) -> None:
    store = Store(PostgresqlDatabase(Postgresql(url=postgres.create())))
    migrate(store)
    buckets = SharedBuckets(store)
    buckets.take("old", 1, rate=1, size=5)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE buckets SET seen = seen - interval '2 days'"))
    buckets._pruned -= 3600
    buckets.take("new", 1, rate=1, size=5)
    with store.read() as session:
        assert session.scalars(select(BucketRow.key)).all() == ["new"]
        assert session.scalar(select(func.count()).select_from(BucketRow)) == 1
    store.close()


def test_database_that_is_gone_leaves_the_processs_own_buckets(postgres: Postgres) -> None:
    settings = Postgresql(url=postgres.url("no-such-database"))
    store = Store(PostgresqlDatabase(settings))
    buckets = SharedBuckets(store)
    assert [buckets.take("a", 1, rate=1e-6, size=2) for _ in range(3)] == [True, True, False]
    store.close()


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        ("x" * 100, "x" * 60),
    ],
)
def test_who_a_client_is(address: str, client: str) -> None:
    assert client_of(address) == client


# --- requests


def rated(buckets: Buckets, tokens: KnownTokens | None = None) -> Any:
    """Return what asks an application that is bounded to two requests: (client, token) -> status."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limited = RateLimit(app, Limits(rate=1e-6, burst=2), buckets, tokens)

    async def ask(client: str, token: str = "", path: str = "/") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(limited, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
            return (await http.get(path, headers=headers)).status_code

    return ask


async def test_owner_has_a_bucket_of_their_own(world: World) -> None:
    ask = rated(LocalBuckets(), KnownTokens(world.broker.store))
    assert [await ask("192.0.2.7") for _ in range(3)] == [200, 200, 429]
    assert [await ask("192.0.2.7", world.owner_token) for _ in range(3)] == [200, 200, 429]


async def test_token_that_nobody_knows_has_no_bucket_of_its_own(world: World) -> None:
    ask = rated(LocalBuckets(), KnownTokens(world.broker.store))
    tokens = [f"sealroom-owner-{number}" for number in range(4)]
    assert [await ask("192.0.2.7", token) for token in tokens] == [200, 200, 429, 429]


async def test_watchers_are_never_refused() -> None:
    ask = rated(LocalBuckets())
    assert {await ask("192.0.2.7", path=path) for path in ("/healthz", "/readyz") * 5} == {200}


async def test_bound_holds_for_all_processes(postgres: Postgres) -> None:
    url = postgres.create()
    stores = [Store(PostgresqlDatabase(Postgresql(url=url))) for _ in range(2)]
    migrate(stores[0])
    one, two = (rated(SharedBuckets(store)) for store in stores)
    assert [await one("a"), await two("a"), await one("a"), await two("a")] == [200, 200, 429, 429]
    for store in stores:
        store.close()


def test_known_tokens_are_looked_up_once_in_a_while(world: World) -> None:
    now = 0.0
    tokens = KnownTokens(world.broker.store, lambda: now)
    header = f"Bearer {world.owner_token}"
    assert tokens.owner(header)
    assert tokens.owner("Basic abc") is None
    fresh = f"Bearer {add_token(world.broker.store, 'second', world.clock())}"
    assert tokens.owner(fresh) is None, "not looked up again within the same seconds"
    now = 10.0
    assert tokens.owner(fresh) not in (None, tokens.owner(header))
    remove_token(world.broker.store, "second")
    now = 20.0
    assert tokens.owner("Bearer sealroom-owner-unknown") is None
    assert tokens.owner(fresh) is None


# --- evidence


def test_refused_evidence_has_a_bound_and_accepted_has_none(world: World) -> None:
    text = world.config_path.read_text()
    world.config_path.write_text(f"{text}\n[limits]\nrefused_evidence = {1024 * KIB}\n")
    world.restart()
    http, guest = world.http(), world.guest()
    body = {"version": "0.4.0", "tee": "snp", "extra-params": ""}

    def refused() -> int:
        nonce = http.post("/kbs/v0/auth", json=body).json()["nonce"]
        evidence = {"primary_evidence": os.urandom(150 * KIB).hex(), "additional_evidence": ""}
        runtime = {"nonce": nonce, "tee-pubkey": guest.tee_pubkey}
        message = {"init-data": None, "runtime-data": runtime, "tee-evidence": evidence}
        return http.post("/kbs/v0/attest", json=message).status_code

    folder = world.broker.config.audit / "evidence"
    assert [refused() for _ in range(3)] == [401] * 3
    for _ in range(100):
        guest.attest()
    kept, size = len(list(folder.iterdir())), world.broker.record.log.size
    answers = [refused() for _ in range(5)]
    assert answers == [429] * 5
    assert (len(list(folder.iterdir())), world.broker.record.log.size) == (kept, size)
    guest.attest()


def test_all_strangers_together_have_a_bound_too(tmp_path: Path) -> None:
    quota = EvidenceQuota(
        LocalBuckets(),
        Limits(refused_evidence=1 << 20, refused_evidence_total=2 << 20, free_disk=0),
        tmp_path,
    )
    for client in ("a", "b"):
        quota.take(client, 1 << 20)
    with pytest.raises(Problem) as caught:
        quota.take("c", 1 << 20)
    assert caught.value.status == 429
    quota.give("a", 1 << 20)
    quota.take("c", 1 << 20)
    with pytest.raises(Problem):
        quota.take("a", 1)


def test_disk_that_is_almost_full(tmp_path: Path) -> None:
    quota = EvidenceQuota(LocalBuckets(), Limits(free_disk=1 << 62), tmp_path)
    with pytest.raises(Problem) as caught:
        quota.take("a", 1)
    assert (caught.value.status, caught.value.body.reasons[0].code) == (503, "broker.disk")
