# SPDX-License-Identifier: BSD-3-Clause
"""Tokens of NVIDIA's Remote Attestation Service (NRAS): a second opinion, never the only one.

The service answers `[["JWT", <overall token>], {"GPU-0": <token>, …}]`; the tokens are JWT with ES384 and the
key's id, which the service publishes as a JWKS. Using the service needs an agreement with NVIDIA and sends
evidence to it; nothing here asks it.

Invariants:

- Nothing in a token is believed before its signature.
- A device's token counts only if its digest stands in the overall token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import jwt
from jwt.types import Options

from sealroom.checks import CheckResult, Trail
from sealroom.errors import (
    AppraisalError,
    ChainError,
    ExpiredError,
    FormatError,
    FreshnessError,
    NotYetValidError,
    SignatureError,
)

ISSUER: Final = "https://nras.attestation.nvidia.com"
MAX_TOKEN: Final = 1 << 19
MAX_DEVICES: Final = 32
NONCE_SIZE: Final = 32
SKEW: Final = timedelta(seconds=60)
"""By how much the service's clock may be ahead."""
_OVERALL: Final = "x-nvidia-overall-att-result"


@dataclass(frozen=True, slots=True)
class NrasResult:
    """What the service said."""

    claims: Mapping[str, Any]
    """Claims of the overall token."""
    devices: Mapping[str, Mapping[str, Any]]
    """Claims of each device's token, by its name, for example `GPU-0`."""
    issued: datetime
    """When it was said."""
    expires: datetime
    """When it ends."""
    checks: tuple[CheckResult, ...]
    """What was checked."""


def verify_token(
    detached_eat: bytes,
    *,
    jwks: Mapping[str, Any],
    at: datetime,
    nonce: bytes | None = None,
    issuer: str = ISSUER,
) -> NrasResult:
    """Verify an answer of the service.

    Args:
        detached_eat: The JSON document.
        jwks: The service's public keys.
        at: The reference time, with a time zone.
        nonce: The 32 bytes that were asked with; None asks nothing, and the result says so.
        issuer: Who must have said it.

    Raises:
        FormatError: It is no such document.
        VerificationError: A token is not the service's (`SignatureError`, `ChainError`), has ended
            (`ExpiredError`), is not valid yet, or answers another nonce (`FreshnessError`).
        AppraisalError: The service does not find the devices good.
        TypeError: `at` has no time zone.
        ValueError: `nonce` does not have 32 bytes.
    """
    if at.tzinfo is None:
        raise TypeError("at needs a time zone")
    if nonce is not None and len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    overall, tokens = _split(detached_eat)
    trail = Trail()
    keys = _keys(jwks)
    claims = _claims(overall, keys, at, issuer)
    devices = {name: _claims(token, keys, at, issuer) for name, token in tokens.items()}
    trail.passed("nvidia.nras.token", f"{len(tokens) + 1} tokens, ES384")
    _check_submods(claims, tokens)
    trail.passed("nvidia.nras.submods", ", ".join(tokens))
    _check_nonce(claims, devices, nonce, trail)
    _check_result(claims, devices)
    trail.passed("nvidia.nras.result", "the service finds every device good")
    return NrasResult(
        MappingProxyType(claims),
        MappingProxyType({name: MappingProxyType(value) for name, value in devices.items()}),
        _time(claims, "iat"),
        _time(claims, "exp"),
        tuple(trail.results),
    )


def _split(data: bytes) -> tuple[str, dict[str, str]]:
    if len(data) > MAX_TOKEN:
        raise _bad(f"An answer of {len(data)} bytes is longer than the {MAX_TOKEN} that are read.")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad("The answer is no JSON document.") from None
    if not isinstance(document, list) or len(document) != 2:
        raise _bad("The answer is not an overall token and the devices' tokens.")
    head, tokens = document
    if not isinstance(head, list) or len(head) != 2 or head[0] != "JWT" or not isinstance(head[1], str):
        raise _bad("The answer has no overall token.")
    if (
        not isinstance(tokens, dict)
        or not 0 < len(tokens) <= MAX_DEVICES
        or not all(isinstance(token, str) for token in tokens.values())
    ):
        raise _bad(f"The answer does not hold the tokens of 1 to {MAX_DEVICES} devices.")
    return head[1], tokens


def _keys(jwks: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    try:
        keys = jwt.PyJWKSet.from_dict(dict(jwks)).keys
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise FormatError(
            "The service's keys are no JWKS.", field="jwks", check="nvidia.nras.token"
        ) from None
    return {key.key_id: key for key in keys if key.key_id and key.key_type == "EC"}


def _claims(token: str, keys: Mapping[str, jwt.PyJWK], at: datetime, issuer: str) -> dict[str, Any]:
    check = "nvidia.nras.token"
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _bad("A token is no JWT.") from None
    key = keys.get(str(header.get("kid", "")))
    if key is None:
        raise ChainError(
            "A token is signed with a key that the service does not publish.",
            advice="Fetch the service's keys again.",
            check=check,
        )
    try:
        # Time is compared below, with the reference time instead of the present.
        claims = jwt.decode(token, key, algorithms=["ES384"], options=_NO_TIME, issuer=issuer)
    except jwt.InvalidIssuerError:
        raise ChainError(f"A token is not by {issuer}.", check=check) from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise SignatureError("A token's signature does not verify.", check=check) from None
    _check_time(claims, at)
    return dict(claims)


_NO_TIME: Final[Options] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "require": ["exp", "iat", "iss"],
}


def _check_time(claims: Mapping[str, Any], at: datetime) -> None:
    check = "nvidia.nras.token"
    if at >= _time(claims, "exp"):
        raise ExpiredError("The result has ended.", advice="Ask the service again.", check=check)
    begins = max(_time(claims, "iat"), _time(claims, "nbf") if "nbf" in claims else _time(claims, "iat"))
    if begins - at > SKEW:
        raise NotYetValidError("The result is of a later time than the reference time.", check=check)


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _bad(f"A token's {name} is no time.")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise _bad(f"A token's {name} is no time.") from None


def _check_submods(claims: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    submods = claims.get("submods")
    if not isinstance(submods, dict) or set(submods) != set(tokens):
        raise SignatureError(
            "The overall token names other devices than there are tokens.", check="nvidia.nras.submods"
        )
    for name, token in tokens.items():
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        if submods[name] != ["DIGEST", ["SHA-256", digest]]:
            raise SignatureError(
                f"The token of {name} is not the one that the overall token names.",
                check="nvidia.nras.submods",
            )


def _check_nonce(
    claims: Mapping[str, Any], devices: Mapping[str, Mapping[str, Any]], nonce: bytes | None, trail: Trail
) -> None:
    check = "nvidia.nras.nonce"
    if nonce is None:
        trail.not_asked(check, "no nonce was given")
        return
    for said in (claims, *devices.values()):
        # Half a character, which JSON can carry, equals nothing in a nonce.
        answered = str(said.get("eat_nonce", "")).lower().encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(answered, nonce.hex().encode()):
            raise FreshnessError("The result answers another nonce than the one given.", check=check)
    trail.passed(check, "the result answers the given nonce")


def _check_result(claims: Mapping[str, Any], devices: Mapping[str, Mapping[str, Any]]) -> None:
    bad = [name for name, said in devices.items() if said.get("measres") != "success"]
    if claims.get(_OVERALL) is not True or bad:
        which = f" ({', '.join(bad)})" if bad else ""
        raise AppraisalError(
            f"NVIDIA's service does not find the devices good{which}.", check="nvidia.nras.result"
        )


def _bad(message: str) -> FormatError:
    return FormatError(message, field="nras", check="nvidia.nras.token")


__all__ = ["ISSUER", "NrasResult", "verify_token"]
