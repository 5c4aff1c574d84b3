# SPDX-License-Identifier: BSD-3-Clause
"""The attested servers that the broker has seen, for the owner's pages.

A token for some datasets sees those servers alone that asked for one of them or were released one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sealroom.appraisal import ear
from sealroom.errors import Error
from sealroom.kbs.calls import Person, Reason, ReleaseState
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.broker import Broker
from sealroom_broker.offers import session_state
from sealroom_broker.owners import Actor
from sealroom_broker.problem import not_found
from sealroom_broker.sessions import AttestedSession, snapshot
from sealroom_broker.store import AccessRequestRow, ReleaseRow, SessionRow

MAX_SERVERS = 500
"""How many servers are listed, the newest ones."""


@dataclass(frozen=True, slots=True)
class SeenServer:
    """A server that proved itself here."""

    session: str
    """Id of its session; not its cookie."""
    person: Person | None
    """Who is bound to it."""
    login_until: datetime | None
    """When the person's login must have been presented again."""
    server: str
    """Its name at the hub; empty for the person's default server."""
    tier: str
    simulated: bool
    environment: str | None
    """Digest of the environment that the evidence matched."""
    devices: Mapping[str, str]
    """Device (`cpu0`, `gpu0`, …) -> its tier."""
    reasons: tuple[Reason, ...]
    """What its appraisal found wrong; empty, too, once the key that signed the result is forgotten."""
    attested: datetime
    until: datetime
    """When the attestation is too old."""
    evidence: str
    """SHA-256 (hex) of the stored evidence."""
    releases: tuple[ReleaseState, ...]
    """Its newest release of each dataset, as it stands now."""

    def stands(self, now: datetime) -> bool:
        """Tell whether its attestation is young enough."""
        return now < self.until


def servers_seen(broker: Broker, actor: Actor) -> list[SeenServer]:
    """Return the servers that proved themselves, the newest first.

    Raises:
        Problem: The actor may not read (403).
    """
    actor.check_scope("read")
    now = broker.clock()
    jwks = broker.keyring.jwks(now)
    with broker.store.read() as session:
        query = select(SessionRow).where(SessionRow.attested.is_not(None))
        if actor.datasets is not None:
            query = query.where(SessionRow.id.in_(_sessions_of(session, actor.datasets)))
        rows = session.scalars(query.order_by(SessionRow.attested.desc(), SessionRow.id).limit(MAX_SERVERS))
        found = [one for one in map(snapshot, rows) if one is not None]
        return [_seen(broker, session, actor, one, jwks, now) for one in found]


def seen_session(session: Session, actor: Actor, session_id: str, dataset: str) -> AttestedSession:
    """Return the session of a server that an actor may see with a dataset, also one whose proof is too old.

    Raises:
        Problem: The actor may not read this dataset (403), or sees no such server (404).
    """
    actor.check("read", dataset)
    row = session.get(SessionRow, session_id)
    hidden = actor.datasets is not None and session_id not in _sessions_of(session, actor.datasets)
    found = snapshot(row) if row is not None and not hidden else None
    if found is None:
        raise not_found("The broker has seen no such server, or has forgotten it.")
    return found


def _sessions_of(session: Session, datasets: frozenset[str]) -> frozenset[str]:
    named = sorted(datasets)
    asked = session.scalars(select(AccessRequestRow.session).where(AccessRequestRow.dataset.in_(named)))
    opened = session.scalars(select(ReleaseRow.session).where(ReleaseRow.dataset.in_(named)))
    return frozenset(asked) | frozenset(opened)


def _seen(
    broker: Broker,
    session: Session,
    actor: Actor,
    found: AttestedSession,
    jwks: Mapping[str, object],
    now: datetime,
) -> SeenServer:
    standing = found.standing
    releases = session_state(session, found, broker.finder, now).releases
    return SeenServer(
        session=found.id,
        person=found.person,
        login_until=found.login_until,
        server=found.server,
        tier=standing.tier,
        simulated=standing.simulated,
        environment=standing.environment,
        devices=dict(standing.devices),
        reasons=_reasons(standing.token, jwks, standing.attested),
        attested=standing.attested,
        until=standing.until,
        evidence=standing.evidence,
        releases=tuple(one for one in releases if actor.may("read", one.dataset)),
    )


def _reasons(token: str, jwks: Mapping[str, object], at: datetime) -> tuple[Reason, ...]:
    """Return what an attestation result says is wrong, as of the time that it was made."""
    try:
        result = ear.verify(token, jwks=jwks, at=at).result
    except Error:
        return ()
    return tuple(Reason(code=claim.check, sentence=claim.sentence) for claim in result.failures)
