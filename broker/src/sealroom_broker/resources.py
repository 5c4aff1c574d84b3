# SPDX-License-Identifier: BSD-3-Clause
"""Static resources of the plain KBS protocol: a secret under `<repository>/<type>/<tag>`.

The protocol knows no person, so the server alone decides: its attestation must be affirming, in an
environment that the broker approves. The entry in the log comes before the secret leaves, as with datasets.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sealroom.kbs import jwe
from sealroom.kbs.calls import Reason
from sealroom.kbs.trustee import BROKER_KIND, BROKER_REPOSITORY
from sqlalchemy.orm import Session

from sealroom_broker.audit import Record
from sealroom_broker.config import Mode
from sealroom_broker.entries import owner_entry, resource_entry
from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.problem import Problem, bad_request, not_found
from sealroom_broker.sessions import SAMPLE, AttestedSession, Sessions
from sealroom_broker.store import ResourceRow, Store
from sealroom_broker.wrap import KeyWrap

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
"""As Trustee has it (kbs/src/plugins/implementations/resource/backend.rs), and with a bound."""
_MAX_SECRET = 1 << 18


class ResourceSpec(BaseModel):
    """A secret to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret: str = Field(repr=False)
    """Standard base64."""
    minimum: Literal["affirming", "simulated", "sample"] = "affirming"
    """Least tier of the server. A development broker also has `simulated`, and `sample`: anybody at all."""


class Resources:
    """The static resources in the store.

    Args:
        store: The database.
        sessions: Its sessions.
        record: The audit log.
        wrap: Wraps the secrets.
        environments: What may run.
        mode: The broker's mode.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        record: Record,
        wrap: KeyWrap,
        environments: ApprovedEnvironments,
        mode: Mode,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._record = record
        self._wrap = wrap
        self._environments = environments
        self._development = mode == "development"

    def put(self, path: str, spec: ResourceSpec, actor: str, now: datetime) -> None:
        """Keep a secret; one of the same name is replaced.

        Raises:
            Problem: Its name or content is not usable.
        """
        check_path(path)
        if spec.minimum != "affirming" and not self._development:
            raise bad_request("This is a production broker: a resource cannot accept a simulated processor.")
        if path.split("/")[:2] == [BROKER_REPOSITORY, BROKER_KIND]:
            raise bad_request("Names under sealroom/dataset-key are those of the datasets' own keys.")
        try:
            secret = base64.b64decode(spec.secret, validate=True)
        except (binascii.Error, ValueError):
            raise bad_request("The secret is not base64.") from None
        if not 0 < len(secret) <= _MAX_SECRET:
            raise bad_request(f"A secret has between 1 and {_MAX_SECRET} bytes.")
        with self._store.write() as session:
            row = session.get(ResourceRow, path)
            if row is None:
                row = ResourceRow(path=path)
                session.add(row)
            row.wrapped = self._wrap.wrap(secret, context=resource_context(path))
            row.minimum, row.created = spec.minimum, now
            self._record.append(owner_entry("registration", actor, now, detail=f"Resource {path}"))

    def delete(self, path: str, actor: str, now: datetime) -> None:
        """Forget a secret.

        Raises:
            Problem: There is none of this name.
        """
        with self._store.write() as session:
            row = session.get(ResourceRow, path)
            if row is None:
                raise not_found("There is no such resource.")
            session.delete(row)
            self._record.append(owner_entry("withdrawal", actor, now, detail=f"Resource {path}"))

    def release(self, cookie: str | None, bearer: str | None, path: str, now: datetime) -> dict[str, str]:
        """Return a secret as a JWE to the session's attested key.

        Args:
            cookie: The session's cookie.
            bearer: The session's EAR token, which stands for the cookie.
            path: The resource's name.
            now: When.

        Raises:
            Problem: The session does not stand (401), the policy refuses (403), or there is none (404).
        """
        check_path(path)
        with self._store.write() as session:
            attested = session_of(self._sessions, cookie, bearer, now, within=session)
            row = session.get(ResourceRow, path)
            if row is None:
                raise not_found("There is no such resource.")
            reasons = self._reasons(attested, row)
            self._record.append(resource_entry(path, attested, reasons, now))
        if reasons:
            detail = " ".join(reason.sentence for reason in reasons)
            raise Problem(403, "PolicyDeny", detail, reasons=reasons)
        return jwe.encrypt(
            self._wrap.unwrap(row.wrapped, context=resource_context(path)), attested.tee_pubkey
        )

    def _reasons(self, attested: AttestedSession, row: ResourceRow) -> tuple[Reason, ...]:
        standing, reasons = attested.standing, list[Reason]()
        if self._development and attested.tee == SAMPLE and row.minimum == "sample":
            return ()
        if standing.environment not in self._environments.digests():
            sentence = "Your server runs an environment that this broker has not approved."
            reasons.append(Reason(code="environment.unknown", sentence=sentence))
        accepted = {"affirming"}
        if self._development and row.minimum in ("simulated", "sample"):
            accepted.add("simulated")
        if standing.tier not in accepted:
            sentence = f"Your server's proof is {standing.tier}, and this resource needs more."
            reasons.append(Reason(code="tier.below", sentence=sentence))
        return tuple(reasons)


def session_of(
    sessions: Sessions, cookie: str | None, bearer: str | None, now: datetime, *, within: Session
) -> AttestedSession:
    """Return the session of a cookie or, where that one does not stand, of a token, as Trustee does.

    Raises:
        Problem: Neither stands: the guest must attest (again).
    """
    try:
        return sessions.current(cookie, now, within=within)
    except Problem:
        if bearer is None:
            raise
    return sessions.with_token(bearer, now, within=within)


def check_path(path: str) -> None:
    """Check a resource's name.

    Raises:
        Problem: It is none (400).
    """
    parts = path.split("/")
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
        raise bad_request("A resource's name has three parts of letters, digits, '_', '.' and '-'.")


def resource_context(path: str) -> str:
    """Return what a wrapped resource is bound to."""
    return f"resource:{path}"
