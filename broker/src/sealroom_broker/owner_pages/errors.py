# SPDX-License-Identifier: BSD-3-Clause
"""Errors as pages, for people with a browser; programs get the protocol's form, as everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.owner_pages.render import base_of, html, stranger
from sealroom_broker.web import on_problem

_PAGES: Final = frozenset({"owner", "login", "callback", "logout"})
_TITLES: Final[Mapping[int, str]] = {
    400: "This cannot be done",
    403: "You may not do this",
    404: "Not found",
    405: "This cannot be done",
    409: "This cannot be done",
    413: "Too much",
    503: "Not possible now",
}


def on_error(request: Request, error: Exception) -> Response:
    """Turn what a handler raised into an answer: a page where a browser asked for one."""
    response = on_problem(request, error)
    if not _is_page(request):
        return response
    if response.status_code == 303:
        if request.method in ("GET", "HEAD"):
            return response
        # A form's redirect to the provider would be stopped by browsers, without a word.
        ended = "Your login has ended, and nothing was changed. Log in and try again."
        return _error_page(request, 403, ended)
    detail = json.loads(bytes(response.body))["detail"]
    page = _error_page(request, response.status_code, detail)
    for name, value in response.headers.items():
        if name not in ("content-type", "content-length"):
            page.headers[name] = value
    return page


def _is_page(request: Request) -> bool:
    if "text/html" not in request.headers.get("accept", ""):
        return False
    root = str(request.scope.get("root_path", ""))
    path = str(request.scope["path"]).removeprefix(root)
    return path.strip("/").partition("/")[0] in _PAGES


def _error_page(request: Request, status: int, detail: str) -> Response:
    context = {
        **stranger(request),
        "title": _TITLES.get(status, "Something is wrong"),
        "status": status,
        "detail": detail,
        "login": f"{base_of(request)}/login?next=/owner/" if broker_of(request).logins is not None else "",
    }
    return html(request, "error.html", context, status)
