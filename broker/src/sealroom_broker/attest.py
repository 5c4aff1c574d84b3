# SPDX-License-Identifier: BSD-3-Clause
"""The `attest` call: from a guest's message to an EAR token, with a record of every refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sealroom.appraisal import AttestationResult, ear
from sealroom.errors import (
    Error,
    NetworkError,
    NotYetValidError,
    ProtocolError,
    RevocationUnavailableError,
)
from sealroom.kbs.calls import Reason
from sealroom.kbs.messages import AttestRequest, parse

from sealroom_broker.audit import Record
from sealroom_broker.entries import attestation_refusal
from sealroom_broker.evidence import EvidenceJudge, Judged
from sealroom_broker.keyring import Keyring
from sealroom_broker.problem import Problem, bad_request
from sealroom_broker.sessions import Pending, Sessions, Standing


class Attestations:
    """Answers `attest`.

    Args:
        sessions: The sessions.
        judge: Verifies and appraises.
        record: Keeps evidence and refusals.
        keyring: Signs tokens.
        issuer: The broker's name.
        lifetime: How long an attestation holds.
        clock: Gives the present.
    """

    def __init__(
        self,
        sessions: Sessions,
        judge: EvidenceJudge,
        record: Record,
        keyring: Keyring,
        *,
        issuer: str,
        lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._judge = judge
        self._record = record
        self._keyring = keyring
        self._issuer = issuer
        self._lifetime = lifetime
        self._clock = clock

    def attest(self, cookie: str | None, body: bytes, now: datetime) -> str:
        """Judge evidence and return the token.

        Args:
            cookie: The session's cookie.
            body: The message as it arrived; kept as it is, so that an auditor can judge it again.
            now: The one time that everything is judged at.

        Raises:
            Problem: The message is malformed (400), the evidence is not accepted (401), or something that is
                needed to judge it could not be had (503).
        """
        try:
            request = parse(AttestRequest, body)
        except ProtocolError as error:
            raise bad_request(error.message) from error
        digest = hashlib.sha256(body).hexdigest()
        pending = self._sessions.answer(cookie, request.runtime_data.nonce, digest, now)
        if isinstance(pending, str):
            return pending
        try:
            judged, now = self._judged(request, pending, now)
        except Error as error:
            raise self._refuse(pending, body, error, now) from error
        return self._accept(request, pending, judged, body, now)

    def _judged(self, request: AttestRequest, pending: Pending, now: datetime) -> tuple[Judged, datetime]:
        """Judge, and return the one time that it was judged at."""
        try:
            return self._judge.judge(request, pending, now), now
        except NotYetValidError:
            # AMD dates a certificate when it is asked for: one fetched just now is younger than the call.
            later = self._clock()
            if later <= now:
                raise
        return self._judge.judge(request, pending, later), later

    def _accept(
        self, request: AttestRequest, pending: Pending, judged: Judged, body: bytes, now: datetime
    ) -> str:
        key, result = self._keyring.current(now), judged.result
        token = ear.issue(
            result,
            key=key.private,
            kid=key.kid,
            issuer=self._issuer,
            nonce=pending.nonce,
            tee_pubkey=request.runtime_data.tee_pubkey,
            lifetime=self._lifetime,
            at=now,
            evidence=judged.evidence,
        )
        with self._record.together():
            evidence = self._record.keep_evidence(body)
            collateral = {
                kind: tuple(sorted({self._record.keep_evidence(data) for data in files}))
                for kind, files in judged.collateral.items()
                if files
            }
            standing = _standing(judged, token, evidence, collateral, now, now + self._lifetime)
            self._sessions.attested(pending.session, request.runtime_data.tee_pubkey, standing)
        return token

    def _refuse(self, pending: Pending, body: bytes, error: Error, now: datetime) -> Problem:
        self._sessions.failed(pending.session)
        reason = Reason(code=error.check or error.code, sentence=error.message)
        person, server = self._sessions.bound_to(pending.session)
        evidence = self._record.keep_evidence(body)
        self._record.append(attestation_refusal(reason, evidence, person, server, now))
        # Not a verdict: something could not be had. A guest that is told "401" would attest again at once.
        status = 503 if isinstance(error, NetworkError | RevocationUnavailableError) else 401
        return Problem(status, "AttestationError", error.diagnostics(), reasons=(reason,))


def _standing(
    judged: Judged,
    token: str,
    evidence: str,
    collateral: Mapping[str, tuple[str, ...]],
    now: datetime,
    until: datetime,
) -> Standing:
    result: AttestationResult = judged.result
    return Standing(
        token=token,
        evidence=evidence,
        tier=result.tier.value,
        simulated=result.simulated,
        devices={device.device: device.tier.value for device in result.devices},
        environment=judged.environment.digest if judged.environment else None,
        collateral=collateral,
        policy=result.policy.digest,
        attested=now,
        until=until,
    )
