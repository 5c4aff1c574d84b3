# SPDX-License-Identifier: BSD-3-Clause
"""What an owner does, the entry first: for the owner's calls and for the owner's pages.

An act is in the log before it holds, as a release is: entry and change are one transaction, the entry first.
Every function checks what the actor may do with the dataset that it concerns; what an actor may not read is
left out of lists.

An act that changes nothing (a grant withdrawn again, a key destroyed again) is no act: it is answered with
what there is and writes no entry.
"""

from __future__ import annotations

from datetime import datetime

from sealroom.errors import StorageError
from sealroom.kbs.admin import Grants, OwnedDataset, OwnedDatasets
from sealroom.kbs.calls import DatasetRegistration, Grant, GrantChange, GrantSpec, Project, Projects
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from sealroom_broker import changes
from sealroom_broker import projects as halts
from sealroom_broker.broker import Broker
from sealroom_broker.entries import owner_entry
from sealroom_broker.owners import Actor
from sealroom_broker.problem import not_found, unavailable
from sealroom_broker.registry import (
    add_grant,
    forget_key,
    grants_of,
    parse_manifest,
    register,
    withdraw_grant,
)
from sealroom_broker.store import DatasetRow, GrantRow

BROKER = "broker"
"""Who acts where the broker does so by itself, when a permit has ended."""
_TRACES = (
    "The key is destroyed, but traces of it could not be removed from the database's files yet. "
    "The broker tries again by itself; repeat this to see whether it is done."
)


def owned_datasets(broker: Broker, actor: Actor) -> OwnedDatasets:
    """Return the datasets that somebody may see."""
    with broker.store.read() as session:
        rows = session.scalars(select(DatasetRow).order_by(DatasetRow.id))
        return OwnedDatasets(datasets=tuple(_owned(row) for row in rows if actor.may("read", row.id)))


def register_dataset(
    broker: Broker, message: DatasetRegistration, actor: Actor, now: datetime
) -> tuple[OwnedDataset, bool]:
    """Register a dataset, a newer manifest of one, its key again, or a later end of its permit.

    Returns:
        The dataset, and whether anything changed.

    Raises:
        Problem: The registration does not fit (400, 409), or the actor may not do this (403).
    """
    with broker.store.write() as session:
        row, changed = register(session, message, broker.wrap, now)
        # Only the manifest says which dataset it is; a refusal undoes the registration.
        actor.check("write", row.id)
        if changed:
            session.flush()
            end = f"The permit ends on {changes.moment(row.keep_until)}." if row.keep_until else ""
            entry = owner_entry(
                "registration",
                actor.name,
                now,
                dataset=row.id,
                manifest_sha256=row.manifest_sha256,
                detail=end,
            )
            broker.record.append(entry)
        return _owned(row), changed


def grants(broker: Broker, actor: Actor, dataset: str | None = None) -> Grants:
    """Return the grants that somebody may see, of one dataset or of all; withdrawn ones are among them."""
    with broker.store.read() as session:
        found = grants_of(session, dataset)
    return Grants(grants=tuple(one for one in found if actor.may("read", one.dataset)))


def give_grant(broker: Broker, spec: GrantSpec, actor: Actor, now: datetime) -> Grant:
    """Give a grant.

    Raises:
        Problem: It does not fit (400), there is no such dataset (404), its project is halted (409), or the
            actor may not do this (403).
    """
    actor.check("write", spec.dataset)
    with broker.store.write() as session:
        return grant_within(broker, session, spec, actor, now)


def grant_within(broker: Broker, session: Session, spec: GrantSpec, actor: Actor, now: datetime) -> Grant:
    """Give a grant within a transaction; whether the actor may is checked already.

    Raises:
        Problem: It does not fit (400), there is no such dataset (404), or its project is halted (409).
    """
    grant = add_grant(session, spec, broker.config.mode, now, broker.issuers)
    session.flush()
    detail = changes.in_words(grant)
    broker.record.append(
        owner_entry("grant", actor.name, now, dataset=grant.dataset, grant=grant, detail=detail)
    )
    return grant


def change_grant(broker: Broker, grant_id: str, change: GrantChange, actor: Actor, now: datetime) -> Grant:
    """Narrow or extend a grant; servers that run by it have the new terms at once.

    Raises:
        Problem: The change does not fit (400), there is no such grant (404), it is withdrawn or would leave
            or enter a halted project (409), or the actor may not do this (403).
    """
    with broker.store.write() as session:
        row = _grant_row(session, grant_id)
        actor.check("write", row.dataset)
        grant, words = changes.apply(session, row, change, broker.config.mode)
        if words:
            session.flush()
            broker.record.append(
                owner_entry("change", actor.name, now, dataset=grant.dataset, grant=grant, detail=words)
            )
        return grant


def withdraw(broker: Broker, grant_id: str, actor: Actor, now: datetime) -> Grant:
    """Withdraw a grant; servers that run by it lose the dataset at their next look.

    Raises:
        Problem: There is no such grant (404), or the actor may not do this (403).
    """
    with broker.store.write() as session:
        actor.check("write", _grant_row(session, grant_id).dataset)
        grant, changed = withdraw_grant(session, grant_id, now)
        if changed:
            session.flush()
            broker.record.append(
                owner_entry("withdrawal", actor.name, now, dataset=grant.dataset, grant=grant)
            )
        return grant


def projects(broker: Broker, actor: Actor) -> Projects:
    """Return the projects that somebody may see: those with a grant for a dataset of theirs."""
    with broker.store.read() as session:
        return Projects(projects=halts.projects_of(session, lambda dataset: actor.may("read", dataset)))


def halt(broker: Broker, project: str, reason: str, actor: Actor, now: datetime) -> Project:
    """Halt a project: its grants open nothing, and its servers lose the datasets at their next look.

    Raises:
        Problem: No grant is of this project (404), or the actor may not do this with every dataset of it
            (403).
    """
    return _turn(broker, project, reason, actor, now, halted=True)


def resume(broker: Broker, project: str, reason: str, actor: Actor, now: datetime) -> Project:
    """Let a halted project go on.

    Raises:
        Problem: No grant is of this project (404), or the actor may not do this with every dataset of it
            (403).
    """
    return _turn(broker, project, reason, actor, now, halted=False)


def _turn(broker: Broker, project: str, reason: str, actor: Actor, now: datetime, *, halted: bool) -> Project:
    with broker.store.write() as session:
        for dataset in halts.datasets_of(session, project):
            actor.check("write", dataset)
        found, changed = halts.turn(session, project, reason, now, halted=halted)
        if changed:
            session.flush()
            kind = "halt" if halted else "resume"
            broker.record.append(owner_entry(kind, actor.name, now, project=project, detail=reason))
        return found


def destroy_key(broker: Broker, dataset: str, reason: str, actor: Actor, now: datetime) -> OwnedDataset:
    """Destroy a dataset's key: nothing of it is released any more until its owner registers the key again.

    Raises:
        Problem: There is no such dataset (404), the actor may not do this (403), or the key is destroyed but
            traces of it could not be removed from the database's files yet (503): the broker tries again by
            itself, and this call may be repeated.
    """
    actor.check("write", dataset)
    with broker.store.write() as session:
        row = session.get(DatasetRow, dataset)
        if row is None:
            raise not_found(f"This broker has no dataset {dataset[:128]}.")
        _destroy(broker, session, row, actor.name, reason, now)
        owned = _owned(row)
    # Also where it was destroyed before: the answer says that no trace is left that the broker can remove.
    try:
        broker.store.erase()
    except StorageError as error:
        raise unavailable("key.traces", _TRACES) from error
    return owned


def end_permits(broker: Broker, now: datetime) -> tuple[str, ...]:
    """Destroy the keys of datasets whose permit has ended.

    Returns:
        Which datasets they were of.

    Raises:
        StorageError: The database or the log cannot be written.
    """
    with broker.store.read() as session:
        if not session.scalars(_ended(now)).first():
            return ()
    with broker.store.write() as session:
        rows = [session.get_one(DatasetRow, dataset) for dataset in session.scalars(_ended(now))]
        for row in rows:
            reason = f"The permit ended on {changes.moment(row.keep_until)}."
            _destroy(broker, session, row, BROKER, reason, now)
    broker.store.erase()
    return tuple(row.id for row in rows)


def _ended(now: datetime) -> Select[str]:
    return select(DatasetRow.id).where(DatasetRow.keep_until <= now, DatasetRow.destroyed.is_(None))


def _destroy(
    broker: Broker, session: Session, row: DatasetRow, actor: str, reason: str, now: datetime
) -> None:
    if row.destroyed is not None:
        return
    broker.record.append(
        owner_entry(
            "destruction", actor, now, dataset=row.id, manifest_sha256=row.manifest_sha256, detail=reason
        )
    )
    forget_key(session, row, now)
    session.flush()


def _owned(row: DatasetRow) -> OwnedDataset:
    manifest = parse_manifest(row.manifest)
    return OwnedDataset(
        id=row.id,
        title=manifest.title,
        manifest_sha256=row.manifest_sha256,
        files=len(manifest.files),
        size=manifest.size,
        registered=row.registered,
        keep_until=row.keep_until,
        destroyed=row.destroyed,
    )


def _grant_row(session: Session, grant: str) -> GrantRow:
    row = session.get(GrantRow, grant)
    if row is None:
        raise not_found("There is no such grant.")
    return row
