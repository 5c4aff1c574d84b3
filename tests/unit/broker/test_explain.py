# SPDX-License-Identifier: BSD-3-Clause
"""What the decision would say, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.audit.entry import AuditEntry
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ProtocolError
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import AccessRequestSpec, Explanation, Grant, Person, Visa
from sealroom_broker.decide import RULES, Allowed, Dataset, Facts, Refused, Server, decide
from sealroom_broker.explain import WORDS, explain
from sealroom_broker.owners import add_token
from support.brokers import DESCRIPTION, GENERAL, URL, Data, World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENVIRONMENT = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
HEALTH = "DUO:0000006"
FILES = ("file.unknown", "file.header")
SERVER = Server(tier="affirming", simulated=False, environment=ENVIRONMENT, until=NOW + HOUR)
PERSON = Person(subject="alice", name="alice", groups=("cardiology",), issuer="hub")
DATASET = Dataset(id="heartbeats", title="Heartbeats", owner="Heart Centre", ask="data@heart.example")
GRANT = Grant(
    id="g1", created=NOW - HOUR, dataset="heartbeats", subject="alice", issuer="hub", purposes=(GENERAL,)
)
FACTS = Facts(
    server=SERVER,
    person=PERSON,
    dataset=DATASET,
    grants=(GRANT,),
    approved=frozenset({ENVIRONMENT, OTHER}),
    purpose=GENERAL,
    now=NOW,
    development=False,
    dataset_id="heartbeats",
    login_until=NOW + HOUR,
)


def outcomes(facts: Facts, outcome: str) -> list[str]:
    return [rule.code for rule in explain(facts).rules if rule.outcome == outcome]


# --- the same as the decision ---

moments = st.sampled_from([None, NOW - HOUR, NOW, NOW + HOUR])
tiers = st.sampled_from(["affirming", "warning", "simulated", "contraindicated", "none"])
visas = st.builds(
    Visa,
    issuer=st.just("https://visas.example"),
    value=st.just("https://data.example/heartbeats"),
    source=st.just("https://dac.example"),
    asserted=st.just(NOW - HOUR),
    until=st.sampled_from([NOW, NOW + HOUR]),
)
grants = st.builds(
    Grant,
    id=st.sampled_from(["g1", "g2", "g3"]),
    created=st.sampled_from([NOW - HOUR, NOW - 2 * HOUR]),
    dataset=st.sampled_from(["heartbeats", "heartbeats", "heartbeats", "genomes"]),
    subject=st.sampled_from(["alice", "alice", "bob", ""]),
    group=st.sampled_from(["", "", "", "cardiology"]),
    visa=st.sampled_from(["", "", "", "https://data.example/heartbeats"]),
    issuer=st.sampled_from(["hub", "hub", "hub", "", "https://visas.example"]),
    purposes=st.sampled_from([(GENERAL,), (HEALTH,), (GENERAL, HEALTH)]),
    environments=st.sampled_from([(), (), (ENVIRONMENT,), (OTHER,)]),
    minimum=st.sampled_from(["affirming", "simulated"]),
    gpu=st.booleans(),
    servers=st.sampled_from([None, None, 1, 2]),
    project=st.sampled_from(["", "", "arrhythmia"]),
    starts=moments,
    until=moments,
    withdrawn=st.sampled_from([None, None, NOW - HOUR]),
)
all_facts = st.builds(
    Facts,
    server=st.builds(
        Server,
        tier=tiers,
        simulated=st.booleans(),
        environment=st.sampled_from([None, ENVIRONMENT, ENVIRONMENT, OTHER]),
        until=st.sampled_from([NOW, NOW + HOUR, NOW + HOUR]),
        devices=st.dictionaries(st.sampled_from(["cpu0", "gpu0", "gpu1"]), tiers, max_size=2),
    ),
    person=st.none()
    | st.builds(Person.model_copy, st.just(PERSON))
    | st.builds(lambda held: PERSON.model_copy(update={"visas": tuple(held)}), st.lists(visas, max_size=2)),
    dataset=st.none()
    | st.builds(
        Dataset,
        id=st.just("heartbeats"),
        title=st.just("Heartbeats {title}"),
        owner=st.just("Heart Centre"),
        ask=st.sampled_from(["", "data@heart.example"]),
        keep_until=moments,
        destroyed=st.sampled_from([None, None, NOW - HOUR]),
    ),
    grants=st.lists(grants, max_size=3).map(tuple),
    approved=st.sampled_from([frozenset(), frozenset({ENVIRONMENT}), frozenset({ENVIRONMENT, OTHER})]),
    purpose=st.sampled_from([None, GENERAL, GENERAL, HEALTH]),
    now=st.just(NOW),
    development=st.booleans(),
    login_until=moments,
    dataset_id=st.just("heartbeats"),
    halted=st.sampled_from([{}, {}, {"arrhythmia": NOW - HOUR}]),
    ahead=st.dictionaries(st.sampled_from(["g1", "g2", "g3"]), st.integers(0, 2), max_size=3),
)


@given(all_facts)
def test_the_verdict_is_that_of_the_decision(facts: Facts) -> None:
    verdict, said = decide(facts), explain(facts)
    assert said.allowed is isinstance(verdict, Allowed)
    denials = verdict.denials if isinstance(verdict, Refused) else ()
    failed = {rule.code: rule.sentence for rule in said.rules if rule.outcome == "failed"}
    assert failed == {one.rule: one.researcher for one in denials}
    assert said.ask == (verdict.ask if isinstance(verdict, Refused) else "")
    # Every rule, once, in order.
    assert [rule.code for rule in said.rules] == list(RULES)
    if said.allowed:
        skipped = {rule.code for rule in said.rules if rule.outcome == "not_reached"}
        assert skipped == {*FILES} | (set() if facts.purpose else {"grant.purpose"})


@given(all_facts)
def test_the_owner_is_told_the_same_in_other_words(facts: Facts) -> None:
    verdict, mine, theirs = decide(facts), explain(facts), explain(facts, owner=True)
    assert [(one.code, one.outcome) for one in mine.rules] == [
        (one.code, one.outcome) for one in theirs.rules
    ]
    denials = verdict.denials if isinstance(verdict, Refused) else ()
    failed = {rule.code: rule.sentence for rule in theirs.rules if rule.outcome == "failed"}
    assert failed == {one.rule: one.owner for one in denials}


@given(all_facts)
def test_what_passed_would_not_fail_if_the_rest_were_mended(facts: Facts) -> None:
    """`passed` is no guess: with everything else right, such a rule does not fail."""
    passed = set(outcomes(facts, "passed"))
    if facts.dataset is None:
        assert passed == set()
        return
    mended = replace(
        facts,
        person=facts.person if "person.none" in passed else PERSON,
        login_until=facts.login_until if "person.ended" in passed else NOW + HOUR,
        server=replace(
            facts.server,
            until=facts.server.until if "attestation.expired" in passed else NOW + HOUR,
            environment=facts.server.environment if "environment.unknown" in passed else ENVIRONMENT,
        ),
        approved=facts.approved if "environment.unknown" in passed else frozenset({ENVIRONMENT}),
        dataset=replace(
            facts.dataset,
            keep_until=facts.dataset.keep_until if "dataset.ended" in passed else None,
            destroyed=facts.dataset.destroyed if "dataset.destroyed" in passed else None,
        ),
    )
    standing = {rule for rule in passed if not rule.startswith(("grant.", "tier.", "project."))}
    assert standing.isdisjoint(outcomes(mended, "failed"))


# --- words ---


def test_every_rule_has_words() -> None:
    assert set(WORDS) == set(RULES)
    known = set(FACTS.words())
    for rule, (about, passed) in WORDS.items():
        assert about.startswith("whether "), rule
        assert {name for _, name, _, _ in Formatter().parse(passed) if name} <= known, rule
        assert (rule in FILES) or passed.endswith("."), rule


def test_everything_right() -> None:
    said = explain(FACTS)
    assert (said.allowed, said.dataset, said.title, said.purpose, said.ask) == (
        True,
        "heartbeats",
        "Heartbeats",
        GENERAL,
        "",
    )
    sentences = {rule.code: rule.sentence for rule in said.rules}
    assert sentences["grant.none"] == "alice has a grant for Heartbeats."
    assert sentences["tier.below"] == "The server's proof is affirming, and the grant needs affirming."
    assert sentences["file.header"].startswith(
        "Not looked at: whether the sealed files are the registered ones"
    )


@pytest.mark.parametrize(
    ("facts", "failed", "skipped"),
    [
        (
            replace(FACTS, dataset=None),
            ["dataset.unknown"],
            [rule for rule in RULES if rule != "dataset.unknown"],
        ),
        (
            replace(FACTS, person=None),
            ["person.none"],
            [r for r in RULES if r.startswith(("grant.", "tier.", "project.", "file.", "person.ended"))],
        ),
        (
            replace(FACTS, grants=()),
            ["grant.none"],
            [
                r
                for r in RULES
                if r.startswith(("grant.", "tier.", "project.", "file.")) and r != "grant.none"
            ],
        ),
        (
            replace(FACTS, grants=(GRANT.model_copy(update={"until": NOW}),)),
            ["grant.expired"],
            [
                "grant.not_started",
                "project.halted",
                "grant.purpose",
                "grant.environment",
                "tier.below",
                "grant.gpu",
                "grant.servers",
                *FILES,
            ],
        ),
        (replace(FACTS, purpose=HEALTH), ["grant.purpose"], [*FILES]),
        (replace(FACTS, purpose=None), [], ["grant.purpose", *FILES]),
    ],
    ids=["dataset", "person", "grant", "ended", "purpose", "any purpose"],
)
def test_what_is_looked_at_ends_where_something_is_missing(
    facts: Facts, failed: list[str], skipped: list[str]
) -> None:
    assert outcomes(facts, "failed") == failed
    assert outcomes(facts, "not_reached") == skipped


# --- over HTTP ---


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def of(said: Explanation, outcome: str) -> list[str]:
    return [rule.code for rule in said.rules if rule.outcome == outcome]


def test_a_guest_is_told_before_and_after_the_grant(world: World, data: Data) -> None:
    guest, size = world.guest(), world.broker.record.log.size
    said = guest.explain("heartbeats", GENERAL)
    assert (said.allowed, of(said, "failed"), said.ask) == (False, ["grant.none"], DESCRIPTION.contact)
    assert world.broker.record.log.size == size, "an explanation is no decision"
    world.grant()
    said = guest.explain("heartbeats")
    assert (said.allowed, of(said, "failed"), said.purpose) == (True, [], None)
    assert of(guest.explain("heartbeats", HEALTH), "failed") == ["grant.purpose"]


def test_it_says_what_a_release_then_says(world: World, data: Data) -> None:
    world.grant(minimum="affirming", gpu=True, environments=[OTHER])
    guest = world.guest()
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(SecretKey.generate()))
    said = guest.explain("heartbeats", GENERAL)
    failed = [(rule.code, rule.sentence) for rule in said.rules if rule.outcome == "failed"]
    assert tuple(failed) == caught.value.reasons


def test_a_server_without_a_person_is_told_so(world: World, data: Data) -> None:
    assert "person.none" in of(world.guest(person="").explain("heartbeats"), "failed")


def test_an_unknown_dataset_is_that_and_nothing_more(world: World) -> None:
    said = world.guest().explain("no-such")
    assert (said.title, of(said, "failed"), of(said, "passed")) == ("no-such", ["dataset.unknown"], [])


def test_without_an_attested_session_nothing_is_explained(world: World, data: Data) -> None:
    answer = world.http().get("/kbs/v0/sealroom/datasets/heartbeats/explain")
    assert answer.status_code == 401


def test_a_purpose_that_is_far_too_long(world: World, data: Data) -> None:
    with pytest.raises(ProtocolError, match="DUO code"):
        world.guest().explain("heartbeats", "x" * 101)


def test_the_owner_sees_what_stands_in_a_servers_way(world: World, data: Data) -> None:
    guest = world.guest()
    asked = guest.request_access(
        AccessRequestSpec(dataset="heartbeats", purpose=GENERAL, reason="A study of arrhythmia.")
    )
    size = world.broker.record.log.size
    said = world.owner.explain("heartbeats", asked.session, GENERAL)
    assert [rule.sentence for rule in said.rules if rule.outcome == "failed"] == [
        "alice has no grant for heartbeats."
    ]
    world.grant()
    assert world.owner.explain("heartbeats", asked.session).allowed
    world.clock.forward(seconds=world.broker.config.periods.attestation)
    assert of(world.owner.explain("heartbeats", asked.session), "failed")[0] == "attestation.expired"
    kinds = [AuditEntry.from_bytes(entry).kind for _, entry in world.broker.record.log.entries()]
    assert kinds[size:] == ["grant"]


def test_a_server_that_nobody_saw(world: World, data: Data) -> None:
    for session in ("0" * 64, "..", "x" * 500):
        with pytest.raises(ProtocolError, match="has seen no such server"):
            world.owner.explain("heartbeats", session)
    with pytest.raises(ProtocolError, match="Name the dataset and the session"):
        world.owner.explain("heartbeats", "")


def test_a_token_for_a_dataset_is_told_of_its_servers_only(world: World, data: Data) -> None:
    world.seal(replace(DESCRIPTION, id="genomes", title="Genomes"))
    asked = world.guest().request_access(
        AccessRequestSpec(dataset="heartbeats", purpose=GENERAL, reason="A study of arrhythmia.")
    )

    def limited(dataset: str) -> OwnerClient:
        token = add_token(world.broker.store, dataset, world.clock(), datasets=[dataset])
        return OwnerClient(URL, token, http=world.http())

    assert limited("heartbeats").explain("heartbeats", asked.session).dataset == "heartbeats"
    other = limited("genomes")
    with pytest.raises(AccessDeniedError, match="may not do this with the dataset heartbeats"):
        other.explain("heartbeats", asked.session)
    with pytest.raises(ProtocolError, match="has seen no such server"):
        other.explain("genomes", asked.session)
