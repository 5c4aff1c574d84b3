# SPDX-License-Identifier: BSD-3-Clause
"""Projects: everything that belongs to one is halted at once, and let go on again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sealroom.kbs.calls import Project
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker import acts
from sealroom_broker.broker import Broker
from sealroom_broker.owner_pages import names
from sealroom_broker.owner_pages.forms import MAX_TEXT, Form
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, acting, again, back, page, reading
from sealroom_broker.owner_pages.sentences import grant_state, grantee
from sealroom_broker.owners import Actor
from sealroom_broker.problem import not_found
from sealroom_broker.web import in_thread

Turn = Callable[[Broker, str, str, Actor, datetime], Project]


async def projects(request: Request) -> Response:
    """List the projects."""
    visit = await reading(request)
    return await page(visit, "projects.html", _projects, visit)


async def project(request: Request) -> Response:
    """Show one project with the form that halts it, or lets it go on."""
    visit = await reading(request)
    return await page(visit, "project.html", _project, visit, Form())


async def halt(request: Request) -> Response:
    """Halt a project."""
    return await _turn(request, acts.halt, "is halted. Its servers lose the data at their next look.")


async def resume(request: Request) -> Response:
    """Let a project go on."""
    return await _turn(request, acts.resume, "goes on; its grants hold again.")


async def _turn(request: Request, act: Turn, done: str) -> Response:
    visit, fields = await acting(request)
    form, name = Form(fields), visit.path("project")
    reason = form.text("reason", missing="Say why; it stands in the audit log.", limit=MAX_TEXT)
    if form.errors:
        return await again(visit, "project.html", _project, visit, form)
    await in_thread(act, visit.broker, name, reason, visit.actor, visit.now)
    return back(visit, f"/projects/{name}", f"The project {name} {done}")


def _projects(visit: Visit) -> Context:
    found = acts.projects(visit.broker, visit.actor).projects
    ordered = sorted(found, key=lambda one: one.state != "halted")
    return {"slice": paged(ordered, visit.query.get("page", ""))}


def _project(visit: Visit, form: Form) -> Context:
    name = visit.path("project")
    found = next((one for one in acts.projects(visit.broker, visit.actor).projects if one.name == name), None)
    if found is None:
        raise not_found("No grant belongs to a project of this name.")
    people, halted = names.people(visit.broker), {name} if found.state == "halted" else set[str]()
    grants = [
        {"grant": one, "who": grantee(one, people), "state": grant_state(one, visit.now, halted)}
        for one in acts.grants(visit.broker, visit.actor).grants
        if one.project == name
    ]
    return {
        "project": found,
        "slice": paged(grants, visit.query.get("page", "")),
        "titles": names.titles(visit.broker, visit.actor),
        "form": form,
    }
