# SPDX-License-Identifier: BSD-3-Clause
"""Grants, projects, permits and servers against a model, which says who gets a dataset and what refuses.

The model knows nothing of the broker's tables: it has its own lists, and its own reading of the rules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.kbs.calls import Grant, GrantChange, GrantSpec
from sealroom.kbs.messages import AuthRequest
from sealroom_broker import acts
from sealroom_broker.housekeeping import tidy
from sealroom_broker.offers import list_offers, session_state
from sealroom_broker.owners import Actor
from sealroom_broker.problem import Problem
from sealroom_broker.sessions import SKEW, Pending, Standing
from support.brokers import GENERAL, PEOPLE, Data, World, world

HEALTH = "DUO:0000006"
OWNER = Actor("owner", "owner")
READER = SecretKey.generate()
ALICE, BOB = PEOPLE.values()
HOUR = timedelta(hours=1)
LOGIN = timedelta(hours=4)
PURPOSES = st.sampled_from([(GENERAL,), (HEALTH,), (GENERAL, HEALTH)])
PROJECTS = st.sampled_from(["", "vroni", "herzfit"])
SERVERS = st.sampled_from([None, 1, 2])
TIERS = st.sampled_from(["simulated", "affirming", "warning"])
MINIMA = st.sampled_from(["simulated", "affirming"])
MOSTLY = st.sampled_from([0, 0, 0, 0, 1, 2])
"""Environments: the first, another one that is approved, and one that is not."""
SELDOM = st.sampled_from([False, False, False, True])


@dataclass
class Server:
    """A session as the model knows it."""

    cookie: str
    person: Any
    key: int
    tier: str = "affirming"
    environment: str = ""
    gpu: bool = False
    attested: datetime = testing.NOW
    until: datetime = testing.NOW
    bound: datetime = testing.NOW


@dataclass
class Release:
    """What a session was given."""

    server: Server
    grant: str
    purpose: str
    ended: bool = False


@dataclass
class Model:
    """What should be true."""

    grants: dict[str, Grant] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    servers: list[Server] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    keep_until: datetime | None = None
    destroyed: bool = False
    approved: frozenset[str] = frozenset()

    def alive(self, server: Server, now: datetime) -> bool:
        return now < server.until and server.attested <= now + SKEW

    def standing(self, server: Server, now: datetime) -> set[str]:
        """Say what stands in the way whatever grants there are."""
        found = set()
        if self.keep_until is not None and self.keep_until <= now:
            found.add("dataset.ended")
        elif self.destroyed:
            found.add("dataset.destroyed")
        if server.environment not in self.approved:
            found.add("environment.unknown")
        if not server.bound - SKEW <= now < server.bound + LOGIN:
            found.add("person.ended")
        return found

    def over(self, grant: Grant, now: datetime) -> str:
        if grant.withdrawn:
            return "grant.withdrawn"
        if grant.until and grant.until <= now:
            return "grant.expired"
        if grant.starts and now < grant.starts:
            return "grant.not_started"
        return ""

    def against(self, grant: Grant, server: Server, purpose: str, now: datetime) -> set[str]:
        """Say what of a grant stands in the way."""
        if over := self.over(grant, now):
            return {over}
        if grant.project in self.halted:
            return {"project.halted"}
        tiers = {"affirming", "simulated"} if grant.minimum == "simulated" else {"affirming"}
        broken = {
            "grant.purpose": purpose not in grant.purposes,
            "grant.environment": grant.environments != () and server.environment not in grant.environments,
            "tier.below": server.tier not in tiers,
            "grant.gpu": grant.gpu and not (server.gpu and server.tier in tiers),
            "grant.servers": grant.servers is not None and self.ahead(grant, server, now) >= grant.servers,
        }
        return {name for name, holds in broken.items() if holds}

    def ahead(self, grant: Grant, server: Server, now: datetime) -> int:
        """Count the person's other servers that came before this one."""
        seen: list[str] = []
        for release in self.releases:
            if release.grant != grant.id or release.ended or release.server.cookie in seen:
                continue
            if release.server is server:
                break
            if release.server.person == server.person and now < release.server.until:
                seen.append(release.server.cookie)
        return len(seen)

    def of(self, server: Server) -> list[Grant]:
        """Return the person's grants, the newest first."""
        person = server.person
        mine = [g for g in self.grants.values() if g.subject == person.subject or g.group in person.groups]
        return sorted(sorted(mine, key=lambda g: (g.created, g.id)), key=lambda g: g.created, reverse=True)

    def verdict(self, server: Server, purpose: str, now: datetime) -> tuple[str, set[str]]:
        """Return the grant that a release goes by, and what refuses it; nothing if it is allowed."""
        standing, mine = self.standing(server, now), self.of(server)
        if not mine:
            return "", standing | {"grant.none"}
        judged = [(grant, self.against(grant, server, purpose, now)) for grant in mine]

        def distance(item: tuple[Grant, set[str]]) -> tuple[int, int]:
            grant, broken = item
            far = 2 if self.over(grant, now) else 1 if "project.halted" in broken else 0
            return far, len(broken)

        grant, broken = min(judged, key=distance)
        return grant.id, standing | broken


class GrantsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self._messages, self._latest = 0, testing.NOW
        try:
            self._begin()
        except BaseException:
            self._open.close()
            raise

    def _begin(self) -> None:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self.world: World = self._open.enter_context(world(folder))
        self.data = Data.seal(folder)
        self.world.owner.register_dataset(self.data.registration())
        second = self.world.publish(testing.environment(name="second"))
        self.environments = (self.world.environment.digest, second.digest, "sha256:" + "c" * 64)
        self.keys = [self.world.guest("").tee_pubkey for _ in range(2)]
        self.model = Model(approved=self.world.broker.environments.digests())
        assert self.model.approved == frozenset(self.environments[:2])

    def teardown(self) -> None:
        broker = self.world.broker
        report = verify_log(broker.record.log, broker.record.signer.verifier)
        assert report.ok, report.findings
        self._open.close()

    @property
    def now(self) -> datetime:
        return self.world.clock.now

    @initialize(servers=SERVERS, bound=SERVERS)
    def begun(self, servers: int | None, bound: int | None) -> None:
        """Let most examples begin where something can be released."""
        both: dict[str, Any] = {"purposes": (GENERAL, HEALTH), "minimum": "simulated"}
        ways: tuple[dict[str, Any], ...] = (
            {"who": {"subject": "alice"}, "project": "vroni", "servers": servers},
            {"who": {"group": "cardiology"}, "project": "", "servers": bound},
            {"who": {"subject": "bob"}, "project": "herzfit", "servers": bound},
        )
        for terms in ways:
            self._give(here=False, hours=5, later=None, gpu=False, **both, **terms)
        for person in (ALICE, ALICE, BOB):
            self._begin_server(person, "simulated", 0, gpu=True)

    # --- the owner

    @rule(
        who=st.sampled_from([{"subject": "alice"}, {"subject": "bob"}, {"group": "cardiology"}]),
        purposes=PURPOSES,
        here=SELDOM,
        minimum=MINIMA,
        gpu=SELDOM,
        servers=SERVERS,
        hours=st.sampled_from([None, 1, 5]),
        later=st.sampled_from([None, None, None, 30]),
        project=PROJECTS,
    )
    def give(self, **terms: Any) -> None:
        self._give(**terms)

    def _give(
        self, who: dict[str, str], here: bool, hours: int | None, later: int | None, **terms: Any
    ) -> None:
        spec = GrantSpec(
            dataset="heartbeats",
            environments=self.environments[:1] if here else (),
            until=None if hours is None else self.now + hours * HOUR,
            starts=None if later is None else self.now + timedelta(minutes=later),
            **who,
            **terms,
        )
        given = self._act(lambda: acts.give_grant(self.world.broker, spec, OWNER, self.now))
        if spec.project in self.model.halted:
            assert given == 409
        else:
            assert isinstance(given, Grant)
            self.model.grants[given.id] = given

    @precondition(lambda self: self.model.grants)
    @rule(
        which=st.integers(0, 99),
        change=st.one_of(
            st.builds(dict, purposes=PURPOSES),
            st.builds(dict, minimum=MINIMA),
            st.builds(dict, gpu=SELDOM),
            st.builds(dict, servers=st.sampled_from([1, 2])),
            st.just({"any_servers": True}),
            st.just({"forever": True}),
            st.builds(dict, project=PROJECTS),
            st.builds(dict, outputs=st.booleans()),
            st.builds(dict, here=st.booleans()),
            st.builds(dict, hours=st.sampled_from([0, 1, 5])),
        ),
    )
    def change(self, which: int, change: dict[str, Any]) -> None:
        old = self._grant(which)
        if "here" in change:
            change = {"environments": self.environments[:1] if change["here"] else ()}
        if "hours" in change:
            change = {"until": self.now + change["hours"] * HOUR}
        asked = GrantChange(**change)
        changed = self._act(lambda: acts.change_grant(self.world.broker, old.id, asked, OWNER, self.now))
        terms = {k: v for k, v in change.items() if k not in ("any_servers", "forever")}
        terms |= {"servers": None} if "any_servers" in change else {}
        terms |= {"until": None} if "forever" in change else {}
        new = old.model_copy(update=terms)
        moved = new.project != old.project and bool({old.project, new.project} & self.model.halted)
        backwards = bool(new.starts and new.until and new.until <= new.starts)
        if old.withdrawn is not None or (moved and not backwards):
            assert changed == 409
        elif backwards:
            assert changed == 400
        else:
            assert isinstance(changed, Grant)
            assert changed == new.model_copy(update={"version": old.version + (new != old)})
            self.model.grants[old.id] = changed

    @precondition(lambda self: self.model.grants)
    @rule(which=st.integers(0, 99))
    def withdraw(self, which: int) -> None:
        old = self._grant(which)
        grant = acts.withdraw(self.world.broker, old.id, OWNER, self.now)
        assert grant.withdrawn == (old.withdrawn or self.now)
        self.model.grants[old.id] = grant

    @rule(project=st.sampled_from(["vroni", "herzfit"]), halt=st.booleans())
    def turn(self, project: str, halt: bool) -> None:
        act = acts.halt if halt else acts.resume
        found = self._act(lambda: act(self.world.broker, project, "Why", OWNER, self.now))
        if not any(grant.project == project for grant in self.model.grants.values()):
            assert found == 404
        else:
            (self.model.halted.add if halt else self.model.halted.discard)(project)
            assert getattr(found, "state", found) == ("halted" if halt else "running")

    @rule(what=st.sampled_from(["tidy", "register", 1, 1, 6, "destroy", "restart"]))
    def dataset_and_broker(self, what: str | int) -> None:
        if what == "restart":
            self.world.restart()
        elif what == "destroy":
            self._destroy()
        elif what == "tidy":
            self._tidy()
        else:
            self._register(None if isinstance(what, str) else what)

    def _register(self, hours: int | None) -> None:
        end = None if hours is None else self.now + hours * HOUR
        message = self.data.registration().model_copy(update={"keep_until": end})
        found = self._act(lambda: acts.register_dataset(self.world.broker, message, OWNER, self.now))
        end = end or self.model.keep_until
        if end is not None and end <= self.now:
            assert found == 400
        else:
            self.model.keep_until, self.model.destroyed = end, False

    def _destroy(self) -> None:
        acts.destroy_key(self.world.broker, "heartbeats", "Over", OWNER, self.now)
        self.model.destroyed = True

    def _tidy(self) -> None:
        end = self.model.keep_until
        due = end is not None and end <= self.now and not self.model.destroyed
        assert tidy(self.world.broker) == (("heartbeats",) if due else ())
        self.model.destroyed |= due

    # --- servers

    @rule(
        person=st.sampled_from([ALICE, ALICE, BOB]),
        tier=TIERS,
        environment=MOSTLY,
        gpu=st.booleans(),
    )
    def begin(self, person: Any, tier: str, environment: int, gpu: bool) -> None:
        self._begin_server(person, tier, environment, gpu=gpu)

    def _begin_server(self, person: Any, tier: str, environment: int, *, gpu: bool) -> None:
        cookie, challenge = self.world.broker.sessions.begin(AuthRequest.for_tee("snp"), None, self.now)
        server = Server(cookie, person, 0)
        self.model.servers.append(server)
        self._attest(server, challenge.nonce, 0, tier, environment, gpu)
        self._log_in(server)

    @precondition(lambda self: self.model.servers)
    @rule(
        which=st.integers(0, 99),
        tier=TIERS,
        environment=MOSTLY,
        gpu=st.booleans(),
        key=st.sampled_from([0, 0, 0, 1]),
        log_in=st.booleans(),
    )
    def again(self, which: int, tier: str, environment: int, gpu: bool, key: int, log_in: bool) -> None:
        server = self.model.servers[which % len(self.model.servers)]
        sessions = self.world.broker.sessions
        cookie, challenge = sessions.begin(AuthRequest.for_tee("snp"), server.cookie, self.now)
        if cookie != server.cookie:
            # It ended long ago, and this is a new one.
            assert server.until < self.now - self.world.broker.config.periods.session_delta
            self.model.servers.remove(server)
            return
        changed = key != server.key
        self._attest(server, challenge.nonce, key, tier, environment, gpu)
        if changed:
            for release in self.model.releases:
                release.ended |= release.server is server
        if changed or log_in:
            self._log_in(server)

    @precondition(lambda self: self.model.servers)
    @rule(which=st.integers(0, 99), purpose=st.sampled_from([GENERAL, HEALTH]))
    def release(self, which: int, purpose: str) -> None:
        self._release(which, purpose)

    @precondition(lambda self: len(self.model.servers) > 1)
    @rule(first=st.integers(0, 99))
    def servers_release_in_turn(self, first: int) -> None:
        for which in range(len(self.model.servers)):
            self._release(first + which, GENERAL)

    def _release(self, which: int, purpose: str) -> None:
        server, broker = self.model.servers[which % len(self.model.servers)], self.world.broker
        size, problem = broker.record.log.size, None
        try:
            broker.releaser.release(server.cookie, "heartbeats", self.data.request(READER, purpose), self.now)
        except Problem as error:
            problem = error
        if not self.model.alive(server, self.now):
            assert problem is not None
            assert problem.status == 401
            assert broker.record.log.size == size
            return
        grant, rules = self.model.verdict(server, purpose, self.now)
        entry = AuditEntry.from_bytes(broker.record.log.entry(size))
        assert broker.record.log.size == size + 1
        assert {reason.code for reason in entry.decision.reasons} == rules
        assert (entry.grant.id if entry.grant else "") == grant
        if rules:
            assert problem is not None
            assert problem.status == 403
            assert {reason.code for reason in problem.body.reasons} == rules
            assert entry.kind == "refusal"
            return
        assert problem is None
        assert entry.kind == "release"
        if self.model.grants[grant].servers is not None:
            for one in self.model.releases:
                same = one.grant == grant and one.server is not server
                one.ended |= same and one.server.person == server.person and one.server.until <= self.now
        self.model.releases.append(Release(server, grant, purpose))

    @rule(minutes=st.sampled_from([1, 2, 5, 14, 16, 61, 250, -5, -70]))
    def clock_moves(self, minutes: int) -> None:
        # Not so far back that sessions which were forgotten would stand again.
        if self.now + timedelta(minutes=minutes) >= self._latest - timedelta(hours=12):
            self.world.clock.forward(minutes=minutes)
        self._latest = max(self._latest, self.now)

    @rule(which=st.integers(0, 99), server=st.booleans())
    def clock_moves_to_an_end(self, which: int, server: bool) -> None:
        """Move to the very moment at which something ends: of a server's, or of a grant or the permit."""
        if server:
            ends = {end for one in self.model.servers for end in (one.until, one.bound + LOGIN)}
        else:
            ends = {grant.until for grant in self.model.grants.values() if grant.until is not None}
            ends |= {self.model.keep_until} if self.model.keep_until else set()
        later = sorted(end for end in ends if end > self.now)
        if later:
            self.world.clock.now = later[which % len(later)]
            self._latest = max(self._latest, self.now)

    # --- what both say

    @invariant()
    def sessions_are_told_the_same(self) -> None:
        broker = self.world.broker
        for server in self.model.servers:
            if not self.model.alive(server, self.now):
                continue
            with broker.store.read() as session:
                attested = broker.sessions.current(server.cookie, self.now, within=session)
                told = session_state(session, attested, broker.finder, self.now)
                (offer,) = list_offers(session, attested, broker.finder, self.now).datasets
            mine = [one for one in self.model.releases if one.server is server and not one.ended]
            assert len(told.releases) == bool(mine)
            active = False
            if mine:
                grant = self.model.grants[mine[-1].grant]
                rules = self._stands(server, grant, mine[-1].purpose)
                active = not rules
                assert (told.releases[0].state == "active") == active
                assert bool(told.releases[0].sentence) == (not active)
            assert offer.state == "unlocked" or not (active and not offer.reasons)

    def _stands(self, server: Server, grant: Grant, purpose: str) -> set[str]:
        return self.model.standing(server, self.now) | self.model.against(grant, server, purpose, self.now)

    # --- inside

    def _grant(self, which: int) -> Grant:
        return list(self.model.grants.values())[which % len(self.model.grants)]

    def _attest(self, server: Server, nonce: str, key: int, tier: str, environment: int, gpu: bool) -> None:
        sessions = self.world.broker.sessions
        self._messages += 1
        evidence = self.world.broker.record.keep_evidence(f"message {self._messages}".encode())
        pending = sessions.answer(server.cookie, nonce, evidence, self.now)
        assert isinstance(pending, Pending)
        until = self.now + self.world.broker.config.periods.attestation_delta
        standing = Standing(
            token=f"token of {server.cookie}",
            evidence=evidence,
            tier=tier,
            simulated=tier == "simulated",
            devices={"cpu0": tier} | ({"gpu0": tier} if gpu else {}),
            environment=self.environments[environment],
            policy="",
            attested=self.now,
            until=until,
        )
        sessions.attested(pending.session, self.keys[key], standing)
        server.key, server.tier, server.environment = key, tier, self.environments[environment]
        server.gpu, server.attested, server.until = gpu, self.now, until

    def _log_in(self, server: Server) -> None:
        sessions = self.world.broker.sessions
        attested = sessions.current(server.cookie, self.now)
        sessions.bind(attested, server.person, "", self.now, self.now + LOGIN)
        server.bound = self.now

    @staticmethod
    def _act(act: Callable[[], object]) -> object:
        """Return what an act gives, or the status of its refusal."""
        try:
            return act()
        except Problem as problem:
            return problem.status


TestGrantsMachine = GrantsMachine.TestCase
TestGrantsMachine.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
