# SPDX-License-Identifier: BSD-3-Clause
"""The real broker, secure processor and attestation results behind `sealroom_jupyter.ports`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sealroom.appraisal import ear
from sealroom.datasets.messages import ClaimInfo, DeviceInfo, EnvironmentInfo
from sealroom.errors import ConfigurationError, Error, NetworkError, ProtocolError
from sealroom.guest import DeviceEvidence
from sealroom.guest import detect as detect_provider
from sealroom.guest import detect_devices as detect_device_provider
from sealroom.kbs.calls import (
    AccessRequest,
    AccessRequestSpec,
    DatasetList,
    Explanation,
    IdentityRequest,
    IdentityResponse,
    OwnRelease,
    ReleaseRequest,
    ReleaseResponse,
    SessionState,
)
from sealroom.kbs.client import Attested, Devices, KbsClient
from sealroom.kbs.devices import decode_devices
from sealroom.kbs.evidence import snp_from_json

from sealroom_jupyter.errors import EvidenceError
from sealroom_jupyter.ports import Broker, Connect, Proof, Provider
from sealroom_jupyter.settings import Settings
from sealroom_jupyter.status import device_title

_MAX_JWKS = 1 << 20
_NO_RUN_DIR = Path("/run/sealroom")
"""Where a simulated processor would have its socket if the server was not told its own directory."""


def detect(run_dir: Path | None) -> Provider:
    """Return where this guest's evidence comes from.

    Raises:
        ConfigurationError: There is no source of evidence; the advice says what was tried.
    """
    # Devices are looked for with each session with the broker; what this returns is asked alone, too.
    return detect_provider(run_dir or _NO_RUN_DIR, decode_coco=snp_from_json, devices=()).provider


class Gpus:
    """The evidence of this server's GPUs for the broker.

    Args:
        run_dir: The server's run directory, where simulated GPUs have their socket.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._run_dir = run_dir or _NO_RUN_DIR

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        """Return the evidence of every GPU over 32 bytes of nonce; nothing on a server without one.

        Raises:
            EvidenceError: There is a GPU, and it gives no evidence.
        """
        provider = detect_device_provider(self._run_dir, decode_coco=decode_devices).provider
        if provider is None:
            return []
        try:
            return provider.evidence(nonce)
        except Error as error:
            raise EvidenceError(
                f"The GPU of this server gives no evidence: {error.message}",
                advice=error.advice or "Try again; if it stays so, tell the operator.",
            ) from error


def connector(settings: Settings, *, transport: httpx.BaseTransport | None = None) -> Connect:
    """Return what makes clients of the broker.

    Args:
        settings: Where the broker is.
        transport: Another way to it, for tests.
    """

    def connect(gather: Callable[[bytes], Any]) -> Broker:
        if not settings.broker_url:
            raise ConfigurationError(
                "No key broker is set, so nothing can be proven.",
                advice="Set SEALROOM_BROKER_URL or c.Sealroom.broker_url.",
            )
        # No proxy of the environment comes between: a broker is addressed directly.
        http = httpx.Client(
            timeout=settings.timeout, trust_env=False, transport=transport, follow_redirects=False
        )
        return KbsBroker(settings.broker_url, gather, http, devices=Gpus(settings.run_dir))

    return connect


class _Client(KbsClient):
    """Remembers the newest attestation result, also of handshakes that it began by itself."""

    newest: str = ""

    def attest(self) -> Attested:
        attested = super().attest()
        self.newest = attested.token
        return attested

    def identity(self, request: IdentityRequest) -> IdentityResponse:
        response = super().identity(request)
        if request.provider == "oidc":
            # An ID token ends within minutes: presented again later it would only be refused. Whoever renews
            # it presents the new one.
            with self._lock:
                self._identity = None
        return response


class KbsBroker:
    """A `Broker` that speaks the key broker protocol.

    Args:
        base_url: The broker's address, without `/kbs/v0`.
        gather: Returns evidence over 64 bytes.
        http: The connections; closed with this.
        devices: Gives the evidence of the devices beside the processor.
    """

    def __init__(
        self,
        base_url: str,
        gather: Callable[[bytes], Any],
        http: httpx.Client,
        *,
        devices: Devices | None = None,
    ) -> None:
        self._http = http
        self._client = _Client(base_url, gather, http=http, devices=devices)

    def attest(self) -> str:
        """Gather evidence, do the handshake and return the attestation result."""
        return self._client.attest().token

    @property
    def token(self) -> str:
        """The newest attestation result."""
        return self._client.newest

    def identity(self, request: IdentityRequest) -> IdentityResponse:
        """Bind a person to the session."""
        return self._client.identity(request)

    def datasets(self) -> DatasetList:
        """Return the datasets on offer."""
        return DatasetList(datasets=self._client.datasets())

    def release(self, dataset: str, request: ReleaseRequest) -> ReleaseResponse:
        """Have a dataset's headers re-encrypted for this server."""
        return self._client.release(dataset, request)

    def session(self) -> SessionState:
        """Return the session as the broker sees it."""
        return self._client.session()

    @property
    def tee_pubkey(self) -> Mapping[str, str]:
        """The public key that the evidence covers."""
        return self._client.tee_pubkey

    def explain(self, dataset: str, purpose: str | None) -> Explanation:
        """Return what the broker would decide now."""
        return self._client.explain(dataset, purpose)

    def request_access(self, spec: AccessRequestSpec) -> AccessRequest:
        """Ask a dataset's owner for access."""
        return self._client.request_access(spec)

    def own_requests(self) -> tuple[AccessRequest, ...]:
        """Return the person's requests, the newest first."""
        return self._client.own_requests()

    def withdraw_request(self, request: str) -> AccessRequest:
        """Take back a request that was not answered."""
        return self._client.withdraw_request(request)

    def own_releases(self, before: int | None = None) -> tuple[OwnRelease, ...]:
        """Return what was released to the person, the newest 100 before an index of the log."""
        return self._client.own_releases(before)

    def jwks(self) -> Mapping[str, object]:
        """Return the keys that attestation results are signed with.

        Raises:
            NetworkError: The broker does not answer.
            ProtocolError: It answers with something else.
        """
        url = f"{self._client.base_url}/kbs/v0/sealroom/jwks"
        try:
            answer = self._http.get(url)
        except httpx.HTTPError as error:
            raise NetworkError(
                f"The broker at {self._client.base_url} cannot be reached ({type(error).__name__}).",
                advice="Check the address, the network, and that the broker runs.",
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise NetworkError(f"The broker does not show its keys (HTTP {answer.status_code}).")
        try:
            keys = answer.json() if len(answer.content) <= _MAX_JWKS else None
        except ValueError:
            keys = None
        if not isinstance(keys, dict):
            raise ProtocolError("The broker's keys are not a JWK set.")
        return keys

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._http.close()


def read_token(token: str, jwks: Mapping[str, object], at: datetime) -> Proof:
    """Verify an attestation result and return what it says.

    Raises:
        VerificationError: It is not the broker's, or too old.
    """
    verified = ear.verify(token, jwks=dict(jwks), at=at)
    result = verified.result
    reference = result.environment
    environment = None
    if reference is not None:
        environment = EnvironmentInfo(
            name=reference.name, title=reference.title, version=reference.version, digest=reference.digest
        )
    return Proof(
        token=token,
        token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        tier=str(result.tier),
        devices=tuple(_device(device) for device in result.devices),
        environment=environment,
        proven_at=result.at,
        expires=verified.expires,
    )


def _device(device: Any) -> DeviceInfo:
    claims = tuple(
        ClaimInfo(check=claim.check, outcome=str(claim.outcome), sentence=claim.sentence)
        for claim in device.claims
    )
    return DeviceInfo(
        device=device.device, tier=str(device.tier), title=device_title(device.device), claims=claims
    )
