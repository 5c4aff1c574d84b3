# SPDX-License-Identifier: BSD-3-Clause
"""What a session sees: the datasets on offer with their state, and how its releases stand now."""

from __future__ import annotations

from datetime import datetime

from sealroom.kbs.calls import (
    DatasetCondition,
    DatasetList,
    DatasetState,
    ReleaseState,
    SessionState,
    Term,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.decide import Allowed, Facts, Refused, decide, granted_purposes
from sealroom_broker.facts import FactFinder
from sealroom_broker.registry import as_grant, parse_manifest, terms
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import DatasetRow, GrantRow, ReleaseRow

_CONDITIONS: tuple[tuple[str, DatasetCondition], ...] = (
    ("person.none", "not_granted"),
    ("grant.none", "not_granted"),
    ("grant.withdrawn", "withdrawn"),
    ("grant.expired", "expired"),
)
"""What a person's own standing makes of a dataset; anything else that stands in the way is `refused`."""


def list_offers(
    session: Session, attested: AttestedSession, finder: FactFinder, now: datetime
) -> DatasetList:
    """Return all datasets as this session sees them."""
    active = {
        row.dataset
        for row in _releases(session, attested)
        if _release_state(session, attested, finder, row, now).state == "active"
    }
    rows = session.scalars(select(DatasetRow).order_by(DatasetRow.id))
    states = []
    for row in rows:
        facts = finder.facts(session, attested, row.id, None, now)
        states.append(_offer(row, facts, unlocked=row.id in active))
    return DatasetList(datasets=tuple(states))


def session_state(
    session: Session, attested: AttestedSession, finder: FactFinder, now: datetime
) -> SessionState:
    """Return the session as it stands now; a guest drops the keys of what is not `active`."""
    releases = tuple(
        _release_state(session, attested, finder, row, now) for row in _releases(session, attested)
    )
    until, bound = attested.login_until, attested.bound
    stands = until is not None and now < until
    return SessionState(
        person=attested.person if stands else None,
        expires=attested.standing.until,
        login_until=until,
        login_due=until is not None and (bound is None or now >= bound + (until - bound) / 2),
        releases=releases,
    )


def _offer(row: DatasetRow, facts: Facts, *, unlocked: bool) -> DatasetState:
    manifest, verdict = parse_manifest(row.manifest), decide(facts)
    reasons = verdict.reasons if isinstance(verdict, Refused) else ()
    return DatasetState(
        id=row.id,
        title=manifest.title,
        description=manifest.description,
        owner=manifest.owner,
        contact=manifest.contact,
        size=manifest.size,
        files=len(manifest.files),
        source=manifest.source,
        licence=manifest.licence,
        manifest_sha256=row.manifest_sha256,
        terms=tuple(Term(code=one.code, label=one.label) for one in manifest.terms),
        purposes=terms(granted_purposes(facts)),
        state=_condition(verdict, unlocked=unlocked),
        until=_end(verdict, facts),
        outputs=verdict.grant.outputs if verdict.grant else False,
        reasons=reasons,
        ask=facts.dataset.ask if facts.dataset and reasons else "",
    )


def _condition(verdict: Allowed | Refused, *, unlocked: bool) -> DatasetCondition:
    if isinstance(verdict, Allowed):
        return "unlocked" if unlocked else "locked"
    broken = {denial.rule for denial in verdict.denials}
    return next((condition for rule, condition in _CONDITIONS if rule in broken), "refused")


def _releases(session: Session, attested: AttestedSession) -> tuple[ReleaseRow, ...]:
    """Return the newest release of each dataset in a session."""
    query = (
        select(ReleaseRow)
        .where(ReleaseRow.session == attested.id, ReleaseRow.ended.is_(None))
        .order_by(ReleaseRow.id)
    )
    return tuple({row.dataset: row for row in session.scalars(query)}.values())


def _release_state(
    session: Session, attested: AttestedSession, finder: FactFinder, row: ReleaseRow, now: datetime
) -> ReleaseState:
    """Decide on the release again, with its own grant only: its end is the end of what it opened."""
    grant = session.get(GrantRow, row.grant)
    facts = finder.facts(session, attested, row.dataset, row.purpose, now)
    verdict = decide(facts.with_grants(() if grant is None else (as_grant(grant),)))
    if isinstance(verdict, Allowed):
        return ReleaseState(
            dataset=row.dataset, state="active", until=_end(verdict, facts), audit_index=row.audit_index
        )
    expired = any(denial.rule in ("grant.expired", "dataset.ended") for denial in verdict.denials)
    return ReleaseState(
        dataset=row.dataset,
        state="expired" if expired else "withdrawn",
        sentence=" ".join(reason.sentence for reason in verdict.reasons),
        until=_end(verdict, facts),
        audit_index=row.audit_index,
    )


def _end(verdict: Allowed | Refused, facts: Facts) -> datetime | None:
    """Return when the grant or the dataset's permit ends, whichever is sooner; None without a grant."""
    if verdict.grant is None:
        return None
    permit = facts.dataset.keep_until if facts.dataset else None
    return min((end for end in (verdict.grant.until, permit) if end is not None), default=None)
