# SPDX-License-Identifier: BSD-3-Clause
"""What the Attester needs of others, as narrow protocols: broker, secure processor, clock, hub.

Tests put fakes in their places; `sealroom_jupyter.real` has the real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from sealroom.datasets.messages import DeviceInfo, EnvironmentInfo
from sealroom.errors import AccessDeniedError
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
from sealroom.kbs.devices import DeviceLike


class Evidence(Protocol):
    """Evidence of a secure processor (`sealroom.guest.GuestEvidence`)."""

    @property
    def report(self) -> bytes:
        """The attestation report, exact bytes."""

    @property
    def certificates(self) -> Mapping[str, bytes]:
        """Kind -> DER."""


class Provider(Protocol):
    """Where evidence comes from (`sealroom.guest.Provider`)."""

    @property
    def name(self) -> str:
        """Short name, for example `simulated`."""

    def evidence(self, report_data: bytes) -> Evidence:
        """Return evidence over 64 bytes."""


class Devices(Protocol):
    """Where the evidence of GPUs comes from (`sealroom_jupyter.real.Gpus`)."""

    def evidence(self, nonce: bytes) -> Sequence[DeviceLike]:
        """Return the evidence of every GPU over 32 bytes of nonce; nothing on a server without one.

        Raises:
            EvidenceError: There is a GPU, and it gives no evidence.
        """


class NoDevices:
    """The devices of a server that has none."""

    def evidence(self, _: bytes) -> Sequence[DeviceLike]:
        """Return nothing."""
        return ()


class Broker(Protocol):
    """One attested session with the key broker. Not safe for several threads at once."""

    def attest(self) -> str:
        """Gather evidence, do the handshake and return the attestation result (EAR token)."""

    @property
    def token(self) -> str:
        """The newest attestation result; the client attests again by itself when its session is gone."""

    def identity(self, request: IdentityRequest) -> IdentityResponse:
        """Bind a person to the session."""

    def datasets(self) -> DatasetList:
        """Return the datasets on offer."""

    def release(self, dataset: str, request: ReleaseRequest) -> ReleaseResponse:
        """Have a dataset's headers re-encrypted for this server."""

    def session(self) -> SessionState:
        """Return the session as the broker sees it."""

    @property
    def tee_pubkey(self) -> Mapping[str, str]:
        """The public key that the evidence covers; a login's nonce is made from it."""

    def explain(self, dataset: str, purpose: str | None) -> Explanation:
        """Return what the broker would decide now; nothing is released."""

    def request_access(self, spec: AccessRequestSpec) -> AccessRequest:
        """Ask a dataset's owner for access."""

    def own_requests(self) -> Sequence[AccessRequest]:
        """Return the person's requests, the newest first."""

    def withdraw_request(self, request: str) -> AccessRequest:
        """Take back a request that was not answered."""

    def own_releases(self, before: int | None = None) -> Sequence[OwnRelease]:
        """Return the newest releases to the person, with proofs; those before an index of the log."""

    def jwks(self) -> Mapping[str, object]:
        """Return the keys that attestation results are signed with."""

    def close(self) -> None:
        """Give up the connection."""


Detect = Callable[[Path | None], Provider]
Connect = Callable[[Callable[[bytes], Evidence]], Broker]


class HubToken:
    """The server's token at the hub; not printed, not pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the token, to send it to the hub or inside an attested session."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "<HubToken, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a hub token is not pickled")


class PersonLogin(Protocol):
    """Says at the broker who the person is. Called with the session held."""

    def request(self, *, bound: bool) -> IdentityRequest | None:
        """Return what to present to the broker; None where nobody is logged in.

        Args:
            bound: Whether the session has the person already, and wants the login again.

        Raises:
            AccessDeniedError: The login has ended.
            NetworkError: It cannot be renewed now.
        """

    def taken(self, response: IdentityResponse) -> None:
        """Take note that the broker bound the person."""

    def refused(self, error: AccessDeniedError) -> None:
        """Take note that the broker did not."""


class HubLogin:
    """The hub's token of this server is the login.

    Args:
        token: The token.
        server: The server's name at the hub.
    """

    def __init__(self, token: HubToken, server: str) -> None:
        self._token = token
        self._server = server

    def request(self, *, bound: bool) -> IdentityRequest | None:
        """Return the hub's token; None without one."""
        if not self._token:
            return None
        return IdentityRequest(provider="jupyterhub", token=self._token.reveal(), server=self._server)

    def taken(self, response: IdentityResponse) -> None:
        """Do nothing: the token stays."""

    def refused(self, error: AccessDeniedError) -> None:
        """Do nothing: the hub may know the token again."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What an attestation result says, after its signature was verified."""

    token: str
    token_sha256: str
    tier: str
    devices: tuple[DeviceInfo, ...]
    environment: EnvironmentInfo | None
    proven_at: datetime
    expires: datetime

    @property
    def holds(self) -> bool:
        """Whether this result is good enough to work with at all."""
        return self.tier in ("affirming", "warning", "simulated")


ReadToken = Callable[[str, Mapping[str, object], datetime], Proof]


Stage = Literal["starting", "evidence", "verified", "refused"]


@dataclass(frozen=True, slots=True)
class Event:
    """What the hub's status service is told."""

    stage: Stage
    sentence: str
    token: str = ""
    """The attestation result; the service verifies it itself."""


class Clock:
    """The time; tests have another."""

    def now(self) -> datetime:
        """Return the wall clock's time, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()
