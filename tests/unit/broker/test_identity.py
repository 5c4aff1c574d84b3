# SPDX-License-Identifier: BSD-3-Clause
"""The answers are those of JupyterHub 5.5 and 6.1 for `GET /user` (apihandlers/users.py, SelfAPIHandler)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.kbs.calls import IdentityRequest
from sealroom.kbs.jwe import TeeKey
from sealroom_broker.config import Identity
from sealroom_broker.identity import JupyterHubIdentity, Presented
from sealroom_broker.problem import Problem

SETTINGS = Identity(api_url="http://hub.test/hub/api", service="sealroom-broker")
KEY = TeeKey.generate()
SCOPES = [
    "access:servers!server=alice/",
    "access:services!service=sealroom-broker",
    "read:users:groups!user=alice",
    "read:users:name!user=alice",
    "users:activity!user=alice",
]
ALICE: dict[str, Any] = {
    "admin": False,
    "auth_state": None,
    "groups": ["cardiology"],
    "kind": "user",
    "name": "alice",
    "roles": ["user"],
    "scopes": SCOPES,
    "servers": {},
    "session_id": None,
    "token_id": "a12",
    "user_info": {},
}
Handler = Callable[[httpx.Request], httpx.Response]


class Hub:
    """A hub that answers what a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.handler: Handler = lambda _: httpx.Response(200, json=ALICE)
        self.identity = JupyterHubIdentity(SETTINGS, transport=httpx.MockTransport(self._handle))

    def answers(self, status: int = 200, **changes: Any) -> None:
        self.handler = lambda _: httpx.Response(status, json=ALICE | changes)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.handler(request)

    def check(self, token: str = "hub-token", server: str = "") -> Any:
        request = IdentityRequest(provider="jupyterhub", token=token, server=server)
        login = self.identity.check(request, Presented(KEY.public_jwk(), None, testing.NOW))
        assert login.until is None, "the broker says how long the hub's answer holds"
        return login.person

    def problem(self, **request: str) -> tuple[int, str]:
        with pytest.raises(Problem) as caught:
            self.check(**request)
        assert "hub-token" not in str(caught.value)
        return caught.value.status, caught.value.body.reasons[0].code


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.identity.close()


def test_person_of_a_servers_token(hub: Hub) -> None:
    person = hub.check()
    assert (person.subject, person.groups, person.issuer) == ("alice", ("cardiology",), SETTINGS.api_url)
    (request,) = hub.asked
    assert str(request.url) == "http://hub.test/hub/api/user"
    assert request.headers["Authorization"] == "token hub-token"


def test_named_server(hub: Hub) -> None:
    hub.answers(scopes=[*SCOPES[1:], "access:servers!server=alice/gpu"])
    assert hub.check(server="gpu").subject == "alice"


@pytest.mark.parametrize("scope", ["access:services", "access:services!service=sealroom-broker"])
def test_scopes_that_reach_the_broker(hub: Hub, scope: str) -> None:
    hub.answers(scopes=[scope, "access:servers!user=alice"])
    assert hub.check().subject == "alice"


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        SCOPES[:1],
        [SCOPES[0], "access:services!service=sealroom"],
        [SCOPES[0], "access:services!service=sealroom-broker-2"],
        [SCOPES[0], "access:services!group=cardiology"],
        [SCOPES[0], "list:services"],
    ],
)
def test_token_without_the_scope_for_this_broker(hub: Hub, scopes: list[str]) -> None:
    hub.answers(scopes=scopes)
    assert hub.problem() == (403, "person.scope")


def test_token_of_another_server_of_the_same_person(hub: Hub) -> None:
    assert hub.problem(server="gpu") == (403, "person.server")


def test_token_of_no_server(hub: Hub) -> None:
    hub.answers(scopes=SCOPES[1:])
    assert hub.problem() == (403, "person.server")


def test_server_name_that_climbs_to_another_person(hub: Hub) -> None:
    hub.answers(scopes=[SCOPES[1], "access:servers!server=bob/"])
    assert hub.problem(server="../bob/") == (403, "person.server")


def test_token_of_a_service(hub: Hub) -> None:
    hub.answers(kind="service")
    assert hub.problem() == (403, "person.kind")


@pytest.mark.parametrize("status", [401, 403])
def test_token_that_the_hub_does_not_know(hub: Hub, status: int) -> None:
    hub.handler = lambda _: httpx.Response(status, json={"status": status, "message": "Forbidden"})
    assert hub.problem() == (403, "person.token")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut", "x" * 9000, "nul\0"])
def test_what_is_no_token_is_not_sent(hub: Hub, token: str) -> None:
    assert hub.problem(token=token) == (403, "person.token")
    assert not hub.asked


@pytest.mark.parametrize("status", [302, 404, 429, 500, 502, 503])
def test_hub_that_answers_something_else(hub: Hub, status: int) -> None:
    hub.handler = lambda _: httpx.Response(status, headers={"Location": "http://elsewhere.test/"})
    assert hub.problem() == (503, "person.unchecked")
    assert len(hub.asked) == 1, "the token followed a redirect"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        json.dumps(ALICE | {"kind": "admin"}).encode(),
        json.dumps(ALICE | {"name": ""}).encode(),
        json.dumps(ALICE | {"name": 1}).encode(),
        json.dumps(ALICE | {"scopes": "access:services"}).encode(),
        b" " * (2 << 20),
    ],
)
def test_answer_that_is_not_understood(hub: Hub, content: bytes) -> None:
    hub.handler = lambda _: httpx.Response(200, content=content)
    assert hub.problem() == (503, "person.unchecked")


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_hub_that_cannot_be_reached(hub: Hub, error: type[httpx.HTTPError]) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error("gone")

    hub.handler = fail
    assert hub.problem() == (503, "person.unchecked")
