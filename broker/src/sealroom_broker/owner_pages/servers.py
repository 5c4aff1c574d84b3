# SPDX-License-Identifier: BSD-3-Clause
"""The servers that proved themselves, what they proved, and what they hold."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker import seen
from sealroom_broker.owner_pages import names
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, page, reading


async def servers(request: Request) -> Response:
    """List the servers."""
    visit = await reading(request)
    return await page(visit, "servers.html", _servers, visit)


def _servers(visit: Visit) -> Context:
    found = seen.servers_seen(visit.broker, visit.actor)
    rows = [{"server": one, "stands": one.stands(visit.now)} for one in found]
    rows.sort(key=lambda row: not row["stands"])
    return {
        "slice": paged(rows, visit.query.get("page", "")),
        "environments": names.environments(visit.broker),
        "titles": names.titles(visit.broker, visit.actor),
    }
