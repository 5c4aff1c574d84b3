# SPDX-License-Identifier: BSD-3-Clause
"""The routes, through a real Jupyter server with the extension loaded as Jupyter loads it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from jupyter_server.serverapp import ServerApp
from sealroom import errors
from sealroom.audit.proof import InclusionProof, verify_inclusion_of
from sealroom.datasets.agent import AgentClient
from sealroom_jupyter.app import Sealroom
from sealroom_jupyter.handlers import ROUTES
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.service import SealroomService
from support.oidc import ISSUER, Provider
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import url_concat
from tornado.testing import bind_unused_port
from traitlets.config import Config
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import LOG, own_release
from unit.jupyter.test_login import Tokens

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
    ("GET", "datasets/heartbeats/explain"),
    ("POST", "datasets/heartbeats/ask"),
    ("GET", "datasets/heartbeats/ask-preview"),
    ("GET", "requests"),
    ("POST", "requests/request-1/take-back"),
    ("GET", "releases"),
    ("GET", "releases/8/proof"),
    ("POST", "login/browser"),
    ("POST", "login/device"),
    ("POST", "login/cancel"),
    ("GET", "login/callback"),
    ("POST", "logout"),
]
SAMPLES = {r"([a-z0-9][a-z0-9._-]{0,62})": "heartbeats", r"([A-Za-z0-9_-]{1,64})": "request-1"}
SAMPLES[r"([0-9]{1,15})"] = "8"
WORDS = {"purpose": "DUO:0000042", "reason": "To train a network."}


@dataclass
class Server:
    """A running Jupyter server with Sealroom in it."""

    app: ServerApp
    url: str
    room: Room
    desk: Tokens = field(default_factory=lambda: Tokens(Provider()))
    """The provider's token endpoint, where people log in at one."""

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


MakeService = Callable[[Sealroom, HubToken], SealroomService]


async def running(
    room: Room, homes: Path, monkeypatch: pytest.MonkeyPatch, make_service: MakeService
) -> AsyncIterator[Server]:
    """Run a Jupyter server with this service until the test ends."""
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

    async for made in running(room, homes, monkeypatch, make_service):
        yield made


def test_every_route_is_listed_here() -> None:
    patterns = set()
    for pattern, _ in ROUTES:
        for part, sample in SAMPLES.items():
            pattern = pattern.replace(part, sample)
        patterns.add(pattern.removeprefix("/sealroom/api/"))
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


async def test_explain_answers_every_rule(server: Server) -> None:
    server.room.broker.condition = "not_granted"
    found = await server.get("datasets/heartbeats/explain?purpose=DUO:0000042")
    assert (found["allowed"], found["ask"]) == (False, "data@heart.example")
    assert found["purpose"] == {"code": "DUO:0000042", "label": "general research use"}
    assert [rule["outcome"] for rule in found["rules"]] == ["passed", "failed", "not_reached"]
    assert (await server.get("datasets/heartbeats/explain"))["purpose"] is None
    assert server.room.broker.released == []


async def test_ask_then_take_back(server: Server) -> None:
    made = await server.post("datasets/heartbeats/ask", {**WORDS, "until": "2027-01-31T23:59:59+01:00"})
    assert (made["state"], made["dataset"], made["reason"]) == ("open", "heartbeats", WORDS["reason"])
    assert (made["until"], made["server"]["tier"]) == ("2027-01-31T22:59:59Z", "simulated")
    assert [one["id"] for one in (await server.get("requests"))["requests"]] == [made["id"]]
    assert (await server.post(f"requests/{made['id']}/take-back"))["state"] == "withdrawn"
    answer = await server.ask("POST", f"requests/{made['id']}/take-back")
    assert answer.code == 502
    assert "no open request" in json.loads(answer.body)["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 2001}, "reason"),
        ({"purpose": ""}, "purpose"),
        ({"until": "tomorrow"}, "body"),
        ({"until": "2027-01-31T00:00:00"}, "body"),
    ],
)
async def test_a_request_that_says_too_little_or_too_much_is_400(
    server: Server, change: dict[str, str], field: str
) -> None:
    answer = await server.ask("POST", "datasets/heartbeats/ask", WORDS | change)
    assert answer.code == 400
    assert field in json.loads(answer.body)["message"]
    assert server.room.broker.asked == []


async def test_the_owner_sees_person_tier_and_environment(server: Server) -> None:
    items = {i["label"]: i["value"] for i in (await server.get("datasets/heartbeats/ask-preview"))["items"]}
    assert items["You"] == "Rosalind (rosalind of http://hub.example), groups: lab"
    assert items["This server"].startswith("Simulated TEE (simulated), proven 2026-11-24")
    assert "sha256:cdcd" in items["Environment"]
    assert items["Devices"] == "Processor 0: simulated"


async def test_own_releases_and_a_proof_as_a_file(server: Server) -> None:
    server.room.broker.own = [own_release(9, "other"), own_release(8)]
    await server.get("datasets")
    listed = (await server.get("releases"))["releases"]
    assert [(one["index"], one["dataset"]) for one in listed] == [(9, "other"), (8, "heartbeats")]
    assert listed[1]["title"] == "Heartbeats of record 208"
    file = await server.get("releases/8/proof")
    assert file["name"] == "sealroom-release-8.tlog-proof"
    proof = InclusionProof.from_bytes(file["text"].encode())
    verify_inclusion_of(proof.entry, 8, proof.hashes, proof.checkpoint, LOG.verifier)


async def test_proof_of_somebody_elses_release_is_404(server: Server) -> None:
    server.room.broker.own = [own_release(8)]
    for index in (7, 9):
        answer = await server.ask("GET", f"releases/{index}/proof")
        assert answer.code == 404
        assert "no release to you" in json.loads(answer.body)["message"]


@pytest.mark.parametrize("path", ["login/browser", "login/device", "login/cancel", "logout"])
async def test_where_the_hub_says_who_the_person_is_there_is_no_other_login(
    server: Server, path: str
) -> None:
    assert (await server.get("status"))["login"] is None
    answer = await server.ask("POST", path, {"origin": server.url.removesuffix(BASE)})
    assert answer.code == 400
    assert "the hub says who you are" in json.loads(answer.body)["message"]
    assert (await server.get("status"))["person"]["name"] == "Rosalind"


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


@pytest.fixture
async def own_login(room: Room, homes: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server where people log in at a provider."""
    desk = Tokens(Provider())
    desk.provider.answers["/realms/lab/token"] = desk.token
    monkeypatch.setenv("SEALROOM_OIDC_ISSUER", ISSUER)
    monkeypatch.setenv("SEALROOM_OIDC_CLIENT_ID", "sealroom-broker")

    def make_service(self: Sealroom, token: HubToken) -> SealroomService:
        settings = dataclasses.replace(room.settings, oidc=self.to_settings().oidc)
        return SealroomService(
            settings,
            detect=lambda run_dir: room.processor,
            connect=room._connect,
            read_token=room.broker.read_token,
            hub_token=token,
            provider_http=httpx.Client(transport=desk.provider.transport),
            clock=room.clock,
            log=self.log,
        )

    async for made in running(room, homes, monkeypatch, make_service):
        made.desk = desk
        yield made


async def test_login_in_the_browser_through_the_routes(own_login: Server) -> None:
    origin = own_login.url.removesuffix(BASE)
    assert (await own_login.get("status"))["login"]["state"] == "out"
    url = (await own_login.post("login/browser", {"origin": origin}))["url"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["redirect_uri"] == f"{own_login.url}sealroom/api/login/callback"
    own_login.desk.nonce = query["nonce"]
    answer = await own_login.ask("GET", f"login/callback?state={query['state']}&code=a-code")
    page = answer.body.decode()
    assert answer.code == 200, page
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "You are logged in" in page
    assert "As Rosalind" in page
    assert "a-code" not in page
    status = await own_login.get("status")
    assert (status["login"]["state"], status["person"]["name"]) == ("in", "Rosalind")
    token = own_login.room.broker.identities[0].token
    assert token not in json.dumps(status) + page


async def test_callback_that_nobody_waits_for_is_a_page_that_says_so(own_login: Server) -> None:
    answer = await own_login.ask("GET", "login/callback?state=%3Cscript%3E&code=x&error=%3Cb%3E")
    page = answer.body.decode()
    assert answer.code >= 400
    assert "You are not logged in" in page
    assert "<script>" not in page
    assert (await own_login.get("status"))["login"]["state"] == "out"


async def test_login_for_a_page_of_somebody_else_is_400(own_login: Server) -> None:
    answer = await own_login.ask("POST", "login/browser", {"origin": "http://evil.example"})
    assert answer.code == 400
    assert "not this server's" in json.loads(answer.body)["message"]
