# SPDX-License-Identifier: BSD-3-Clause
"""Which address leads to which page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sealroom_broker.owner_pages import (
    asking,
    assets,
    audit,
    datasets,
    environments,
    grants,
    overview,
    projects,
    servers,
)
from sealroom_broker.owner_pages.render import base_of
from sealroom_broker.problem import not_found

Page = Callable[[Request], Awaitable[Response]]


async def nothing(_request: Request) -> Response:
    """Say that there is no such page."""
    raise not_found("There is no such page.")


async def to_form(request: Request) -> Response:
    """Send the browser to the page with the form, if somebody opens the address that the form is sent to."""
    where = request.url.path.removeprefix(base_of(request)).rpartition("/")[0]
    return RedirectResponse(base_of(request) + where, 303)


def _get(path: str, page: Page) -> Route:
    return Route(f"/owner{path}", _named(page), methods=["GET"])


def _post(path: str, act: Page) -> Route:
    return Route(f"/owner{path}", _named(act), methods=["POST"])


def _named(page: Page) -> Page:
    """Give a page a name that no call of the API has, for the metrics."""

    async def named(request: Request) -> Response:
        return await page(request)

    named.__name__ = f"page_{page.__module__.rpartition('.')[2]}_{page.__name__}"
    return named


ROUTES: Sequence[BaseRoute] = (
    _get("", overview.to_overview),
    _get("/", overview.overview),
    _get("/static/{path:path}", assets.static_file),
    _get("/datasets", datasets.datasets),
    _get("/datasets/{dataset}", datasets.dataset),
    _get("/datasets/{dataset}/destroy", datasets.destroy_form),
    _post("/datasets/{dataset}/destroy", datasets.destroy),
    _get("/requests", asking.access_requests),
    _get("/requests/{request}", asking.access_request),
    _post("/requests/{request}/grant", asking.grant),
    _get("/requests/{request}/grant", to_form),
    _post("/requests/{request}/refuse", asking.refuse),
    _get("/requests/{request}/refuse", to_form),
    _get("/grants", grants.grants),
    _get("/grants/new", grants.new_form),
    _post("/grants/new", grants.new),
    _get("/grants/{grant}", grants.grant),
    _get("/grants/{grant}/change", grants.change_form),
    _post("/grants/{grant}/change", grants.change),
    _get("/grants/{grant}/withdraw", grants.withdraw_form),
    _post("/grants/{grant}/withdraw", grants.withdraw),
    _get("/projects", projects.projects),
    _get("/projects/{project}", projects.project),
    _post("/projects/{project}/halt", projects.halt),
    _get("/projects/{project}/halt", to_form),
    _post("/projects/{project}/resume", projects.resume),
    _get("/projects/{project}/resume", to_form),
    _get("/environments", environments.environments),
    _get("/environments/diff", environments.difference),
    _get("/environments/{digest}", environments.environment),
    _get("/servers", servers.servers),
    _get("/audit", audit.entries),
    _get("/audit/checkpoint", audit.checkpoint),
    _get("/audit/key", audit.key),
    _get("/audit/{index}", audit.entry),
    _get("/audit/{index}/proof", audit.proof),
    _get("/audit/{index}/proof.json", audit.proof_json),
    _get("/evidence/{digest}", audit.evidence),
    _get("/{path:path}", nothing),
)
