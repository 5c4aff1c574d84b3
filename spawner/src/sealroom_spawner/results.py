# SPDX-License-Identifier: BSD-3-Clause
"""Verify attestation results (EAR tokens) with the broker's published keys."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from sealroom.appraisal import Tier, ear
from sealroom.errors import NetworkError, VerificationError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

JWKS_LIFETIME = 60.0
"""Seconds for which the broker's keys are not asked for again."""
JWKS_PAUSE = 5.0
"""Seconds between two questions for the broker's keys, whatever key a token names."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the hub keeps of a verified attestation result."""

    tier: str
    environment: str
    key: str
    """Thumbprint of the attested key, by which a result is told apart from another server's; may be empty."""
    until: float = 0.0
    """When the result ends, in seconds since the epoch."""


NOTHING = Result("none", "", "")
"""What a server has proven that has proven nothing."""


class ResultVerifier:
    """Verifies results against the keys that the broker publishes.

    Args:
        broker_url: The broker's address, without `/kbs/v0`.
        simulated_only: Whether all servers of this hub have simulated processors. Then nothing is genuine,
            and a result that says so is refused whoever signed it.
    """

    def __init__(self, broker_url: str, *, simulated_only: bool = False) -> None:
        self._simulated_only = simulated_only
        self._url = f"{broker_url.rstrip('/')}/kbs/v0/sealroom/jwks"
        self._jwks: dict[str, Any] | None = None
        self._fetched = 0.0

    async def verify(self, token: str) -> Result:
        """Verify a token.

        Raises:
            NetworkError: The broker's keys could not be had: nothing is known about the token.
            FormatError: The token is not one.
            VerificationError: The token is not the broker's, or too old.
        """
        verified = ear.verify(token, jwks=await self._keys(_key_id(token)), at=datetime.now(UTC))
        if self._simulated_only and verified.result.tier in (Tier.AFFIRMING, Tier.WARNING):
            raise VerificationError(
                "The result calls a processor genuine, and this hub has simulated ones only."
            )
        environment = verified.result.environment
        return Result(
            tier=str(verified.result.tier),
            environment="" if environment is None else environment.name,
            key=_thumbprint(verified.tee_pubkey),
            until=verified.expires.timestamp(),
        )

    async def _keys(self, key_id: str) -> dict[str, Any]:
        age = time.monotonic() - self._fetched
        # A key that is not among those we have is a new one of the broker's, or somebody's invention.
        known = self._jwks is not None and key_id in {key.get("kid") for key in self._jwks["keys"]}
        if self._jwks is None or age > JWKS_LIFETIME or (not known and age > JWKS_PAUSE):
            try:
                answer = await AsyncHTTPClient().fetch(HTTPRequest(self._url, request_timeout=10))
                self._jwks = _key_set(answer.body)
            except (HTTPClientError, OSError, ValueError) as error:
                raise NetworkError(
                    "The broker's keys could not be had, so the result could not be checked."
                ) from error
            self._fetched = time.monotonic()
        return self._jwks


def _key_set(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError("this is no set of keys")
    return dict(value)


def _key_id(token: str) -> str:
    """Return which key a token says it is signed with; empty if it says nothing readable."""
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.PyJWTError:
        return ""


def _thumbprint(key: Mapping[str, Any]) -> str:
    # RFC 7638 orders and chooses members; here equal bytes for equal keys is all that is needed.
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest() if key else ""
