# SPDX-License-Identifier: BSD-3-Clause
"""The guest's side of the key broker protocol: prove, say who asks, list datasets, get a release.

One `KbsClient` is one session with one broker and one key that was made in this process. A broker that
answers 401 gets fresh evidence once; a refusal (403) is passed on with its reasons and never answered with
more evidence.

Fresh evidence goes into the same session where the broker keeps it (`auth` with the session's cookie), so
that person and releases stay. Where it does not, or where the person's login has ended, the client presents
the login again.

Invariants:

- Thread-safe; concurrent 401s lead to one handshake.
- An attestation result is taken only if it names this session's nonce and key. Its signature is for the
  caller to verify, who knows the broker's keys.
- Tokens, keys and plaintexts are in no log line, error or `repr`.
- Nothing but `sealroom.errors.Error` leaves a call, except the caller's own mistakes.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self
from urllib.parse import quote

import httpx
from pydantic import JsonValue

from sealroom.errors import ProtocolError
from sealroom.kbs._http import Answer, Transport
from sealroom.kbs.binding import cpu_report_data, device_nonce
from sealroom.kbs.calls import (
    AccessRequest,
    AccessRequestList,
    AccessRequestSpec,
    DatasetList,
    DatasetState,
    Explanation,
    IdentityRequest,
    IdentityResponse,
    OwnRelease,
    OwnReleaseList,
    ReleaseRequest,
    ReleaseResponse,
    SessionState,
)
from sealroom.kbs.devices import DeviceLike, encode_devices
from sealroom.kbs.evidence import snp_to_json
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.messages import (
    PREFIX,
    SESSION_COOKIE,
    AttestRequest,
    AttestResponse,
    AuthRequest,
    Challenge,
    InitData,
    RuntimeData,
    TeeEvidence,
    parse,
)
from sealroom.kbs.token import check_token

_LOG = logging.getLogger(__name__)
_RESOURCE_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
DEFAULT_TIMEOUT: Final = 30.0
DEVICE_NONCE_SIZE: Final = 32
"""What an NVIDIA GPU takes as nonce: the first bytes of the digest."""


class Evidence(Protocol):
    """Evidence as a guest's provider gives it; `sealroom.guest.GuestEvidence` is one."""

    @property
    def tee(self) -> str:
        """KBS name of the TEE."""

    @property
    def report(self) -> bytes:
        """The report's bytes."""

    @property
    def certificates(self) -> Mapping[str, bytes]:
        """Kind -> DER."""

    @property
    def provider(self) -> str:
        """Where it came from."""


Provider = Callable[[bytes], Evidence]
"""Gives evidence that covers 64 bytes of report data."""


class Devices(Protocol):
    """A source of the devices' evidence; `sealroom.guest.DeviceProvider` is one."""

    def evidence(self, nonce: bytes) -> Sequence[DeviceLike]:
        """Gather the evidence of every device over a nonce of 32 bytes."""


EncodeDevices = Callable[[Sequence[DeviceLike]], str]
"""Writes the devices' evidence as the protocol's `additional_evidence`."""


def snp_evidence(evidence: Evidence) -> JsonValue:
    """Return SNP evidence as the protocol's `primary_evidence`.

    Raises:
        ProtocolError: It is the evidence of another TEE.
    """
    if evidence.tee != "snp":
        raise ProtocolError(f"Evidence of the TEE {evidence.tee[:16]!r} cannot be sent to a broker.")
    fields: JsonValue = json.loads(json.dumps(snp_to_json(evidence.report, evidence.certificates)))
    return fields


@dataclass(frozen=True, slots=True)
class Attested:
    """What a handshake ended with."""

    token: str = field(repr=False)
    """The attestation result, an EAR token signed by the broker."""
    nonce: str
    """The broker's nonce that the evidence covers."""
    provider: str
    """Where the evidence came from."""
    evidence: Evidence = field(repr=False)
    runtime_data: RuntimeData = field(repr=False)
    """What the evidence covers: nonce and key."""


class KbsClient:
    """A session with a broker. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        base_url: str,
        provider: Provider,
        *,
        tee: str = "snp",
        key: TeeKey | None = None,
        encode: Callable[[Evidence], JsonValue] = snp_evidence,
        devices: Devices | None = None,
        encode_devices: EncodeDevices = encode_devices,
        init_data: str | None = None,
        http: httpx.Client | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Prepare a session; nothing is sent yet.

        Args:
            base_url: The broker's address, without `/kbs/v0`.
            provider: Gives evidence for report data.
            tee: The TEE's name in the protocol.
            key: The key that answers are encrypted to; a new P-256 key without it.
            encode: Writes the evidence as the protocol's `primary_evidence`.
            devices: Gives the evidence of the devices beside the CPU.
            encode_devices: Writes it as the protocol's `additional_evidence`.
            init_data: The TOML text whose digest is HOST_DATA, to send along.
            http: A client to use, for example with a certificate authority of your own.
            timeout: Seconds for each step of a request.

        Raises:
            ConfigurationError: `base_url` is no HTTP URL.
        """
        self._transport = Transport(base_url, http, timeout)
        self._provider = provider
        self._tee = tee
        self._encode = encode
        self._devices = devices
        self._encode_devices = encode_devices
        self._init_data = None if init_data is None else InitData(format="toml", body=init_data)
        self._key = key or TeeKey.generate()
        self._lock = threading.RLock()
        self._cookie: str | None = None
        self._handshakes = 0
        self._identity: IdentityRequest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"KbsClient({self.base_url!r})"

    def close(self) -> None:
        """Close the connections; the session at the broker ends by itself."""
        self._transport.close()

    @property
    def base_url(self) -> str:
        """The broker's address."""
        return self._transport.base_url

    @property
    def tee_pubkey(self) -> dict[str, str]:
        """The public JWK that the evidence covers and answers are encrypted to."""
        return self._key.public_jwk()

    def attest(self) -> Attested:
        """Prove to the broker what this server is, in the session that there is or in a new one.

        Raises:
            AccessDeniedError: The broker refuses the evidence; `reasons` says why.
            NetworkError: The broker or the source of the evidence cannot be reached.
            ProtocolError: One of them speaks another protocol, or the result is not about this server.
        """
        with self._lock:
            attested, cookie = self._handshake(self._cookie)
            moved = self._cookie is not None and cookie != self._cookie
            self._cookie = cookie
            self._handshakes += 1
            if moved and self._identity is not None:
                # The broker did not keep the session: bind the person to the new one.
                self._present(self._identity)
            _LOG.debug("attested to %s with evidence of %s", self.base_url, attested.provider)
            return attested

    def attest_only(self) -> Attested:
        """Prove to the broker in a session of its own, and ask for nothing; this client's session stays.

        Raises:
            AccessDeniedError: The broker refuses the evidence; `reasons` says why.
            NetworkError: The broker or the source of the evidence cannot be reached.
            ProtocolError: One of them speaks another protocol.
        """
        return self._handshake(None)[0]

    def identity(self, request: IdentityRequest) -> IdentityResponse:
        """Tell the broker who asks; it binds the person to this session.

        Raises:
            AccessDeniedError: The broker refuses the person's token.
        """
        response = self._call(
            "POST", "/sealroom/identity", "the person's token", request.model_dump_json().encode()
        )
        with self._lock:
            self._identity = request
        return parse(IdentityResponse, response.body)

    def datasets(self) -> tuple[DatasetState, ...]:
        """Return the datasets on offer, as this person in this session sees them."""
        return parse(
            DatasetList, self._call("GET", "/sealroom/datasets", "the list of datasets").body
        ).datasets

    def release(self, dataset: str, request: ReleaseRequest) -> ReleaseResponse:
        """Ask for a dataset's headers, re-encrypted to the request's reader key.

        Raises:
            AccessDeniedError: The broker refuses; `reasons` says why and `advice` whom to ask.
            ProtocolError: The answer is not encrypted to this session's key, or is of another dataset.
        """
        path = f"/sealroom/datasets/{quote(dataset, safe='')}/release"
        answer = self._call("POST", path, f"the dataset {dataset}", request.model_dump_json().encode())
        response = parse(ReleaseResponse, self._open(answer), limit=len(answer.body))
        if response.dataset != dataset or set(response.headers) != set(request.headers):
            raise ProtocolError("The broker's answer is not about the files that were asked for.")
        return response

    def session(self) -> SessionState:
        """Return the session as the broker sees it now."""
        return parse(SessionState, self._call("GET", "/sealroom/session", "the session's state").body)

    def explain(self, dataset: str, purpose: str | None = None) -> Explanation:
        """Return what the broker would decide on a release of a dataset now, rule by rule.

        Args:
            dataset: Its id.
            purpose: A DUO code; None asks whether any purpose would do.
        """
        query = f"?purpose={quote(purpose, safe='')}" if purpose is not None else ""
        path = f"/sealroom/datasets/{quote(dataset, safe='')}/explain{query}"
        return parse(Explanation, self._call("GET", path, f"to explain the dataset {dataset}").body)

    def request_access(self, spec: AccessRequestSpec) -> AccessRequest:
        """Ask a dataset's owner for access.

        Raises:
            AccessDeniedError: The broker does not pass it on; `reasons` says why.
            ProtocolError: It is malformed.
        """
        body = spec.model_dump_json().encode()
        return parse(AccessRequest, self._call("POST", "/sealroom/requests", "the request", body).body)

    def own_requests(self) -> tuple[AccessRequest, ...]:
        """Return the person's own requests, the newest first."""
        answer = self._call("GET", "/sealroom/requests", "the list of requests")
        return parse(AccessRequestList, answer.body, limit=len(answer.body)).requests

    def withdraw_request(self, request: str) -> AccessRequest:
        """Take back an open request of the person.

        Raises:
            ProtocolError: There is none, or it was answered already.
        """
        path = f"/sealroom/requests/{quote(request, safe='')}"
        return parse(AccessRequest, self._call("DELETE", path, "to take the request back").body)

    def own_releases(self, before: int | None = None) -> tuple[OwnRelease, ...]:
        """Return what was released to the person, the newest 100, each with its inclusion proof.

        The proofs are not checked here: `sealroom.audit.proof` does, with a key that came from elsewhere.

        Args:
            before: Only releases with a smaller index, for the next page.
        """
        query = f"?before={before}" if before is not None else ""
        answer = self._call("GET", f"/sealroom/releases{query}", "the list of releases")
        return parse(OwnReleaseList, answer.body, limit=len(answer.body)).releases

    def resource(self, repository: str, kind: str, tag: str) -> bytes:
        """Return a static resource, as any KBS holds them.

        Raises:
            ValueError: A part of the name has other characters than letters, digits, `_`, `.` and `-`.
            AccessDeniedError: The broker refuses.
        """
        for part in (repository, kind, tag):
            if not _RESOURCE_PART.fullmatch(part):
                raise ValueError(f"{part!r} is no part of a resource's name")
        answer = self._call("GET", f"/resource/{repository}/{kind}/{tag}", f"the resource {tag}")
        return self._open(answer)

    # --- exchanges ---

    def _handshake(self, cookie: str | None) -> tuple[Attested, str | None]:
        """Run `auth` and `attest`; return the result and the session's cookie."""
        answer = self._send("POST", "/auth", AuthRequest.for_tee(self._tee).to_json(), cookie)
        _raise_problem(answer, "the handshake")
        cookie = answer.cookie or cookie
        challenge = parse(Challenge, answer.body)
        runtime_data = RuntimeData(nonce=challenge.nonce, tee_pubkey=self._key.public_jwk())
        evidence, devices = self._gather(challenge, runtime_data)
        request = AttestRequest(
            init_data=self._init_data,
            runtime_data=runtime_data,
            tee_evidence=TeeEvidence(primary_evidence=self._encode(evidence), additional_evidence=devices),
        )
        answer = self._send("POST", "/attest", request.to_json(), cookie)
        _raise_problem(answer, "this server's evidence")
        token = parse(AttestResponse, answer.body).token
        check_token(token, challenge.nonce, runtime_data.tee_pubkey, devices)
        attested = Attested(token, challenge.nonce, evidence.provider, evidence, runtime_data)
        return attested, answer.cookie or cookie

    def _gather(self, challenge: Challenge, runtime_data: RuntimeData) -> tuple[Evidence, str]:
        """Gather the devices' evidence first: the CPU's covers it."""
        nonce, key, algorithm = challenge.nonce, runtime_data.tee_pubkey, challenge.algorithm
        devices = ""
        if self._devices is not None:
            asked = device_nonce(nonce, key, algorithm, size=DEVICE_NONCE_SIZE)
            devices = self._encode_devices(self._devices.evidence(asked))
        return self._provider(cpu_report_data(nonce, key, devices, algorithm)), devices

    def _present(self, request: IdentityRequest) -> None:
        answer = self._send("POST", "/sealroom/identity", request.model_dump_json().encode(), self._cookie)
        _raise_problem(answer, "the person's token")

    def _call(self, method: str, path: str, what: str, body: bytes | None = None) -> Answer:
        """Make a call inside the session; attest first if there is none, and once again on a 401."""
        with self._lock:
            if self._cookie is None:
                self.attest()
            seen, cookie = self._handshakes, self._cookie
        answer = self._send(method, path, body, cookie)
        if answer.attest_again:
            with self._lock:
                # Another thread may have attested meanwhile; then its session is good for this call too.
                if self._handshakes == seen:
                    self.attest()
                cookie = self._cookie
            answer = self._send(method, path, body, cookie)
        if answer.login_ended and self._identity is not None:
            self._present(self._identity)
            answer = self._send(method, path, body, cookie)
        _raise_problem(answer, what)
        return answer

    def _send(self, method: str, path: str, body: bytes | None, cookie: str | None) -> Answer:
        headers = {} if cookie is None else {"Cookie": f"{SESSION_COOKIE}={cookie}"}
        return self._transport.send(
            method, PREFIX + path, body=body, headers=headers, cookie_name=SESSION_COOKIE
        )

    def _open(self, answer: Answer) -> bytes:
        try:
            jwe = json.loads(answer.body)
        except (ValueError, RecursionError):
            jwe = None
        if not isinstance(jwe, dict):
            raise ProtocolError("The broker's answer is not encrypted to this server's key.")
        return self._key.decrypt(jwe)


def _raise_problem(answer: Answer, what: str) -> None:
    problem = answer.problem(what)
    if problem is not None:
        raise problem
