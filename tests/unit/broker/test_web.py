# SPDX-License-Identifier: BSD-3-Clause
"""What all calls share: limits, errors, headers, and what is not in the logs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.errors import StorageError
from sealroom_broker.app import create_app
from sealroom_broker.config import Limits
from sealroom_broker.limits import RateLimit
from sealroom_broker.problem import Problem
from sealroom_broker.quota import LocalBuckets
from sealroom_broker.sessions import Sessions
from sealroom_broker.web import read_body
from starlette.requests import Request
from support.brokers import InProcess, World, b64

MIB = 1 << 20


def request(chunks: list[bytes], *, delay: float = 0, headers: dict[str, str] | None = None) -> Request:
    """Return a request whose body arrives in these chunks."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(delay)
        chunk = left.pop(0) if left else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "headers": raw, "path": "/"}, receive)


async def test_body_in_chunks() -> None:
    assert await read_body(request([b"ab", b"c"]), 3, 5) == b"abc"


async def test_body_one_byte_too_long_without_an_announced_length() -> None:
    with pytest.raises(Problem) as caught:
        await read_body(request([b"ab", b"cd"]), 3, 5)
    assert caught.value.status == 413


async def test_announced_length_is_enough_to_refuse() -> None:
    with pytest.raises(Problem) as caught:
        await read_body(request([], headers={"content-length": "4"}), 3, 5)
    assert caught.value.status == 413


async def test_body_that_does_not_come() -> None:
    with pytest.raises(Problem) as caught:
        await read_body(request([b"a", b"b"], delay=60), 3, 0.01)
    assert caught.value.status == 408


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/kbs/v0/auth", MIB), ("/kbs/v0/attest", MIB // 2), ("/kbs/v0/sealroom/identity", MIB)],
)
def test_oversize_body(world: World, path: str, limit: int) -> None:
    answer = world.http().post(path, content=b" " * (limit + 1))
    assert answer.status_code == 413
    assert f"{limit} bytes" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


def test_registration_may_be_larger_than_other_bodies(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    url = "/kbs/v0/sealroom/admin/datasets"
    assert world.http().post(url, content=b" " * (2 * MIB), headers=headers).status_code == 400
    assert world.http().post(url, content=b" " * (2 * MIB)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/kbs/v0/none", 404),
        ("GET", "/none", 404),
        ("GET", "/kbs/v0/auth/", 404),
        ("GET", "/kbs/v0/auth", 405),
        ("PUT", "/kbs/v0/sealroom/jwks", 405),
    ],
)
def test_errors_of_the_router_have_the_protocols_form(
    world: World, method: str, path: str, status: int
) -> None:
    answer = world.http().request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"type", "detail", "reasons", "ask"}
    assert answer.json()["type"].startswith("https://github.com/confidential-containers/kbs/errors/")


def test_every_answer_has_the_headers_that_protect_it(world: World) -> None:
    for path in ("/", "/healthz", "/kbs/v0/none", "/kbs/v0/sealroom/session"):
        headers = world.http().get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "strict-transport-security" not in headers
        assert len(headers["x-request-id"]) == 16


def test_pages_style_is_the_one_that_its_policy_allows(world: World) -> None:
    answer = world.http().get("/")
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    assert (
        f"style-src 'sha256-{b64(hashlib.sha256(style.encode()).digest())}'"
        in answer.headers["content-security-policy"]
    )


def test_cookie_behind_a_proxy_that_ends_tls_is_secure(world: World) -> None:
    http = world.http()
    http.base_url = "https://broker.test"
    answer = http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert "; Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_database_that_fails_is_a_clear_refusal_with_advice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(Sessions, "begin", fail)
    answer = world.http().post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["reasons"][0]["code"] == "broker.storage"
    assert "try again" in answer.json()["detail"]
    assert "I/O" not in answer.text


def test_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = dict.fromkeys(("stopping", "database", "log", "kek", "disk"), "ok")
    assert world.http().get("/readyz").json() == {"status": "ready", "checks": checks}
    monkeypatch.setattr("sealroom_broker.health.os.access", lambda *_: False)
    answer = world.http().get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, checks | {"log": "failed"})


def test_inner_error_says_nothing_but_its_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the inner secret")

    monkeypatch.setattr(Sessions, "begin", fail)
    answer = world.http().post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    assert "secret" not in answer.text


def test_page_for_people_says_development(world: World) -> None:
    answer = world.http().get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "must not hold data that matter" in answer.text
    assert "Simulated TEE, CPU" in answer.text


def test_health_and_version(world: World) -> None:
    assert world.http().get("/healthz").json()["status"] == "ok"
    version = world.http().get("/kbs/v0/sealroom/version").json()
    assert (version["mode"], version["kbs"]) == ("development", "0.4.0")


def test_health_of_a_broker_that_is_stopping(world: World) -> None:
    world.broker.stopping.set()
    assert world.http().get("/healthz").status_code == 503


def test_the_same_calls_under_a_proxys_prefix(world: World) -> None:
    app = create_app(world.broker, prefix="/services/sealroom-broker/")
    with httpx.Client(transport=InProcess(app, world.portal), base_url="http://broker.test") as http:
        for prefix in ("", "/services/sealroom-broker"):
            assert "keys" in http.get(f"{prefix}/kbs/v0/sealroom/jwks").json()
            assert http.get(f"{prefix}/").status_code == 200
        body = {"version": "0.4.0", "tee": "snp", "extra-params": ""}
        cookie = http.post("/services/sealroom-broker/kbs/v0/auth", json=body).headers["set-cookie"]
        assert "path=" not in cookie.lower()


# --- rates


class Rated:
    """A rate limit around an application that always answers 200."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        self.buckets = LocalBuckets(lambda: self.now)
        self.limited = RateLimit(app, Limits(**limits), self.buckets)

    async def ask(self, client: str) -> int:
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.limited({"type": "http", "client": (client, 1)}, receive, send)
        return statuses[0]


async def test_client_that_asks_too_often_waits_and_others_do_not() -> None:
    rated = Rated(rate=2.0, burst=3)
    assert [await rated.ask("a") for _ in range(5)] == [200, 200, 200, 429, 429]
    assert await rated.ask("b") == 200
    rated.now += 0.5
    assert [await rated.ask("a") for _ in range(2)] == [200, 429]
    rated.now += 100
    assert [await rated.ask("a") for _ in range(4)] == [200, 200, 200, 429]


async def test_rate_limit_forgets_clients_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealroom_broker.quota._MAX_BUCKETS", 10)
    rated = Rated(rate=1.0, burst=1)
    for number in range(100):
        await rated.ask(str(number))
    assert len(rated.buckets) == 10


# --- logs


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_nothing_secret_is_logged(world: World, log: pytest.LogCaptureFixture) -> None:
    """The whole path at level DEBUG, with refusals and a failure, then a search for every secret of it."""
    reader = SecretKey.generate()
    data = world.seal()
    world.grant()
    guest = world.guest("token-of-alice")
    released = guest.release("heartbeats", data.request(reader))
    world.http().get("/kbs/v0/sealroom/admin/grants", headers={"Authorization": "Bearer wrong-owner-token"})
    world.http().get("/healthz?token=token-in-a-query")
    world.http().post("/kbs/v0/sealroom/identity", content=b'{"token": "token-in-a-broken-body"')
    secrets: list[bytes] = [
        data.dataset_key.reveal(),
        reader.reveal(),
        base64.b64decode((world.folder / "broker" / "kek.key").read_bytes()),
        *(base64.b64decode(header) for header in released.headers.values()),
    ]
    texts = [
        "token-of-alice",
        world.owner_token,
        "wrong-owner-token",
        "token-in-a-query",
        "token-in-a-broken-body",
        str(guest._cookie),
        guest.attest().token,
        *map(b64, secrets),
        *(secret.hex() for secret in secrets),
        *(repr(secret)[2:-1] for secret in secrets),
    ]
    # The test's own client logs whole addresses; the broker's client for the hub is not used here.
    ours = [record for record in log.records if record.name != "httpx"]
    lines = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in ours)
    assert "/kbs/v0/sealroom/datasets/heartbeats/release 200" in lines
    assert "/healthz 200" in lines
    for text in texts:
        assert text not in lines


def test_path_with_control_characters_cannot_forge_a_line(
    world: World, log: pytest.LogCaptureFixture
) -> None:
    world.http().get("/a%0A2026-01-01%20INFO%20forged")
    (line,) = [r.getMessage() for r in log.records if r.name == "sealroom_broker.access"]
    assert "\n" not in line
    assert "GET /a?2026-01-01?INFO?forged 404" in line


async def test_slow_work_does_not_hold_up_other_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose work blocks in its thread; another one is answered meanwhile."""
    release = threading.Event()
    begin = Sessions.begin

    def blocked(*arguments: Any) -> Any:
        assert release.wait(60)
        return begin(*arguments)

    monkeypatch.setattr(Sessions, "begin", blocked)
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://broker.test") as http:
        body = {"version": "0.4.0", "tee": "snp", "extra-params": ""}
        waiting = asyncio.create_task(http.post("/kbs/v0/auth", json=body))
        try:
            assert (await http.get("/healthz")).status_code == 200
            assert not waiting.done()
        finally:
            release.set()
        assert (await waiting).status_code == 200
