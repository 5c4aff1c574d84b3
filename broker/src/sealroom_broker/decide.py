# SPDX-License-Identifier: BSD-3-Clause
"""The release decision: may this server of this person have this dataset for this purpose now?

Pure: what is known comes in, `Allowed` or `Refused` comes out. Nothing is looked up and no clock is read.

Invariants:

- Only a path through every rule ends in `Allowed`; whatever is absent refuses.
- Each rule has an id that stays, and two sentences: one for the person who was refused, one for the owner.
- All reasons that stand in the way of the best grant are given, not only the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from sealroom.kbs.calls import Grant, Person, Reason


@dataclass(frozen=True, slots=True)
class Server:
    """What the broker knows about the attested server."""

    tier: str
    """`affirming`, `warning`, `simulated`, `contraindicated` or `none`."""
    simulated: bool
    environment: str | None
    """Digest of the environment that the evidence matched."""
    until: datetime
    """When the attestation is too old."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """Device (`cpu0`, `gpu0`, …) -> its tier."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the decision needs of a dataset."""

    id: str
    title: str
    owner: str
    ask: str
    """Whom to ask: the contact in its manifest, or the owner's name."""
    keep_until: datetime | None = None
    """When the permit to use it ends."""
    destroyed: datetime | None = None
    """When its key was destroyed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the decision. Both sentences are formatted with `Facts.words`."""

    id: str
    researcher: str
    owner: str


@dataclass(frozen=True, slots=True)
class Denial:
    """A rule that stands in the way, in words."""

    rule: str
    researcher: str
    owner: str

    def reason(self) -> Reason:
        """Return what the person is told."""
        return Reason(code=self.rule, sentence=self.researcher)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, because of this grant."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Refused:
    """No, and why."""

    denials: tuple[Denial, ...]
    ask: str = ""
    grant: Grant | None = None
    """The grant that came closest, if the person has one."""

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What the person is told."""
        return tuple(denial.reason() for denial in self.denials)


def _rules(*rules: Rule) -> Mapping[str, Rule]:
    return {rule.id: rule for rule in rules}


RULES: Mapping[str, Rule] = _rules(
    Rule(
        "dataset.unknown",
        "This broker has no dataset {dataset}.",
        "Somebody asked for {dataset}, which is not registered here.",
    ),
    Rule(
        "dataset.ended",
        "The permit for {title} ended on {keep_until}. Ask {ask} if you need the data again.",
        "The permit for {dataset} ended on {keep_until}.",
    ),
    Rule(
        "dataset.destroyed",
        "The key of {title} was destroyed on {destroyed}: nobody can open it here any more. Ask {ask}.",
        "The key of {dataset} was destroyed on {destroyed}; register the dataset again to release it.",
    ),
    Rule(
        "attestation.expired",
        "The last proof of your server is too old; it must prove itself again.",
        "The server's last attestation ended at {attested_until}.",
    ),
    Rule(
        "simulated.production",
        "Your server proved itself with a simulated processor, which this broker does not accept.",
        "A simulated attestation reached the decision of a production broker.",
    ),
    Rule(
        "environment.unknown",
        "Your server runs an environment that this broker has not approved.",
        "The server's evidence matches no environment that an approved publisher signed.",
    ),
    Rule(
        "person.none",
        "The broker does not know who you are: your server has not presented your login.",
        "No person is bound to the session.",
    ),
    Rule(
        "person.ended",
        "Your login at this broker has ended, and your server did not present it again. Log in again.",
        "The login of {person} ended at {login_until} and was not presented again.",
    ),
    Rule(
        "grant.none",
        "You have no grant for {title}. Ask {ask} for access.",
        "{person} has no grant for {dataset}.",
    ),
    Rule(
        "grant.withdrawn",
        "Your grant for {title} was withdrawn on {withdrawn}. Ask {ask} if you need access again.",
        "The grant {grant} of {person} was withdrawn on {withdrawn}.",
    ),
    Rule(
        "grant.expired",
        "Your grant for {title} ended on {until}. Ask {ask} to extend it.",
        "The grant {grant} of {person} ended on {until}.",
    ),
    Rule(
        "grant.not_started",
        "Your grant for {title} begins on {starts}.",
        "The grant {grant} of {person} begins on {starts}.",
    ),
    Rule(
        "project.halted",
        "The project {project} was halted on {halted}, and with it your use of {title}. Ask {ask}.",
        "The project {project} of the grant {grant} was halted on {halted}.",
    ),
    Rule(
        "grant.purpose",
        "Your grant for {title} allows the purposes {purposes}, not {purpose}. "
        "Choose one of them, or ask {ask}.",
        "{person} asked for the purpose {purpose}; the grant {grant} allows {purposes}.",
    ),
    Rule(
        "grant.environment",
        "Your grant for {title} does not cover the environment that your server runs. "
        "Start a server in an environment that it covers, or ask {ask}.",
        "The grant {grant} does not cover the environment {environment}.",
    ),
    Rule(
        "tier.below",
        "Your server's proof is {tier}, and {title} needs {minimum}.",
        "The server's appraisal is {tier}; the grant {grant} needs {minimum}.",
    ),
    Rule(
        "grant.gpu",
        "{title} may only be used on a server with a GPU in confidential mode, and yours has shown none. "
        "Start a server in an environment with such a GPU, or ask {ask}.",
        "The grant {grant} needs a GPU in confidential mode; the server's devices are {devices}.",
    ),
    Rule(
        "grant.servers",
        "Your grant for {title} allows {servers} of your servers at once, and as many have it already. "
        "Stop one of them and wait until its proof is too old, or ask {ask}.",
        "{person} has {title} in {ahead} other servers; the grant {grant} allows {servers}.",
    ),
    Rule(
        "file.unknown",
        "{title} has no file {file}.",
        "A header was sent for {file}, which the registered manifest of {dataset} does not name.",
    ),
    Rule(
        "file.header",
        "The sealed file {file} is not the one that its owner registered: its header was changed. "
        "Do not use it, and tell {ask}.",
        "The header of {file} that was sent is not the registered one of {dataset}.",
    ),
)
"""Every rule of the decision by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the decision looks at."""

    server: Server
    person: Person | None
    dataset: Dataset | None
    grants: tuple[Grant, ...]
    """All grants of the dataset, also those of other people, ended and withdrawn ones."""
    approved: frozenset[str]
    """Digests of the environments that the broker approves."""
    purpose: str | None
    """DUO code; None asks whether any purpose would do, which is for showing only."""
    now: datetime
    development: bool
    """Whether the broker runs in mode `development`."""
    login_until: datetime | None = None
    """When the person's login must have been presented again; without it, it has ended."""
    dataset_id: str = ""
    """What was asked for, where `dataset` is None."""
    halted: Mapping[str, datetime] = field(default_factory=dict)
    """The projects that are halted, and since when."""
    ahead: Mapping[str, int] = field(default_factory=dict)
    """Grant with a bound on servers -> how many other servers of the person have a place by it already."""

    def with_grants(self, grants: tuple[Grant, ...]) -> Facts:
        """Return the same facts with other grants."""
        return replace(self, grants=grants)

    def words(self, grant: Grant | None = None) -> dict[str, str]:
        """Return what the rules' sentences name."""
        dataset, person = self.dataset, self.person
        return {
            "dataset": dataset.id if dataset else self.dataset_id,
            "title": dataset.title if dataset else self.dataset_id,
            "ask": (dataset.ask if dataset else "") or "the data owner",
            "person": person.name if person else "nobody",
            "login_until": _day(self.login_until) or "once",
            "purpose": self.purpose or "",
            "environment": self.server.environment or "unknown",
            "tier": self.server.tier,
            "attested_until": _day(self.server.until),
            "grant": grant.id if grant else "",
            "withdrawn": _day(grant.withdrawn) if grant else "",
            "until": _day(grant.until) if grant else "",
            "starts": _day(grant.starts) if grant else "",
            "purposes": ", ".join(grant.purposes) if grant else "",
            "minimum": grant.minimum if grant else "",
            "keep_until": _day(dataset.keep_until) if dataset else "",
            "destroyed": _day(dataset.destroyed) if dataset else "",
            "project": grant.project if grant else "",
            "halted": _day(self.halted.get(grant.project)) if grant else "",
            "servers": str(grant.servers or "any number") if grant else "",
            "ahead": str(self.ahead.get(grant.id, 0)) if grant else "",
            "devices": ", ".join(f"{name} ({tier})" for name, tier in sorted(self.server.devices.items())),
        }


def decide(facts: Facts) -> Allowed | Refused:
    """Decide on a release.

    Args:
        facts: What is known about server, person, dataset, grants and purpose, and the time of the decision.
    """
    # 1. What was asked for must exist.
    if facts.dataset is None:
        return Refused((_denial("dataset.unknown", facts),))
    # 2. The dataset must be there to be released, and the server must stand, whoever sits at it.
    standing = _standing_denials(facts)
    # 3. The person.
    if facts.person is None:
        return Refused((*standing, _denial("person.none", facts)), ask=facts.dataset.ask)
    # 4. The person's grants: the first that nothing stands in the way of, else the one that comes closest.
    candidates = [grant for grant in facts.grants if _names(grant, facts.person, facts.dataset, facts.now)]
    if not candidates:
        return Refused((*standing, _denial("grant.none", facts)), ask=facts.dataset.ask)
    judged = [(_grant_denials(grant, facts), grant) for grant in sorted(candidates, key=_newest_first)]
    denials, grant = min(judged, key=lambda item: (_distance(item[1], facts), len(item[0])))
    if not standing and not denials:
        return Allowed(grant)
    return Refused((*standing, *denials), ask=facts.dataset.ask, grant=grant)


def granted_purposes(facts: Facts) -> tuple[str, ...]:
    """Return the purposes that the person's running grants allow, wherever the server stands."""
    if facts.dataset is None or facts.person is None:
        return ()
    codes = [
        code
        for grant in facts.grants
        if _names(grant, facts.person, facts.dataset, facts.now) and not _distance(grant, facts)
        for code in grant.purposes
    ]
    return tuple(dict.fromkeys(codes))


# Once the permit has ended, that is what people are told, also after the key was destroyed because of it.
_DATASET_RULES: tuple[tuple[str, Callable[[Dataset, Facts], bool]], ...] = (
    ("dataset.ended", lambda d, f: d.keep_until is not None and f.now >= d.keep_until),
    ("dataset.destroyed", lambda d, _: d.destroyed is not None),
)

_SERVER_RULES: tuple[tuple[str, Callable[[Facts], bool]], ...] = (
    ("attestation.expired", lambda f: f.now >= f.server.until),
    (
        "simulated.production",
        lambda f: not f.development and (f.server.simulated or f.server.tier == "simulated"),
    ),
    ("environment.unknown", lambda f: f.server.environment not in f.approved),
    ("person.ended", lambda f: f.person is not None and (f.login_until is None or f.now >= f.login_until)),
)

_TIME_RULES: tuple[tuple[str, Callable[[Grant, Facts], bool]], ...] = (
    ("grant.withdrawn", lambda g, _: g.withdrawn is not None),
    ("grant.expired", lambda g, f: g.until is not None and f.now >= g.until),
    ("grant.not_started", lambda g, f: g.starts is not None and f.now < g.starts),
)

_USE_RULES: tuple[tuple[str, Callable[[Grant, Facts], bool]], ...] = (
    ("grant.purpose", lambda g, f: f.purpose is not None and f.purpose not in g.purposes),
    ("grant.environment", lambda g, f: bool(g.environments) and f.server.environment not in g.environments),
    ("tier.below", lambda g, f: f.server.tier not in _accepted_tiers(g, development=f.development)),
    ("grant.gpu", lambda g, f: g.gpu and not _has_gpu(g, f)),
    ("grant.servers", lambda g, f: g.servers is not None and f.ahead.get(g.id, 0) >= g.servers),
)


def _standing_denials(facts: Facts) -> tuple[Denial, ...]:
    dataset = facts.dataset
    broken = (rule for rule, holds in _DATASET_RULES if dataset is not None and holds(dataset, facts))
    gone = tuple(_denial(rule, facts) for rule in tuple(broken)[:1])
    return gone + tuple(_denial(rule, facts) for rule, broken in _SERVER_RULES if broken(facts))


def _is_halted(grant: Grant, facts: Facts) -> bool:
    return bool(grant.project) and grant.project in facts.halted


def _distance(grant: Grant, facts: Facts) -> int:
    """Tell how far a grant is from being of use: 2 if it is over or not yet, 1 if it is halted, else 0."""
    return 2 if _out_of_time(grant, facts) else int(_is_halted(grant, facts))


def _accepted_tiers(grant: Grant, *, development: bool) -> frozenset[str]:
    # `warning` is below `affirming`, and no grant can ask for less than that but `simulated`, which only a
    # development broker knows.
    if grant.minimum == "simulated" and development:
        return frozenset({"affirming", "simulated"})
    return frozenset({"affirming"})


def _has_gpu(grant: Grant, facts: Facts) -> bool:
    accepted = _accepted_tiers(grant, development=facts.development)
    return any(name.startswith("gpu") and tier in accepted for name, tier in facts.server.devices.items())


def _names(grant: Grant, person: Person, dataset: Dataset, now: datetime) -> bool:
    return grant.dataset == dataset.id and names(grant, person, now)


def names(grant: Grant, person: Person, now: datetime) -> bool:
    """Tell whether a grant is this person's."""
    if sum(map(bool, (grant.subject, grant.group, grant.visa))) != 1:
        return False
    if grant.visa:
        return any(
            visa.value == grant.visa and grant.issuer in ("", visa.issuer) and now < visa.until
            for visa in person.visas
        )
    # A name means something at its issuer only: another one may give it to somebody else.
    if not grant.issuer or grant.issuer != person.issuer:
        return False
    return grant.subject == person.subject if grant.subject else grant.group in person.groups


def _out_of_time(grant: Grant, facts: Facts) -> tuple[Denial, ...]:
    # A withdrawn grant is that and nothing else; when it would have ended does not matter any more.
    return next(
        ((_denial(rule, facts, grant),) for rule, broken in _TIME_RULES if broken(grant, facts)),
        (),
    )


def _grant_denials(grant: Grant, facts: Facts) -> tuple[Denial, ...]:
    ended = _out_of_time(grant, facts)
    if ended:
        return ended
    if _is_halted(grant, facts):
        return (_denial("project.halted", facts, grant),)
    return tuple(_denial(rule, facts, grant) for rule, broken in _USE_RULES if broken(grant, facts))


def _newest_first(grant: Grant) -> float:
    return -grant.created.timestamp()


def _denial(rule_id: str, facts: Facts, grant: Grant | None = None) -> Denial:
    rule, words = RULES[rule_id], facts.words(grant)
    return Denial(rule.id, rule.researcher.format_map(words), rule.owner.format_map(words))


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""


def rule_ids() -> Iterable[str]:
    """Return the ids of all rules, for the reference page."""
    return RULES.keys()
