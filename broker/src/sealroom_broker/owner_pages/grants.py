# SPDX-License-Identifier: BSD-3-Clause
"""The grants: who may use what, where, for what and until when; given, changed and withdrawn."""

from __future__ import annotations

from collections.abc import Mapping

from sealroom.kbs.calls import Grant
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker import acts
from sealroom_broker.owner_pages import names, terms
from sealroom_broker.owner_pages.forms import Form
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, acting, again, back, owning, page, reading
from sealroom_broker.owner_pages.sentences import GRANT_STATES, grant_state, grantee, meaning
from sealroom_broker.problem import Problem, not_found
from sealroom_broker.web import in_thread


async def grants(request: Request) -> Response:
    """List the grants."""
    visit = await reading(request)
    return await page(visit, "grants.html", _grants, visit)


async def grant(request: Request) -> Response:
    """Show one grant."""
    visit = await reading(request)
    return await page(visit, "grant.html", _grant, visit)


async def new_form(request: Request) -> Response:
    """Show the form of a new grant."""
    visit = await owning(request)
    wanted = {name: visit.query.get(name, "")[:200] for name in ("dataset", "project")}
    form = terms.fresh(visit.now, development=visit.broker.development, **wanted)
    return await page(visit, "grant_new.html", _new, visit, form)


async def new(request: Request) -> Response:
    """Give a grant."""
    visit, fields = await acting(request)
    form = Form(fields)
    spec = terms.new_grant(form, visit.now)
    if spec is not None:
        try:
            given = await in_thread(acts.give_grant, visit.broker, spec, visit.actor, visit.now)
        except Problem as problem:
            _refused(form, problem)
        else:
            return back(visit, f"/grants/{given.id}", "The grant is given.")
    return await again(visit, "grant_new.html", _new, visit, form)


async def change_form(request: Request) -> Response:
    """Show the form that changes a grant."""
    visit = await owning(request)
    return await page(visit, "grant_change.html", _change, visit, None)


async def change(request: Request) -> Response:
    """Narrow or extend a grant."""
    visit, fields = await acting(request)
    form, grant_id = Form(fields), visit.path("grant")
    before = await in_thread(_one, visit)
    changed = terms.change(form, before, visit.now)
    if changed is not None and terms.is_empty(changed):
        return back(visit, f"/grants/{grant_id}", "Nothing was changed.", level="note")
    if changed is not None:
        try:
            await in_thread(acts.change_grant, visit.broker, grant_id, changed, visit.actor, visit.now)
        except Problem as problem:
            _refused(form, problem)
        else:
            return back(visit, f"/grants/{grant_id}", "The grant is changed; it holds at once.")
    return await again(visit, "grant_change.html", _change, visit, form)


async def withdraw_form(request: Request) -> Response:
    """Ask whether a grant is really to be withdrawn."""
    visit = await owning(request)
    return await page(visit, "grant_withdraw.html", _grant, visit)


async def withdraw(request: Request) -> Response:
    """Withdraw a grant."""
    visit, _ = await acting(request)
    before = await in_thread(_one, visit)
    await in_thread(acts.withdraw, visit.broker, before.id, visit.actor, visit.now)
    if before.withdrawn is not None:
        return back(visit, f"/grants/{before.id}", "It was withdrawn already.", level="note")
    done = "The grant is withdrawn. Servers that run by it lose the dataset at their next look at the broker."
    return back(visit, f"/grants/{before.id}", done)


def _refused(form: Form, problem: Problem) -> None:
    """Show beside the form what is wrong with it; whatever else went wrong is no matter of the form."""
    if problem.status not in (400, 404, 409):
        raise problem
    form.wrong("", problem.body.detail)


def _grants(visit: Visit) -> Context:
    wanted = {name: visit.query.get(name, "").strip() for name in ("dataset", "person", "state")}
    titles, people = names.titles(visit.broker, visit.actor), names.people(visit.broker)
    halted = names.halted(visit.broker, visit.actor)
    environments = names.environments(visit.broker)
    rows = []
    for one in reversed(acts.grants(visit.broker, visit.actor, wanted["dataset"] or None).grants):
        state, who = grant_state(one, visit.now, halted), grantee(one, people)
        if wanted["state"] not in ("", state) or wanted["person"].lower() not in who.lower():
            continue
        title = titles.get(one.dataset, one.dataset)
        said = meaning(one, visit.now, title=title, names=people, environments=environments, halted=halted)
        rows.append({"grant": one, "state": state, "who": who, "title": title, "meaning": said})
    rows.sort(key=lambda row: GRANT_STATES.index(str(row["state"])) > 3)
    return {
        "slice": paged(rows, visit.query.get("page", "")),
        "wanted": wanted,
        "titles": titles,
        "states": GRANT_STATES,
    }


def _one(visit: Visit) -> Grant:
    for found in acts.grants(visit.broker, visit.actor).grants:
        if found.id == visit.path("grant"):
            return found
    raise not_found("There is no such grant.")


def _grant(visit: Visit) -> Context:
    return _shown(visit, _one(visit))


def _shown(visit: Visit, found: Grant) -> Context:
    titles, people = names.titles(visit.broker, visit.actor), names.people(visit.broker)
    environments = names.environments(visit.broker)
    title = titles.get(found.dataset, found.dataset)
    halted = names.halted(visit.broker, visit.actor)
    return {
        "grant": found,
        "title": title,
        "who": grantee(found, people),
        "state": grant_state(found, visit.now, halted),
        "environments": environments,
        "meaning": meaning(
            found, visit.now, title=title, names=people, environments=environments, halted=halted
        ),
    }


def _new(visit: Visit, form: Form) -> Context:
    titles = names.titles(visit.broker, visit.actor)
    return {"offered": _offered(visit, form), "titles": titles, "form": form}


def _change(visit: Visit, form: Form | None) -> Context:
    found = _one(visit)
    filled = form or terms.filled(found)
    return {**_shown(visit, found), "offered": _offered(visit, filled), "form": filled}


def _offered(visit: Visit, form: Form) -> Mapping[str, object]:
    projects = [one.name for one in acts.projects(visit.broker, visit.actor).projects]
    issuers = visit.broker.issuers
    return {
        **terms.choices(form, visit.broker.environments.all()),
        "projects": projects,
        "issuers": issuers.people,
        "visa_issuers": issuers.visas,
    }
