# SPDX-License-Identifier: BSD-3-Clause
"""A hub, a status service and a spawner, small and in this process."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sealroom import environments
from sealroom.simulated import root
from sealroom_spawner.local import SealedLocalSpawner
from sealroom_spawner.results import Result
from sealroom_spawner.separation import Separation
from sealroom_spawner.service import Hub, make_app
from sealroom_spawner.store import Store
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

SERVICE_TOKEN = "the-services-own-token"
PREFIX = "/services/sealroom/"

# Answers one page, and says what it can see: stands in for a notebook server.
NOTEBOOK = """
import http.server, json, os, sys
from urllib.parse import urlsplit
token = os.read(int(os.environ["SEALROOM_TOKEN_FD"]), 100).decode()
seen = {"uid": os.getuid(), "token": token, "env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv}
open(os.path.join(os.environ["HOME"], "seen.json"), "w").write(json.dumps(seen))
port = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

Serve = Callable[[Application], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve tornado applications on free ports until the test is over."""
    servers: list[HTTPServer] = []

    async def start(app: Application) -> str:
        socket, port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(socket)
        servers.append(server)
        return f"http://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop()
        await server.close_all_connections()


class FakeHub:
    """Knows tokens and which servers run; `url` is its REST interface."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.running: dict[str, list[str]] = {}
        self.groups: dict[str, list[str]] = {}
        self.url = ""

    def app(self) -> Application:
        """Return the hub as an application."""
        hub = self

        class User(RequestHandler):
            def get(self) -> None:
                token = self.request.headers.get("Authorization", "").removeprefix("token ")
                model = hub.tokens.get(token)
                if model is None:
                    self.set_status(403)
                else:
                    self.write(model)

        class Users(RequestHandler):
            def get(self) -> None:
                import json

                # Pages of two, whatever is asked for: some operators keep them short.
                start = int(self.get_query_argument("offset", "0"))
                names = sorted(hub.running)
                items = [
                    {
                        "name": name,
                        "servers": {server: {} for server in hub.running[name]},
                        "groups": hub.groups.get(name, []),
                    }
                    for name in names[start : start + 2]
                ]
                more = {"offset": start + 2, "limit": 2} if start + 2 < len(names) else None
                self.finish(json.dumps({"items": items, "_pagination": {"next": more}}))

        return Application([("/hub/api/user", User), ("/hub/api/users", Users)])

    def server_token(self, user: str, server: str = "", *, access: bool = True) -> str:
        """Make the token of a notebook server."""
        scopes = [f"access:servers!server={user}/{server}", f"users:activity!user={user}"]
        if access:
            scopes.append("access:services!service=sealroom")
        token = f"token-of-{user}-{server}-{len(self.tokens)}"
        self.tokens[token] = {"name": user, "kind": "user", "scopes": scopes}
        self.running.setdefault(user, []).append(server)
        return token


class FakeVerifier:
    """Knows results by token; an exception stands for one that does not verify."""

    def __init__(self) -> None:
        self.results: dict[str, Result | Exception] = {}

    async def verify(self, token: str) -> Result:
        """Return the result of a token."""
        result = self.results[token]
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
async def hub(serve: Serve) -> FakeHub:
    """A hub that answers."""
    fake = FakeHub()
    fake.url = f"{await serve(fake.app())}/hub/api"
    return fake


@pytest.fixture
def verifier() -> FakeVerifier:
    """What the service believes."""
    return FakeVerifier()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The service's memory."""
    opened = Store(tmp_path / "status.sqlite")
    yield opened
    opened.close()


@pytest.fixture
async def status_url(serve: Serve, hub: FakeHub, store: Store, verifier: FakeVerifier) -> str:
    """A status service that answers; its address with its path."""
    app = make_app(
        prefix=PREFIX,
        hub=Hub(hub.url, SERVICE_TOKEN, "sealroom"),
        token=SERVICE_TOKEN,
        store=store,
        verifier=verifier,  # type: ignore[arg-type]
    )
    return f"{await serve(app)}{PREFIX}".rstrip("/")


@pytest.fixture(scope="session")
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of simulated processors, made once: its keys take a while."""
    directory = tmp_path_factory.mktemp("root")
    root.create(directory)
    return directory


@pytest.fixture
def state(made_root: Path) -> Iterator[Path]:
    """A state directory as a first start leaves it, with a path short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    for name in ("hub/servers", "datasets/heartbeats", "environments", "users"):
        (home / name).mkdir(parents=True)
    (home / "datasets").chmod(0o755)
    shutil.copytree(made_root, home / "simulated")
    (home / "datasets" / "heartbeats" / "dataset.json").write_text(
        '{"id": "heartbeats", "title": "Heart <beats>", "owner": "A hospital"}'
    )
    key = environments.generate_key()
    manifest = environments.simulated_cpu()
    (home / "environments" / "simulated-cpu.toml").write_bytes(manifest.raw)
    (home / "environments" / "simulated-cpu.toml.sig").write_bytes(environments.sign(manifest.raw, key))
    (home / "environments" / "publisher.pub.pem").write_bytes(environments.public_pem(key))
    for path in (home / "environments").iterdir():
        path.chmod(0o644)
    yield home
    shutil.rmtree(home, ignore_errors=True)


MakeSpawner = Callable[..., SealedLocalSpawner]


@pytest.fixture
async def make_spawner(state: Path, status_url: str) -> AsyncIterator[MakeSpawner]:
    """Make spawners; whatever they started is ended with the test."""
    made: list[SealedLocalSpawner] = []

    def make(user: str = "alice", *, separation: str = Separation.NONE, **traits: Any) -> SealedLocalSpawner:
        defaults: dict[str, Any] = {
            "state_dir": str(state),
            "broker_url": "http://127.0.0.1:1",
            "status_url": status_url,
            "status_token": SERVICE_TOKEN,
            "separation": str(separation),
            "cmd": [sys.executable, "-c", NOTEBOOK],
            "proof_timeout": 20.0,
            "linger": 0.0,
            "api_token": f"hub-token-of-{user}",
        }
        spawner = SealedLocalSpawner(
            user=SimpleNamespace(name=user, url=f"/user/{user}/", escaped_name=user),
            hub=SimpleNamespace(public_host="", api_url="http://127.0.0.1:1/hub/api", base_url="/hub/"),
            **{**defaults, **traits},
        )
        made.append(spawner)
        return spawner

    yield make
    for spawner in made:
        await spawner.stop(now=True)
