# SPDX-License-Identifier: BSD-3-Clause
"""A broker of a few lines for the client's tests: it follows the protocol and can be told to misbehave."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from sealroom.kbs.binding import HashAlgorithm, check_report_data
from sealroom.kbs.evidence import snp_from_json
from sealroom.kbs.jwe import encrypt
from sealroom.kbs.messages import ERROR_BASE, AttestRequest, AuthRequest, Challenge, parse

URL = "http://broker.example"


@dataclass
class Session:
    """What the broker knows of a session."""

    challenge: Challenge
    key: dict[str, str] | None = None
    person: str | None = None


@dataclass
class FakeBroker:
    """Answers requests; use it as the handler of an `httpx.MockTransport`."""

    algorithm: HashAlgorithm = "sha384"
    keeps_sessions: bool = True
    """Whether `auth` with a session's cookie goes on in that session."""
    answers: dict[str, Callable[[httpx.Request], httpx.Response]] = field(default_factory=dict)
    """Path -> what to answer instead."""
    calls: list[str] = field(default_factory=list)
    covered: dict[str, Any] = field(default_factory=dict)
    """What attestation results say that the evidence covers, instead of what it does."""
    tokens: list[str] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def http(self) -> httpx.Client:
        """Return a client that is connected to this broker."""
        return httpx.Client(transport=httpx.MockTransport(self))

    def expire(self) -> None:
        """Forget what every session has proven."""
        for session in self.sessions.values():
            session.key = None

    def forget(self) -> None:
        """Forget every session, as a broker with a new database does."""
        self.sessions.clear()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self.lock:
            path = request.url.path.removeprefix("/kbs/v0/")
            self.calls.append(path)
            if path in self.answers:
                return self.answers[path](request)
            cookie = request.headers.get("cookie", "").removeprefix("kbs-session-id=")
            if path == "auth":
                return self._auth(request, cookie)
            session = self.sessions.get(cookie)
            if session is None:
                return error(401, "AttestationError", "no session")
            if path == "attest":
                return self._attest(request, session)
            if session.key is None:
                return error(401, "AttestationError", "attest again")
            return self._call(path, request, session, session.key)

    def _auth(self, request: httpx.Request, cookie: str) -> httpx.Response:
        parse(AuthRequest, request.content).check_version()
        challenge = Challenge.with_nonce(uuid.uuid4().bytes * 2, self.algorithm)
        if self.keeps_sessions and cookie in self.sessions:
            self.sessions[cookie].challenge = challenge
        else:
            cookie = uuid.uuid4().hex
            self.sessions[cookie] = Session(challenge)
        headers = {"set-cookie": f"kbs-session-id={cookie}; Path=/kbs/v0; HttpOnly"}
        return httpx.Response(200, content=challenge.to_json(), headers=headers)

    def _attest(self, request: httpx.Request, session: Session) -> httpx.Response:
        attest = parse(AttestRequest, request.content)
        runtime, tee = attest.runtime_data, attest.tee_evidence
        assert runtime.nonce == session.challenge.nonce
        report, _ = snp_from_json(tee.primary_evidence)
        check_report_data(
            report[0x50:0x90], runtime.nonce, runtime.tee_pubkey, tee.additional_evidence, self.algorithm
        )
        session.key = dict(runtime.tee_pubkey)
        covered = {"nonce": runtime.nonce, "tee-pubkey": dict(runtime.tee_pubkey)}
        self.tokens.append(result(covered | self.covered))
        return httpx.Response(200, json={"token": self.tokens[-1]})

    def _call(
        self, path: str, request: httpx.Request, session: Session, key: dict[str, str]
    ) -> httpx.Response:
        body: Any = json.loads(request.content) if request.content else None
        if path == "sealroom/identity":
            session.person = "Ada"
            return httpx.Response(200, json={"person": {"subject": "u1", "name": "Ada", "issuer": "hub"}})
        if path == "sealroom/session":
            person = {"subject": "u1", "name": session.person, "issuer": "hub"} if session.person else None
            return httpx.Response(200, json={"person": person, "expires": "2030-01-01T00:00:00Z", "new": 1})
        if path == "sealroom/datasets":
            return httpx.Response(200, json={"datasets": [dataset("heartbeats")]})
        if path.endswith("/release"):
            answer = {
                "dataset": path.split("/")[2],
                "grant": "g1",
                "manifest": base64.b64encode(b"{}").decode(),
                "owner_key": "",
                "headers": body["headers"],
                "audit_index": 3,
                "audit_leaf": "00" * 32,
            }
            return httpx.Response(200, json=encrypt(json.dumps(answer).encode(), key))
        if path.startswith("resource/"):
            return httpx.Response(200, json=encrypt(b"secret", key))
        return error(404, "NotFound", f"there is no {path}")


def result(covered: object) -> str:
    """Return an attestation result as a token; its signature is a text, as clients do not look at it."""
    annotated = {"ear.veraison.annotated-evidence": {"runtime_data_claims": covered}}
    claims = json.dumps({"submods": {"cpu0": annotated}}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.ear-signature-secret"


def dataset(name: str) -> dict[str, Any]:
    """Return a dataset's state as a broker sends it."""
    return {
        "id": name,
        "title": "Heartbeats",
        "owner": "Heart Centre",
        "size": 5,
        "files": 1,
        "manifest_sha256": "00" * 32,
        "state": "locked",
    }


def error(status: int, name: str, detail: str, **more: Any) -> httpx.Response:
    """Return an error answer."""
    return httpx.Response(status, json={"type": ERROR_BASE + name, "detail": detail, **more})
