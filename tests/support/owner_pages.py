# SPDX-License-Identifier: BSD-3-Clause
"""The owner's pages of a broker in this process, with a provider to log in at and somebody with a browser."""

from __future__ import annotations

import dataclasses
import html.parser
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from sealroom_broker.app import create_app
from sealroom_broker.config import OidcLogin
from sealroom_broker.logins import Logins

from support.brokers import World
from support.oidc import ISSUER, Provider

PUBLIC_URL = "https://broker.example"
SETTINGS: dict[str, Any] = {
    "issuer": ISSUER,
    "client_id": "pages",
    "public_url": PUBLIC_URL,
    "owners": ["data-owners"],
    "auditors": ["auditors"],
}


class Document(html.parser.HTMLParser):
    """A page, as far as tests look at it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.forms: list[dict[str, str]] = []
        """Of each form its fields, with `action` and `method` under these names and a `:` before them."""
        self._textarea = ""
        self.feed(text)

    @property
    def text(self) -> str:
        """All words, with one space between them."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "form":
            self.forms.append({":action": found.get("action", ""), ":method": found.get("method", "get")})
        name = found.get("name", "")
        if not self.forms or not name:
            return
        form, kind = self.forms[-1], found.get("type", "text")
        if tag == "input" and (kind not in ("checkbox", "radio") or "checked" in found):
            form[name] = found.get("value", "on" if kind == "checkbox" else "")
        elif tag in ("textarea", "select"):
            form[name] = ""
            self._textarea = name

    def handle_endtag(self, tag: str) -> None:
        if tag in ("textarea", "select"):
            self._textarea = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._textarea and self.elements[-1][0] == "textarea":
            self.forms[-1][self._textarea] += data.removeprefix("\n")

    def form(self, action: str) -> dict[str, str]:
        """Return the fields of the form that is sent to an address ending so, to the page's own if empty."""
        posts = [one for one in self.forms if one[":method"] == "post"]
        (found,) = [
            one for one in posts if one[":action"] == action or (action and one[":action"].endswith(action))
        ]
        selected = self._selected()
        fields = {name: selected.get(name, value) for name, value in found.items()}
        return {name: value for name, value in fields.items() if not name.startswith(":")}

    def _selected(self) -> dict[str, str]:
        chosen: dict[str, str] = {}
        name = ""
        for tag, found in self.elements:
            if tag == "select":
                name = found.get("name", "")
            elif tag == "option" and name and (name not in chosen or "selected" in found):
                chosen[name] = found.get("value", "")
            elif tag in ("input", "textarea"):
                name = ""
        return chosen

    def links(self) -> list[str]:
        """Return the targets of all links."""
        return [found["href"] for tag, found in self.elements if tag == "a"]


class Pages:
    """The pages, and the browser of somebody who may be logged in.

    Args:
        world: The broker.
        changes: Other settings of the login.
    """

    def __init__(self, world: World, **changes: Any) -> None:
        self.world = world
        self.provider = Provider()
        self.provider.answers["/realms/lab/token"] = self._token
        self.claims: dict[str, Any] = {}
        self._nonce = ""
        settings = OidcLogin.model_validate(SETTINGS | changes)
        logins = Logins(settings, world.broker.store, transport=self.provider.transport)
        self.broker = dataclasses.replace(world.broker, logins=logins)
        world.app = create_app(self.broker)
        self.jar: dict[str, str] = {}
        self.http = world.http()

    def close(self) -> None:
        if self.broker.logins is not None:
            self.broker.logins.close()

    def _token(self, _: httpx.Request) -> httpx.Response:
        claims = self.provider.claims(
            self.world.clock(), aud="pages", azp="pages", nonce=self._nonce, **self.claims
        )
        return httpx.Response(200, json={"id_token": self.provider.signers[0].sign(claims)})

    def log_in(self, role: str = "data-owners", **claims: Any) -> Pages:
        """Log in, as an owner if nothing else is said."""
        self.claims = {"groups": [role], "preferred_username": "olivia", "sub": "owner-1"} | claims
        asked = self.send("GET", "/login?next=/owner/")
        query = {
            name: value[0] for name, value in parse_qs(urlsplit(asked.headers["location"]).query).items()
        }
        self._nonce = query["nonce"]
        done = self.send("GET", f"/callback?code=a-code&state={query['state']}&iss={ISSUER}")
        assert done.status_code == 303, done.text
        return self

    def send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send a request as a browser does, and keep its cookies."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        headers = {"Cookie": cookies, "Accept": "text/html,*/*;q=0.8"} | kwargs.pop("headers", {})
        response = self.http.request(method, path, headers=headers, follow_redirects=False, **kwargs)
        self.http.cookies.clear()
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value.strip('"')
        return response

    def get(self, path: str, status: int = 200) -> Document:
        """Open a page below `/owner`."""
        response = self.send("GET", f"/owner{path}")
        assert response.status_code == status, f"{response.status_code} {response.text[:2000]}"
        assert response.headers["content-type"].startswith("text/html")
        return Document(response.text)

    def post(self, path: str, fields: Mapping[str, str]) -> httpx.Response:
        """Send a form to a page below `/owner`."""
        return self.send("POST", f"/owner{path}", data=dict(fields))

    def submit(self, path: str, action: str = "", /, **changes: str | None) -> httpx.Response:
        """Open a page, fill its form and send it; a change to None leaves a field out."""
        fields: dict[str, str | None] = {**self.get(path).form(action or ""), **changes}
        kept = {name: value for name, value in fields.items() if value is not None}
        return self.post(action or path, kept)

    def done(self, response: httpx.Response) -> Document:
        """Follow the redirect that a form was answered with."""
        assert response.status_code == 303, f"{response.status_code} {Document(response.text).text[:2000]}"
        target: str = response.headers["location"]
        assert target.startswith("/owner/"), target
        return self.get(target.removeprefix("/owner"))

    @property
    def csrf(self) -> str:
        """What the login's forms bring along."""
        return next(form["csrf"] for form in self.get("/").forms if "csrf" in form)
