# SPDX-License-Identifier: BSD-3-Clause
"""The KBS protocol's own calls: `auth`, `attest`, `resource/<repository>/<type>/<tag>`.

A resource is read by an attested guest, with its cookie or its token, and set and deleted with an owner's
token as `kbs-client config set-resource` does it. Trustee's other calls of an administrator (policies,
reference values) have no counterpart here and are not found: what is acceptable is in signed environments.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

from sealroom.kbs.messages import SESSION_COOKIE, AttestResponse, AuthRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker.broker import Broker
from sealroom_broker.limits import client_address
from sealroom_broker.owners import Actor, check_token
from sealroom_broker.problem import Problem
from sealroom_broker.resources import ResourceSpec
from sealroom_broker.trustee import is_dataset_key, release_key
from sealroom_broker.web import answer_json, in_thread, parse_body, read_body


def broker_of(request: Request) -> Broker:
    """Return the broker that serves a request."""
    broker: Broker = request.app.state.broker
    return broker


async def body_of(request: Request) -> bytes:
    """Read a request's body within the configured limits."""
    limits = broker_of(request).config.limits
    return await read_body(request, limits.body, limits.body_seconds)


def cookie_of(request: Request) -> str | None:
    """Return the session's cookie."""
    return request.cookies.get(SESSION_COOKIE)


async def auth(request: Request) -> Response:
    """Begin a handshake."""
    broker = broker_of(request)
    message = parse_body(AuthRequest, await body_of(request))
    now = broker.clock()
    cookie, challenge = await in_thread(broker.sessions.begin, message, cookie_of(request), now)
    return _with_cookie(Response(challenge.to_json(), media_type="application/json"), request, cookie, now)


async def attest(request: Request) -> Response:
    """Judge evidence and answer with an attestation result."""
    broker = broker_of(request)
    limits = broker.config.limits
    body = await read_body(request, limits.evidence, limits.body_seconds)
    cookie, now = cookie_of(request), broker.clock()
    token = await in_thread(_attest, broker, client_address(request.scope), cookie, body, now)
    response = Response(AttestResponse(token=token).to_json(), media_type="application/json")
    return _with_cookie(response, request, cookie or "", now)


def _attest(broker: Broker, client: str, cookie: str | None, body: bytes, now: datetime) -> str:
    broker.quota.take(client, len(body))
    try:
        token = broker.attestations.attest(cookie, body, now)
    except Exception as error:
        if not (isinstance(error, Problem) and error.status == 401):
            broker.quota.give(client, len(body))
        raise
    broker.quota.give(client, len(body))
    return token


async def resource(request: Request) -> Response:
    """Release a static resource, or a dataset's own key where the grant says so."""
    broker = broker_of(request)
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else None
    proof = (cookie_of(request), token)
    if is_dataset_key(request.path_params):
        dataset, purpose = request.path_params["tag"], request.query_params.get("purpose")
        return answer_json(await in_thread(release_key, broker, *proof, dataset, purpose, broker.clock()))
    path = _path_of(request)
    return answer_json(await in_thread(broker.resources.release, *proof, path, broker.clock()))


async def store_resource(request: Request) -> Response:
    """Keep a static resource for affirming servers; the body is the secret itself."""
    # The token comes first: nobody else may send this much.
    actor, broker = await _owner(request), broker_of(request)
    spec = ResourceSpec(secret=base64.b64encode(await body_of(request)).decode())
    await in_thread(broker.resources.put, _path_of(request), spec, actor.name, broker.clock())
    return Response(status_code=200)


async def remove_resource(request: Request) -> Response:
    """Forget a static resource."""
    actor, broker = await _owner(request), broker_of(request)
    await in_thread(broker.resources.delete, _path_of(request), actor.name, broker.clock())
    return Response(status_code=200)


async def _owner(request: Request) -> Actor:
    broker = broker_of(request)
    actor = await in_thread(check_token, broker.store, request.headers.get("authorization"), broker.clock())
    actor.check("write")
    return actor


def _path_of(request: Request) -> str:
    return "{repository}/{type}/{tag}".format_map(request.path_params)


def _with_cookie(response: Response, request: Request, cookie: str, now: datetime) -> Response:
    life = broker_of(request).config.periods.session_delta
    # No path: a browser and a guest use the folder of the call, under a proxy's prefix too. Trustee sends
    # `Expires`; where both are there, `Max-Age` wins, which does not need the guest's clock to be right.
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=int(life.total_seconds()),
        expires=now + life,
        path=None,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


ROUTES: Sequence[BaseRoute] = (
    Route("/auth", auth, methods=["POST"]),
    Route("/attest", attest, methods=["POST"]),
    Route("/resource/{repository}/{type}/{tag}", resource, methods=["GET"]),
    Route("/resource/{repository}/{type}/{tag}", store_resource, methods=["POST"]),
    Route("/resource/{repository}/{type}/{tag}", remove_resource, methods=["DELETE"]),
)
