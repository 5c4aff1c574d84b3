# SPDX-License-Identifier: BSD-3-Clause
"""What people, datasets and environments are called, for pages that have only their ids."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from sealroom_broker import acts
from sealroom_broker.broker import Broker
from sealroom_broker.owner_pages.sentences import Names
from sealroom_broker.owners import Actor
from sealroom_broker.store import SessionRow


def people(broker: Broker) -> Names:
    """Return the names of those whom a session still knows."""
    columns = (SessionRow.issuer, SessionRow.subject, SessionRow.person_name)
    with broker.store.read() as session:
        rows = session.execute(select(*columns).where(SessionRow.subject.is_not(None)).distinct())
        return {(row.issuer or "", row.subject or ""): row.person_name or "" for row in rows}


def environments(broker: Broker) -> Mapping[str, str]:
    """Return the titles of the approved environments by digest."""
    return {
        digest: f"{one.title} (version {one.version})" for digest, one in broker.environments.all().items()
    }


def titles(broker: Broker, actor: Actor) -> Mapping[str, str]:
    """Return the titles of the datasets by id."""
    return {one.id: one.title for one in acts.owned_datasets(broker, actor).datasets}


def halted(broker: Broker, actor: Actor) -> frozenset[str]:
    """Return the projects that are halted."""
    return frozenset(one.name for one in acts.projects(broker, actor).projects if one.state == "halted")
