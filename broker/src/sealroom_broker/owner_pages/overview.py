# SPDX-License-Identifier: BSD-3-Clause
"""The overview: what needs somebody, and how the broker stands."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sealroom.audit.note import Checkpoint
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sealroom_broker import acts, requests
from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.owner_pages import names
from sealroom_broker.owner_pages.render import Context, Visit, base_of, html, page, reading, stranger
from sealroom_broker.owner_pages.search import Search, search
from sealroom_broker.owner_pages.sentences import grant_state, grantee
from sealroom_broker.store import ReleaseRow, SessionRow
from sealroom_broker.web import in_thread

_REFUSALS: Final = 5
_REFUSALS_BUDGET: Final = 5_000
"""Newest entries of the log in which refusals are looked for."""
_PERMIT_SOON: Final = timedelta(days=30)


async def to_overview(request: Request) -> Response:
    """Send the browser to the overview."""
    return RedirectResponse(f"{base_of(request)}/owner/", 303)


async def overview(request: Request) -> Response:
    """Say what needs somebody."""
    if broker_of(request).logins is None:
        # There is nothing to see without a login, and no way to one.
        return await in_thread(html, request, "no_login.html", stranger(request))
    visit = await reading(request)
    return await page(visit, "overview.html", _overview, visit)


def _overview(visit: Visit) -> Context:
    broker, actor, now = visit.broker, visit.actor, visit.now
    datasets = acts.owned_datasets(broker, actor).datasets
    projects = acts.projects(broker, actor).projects
    halted = {one.name for one in projects if one.state == "halted"}
    states = [(grant_state(one, now, halted), one) for one in acts.grants(broker, actor).grants]
    ending = sorted((one for state, one in states if state == "ends_soon"), key=lambda one: str(one.until))
    titles, people = {one.id: one.title for one in datasets}, names.people(broker)
    refusals = search(broker.record.log, Search(kind="refusal"), limit=_REFUSALS, budget=_REFUSALS_BUDGET)
    servers, holding = _servers(visit)
    return {
        "open_requests": requests.requests(broker, actor, state="open").requests,
        "ending": [{"grant": one, "who": grantee(one, people)} for one in ending],
        "halted": [one for one in projects if one.state == "halted"],
        "permits": [
            one
            for one in datasets
            if one.destroyed is None and one.keep_until is not None and one.keep_until - now <= _PERMIT_SOON
        ],
        "refusals": refusals.entries,
        "titles": titles,
        "datasets": len(datasets),
        "running_grants": sum(state in ("active", "ends_soon") for state, _ in states),
        "servers": servers,
        "holding": holding,
        "checkpoint": Checkpoint.open(broker.record.log.checkpoint(), broker.record.signer.verifier),
        "verifier": str(broker.record.signer.verifier),
    }


def _servers(visit: Visit) -> tuple[int, int]:
    """Count the servers whose proof holds, and those among them that a dataset was released to."""
    # Counted where they are: the page of the servers judges each of them, which takes time.
    stands = SessionRow.attested_until > visit.now
    released = select(func.count(func.distinct(SessionRow.id))).join(
        ReleaseRow, ReleaseRow.session == SessionRow.id
    )
    with visit.broker.store.read() as session:
        servers = session.scalars(select(func.count()).select_from(SessionRow).where(stands)).one()
        holding = session.scalars(released.where(stands, ReleaseRow.ended.is_(None))).one()
    return servers, holding
