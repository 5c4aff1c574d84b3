# SPDX-License-Identifier: BSD-3-Clause
"""What holds of every answer of every route: made from the list of routes, so that no new one is left out."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom_broker.app import create_app, routes
from sealroom_broker.config import OidcLogin
from sealroom_broker.logins import Logins, _csrf, _digest
from sealroom_broker.logs import JsonFormatter
from sealroom_broker.openapi import Served, served
from sealroom_broker.store import LoginRow
from support.brokers import World
from support.brokers import world as open_world
from support.oidc import ISSUER, Provider

ROUTES = sorted(served(routes()), key=lambda one: (one.path, sorted(one.methods)))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
KEPT = {"/kbs/v0/sealroom/openapi.json", "/owner/static/{path}"}
"""What browsers and clients may keep: it says nothing about anybody."""
SAMPLES = {
    "dataset": "heartbeats",
    "grant": "6f1ed002ab559585",
    "request": "3b2a61f0c1d94e77",
    "project": "arrhythmia",
    "digest": f"sha256:{'0' * 64}",
    "index": "0",
    "repository": "default",
    "type": "key",
    "tag": "1",
    "path": "a/b/c",
}
LOGIN = OidcLogin.model_validate(
    {
        "issuer": ISSUER,
        "client_id": "pages",
        "public_url": "http://broker.test",
        "owners": ["owners"],
    }
)
SECRET = {
    "token": "secret-in-the-authorization",
    "session": "secret-in-the-session-cookie",
    "login": "secret-in-the-login-cookie",
    "query": "secret-in-the-query",
    "body": "secret-in-the-body",
    "csrf": "secret-in-the-csrf-header",
}


def filled(path: str) -> str:
    """Return a path with a sample for each parameter; a parameter without a sample fails the test."""
    return re.sub(r"\{([a-z_]+)\}", lambda found: SAMPLES[found[1]], path)


def methods_of(path: str) -> set[str]:
    """Return the methods that some route of a path answers, for a path as it is sent."""
    found: set[str] = set()
    for route in ROUTES:
        pattern = re.escape(route.path).replace(r"\{path\}", ".+")
        if re.fullmatch(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", pattern), path):
            found |= route.methods
    return found | ({"HEAD"} if "GET" in found else set())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A broker with a dataset, a grant, and a login to its pages."""
    with open_world(tmp_path_factory.mktemp("hygiene")) as made:
        made.seal()
        made.grant()
        logins = Logins(LOGIN, made.broker.store, transport=Provider().transport)
        made.app = create_app(dataclasses.replace(made.broker, logins=logins))
        with made.broker.store.write() as session:
            session.add(
                LoginRow(
                    id=_digest("the-owners-login"),
                    until=made.clock() + timedelta(hours=1),
                    issuer=ISSUER,
                    subject="user-1",
                    name="olga",
                    roles=["owner", "auditor"],
                )
            )
        yield made
        logins.close()


@pytest.fixture
def http(pages: World) -> Iterator[httpx.Client]:
    client = pages.http()
    client.follow_redirects = False
    yield client
    client.close()


def test_there_are_routes_of_each_kind() -> None:
    paths = {route.path for route in ROUTES}
    assert {"/", "/healthz", "/login", "/kbs/v0/auth", "/kbs/v0/sealroom/admin/grants"} <= paths
    assert len(ROUTES) >= 30


def cases() -> list[Any]:
    found = [(method, route.path) for route in ROUTES for method in sorted(route.methods)]
    return [pytest.param(method, path, id=f"{method} {path}") for method, path in sorted(set(found))]


@pytest.mark.parametrize(("method", "path"), cases())
@pytest.mark.parametrize("who", ["nobody", "owner", "login"])
def test_every_answer_has_the_headers_that_protect_it(
    pages: World, http: httpx.Client, method: str, path: str, who: str
) -> None:
    sent = {
        "nobody": {},
        "owner": {"Authorization": f"Bearer {pages.owner_token}"},
        "login": {"Cookie": "sealroom-login=the-owners-login"},
    }[who]
    answer = http.request(method, filled(path), headers=sent)
    assert answer.status_code < 500 or path == "/readyz", answer.text
    protected(answer, kept=path in KEPT)


def protected(answer: httpx.Response, *, kept: bool = False) -> None:
    """Check the headers of an answer."""
    headers = answer.headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["x-request-id"])
    if not kept or answer.status_code >= 400:
        assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control-")]
    if answer.content:
        assert headers["content-type"]
    if answer.status_code in (401, 403, 404, 405, 413):
        assert not [line for line in headers.get_list("set-cookie") if "Max-Age=0" not in line]


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_other_methods_are_refused_with_those_that_there_are(http: httpx.Client, path: str) -> None:
    sent = filled(path)
    there = methods_of(sent)
    for method in METHODS:
        if method in there:
            continue
        answer = http.request(method, sent)
        assert answer.status_code == 405, (method, path)
        assert set(answer.headers["allow"].split(", ")) == there
        protected(answer)


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES if "GET" in route.methods}))
def test_head_is_get_without_its_body(pages: World, http: httpx.Client, path: str) -> None:
    headers = {"Authorization": f"Bearer {pages.owner_token}", "Cookie": "sealroom-login=the-owners-login"}
    # A login that is begun has a cookie of its own each time.
    changing = {"x-request-id", "set-cookie", "location", "date", "content-length"}
    head, get = (http.request(method, filled(path), headers=headers) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


@pytest.mark.parametrize("path", ["/owner/none/none", "/none", "/kbs/v0/none", "/kbs/v0/sealroom/admin/none"])
def test_what_is_not_there_is_protected_too(http: httpx.Client, path: str) -> None:
    for method in METHODS:
        answer = http.request(method, path)
        assert answer.status_code in (303, 404, 405), (method, path)
        protected(answer)


# --- what changes something, for browsers

OWNERS = [route for route in ROUTES if route.path.startswith("/kbs/v0/sealroom/admin/")]
CHANGING = [route for route in ROUTES if route.page and route.methods - {"GET"}]


def test_pages_that_change_something_are_posts_only() -> None:
    assert {method for route in CHANGING for method in route.methods} == {"POST"}
    assert "/logout" in {route.path for route in CHANGING}


@pytest.mark.parametrize("route", CHANGING, ids=lambda one: one.path)
@pytest.mark.parametrize("csrf", ["", "wrong", "of-another-login"])
def test_page_that_changes_something_refuses_without_its_own_token(
    pages: World, http: httpx.Client, route: Served, csrf: str
) -> None:
    tokens = {"": None, "wrong": "x" * 43, "of-another-login": _csrf("another-login")}
    fields = {"reason": "x", "answer": "x", "project": "x"} | ({"csrf": tokens[csrf]} if csrf else {})
    before = len(pages.owner.grants()), pages.broker.record.log.size
    answer = http.post(filled(route.path), data=fields, headers={"Cookie": "sealroom-login=the-owners-login"})
    assert answer.status_code == 403, (route.path, answer.text)
    assert (len(pages.owner.grants()), pages.broker.record.log.size) == before
    protected(answer)


@pytest.mark.parametrize("route", CHANGING, ids=lambda one: one.path)
def test_page_that_changes_something_does_nothing_for_nobody(
    pages: World, http: httpx.Client, route: Served
) -> None:
    before = pages.broker.record.log.size
    answer = http.post(filled(route.path), data={"csrf": _csrf("the-owners-login"), "reason": "x"})
    assert answer.status_code in (303, 403, 404), (route.path, answer.status_code)
    assert pages.broker.record.log.size == before


@pytest.mark.parametrize("route", OWNERS, ids=lambda one: one.path)
def test_call_takes_no_login_of_the_pages_for_a_token(
    pages: World, http: httpx.Client, route: Served
) -> None:
    """A browser that is logged in to the pages sends its cookie with what other sites make it ask, too."""
    before = pages.broker.record.log.size
    for method in route.methods:
        headers = {"Cookie": "sealroom-login=the-owners-login", "X-CSRF-Token": _csrf("the-owners-login")}
        assert http.request(method, filled(route.path), headers=headers).status_code == 401
    assert pages.broker.record.log.size == before


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(http: httpx.Client) -> None:
    answer = http.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "snp", "extra-params": ""})
    flags = {one.strip().lower() for one in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict"} <= flags


# --- logs


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the broker logs at level DEBUG, as machines get it."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(JsonFormatter())
    # The tests' own client logs whole addresses.
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_no_secret_of_any_call_is_logged(pages: World, http: httpx.Client, log: io.StringIO) -> None:
    cookies = f"kbs-session-id={SECRET['session']}; sealroom-login={SECRET['login']}"
    answers = 0
    for route in ROUTES:
        for method in sorted(route.methods):
            for authorization in (f"Bearer {SECRET['token']}", f"Bearer {pages.owner_token}"):
                for body in (json.dumps({"reason": SECRET["body"]}), SECRET["body"], ""):
                    answer = http.request(
                        method,
                        f"{filled(route.path)}?token={SECRET['query']}",
                        content=body,
                        headers={
                            "Authorization": authorization,
                            "Cookie": cookies,
                            "X-CSRF-Token": SECRET["csrf"],
                            "Content-Type": "application/json",
                        },
                    )
                    answers += 1
                    assert answer.status_code < 500 or route.path == "/readyz", (route.path, answer.text)
                    # Nor does an answer say to anybody what others sent, or more than it got.
                    for name in ("token", "session", "login", "csrf"):
                        assert SECRET[name] not in answer.text
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    access = [line for line in lines if line["logger"] == "sealroom_broker.access"]
    assert len(access) == answers
    assert len({line["request"] for line in access}) == answers
    for secret in (*SECRET.values(), pages.owner_token):
        assert secret not in log.getvalue()


def test_cause_of_a_failure_is_logged_without_what_was_sent(
    tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    with open_world(tmp_path) as world:
        for name in ("give_grant", "grants", "owned_datasets"):
            monkeypatch.setattr(f"sealroom_broker.acts.{name}", fail)
        http = world.http()
        headers = {
            "Authorization": f"Bearer {world.owner_token}",
            "Cookie": f"kbs-session-id={SECRET['session']}",
        }
        for method, path in (("GET", "grants"), ("POST", "grants"), ("GET", "datasets")):
            answer = http.request(
                method,
                f"/kbs/v0/sealroom/admin/{path}?token={SECRET['query']}",
                headers=headers,
                json={"dataset": SECRET["body"]},
            )
            assert answer.status_code == 500
            assert answer.headers["x-request-id"] in answer.json()["detail"]
            protected(answer)
        token = world.owner_token
    assert log.getvalue().count("RuntimeError: broken") == 3
    for secret in (*SECRET.values(), token):
        assert secret not in log.getvalue()
