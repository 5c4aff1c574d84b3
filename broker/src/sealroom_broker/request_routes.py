# SPDX-License-Identifier: BSD-3-Clause
"""Calls about requests for access, explanations and a person's own releases, for both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from sealroom.kbs.calls import AccessRequestSpec, Explanation, RequestGrant, RequestRefusal, RequestState
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import requests
from sealroom_broker.admin_routes import actor_for, actor_of
from sealroom_broker.broker import Broker
from sealroom_broker.explain import explain
from sealroom_broker.kbs_routes import body_of, broker_of, cookie_of
from sealroom_broker.owners import Actor
from sealroom_broker.problem import bad_request, not_found
from sealroom_broker.proofs import own_releases
from sealroom_broker.seen import seen_session
from sealroom_broker.web import answer, in_thread, parse_body

_STATES: tuple[RequestState, ...] = get_args(RequestState)
_INDEX = re.compile(r"[0-9]{1,15}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_PURPOSE = 100


# --- in the attested session ---


async def explain_dataset(request: Request) -> Response:
    """Say what a release of a dataset would meet now, rule by rule."""
    broker, dataset = broker_of(request), request.path_params["dataset"]
    purpose = _purpose(request)
    return answer(await in_thread(_explain_own, broker, cookie_of(request), dataset, purpose, broker.clock()))


async def ask_for_access(request: Request) -> Response:
    """Keep a request for access."""
    broker = broker_of(request)
    spec = parse_body(AccessRequestSpec, await body_of(request))
    return answer(await in_thread(requests.ask, broker, cookie_of(request), spec, broker.clock()), 201)


async def list_own_requests(request: Request) -> Response:
    """List the person's own requests."""
    broker = broker_of(request)
    return answer(await in_thread(requests.own_requests, broker, cookie_of(request), broker.clock()))


async def take_back_request(request: Request) -> Response:
    """Take back an open request of the person."""
    broker, asked = broker_of(request), request.path_params["request"]
    return answer(await in_thread(requests.take_back, broker, cookie_of(request), asked, broker.clock()))


async def list_own_releases(request: Request) -> Response:
    """List what was released to the person, with inclusion proofs."""
    broker, before = broker_of(request), request.query_params.get("before")
    if before is not None and not _INDEX.fullmatch(before):
        raise bad_request("before is the index of an entry.")
    index = None if before is None else int(before)
    return answer(await in_thread(own_releases, broker, cookie_of(request), broker.clock(), index))


def _explain_own(
    broker: Broker, cookie: str | None, dataset: str, purpose: str | None, now: datetime
) -> Explanation:
    with broker.store.read() as session:
        attested = broker.sessions.current(cookie, now, within=session)
        return explain(broker.finder.facts(session, attested, dataset, purpose, now))


# --- the owner's ---


async def list_requests(request: Request) -> Response:
    """List people's requests for access."""
    actor = await actor_of(request)
    asked = request.query_params.get("state")
    state = next((one for one in _STATES if one == asked), None)
    if asked is not None and state is None:
        raise bad_request(f"A request's state is one of {', '.join(_STATES)}.")
    dataset = request.query_params.get("dataset")
    return answer(await in_thread(requests.requests, broker_of(request), actor, dataset=dataset, state=state))


async def show_request(request: Request) -> Response:
    """Return one request for access."""
    actor, asked = await actor_of(request), request.path_params["request"]
    return answer(await in_thread(requests.one_request, broker_of(request), actor, asked))


async def grant_request(request: Request) -> Response:
    """Give the person who asked a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    terms = parse_body(RequestGrant, await body_of(request))
    asked = request.path_params["request"]
    return answer(await in_thread(requests.grant_request, broker, asked, terms, actor, broker.clock()))


async def refuse_request(request: Request) -> Response:
    """Refuse a request for access."""
    actor, broker = await actor_of(request), broker_of(request)
    said = parse_body(RequestRefusal, await body_of(request)).answer
    asked = request.path_params["request"]
    return answer(await in_thread(requests.refuse_request, broker, asked, said, actor, broker.clock()))


async def explain_server(request: Request) -> Response:
    """Say what a release of a dataset to a server that was seen would meet now, in the owner's words."""
    actor, broker = await actor_of(request), broker_of(request)
    dataset, session = (request.query_params.get(name, "") for name in ("dataset", "session"))
    if not dataset or not session:
        raise bad_request("Name the dataset and the session.")
    purpose = _purpose(request)
    return answer(await in_thread(_explain_seen, broker, actor, dataset, session, purpose, broker.clock()))


async def environment_manifest(request: Request) -> Response:
    """Return the manifest of an environment that the broker approves now, byte by byte."""
    await actor_for(request, "audit")
    digest: str = request.path_params["digest"]
    data = await in_thread(_manifest, broker_of(request), digest)
    return Response(data, media_type="application/toml")


def _explain_seen(
    broker: Broker, actor: Actor, dataset: str, session_id: str, purpose: str | None, now: datetime
) -> Explanation:
    with broker.store.read() as session:
        attested = seen_session(session, actor, session_id, dataset)
        return explain(broker.finder.facts(session, attested, dataset, purpose, now), owner=True)


def _manifest(broker: Broker, digest: str) -> bytes:
    found = broker.environments.all().get(digest) if _DIGEST.fullmatch(digest) else None
    if found is None:
        raise not_found("The broker approves no environment with this digest.")
    return found.raw


def _purpose(request: Request) -> str | None:
    purpose = request.query_params.get("purpose")
    if purpose is not None and len(purpose) > _MAX_PURPOSE:
        raise bad_request("A purpose is a DUO code, for example DUO:0000042.")
    return purpose


ROUTES: Sequence[BaseRoute] = (
    Route("/datasets/{dataset}/explain", explain_dataset, methods=["GET"]),
    Route("/requests", ask_for_access, methods=["POST"]),
    Route("/requests", list_own_requests, methods=["GET"]),
    Route("/requests/{request}", take_back_request, methods=["DELETE"]),
    Route("/releases", list_own_releases, methods=["GET"]),
)

ADMIN_ROUTES: Sequence[BaseRoute] = (
    Route("/requests", list_requests, methods=["GET"]),
    Route("/requests/{request}", show_request, methods=["GET"]),
    Route("/requests/{request}/grant", grant_request, methods=["POST"]),
    Route("/requests/{request}/refuse", refuse_request, methods=["POST"]),
    Route("/explain", explain_server, methods=["GET"]),
    Route("/environments/{digest}", environment_manifest, methods=["GET"]),
)
