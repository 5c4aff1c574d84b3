# SPDX-License-Identifier: BSD-3-Clause
"""Trustee mode: the dataset's key itself leaves, `resource/sealroom/dataset-key/<dataset>`.

For servers that open a dataset by themselves, as they would with the key from a Trustee. A key that has left
cannot be taken back, so it needs a grant that says so (`dataset_key`) on top of everything that a release
needs, and the entry in the log says what left.

The order is that of a release: (1) the decision on what the store says now, (2) the entry, durable, (3) the
release in the store, committed, (4) the answer.

Invariants:

- Every rule of `decide` holds here too, so that nothing leaves without a person.
- Only grants with `dataset_key` count for a yes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sealroom.crypt4gh import SecretKey
from sealroom.kbs import jwe
from sealroom.kbs.calls import Grant
from sealroom.kbs.trustee import BROKER_KIND, BROKER_REPOSITORY, DatasetKey

from sealroom_broker.broker import Broker
from sealroom_broker.decide import (
    Allowed,
    Denial,
    Facts,
    Refused,
    Rule,
    decide,
    granted_purposes,
)
from sealroom_broker.entries import release_entry
from sealroom_broker.places import take_place
from sealroom_broker.problem import Problem
from sealroom_broker.registry import key_context
from sealroom_broker.release import release_row
from sealroom_broker.resources import check_path, session_of
from sealroom_broker.sessions import AttestedSession
from sealroom_broker.store import DatasetRow

RULE = Rule(
    "grant.dataset_key",
    "Your grant for {title} lets a server read the data, and does not let the dataset's key itself leave. "
    "Unlock it with Sealroom, or ask {ask}.",
    "The dataset's own key was asked for; the grant {grant} does not let it leave.",
)
PURPOSE = Rule(
    "grant.purpose",
    "Your grants for {title} allow several purposes: {granted}. Say which, with ?purpose= behind the "
    "resource's name.",
    "{person} did not say for which of the purposes {granted}.",
)
DETAIL = "The dataset's own key left for this server (Trustee mode): its end cannot be enforced."
"""What the entry of such a release says."""


def is_dataset_key(parts: Mapping[str, str]) -> bool:
    """Tell whether a resource's name is the one of a dataset's own key."""
    return (parts["repository"], parts["type"]) == (BROKER_REPOSITORY, BROKER_KIND)


def decide_key(facts: Facts) -> Allowed | Refused:
    """Decide whether a dataset's own key may leave: all rules of `decide`, and `grant.dataset_key`.

    A purpose that was not named is the one that the grants leave; where they leave several, it is refused.
    """
    keyed = facts.with_grants(tuple(grant for grant in facts.grants if grant.dataset_key))
    plain = decide(facts)
    if plain.grant is not None and _nobodys(keyed):
        # The person has grants, but none of them lets the key leave.
        denials = plain.denials if isinstance(plain, Refused) else ()
        ask = facts.dataset.ask if facts.dataset else ""
        return Refused((*denials, _denial(RULE, facts, plain.grant)), ask, plain.grant)
    verdict = decide(keyed)
    purposes = granted_purposes(keyed)
    if isinstance(verdict, Allowed) and facts.purpose is None and len(purposes) > 1:
        ask = facts.dataset.ask if facts.dataset else ""
        return Refused((_denial(PURPOSE, facts, verdict.grant, purposes),), ask, verdict.grant)
    return verdict


def release_key(
    broker: Broker, cookie: str | None, bearer: str | None, dataset: str, purpose: str | None, now: datetime
) -> dict[str, str]:
    """Return a dataset's own key as a JWE to the session's attested key.

    Args:
        broker: The broker.
        cookie: The session's cookie.
        bearer: The session's EAR token, which stands for the cookie.
        dataset: The dataset's id, as it was asked for.
        purpose: A DUO code; None where the request names none.
        now: When.

    Raises:
        Problem: The name is none (400), the session does not stand (401), or the decision is no (403).
        StorageError: The entry or the release could not be made durable: nothing left.
    """
    check_path(f"{BROKER_REPOSITORY}/{BROKER_KIND}/{dataset}")
    with broker.store.write() as session:
        attested = session_of(broker.sessions, cookie, bearer, now, within=session)
        facts = broker.finder.facts(session, attested, dataset, purpose, now)
        # (1) The decision.
        verdict = decide_key(facts)
        facts = _with_purpose(facts)
        row = session.get(DatasetRow, dataset)
        # (2) The entry.
        entry = release_entry(
            facts, verdict, attested, manifest_sha256=row.manifest_sha256 if row else ""
        ).model_copy(update={"detail": DETAIL if isinstance(verdict, Allowed) else _asked(dataset)})
        receipt = broker.record.append(entry)
        # (3) The release; committed at the end of this block.
        if isinstance(verdict, Allowed):
            take_place(session, attested, verdict.grant, now)
            purpose, manifest = facts.purpose or "", entry.manifest_sha256
            session.add(release_row(attested, verdict.grant, purpose, manifest, receipt, now))
    if isinstance(verdict, Refused) or row is None:
        raise _refusal(verdict)
    return _answer(broker, row, attested)


def _answer(broker: Broker, row: DatasetRow, attested: AttestedSession) -> dict[str, str]:
    # (4) The same bytes that an owner stores at a Trustee.
    key = DatasetKey(
        SecretKey(broker.wrap.unwrap(row.wrapped_key, context=key_context(row.id))),
        row.id,
        row.manifest,
        row.signature,
    )
    try:
        return jwe.encrypt(key.to_bytes(), attested.tee_pubkey)
    finally:
        key.wipe()


def _nobodys(keyed: Facts) -> bool:
    """Tell whether none of these grants is the person's."""
    return decide(keyed).grant is None


def _with_purpose(facts: Facts) -> Facts:
    """Return the facts with the only purpose that the grants leave, for the entry."""
    if facts.purpose is not None:
        return facts
    keyed = facts.with_grants(tuple(grant for grant in facts.grants if grant.dataset_key))
    purposes = granted_purposes(keyed)
    return replace(facts, purpose=purposes[0]) if len(purposes) == 1 else facts


def _denial(rule: Rule, facts: Facts, grant: Grant, purposes: tuple[str, ...] = ()) -> Denial:
    words = {**facts.words(grant), "granted": ", ".join(purposes)}
    return Denial(rule.id, rule.researcher.format_map(words), rule.owner.format_map(words))


def _asked(dataset: str) -> str:
    return f"Resource {BROKER_REPOSITORY}/{BROKER_KIND}/{dataset}"


def _refusal(verdict: Allowed | Refused) -> Problem:
    if isinstance(verdict, Allowed):
        return Problem(404, "NotFound", "There is no such dataset.")
    detail = " ".join(reason.sentence for reason in verdict.reasons)
    return Problem(403, "PolicyDeny", detail, reasons=verdict.reasons, ask=verdict.ask)
