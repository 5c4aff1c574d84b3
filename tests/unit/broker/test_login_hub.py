# SPDX-License-Identifier: BSD-3-Clause
"""The login to the pages at the hub of a development broker, with a hub that answers in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sealroom.errors import ConfigurationError
from sealroom.kbs.oidc import pkce_challenge
from sealroom_broker.app import create_app
from sealroom_broker.config import HubLogin, load_config
from sealroom_broker.logins import Logins
from sealroom_broker.setup import HUB_SECRET_FILE, Plan, initialise
from support.brokers import World

API, HUB, PAGES = "http://127.0.0.1:8081/hub/api", "http://127.0.0.1:8000", "http://localhost:8200"
OWNER, AUDITOR = "custom:sealroom:owner", "custom:sealroom:auditor"


class Stand:
    """A broker whose pages' visitors log in at a hub, the hub, and a browser."""

    def __init__(self, world: World, folder: Path) -> None:
        secret = folder / "hub.secret"
        secret.write_text("the-secret\n")
        secret.chmod(0o600)
        self.user: dict[str, Any] = {"kind": "user", "name": "owner", "scopes": [OWNER]}
        self.token: httpx.Response | None = None
        self.asked: list[httpx.Request] = []
        self.down = False
        settings = HubLogin(
            provider="jupyterhub", hub_url=HUB, api_url=API, public_url=PAGES, client_secret=secret,
            issuer="the-hub",
        )  # fmt: skip
        self.logins = Logins(settings, world.broker.store, transport=httpx.MockTransport(self.hub))
        world.app = create_app(dataclasses.replace(world.broker, logins=self.logins))
        self.http = world.http()

    def hub(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.down:
            raise httpx.ConnectError("no hub")
        if request.url.path == "/hub/api/oauth2/token":
            return self.token or httpx.Response(
                200, json={"access_token": "the-token", "token_type": "Bearer"}
            )
        assert (request.url.path, request.headers["authorization"]) == ("/hub/api/user", "token the-token")
        return httpx.Response(200, json=self.user)

    def begin(self) -> dict[str, str]:
        response = self.http.get("/login?next=/owner/grants", follow_redirects=False)
        assert response.status_code == 303
        where = urlsplit(response.headers["location"])
        assert where._replace(query="").geturl() == f"{HUB}/hub/api/oauth2/authorize"
        return {name: values[0] for name, values in parse_qs(where.query).items()}

    def log_in(self) -> httpx.Response:
        query = self.begin()
        return self.http.get(f"/callback?code=the-code&state={query['state']}", follow_redirects=False)

    def refused(self, response: httpx.Response, status: int = 403) -> str:
        assert response.status_code == status
        assert "sealroom-login" not in self.http.cookies
        return str(response.json()["reasons"][0]["code"])


@pytest.fixture
def stand(world: World, tmp_path: Path) -> Iterator[Stand]:
    made = Stand(world, tmp_path)
    yield made
    made.logins.close()


@pytest.mark.parametrize(
    ("scopes", "roles"),
    [
        ([OWNER, "access:services!service=sealroom-broker"], frozenset({"owner"})),
        ([AUDITOR], frozenset({"auditor"})),
    ],
)
def test_scope_of_the_hub_gives_the_role(
    stand: Stand, world: World, scopes: list[str], roles: frozenset[str]
) -> None:
    stand.user["scopes"] = scopes
    response = stand.log_in()
    assert (response.status_code, response.headers["location"]) == (303, "/owner/grants")
    visitor = stand.logins.visitor(stand.http.cookies["sealroom-login"], world.clock())
    assert visitor is not None
    assert (visitor.actor, visitor.roles) == ("owner (owner at the-hub)", roles)


def test_what_the_hub_is_asked(stand: Stand) -> None:
    query = stand.begin()
    assert (query["client_id"], query["redirect_uri"]) == ("service-sealroom-broker", f"{PAGES}/callback")
    assert "the-secret" not in str(query)
    stand.http.get(f"/callback?code=the-code&state={query['state']}", follow_redirects=False)
    form = {name: values[0] for name, values in parse_qs(stand.asked[0].content.decode()).items()}
    assert (form["code"], form["client_secret"]) == ("the-code", "the-secret")
    assert pkce_challenge(form["code_verifier"]) == query["code_challenge"]


@pytest.mark.parametrize(
    ("user", "code"),
    [
        ({"scopes": ["custom:sealroom:board", "admin:users"]}, "login.role"),
        ({"scopes": [f"{OWNER}!user=owner"]}, "login.role"),
        ({"scopes": [1, None, {}]}, "login.role"),
        ({"scopes": OWNER}, "login.refused"),
        ({"scopes": None}, "login.refused"),
        ({"kind": "service"}, "login.refused"),
        ({"name": ""}, "login.refused"),
        ({"name": "a\nb"}, "login.refused"),
        ({"name": ["owner"]}, "login.refused"),
    ],
)
def test_answer_of_the_hub_that_makes_nobody_an_owner(stand: Stand, user: dict[str, Any], code: str) -> None:
    stand.user |= user
    assert stand.refused(stand.log_in()) == code


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400, json={"error": "invalid_grant"}),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"access_token": 7}),
        httpx.Response(200, json={"access_token": "two words"}),
    ],
    ids=["refused", "none", "number", "spaces"],
)
def test_code_that_the_hub_does_not_take(stand: Stand, answer: httpx.Response) -> None:
    stand.token = answer
    assert stand.refused(stand.log_in()) == "login.refused"


def test_answer_for_another_browser(stand: Stand) -> None:
    query = stand.begin()
    stand.http.cookies.clear()
    response = stand.http.get(f"/callback?code=the-code&state={query['state']}", follow_redirects=False)
    assert stand.refused(response) == "login.state"
    assert not stand.asked


def test_hub_that_is_down_is_not_a_refusal(stand: Stand) -> None:
    query = stand.begin()
    stand.down = True
    response = stand.http.get(f"/callback?code=the-code&state={query['state']}", follow_redirects=False)
    assert stand.refused(response, 503) == "login.unchecked"


# --- configuration


def plan(**changes: Any) -> Plan:
    known: dict[str, Any] = {"mode": "development", "hub_api_url": API, "hub_url": HUB, "public_url": PAGES}
    return Plan(**(known | changes))


def test_new_broker_logs_in_at_the_hub(tmp_path: Path) -> None:
    login = load_config(initialise(tmp_path, plan())).login
    assert isinstance(login, HubLogin)
    assert (login.hub_url, login.api_url, login.public_url) == (HUB, API, PAGES)
    secret = tmp_path / HUB_SECRET_FILE
    assert (login.client_secret, secret.stat().st_mode & 0o777) == (secret, 0o600)
    before = secret.read_bytes()
    initialise(tmp_path, plan())
    assert secret.read_bytes() == before


def test_ports_that_the_hub_says_win_over_the_file(tmp_path: Path) -> None:
    said = {
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
        "SEALROOM_HUB_URL": "http://127.0.0.1:10/",
        "SEALROOM_BROKER_PUBLIC_URL": "http://localhost:11",
    }
    login = load_config(initialise(tmp_path, plan()), said).login
    assert isinstance(login, HubLogin)
    assert (login.api_url, login.hub_url) == ("http://127.0.0.1:9/hub/api", "http://127.0.0.1:10")
    # Who the hub is stays: the log would name another one after each start.
    assert (login.public_url, login.issuer) == ("http://localhost:11", API)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "production"}, "whoever administers the hub"),
        ({"public_url": "http://127.0.0.1:8200"}, "another host"),
        ({"hub_url": "ftp://hub"}, "http or https"),
        ({"public_url": ""}, "own address"),
        ({"hub_api_url": ""}, "hub's API"),
    ],
)
def test_login_at_a_hub_that_cannot_be(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        initialise(tmp_path, plan(**changes))


def test_unknown_provider_of_logins(tmp_path: Path) -> None:
    path = initialise(tmp_path, plan())
    path.write_text(
        path.read_text().replace('[login]\nprovider = "jupyterhub"', '[login]\nprovider = "ldap"')
    )
    with pytest.raises(ConfigurationError, match="login"):
        load_config(path)
