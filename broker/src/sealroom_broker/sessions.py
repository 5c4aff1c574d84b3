# SPDX-License-Identifier: BSD-3-Clause
"""KBS sessions: the handshake's nonces, what was last proven, and who is bound to it.

Invariants:

- A nonce is used once, before anything is verified with it, and not after its end.
- A session's cookie is stored hashed. `auth` with the cookie of a living session continues that session, so
  that a server that proves itself again keeps its person and its releases.
- Person and releases belong to the attested key: evidence with another key drops both, and a login that was
  checked for another key binds nobody.
- A person's login ends, and is prolonged only by presenting it again.
- A clock that is set back makes nothing hold longer: what is from the future must be done again.
- Evidence that fails takes the session's standing away; a handshake that was merely late does not.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, cast

from sealroom.errors import ProtocolError
from sealroom.kbs.binding import DEFAULT_HASH, HashAlgorithm, hash_algorithm
from sealroom.kbs.calls import Person, Visa
from sealroom.kbs.messages import NONCE_SIZE, AuthRequest, Challenge
from sqlalchemy import ColumnElement, Row, Table, bindparam, delete, select, update
from sqlalchemy.orm import Session

from sealroom_broker.config import Periods
from sealroom_broker.decide import Server
from sealroom_broker.problem import Problem, attest_again, refused
from sealroom_broker.store import ReleaseRow, SessionRow, Store

TEES = frozenset({"snp"})
"""The TEEs whose evidence this broker can verify."""

SAMPLE = "sample"
"""The protocol's TEE for trying things out. It proves nothing: only a development broker takes it."""


FORGETTING = timedelta(seconds=1)
"""From one look for ended sessions to the next. They are not continued from their end on."""

UNPROVEN = timedelta(minutes=5)
"""From the end of a nonce to the end of a session that never proved anything."""

SKEW = timedelta(minutes=1)
"""How far the clocks of a broker's processes may differ. What was made later than that from now on was made
before the clock was set back, and does not hold as long as it seems to."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A handshake whose nonce was just used up."""

    session: str
    tee: str
    nonce: str
    algorithm: HashAlgorithm


@dataclass(frozen=True, slots=True)
class Standing:
    """What an attestation gave a session."""

    token: str
    evidence: str
    """SHA-256 (hex) of the stored evidence."""
    tier: str
    simulated: bool
    devices: Mapping[str, str]
    """Device -> its tier."""
    environment: str | None
    """Digest of the approved environment that the evidence matched."""
    policy: str
    """Digest of the appraisal policy."""
    attested: datetime
    until: datetime
    collateral: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind -> SHA-256 (hex) of what was stored beside the evidence, for it to be verified again."""


@dataclass(frozen=True, slots=True)
class AttestedSession:
    """A session whose last attestation is young enough."""

    id: str
    tee_pubkey: Mapping[str, str]
    standing: Standing
    person: Person | None
    server: str
    bound: datetime | None = None
    """When the person's login was presented."""
    login_until: datetime | None = None
    """When it must have been presented again; without it, it has ended."""
    tee: str = "snp"
    """What kind of evidence it was."""

    def as_server(self) -> Server:
        """Return what the decision needs."""
        standing = self.standing
        return Server(
            tier=standing.tier,
            simulated=standing.simulated,
            environment=standing.environment,
            until=standing.until,
            devices=standing.devices,
        )


# Statements of the handshake, without the objects that a row is mapped to: those cost more than the database.
_SESSIONS = cast("Table", SessionRow.__table__)
_WHICH = _SESSIONS.c.id == bindparam("key")
_HANDSHAKE = select(
    *(_SESSIONS.c[name] for name in ("nonce", "nonce_until", "tee", "algorithm")),
    *(_SESSIONS.c[name] for name in ("evidence", "attested", "attested_until")),
).where(_WHICH)
_TOKEN = select(_SESSIONS.c.token).where(_WHICH)
_KEY = select(_SESSIONS.c.tee_pubkey).where(_WHICH)
_USE_NONCE = update(_SESSIONS).where(_WHICH).values(nonce=None)
_RELEASES = cast("Table", ReleaseRow.__table__)
_END_RELEASES = (
    update(_RELEASES)
    .where(_RELEASES.c.session == bindparam("key"), _RELEASES.c.ended.is_(None))
    .values(ended=bindparam("end"))
)
_NOBODY: Mapping[str, None] = dict.fromkeys(
    ("issuer", "subject", "person_name", "groups", "server", "email", "visas", "bound", "login_until")
)
"""What a session says of its person when nobody is bound to it."""


class Sessions:
    """The sessions in the store.

    Args:
        store: The database.
        periods: How long nonces, attestations and sessions hold.
        development: Whether evidence that proves nothing is taken too.
    """

    def __init__(self, store: Store, periods: Periods, *, development: bool = False) -> None:
        self._store = store
        self._periods = periods
        self._tees = TEES | {SAMPLE} if development else TEES
        self._forgot: datetime | None = None

    def begin(self, request: AuthRequest, cookie: str | None, now: datetime) -> tuple[str, Challenge]:
        """Begin a handshake.

        Returns:
            The session's cookie and the challenge.

        Raises:
            Problem: Another protocol version, or a TEE or hash algorithm that is not accepted.
        """
        algorithm = _negotiate(request, self._tees)
        challenge = Challenge.with_nonce(os.urandom(NONCE_SIZE), algorithm)
        with self._store.write() as session:
            if self._forgot is None or not self._forgot <= now < self._forgot + FORGETTING:
                self._forget_old(session, now)
                self._forgot = now
            row = session.get(SessionRow, _key(cookie)) if cookie else None
            if cookie is None or row is None or row.tee != request.tee or self._is_old(row, now):
                cookie = uuid.uuid4().hex
                row = SessionRow(id=_key(cookie), created=now, tee=request.tee, simulated=False)
                session.add(row)
            row.algorithm = algorithm
            row.nonce = challenge.nonce
            row.nonce_until = now + self._periods.nonce_delta
        return cookie, challenge

    def _forget_old(self, session: Session, now: datetime) -> None:
        """Remove sessions that nobody can continue any more, and those that never proved anything sooner."""
        last, begun = now - self._periods.session_delta, now - UNPROVEN
        _delete(session, SessionRow.attested_until < last)
        begun_only = SessionRow.attested_until.is_(None) & (
            (SessionRow.nonce_until < last)
            | ((SessionRow.nonce_until < begun) & SessionRow.tee_pubkey.is_(None))
        )
        _delete(session, begun_only)

    def _is_old(self, row: SessionRow, now: datetime) -> bool:
        """Tell whether a session is one that `_forget_old` removes."""
        last, begun = now - self._periods.session_delta, now - UNPROVEN
        if row.attested_until is not None:
            return row.attested_until < last
        return row.nonce_until < last or (row.nonce_until < begun and row.tee_pubkey is None)

    def answer(self, cookie: str | None, nonce: str, evidence: str, now: datetime) -> Pending | str:
        """Use up the nonce of a handshake, unless this very message was answered already.

        Args:
            cookie: The session's cookie.
            nonce: What the message answers.
            evidence: SHA-256 (hex) of the message.
            now: When.

        Returns:
            The handshake; or the token again, if the session still stands on this message.

        Raises:
            Problem: There is no handshake, it is too old, or it has another nonce.
        """
        key = {"key": _key(cookie)}
        with self._store.write() as session:
            connection = session.connection()
            row = connection.execute(_HANDSHAKE, key).one_or_none() if cookie else None
            if row is None:
                raise _unknown()
            if row.nonce is None and self._stands_on(row, evidence, now):
                return str(connection.execute(_TOKEN, key).scalar_one())
            connection.execute(_USE_NONCE, key)
        pending, until = row.nonce, row.nonce_until
        if pending is None:
            raise attest_again("nonce.used", "This challenge was answered already; ask for a new one.")
        if now >= until or until - self._periods.nonce_delta > now + SKEW:
            raise attest_again("nonce.expired", "The challenge was answered too late; ask for a new one.")
        if not hmac.compare_digest(pending.encode(), nonce.encode()):
            raise attest_again(
                "nonce.other", "The evidence answers another challenge than the one that was sent."
            )
        return Pending(key["key"], row.tee, pending, hash_algorithm(row.algorithm))

    @staticmethod
    def _stands_on(row: Row[Any], evidence: str, now: datetime) -> bool:
        """Tell whether a session's attestation rests on this very message, and still holds."""
        if row.evidence != evidence or row.attested_until is None:
            return False
        return bool(now < row.attested_until) and not _ahead(row.attested, now)

    def attested(self, session_id: str, tee_pubkey: Mapping[str, str], standing: Standing) -> None:
        """Remember that a session was attested; within a `Store.write`, when that commits."""
        values = {
            "tee_pubkey": dict(tee_pubkey),
            "token": standing.token,
            "evidence": standing.evidence,
            "tier": standing.tier,
            "simulated": standing.simulated,
            "devices": dict(standing.devices),
            "environment": standing.environment,
            "policy": standing.policy,
            "collateral": {kind: list(digests) for kind, digests in standing.collateral.items()},
            "attested": standing.attested,
            "attested_until": standing.until,
        }
        with self._store.join() as session:
            connection = session.connection()
            known = connection.execute(_KEY, {"key": session_id}).one_or_none()
            if known is None:
                raise _unknown()
            if known.tee_pubkey is not None and known.tee_pubkey != values["tee_pubkey"]:
                values |= _NOBODY
                connection.execute(_END_RELEASES, {"key": session_id, "end": standing.attested})
            connection.execute(update(_SESSIONS).where(_SESSIONS.c.id == session_id).values(values))

    def failed(self, session_id: str) -> None:
        """Take a session's standing away: its server's evidence failed."""
        with self._store.write() as session:
            row = session.get(SessionRow, session_id)
            if row is not None:
                row.token = row.evidence = row.tier = row.environment = None
                row.attested = row.attested_until = None

    def bound_to(self, session_id: str) -> tuple[Person | None, str]:
        """Return the person and the server that are bound to a session."""
        with self._store.read() as session:
            row = session.get(SessionRow, session_id)
            return (_person(row), row.server or "") if row is not None else (None, "")

    def current(self, cookie: str | None, now: datetime, *, within: Session | None = None) -> AttestedSession:
        """Return the attested session of a cookie.

        Args:
            cookie: The cookie's value.
            now: The time to judge at.
            within: The transaction to read in; one of its own without it.

        Raises:
            Problem: There is none, or its attestation is too old: the guest must attest (again).
        """
        if within is None:
            with self._store.read() as session:
                return self.current(cookie, now, within=session)
        return self._standing(within.get(SessionRow, _key(cookie)) if cookie else None, now)

    def with_token(self, token: str, now: datetime, *, within: Session) -> AttestedSession:
        """Return the attested session whose newest token this is.

        The token says nothing secret and opens nothing by itself: what it is answered with is encrypted to
        the key of its session.

        Raises:
            Problem: There is none, or its attestation is too old: the guest must attest (again).
        """
        return self._standing(within.scalar(select(SessionRow).where(SessionRow.token == token)), now)

    def _standing(self, row: SessionRow | None, now: datetime) -> AttestedSession:
        found = snapshot(self._row(row))
        if found is None:
            raise attest_again("session.unattested", "Your server has not proven itself in this session yet.")
        if now >= found.standing.until:
            raise attest_again(
                "attestation.expired", "The last proof of your server is too old; it must prove itself again."
            )
        if _ahead(found.standing.attested, now):
            raise attest_again(
                "attestation.ahead", "The broker's clock was set back; your server must prove itself again."
            )
        if found.login_until is not None and _ahead(found.bound, now):
            found = replace(found, login_until=min(found.login_until, now))
        return found

    def bind(
        self, attested: AttestedSession, person: Person, server: str, now: datetime, until: datetime
    ) -> None:
        """Bind a person to a session, or prolong it.

        Args:
            attested: The session that the login was presented in.
            person: Whose login it is.
            server: The name of their server at the hub.
            now: When it was checked.
            until: When it must have been presented again.

        Raises:
            Problem: Another person is bound to it already, or it is gone, or has another key by now.
        """
        with self._store.write() as session:
            row = self._row(session.get(SessionRow, attested.id))
            # The login was checked for this key, and the session may have gone on to another one meanwhile.
            if row.tee_pubkey != dict(attested.tee_pubkey):
                raise attest_again("session.changed", "Your server has proven itself with another key.")
            if row.subject is not None and (row.issuer, row.subject, row.server) != (
                person.issuer,
                person.subject,
                server,
            ):
                raise refused("person.other", "This session belongs to another person or another server.")
            row.issuer, row.subject, row.person_name = person.issuer, person.subject, person.name
            row.groups, row.server, row.bound = list(person.groups), server, now
            row.email, row.login_until = person.email, until
            row.visas = [visa.model_dump(mode="json") for visa in person.visas]

    @staticmethod
    def _row(row: SessionRow | None) -> SessionRow:
        if row is None:
            raise _unknown()
        return row


def _unknown() -> Problem:
    return attest_again("session.none", "The broker does not know this session; begin a new one.")


def _ahead(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now + SKEW


def _delete(session: Session, which: ColumnElement[bool]) -> None:
    # Nothing that was loaded before is used after: finding it among what is removed would cost more.
    session.execute(delete(SessionRow).where(which).execution_options(synchronize_session=False))


def _key(cookie: str | None) -> str:
    return hashlib.sha256(b"kbs-session\0" + (cookie or "").encode()).hexdigest()


def _negotiate(request: AuthRequest, tees: frozenset[str]) -> HashAlgorithm:
    """Check what a guest offers and choose a hash algorithm.

    Raises:
        Problem: The broker cannot attest this guest.
    """
    try:
        request.check_version()
    except ProtocolError as error:
        raise attest_again("protocol.version", f"Attestation error: {error.message}") from error
    if request.tee not in tees:
        why = "proves nothing" if request.tee.startswith("sample") else "cannot be verified by this broker"
        raise attest_again("tee.refused", f"Evidence of the kind {request.tee[:32]!r} {why}.")
    offered = request.hash_algorithms
    if not offered:
        raise attest_again("hash.none", "Your server offers no hash algorithm that this broker has.")
    return DEFAULT_HASH if DEFAULT_HASH in offered else offered[0]


def snapshot(row: SessionRow) -> AttestedSession | None:
    """Return what a row says, or None without a standing attestation."""
    if (
        row.tee_pubkey is None
        or row.token is None
        or row.evidence is None
        or row.tier is None
        or row.attested is None
        or row.attested_until is None
    ):
        return None
    standing = Standing(
        token=row.token,
        evidence=row.evidence,
        tier=row.tier,
        simulated=row.simulated,
        devices=row.devices or {},
        collateral={kind: tuple(digests) for kind, digests in (row.collateral or {}).items()},
        policy=row.policy or "",
        environment=row.environment,
        attested=row.attested,
        until=row.attested_until,
    )
    return AttestedSession(
        id=row.id,
        tee_pubkey=row.tee_pubkey,
        standing=standing,
        person=_person(row),
        server=row.server or "",
        bound=row.bound,
        login_until=row.login_until,
        tee=row.tee,
    )


def _person(row: SessionRow) -> Person | None:
    if row.subject is None or row.issuer is None:
        return None
    return Person(
        subject=row.subject,
        name=row.person_name or row.subject,
        groups=tuple(row.groups or ()),
        issuer=row.issuer,
        email=row.email or "",
        visas=tuple(map(Visa.model_validate, row.visas or ())),
    )
