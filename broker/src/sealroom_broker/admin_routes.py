# SPDX-License-Identifier: BSD-3-Clause
"""The owner's calls: datasets, grants, static resources and the audit log. Each needs a token with its scope.

What an owner does is in the log before it holds, as a release is: entry and change are one transaction, the
entry first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sealroom.audit.log import is_log_path
from sealroom.errors import Error
from sealroom.kbs.admin import Grants, OwnedDataset, OwnedDatasets
from sealroom.kbs.calls import DatasetRegistration, Grant, GrantSpec
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealroom_broker.broker import Broker
from sealroom_broker.entries import owner_entry
from sealroom_broker.kbs_routes import body_of, broker_of
from sealroom_broker.owners import Actor, Need, check_token
from sealroom_broker.problem import not_found
from sealroom_broker.registry import add_grant, grants_of, parse_manifest, register, withdraw_grant
from sealroom_broker.resources import ResourceSpec
from sealroom_broker.store import DatasetRow
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
    return answer(await in_thread(_datasets, broker_of(request), actor))


async def register_dataset(request: Request) -> Response:
    """Register a dataset, or a newer manifest of one."""
    # The token comes first: nobody else may send this much.
    actor, broker = await actor_of(request), broker_of(request)
    actor.check_scope("write")
    limits = broker.config.limits
    body = await read_body(request, limits.registration, limits.body_seconds * 4)
    message = await in_thread(parse_body, DatasetRegistration, body)
    owned, created = await in_thread(_register, broker, message, actor, broker.clock())
    return answer(owned, 201 if created else 200)


async def list_grants(request: Request) -> Response:
    """List all grants, or those of one dataset."""
    actor = await actor_of(request)
    return answer(await in_thread(_grants, broker_of(request), actor, request.query_params.get("dataset")))


async def create_grant(request: Request) -> Response:
    """Add a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    spec = parse_body(GrantSpec, await body_of(request))
    return answer(await in_thread(_add_grant, broker, spec, actor, broker.clock()), 201)


async def delete_grant(request: Request) -> Response:
    """Withdraw a grant."""
    actor, broker = await actor_of(request), broker_of(request)
    grant: str = request.path_params["grant"]
    return answer(await in_thread(_withdraw, broker, grant, actor, broker.clock()))


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


def _datasets(broker: Broker, actor: Actor) -> OwnedDatasets:
    with broker.store.read() as session:
        rows = session.scalars(select(DatasetRow).order_by(DatasetRow.id))
        return OwnedDatasets(datasets=tuple(_owned(row) for row in rows if actor.may("read", row.id)))


def _register(
    broker: Broker, message: DatasetRegistration, actor: Actor, now: datetime
) -> tuple[OwnedDataset, bool]:
    with broker.store.write() as session:
        row, changed = register(session, message, broker.wrap, now)
        # Only the manifest says which dataset it is; a refusal undoes the registration.
        actor.check("write", row.id)
        if changed:
            session.flush()
            broker.record.append(
                owner_entry(
                    "registration", actor.name, now, dataset=row.id, manifest_sha256=row.manifest_sha256
                )
            )
        return _owned(row), changed


def _owned(row: DatasetRow) -> OwnedDataset:
    manifest = parse_manifest(row.manifest)
    return OwnedDataset(
        id=row.id,
        title=manifest.title,
        manifest_sha256=row.manifest_sha256,
        files=len(manifest.files),
        size=manifest.size,
        registered=row.registered,
    )


def _grants(broker: Broker, actor: Actor, dataset: str | None) -> Grants:
    with broker.store.read() as session:
        grants = grants_of(session, dataset)
    return Grants(grants=tuple(one for one in grants if actor.may("read", one.dataset)))


def _add_grant(broker: Broker, spec: GrantSpec, actor: Actor, now: datetime) -> Grant:
    actor.check("write", spec.dataset)
    with broker.store.write() as session:
        grant = add_grant(session, spec, broker.config.mode, now, broker.issuers)
        session.flush()
        broker.record.append(owner_entry("grant", actor.name, now, dataset=grant.dataset, grant=grant))
        return grant


def _withdraw(broker: Broker, grant_id: str, actor: Actor, now: datetime) -> Grant:
    with broker.store.write() as session:
        grant, changed = withdraw_grant(session, grant_id, now)
        # Only the grant says which dataset it is for; a refusal undoes the withdrawal.
        actor.check("write", grant.dataset)
        if changed:
            session.flush()
            broker.record.append(
                owner_entry("withdrawal", actor.name, now, dataset=grant.dataset, grant=grant)
            )
        return grant


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
    Route("/grants/{grant}", delete_grant, methods=["DELETE"]),
    Route("/resources/{path:path}", put_resource, methods=["PUT"]),
    Route("/resources/{path:path}", delete_resource, methods=["DELETE"]),
    Route("/audit/key", audit_key, methods=["GET"]),
    Route("/audit/{path:path}", audit_file, methods=["GET"]),
)
