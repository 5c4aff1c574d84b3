# SPDX-License-Identifier: BSD-3-Clause
"""Collect what a decision looks at from the store and from the approved environments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sealroom.kbs.calls import Grant, Person
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.decide import Facts
from sealroom_broker.places import servers_ahead
from sealroom_broker.projects import halted_projects
from sealroom_broker.registry import as_dataset, as_grant
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import DatasetRow, GrantRow


class FactFinder:
    """Collects facts.

    Args:
        approved: Returns the digests of the environments that are approved now.
        development: Whether the broker runs in mode `development`.
        contact: Whom people ask where a dataset names nobody.
    """

    def __init__(self, approved: Callable[[], frozenset[str]], *, development: bool, contact: str) -> None:
        self._approved = approved
        self._development = development
        self._contact = contact

    def facts(
        self, session: Session, attested: AttestedSession, dataset: str, purpose: str | None, now: datetime
    ) -> Facts:
        """Return everything that `decide` looks at.

        Args:
            session: The transaction to read in.
            attested: Who asks.
            dataset: What for.
            purpose: A DUO code; None asks whether any would do, for showing only.
            now: When.
        """
        row = session.get(DatasetRow, dataset)
        grants = _grants_for(session, dataset, attested.person) if row else ()
        return Facts(
            server=attested.as_server(),
            person=attested.person,
            login_until=attested.login_until,
            dataset=as_dataset(row, self._contact) if row else None,
            dataset_id=dataset,
            grants=grants,
            approved=self._approved(),
            purpose=purpose,
            now=now,
            development=self._development,
            halted=halted_projects(session),
            ahead=servers_ahead(session, attested, grants, now),
        )


def _grants_for(session: Session, dataset: str, person: Person | None) -> tuple[Grant, ...]:
    """Return the grants that may be the person's: theirs by name, and those of groups and visas.

    The decision looks at each again. Those of other people are left where they are: a dataset may have very
    many, and reading them all would cost more than everything else in a release.
    """
    if person is None:
        return ()
    query = select(GrantRow).where(GrantRow.dataset == dataset, GrantRow.subject.in_(("", person.subject)))
    return tuple(as_grant(row) for row in session.scalars(query.order_by(GrantRow.created, GrantRow.id)))
