# SPDX-License-Identifier: BSD-3-Clause
"""How many servers of a person have a dataset by a grant at once.

A server has a place by a grant from its first release by it that has not ended, as long as its attestation is
alive and the person is bound to it. Places are in the order of these releases: where a bound is narrowed, the
servers that came last lose theirs. A server whose attestation lapsed gives its place up when another server
of the person takes one; it must ask for the dataset again then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from sealroom.kbs.calls import Grant, Person
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from sealroom_broker.decide import names
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import ReleaseRow, SessionRow


def servers_ahead(
    session: Session, attested: AttestedSession, grants: Iterable[Grant], now: datetime
) -> Mapping[str, int]:
    """Return for each grant of the person with a bound on servers how many others have a place before this.

    Args:
        session: The transaction to read in.
        attested: Who asks.
        grants: Grants; those without a bound or of other people are left out.
        now: When.
    """
    person = attested.person
    if person is None:
        return {}
    bounded = [grant for grant in grants if grant.servers is not None and names(grant, person, now)]
    return {grant.id: _ahead(session, attested, person, grant.id, now) for grant in bounded}


def take_place(session: Session, attested: AttestedSession, grant: Grant, now: datetime) -> None:
    """Let a server that was just allowed a release have its place: those of lapsed servers end.

    Args:
        session: The transaction that the decision was made in.
        attested: Who asked.
        grant: The grant that allowed it.
        now: When.
    """
    if grant.servers is None or attested.person is None:
        return
    person = attested.person
    lapsed = select(SessionRow.id).where(
        SessionRow.issuer == person.issuer,
        SessionRow.subject == person.subject,
        SessionRow.id != attested.id,
        SessionRow.attested_until.is_(None) | (SessionRow.attested_until <= now),
    )
    session.execute(
        update(ReleaseRow)
        .where(ReleaseRow.grant == grant.id, ReleaseRow.ended.is_(None), ReleaseRow.session.in_(lapsed))
        .values(ended=now)
    )


def _ahead(session: Session, attested: AttestedSession, person: Person, grant: str, now: datetime) -> int:
    query = (
        select(ReleaseRow.session, func.min(ReleaseRow.id))
        .join(SessionRow, SessionRow.id == ReleaseRow.session)
        .where(
            ReleaseRow.grant == grant,
            ReleaseRow.ended.is_(None),
            SessionRow.issuer == person.issuer,
            SessionRow.subject == person.subject,
            SessionRow.attested_until > now,
        )
        .group_by(ReleaseRow.session)
    )
    firsts = {row[0]: row[1] for row in session.execute(query)}
    own = firsts.pop(attested.id, None)
    return sum(own is None or first < own for first in firsts.values())
