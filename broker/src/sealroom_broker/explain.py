# SPDX-License-Identifier: BSD-3-Clause
"""What the decision would say, rule by rule, without releasing anything.

Pure, and no second opinion: what failed is what `decide` says failed. This only adds the rules that passed
and those that were not looked at, and a sentence for each.
"""

from __future__ import annotations

from typing import Literal

from sealroom.kbs.calls import ExplainedRule, Explanation

from sealroom_broker.decide import RULES, Denial, Facts, Refused, decide

_Outcome = Literal["passed", "failed", "not_reached"]

WORDS: dict[str, tuple[str, str]] = {
    "dataset.unknown": ("whether the broker has the dataset", "The broker has the dataset {dataset}."),
    "dataset.ended": (
        "whether the permit for the dataset has ended",
        "The permit for {title} has not ended.",
    ),
    "dataset.destroyed": ("whether the dataset's key is there", "The key of {title} is there."),
    "attestation.expired": (
        "whether the server's proof is young enough",
        "The server's last proof holds until {attested_until}.",
    ),
    "simulated.production": (
        "whether the server's processor is accepted",
        "The server's processor is of a kind that this broker accepts.",
    ),
    "environment.unknown": (
        "whether the server's environment is approved",
        "The server runs an environment that this broker approves.",
    ),
    "person.none": ("whether the person is known", "The person at the server is known: {person}."),
    "person.ended": ("whether the login holds", "The login of {person} holds until {login_until}."),
    "grant.none": ("whether the person has a grant", "{person} has a grant for {title}."),
    "grant.withdrawn": ("whether the grant was withdrawn", "The grant was not withdrawn."),
    "grant.expired": ("whether the grant has ended", "The grant has not ended."),
    "grant.not_started": ("whether the grant has begun", "The grant has begun."),
    "project.halted": ("whether the grant's project is halted", "The grant is of no project that is halted."),
    "grant.purpose": ("whether the grant allows the purpose", "The grant allows the purpose {purpose}."),
    "grant.environment": (
        "whether the grant covers the server's environment",
        "The grant covers the environment that the server runs.",
    ),
    "tier.below": (
        "whether the server's proof is good enough for the grant",
        "The server's proof is {tier}, and the grant needs {minimum}.",
    ),
    "grant.gpu": (
        "whether the server has a GPU in confidential mode, if the grant needs one",
        "The server has what the grant says of GPUs.",
    ),
    "grant.servers": (
        "whether as many of the person's servers as the grant allows have the dataset",
        "The grant has a place for this server.",
    ),
    "file.unknown": ("whether the dataset has the files, which a release names", ""),
    "file.header": ("whether the sealed files are the registered ones, which a release shows", ""),
}
"""Rule -> what it looks at, and what is so where it passed; `Facts.words` fills in the second."""

_ENDS = ("grant.withdrawn", "grant.expired", "grant.not_started", "project.halted")
"""Rules of which the first that fails ends the look at a grant."""


def explain(facts: Facts, *, owner: bool = False) -> Explanation:
    """Return what `decide` says of the facts, rule by rule, in the order of `RULES`.

    Args:
        facts: What is known.
        owner: Whether failed rules are told in the owner's words.
    """
    verdict = decide(facts)
    failed = {one.rule: one for one in verdict.denials} if isinstance(verdict, Refused) else {}
    skipped, words = _not_reached(facts, frozenset(failed)), facts.words(verdict.grant)
    rules = tuple(_rule(rule, failed.get(rule), rule in skipped, words, owner=owner) for rule in RULES)
    return Explanation(
        dataset=facts.dataset.id if facts.dataset else facts.dataset_id,
        title=facts.dataset.title if facts.dataset else facts.dataset_id,
        purpose=facts.purpose,
        allowed=not isinstance(verdict, Refused),
        rules=rules,
        ask=verdict.ask if isinstance(verdict, Refused) else "",
    )


def _rule(
    rule: str, denial: Denial | None, skipped: bool, words: dict[str, str], *, owner: bool
) -> ExplainedRule:
    about, passed = WORDS.get(rule, (rule, f"{rule} stands in no way."))
    outcome: _Outcome = "failed" if denial else "not_reached" if skipped else "passed"
    if denial is not None:
        sentence = denial.owner if owner else denial.researcher
    else:
        sentence = f"Not looked at: {about}." if skipped else passed.format_map(words)
    return ExplainedRule(code=rule, outcome=outcome, sentence=sentence)


def _not_reached(facts: Facts, failed: frozenset[str]) -> frozenset[str]:
    """Return the rules that `decide` had nothing to apply to."""
    if "dataset.unknown" in failed:
        return frozenset(RULES) - failed
    skipped = {rule for rule in RULES if rule.startswith("file.")}
    skipped |= {"dataset.destroyed"} if "dataset.ended" in failed else set()
    skipped |= {"grant.purpose"} if facts.purpose is None else set()
    of_grants = {rule for rule in RULES if rule.startswith(("grant.", "tier.", "project."))}
    if "person.none" in failed:
        return frozenset(skipped | of_grants | {"person.ended"})
    if "grant.none" in failed:
        return frozenset(skipped | of_grants - {"grant.none"})
    end = next((at for at, rule in enumerate(_ENDS) if rule in failed), None)
    if end is not None:
        skipped |= of_grants - {"grant.none", *_ENDS[: end + 1]}
    return frozenset(skipped)
