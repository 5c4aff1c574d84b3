# SPDX-License-Identifier: BSD-3-Clause
"""The board: who sees whose servers, what is asked for, and the table to take along."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom_spawner import board
from sealroom_spawner.service import PersonHandler
from sealroom_spawner.status import Event, ServerStatus, Stage
from sealroom_spawner.store import Store
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from .conftest import FakeHub

NOW = 1_800_000_000.0


def server(
    user: str, tier: str = "simulated", *, name: str = "", environment: str = "cpu", age: float = 60.0
) -> ServerStatus:
    until = NOW + 600 if tier != "none" else 0.0
    sentence = f"{user} says so."
    return ServerStatus(user, name, Stage.VERIFIED, tier, sentence, environment, NOW - age, until=until)


SERVERS = [
    server("alice", "affirming", environment="gpu"),
    server("bob", "none", environment=""),
    server("carol"),
    server("dave", "contraindicated"),
    server("alice", name="second"),
]
GROUPS = {"alice": ["course"], "bob": ["course", "lab"], "carol": ["lab"]}


def names(found: list[ServerStatus]) -> list[str]:
    return [f"{one.user}/{one.server}" for one in found]


@pytest.mark.parametrize(
    ("scopes", "seen"),
    [
        ([], {"carol"}),
        (["custom:sealroom:board"], {"alice", "bob", "carol", "dave"}),
        (["custom:sealroom:board!group=course"], {"alice", "bob", "carol"}),
        (
            ["custom:sealroom:board!group=course", "custom:sealroom:board!group=none"],
            {"alice", "bob", "carol"},
        ),
        (["custom:sealroom:board!user=dave"], {"carol"}),
        (["custom:sealroom:board!group="], {"carol"}),
        (["custom:sealroom:boards", "admin:users"], {"carol"}),
    ],
)
def test_who_sees_whose_servers(scopes: list[str], seen: set[str]) -> None:
    sight = board.Sight.of("carol", scopes)
    assert {one.user for one in sight.of_servers(SERVERS, GROUPS)} == seen


def test_nobody_is_in_a_group_that_the_hub_does_not_say() -> None:
    sight = board.Sight.of("carol", ["custom:sealroom:board!group=course"])
    assert names(sight.of_servers(SERVERS, {})) == ["carol/"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["dave/", "bob/", "alice/second", "carol/", "alice/"]),
        ({"tier": "simulated"}, ["alice/second", "carol/"]),
        ({"tier": "none"}, ["bob/"]),
        ({"environment": "gpu"}, ["alice/"]),
        ({"q": " ALICE "}, ["alice/second", "alice/"]),
        ({"q": "alice/sec"}, ["alice/second"]),
        ({"q": "alice", "tier": "none"}, []),
        ({"tier": "best"}, ["dave/", "bob/", "alice/second", "carol/", "alice/"]),
    ],
)
def test_what_is_asked_for_comes_with_the_worst_first(query: dict[str, str], found: list[str]) -> None:
    asked = board.Filter.of(lambda name: query.get(name, ""))
    assert names(board.arranged(SERVERS, asked)) == found


@given(st.text(max_size=200), st.sampled_from(["", *map(str, board.ORDER)]), st.text(max_size=200))
def test_query_is_read_as_it_was_written(text: str, tier: str, environment: str) -> None:
    from urllib.parse import parse_qs

    asked = board.Filter.of({"q": text, "tier": tier, "environment": environment}.__getitem__)
    fields = parse_qs(asked.query().removeprefix("?"))
    assert board.Filter.of(lambda name: fields.get(name, [""])[0]) == asked


def test_counts_fill_the_picture() -> None:
    found = board.counts(SERVERS)
    assert [(one.tier, one.number) for one in found] == [
        ("contraindicated", 1), ("none", 1), ("simulated", 2), ("affirming", 1),
    ]  # fmt: skip
    assert found[-1].left + found[-1].width == pytest.approx(100)


def test_tier_that_nobody_knows_counts_as_nothing_proven() -> None:
    assert [(one.tier, one.number) for one in board.counts([server("eve", "splendid")])] == [("none", 1)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_age_in_words(seconds: float, words: str) -> None:
    assert board.age(seconds) == words


def test_server_that_proved_nothing_has_no_age() -> None:
    assert board.proven_at(SERVERS[1]) is None
    assert board.proven_at(SERVERS[0]) == NOW - 60


def test_table_has_every_server_with_its_reason() -> None:
    rows = list(csv.DictReader(io.StringIO(board.to_csv(SERVERS, NOW))))
    assert [row["person"] for row in rows] == [one.user for one in SERVERS]
    assert (rows[0]["tier"], rows[0]["age of proof (s)"], rows[0]["reason"]) == (
        "affirming", "60", "alice says so.",
    )  # fmt: skip
    assert (rows[1]["proven at (UTC)"], rows[1]["age of proof (s)"]) == ("", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_spreadsheet_runs_nothing_that_a_server_wrote(start: str) -> None:
    evil = ServerStatus("eve", "", Stage.REFUSED, "none", f"{start}HYPERLINK(1)", at=NOW)
    (row,) = csv.DictReader(io.StringIO(board.to_csv([evil], NOW), newline=""))
    assert row["reason"] == f"'{start}HYPERLINK(1)"


# The pages: who is there is the hub's affair, so it is put in.


@pytest.fixture
def person() -> Iterator[dict[str, Any]]:
    model: dict[str, Any] = {"name": "teacher", "scopes": ["custom:sealroom:board!group=course"]}
    with mock.patch.object(PersonHandler, "get_current_user", return_value=model):
        yield model


@pytest.fixture
def full(store: Store, hub: FakeHub) -> Store:
    now = time.time()
    for user, groups in (("alice", ["course"]), ("bob", []), ("carol", ["course"]), ("teacher", [])):
        store.record(
            user, "", Event(Stage.VERIFIED, f"<{user}>", "simulated", now), environment="cpu", key=user,
            until=now + 600,
        )  # fmt: skip
        hub.running[user], hub.groups[user] = [""], groups
    store.record("dave", "", Event(Stage.VERIFIED, "ended", "simulated", now), key="dave", until=now + 600)
    hub.groups["dave"] = ["course"]
    return store


async def get(url: str) -> HTTPResponse:
    return await AsyncHTTPClient().fetch(url, raise_error=False, follow_redirects=False)


@pytest.mark.usefixtures("full", "person")
async def test_teacher_sees_the_running_servers_of_the_group(status_url: str) -> None:
    page = (await get(f"{status_url}/")).body.decode()
    assert [name in page for name in ("alice", "bob", "carol", "dave")] == [True, False, True, False]
    assert "&lt;alice&gt;" in page
    assert "Simulated TEE" in page
    assert 'http-equiv="refresh"' not in page
    assert 'http-equiv="refresh"' in (await get(f"{status_url}/?every=30")).body.decode()


@pytest.mark.usefixtures("full", "person")
async def test_table_has_what_the_page_has(status_url: str) -> None:
    answer = await get(f"{status_url}/servers.csv?q=car")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="servers.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [row["person"] for row in rows] == ["carol"]


@pytest.mark.usefixtures("full")
async def test_person_without_the_scope_sees_their_own(status_url: str, person: dict[str, Any]) -> None:
    person |= {"name": "bob", "scopes": ["access:services!service=sealroom"]}
    page = (await get(f"{status_url}/")).body.decode()
    assert "Servers of bob" in page
    assert "alice" not in page
    assert "<form" not in page


@pytest.mark.usefixtures("full", "person")
async def test_hub_that_does_not_say_who_is_in_a_group_shows_no_others(status_url: str, hub: FakeHub) -> None:
    with mock.patch.object(hub, "running", {}), mock.patch("sealroom_spawner.service.Hub.running") as running:
        running.return_value = None
        page = (await get(f"{status_url}/")).body.decode()
    assert "alice" not in page
    assert "&lt;teacher&gt;" in page


@pytest.mark.usefixtures("full")
async def test_query_cannot_put_anything_into_the_page(status_url: str, person: dict[str, Any]) -> None:
    person["scopes"] = ["custom:sealroom:board"]
    page = (await get(f"{status_url}/?q=%22%3E%3Cscript%3E&environment=%3Cb%3E")).body.decode()
    assert "<script>" not in page
    assert "No server is like that" in page
