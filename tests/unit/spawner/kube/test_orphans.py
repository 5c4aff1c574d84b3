# SPDX-License-Identifier: BSD-3-Clause
"""Pods that a killed hub left behind are deleted, and no others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import kubespawner.clients
import pytest
from sealroom_spawner.kube.orphans import Reaper, known_servers, unknown_pods
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from .conftest import MakeKubeSpawner
from .kube_api import FakeKube

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def pod(user: str, server: str = "", age: float = 600, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"jupyter-{user}{server}",
            "namespace": "hub",
            "annotations": {"hub.jupyter.org/username": user, "hub.jupyter.org/servername": server},
            "creationTimestamp": (NOW - timedelta(seconds=age)).isoformat(),
            **metadata,
        }
    }


def test_servers_that_run_or_start_are_known() -> None:
    users: list[dict[str, Any]] = [
        {"name": "a", "servers": {"": {"ready": True}, "second": {"pending": "spawn", "ready": False}}},
        {"name": "b", "servers": {"": {"ready": False, "pending": None}}},
        {"name": "c"},
    ]
    assert known_servers(users) == {("a", ""), ("a", "second")}


def test_a_pod_of_no_known_server_is_unknown() -> None:
    pods = [pod("a"), pod("a", "second"), pod("b")]
    assert unknown_pods(pods, {("a", "")}, NOW) == {("hub", "jupyter-asecond"), ("hub", "jupyter-b")}


def test_a_new_pod_is_left_alone() -> None:
    assert unknown_pods([pod("a", age=60)], set(), NOW) == set()


def test_a_pod_that_goes_already_is_left_alone() -> None:
    assert unknown_pods([pod("a", deletionTimestamp="x")], set(), NOW) == set()


def test_a_pod_of_nobody_is_left_alone() -> None:
    assert unknown_pods([pod("a", annotations=None)], set(), NOW) == set()


class Hub:
    """A hub that says which servers it knows, in pages of one."""

    def __init__(self) -> None:
        self.users: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""

    def app(self) -> Application:
        hub = self

        class Users(RequestHandler):
            def get(self) -> None:
                number = int(self.get_argument("offset", "0"))
                self.set_status(hub.status)
                following = number + 1 < len(hub.users)
                address = f"{hub.url}/users?state=active&offset={number + 1}"
                self.finish(
                    {
                        "items": hub.users[number : number + 1],
                        "_pagination": {"next": {"url": address} if following else None},
                    }
                )

        return Application([("/users", Users)])


@pytest.fixture
async def hub() -> Any:
    fake = Hub()
    socket, port = bind_unused_port()
    server = HTTPServer(fake.app())
    server.add_socket(socket)
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    server.stop()
    await server.close_all_connections()


async def test_a_pod_that_stays_unknown_is_deleted_and_a_known_one_stays(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, hub: Hub
) -> None:
    for user in ("alice", "bob"):
        await asyncio.wait_for(make_kube_spawner(user).start(), 30)
    for found in kube.pods():
        found["metadata"]["creationTimestamp"] = "2026-11-24T11:00:00Z"
    hub.users = [{"name": "carol", "servers": {}}, {"name": "bob", "servers": {"": {"ready": True}}}]
    kubespawner.clients.load_config()
    reaper = Reaper(hub.url, "token", "hub", "singleuser-server")
    assert await reaper.look(NOW) == set()
    assert await reaper.look(NOW) == {("hub", "jupyter-alice")}
    assert [found["metadata"]["name"] for found in kube.pods()] == ["jupyter-bob"]


async def test_without_an_answer_of_the_hub_nothing_is_deleted(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, hub: Hub
) -> None:
    await asyncio.wait_for(make_kube_spawner().start(), 30)
    for found in kube.pods():
        found["metadata"]["creationTimestamp"] = "2026-11-24T11:00:00Z"
    hub.users = [{"name": "carol", "servers": {}}]
    reaper = Reaper(hub.url, "token", "", "singleuser-server")
    assert await reaper.look(NOW) == set()
    hub.status = 503
    assert await reaper.look(NOW) == set()
    hub.status = 200
    assert await reaper.look(NOW) == set()
    assert len(kube.pods()) == 1
