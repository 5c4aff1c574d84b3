# SPDX-License-Identifier: BSD-3-Clause
"""The hub service that knows what each notebook server has proven.

Servers say where they are on their way and present their attestation result (an EAR token). The service
believes the result only after verifying the broker's signature; what a server writes about itself is shown
as its own words.

| route under the service's prefix | who | what |
|---|---|---|
| `POST api/servers/<name>/events` | a server, with its own token | says a stage, a sentence, the result |
| `GET api/servers` | a person (hub login or token) | own servers; with the board's scope others' |
| `GET servers.csv` | the same | the same as a table |
| `GET` of the prefix | a person in a browser | the same as a page |
| `api/internal/<user>/<name>` | the spawner, with the service's own token | begin, read, end |

Invariants:

- Which server speaks is read from the token's scopes at the hub, never from the request.
- No tier but "none" is stored without a verified result; a result that another server presented counts for
  nobody.
- The tier shown is for people. Keys are released by the broker's own decision, which does not ask this
  service.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from jupyterhub.services.auth import HubOAuth, HubOAuthCallbackHandler, HubOAuthenticated
from jupyterhub.utils import url_path_join
from sealroom.errors import Error, NetworkError
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback

from sealroom_spawner import board
from sealroom_spawner.results import NOTHING, Result, ResultVerifier
from sealroom_spawner.status import Event, ServerStatus, Stage
from sealroom_spawner.store import Store
from sealroom_spawner.tiers import badge

MAX_BODY = 256 * 1024
MAX_SENTENCE = 500
PAGE = 200
"""People in one answer of the hub: the most that it gives unless its operator says otherwise."""
_SERVER_SCOPE = re.compile(r"access:servers!server=([^/]+)/(.*)")


class Hub:
    """What the service asks the hub.

    Args:
        api_url: The hub's REST interface.
        token: The service's token.
        service: The service's name.
    """

    def __init__(self, api_url: str, token: str, service: str) -> None:
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._access = {"access:services", f"access:services!service={service}"}

    async def server_of(self, token: str) -> tuple[str, str] | None:
        """Return the user and name of the server that owns this token; None for any other token."""
        model = await self._get("user", token)
        scopes = set() if model is None else set(model.get("scopes", []))
        found = [match for scope in scopes if (match := _SERVER_SCOPE.fullmatch(scope))]
        # A person's own token covers all of their servers by other scopes; a server's names exactly one.
        if model is None or len(found) != 1 or not scopes & self._access:
            return None
        user, server = found[0].groups()
        return (user, server) if user == model.get("name") else None

    async def running(self) -> Running | None:
        """Return the servers that run, and whose they are; None if the hub does not say."""
        servers: set[tuple[str, str]] = set()
        groups: dict[str, frozenset[str]] = {}
        # The hub answers in pages, as long as its operator allows.
        offset: int | None = 0
        while offset is not None:
            answer = await self._get(
                f"users?state=active&limit={PAGE}&offset={offset}", self._token, paged=True
            )
            if not isinstance(answer, dict):
                return None
            for user in answer["items"]:
                servers |= {(user["name"], server) for server in user.get("servers", {})}
                groups[user["name"]] = frozenset(user.get("groups", ()))
            following = answer["_pagination"].get("next")
            offset = int(following["offset"]) if following else None
        return Running(servers, groups)

    async def _get(self, path: str, token: str, *, paged: bool = False) -> Any:
        headers = {"Authorization": f"token {token}"}
        if paged:
            headers["Accept"] = "application/jupyterhub-pagination+json"
        request = HTTPRequest(f"{self._api_url}/{path}", headers=headers, request_timeout=10)
        try:
            answer = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            if error.code in (401, 403, 404):
                return None
            raise web.HTTPError(503, "The hub did not answer") from error
        except OSError as error:
            raise web.HTTPError(503, "The hub did not answer") from error
        return json.loads(answer.body)


@dataclass(frozen=True, slots=True)
class Running:
    """What the hub says of the servers that run."""

    servers: set[tuple[str, str]]
    """User and name."""
    groups: dict[str, frozenset[str]]
    """The groups of their people."""


class Handler(web.RequestHandler):
    """What all handlers of the service share."""

    @property
    def store(self) -> Store:
        """The service's memory."""
        store: Store = self.settings["store"]
        return store

    @property
    def hub(self) -> Hub:
        """The hub."""
        hub: Hub = self.settings["hub"]
        return hub

    def set_default_headers(self) -> None:
        """Allow nothing but the hub's own style sheet."""
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'self' 'unsafe-inline'; "
            "font-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        )
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON with its sentence."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        message = (
            error.log_message if isinstance(error, web.HTTPError) and error.log_message else self._reason
        )
        self.finish({"message": message})

    def presented_token(self) -> str:
        """Return the token in the request's header, empty if there is none."""
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() in ("token", "bearer") else ""


class EventsHandler(Handler):
    """A server says where it is."""

    def check_xsrf_cookie(self) -> None:
        """Do nothing: only a token in a header is accepted here, which no foreign page can send."""

    async def post(self, _name: str = "") -> None:
        """Record one event."""
        speaker = await self.hub.server_of(self.presented_token())
        if speaker is None:
            raise web.HTTPError(403, "Only a notebook server may report, with its own token")
        stage, sentence, token = self._body()
        result = NOTHING
        if token:
            stage, sentence, result = await self._believed(speaker, stage, sentence, token)
        elif stage is Stage.VERIFIED:
            raise web.HTTPError(400, "A verified server presents its attestation result")
        event = Event(stage, sentence, result.tier, time.time())
        self.store.record(*speaker, event, environment=result.environment, key=result.key, until=result.until)
        self.set_status(204)

    async def _believed(
        self, speaker: tuple[str, str], stage: Stage, sentence: str, token: str
    ) -> tuple[Stage, str, Result]:
        verifier: ResultVerifier = self.settings["verifier"]
        try:
            result = await verifier.verify(token)
        except NetworkError as error:
            raise web.HTTPError(503, error.message) from error
        except Error as error:
            return Stage.REFUSED, f"The attestation result does not verify: {error.message}", NOTHING
        holder = self.store.holder_of_key(result.key) if result.key else None
        if holder is not None and holder != speaker:
            return Stage.REFUSED, "This attestation result belongs to another server.", NOTHING
        return stage, sentence, result

    def _body(self) -> tuple[Stage, str, str]:
        try:
            body = json.loads(self.request.body)
            stage, sentence = Stage(body["stage"]), body["sentence"]
            token = body.get("token") or ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise web.HTTPError(400, "An event has a known stage and a sentence") from error
        if not isinstance(sentence, str) or not isinstance(token, str):
            raise web.HTTPError(400, "An event's sentence and token are texts")
        printable = "".join(character for character in sentence if character.isprintable())
        return stage, printable[:MAX_SENTENCE], token


class InternalHandler(Handler):
    """The spawner begins, reads and ends."""

    def check_xsrf_cookie(self) -> None:
        """Do nothing: only the service's own token in a header is accepted here."""

    def prepare(self) -> None:
        """Let in nobody but the hub."""
        expected: str = self.settings["token"]
        if not expected or not hmac.compare_digest(self.presented_token().encode(), expected.encode()):
            raise web.HTTPError(403, "Only the hub may ask this")

    def get(self, user: str, server: str) -> None:
        """Return what is known about a server."""
        status = self.store.get(user, server)
        if status is None:
            raise web.HTTPError(404, "This server is not known")
        self.write(status.as_of(time.time()).to_json())

    def post(self, user: str, server: str) -> None:
        """Begin anew."""
        self.write(self.store.begin(user, server, at=time.time()).to_json())

    def delete(self, user: str, server: str) -> None:
        """Forget."""
        self.store.remove(user, server)
        self.write({})


class PersonHandler(HubOAuthenticated, Handler):
    """What people may see."""

    def sight(self) -> board.Sight:
        """Return whose servers this person may see."""
        return board.Sight.of(self.current_user["name"], self.current_user.get("scopes", []))

    def asked(self) -> board.Filter:
        """Return which of them are asked for."""
        return board.Filter.of(lambda name: str(self.get_query_argument(name, "")))

    async def visible(self, now: float) -> list[ServerStatus]:
        """Return the servers that this person may see."""
        sight = self.sight()
        servers = self.store.all() if sight.others else self.store.of_user(sight.person)
        servers = [status.as_of(now) for status in servers]
        running = await self.hub.running()
        if running is None:
            return sight.of_servers(servers, {})
        servers = [status for status in servers if (status.user, status.server) in running.servers]
        return sight.of_servers(servers, running.groups)


class ServersHandler(PersonHandler):
    """Servers as JSON."""

    @web.authenticated
    async def get(self) -> None:
        """Return the servers with their words."""
        found = board.arranged(await self.visible(time.time()), self.asked())
        shown = [{**status.to_json(), "title": badge(status.tier).title} for status in found]
        self.write({"servers": shown, "everybody": self.sight().everybody})


class TableHandler(PersonHandler):
    """Servers as a table to take along."""

    @web.authenticated
    async def get(self) -> None:
        """Return the servers as CSV."""
        now = time.time()
        found = board.arranged(await self.visible(now), self.asked())
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="servers.csv"')
        self.write(board.to_csv(found, now))


class PageHandler(PersonHandler):
    """Servers as a page."""

    @web.authenticated
    async def get(self) -> None:
        """Show the servers."""
        now, asked = time.time(), self.asked()
        servers = await self.visible(now)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.render(
            "servers.html",
            servers=servers,
            shown=board.arranged(servers, asked),
            asked=asked,
            sight=self.sight(),
            counts=board.counts(servers),
            environments=board.environments_of(servers),
            order=[str(tier) for tier in board.ORDER],
            proven_at=board.proven_at,
            age=board.age,
            now=now,
            every=self.get_query_argument("every", "") == "30",
            here=self.request.path,
            badge=badge,
            hub_prefix=self.hub_auth.hub_prefix,
            when=lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)),
        )


def make_app(*, prefix: str, hub: Hub, token: str, store: Store, verifier: ResultVerifier) -> web.Application:
    """Make the service.

    Args:
        prefix: The service's path, with slashes at both ends.
        hub: The hub.
        token: The service's own token.
        store: Its memory.
        verifier: Verifies attestation results.
    """
    # The last %2F-free part is the server's name; that of the default server is empty.
    routes: list[Any] = [
        (r"api/servers/([^/]*)/events", EventsHandler),
        (r"api/servers/events", EventsHandler),
        (r"api/internal/([^/]+)/([^/]*)", InternalHandler),
        (r"api/servers", ServersHandler),
        (r"servers\.csv", TableHandler),
        (r"oauth_callback", HubOAuthCallbackHandler),
        (r"", PageHandler),
    ]
    return web.Application(
        [(url_path_join(prefix, path) if path else re.escape(prefix), handler) for path, handler in routes],
        cookie_secret=os.urandom(32),
        template_path=str(Path(__file__).parent / "templates"),
        hub=hub,
        token=token,
        store=store,
        verifier=verifier,
    )


def main() -> None:
    """Run as a service of the hub, which says everything in the environment; end when the hub ends."""
    parent = os.getppid()
    token = os.environ["JUPYTERHUB_API_TOKEN"]
    store = Store(Path(os.environ["SEALROOM_STATUS_DATABASE"]))
    auth = HubOAuth.instance()
    hub = Hub(auth.api_url, token, os.environ["JUPYTERHUB_SERVICE_NAME"])
    app = make_app(
        prefix=os.environ["JUPYTERHUB_SERVICE_PREFIX"],
        hub=hub,
        token=token,
        store=store,
        verifier=ResultVerifier(
            os.environ["SEALROOM_BROKER_URL"],
            simulated_only=bool(os.environ.get("SEALROOM_SIMULATED_ONLY")),
        ),
    )
    address = urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
    server = HTTPServer(app, max_body_size=MAX_BODY)
    server.listen(address.port or 80, address.hostname)
    loop = IOLoop.current()

    def follow_hub() -> None:
        # A hub that was killed cannot end its services.
        if os.getppid() != parent:
            loop.stop()

    PeriodicCallback(follow_hub, 500).start()
    loop.start()


if __name__ == "__main__":
    main()
