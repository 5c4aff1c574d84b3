# SPDX-License-Identifier: BSD-3-Clause
"""Routes of the login to the pages, and what pages ask about their visitors.

`/login` sends the browser to the provider, `/callback` takes it back, `/logout` ends the login. A page asks
`visitor_of` who is there or `require` for a role, and `check_csrf` before it changes anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from sealroom.errors import Error, NetworkError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sealroom_broker.kbs_routes import body_of, broker_of
from sealroom_broker.login_providers import Role
from sealroom_broker.logins import BEGUN, Logins, Visitor, safe_target
from sealroom_broker.problem import Problem, bad_request, not_found, refused, unavailable
from sealroom_broker.web import in_thread

CSRF_FIELD: Final = "csrf"
"""Name of the field that every form which changes something has; its value is `Visitor.csrf`."""
CSRF_HEADER: Final = "x-csrf-token"
_FORM: Final = "application/x-www-form-urlencoded"


async def login(request: Request) -> Response:
    """Send the browser to the provider."""
    logins, broker = _logins(request), broker_of(request)
    target = request.query_params.get("next", "/")
    try:
        value, url = await in_thread(logins.begin, target, broker.clock())
    except NetworkError as error:
        raise _unreachable() from error
    return _with_cookie(RedirectResponse(url, 303), logins, _begun_cookie(logins), value, BEGUN)


async def callback(request: Request) -> Response:
    """Take the browser back from the provider."""
    logins, broker = _logins(request), broker_of(request)
    kept = request.cookies.get(_begun_cookie(logins))
    try:
        value, target = await in_thread(logins.finish, kept, dict(request.query_params), broker.clock())
    except NetworkError as error:
        raise _unreachable() from error
    except Error as error:
        raise refused("login.token", "The identity provider's answer is not for this login.") from error
    response = RedirectResponse(public_path(logins) + target, 303)
    _without_cookie(response, logins, _begun_cookie(logins))
    life = timedelta(hours=logins.settings.hours)
    return _with_cookie(response, logins, _cookie(logins), value, life)


async def logout(request: Request) -> Response:
    """End the login."""
    logins = _logins(request)
    visitor = await visitor_of(request)
    if visitor is not None:
        await check_csrf(request, visitor)
        await in_thread(logins.end, request.cookies.get(_cookie(logins)))
    response = RedirectResponse(f"{public_path(logins)}/", 303)
    _without_cookie(response, logins, _cookie(logins))
    return response


async def visitor_of(request: Request) -> Visitor | None:
    """Return who is logged in."""
    broker = broker_of(request)
    if broker.logins is None:
        return None
    cookie = request.cookies.get(_cookie(broker.logins))
    return await in_thread(broker.logins.visitor, cookie, broker.clock())


async def require(request: Request, *roles: Role) -> Visitor:
    """Return who is logged in, with at least one of the roles; any role will do without them.

    Raises:
        Problem: Nobody is (303 to the login), or they lack the roles (403).
    """
    visitor = await visitor_of(request)
    if visitor is None:
        logins = _logins(request)
        path = request.url.path.removeprefix(public_path(logins))
        if request.url.query:
            path += f"?{request.url.query}"
        query = urlencode({"next": safe_target(path) if request.method == "GET" else "/"})
        where = f"{public_path(logins)}/login?{query}"
        raise Problem(303, "LoginNeeded", "Log in first.", headers={"Location": where})
    if roles and not visitor.roles & set(roles):
        raise refused("login.role", f"This needs the role {' or '.join(roles)}.")
    return visitor


async def check_csrf(request: Request, visitor: Visitor) -> Mapping[str, str]:
    """Check that a request which changes something comes from the visitor's own page.

    Returns:
        The form's fields; of one that is there more than once, the last.

    Raises:
        Problem: It does not (403), or is too long (413).
    """
    body = await body_of(request)
    fields: dict[str, str] = {}
    if request.headers.get("content-type", "").partition(";")[0].strip() == _FORM:
        try:
            pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            raise bad_request("The form has too many fields.") from None
        fields = dict(pairs)
    presented = request.headers.get(CSRF_HEADER) or fields.get(CSRF_FIELD, "")
    if not hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), visitor.csrf.encode()):
        raise refused("login.csrf", "This form is not one of your login's: load the page again.")
    return fields


def _logins(request: Request) -> Logins:
    logins = broker_of(request).logins
    if logins is None:
        raise not_found("This broker has no login to its pages.")
    return logins


def public_path(logins: Logins) -> str:
    """Return the path of the pages as browsers know it, without a slash at its end."""
    return urlsplit(logins.settings.public_url).path.rstrip("/")


def secure(logins: Logins) -> bool:
    """Tell whether browsers may send the cookies over HTTPS only."""
    return urlsplit(logins.settings.public_url).scheme == "https"


def _cookie(logins: Logins, name: str = "sealroom-login") -> str:
    """Return the cookie's name; with the prefix that makes browsers keep to what we ask for."""
    if not secure(logins):
        return name
    return f"__Secure-{name}" if public_path(logins) else f"__Host-{name}"


def _begun_cookie(logins: Logins) -> str:
    return _cookie(logins, "sealroom-login-begun")


def _with_cookie(response: Response, logins: Logins, name: str, value: str, life: timedelta) -> Response:
    # The path keeps it from other servers behind the same proxy. `lax`, because the browser comes back from
    # the provider's site; what changes something has a CSRF token.
    response.set_cookie(
        name,
        value,
        max_age=int(life.total_seconds()),
        path=public_path(logins) or "/",
        secure=secure(logins),
        httponly=True,
        samesite="lax",
    )
    return response


def _without_cookie(response: Response, logins: Logins, name: str) -> None:
    response.delete_cookie(
        name, path=public_path(logins) or "/", secure=secure(logins), httponly=True, samesite="lax"
    )


def _unreachable() -> Problem:
    return unavailable("login.unchecked", "The identity provider does not answer: try again later.")


ROUTES: Sequence[BaseRoute] = (
    Route("/login", login, methods=["GET"]),
    Route("/callback", callback, methods=["GET"]),
    Route("/logout", logout, methods=["POST"]),
)
