# SPDX-License-Identifier: BSD-3-Clause
"""Sessions against a model of them: whatever happens in whatever order, both agree on who stands."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from sealroom import testing
from sealroom.kbs.calls import Person
from sealroom.kbs.messages import AuthRequest
from sealroom_broker.config import Periods
from sealroom_broker.migrate import migrate
from sealroom_broker.problem import Problem
from sealroom_broker.sessions import SKEW, UNPROVEN, Pending, Sessions, Standing, _key
from sealroom_broker.store import DatasetRow, GrantRow, ReleaseRow, Store
from sqlalchemy import select
from support.brokers import PEOPLE

PERIODS = Periods(nonce=60, attestation=120, session=600)
KEYS = {name: {"kty": "EC", "x": name} for name in ("k1", "k2")}
ALICE, BOB = PEOPLE.values()
BROKERS = st.sampled_from([0, 1])


@dataclass
class Model:
    """What should be true of one session."""

    nonce: str | None = None
    nonce_made: datetime = testing.NOW
    key: str | None = None
    attested: datetime | None = None
    until: datetime | None = None
    evidence: str = ""
    token: str = ""
    person: str | None = None
    bound: datetime = testing.NOW
    login_until: datetime | None = None
    released: int = 0
    """Releases that have not ended."""

    def last(self) -> datetime:
        return self.until or self.nonce_until

    @property
    def nonce_until(self) -> datetime:
        return self.nonce_made + PERIODS.nonce_delta

    def nonce_holds(self, now: datetime) -> bool:
        return self.nonce_made <= now + SKEW and now < self.nonce_until

    def stands(self, now: datetime) -> bool:
        if self.until is None or self.attested is None:
            return False
        return now < self.until and self.attested <= now + SKEW

    def login_ends(self, now: datetime) -> datetime | None:
        """When the login has to be presented again; at once, where the clock was set back."""
        if self.login_until is None or self.bound <= now + SKEW:
            return self.login_until
        return min(self.login_until, now)


class SessionMachine(RuleBasedStateMachine):
    """Two brokers with one store; whatever one of them is asked, the other knows."""

    cookies = Bundle("cookies")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.stores = [self._open() for _ in range(2)]
        migrate(self.stores[0])
        with self.stores[0].write() as session:
            session.add(dataset_row())
            session.flush()
            session.add(grant_row())
        self.brokers = [Sessions(store, PERIODS) for store in self.stores]
        self.now = testing.NOW
        self.model: dict[str, Model] = {}
        self.spent: set[str] = set()
        self.old_tokens: set[str] = set()
        self.forgotten: set[str] = set()
        self.count = 0

    def _open(self) -> Store:
        return Store(Path(self._folder.name) / "s.sqlite")

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self._folder.cleanup()

    def _forget_old(self) -> None:
        kept = PERIODS.session_delta
        gone = [
            cookie
            for cookie, one in self.model.items()
            if one.last() < self.now - (kept if one.key else UNPROVEN)
        ]
        for cookie in gone:
            del self.model[cookie]
            self.forgotten.add(cookie)

    @rule(target=cookies, broker=BROKERS)
    def begin(self, broker: int) -> str:
        return self._begin(None, broker)

    @rule(cookie=cookies, broker=BROKERS)
    def begin_again(self, cookie: str, broker: int) -> None:
        known = cookie in self.model
        same = self._begin(cookie, broker) == cookie
        assert same == (known and cookie in self.model)

    def _begin(self, cookie: str | None, broker: int) -> str:
        self._forget_old()
        given, challenge = self.brokers[broker].begin(AuthRequest.for_tee("snp"), cookie, self.now)
        assert challenge.nonce not in self.spent
        one = self.model.setdefault(given, Model())
        one.nonce, one.nonce_made = challenge.nonce, self.now
        return given

    @rule(cookie=cookies, key=st.sampled_from(sorted(KEYS)), broker=BROKERS, other=BROKERS)
    def prove_again(self, cookie: str, key: str, broker: int, other: int) -> None:
        """A whole handshake, as a guest makes it: chance alone rarely puts its steps together."""
        if self._begin(cookie, broker) == cookie:
            self._attest(cookie, True, key, True, other, broker)

    @rule(
        cookie=cookies,
        right=st.booleans(),
        key=st.sampled_from(sorted(KEYS)),
        good=st.booleans(),
        broker=BROKERS,
        other=BROKERS,
    )
    def attest(self, cookie: str, right: bool, key: str, good: bool, broker: int, other: int) -> None:
        self._attest(cookie, right, key, good, broker, other)

    def _attest(self, cookie: str, right: bool, key: str, good: bool, broker: int, other: int) -> None:
        one = self.model.get(cookie)
        nonce = one.nonce if one and one.nonce and right else "wrong"
        expected = one is not None and one.nonce == nonce and one.nonce_holds(self.now)
        evidence, pending = f"{self.count + 1:064x}", None
        with contextlib.suppress(Problem):
            pending = self.brokers[broker].answer(cookie, nonce, evidence, self.now)
        assert isinstance(pending, Pending) == expected
        # Once, at whichever of them.
        assert status_of(lambda: self.brokers[other].answer(cookie, nonce, evidence, self.now)) == 401
        if one is None:
            return
        if one.nonce:
            self.spent.add(one.nonce)
        one.nonce = None
        if not isinstance(pending, Pending):
            return
        self.old_tokens.add(one.token)
        if not good:
            self.brokers[broker].failed(pending.session)
            one.until = one.attested = None
            return
        self.count += 1
        one.attested, one.until = self.now, self.now + PERIODS.attestation_delta
        one.evidence, one.token = evidence, f"token-{self.count}"
        self.brokers[broker].attested(pending.session, KEYS[key], self._standing(one))
        if one.key != key:
            one.person, one.login_until, one.released = None, None, 0
        one.key = key

    def _standing(self, one: Model) -> Standing:
        assert one.until is not None
        return Standing(
            token=one.token,
            evidence=one.evidence,
            tier="affirming",
            simulated=False,
            devices={},
            environment=None,
            policy="",
            attested=self.now,
            until=one.until,
        )

    @rule(
        cookie=cookies,
        person=st.sampled_from([ALICE, BOB]),
        seconds=st.sampled_from([30, 120, 600]),
        broker=BROKERS,
    )
    def bind(self, cookie: str, person: Person, seconds: int, broker: int) -> None:
        one = self.model.get(cookie)
        stands = one is not None and one.stands(self.now)
        free = one is not None and one.person in (None, person.subject)
        until = self.now + timedelta(seconds=seconds)

        def bind() -> None:
            attested = self.brokers[broker].current(cookie, self.now)
            self.brokers[broker].bind(attested, person, "", self.now, until)

        assert status_of(bind) == (200 if stands and free else 403 if stands else 401)
        if one is not None and stands and free:
            one.person, one.bound, one.login_until = person.subject, self.now, until

    @rule(cookie=cookies, person=st.sampled_from([ALICE, BOB]), key=st.sampled_from(sorted(KEYS)))
    def bind_a_login_that_was_checked_for_another_key(self, cookie: str, person: Person, key: str) -> None:
        """The session went on to another key while the login was checked."""
        one = self.model.get(cookie)
        if one is None or not one.stands(self.now) or one.key == key:
            return
        attested = replace(self.brokers[0].current(cookie, self.now), tee_pubkey=KEYS[key])
        until = self.now + PERIODS.attestation_delta
        assert status_of(lambda: self.brokers[1].bind(attested, person, "", self.now, until)) == 401

    @rule(cookie=cookies, broker=BROKERS)
    def release(self, cookie: str, broker: int) -> None:
        one = self.model.get(cookie)
        if one is None or not one.stands(self.now):
            return
        with self.stores[broker].write() as session:
            attested = self.brokers[broker].current(cookie, self.now, within=session)
            session.add(release_row(attested.id, self.now))
        one.released += 1

    @rule(cookie=cookies, broker=BROKERS)
    def send_the_same_evidence_again(self, cookie: str, broker: int) -> None:
        one = self.model.get(cookie)
        evidence = one.evidence if one else "f" * 64
        answer = partial(self.brokers[broker].answer, cookie, "wrong", evidence, self.now)
        if one is not None and one.nonce is None and one.stands(self.now):
            assert answer() == one.token
        else:
            assert status_of(answer) == 401
            if one is not None and one.nonce:
                self.spent.add(one.nonce)
                one.nonce = None

    @rule(seconds=st.sampled_from([1, 59, 60, 119, 120, 601]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([1, 60, 61, 3600]))
    @precondition(lambda self: not self.forgotten)
    def clock_is_set_back(self, seconds: int) -> None:
        # Not after something was forgotten: a broker that looked for it a moment ago has it still.
        self.now -= timedelta(seconds=seconds)

    @rule(broker=BROKERS)
    def restart(self, broker: int) -> None:
        self.stores[broker].close()
        self.stores[broker] = self._open()
        self.brokers[broker] = Sessions(self.stores[broker], PERIODS)

    @invariant()
    def both_agree(self) -> None:
        for cookie, one in self.model.items():
            for sessions in self.brokers:
                if not one.stands(self.now):
                    assert status_of(lambda: sessions.current(cookie, self.now)) == 401  # noqa: B023
                    continue
                attested = sessions.current(cookie, self.now)
                assert one.key is not None
                assert attested.tee_pubkey == KEYS[one.key]
                assert (attested.person.subject if attested.person else None) == one.person
                assert attested.login_until == one.login_ends(self.now)

    @invariant()
    def only_the_newest_token_stands_for_its_session(self) -> None:
        with self.stores[0].read() as session:
            for one in self.model.values():
                if one.stands(self.now):
                    found = self.brokers[0].with_token(one.token, self.now, within=session)
                    assert found.standing.evidence == one.evidence
            for token in self.old_tokens:
                call = partial(self.brokers[0].with_token, token, self.now, within=session)
                assert status_of(call) == 401

    @invariant()
    def releases_belong_to_the_key(self) -> None:
        with self.stores[1].read() as session:
            rows = session.scalars(select(ReleaseRow.session).where(ReleaseRow.ended.is_(None)))
            there = Counter(rows)
        for cookie, one in self.model.items():
            assert there.get(_key(cookie), 0) == one.released


def dataset_row() -> DatasetRow:
    return DatasetRow(
        id="heartbeats",
        manifest=b"",
        manifest_sha256="0" * 64,
        signature=b"",
        owner_key=b"",
        wrapped_key=b"",
        registered=testing.NOW,
    )


def grant_row() -> GrantRow:
    return GrantRow(
        id="grant",
        dataset="heartbeats",
        subject="alice",
        issuer="hub",
        purposes=[],
        environments=[],
        minimum="affirming",
        created=testing.NOW,
    )


def release_row(session: str, now: datetime) -> ReleaseRow:
    return ReleaseRow(
        session=session,
        dataset="heartbeats",
        grant="grant",
        purpose="DUO:0000042",
        manifest_sha256="0" * 64,
        released=now,
        audit_index=0,
        audit_leaf="0" * 64,
    )


def status_of(call: Callable[[], object]) -> int:
    """Return the status that a call is answered with."""
    try:
        call()
    except Problem as problem:
        return problem.status
    return 200


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
