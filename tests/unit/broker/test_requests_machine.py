# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access against a model: asked, taken back and answered by two owners, in whatever order."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.kbs.calls import AccessRequestSpec, IdentityRequest, RequestGrant
from sealroom.kbs.client import KbsClient
from sealroom_broker import requests
from sealroom_broker.owners import Actor
from sealroom_broker.problem import Problem
from support.brokers import World, world

GUESTS = st.sampled_from(["alice", "bob"])
PURPOSES = st.sampled_from(["DUO:0000042", "DUO:0000006"])
OWNERS = {
    "olga": Actor("olga", "owner"),
    "otto": Actor("otto", "owner", frozenset({"heartbeats"})),
    "elsewhere": Actor("elsewhere", "owner", frozenset({"other"})),
    "auditor": Actor("auditor", "auditor"),
}
MOST = 2
ACTORS = st.sampled_from(sorted(OWNERS))


@dataclass
class Asked:
    """A request as the model knows it."""

    person: str
    purpose: str
    state: str = "open"
    by: str = ""
    until: datetime | None = None


class RequestsMachine(RuleBasedStateMachine):
    """Two people who ask, and four tokens that try to answer."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.world: World = self._stack.enter_context(world(Path(folder)))
        self.world.config_path.write_text(
            self.world.config_path.read_text() + f"\n[limits]\nrequests = {MOST}\n"
        )
        self.world.restart()
        self.world.seal()
        self.guests = {name: self.world.guest(f"token-of-{name}") for name in ("alice", "bob")}
        self.model: dict[str, Asked] = {}
        self.entries: Counter[str] = Counter()

    def teardown(self) -> None:
        self._stack.close()

    @property
    def now(self) -> datetime:
        return self.world.clock()

    def cookie(self, name: str) -> str | None:
        return self.guests[name]._cookie

    @rule(target=ids, name=GUESTS, purpose=PURPOSES)
    def ask(self, name: str, purpose: str) -> str:
        mine = [one for one in self.model.values() if one.person == name and one.state == "open"]
        taken = purpose in [one.purpose for one in mine] or len(mine) >= MOST
        spec = AccessRequestSpec(dataset="heartbeats", purpose=purpose, reason="Arrhythmia.")
        if taken:
            assert (
                status_of(lambda: requests.ask(self.world.broker, self.cookie(name), spec, self.now)) == 403
            )
            return ""
        made = requests.ask(self.world.broker, self.cookie(name), spec, self.now)
        self.model[made.id] = Asked(name, purpose)
        self.entries["request"] += 1
        return made.id

    @rule(request=ids, name=GUESTS)
    def take_back(self, request: str, name: str) -> None:
        one = self.model.get(request)
        status = status_of(
            lambda: requests.take_back(self.world.broker, self.cookie(name), request, self.now)
        )
        if one is None or one.person != name:
            assert status == 404
        elif one.state in ("open", "withdrawn"):
            assert status == 200
            self.entries["request"] += one.state == "open"
            one.state = "withdrawn"
        else:
            assert status == 409

    @rule(request=ids, actor=ACTORS, days=st.integers(-1, 30), purposes=st.none() | PURPOSES)
    def grant(self, request: str, actor: str, days: int, purposes: str | None) -> None:
        until = self.now + timedelta(days=days)
        terms = RequestGrant(
            until=until, minimum="simulated", purposes=None if purposes is None else (purposes,)
        )
        status = status_of(
            lambda: requests.grant_request(self.world.broker, request, terms, OWNERS[actor], self.now)
        )
        assert status == (400 if days <= 0 else self.answered(request, actor))
        if status == 200:
            one = self.model[request]
            one.state, one.by, one.until = "granted", actor, until
            self.entries["grant"] += 1
            self.entries["answer"] += 1

    @rule(request=ids, actor=ACTORS)
    def refuse(self, request: str, actor: str) -> None:
        status = status_of(
            lambda: requests.refuse_request(self.world.broker, request, "No.", OWNERS[actor], self.now)
        )
        assert status == self.answered(request, actor)
        if status == 200:
            self.model[request].state, self.model[request].by = "refused", actor
            self.entries["answer"] += 1

    def answered(self, request: str, actor: str) -> int:
        """Say how an answer of this actor is answered."""
        one = self.model.get(request)
        if one is None or actor == "elsewhere":
            return 404
        if actor == "auditor":
            return 403
        return 200 if one.state == "open" else 409

    @rule(minutes=st.sampled_from([1, 60, -60]))
    def clock_goes_on_or_jumps(self, minutes: int) -> None:
        self.world.clock.forward(minutes=minutes)
        self._prove()

    @rule()
    def restart(self) -> None:
        self.world.restart()
        self.entries["start"] += 1

    @rule(name=GUESTS)
    def server_goes_and_another_comes(self, name: str) -> None:
        """Requests are the person's, not the session's."""
        self.guests[name].close()
        self.guests[name] = self.world.guest(f"token-of-{name}")

    def _prove(self) -> None:
        for name, guest in self.guests.items():
            present(guest, name)

    @invariant()
    def everybody_sees_what_the_model_has(self) -> None:
        found = requests.requests(self.world.broker, OWNERS["olga"]).requests
        assert {one.id: one.state for one in found} == {one: asked.state for one, asked in self.model.items()}
        assert requests.requests(self.world.broker, OWNERS["elsewhere"]).requests == ()
        for name in self.guests:
            own = requests.own_requests(self.world.broker, self.cookie(name), self.now).requests
            assert {one.id for one in own} == {
                one for one, asked in self.model.items() if asked.person == name
            }

    @invariant()
    def a_grant_is_there_for_every_granted_request_and_no_other(self) -> None:
        grants = {one.id: one for one in self.world.owner.grants()}
        found = requests.requests(self.world.broker, OWNERS["olga"]).requests
        granted = {one.grant: one for one in found if one.state == "granted"}
        assert set(granted) == set(grants)
        for identity, request in granted.items():
            asked = self.model[request.id]
            assert (grants[identity].subject, grants[identity].issuer) == (asked.person, "hub")
            assert grants[identity].until == asked.until
            assert request.answered_by == asked.by
        assert all(one.grant == "" for one in found if one.state != "granted")

    @invariant()
    def every_act_has_its_entries(self) -> None:
        log = self.world.broker.record.log
        kinds = Counter(AuditEntry.from_bytes(entry).kind for _, entry in log.entries())
        for kind in ("request", "answer", "grant"):
            assert kinds[kind] == self.entries[kind], kind
        assert verify_log(log, self.world.broker.record.signer.verifier).ok


def present(guest: KbsClient, name: str) -> None:
    """Prove a server again and present its person's login."""
    guest.attest()
    guest.identity(IdentityRequest(provider="jupyterhub", token=f"token-of-{name}"))


def status_of(call: Callable[[], object]) -> int:
    """Return the status that a call is answered with."""
    try:
        call()
    except Problem as problem:
        return problem.status
    return 200


TestRequestsMachine = RequestsMachine.TestCase
TestRequestsMachine.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
