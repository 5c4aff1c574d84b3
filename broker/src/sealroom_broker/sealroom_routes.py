# SPDX-License-Identifier: BSD-3-Clause
"""Sealroom's calls of an attested session: identity, datasets, release, session; and the published keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sealroom.kbs.calls import (
    DatasetList,
    IdentityRequest,
    IdentityResponse,
    ReleaseRequest,
    SessionState,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import __version__
from sealroom_broker.broker import Broker
from sealroom_broker.identity import Presented
from sealroom_broker.kbs_routes import body_of, broker_of, cookie_of
from sealroom_broker.offers import list_offers, session_state
from sealroom_broker.problem import refused
from sealroom_broker.web import answer, answer_json, in_thread, parse_body


async def identity(request: Request) -> Response:
    """Check a person's token and bind the person to the session."""
    broker = broker_of(request)
    message = parse_body(IdentityRequest, await body_of(request))
    # A hub that is slow must not take all threads from the other calls.
    async with request.app.state.identity_checks:
        return answer(await in_thread(_bind, broker, cookie_of(request), message, broker.clock()))


async def datasets(request: Request) -> Response:
    """List the datasets as this session sees them."""
    broker = broker_of(request)
    return answer(await in_thread(_list, broker, cookie_of(request), broker.clock()))


async def release(request: Request) -> Response:
    """Release a dataset's headers."""
    broker = broker_of(request)
    message = parse_body(ReleaseRequest, await body_of(request))
    dataset: str = request.path_params["dataset"]
    return answer_json(
        await in_thread(broker.releaser.release, cookie_of(request), dataset, message, broker.clock())
    )


async def session(request: Request) -> Response:
    """Say how the session and its releases stand."""
    broker = broker_of(request)
    return answer(await in_thread(_state, broker, cookie_of(request), broker.clock()))


async def jwks(request: Request) -> Response:
    """Publish the keys that sign attestation results."""
    broker = broker_of(request)
    return answer_json(await in_thread(broker.keyring.jwks, broker.clock()))


async def version(request: Request) -> Response:
    """Say which broker this is."""
    config = broker_of(request).config
    return answer_json({"name": config.name, "version": __version__, "mode": config.mode, "kbs": "0.4.0"})


def _bind(broker: Broker, cookie: str | None, message: IdentityRequest, now: datetime) -> IdentityResponse:
    attested = broker.sessions.current(cookie, now)
    if broker.identity is None:
        raise refused(
            "person.provider", "This broker knows no identity provider, so it cannot check who you are."
        )
    presented = Presented(tee_pubkey=attested.tee_pubkey, person=attested.person, now=now)
    login = broker.identity.check(message, presented)
    periods = broker.config.periods
    until = min(login.until or now + periods.attestation_delta, now + periods.session_delta)
    broker.sessions.bind(attested, login.person, message.server, now, until)
    return IdentityResponse(person=login.person, until=until, ignored=login.ignored)


def _list(broker: Broker, cookie: str | None, now: datetime) -> DatasetList:
    with broker.store.read() as transaction:
        attested = broker.sessions.current(cookie, now, within=transaction)
        return list_offers(transaction, attested, broker.finder, now)


def _state(broker: Broker, cookie: str | None, now: datetime) -> SessionState:
    with broker.store.read() as transaction:
        attested = broker.sessions.current(cookie, now, within=transaction)
        return session_state(transaction, attested, broker.finder, now)


ROUTES: Sequence[BaseRoute] = (
    Route("/identity", identity, methods=["POST"]),
    Route("/datasets", datasets, methods=["GET"]),
    Route("/datasets/{dataset}/release", release, methods=["POST"]),
    Route("/session", session, methods=["GET"]),
    Route("/jwks", jwks, methods=["GET"]),
    Route("/version", version, methods=["GET"]),
)
