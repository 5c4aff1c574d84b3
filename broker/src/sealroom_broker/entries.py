# SPDX-License-Identifier: BSD-3-Clause
"""What the audit log says of each act of the broker."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sealroom.audit.entry import (
    AuditEntry,
    AuditPerson,
    AuditReason,
    Decision,
    EarSummary,
    GrantVersion,
)
from sealroom.canonical import canonical_json
from sealroom.kbs.calls import AccessRequest, Grant, Person, Reason

from sealroom_broker.decide import Allowed, Facts, Refused
from sealroom_broker.sessions import AttestedSession, Standing

_YES = Decision(allowed=True)
_LATER_TERMS = ("servers", "outputs", "project", "dataset_key")


def release_entry(
    facts: Facts,
    verdict: Allowed | Refused,
    attested: AttestedSession,
    *,
    manifest_sha256: str = "",
    headers: tuple[str, ...] = (),
) -> AuditEntry:
    """Return the entry of a decision on a release.

    Args:
        facts: What the decision looked at.
        verdict: What it said.
        attested: The session that asked.
        manifest_sha256: Digest of the dataset's manifest, if there is a dataset.
        headers: What is about to be released, see `sealroom.audit.entry.header_digests`.
    """
    standing = attested.standing
    return AuditEntry(
        time=facts.now,
        kind="release" if isinstance(verdict, Allowed) else "refusal",
        person=_person(attested.person),
        server=attested.server,
        dataset=facts.dataset_id[:200],
        manifest_sha256=manifest_sha256,
        purpose=(facts.purpose or "")[:100],
        grant=_grant(verdict.grant),
        project=verdict.grant.project if verdict.grant else "",
        decision=_decision(verdict),
        environment=standing.environment or "",
        policy=standing.policy,
        ear=_ear(standing),
        evidence=standing.evidence,
        collateral=dict(standing.collateral),
        headers=headers,
    )


def resource_entry(
    path: str, attested: AttestedSession, reasons: tuple[Reason, ...], now: datetime
) -> AuditEntry:
    """Return the entry of a decision on a static resource; no reasons means that it is released."""
    standing = attested.standing
    return AuditEntry(
        time=now,
        kind="refusal" if reasons else "release",
        person=_person(attested.person),
        server=attested.server,
        decision=Decision(allowed=not reasons, reasons=tuple(map(_reason, reasons))),
        environment=standing.environment or "",
        policy=standing.policy,
        ear=_ear(standing),
        evidence=standing.evidence,
        collateral=dict(standing.collateral),
        detail=f"Resource {path}",
    )


def attestation_refusal(
    reason: Reason, evidence: str, person: Person | None, server: str, now: datetime
) -> AuditEntry:
    """Return the entry of evidence that is not authentic."""
    return AuditEntry(
        time=now,
        kind="refusal",
        person=_person(person),
        server=server,
        decision=Decision(allowed=False, reasons=(_reason(reason),)),
        evidence=evidence,
        detail="Evidence was not accepted.",
    )


def owner_entry(
    kind: str,
    actor: str,
    now: datetime,
    *,
    dataset: str = "",
    manifest_sha256: str = "",
    grant: Grant | None = None,
    headers: tuple[str, ...] = (),
    project: str = "",
    detail: str = "",
) -> AuditEntry:
    """Return the entry of something that an owner did: a registration, a grant, its change, and so on."""
    return AuditEntry.model_validate(
        {
            "time": now,
            "kind": kind,
            "actor": actor,
            "dataset": dataset,
            "manifest_sha256": manifest_sha256,
            "grant": _grant(grant),
            "project": project or (grant.project if grant else ""),
            "decision": _YES,
            "headers": headers,
            "detail": detail,
        }
    )


def request_entry(
    dataset: str, purpose: str, attested: AttestedSession, now: datetime, *, detail: str
) -> AuditEntry:
    """Return the entry of a person's request for access, or of its being taken back.

    It carries the evidence of the server that it came from, so that the owner who answers and an auditor see
    the same.
    """
    standing = attested.standing
    return AuditEntry(
        time=now,
        kind="request",
        person=_person(attested.person),
        server=attested.server,
        dataset=dataset,
        purpose=purpose,
        decision=_YES,
        environment=standing.environment or "",
        policy=standing.policy,
        ear=_ear(standing),
        evidence=standing.evidence,
        collateral=dict(standing.collateral),
        detail=detail,
    )


def answer_entry(
    request: AccessRequest, actor: str, now: datetime, *, grant: Grant | None, answer: str
) -> AuditEntry:
    """Return the entry of an owner's answer to a request; without a grant it is a refusal.

    The evidence is in the request's own entry, which the detail names by its index.
    """
    refusal = Decision(allowed=False, reasons=(AuditReason(code="request.refused", sentence=answer),))
    said = "granted" if grant is not None else "refused"
    detail = f"Request {request.id} (entry {request.audit_index}) was {said}"
    return AuditEntry(
        time=now,
        kind="answer",
        actor=actor,
        person=_person(request.person),
        server=request.server.server,
        dataset=request.dataset,
        purpose=request.purpose,
        grant=_grant(grant),
        project=grant.project if grant is not None else "",
        decision=_YES if grant is not None else refusal,
        detail=f"{detail}: {answer}" if answer else f"{detail}.",
    )


def start_entry(detail: str, now: datetime) -> AuditEntry:
    """Return the entry of the broker's start."""
    return AuditEntry(time=now, kind="start", decision=_YES, detail=detail)


def grant_digest(grant: Grant) -> str:
    """Return the digest of a grant as it is now.

    A term that older brokers did not know counts only where it says something, so that a grant of theirs
    keeps its digest.
    """
    fields = grant.model_dump(mode="json", exclude={"version"})
    for name in _LATER_TERMS:
        if not fields[name]:
            del fields[name]
    return "sha256:" + hashlib.sha256(canonical_json(fields)).hexdigest()


def _person(person: Person | None) -> AuditPerson | None:
    if person is None:
        return None
    return AuditPerson(subject=person.subject, name=person.name, issuer=person.issuer)


def _grant(grant: Grant | None) -> GrantVersion | None:
    return None if grant is None else GrantVersion(id=grant.id, version=grant_digest(grant))


def _reason(reason: Reason) -> AuditReason:
    return AuditReason(code=reason.code, sentence=reason.sentence)


def _decision(verdict: Allowed | Refused) -> Decision:
    if isinstance(verdict, Allowed):
        return _YES
    reasons = tuple(AuditReason(code=one.rule, sentence=one.owner) for one in verdict.denials)
    return Decision(allowed=False, reasons=reasons)


def _ear(standing: Standing) -> EarSummary:
    return EarSummary(tier=standing.tier, simulated=standing.simulated, devices=dict(standing.devices))
