# SPDX-License-Identifier: BSD-3-Clause
"""Datasets and grants: what owners put in, and how both are read for a decision."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import Manifest, verify_manifest
from sealroom.datasets.terms import LABELS
from sealroom.errors import Error
from sealroom.kbs.calls import DatasetRegistration, Grant, GrantSpec, Term
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.config import Mode
from sealroom_broker.decide import Dataset
from sealroom_broker.problem import Problem, bad_request, not_found
from sealroom_broker.projects import check_running
from sealroom_broker.store import ERASE, DatasetRow, GrantRow, Meta
from sealroom_broker.wrap import KeyWrap

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Issuers:
    """Who names people at this broker, and whose visas count."""

    people: tuple[str, ...] = ()
    visas: tuple[str, ...] = ()

    def complete(self, spec: GrantSpec) -> tuple[GrantSpec, str]:
        """Return a grant with its issuer, and what is wrong with that; empty if nothing is."""
        known = self.visas if spec.visa else self.people
        if spec.issuer and known and spec.issuer not in known:
            return spec, f"This broker does not know the issuer {spec.issuer}; it knows {', '.join(known)}."
        if spec.visa and not known:
            return spec, "This broker trusts no issuer of visas."
        if spec.issuer or spec.visa or not known:
            return spec, ""
        if len(known) > 1:
            return spec, f"This broker knows several issuers; name one of {', '.join(known)}."
        return spec.model_copy(update={"issuer": known[0]}), ""


def adopt_issuer(session: Session, people: Sequence[str]) -> int:
    """Give grants that name no issuer the one that this broker knows.

    Grants of an earlier schema name none. Where the broker knows several, they stay as they are and open
    nothing: nobody can say whom they meant.

    Returns:
        How many were changed.
    """
    if len(people) != 1:
        return 0
    rows = session.scalars(select(GrantRow).where(GrantRow.issuer == "", GrantRow.visa == "")).all()
    for row in rows:
        row.issuer, row.version = people[0], row.version + 1
    return len(rows)


def key_context(dataset: str) -> str:
    """Return what a dataset's wrapped key is bound to."""
    return f"dataset:{dataset}"


@lru_cache(maxsize=32)
def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest whose signature was verified when it was registered."""
    return Manifest.from_bytes(data)


def as_dataset(row: DatasetRow, default_contact: str = "") -> Dataset:
    """Return what the decision needs of a dataset."""
    manifest = parse_manifest(row.manifest)
    ask = manifest.contact or manifest.owner or default_contact
    return Dataset(
        id=row.id,
        title=manifest.title,
        owner=manifest.owner,
        ask=ask,
        keep_until=row.keep_until,
        destroyed=row.destroyed,
    )


def register(
    session: Session, registration: DatasetRegistration, wrap: KeyWrap, now: datetime
) -> tuple[DatasetRow, bool]:
    """Register a dataset, a newer manifest of one, its key again, or another end of its permit.

    Returns:
        The dataset, and whether anything changed.

    Raises:
        Problem: The manifest is not the owner's, the key is not the dataset's, another owner has this id, a
            newer version is registered, or the permit would have ended already.
    """
    data, signature, owner_key, raw_key = (
        _decoded(getattr(registration, name), name)
        for name in ("manifest", "signature", "owner_key", "secret_key")
    )
    try:
        manifest = verify_manifest(data, signature, owner_key)
        secret = SecretKey(raw_key)
    except Error as error:
        raise bad_request(error.diagnostics()) from error
    if secret.public.to_base64() != manifest.dataset_key:
        raise bad_request("The secret key is not the one that the dataset's files are sealed to.")
    row = session.get(DatasetRow, manifest.id)
    if row is not None and row.owner_key != owner_key:
        raise Problem(409, "Conflict", f"A dataset {manifest.id} of another owner is registered already.")
    if row is not None:
        _check_follows(manifest, row)
    keep_until = _permit_end(registration, row, now)
    if row is not None and row.destroyed is None and (row.manifest, row.keep_until) == (data, keep_until):
        return row, False
    if row is None:
        row = DatasetRow(id=manifest.id, version=0)
        session.add(row)
    row.manifest, row.signature, row.owner_key = data, signature, owner_key
    row.manifest_sha256 = hashlib.sha256(data).hexdigest()
    row.wrapped_key = wrap.wrap(secret.reveal(), context=key_context(manifest.id))
    row.registered, row.version = now, row.version + 1
    row.keep_until, row.destroyed = keep_until, None
    secret.wipe()
    return row, True


def _check_follows(manifest: Manifest, row: DatasetRow) -> None:
    """Refuse a manifest that goes back behind the registered one, however well it is signed.

    Raises:
        Problem: It is of an earlier version, or the next version of another manifest (409).
    """
    known, version = parse_manifest(row.manifest).version or 1, manifest.version or 1
    if version < known:
        raise Problem(
            409,
            "Conflict",
            f"Version {known} of {manifest.id} is registered, and this is version {version}. "
            "Register the newest one.",
        )
    if version == known + 1 and manifest.previous not in (None, row.manifest_sha256):
        raise Problem(
            409,
            "Conflict",
            f"This version {version} of {manifest.id} follows another manifest than the registered one.",
        )


def _permit_end(registration: DatasetRegistration, row: DatasetRow | None, now: datetime) -> datetime | None:
    """Return when the permit ends: as the registration says, else as it was."""
    end = registration.keep_until
    if end is None:
        end = row.keep_until if row is not None else None
    elif end.tzinfo is None:
        raise bad_request("The end of a permit needs a time zone.")
    if end is not None and end <= now:
        raise bad_request("The permit for this dataset has ended: register it with a later keep_until.")
    return None if end is None else end.astimezone(UTC)


def forget_key(session: Session, row: DatasetRow, now: datetime) -> None:
    """Take a dataset's key out of the database; `Store.erase` removes its traces after the transaction."""
    row.wrapped_key, row.destroyed = b"", now
    row.version += 1
    if session.get(Meta, ERASE) is None:
        session.add(Meta(key=ERASE, value=row.id))


def add_grant(
    session: Session, spec: GrantSpec, mode: Mode, now: datetime, issuers: Issuers | None = None
) -> Grant:
    """Add a grant.

    Args:
        session: The transaction.
        spec: What the owner wants.
        mode: The broker's mode.
        now: When.
        issuers: Who may name people at this broker.

    Raises:
        Problem: It names no dataset of this broker (404), nobody or what does not fit together (400), or a
            project that is halted (409).
    """
    if session.get(DatasetRow, spec.dataset) is None:
        raise not_found(f"This broker has no dataset {spec.dataset}.")
    check_running(session, spec.project)
    spec, wrong = (issuers or Issuers()).complete(spec)
    wrong = wrong_with(spec, mode) or wrong
    if wrong:
        raise bad_request(wrong)
    row = GrantRow(
        id=secrets.token_hex(8),
        version=1,
        dataset=spec.dataset,
        subject=spec.subject,
        group=spec.group,
        visa=spec.visa,
        issuer=spec.issuer,
        purposes=list(spec.purposes),
        environments=list(spec.environments),
        minimum=spec.minimum,
        gpu=spec.gpu,
        servers=spec.servers,
        outputs=spec.outputs,
        project=spec.project,
        dataset_key=spec.dataset_key,
        starts=spec.starts,
        until=spec.until,
        created=now,
    )
    session.add(row)
    return as_grant(row)


def withdraw_grant(session: Session, grant: str, now: datetime) -> tuple[Grant, bool]:
    """Withdraw a grant.

    Returns:
        The grant, and whether it was withdrawn just now.

    Raises:
        Problem: There is none.
    """
    row = session.get(GrantRow, grant)
    if row is None:
        raise not_found("There is no such grant.")
    if row.withdrawn is not None:
        return as_grant(row), False
    row.withdrawn, row.version = now, row.version + 1
    return as_grant(row), True


def grants_of(session: Session, dataset: str | None = None) -> tuple[Grant, ...]:
    """Return the grants of a dataset, or all."""
    query = select(GrantRow).order_by(GrantRow.created, GrantRow.id)
    if dataset is not None:
        query = query.where(GrantRow.dataset == dataset)
    return tuple(as_grant(row) for row in session.scalars(query))


def as_grant(row: GrantRow) -> Grant:
    """Return a grant as the owner's calls and the decision know it."""
    return Grant(
        id=row.id,
        created=row.created,
        withdrawn=row.withdrawn,
        version=row.version,
        dataset=row.dataset,
        subject=row.subject,
        group=row.group,
        visa=row.visa,
        issuer=row.issuer,
        purposes=tuple(row.purposes),
        environments=tuple(row.environments),
        minimum="simulated" if row.minimum == "simulated" else "affirming",
        gpu=row.gpu,
        servers=row.servers,
        outputs=row.outputs,
        project=row.project,
        dataset_key=row.dataset_key,
        starts=row.starts,
        until=row.until,
    )


def terms(codes: Sequence[str]) -> tuple[Term, ...]:
    """Return DUO codes with their labels."""
    return tuple(Term(code=code, label=LABELS.get(code, code)) for code in codes)


def wrong_with(spec: GrantSpec, mode: Mode) -> str:
    """Say what is wrong with a grant; empty if nothing is."""
    problems = (
        (
            sum(map(bool, (spec.subject, spec.group, spec.visa))) != 1,
            "A grant names either a person or a group or a visa.",
        ),
        (not spec.purposes, "A grant needs at least one purpose."),
        (
            any(code not in LABELS for code in spec.purposes),
            "A grant's purposes are DUO codes, for example DUO:0000042 (general research use).",
        ),
        (
            not all(_DIGEST.fullmatch(one) for one in spec.environments),
            "A grant's environments are digests, sha256: and 64 hex digits.",
        ),
        (
            spec.minimum == "simulated" and mode != "development",
            "This is a production broker: a grant cannot accept a simulated processor.",
        ),
        (
            any(moment is not None and moment.tzinfo is None for moment in (spec.starts, spec.until)),
            "A grant's times need a time zone.",
        ),
    )
    for wrong, sentence in problems:
        if wrong:
            return sentence
    if spec.starts and spec.until and spec.until.astimezone(UTC) <= spec.starts.astimezone(UTC):
        return "A grant must end after it begins."
    return ""


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(f"{name} is not base64.") from None
