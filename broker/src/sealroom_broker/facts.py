# SPDX-License-Identifier: BSD-3-Clause
"""Collect what a decision looks at from the store and from the approved environments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from sealroom_broker.decide import Facts
from sealroom_broker.registry import as_dataset, grants_of
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import DatasetRow


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
        return Facts(
            server=attested.as_server(),
            person=attested.person,
            login_until=attested.login_until,
            dataset=as_dataset(row, self._contact) if row else None,
            dataset_id=dataset,
            grants=grants_of(session, dataset) if row else (),
            approved=self._approved(),
            purpose=purpose,
            now=now,
            development=self._development,
        )
