# SPDX-License-Identifier: BSD-3-Clause
"""The login to the pages, with a provider that answers in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sealroom.errors import ConfigurationError
from sealroom.kbs.oidc import pkce_challenge
from sealroom_broker import login as login_routes
from sealroom_broker.app import create_app
from sealroom_broker.config import HubLogin, OidcLogin, load_config
from sealroom_broker.logins import Logins, safe_target
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support.brokers import World
from support.oidc import ISSUER, Provider, Signer

SETTINGS: dict[str, Any] = {
    "issuer": ISSUER,
    "client_id": "pages",
    "public_url": "https://broker.example/keys",
    "owners": ["data-owners"],
    "auditors": ["auditors"],
}
COOKIE, BEGUN = "__Secure-sealroom-login", "__Secure-sealroom-login-begun"


async def whoami(request: Request) -> Response:
    visitor = await login_routes.require(request)
    return JSONResponse({"actor": visitor.actor, "roles": sorted(visitor.roles), "csrf": visitor.csrf})


async def change(request: Request) -> Response:
    visitor = await login_routes.require(request, "owner")
    return JSONResponse(dict(await login_routes.check_csrf(request, visitor)))


PAGES = [Route("/whoami", whoami), Route("/change", change, methods=["POST"])]


class Stand:
    """A broker with a login, a provider, and a browser."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world = world
        self.provider = Provider()
        self.claims: dict[str, Any] = {"groups": ["data-owners"]}
        self.forms: list[dict[str, list[str]]] = []
        self.signer: Signer | None = None
        self.provider.answers["/realms/lab/token"] = self._token
        settings = OidcLogin.model_validate(SETTINGS | changes)
        logins = Logins(settings, world.broker.store, transport=self.provider.transport)
        self.broker = dataclasses.replace(world.broker, logins=logins)
        world.app = create_app(self.broker)
        world.app.router.routes[:0] = PAGES
        self.jar: dict[str, str] = {}
        self.http = world.http()
        self.nonce = ""

    def _token(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(parse_qs(request.content.decode()))
        claims = {"aud": "pages", "azp": "pages", "nonce": self.nonce} | self.claims
        signer = self.signer or self.provider.signers[0]
        return httpx.Response(200, json={"id_token": signer.sign(self.provider.claims(**claims))})

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send a request as the browser would, and keep its cookies."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        headers = {"Cookie": cookies} | kwargs.pop("headers", {})
        response = self.http.request(method, path, headers=headers, follow_redirects=False, **kwargs)
        self.http.cookies.clear()
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value
        return response

    def begin(self, target: str = "") -> dict[str, str]:
        """Begin a login and return what the provider is asked."""
        response = self.send("GET", f"/login?next={target}" if target else "/login")
        assert response.status_code == 303
        query = {k: v[0] for k, v in parse_qs(urlsplit(response.headers["location"]).query).items()}
        self.nonce = query["nonce"]
        return query

    def log_in(self, target: str = "") -> httpx.Response:
        query = self.begin(target)
        return self.send("GET", f"/callback?code=the-code&state={query['state']}&iss={ISSUER}")

    def refused(self, response: httpx.Response, status: int = 403) -> str:
        assert response.status_code == status, response.text
        assert COOKIE not in self.jar
        return str(response.json()["reasons"][0]["code"])


@pytest.fixture
def stand(world: World) -> Iterator[Stand]:
    made = Stand(world)
    yield made
    assert made.broker.logins is not None
    made.broker.logins.close()


def test_login_of_an_owner(stand: Stand) -> None:
    response = stand.log_in("/grants?dataset=a")
    assert (response.status_code, response.headers["location"]) == (303, "/keys/grants?dataset=a")
    who = stand.send("GET", "/whoami").json()
    assert (who["actor"], who["roles"]) == (f"alice (user-1 at {ISSUER})", ["owner"])
    assert BEGUN not in stand.jar


def test_what_the_provider_is_asked(stand: Stand) -> None:
    query = stand.begin()
    assert query["redirect_uri"] == "https://broker.example/keys/callback"
    assert (query["client_id"], query["response_type"]) == ("pages", "code")
    stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    (form,) = stand.forms
    assert pkce_challenge(form["code_verifier"][0]) == query["code_challenge"]
    assert "client_secret" not in form
    again = stand.begin()
    assert not {again[name] for name in ("state", "nonce", "code_challenge")} & set(query.values())


def test_cookie(stand: Stand) -> None:
    query = stand.begin()
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    (line,) = [one for one in response.headers.get_list("set-cookie") if one.startswith(f"{COOKIE}=")]
    flags = {one.strip() for one in line.split(";")[1:]}
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/keys"} <= flags
    stand.world.broker.store.close()
    for path in (stand.world.folder / "broker").glob("broker.sqlite*"):
        assert stand.jar[COOKIE].encode() not in path.read_bytes()


def test_cookie_of_a_broker_with_a_host_of_its_own(world: World) -> None:
    stand = Stand(world, public_url="https://broker.example")
    stand.log_in()
    assert list(stand.jar) == ["__Host-sealroom-login"]


def test_roles(stand: Stand) -> None:
    stand.claims["groups"] = ["data-owners", "auditors", "others"]
    stand.log_in()
    assert stand.send("GET", "/whoami").json()["roles"] == ["auditor", "owner"]


@pytest.mark.parametrize("groups", [None, [], ["others"], ["Data-Owners"]])
def test_person_without_a_role(stand: Stand, groups: object) -> None:
    stand.claims["groups"] = groups
    assert stand.refused(stand.log_in()) == "login.role"


def test_auditor_may_not_do_what_an_owner_may(stand: Stand) -> None:
    stand.claims["groups"] = ["auditors"]
    stand.log_in()
    csrf = stand.send("GET", "/whoami").json()["csrf"]
    response = stand.send("POST", "/change", data={"csrf": csrf})
    assert (response.status_code, response.json()["reasons"][0]["code"]) == (403, "login.role")


# --- the answer of the provider


def test_answer_in_another_browser(stand: Stand) -> None:
    query = stand.begin()
    stand.jar.clear()
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response) == "login.state"
    assert not stand.forms


def test_answer_to_another_login_of_this_browser(stand: Stand) -> None:
    query = stand.begin()
    stand.begin()
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response) == "login.state"


@pytest.mark.parametrize("query", ["", "code=x", "state=x&code=x", "state=%C3%A9&code=x"])
def test_answer_without_the_state(stand: Stand, query: str) -> None:
    stand.begin()
    assert stand.refused(stand.send("GET", f"/callback?{query}")) == "login.state"


@pytest.mark.parametrize(
    "value", ["", "x", "a.b.c", "." * 9, "x" * 43 + ".x.Lw", "x" * 43 + ".9999999999.Lw"]
)
def test_begun_login_that_is_none(stand: Stand, value: str) -> None:
    query = stand.begin()
    stand.jar[BEGUN] = value
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response) == "login.state"


def test_target_that_was_changed_in_the_browser(stand: Stand) -> None:
    query = stand.begin("/grants")
    secret, moment, _ = stand.jar[BEGUN].split(".")
    stand.jar[BEGUN] = f"{secret}.{moment}.L2V2aWw"
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response) == "login.state"


def test_login_that_takes_too_long(stand: Stand) -> None:
    query = stand.begin()
    stand.world.clock.forward(minutes=10)
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response) == "login.state"


def test_person_who_says_no(stand: Stand) -> None:
    query = stand.begin()
    response = stand.send("GET", f"/callback?error=access_denied&state={query['state']}")
    assert stand.refused(response) == "login.refused"


def test_answer_of_another_provider(stand: Stand) -> None:
    query = stand.begin()
    response = stand.send("GET", f"/callback?code=x&state={query['state']}&iss=https://evil.example")
    assert stand.refused(response) == "login.refused"


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "sealroom-broker"},
        {"azp": "hub"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"typ": "Bearer"},
        {"sub": ""},
        {"groups": 7},
    ],
)
def test_token_that_is_not_for_this_login(stand: Stand, claims: dict[str, object]) -> None:
    stand.claims |= claims
    assert stand.refused(stand.log_in()) == "login.token"


def test_token_of_another_key(stand: Stand) -> None:
    stand.signer = Signer("key-1")
    assert stand.refused(stand.log_in()) == "login.token"


@pytest.mark.parametrize("answer", [{}, {"id_token": None}, {"id_token": 1}])
def test_provider_that_gives_no_token(stand: Stand, answer: dict[str, object]) -> None:
    stand.provider.answers["/realms/lab/token"] = lambda _: httpx.Response(200, json=answer)
    assert stand.refused(stand.log_in()) == "login.refused"


def test_code_that_the_provider_does_not_take(stand: Stand) -> None:
    stand.provider.answers["/realms/lab/token"] = lambda _: httpx.Response(
        400, json={"error": "invalid_grant"}
    )
    assert stand.refused(stand.log_in()) == "login.refused"


@pytest.mark.parametrize("path", ["token", "keys", ".well-known/openid-configuration"])
def test_provider_that_fails_is_no_pass(stand: Stand, path: str) -> None:
    fail = {f"/realms/lab/{path}": lambda _: httpx.Response(502)}
    if path.startswith("."):
        stand.provider.answers |= fail
        assert stand.refused(stand.send("GET", "/login"), 503) == "login.unchecked"
        return
    query = stand.begin()
    stand.provider.answers |= fail
    response = stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.refused(response, 503) == "login.unchecked"


# --- logged in


def test_who_is_not_logged_in_is_sent_to_the_login(stand: Stand) -> None:
    response = stand.send("GET", "/whoami")
    assert (response.status_code, response.headers["location"]) == (303, "/keys/login?next=%2Fwhoami")


def test_login_ends(stand: Stand) -> None:
    stand.log_in()
    stand.world.clock.forward(hours=8)
    assert stand.send("GET", "/whoami").status_code == 303


def test_logout(stand: Stand) -> None:
    stand.log_in()
    csrf, kept = stand.send("GET", "/whoami").json()["csrf"], dict(stand.jar)
    response = stand.send("POST", "/logout", data={"csrf": csrf})
    assert (response.status_code, response.headers["location"], stand.jar) == (303, "/keys/", {})
    stand.jar |= kept
    assert stand.send("GET", "/whoami").status_code == 303


def test_each_login_has_its_own_cookie(stand: Stand) -> None:
    stand.log_in()
    first = stand.jar[COOKIE]
    stand.log_in()
    assert stand.jar[COOKIE] != first


def test_planted_cookie_is_worth_nothing(stand: Stand) -> None:
    stand.jar[COOKIE] = "planted"
    stand.log_in()
    stand.jar[COOKIE] = "planted"
    assert stand.send("GET", "/whoami").status_code == 303


@pytest.mark.parametrize("kind", ["data", "headers"])
def test_form_of_the_visitor(stand: Stand, kind: str) -> None:
    stand.log_in()
    csrf = stand.send("GET", "/whoami").json()["csrf"]
    sent = {"data": {"csrf": csrf, "a": "1"}} if kind == "data" else {"headers": {"x-csrf-token": csrf}}
    assert stand.send("POST", "/change", **sent).status_code == 200


@pytest.mark.parametrize("csrf", [None, "", "x", "ü"])
@pytest.mark.parametrize("path", ["/change", "/logout"])
def test_form_from_elsewhere(stand: Stand, csrf: str | None, path: str) -> None:
    stand.log_in()
    response = stand.send("POST", path, data={} if csrf is None else {"csrf": csrf})
    assert (response.status_code, response.json()["reasons"][0]["code"]) == (403, "login.csrf")
    assert stand.send("GET", "/whoami").status_code == 200


def test_form_of_another_login(stand: Stand) -> None:
    stand.log_in()
    csrf = stand.send("GET", "/whoami").json()["csrf"]
    stand.log_in()
    assert stand.send("POST", "/change", data={"csrf": csrf}).status_code == 403


def test_form_with_too_many_fields(stand: Stand) -> None:
    stand.log_in()
    response = stand.send("POST", "/change", data={f"f{number}": "x" for number in range(1001)})
    assert response.status_code == 400


def test_login_opens_no_owners_call(stand: Stand) -> None:
    stand.log_in()
    assert stand.send("GET", "/kbs/v0/sealroom/admin/grants").status_code == 401


# --- where to


@pytest.mark.parametrize("target", ["/", "/grants?dataset=a&b=c", "/a/b#c"])
def test_targets_of_these_pages(target: str) -> None:
    assert safe_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "grants",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a\r\nSet-Cookie: x",
        "/é",
        "/ x",
        "/" + "x" * 500,
    ],
)
def test_targets_elsewhere(target: str) -> None:
    assert safe_target(target) == "/"


# --- configuration


def test_no_login_without_its_configuration(world: World) -> None:
    assert world.http().get("/login").status_code == 404
    assert world.http().post("/logout").status_code == 404


def configured(folder: Path, **changes: Any) -> OidcLogin | HubLogin | None:
    lines = ['mode = "production"', "[login]"]
    lines += [f"{name} = {str(value).replace(chr(39), chr(34))}" for name, value in changes.items()]
    (folder / "broker.toml").write_text("\n".join(lines))
    return load_config(folder / "broker.toml").login


GOOD = {
    "issuer": f'"{ISSUER}"',
    "client_id": '"pages"',
    "public_url": '"https://b.example"',
    "owners": '["o"]',
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"owners": "[]"}, "owners and auditors"),
        ({"issuer": '"http://login.example"'}, "https"),
        ({"public_url": '"ftp://b.example"'}, "http or https"),
        ({"public_url": '"https://b.example/?x"'}, "query"),
        ({"scope": '"profile"'}, "openid"),
        ({"algorithms": '["HS256"]'}, "algorithms"),
        ({"algorithms": "[]"}, "algorithms"),
        ({"hours": "0"}, "hours"),
    ],
)
def test_configuration_that_cannot_be(tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configured(tmp_path, **(GOOD | change))


def test_client_secret_is_a_private_file(tmp_path: Path, world: World) -> None:
    secret = tmp_path / "secret"
    settings = configured(tmp_path, **(GOOD | {"client_secret": '"secret"'}))
    assert settings is not None
    assert settings.client_secret == secret
    for content, mode, words in ((b"s", 0o644, "others may read"), (b"\n", 0o600, "no client secret")):
        secret.write_bytes(content)
        secret.chmod(mode)
        with pytest.raises(ConfigurationError, match=words):
            Logins(settings, world.broker.store)


def test_client_secret_goes_to_the_provider_alone(tmp_path: Path, world: World) -> None:
    secret = tmp_path / "client-secret"
    secret.write_text("the-secret\n")
    secret.chmod(0o600)
    stand = Stand(world, client_secret=secret)
    query = stand.begin()
    assert "the-secret" not in str(query)
    stand.send("GET", f"/callback?code=the-code&state={query['state']}")
    assert stand.forms[0]["client_secret"] == ["the-secret"]


def test_hours_of_a_login(world: World) -> None:
    stand = Stand(world, hours=1)
    stand.log_in()
    stand.world.clock.now += timedelta(minutes=61)
    assert stand.send("GET", "/whoami").status_code == 303
