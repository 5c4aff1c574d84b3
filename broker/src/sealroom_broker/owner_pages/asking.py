# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access: who asks, why, from which server, and the owner's answer."""

from __future__ import annotations

from typing import Final

from sealroom.datasets.terms import LABELS
from sealroom.kbs.calls import AccessRequest, ExplainedRule, RequestState
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker import acts, requests
from sealroom_broker.explain import explain
from sealroom_broker.owner_pages import names, terms
from sealroom_broker.owner_pages.forms import MAX_TEXT, Form, local
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, acting, again, back, page, reading
from sealroom_broker.owner_pages.sentences import grant_state, grantee, meaning, person_words
from sealroom_broker.problem import Problem
from sealroom_broker.seen import seen_session
from sealroom_broker.web import in_thread

_STATES: Final[tuple[RequestState, ...]] = ("open", "granted", "refused", "withdrawn")
BADGES: Final = {"withdrawn": "taken_back"}
"""State of a request -> the badge where the words of a grant's state would say something else."""


async def access_requests(request: Request) -> Response:
    """List the requests, open ones first."""
    visit = await reading(request)
    return await page(visit, "requests.html", _requests, visit)


async def access_request(request: Request) -> Response:
    """Show one request with the form that answers it."""
    visit = await reading(request)
    return await page(visit, "request.html", _request, visit, None, None)


async def grant(request: Request) -> Response:
    """Answer a request with a grant."""
    visit, fields = await acting(request)
    form = Form(fields)
    given = terms.answer_grant(form, visit.now)
    if given is not None:
        try:
            answered = await in_thread(
                requests.grant_request, visit.broker, visit.path("request"), given, visit.actor, visit.now
            )
        except Problem as problem:
            _refused(form, problem)
        else:
            return back(visit, f"/requests/{answered.id}", _done(answered, "is granted"))
    return await again(visit, "request.html", _request, visit, form, None)


async def refuse(request: Request) -> Response:
    """Answer a request with a refusal."""
    visit, fields = await acting(request)
    form = Form(fields)
    words = form.text("refusal", missing="Say why; the person reads it.", limit=MAX_TEXT)
    if not form.errors:
        try:
            answered = await in_thread(
                requests.refuse_request, visit.broker, visit.path("request"), words, visit.actor, visit.now
            )
        except Problem as problem:
            _refused(form, problem)
        else:
            return back(visit, f"/requests/{answered.id}", _done(answered, "is refused"))
    return await again(visit, "request.html", _request, visit, None, form)


def _done(answered: AccessRequest, what: str) -> str:
    return f"The request of {person_words(answered.person)} {what}."


def _refused(form: Form, problem: Problem) -> None:
    if problem.status not in (400, 409):
        raise problem
    form.wrong("", problem.body.detail)


def _requests(visit: Visit) -> Context:
    wanted = {name: visit.query.get(name, "").strip() for name in ("dataset", "state")}
    chosen = next((one for one in _STATES if one == wanted["state"]), None)
    dataset = wanted["dataset"] or None

    def found(state: RequestState | None) -> tuple[AccessRequest, ...]:
        return requests.requests(visit.broker, visit.actor, dataset=dataset, state=state).requests

    # Open ones are asked for by themselves: a list has the newest ones only, and none of these may be missed.
    answered = [one for one in found(None) if one.state != "open"] if chosen is None else []
    ordered = [*found(chosen or "open"), *answered]
    return {
        "slice": paged(ordered, visit.query.get("page", "")),
        "wanted": wanted,
        "titles": names.titles(visit.broker, visit.actor),
        "states": _STATES,
        "badges": BADGES,
    }


def _request(visit: Visit, form: Form | None, refusal: Form | None) -> Context:
    broker, actor = visit.broker, visit.actor
    asked = requests.one_request(broker, actor, visit.path("request"))
    titles, environments = names.titles(broker, actor), names.environments(broker)
    shown = form or _preset(visit, asked)
    people = {(asked.person.issuer, asked.person.subject): asked.person.name}
    halted = names.halted(broker, actor)
    others = [
        {
            "grant": one,
            "state": grant_state(one, visit.now, halted),
            "who": grantee(one, people),
            "meaning": meaning(
                one,
                visit.now,
                title=titles.get(one.dataset, one.dataset),
                names=people,
                environments=environments,
                halted=halted,
            ),
        }
        for one in acts.grants(broker, actor, asked.dataset).grants
        if (one.issuer, one.subject) == (asked.person.issuer, asked.person.subject)
    ]
    projects = [one.name for one in acts.projects(broker, actor).projects]
    return {
        "asked": asked,
        "title": titles.get(asked.dataset, asked.dataset),
        "environments": environments,
        "form": shown,
        "refusal": refusal or Form(),
        "offered": {
            **terms.choices(shown, broker.environments.all(), first=[asked.purpose]),
            "projects": projects,
        },
        "others": others,
        "obstacles": _obstacles(visit, asked),
        "badges": BADGES,
    }


def _obstacles(visit: Visit, asked: AccessRequest) -> list[ExplainedRule] | None:
    """Return what a release would meet now but for the grant; None if the server is forgotten."""
    try:
        with visit.broker.store.read() as session:
            attested = seen_session(session, visit.actor, asked.session, asked.dataset)
            facts = visit.broker.finder.facts(session, attested, asked.dataset, asked.purpose, visit.now)
    except Problem:
        return None
    rules = explain(facts, owner=True).rules
    return [one for one in rules if one.outcome == "failed" and not one.code.startswith("grant.")]


def _preset(visit: Visit, asked: AccessRequest) -> Form:
    """Return the form as it is offered: what was asked for, for a week, on the environment it came from."""
    form = terms.fresh(visit.now, development=asked.server.simulated and visit.broker.development)
    values = {name: text for name, text in form.values.items() if not name.startswith(terms.PURPOSE)}
    if asked.purpose in LABELS:
        values[f"{terms.PURPOSE}{asked.purpose}"] = "on"
    if asked.server.environment in visit.broker.environments.digests():
        values[f"{terms.ENVIRONMENT}{asked.server.environment}"] = "on"
    latest = visit.now + terms.PRESET
    if asked.until is not None and visit.now < asked.until < latest:
        values["until"] = local(asked.until)
    return Form(values)
