# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.kbs.calls import Grant, Person, Visa
from sealroom_broker.decide import RULES, Allowed, Dataset, Facts, Refused, Server, decide, granted_purposes

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENVIRONMENT = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
GENERAL, HEALTH = "DUO:0000042", "DUO:0000006"

SERVER = Server(tier="affirming", simulated=False, environment=ENVIRONMENT, until=NOW + HOUR)
VISA = Visa(
    issuer="https://visas.example",
    value="https://data.example/heartbeats",
    source="https://dac.example",
    asserted=NOW - HOUR,
    until=NOW + HOUR,
)
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


def with_server(facts: Facts = FACTS, **changes: object) -> Facts:
    return replace(facts, server=replace(facts.server, **changes))  # type: ignore[arg-type]


def with_grant(facts: Facts = FACTS, **changes: object) -> Facts:
    return replace(facts, grants=(facts.grants[0].model_copy(update=changes),))


def rules(facts: Facts) -> list[str]:
    verdict = decide(facts)
    return [denial.rule for denial in verdict.denials] if isinstance(verdict, Refused) else []


GPU = {"cpu0": "affirming", "gpu0": "affirming"}


def test_grant_that_needs_a_gpu_is_met_by_one() -> None:
    assert isinstance(decide(with_grant(with_server(devices=GPU), gpu=True)), Allowed)


@pytest.mark.parametrize(
    "devices",
    [
        {},
        {"cpu0": "affirming"},
        {"cpu0": "affirming", "switch0": "affirming"},
        {"cpu0": "affirming", "gpu0": "warning"},
        {"cpu0": "affirming", "gpu0": "simulated"},
        {"cpu0": "affirming", "gpu0": "contraindicated"},
        {"cpu0": "affirming", "gpu0": "none"},
    ],
    ids=str,
)
def test_grant_that_needs_a_gpu_on_a_server_without_a_good_one(devices: dict[str, str]) -> None:
    assert rules(with_grant(with_server(devices=devices), gpu=True)) == ["grant.gpu"]


def test_grant_that_needs_no_gpu_allows_one() -> None:
    assert isinstance(decide(with_server(devices=GPU)), Allowed)


def test_simulated_gpu_is_enough_only_where_a_simulated_processor_is() -> None:
    facts = with_server(devices={"cpu0": "simulated", "gpu0": "simulated"}, tier="simulated", simulated=True)
    facts = with_grant(facts, gpu=True, minimum="simulated")
    assert isinstance(decide(replace(facts, development=True)), Allowed)
    assert "grant.gpu" in rules(facts)


def test_everything_right_is_allowed() -> None:
    assert decide(FACTS) == Allowed(GRANT)


def test_unknown_dataset() -> None:
    assert rules(replace(FACTS, dataset=None)) == ["dataset.unknown"]


def test_attestation_too_old() -> None:
    assert rules(with_server(until=NOW)) == ["attestation.expired"]


def test_environment_that_nobody_approved() -> None:
    assert rules(replace(FACTS, approved=frozenset({OTHER}))) == ["environment.unknown"]


def test_no_environment_at_all() -> None:
    assert rules(with_server(environment=None)) == ["environment.unknown"]


def test_login_that_has_ended() -> None:
    assert rules(replace(FACTS, login_until=NOW)) == ["person.ended"]


def test_login_of_which_the_end_is_not_known() -> None:
    assert rules(replace(FACTS, login_until=None)) == ["person.ended"]


@pytest.mark.parametrize("who", [{"subject": "alice"}, {"subject": "", "group": "cardiology"}])
@pytest.mark.parametrize("issuer", ["", "another-hub"])
def test_same_name_at_another_issuer(who: dict[str, str], issuer: str) -> None:
    grant = GRANT.model_copy(update={**who, "issuer": issuer})
    assert rules(replace(FACTS, grants=(grant,))) == ["grant.none"]


def with_visa(visa: Visa = VISA, **grant: object) -> Facts:
    changes = {"subject": "", "visa": VISA.value, "issuer": VISA.issuer} | grant
    facts = replace(FACTS, grants=(GRANT.model_copy(update=changes),))
    return replace(facts, person=PERSON.model_copy(update={"visas": (visa,)}))


@pytest.mark.parametrize("issuer", [VISA.issuer, ""])
def test_grant_for_whoever_holds_a_visa(issuer: str) -> None:
    assert isinstance(decide(with_visa(issuer=issuer)), Allowed)


@pytest.mark.parametrize(
    "change",
    [
        {"value": VISA.value + "/"},
        {"value": VISA.value.upper()},
        {"issuer": "https://other-visas.example"},
        {"until": NOW},
    ],
)
def test_visa_that_is_not_the_one_of_the_grant(change: dict[str, object]) -> None:
    assert rules(with_visa(VISA.model_copy(update=change))) == ["grant.none"]


def test_person_without_the_visa() -> None:
    assert rules(replace(with_visa(), person=PERSON)) == ["grant.none"]


def test_grant_that_names_a_person_and_a_visa() -> None:
    assert rules(with_visa(subject="alice")) == ["grant.none"]


def test_nobody_bound() -> None:
    assert rules(replace(FACTS, person=None)) == ["person.none"]


def test_person_without_grant_is_told_whom_to_ask() -> None:
    verdict = decide(replace(FACTS, grants=()))
    assert isinstance(verdict, Refused)
    assert [one.rule for one in verdict.denials] == ["grant.none"]
    assert "data@heart.example" in verdict.reasons[0].sentence
    assert verdict.ask == "data@heart.example"


def test_grant_of_another_person() -> None:
    assert rules(with_grant(subject="bob")) == ["grant.none"]


def test_grant_of_another_dataset() -> None:
    assert rules(with_grant(dataset="chest-xray")) == ["grant.none"]


def test_grant_of_another_group() -> None:
    assert rules(with_grant(subject="", group="oncology")) == ["grant.none"]


def test_grant_of_the_persons_group() -> None:
    assert isinstance(decide(with_grant(subject="", group="cardiology")), Allowed)


def test_grant_that_names_nobody() -> None:
    assert rules(with_grant(subject="", group="")) == ["grant.none"]


def test_grant_that_names_both_a_person_and_a_group() -> None:
    assert rules(with_grant(group="cardiology")) == ["grant.none"]


def test_subject_is_compared_exactly() -> None:
    assert rules(with_grant(subject="Alice")) == ["grant.none"]


def test_withdrawn_grant() -> None:
    assert rules(with_grant(withdrawn=NOW)) == ["grant.withdrawn"]


def test_withdrawn_grant_stays_withdrawn_though_its_time_is_not_over() -> None:
    assert rules(with_grant(withdrawn=NOW - HOUR, until=NOW + HOUR)) == ["grant.withdrawn"]


def test_expired_grant_at_its_last_moment() -> None:
    assert rules(with_grant(until=NOW)) == ["grant.expired"]
    assert rules(with_grant(until=NOW + timedelta(microseconds=1))) == []


def test_grant_that_has_not_begun() -> None:
    assert rules(with_grant(starts=NOW + timedelta(microseconds=1))) == ["grant.not_started"]
    assert rules(with_grant(starts=NOW)) == []


def test_purpose_that_the_grant_does_not_allow() -> None:
    verdict = decide(replace(FACTS, purpose=HEALTH))
    assert isinstance(verdict, Refused)
    assert [one.rule for one in verdict.denials] == ["grant.purpose"]
    assert GENERAL in verdict.reasons[0].sentence


def test_empty_purpose() -> None:
    assert rules(replace(FACTS, purpose="")) == ["grant.purpose"]


def test_environment_that_the_grant_does_not_cover() -> None:
    assert rules(with_grant(environments=(OTHER,))) == ["grant.environment"]


def test_environment_that_the_grant_covers() -> None:
    assert rules(with_grant(environments=(OTHER, ENVIRONMENT))) == []


@pytest.mark.parametrize("tier", ["warning", "simulated", "none", "contraindicated", "", "AFFIRMING"])
def test_tier_below_affirming(tier: str) -> None:
    assert "tier.below" in rules(replace(with_server(tier=tier), development=True))


def test_simulated_server_under_a_grant_that_accepts_it_at_a_development_broker() -> None:
    facts = replace(
        with_grant(with_server(tier="simulated", simulated=True), minimum="simulated"), development=True
    )
    assert isinstance(decide(facts), Allowed)


def test_simulated_server_at_a_production_broker_under_any_grant() -> None:
    facts = with_grant(with_server(tier="simulated", simulated=True), minimum="simulated")
    assert rules(facts) == ["simulated.production", "tier.below"]


def test_simulated_server_that_claims_to_be_affirming_at_a_production_broker() -> None:
    assert rules(with_server(simulated=True)) == ["simulated.production"]


def test_contraindicated_server_under_a_grant_that_accepts_simulated_ones() -> None:
    facts = replace(
        with_grant(with_server(tier="contraindicated", simulated=True), minimum="simulated"), development=True
    )
    assert rules(facts) == ["tier.below"]


def test_all_reasons_are_given() -> None:
    facts = with_grant(with_server(tier="warning", until=NOW), environments=(OTHER,))
    expected = ["attestation.expired", "grant.purpose", "grant.environment", "tier.below"]
    assert rules(replace(facts, purpose=HEALTH)) == expected


def test_a_running_grant_counts_beside_ended_ones() -> None:
    ended = GRANT.model_copy(update={"id": "g0", "withdrawn": NOW - HOUR})
    assert decide(replace(FACTS, grants=(ended, GRANT))) == Allowed(GRANT)


def test_a_running_grant_explains_the_refusal_rather_than_an_ended_one() -> None:
    ended = GRANT.model_copy(update={"id": "g0", "withdrawn": NOW - HOUR})
    running = GRANT.model_copy(update={"environments": (OTHER,)})
    facts = replace(FACTS, grants=(ended, running), purpose=HEALTH)
    assert rules(facts) == ["grant.purpose", "grant.environment"]


def test_showing_needs_no_purpose() -> None:
    assert isinstance(decide(replace(FACTS, purpose=None)), Allowed)


def test_granted_purposes_are_those_of_running_grants() -> None:
    ended = GRANT.model_copy(update={"withdrawn": NOW, "purposes": (HEALTH,)})
    group = GRANT.model_copy(update={"subject": "", "group": "cardiology", "purposes": (GENERAL, HEALTH)})
    assert granted_purposes(replace(FACTS, grants=(ended, GRANT))) == (GENERAL,)
    assert granted_purposes(replace(FACTS, grants=(GRANT, group))) == (GENERAL, HEALTH)
    assert granted_purposes(replace(FACTS, person=None)) == ()


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_each_rule_has_two_sentences_that_can_be_filled(rule: object) -> None:
    words = {*FACTS.words(GRANT), "file"}
    for sentence in (rule.researcher, rule.owner):  # type: ignore[attr-defined]
        assert sentence.endswith(".")
        assert {name for _, name, _, _ in Formatter().parse(sentence) if name} <= words


def test_a_title_with_braces_is_only_text() -> None:
    facts = replace(FACTS, dataset=replace(DATASET, title="{person.__class__}"), grants=())
    verdict = decide(facts)
    assert isinstance(verdict, Refused)
    assert "{person.__class__}" in verdict.reasons[0].sentence


times = st.one_of(st.none(), st.sampled_from([NOW - HOUR, NOW, NOW + HOUR]))
grants = st.builds(
    lambda **fields: GRANT.model_copy(update=fields),
    dataset=st.sampled_from(["heartbeats", "chest-xray"]),
    subject=st.sampled_from(["", "alice", "bob"]),
    group=st.sampled_from(["", "cardiology"]),
    purposes=st.sampled_from([(), (GENERAL,), (HEALTH,)]),
    environments=st.sampled_from([(), (ENVIRONMENT,), (OTHER,)]),
    minimum=st.sampled_from(["affirming", "simulated"]),
    starts=times,
    until=times,
    withdrawn=times,
)
facts = st.builds(
    Facts,
    server=st.builds(
        Server,
        tier=st.sampled_from(["affirming", "warning", "simulated", "contraindicated", "none"]),
        simulated=st.booleans(),
        environment=st.sampled_from([None, ENVIRONMENT, OTHER]),
        until=st.sampled_from([NOW, NOW + HOUR]),
    ),
    person=st.sampled_from([None, PERSON]),
    dataset=st.sampled_from([None, DATASET]),
    grants=st.lists(grants, max_size=3).map(tuple),
    approved=st.sampled_from([frozenset(), frozenset({ENVIRONMENT})]),
    purpose=st.sampled_from([GENERAL, HEALTH, ""]),
    now=st.just(NOW),
    development=st.booleans(),
    dataset_id=st.just("heartbeats"),
)


@given(facts)
def test_allowed_only_if_nothing_stands_in_the_way(facts: Facts) -> None:
    """The rules again, written the other way round: what must be true of every release."""
    verdict = decide(facts)
    if isinstance(verdict, Refused):
        assert verdict.denials
        return
    grant, server = verdict.grant, facts.server
    assert facts.person is not None
    assert facts.dataset is not None
    assert grant.dataset == facts.dataset.id
    assert (grant.subject == "alice") != (grant.group == "cardiology")
    assert grant.withdrawn is None
    assert grant.until is None or grant.until > NOW
    assert grant.starts is None or grant.starts <= NOW
    assert facts.purpose in grant.purposes
    assert server.environment in facts.approved
    assert not grant.environments or server.environment in grant.environments
    assert server.until > NOW
    if facts.development:
        assert server.tier == "affirming" or (server.tier, grant.minimum) == ("simulated", "simulated")
    else:
        assert (server.tier, server.simulated) == ("affirming", False)
