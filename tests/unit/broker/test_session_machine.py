# SPDX-License-Identifier: BSD-3-Clause
"""Sessions against a model of them: whatever happens in whatever order, both agree on who stands."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sealroom import testing
from sealroom.kbs.calls import Person
from sealroom.kbs.messages import AuthRequest
from sealroom_broker.config import Periods
from sealroom_broker.migrate import migrate
from sealroom_broker.problem import Problem
from sealroom_broker.sessions import UNPROVEN, Sessions, Standing
from sealroom_broker.store import Store
from support.brokers import PEOPLE

PERIODS = Periods(nonce=60, attestation=120, session=600)
KEYS = {name: {"kty": "EC", "x": name} for name in ("k1", "k2")}
ALICE, BOB = PEOPLE.values()


@dataclass
class Model:
    """What should be true of one session."""

    nonce: str | None = None
    nonce_until: datetime = testing.NOW
    key: str | None = None
    until: datetime | None = None
    person: str | None = None

    def last(self) -> datetime:
        return self.until or self.nonce_until


class SessionMachine(RuleBasedStateMachine):
    cookies = Bundle("cookies")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self._folder.name) / "s.sqlite")
        migrate(self.store)
        self.sessions = Sessions(self.store, PERIODS)
        self.now = testing.NOW
        self.model: dict[str, Model] = {}
        self.spent: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
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

    @rule(target=cookies)
    def begin(self) -> str:
        return self._begin(None)

    @rule(cookie=cookies)
    def begin_again(self, cookie: str) -> None:
        known = cookie in self.model
        same = self._begin(cookie) == cookie
        assert same == (known and cookie in self.model)

    def _begin(self, cookie: str | None) -> str:
        self._forget_old()
        given, challenge = self.sessions.begin(AuthRequest.for_tee("snp"), cookie, self.now)
        assert challenge.nonce not in self.spent
        one = self.model.setdefault(given, Model())
        one.nonce, one.nonce_until = challenge.nonce, self.now + PERIODS.nonce_delta
        return given

    @rule(cookie=cookies, right=st.booleans(), key=st.sampled_from(sorted(KEYS)), good=st.booleans())
    def attest(self, cookie: str, right: bool, key: str, good: bool) -> None:
        one = self.model.get(cookie)
        nonce = one.nonce if one and one.nonce and right else "wrong"
        expected = one is not None and one.nonce == nonce and self.now < one.nonce_until
        pending = None
        with contextlib.suppress(Problem):
            pending = self.sessions.consume(cookie, nonce, self.now)
        assert (pending is not None) == expected
        if one is None:
            return
        if one.nonce:
            self.spent.add(one.nonce)
        one.nonce = None
        if pending is None:
            return
        if not good:
            self.sessions.failed(pending.session)
            one.until = None
            return
        until = self.now + PERIODS.attestation_delta
        self.sessions.attested(pending.session, KEYS[key], self._standing(until))
        if one.key != key:
            one.person = None
        one.key, one.until = key, until

    def _standing(self, until: datetime) -> Standing:
        return Standing(
            token="t",
            evidence="0" * 64,
            tier="affirming",
            simulated=False,
            devices={},
            environment=None,
            policy="",
            attested=self.now,
            until=until,
        )

    @rule(cookie=cookies, person=st.sampled_from([ALICE, BOB]))
    def bind(self, cookie: str, person: Person) -> None:
        one = self.model.get(cookie)
        stands = one is not None and one.until is not None and self.now < one.until
        free = one is not None and one.person in (None, person.subject)

        def bind() -> None:
            attested = self.sessions.current(cookie, self.now)
            self.sessions.bind(attested, person, "", self.now, self.now + PERIODS.attestation_delta)

        assert status_of(bind) == (200 if stands and free else 403 if stands else 401)
        if one is not None and stands and free:
            one.person = person.subject

    @rule(seconds=st.sampled_from([1, 59, 60, 119, 120, 601]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(Path(self._folder.name) / "s.sqlite")
        self.sessions = Sessions(self.store, PERIODS)

    @invariant()
    def both_agree(self) -> None:
        for cookie, one in self.model.items():
            if one.until is None or self.now >= one.until:
                assert status_of(lambda: self.sessions.current(cookie, self.now)) == 401  # noqa: B023
                continue
            attested = self.sessions.current(cookie, self.now)
            assert one.key is not None
            assert attested.tee_pubkey == KEYS[one.key]
            assert (attested.person.subject if attested.person else None) == one.person


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
