# SPDX-License-Identifier: BSD-3-Clause
"""The schema's revision 0005 and back: what an older broker could not hold to is closed."""

from __future__ import annotations

from datetime import datetime, timedelta

from alembic import command
from sealroom.crypt4gh import SecretKey
from sealroom_broker.migrate import _settings, migrate
from sealroom_broker.store import DatasetRow, GrantRow, ProjectRow, Store
from sqlalchemy import text
from support.brokers import World


def move(store: Store, revision: str) -> None:
    settings = _settings()
    with store.engine.execution_options(**store.database.writing).begin() as connection:
        store.database.lock(connection)
        settings.attributes["connection"] = connection
        (command.downgrade if revision < "0005" else command.upgrade)(settings, revision)


def column(store: Store, query: str) -> dict[str, object]:
    with store.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(text(query))}


def test_downgrade_leaves_nothing_wider_than_it_was(world: World) -> None:
    data = world.seal()
    end = world.clock.now + timedelta(days=30)
    world.owner.register_dataset(data.registration().model_copy(update={"keep_until": end}))
    bounded = world.grant(servers=1)
    halted = world.grant(project="vroni")
    free = world.grant(project="herzfit", outputs=True)
    shorter = world.grant(until=world.clock.now + timedelta(days=1))
    world.owner.halt_project("vroni", "Incident")
    store = world.broker.store
    move(store, "0004")
    withdrawn = column(store, "SELECT id, withdrawn FROM grants")
    assert {grant for grant, moment in withdrawn.items() if moment is not None} == {bounded, halted}
    ends = column(store, "SELECT id, until FROM grants")

    def day(value: object) -> str:
        return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)[:10]

    assert (day(ends[free]), day(ends[shorter])) == ("2026-07-01", "2026-06-02")
    move(store, "head")


def test_all_the_way_back_with_grants_that_were_used(world: World) -> None:
    data = world.seal()
    grant = world.grant()
    world.guest().release("heartbeats", data.request(SecretKey.generate()))
    store = world.broker.store
    move(store, "0001")
    assert list(column(store, "SELECT id, dataset FROM grants").items()) == [(grant, "heartbeats")]
    assert list(column(store, 'SELECT "grant", dataset FROM releases')) == [grant]
    move(store, "head")


def test_destroyed_key_stays_destroyed_on_the_way_back(world: World) -> None:
    world.seal()
    world.owner.destroy_key("heartbeats", "Over")
    store = world.broker.store
    move(store, "0004")
    assert column(store, "SELECT id, length(wrapped_key) FROM datasets") == {"heartbeats": 0}
    move(store, "head")


def test_upgrade_keeps_what_there_is_and_gives_it_no_new_term(world: World) -> None:
    world.seal()
    grant = world.grant(purposes=("DUO:0000006",))
    store = world.broker.store
    move(store, "0004")
    migrate(store)
    with store.read() as session:
        row = session.get_one(GrantRow, grant)
        assert (row.servers, row.outputs, row.project, row.dataset_key) == (None, False, "", False)
        assert (row.purposes, row.withdrawn) == (["DUO:0000006"], None)
        dataset = session.get_one(DatasetRow, "heartbeats")
        assert (dataset.keep_until, dataset.destroyed) == (None, None)
        assert dataset.wrapped_key
        assert session.query(ProjectRow).count() == 0
