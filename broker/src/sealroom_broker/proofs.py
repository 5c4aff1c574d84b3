# SPDX-License-Identifier: BSD-3-Clause
"""A person's own releases, each with the proof that it stands in the signed log."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

from sealroom.audit.note import Checkpoint
from sealroom.audit.tlog import Tiles
from sealroom.kbs.calls import OwnRelease, OwnReleaseList
from sqlalchemy import select

from sealroom_broker.broker import Broker
from sealroom_broker.requests import holder_of, standing_person
from sealroom_broker.store import ReleaseRow

MAX_RELEASES = 100
"""How many releases a page has."""


def own_releases(
    broker: Broker, cookie: str | None, now: datetime, before: int | None = None
) -> OwnReleaseList:
    """Return what was released to a session's person, in any of their sessions, the newest first.

    Args:
        broker: The broker.
        cookie: The session's cookie.
        now: When.
        before: Only releases whose entry has a smaller index.

    Raises:
        Problem: The session does not stand (401), or nobody is logged in (403).
        Error: The log cannot be read.
    """
    with broker.store.read() as session:
        person = standing_person(broker.sessions.current(cookie, now, within=session), now)
        query = select(ReleaseRow).where(ReleaseRow.holder == holder_of(person))
        if before is not None:
            query = query.where(ReleaseRow.audit_index < before)
        rows = session.scalars(query.order_by(ReleaseRow.audit_index.desc()).limit(MAX_RELEASES)).all()
    return OwnReleaseList(releases=_proven(broker, rows) if rows else ())


def _proven(broker: Broker, rows: Sequence[ReleaseRow]) -> tuple[OwnRelease, ...]:
    # One checkpoint for all, taken after the rows: it covers every one of them.
    log, key = broker.record.log, broker.record.signer.verifier
    note = log.checkpoint()
    tree = Tiles(log, Checkpoint.open(note, key).size)
    return tuple(
        OwnRelease(
            index=row.audit_index,
            time=row.released,
            dataset=row.dataset,
            purpose=row.purpose,
            grant=row.grant,
            entry=_b64(log.entry(row.audit_index)),
            proof=tuple(map(_b64, tree.inclusion_proof(row.audit_index))),
            checkpoint=note.decode(),
            key=str(key),
        )
        for row in rows
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
