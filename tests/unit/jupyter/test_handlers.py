# SPDX-License-Identifier: BSD-3-Clause
"""The routes, through a real Jupyter server with the extension loaded as Jupyter loads it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.serverapp import ServerApp
from sealroom import errors
from sealroom.datasets.agent import AgentClient
from sealroom_jupyter.app import Sealroom
from sealroom_jupyter.handlers import ROUTES
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.service import SealroomService
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import url_concat
from tornado.testing import bind_unused_port
from traitlets.config import Config
from unit.jupyter.conftest import Room

TOKEN = "a-login-token"
BASE = "/user/rosalind/"

ALL = [
    ("GET", "status"),
    ("POST", "prove"),
    ("POST", "evidence"),
    ("GET", "datasets"),
    ("POST", "datasets/heartbeats/unlock"),
    ("POST", "datasets/heartbeats/lock"),
    ("GET", "datasets/heartbeats/request-preview"),
    ("GET", "record/heartbeats"),
]


@dataclass
class Server:
    """A running Jupyter server with Sealroom in it."""

    app: ServerApp
    url: str
    room: Room

    async def ask(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> HTTPResponse:
        if headers is None:
            headers = {"Authorization": f"token {TOKEN}"}
        data = None if method == "GET" else json.dumps(body or {})
        return await AsyncHTTPClient().fetch(
            f"{self.url}sealroom/api/{path}", method=method, body=data, headers=headers, raise_error=False
        )

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.code == 200, answer.body
        return json.loads(answer.body)

    async def post(self, path: str, body: object = None) -> Any:
        answer = await self.ask("POST", path, body)
        assert answer.code == 200, answer.body
        return json.loads(answer.body)


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Jupyter's directories inside the test's own."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "HOME"):
        place = tmp_path / "home" / name.lower()
        place.mkdir(parents=True)
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    yield tmp_path / "home"
    ServerApp.clear_instance()


@pytest.fixture
async def server(room: Room, homes: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A Jupyter server whose Sealroom talks to the fakes of `room`."""

    def make_service(self: Sealroom, token: HubToken) -> SealroomService:
        return SealroomService(
            room.settings,
            detect=lambda run_dir: room.processor,
            connect=room._connect,
            read_token=room.broker.read_token,
            hub_token=HubToken("hub-token-secret"),
            clock=room.clock,
            log=self.log,
        )

    monkeypatch.setattr(Sealroom, "make_service", make_service)
    config = Config()
    config.IdentityProvider.token = TOKEN
    config.ServerApp.jpserver_extensions = {"sealroom_jupyter": True}
    config.ServerApp.base_url = BASE
    config.ServerApp.root_dir = str(homes)
    app = ServerApp.instance(config=config)
    app.initialize(argv=[], find_extensions=False, new_httpserver=False)
    await app.extension_manager.start_all_extensions()  # type: ignore[no-untyped-call]
    socket, port = bind_unused_port()
    http = HTTPServer(app.web_app)
    http.add_socket(socket)
    made = Server(app, f"http://127.0.0.1:{port}{BASE}", room)
    for _ in range(200):
        if (await made.get("status"))["phase"] == "verified":
            break
    try:
        yield made
    finally:
        await app.extension_manager.stop_all_extensions()  # type: ignore[no-untyped-call]
        http.stop()
        await http.close_all_connections()
        await app._cleanup()


def test_every_route_is_listed_here() -> None:
    patterns = {
        pattern.replace(r"([a-z0-9][a-z0-9._-]{0,62})", "heartbeats").removeprefix("/sealroom/api/")
        for pattern, _ in ROUTES
    }
    assert patterns == {path for _, path in ALL}


def test_every_method_of_every_route_needs_a_login() -> None:
    for _, handler in ROUTES:
        methods = [name for name in ("get", "post", "put", "patch", "delete") if name in vars(handler)]
        assert methods
        for name in methods:
            # Two decorators, `web.authenticated` outside of `authorized`; each leaves a `__wrapped__` behind.
            outer = vars(handler)[name]
            assert outer.__code__.co_filename.endswith("tornado/web.py"), f"{handler.__name__}.{name}"
            assert outer.__wrapped__.__code__.co_filename.endswith("auth/decorator.py")


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_refuses_requests_without_a_login(server: Server, method: str, path: str) -> None:
    answer = await server.ask(method, path, headers={})
    assert answer.code == 403
    assert set(json.loads(answer.body)) == {"message", "advice", "reasons", "code"}
    assert server.room.broker.released == []


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_refuses_requests_with_another_login(server: Server, method: str, path: str) -> None:
    answer = await server.ask(method, path, headers={"Authorization": "token another"})
    assert answer.code == 403


@pytest.mark.parametrize(("method", "path"), [item for item in ALL if item[0] == "POST"])
async def test_refuses_changes_by_a_browser_without_the_xsrf_token(
    server: Server, method: str, path: str
) -> None:
    # A browser that is logged in by cookie, on a page of somebody else.
    url = url_concat(f"{server.url}login", {"token": TOKEN})
    login = await AsyncHTTPClient().fetch(url, follow_redirects=False, raise_error=False)
    cookies = "; ".join(header.split(";")[0] for header in login.headers.get_list("Set-Cookie"))
    assert "username" in cookies
    assert (await server.ask("GET", "status", headers={"Cookie": cookies})).code == 200
    before = server.room.broker.attested
    answer = await server.ask(method, path, headers={"Cookie": cookies})
    assert answer.code == 403
    assert "_xsrf" in json.loads(answer.body)["message"]
    assert (server.room.broker.attested, server.room.broker.released) == (before, [])


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_refuses_the_other_method(server: Server, method: str, path: str) -> None:
    answer = await server.ask("GET" if method == "POST" else "POST", path)
    assert answer.code == 405


async def test_status(server: Server) -> None:
    status = await server.get("status")
    assert (status["phase"], status["tier"], status["title"]) == ("verified", "simulated", "Simulated TEE")
    assert len(status["sentences"]) == 2
    assert status["person"]["name"] == "Rosalind"
    assert status["broker"] == "http://broker.example"
    assert status["devices"][0]["claims"][0]["outcome"] == "passed"
    assert set(status["environment"]) == {"name", "title", "version", "digest"}


async def test_answers_are_json_and_not_stored(server: Server) -> None:
    answer = await server.ask("GET", "status")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_looking_is_not_activity(server: Server) -> None:
    server.app.web_app.settings.pop("api_last_activity", None)
    await server.get("status")
    await server.get("datasets")
    assert "api_last_activity" not in server.app.web_app.settings


async def test_prove_answers_a_fresh_status(server: Server) -> None:
    before = server.room.broker.attested
    assert (await server.post("prove"))["phase"] == "verified"
    assert server.room.broker.attested == before + 1


async def test_prove_with_a_refusal_is_a_status(server: Server) -> None:
    server.room.broker.refusal = errors.AccessDeniedError("The evidence is refused.")
    status = await server.post("prove")
    assert (status["phase"], status["tier"]) == ("refused", "none")
    assert status["error"]["message"] == "The evidence is refused."


async def test_prove_while_the_broker_is_down_is_503(server: Server) -> None:
    server.room.broker.down = True
    answer = await server.ask("POST", "prove")
    assert answer.code == 503
    problem = json.loads(answer.body)
    assert (problem["message"], problem["code"]) == ("The broker cannot be reached.", "network")
    assert problem["advice"]


async def test_evidence_is_a_file(server: Server) -> None:
    answer = await server.ask("POST", "evidence", {"nonce": "00" * 16})
    assert answer.code == 200
    assert answer.headers["Content-Disposition"].endswith('.evidence.json"')
    assert json.loads(answer.body)["format"] == "sealroom-evidence/1"


@pytest.mark.parametrize("nonce", ["", "00", "0" * 31, "zz" * 16, "00" * 65, "00 " * 16, "\u0660" * 32])
async def test_evidence_refuses_what_is_no_nonce(server: Server, nonce: str) -> None:
    answer = await server.ask("POST", "evidence", {"nonce": nonce})
    assert answer.code == 400
    assert "nonce" in json.loads(answer.body)["message"].lower()


@pytest.mark.parametrize("body", ['{"nonce": 3}', "[]", "{", '"text"', "null", "[" * 5000, '{"nonce": null}'])
async def test_a_body_that_says_something_else_is_400(server: Server, body: str) -> None:
    headers = {"Authorization": f"token {TOKEN}"}
    answer = await AsyncHTTPClient().fetch(
        f"{server.url}sealroom/api/evidence", method="POST", body=body, headers=headers, raise_error=False
    )
    assert answer.code == 400


async def test_a_body_that_is_too_large_is_413(server: Server) -> None:
    answer = await server.ask("POST", "evidence", {"nonce": "0" * 70_000})
    assert answer.code == 413


async def test_unlock_lock_and_record(server: Server) -> None:
    assert (await server.ask("GET", "record/heartbeats")).code == 404
    shown = await server.post("datasets/heartbeats/unlock", {"purpose": "DUO:0000042"})
    assert (shown["id"], shown["state"]) == ("heartbeats", "unlocked")
    assert [item["state"] for item in (await server.get("datasets"))["datasets"]] == ["unlocked"]
    record = await server.get("record/heartbeats")
    assert (record["format"], record["audit_index"]) == ("sealroom-record/1", 8)
    assert (await server.post("datasets/heartbeats/lock"))["state"] == "locked"


async def test_a_refusal_is_403_with_reasons_and_whom_to_ask(server: Server) -> None:
    server.room.broker.condition = "not_granted"
    answer = await server.ask("POST", "datasets/heartbeats/unlock", {"purpose": "DUO:0000042"})
    assert answer.code == 403
    problem = json.loads(answer.body)
    assert problem["reasons"][0]["code"] == "grant.none"
    assert problem["advice"] == "Ask data@heart.example."


async def test_an_unknown_dataset_is_404(server: Server) -> None:
    answer = await server.ask("POST", "datasets/nothing/unlock")
    assert answer.code == 404
    assert "no dataset 'nothing'" in json.loads(answer.body)["message"]


@pytest.mark.parametrize("name", ["..%2fsecret", "%00", "A", "a" * 64, ".hidden"])
async def test_what_is_no_id_is_not_even_looked_for(server: Server, name: str) -> None:
    answer = await server.ask("GET", f"record/{name}")
    assert answer.code in (400, 404)


async def test_preview(server: Server) -> None:
    items = (await server.get("datasets/heartbeats/request-preview"))["items"]
    assert {"label", "value"} == set(items[0])


async def test_the_kernel_sees_the_same_state_as_the_panel(server: Server) -> None:
    await server.post("datasets/heartbeats/unlock", {"purpose": ""})
    run_dir = server.room.settings.run_dir
    assert run_dir is not None
    path = run_dir / "agent.sock"
    assert path.stat().st_mode & 0o777 == 0o600

    def in_a_kernel() -> tuple[str, str, bytes, str]:
        client = AgentClient(path)
        try:
            return (
                client.datasets()[0].state,
                client.status().tier,
                client.read("heartbeats", "ecg.bin", 0, 8),
                client.record("heartbeats").grant,
            )
        finally:
            client.close()

    state, tier, data, grant = await asyncio.to_thread(in_a_kernel)
    assert (state, tier, len(data), grant) == ("unlocked", "simulated", 8, "grant-1")
    await server.post("datasets/heartbeats/lock")
    with pytest.raises(errors.AccessDeniedError, match="You locked"):
        await asyncio.to_thread(in_a_kernel)


async def test_stopping_drops_keys_and_the_socket(server: Server) -> None:
    await server.post("datasets/heartbeats/unlock")
    service = server.app.web_app.settings["sealroom_service"]
    await server.app.extension_manager.stop_all_extensions()  # type: ignore[no-untyped-call]
    assert not service._vault.holds("heartbeats")
    assert not await asyncio.to_thread(os.path.lexists, f"{server.room.settings.run_dir}/agent.sock")


async def test_the_hub_token_leaves_the_environment_and_is_not_written(
    room: Room, homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hub-token-secret")
    taken = []

    def make_service(self: Sealroom, token: HubToken) -> SealroomService:
        taken.append(token.reveal())
        return SealroomService(
            room.settings,
            detect=lambda run_dir: room.processor,
            connect=room._connect,
            read_token=room.broker.read_token,
            hub_token=token,
        )

    monkeypatch.setattr(Sealroom, "make_service", make_service)
    config = Config()
    config.ServerApp.jpserver_extensions = {"sealroom_jupyter": True}
    config.IdentityProvider.token = "hub-token-secret"
    app = ServerApp.instance(config=config)
    app.initialize(argv=[], find_extensions=False, new_httpserver=False)
    assert taken == ["hub-token-secret"]
    assert "JUPYTERHUB_API_TOKEN" not in os.environ
    app.write_server_info_file()
    written = await asyncio.to_thread(Path(app.info_file).read_text)
    assert "hub-token-secret" not in written
    assert json.loads(written)["token"] == ""
    assert app.no_browser_open_file
    app.remove_server_info_file()
    await app._cleanup()
