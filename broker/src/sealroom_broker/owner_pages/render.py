# SPDX-License-Identifier: BSD-3-Clause
"""From a template to an answer: what all pages share, the policy that guards them, and flash messages."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any, Final, Literal, ParamSpec
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sealroom_broker.broker import Broker
from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.login import check_csrf, public_path, require, secure
from sealroom_broker.logins import Visitor
from sealroom_broker.owner_pages import words
from sealroom_broker.owner_pages.assets import FOLDER, assets
from sealroom_broker.owners import Actor
from sealroom_broker.web import in_thread

P = ParamSpec("P")
Context = Mapping[str, Any]
"""What a template prints."""

_FLASH: Final = "sealroom-flash"
_MAX_FLASH: Final = 1000
"""Characters of a flash message; it travels in a cookie."""
_POLICY: Final = (
    "default-src 'none'; style-src {files}; script-src {files}; img-src {files}; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is logged in."""

    request: Request
    broker: Broker
    visitor: Visitor
    actor: Actor
    now: datetime
    """The one time that the page is made at."""

    @property
    def base(self) -> str:
        """The path of the pages as browsers know it, without a slash at its end."""
        return base_of(self.request)

    @property
    def query(self) -> Mapping[str, str]:
        """The query's fields."""
        return self.request.query_params

    def path(self, name: str) -> str:
        """Return a part of the request's path."""
        found: str = self.request.path_params[name]
        return found


async def reading(request: Request) -> Visit:
    """Return the visit of somebody who may read.

    Raises:
        Problem: Nobody is logged in (303 to the login), or without a role (403), or there is no login (404).
    """
    return _visit(request, await require(request, "owner", "auditor"))


async def acting(request: Request) -> tuple[Visit, Mapping[str, str]]:
    """Return the visit of an owner who sent a form, and its fields without spaces around them.

    Raises:
        Problem: It is not an owner (403), or the form is not from the owner's own page (403).
    """
    visitor = await require(request, "owner")
    fields = await check_csrf(request, visitor)
    return _visit(request, visitor), {name: value.strip() for name, value in fields.items()}


async def owning(request: Request) -> Visit:
    """Return the visit of somebody who may act, for the page with a form.

    Raises:
        Problem: It is not an owner (403).
    """
    return _visit(request, await require(request, "owner"))


def _visit(request: Request, visitor: Visitor) -> Visit:
    broker = broker_of(request)
    actor = Actor(visitor.actor, "owner" if visitor.has("owner") else "auditor")
    return Visit(request, broker, visitor, actor, broker.clock())


def base_of(request: Request) -> str:
    """Return the path of the pages as browsers know it, without a slash at its end."""
    logins = broker_of(request).logins
    return str(request.scope.get("root_path", "")) if logins is None else public_path(logins)


async def page(
    visit: Visit, template: str, build: Callable[P, Context], *args: P.args, **kwargs: P.kwargs
) -> Response:
    """Build a page's data and render it, away from the event loop."""
    return await in_thread(_page, visit, template, partial(build, *args, **kwargs), 200)


async def again(
    visit: Visit, template: str, build: Callable[P, Context], *args: P.args, **kwargs: P.kwargs
) -> Response:
    """Show a form again, with what was typed and what is wrong with it (400)."""
    return await in_thread(_page, visit, template, partial(build, *args, **kwargs), 400)


def _page(visit: Visit, template: str, build: Callable[[], Context], status: int) -> Response:
    flash = _read_flash(visit)
    context = {**_common(visit.request, visit.visitor, visit.now), "flash": flash, **build()}
    response = html(visit.request, template, context, status)
    if flash is not None:
        response.delete_cookie(_FLASH, path=f"{visit.base}/owner/")
    return response


def back(visit: Visit, path: str, message: str, *, level: Literal["done", "note"] = "done") -> Response:
    """Send the browser to a page after something was done, with a sentence that is shown there once.

    Args:
        visit: The visit.
        path: The page below `/owner`.
        message: The sentence.
        level: Whether something was done, or nothing was to be done.
    """
    response = RedirectResponse(f"{visit.base}/owner{path}", 303)
    response.set_cookie(
        _FLASH,
        _signed(visit, {"level": level, "message": message[:_MAX_FLASH]}),
        max_age=60,
        path=f"{visit.base}/owner/",
        secure=visit.broker.logins is not None and secure(visit.broker.logins),
        httponly=True,
        samesite="strict",
    )
    return response


def _signed(visit: Visit, flash: Mapping[str, str]) -> str:
    body = base64.urlsafe_b64encode(json.dumps(flash).encode()).decode()
    return f"{body}.{_seal(visit, body)}"


def _seal(visit: Visit, body: str) -> str:
    # Another server at this host could plant a cookie: what it says is shown only if this login made it.
    key = b"sealroom-flash/1 " + visit.visitor.csrf.encode()
    return hmac.digest(key, body.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()


def _read_flash(visit: Visit) -> Mapping[str, str] | None:
    body, _, seal = visit.request.cookies.get(_FLASH, "").partition(".")
    if not body or not hmac.compare_digest(_seal(visit, body).encode(), seal.encode("utf-8", "replace")):
        return None
    try:
        value: Mapping[str, str] = json.loads(base64.urlsafe_b64decode(body))
    except (ValueError, binascii.Error):
        return None
    return value


def html(request: Request, template: str, context: Context, status: int = 200) -> Response:
    """Render a template."""
    text = templates().get_template(template).render(context)
    return HTMLResponse(text, status, headers={"Content-Security-Policy": _policy(request)})


def stranger(request: Request) -> Context:
    """Return what a page prints that nobody has to be logged in for."""
    return {**_common(request, None, broker_of(request).clock()), "flash": None}


def _common(request: Request, visitor: Visitor | None, now: datetime) -> dict[str, Any]:
    broker, base = broker_of(request), base_of(request)
    return {
        "base": base,
        "home": f"{base}/owner",
        "broker": broker.config.name,
        "development": broker.development,
        "visitor": visitor,
        "may_act": visitor is not None and visitor.has("owner"),
        "now": now,
        "here": request.url.path.removeprefix(base),
        "style": base + assets()["owner.css"].path,
        "script": base + assets()["owner.js"].path,
        "icon_path": base + assets()["owner.svg"].path,
    }


def _policy(request: Request) -> str:
    logins = broker_of(request).logins
    source = "'self'"
    if logins is not None and public_path(logins):
        # Behind a proxy this origin may have other people's servers: only our own folder counts.
        parts = urlsplit(logins.settings.public_url)
        source = f"{parts.scheme}://{parts.netloc}{public_path(logins)}{FOLDER}"
    return _POLICY.format(files=source)


@cache
def templates() -> Environment:
    """Return the templates."""
    environment = Environment(
        loader=PackageLoader("sealroom_broker", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        when=words.when,
        iso=words.iso,
        ago=words.relative,
        size=words.size,
        short=words.short,
        duo=words.label,
        segment=lambda text: quote(str(text), safe=""),
        query=query,
    )
    environment.globals.update(
        tier_badge=words.tier,
        kind_badge=words.kind,
        state_badge=words.STATES.__getitem__,
        plural=words.count,
    )
    return environment


def query(fields: Mapping[str, object], **changes: object) -> str:
    """Return a query string of the fields that are not empty, with changes."""
    merged = {**fields, **changes}
    return urlencode({name: str(value) for name, value in merged.items() if value not in ("", None)})
