# SPDX-License-Identifier: BSD-3-Clause
"""A cluster in this process, and spawners that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubespawner.clients
import pytest
from kubernetes_asyncio.client import Configuration
from kubespawner import KubeSpawner
from sealroom import environments
from sealroom.environments import Environment
from sealroom_spawner.kube.spawner import SealedKubeSpawner
from sealroom_spawner.store import Store
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from .kube_api import FakeKube
from .pods import environment

PUBLISHER = environments.generate_key()
SERVICE_TOKEN = "the-services-own-token"


def publish(directory: Path, *published: Environment) -> Path:
    """Write signed environments into a directory."""
    directory.mkdir(exist_ok=True)
    (directory / "publisher.pub.pem").write_bytes(environments.public_pem(PUBLISHER))
    for item in published:
        (directory / f"{item.name}.toml").write_bytes(item.raw)
        (directory / f"{item.name}.toml.sig").write_bytes(environments.sign(item.raw, PUBLISHER))
    return directory


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory with one environment, `demo`."""
    return publish(tmp_path / "environments", environment())


@pytest.fixture
async def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeKube]:
    """A cluster that answers; the configuration of clients names it."""
    fake = FakeKube()
    socket, port = bind_unused_port()
    server = HTTPServer(fake.app())
    server.add_socket(socket)
    config = tmp_path / "kubeconfig"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n"
        f"clusters: [{{name: test, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        "users: [{name: test, user: {}}]\n"
        "contexts: [{name: test, context: {cluster: test, user: test}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.setattr("kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    kubespawner.clients.load_config.cache_clear()
    monkeypatch.setattr(SealedKubeSpawner, "reflectors", {})
    monkeypatch.setattr(KubeSpawner, "reflectors", {})
    yield fake
    await SealedKubeSpawner._stop_all_reflectors()
    await KubeSpawner._stop_all_reflectors()
    # KubeSpawner closes its clients when the hub's tasks are cancelled at its end.
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    server.stop()
    await server.close_all_connections()
    Configuration.set_default(None)


MakeKubeSpawner = Callable[..., SealedKubeSpawner]


@pytest.fixture
def make_kube_spawner(kube: FakeKube, published: Path) -> MakeKubeSpawner:
    """Make spawners of people."""

    def make(
        user: str = "alice", *, options: dict[str, Any] | None = None, **traits: Any
    ) -> SealedKubeSpawner:
        defaults: dict[str, Any] = {
            "environments_dir": str(published),
            "namespace": "hub",
            "broker_url": "https://broker.example.org",
            "start_timeout": 20,
            "api_token": f"hub-token-of-{user}",
            "oauth_client_id": f"jupyterhub-user-{user}",
        }
        if traits.get("environments_dir") == "":
            traits.pop("environments_dir")
            defaults.pop("environments_dir")
        spawner = SealedKubeSpawner(
            user=SimpleNamespace(name=user, url=f"/user/{user}/", escaped_name=user, id=1),
            hub=SimpleNamespace(
                public_host="",
                api_url="http://hub:8081/hub/api",
                base_url="/hub/",
                url="http://hub:8081/hub/",
            ),
            **{**defaults, **traits},
        )
        spawner.user_options = dict(options or {})
        return spawner

    return make


@pytest.fixture
def proving_spawner(make_kube_spawner: MakeKubeSpawner, status_url: str, store: Store) -> MakeKubeSpawner:
    """Make spawners whose hub service answers."""
    del store

    def make(user: str = "alice", **traits: Any) -> SealedKubeSpawner:
        return make_kube_spawner(user, status_url=status_url, status_token=SERVICE_TOKEN, **traits)

    return make
