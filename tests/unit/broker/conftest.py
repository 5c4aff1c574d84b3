# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import World
from support.brokers import world as open_world
from support.postgres import Postgres

ON_BOTH = (
    "test_admin",
    "test_protocol",
    "test_release",
    "test_store",
    "test_trustee",
    "test_requests",
    "test_own_releases",
    "test_seen",
    "test_acts",
    "test_grant_change",
    "test_grants_migration",
    "test_key_destruction",
    "test_projects",
)
"""Modules whose tests run with a SQLite file and with a PostgreSQL server."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what depends on the database with both."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if "database" in metafunc.fixturenames and module in ON_BOTH:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of an empty PostgreSQL database; empty for a SQLite file."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield ""
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.give_back(url)


@pytest.fixture
def world(tmp_path: Path, database: str) -> Iterator[World]:
    """A development broker in this process."""
    with open_world(tmp_path, postgresql=database) as made:
        yield made
