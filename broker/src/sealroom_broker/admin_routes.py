# SPDX-License-Identifier: BSD-3-Clause
"""The owner's calls: datasets, grants, projects, static resources and the audit log.

Each needs a token with its scope. What they do is in `sealroom_broker.acts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from sealroom.audit.log import is_log_path
from sealroom.errors import Error
from sealroom.kbs.calls import DatasetRegistration, GrantChange, GrantSpec, Project, StatedReason
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import acts
from sealroom_broker.broker import Broker
from sealroom_broker.kbs_routes import body_of, broker_of
from sealroom_broker.owners import Actor, Need, check_token
from sealroom_broker.problem import bad_request, not_found
from sealroom_broker.resources import ResourceSpec
from sealroom_broker.web import answer, in_thread, parse_body, read_body


async def actor_of(request: Request) -> Actor:
    """Return whose token came with a call.

    Raises:
        Problem: There is none, or it is wrong or has ended.
    """
    broker = broker_of(request)
    header = request.headers.get("authorization")
    return await in_thread(check_token, broker.store, header, broker.clock())


async def actor_for(request: Request, need: Need) -> Actor:
    """Return whose token came with a call that is not about a single dataset.

    Raises:
        Problem: There is none, or it is wrong or has ended (401), or may not do this (403).
    """
    actor = await actor_of(request)
    actor.check(need)
    return actor


async def list_datasets(request: Request) -> Response:
    """List the registered datasets."""
    actor = await actor_of(request)
    return answer(await in_thread(acts.owned_datasets, broker_of(request), actor))


async def register_dataset(request: Request) -> Response:
    """Register a dataset, or a newer manifest of one."""
    # The token comes first: nobody else may send this much.
    actor, broker = await actor_of(request), broker_of(request)
    actor.check_scope("write")
    limits = broker.config.limits
    body = await read_body(request, limits.registration, limits.body_seconds * 4)
    message = await in_thread(parse_body, DatasetRegistration, body)
    owned, created = await in_thread(acts.register_dataset, broker, message, actor, broker.clock())
    return answer(owned, 201 if created else 200)


async def list_grants(request: Request) -> Response:
    """List all grants, or those of one dataset."""
    actor = await actor_of(request)
    return answer(
        await in_thread(acts.grants, broker_of(request), actor, request.query_params.get("dataset"))
    )


async def create_grant(request: Request) -> Response:
    """Add a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    spec = parse_body(GrantSpec, await body_of(request))
    return answer(await in_thread(acts.give_grant, broker, spec, actor, broker.clock()), 201)


async def patch_grant(request: Request) -> Response:
    """Narrow or extend a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    change = parse_body(GrantChange, await body_of(request))
    grant: str = request.path_params["grant"]
    return answer(await in_thread(acts.change_grant, broker, grant, change, actor, broker.clock()))


async def delete_grant(request: Request) -> Response:
    """Withdraw a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    grant: str = request.path_params["grant"]
    return answer(await in_thread(acts.withdraw, broker, grant, actor, broker.clock()))


async def delete_key(request: Request) -> Response:
    """Destroy a dataset's key. The reason is in the query or in the body."""
    actor, broker = await actor_of(request), broker_of(request)
    body, asked = await body_of(request), request.query_params.getlist("reason")
    if bool(body) + len(asked) > 1:
        raise bad_request("Give the reason once: in the query or in the body.")
    if asked:
        body = json.dumps({"reason": asked[0]}).encode()
    stated = parse_body(StatedReason, body)
    dataset: str = request.path_params["dataset"]
    return answer(await in_thread(acts.destroy_key, broker, dataset, stated.reason, actor, broker.clock()))


async def list_projects(request: Request) -> Response:
    """List the projects that grants name."""
    actor = await actor_of(request)
    return answer(await in_thread(acts.projects, broker_of(request), actor))


async def halt_project(request: Request) -> Response:
    """Halt a project at once."""
    return await _turn(request, acts.halt)


async def resume_project(request: Request) -> Response:
    """Let a halted project go on."""
    return await _turn(request, acts.resume)


async def _turn(request: Request, act: Callable[[Broker, str, str, Actor, datetime], Project]) -> Response:
    actor, broker = await actor_of(request), broker_of(request)
    stated = parse_body(StatedReason, await body_of(request))
    project: str = request.path_params["project"]
    return answer(await in_thread(act, broker, project, stated.reason, actor, broker.clock()))


async def put_resource(request: Request) -> Response:
    """Keep a static resource."""
    actor, broker = await actor_for(request, "write"), broker_of(request)
    spec = parse_body(ResourceSpec, await body_of(request))
    await in_thread(broker.resources.put, request.path_params["path"], spec, actor.name, broker.clock())
    return Response(status_code=204)


async def delete_resource(request: Request) -> Response:
    """Forget a static resource."""
    actor, broker = await actor_for(request, "write"), broker_of(request)
    await in_thread(broker.resources.delete, request.path_params["path"], actor.name, broker.clock())
    return Response(status_code=204)


async def audit_key(request: Request) -> Response:
    """Return the log's verifier key."""
    await actor_for(request, "audit")
    return Response(f"{broker_of(request).record.signer.verifier}\n", media_type="text/plain")


async def audit_file(request: Request) -> Response:
    """Return a file of the log, or evidence that it names."""
    await actor_for(request, "audit")
    path: str = request.path_params["path"]
    data = await in_thread(_audit_file, broker_of(request), path)
    return Response(data, media_type="application/octet-stream")


def _audit_file(broker: Broker, path: str) -> bytes:
    if not is_log_path(path):
        raise not_found("This path names no file of the audit log.")
    try:
        return broker.record.log.get(path)
    except Error as error:
        raise not_found(f"The audit log has no {path}.") from error


ROUTES: Sequence[BaseRoute] = (
    Route("/datasets", list_datasets, methods=["GET"]),
    Route("/datasets", register_dataset, methods=["POST"]),
    Route("/grants", list_grants, methods=["GET"]),
    Route("/grants", create_grant, methods=["POST"]),
    Route("/grants/{grant}", patch_grant, methods=["PATCH"]),
    Route("/grants/{grant}", delete_grant, methods=["DELETE"]),
    Route("/datasets/{dataset}/key", delete_key, methods=["DELETE"]),
    Route("/projects", list_projects, methods=["GET"]),
    Route("/projects/{project}/halt", halt_project, methods=["POST"]),
    Route("/projects/{project}/resume", resume_project, methods=["POST"]),
    Route("/resources/{path:path}", put_resource, methods=["PUT"]),
    Route("/resources/{path:path}", delete_resource, methods=["DELETE"]),
    Route("/audit/key", audit_key, methods=["GET"]),
    Route("/audit/{path:path}", audit_file, methods=["GET"]),
)
