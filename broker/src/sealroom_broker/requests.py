# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access: a person asks inside their attested session, the dataset's owner answers.

Invariants:

- A request stands with the server that it came from, as it was attested then; its entry of the log names the
  same evidence.
- Entry and change are one transaction, the entry first; a grant that is given has an entry of its own, too.
- A request is answered once. Of two owners who answer at the same time the second is told so (409).
- Who asks learns no more of datasets than the list of datasets says.
"""

from __future__ import annotations

import secrets
import unicodedata
from datetime import UTC, datetime
from typing import cast

from sealroom.datasets.terms import LABELS
from sealroom.kbs.calls import (
    MAX_REASON,
    AccessRequest,
    AccessRequestList,
    AccessRequestSpec,
    Grant,
    GrantSpec,
    Person,
    Reason,
    RequestGrant,
    RequestState,
    ServerSeen,
)
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from sealroom_broker.acts import grant_within
from sealroom_broker.broker import Broker
from sealroom_broker.decide import RULES, Facts, Refused, decide
from sealroom_broker.entries import answer_entry, request_entry
from sealroom_broker.owners import Actor
from sealroom_broker.problem import Problem, bad_request, not_found, refused
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import AccessRequestRow, holder_key

MAX_LISTED = 1000
"""How many requests a list has, the newest ones."""

_TAKEN_BACK = "withdrawn"
_STEERING = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Characters that change the direction of a text, and by that what a reader takes it for (Unicode TR 36)."""


# --- the person's side ---


def ask(broker: Broker, cookie: str | None, spec: AccessRequestSpec, now: datetime) -> AccessRequest:
    """Keep a person's request.

    Args:
        broker: The broker.
        cookie: The session's cookie.
        spec: What the person asks for.
        now: When.

    Raises:
        Problem: The session does not stand (401), the request is malformed (400), or it is not passed on
            (403): nobody is logged in, there is no such dataset, or the person has asked enough.
        StorageError: It could not be kept: nothing was asked.
    """
    _check_spec(spec, now)
    with broker.store.write() as session:
        attested = broker.sessions.current(cookie, now, within=session)
        person = standing_person(attested, now)
        _check_dataset(broker.finder.facts(session, attested, spec.dataset, spec.purpose, now))
        _check_limits(session, broker.config.limits.requests, spec, holder_of(person))
        return _keep(broker, session, spec, attested, person, now)


def own_requests(broker: Broker, cookie: str | None, now: datetime) -> AccessRequestList:
    """Return the requests of a session's person, the newest first.

    Raises:
        Problem: The session does not stand (401), or nobody is logged in (403).
    """
    with broker.store.read() as session:
        person = standing_person(broker.sessions.current(cookie, now, within=session), now)
        return _listed(session, AccessRequestRow.holder == holder_of(person))


def take_back(broker: Broker, cookie: str | None, request_id: str, now: datetime) -> AccessRequest:
    """Take back an open request of a session's person.

    Raises:
        Problem: The session does not stand (401), nobody is logged in (403), the person has no such request
            (404), or it was answered already (409).
        StorageError: It could not be recorded: the request stays.
    """
    with broker.store.write() as session:
        attested = broker.sessions.current(cookie, now, within=session)
        person = standing_person(attested, now)
        row = session.get(AccessRequestRow, request_id)
        if row is None or row.holder != holder_of(person):
            raise not_found("You have no such request.")
        if row.state == _TAKEN_BACK:
            return as_request(row)
        _check_open(row)
        detail = f"Request {row.id} (entry {row.audit_index}) was taken back."
        broker.record.append(request_entry(row.dataset, row.purpose, attested, now, detail=detail))
        row.state, row.answered = _TAKEN_BACK, now
        return as_request(row)


def _keep(
    broker: Broker,
    session: Session,
    spec: AccessRequestSpec,
    attested: AttestedSession,
    person: Person,
    now: datetime,
) -> AccessRequest:
    request_id = secrets.token_hex(8)
    until = f" until {spec.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if spec.until else ""
    detail = f"Request {request_id}{until}: {spec.reason}"
    receipt = broker.record.append(request_entry(spec.dataset, spec.purpose, attested, now, detail=detail))
    row = AccessRequestRow(
        id=request_id,
        dataset=spec.dataset,
        holder=holder_of(person),
        person=person.model_dump(mode="json"),
        purpose=spec.purpose,
        reason=spec.reason,
        until=spec.until,
        created=now,
        session=attested.id,
        server=_server_seen(attested).model_dump(mode="json"),
        state="open",
        audit_index=receipt.index,
        answer="",
        answered_by="",
        grant="",
    )
    session.add(row)
    session.flush()
    return as_request(row)


def standing_person(attested: AttestedSession, now: datetime) -> Person:
    """Return the person whose login holds in a session.

    Raises:
        Problem: There is none (403).
    """
    if attested.person is None:
        raise refused("person.none", RULES["person.none"].researcher)
    if attested.login_until is None or now >= attested.login_until:
        raise refused("person.ended", RULES["person.ended"].researcher)
    return attested.person


def holder_of(person: Person) -> str:
    """Return what a person's requests and releases are found by."""
    return holder_key(person.issuer, person.subject)


# --- the owner's side ---


def requests(
    broker: Broker, actor: Actor, *, dataset: str | None = None, state: RequestState | None = None
) -> AccessRequestList:
    """Return the requests that an owner may see, the newest first.

    Args:
        broker: The broker.
        actor: Who looks; a token for some datasets sees their requests only.
        dataset: Only those for this dataset.
        state: Only those that stand so.

    Raises:
        Problem: The actor may not read (403).
    """
    actor.check_scope("read")
    conditions: list[ColumnElement[bool]] = []
    if actor.datasets is not None:
        conditions.append(AccessRequestRow.dataset.in_(sorted(actor.datasets)))
    if dataset is not None:
        conditions.append(AccessRequestRow.dataset == dataset)
    if state is not None:
        conditions.append(AccessRequestRow.state == state)
    with broker.store.read() as session:
        return _listed(session, *conditions)


def one_request(broker: Broker, actor: Actor, request_id: str) -> AccessRequest:
    """Return one request.

    Raises:
        Problem: There is none that this actor may see (404).
    """
    with broker.store.read() as session:
        return as_request(_visible(session, request_id, actor))


def grant_request(
    broker: Broker, request_id: str, terms: RequestGrant, actor: Actor, now: datetime
) -> AccessRequest:
    """Give the person who asked a grant: to exactly this subject of this issuer.

    Args:
        broker: The broker.
        request_id: Which request.
        terms: What the owner gives.
        actor: Who answers.
        now: When.

    Raises:
        Problem: There is no such request (404), the actor may not answer it (403), somebody has answered it
            already (409), or the terms do not fit together (400).
        StorageError: The entries could not be made durable: nothing was granted.
    """
    _check_terms(terms, now)
    with broker.store.write() as session:
        row = _visible(session, request_id, actor)
        actor.check("write", row.dataset)
        _check_open(row)
        grant = grant_within(broker, session, _grant_spec(row, terms), actor, now)
        _answered(broker, row, "granted", terms.answer, actor, now, grant)
        return as_request(row)


def refuse_request(
    broker: Broker, request_id: str, answer: str, actor: Actor, now: datetime
) -> AccessRequest:
    """Refuse a request, with a sentence for the person.

    Raises:
        Problem: There is no such request (404), the actor may not answer it (403), somebody has answered it
            already (409), or the sentence is missing or not fit to be shown (400).
        StorageError: The entry could not be made durable: the request stays open.
    """
    _check_text(answer, "A refusal's answer")
    with broker.store.write() as session:
        row = _visible(session, request_id, actor)
        actor.check("write", row.dataset)
        _check_open(row)
        _answered(broker, row, "refused", answer, actor, now, None)
        return as_request(row)


def as_request(row: AccessRequestRow) -> AccessRequest:
    """Return a request as both sides know it."""
    return AccessRequest(
        id=row.id,
        dataset=row.dataset,
        person=Person.model_validate(row.person),
        purpose=row.purpose,
        reason=row.reason,
        until=row.until,
        created=row.created,
        server=ServerSeen.model_validate(row.server),
        session=row.session,
        state=cast("RequestState", row.state),
        answer=row.answer,
        answered=row.answered,
        answered_by=row.answered_by,
        grant=row.grant,
        audit_index=row.audit_index,
    )


def _listed(session: Session, *conditions: ColumnElement[bool]) -> AccessRequestList:
    newest = AccessRequestRow.created.desc(), AccessRequestRow.audit_index.desc()
    query = select(AccessRequestRow).where(*conditions).order_by(*newest).limit(MAX_LISTED)
    return AccessRequestList(requests=tuple(map(as_request, session.scalars(query))))


def _visible(session: Session, request_id: str, actor: Actor) -> AccessRequestRow:
    actor.check_scope("read")
    row = session.get(AccessRequestRow, request_id)
    # To a token of other datasets it is as if there were none.
    if row is None or not actor.may("read", row.dataset):
        raise not_found("There is no such request.")
    return row


def _check_open(row: AccessRequestRow) -> None:
    if row.state == "open":
        return
    sentences = {
        "granted": f"This request was granted already, by {row.answered_by}.",
        "refused": f"This request was refused already, by {row.answered_by}.",
        _TAKEN_BACK: "This request was taken back by the person who made it.",
    }
    sentence = sentences.get(row.state, "This request was answered already.")
    reasons = (Reason(code=f"request.{row.state}", sentence=sentence),)
    raise Problem(409, "Conflict", sentence, reasons=reasons)


def _grant_spec(row: AccessRequestRow, terms: RequestGrant) -> GrantSpec:
    person = Person.model_validate(row.person)
    given = terms.model_dump(exclude={"purposes", "forever", "answer"})
    return GrantSpec(
        dataset=row.dataset,
        subject=person.subject,
        issuer=person.issuer,
        purposes=(row.purpose,) if terms.purposes is None else terms.purposes,
        **given,
    )


def _answered(
    broker: Broker,
    row: AccessRequestRow,
    state: RequestState,
    answer: str,
    actor: Actor,
    now: datetime,
    grant: Grant | None,
) -> None:
    entry = answer_entry(as_request(row), actor.name, now, grant=grant, answer=answer)
    broker.record.append(entry)
    row.state, row.answer, row.answered, row.answered_by = state, answer, now, actor.name
    row.grant = grant.id if grant is not None else ""


# --- checks ---


def _check_spec(spec: AccessRequestSpec, now: datetime) -> None:
    _check_text(spec.reason, "A request's reason")
    if spec.purpose not in LABELS:
        raise bad_request(
            "A request's purpose is a DUO code, for example DUO:0000042 (general research use)."
        )
    _check_end(spec.until, "A request's end", now)


def _check_terms(terms: RequestGrant, now: datetime) -> None:
    if terms.answer:
        _check_text(terms.answer, "An answer")
    if (terms.until is None) != terms.forever:
        raise bad_request("Say either when the grant ends or that it has no end.")
    _check_end(terms.until, "A grant's end", now)


def _check_end(until: datetime | None, what: str, now: datetime) -> None:
    if until is None:
        return
    if until.tzinfo is None:
        raise bad_request(f"{what} needs a time zone.")
    if until <= now:
        raise bad_request(f"{what} must be in the future.")


def _check_text(text: str, what: str) -> None:
    """Refuse a text that is empty, long, or not what a reader would take it for."""
    if not text.strip():
        raise bad_request(f"{what} is missing.")
    if len(text) > MAX_REASON:
        raise bad_request(f"{what} has {len(text)} characters; at most {MAX_REASON} are taken.")
    if any(_controls(char) for char in text):
        raise bad_request(f"{what} has control characters in it.")


def _controls(char: str) -> bool:
    if char == "\n":
        return False
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in _STEERING


def _check_dataset(facts: Facts) -> None:
    """Refuse a request for what no grant could open, in the words of the decision."""
    verdict = decide(facts)
    if isinstance(verdict, Refused):
        for denial in verdict.denials:
            if denial.rule.startswith("dataset."):
                raise refused(denial.rule, denial.researcher, ask=verdict.ask)


def _check_limits(session: Session, most: int, spec: AccessRequestSpec, holder: str) -> None:
    mine = (AccessRequestRow.holder == holder, AccessRequestRow.state == "open")
    same = select(AccessRequestRow.id).where(
        *mine, AccessRequestRow.dataset == spec.dataset, AccessRequestRow.purpose == spec.purpose
    )
    if session.scalars(same).first() is not None:
        raise refused(
            "request.open", "You have asked for this dataset and purpose already; the owner will answer."
        )
    count = session.scalar(select(func.count()).select_from(AccessRequestRow).where(*mine)) or 0
    if count >= most:
        raise refused(
            "request.limit",
            f"You have {count} open requests, which is the most that this broker keeps for one person. "
            "Take one back, or wait for an answer.",
        )


def _server_seen(attested: AttestedSession) -> ServerSeen:
    standing = attested.standing
    return ServerSeen(
        server=attested.server,
        tier=standing.tier,
        simulated=standing.simulated,
        environment=standing.environment,
        devices=dict(standing.devices),
        evidence=standing.evidence,
        attested=standing.attested,
    )
