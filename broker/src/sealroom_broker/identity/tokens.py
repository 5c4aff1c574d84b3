# SPDX-License-Identifier: BSD-3-Clause
"""Signed tokens of identity providers: form, signature, and the rules for an ID token.

OpenID Connect Core 1.0, section 3.1.3.7, with RFC 8725 (best practice for JWT): one fixed list of algorithms
with public keys, the type of the token checked, no member twice. Times are judged at a moment that is passed
in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
from sealroom.errors import (
    BindingError,
    Error,
    ExpiredError,
    FormatError,
    FreshnessError,
    NotYetValidError,
    SignatureError,
    VerificationError,
)

from sealroom_broker.config import Claim
from sealroom_broker.identity.base import printable_token
from sealroom_broker.identity.jwks import KeySet

Claims = Mapping[str, object]

MAX_NAME: Final = 255
"""Characters of a name, a subject, a group (OpenID Connect Core 1.0, section 2, for `sub`)."""
_MAX_GROUPS: Final = 2000
_TYPES: Final = frozenset({"JWT", "jwt"})


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose form is right; nothing of it is verified."""

    text: str = field(repr=False)
    header: Claims
    claims: Claims = field(repr=False)

    @property
    def issuer(self) -> str:
        """Who it says that it is from; empty if it does not say."""
        return text_claim(self.claims, "iss")

    @property
    def type(self) -> str:
        """Its media type; `JWT` if it does not say, and empty if it says nothing usable."""
        return text_claim({"typ": "JWT", **self.header}, "typ")


@dataclass(frozen=True, slots=True)
class IdTokenRules:
    """What an ID token must say."""

    issuer: str
    audience: str
    parties: Collection[str]
    """Clients that may have got it."""
    algorithms: Collection[str]
    leeway: timedelta


def read(text: str) -> Token:
    """Take a compact JWS apart.

    Raises:
        FormatError: It is none, or its parts are no JSON objects.
    """
    if not printable_token(text) or text.count(".") != 2:
        raise FormatError("The token is not a signed JWT.", check="person.token")
    header, payload, _ = text.split(".")
    return Token(text, _json(header), _json(payload))


def verify_signature(token: Token, keys: KeySet, algorithms: Collection[str]) -> None:
    """Check the signature.

    Raises:
        NetworkError: The issuer's keys cannot be read.
        SignatureError: It is signed with another algorithm or key, or was changed.
    """
    algorithm = token.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise SignatureError(
            "The token is signed with an algorithm that is not accepted.", check="person.token"
        )
    if "crit" in token.header or "b64" in token.header:
        raise SignatureError("The token's header asks for what is not understood.", check="person.token")
    key = keys.key(token.header.get("kid"), algorithm)
    try:
        jwt.PyJWS().decode(token.text, key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise SignatureError("The token's signature is wrong.", check="person.token") from error


def check_times(claims: Claims, now: datetime, leeway: timedelta) -> datetime:
    """Check `exp`, `iat` and `nbf`, and return `exp`.

    Raises:
        VerificationError: The token has ended, is of the future, or does not say.
    """
    exp, iat = moment_claim(claims, "exp"), moment_claim(claims, "iat")
    if now >= exp + leeway:
        raise ExpiredError("The token has ended.", check="person.expired")
    if iat > now + leeway:
        raise NotYetValidError("The token was made in the future.", check="person.time")
    if "nbf" in claims and moment_claim(claims, "nbf") > now + leeway:
        raise NotYetValidError("The token does not hold yet.", check="person.time")
    return exp


def verify_id_token(token: Token, keys: KeySet, rules: IdTokenRules, now: datetime) -> datetime:
    """Verify an ID token, except for its nonce.

    Returns:
        When it ends.

    Raises:
        NetworkError: The issuer's keys cannot be read.
        Error: It is not this issuer's, not for this client, or has ended.
    """
    # 1. What it is: no access token and no logout token, which may be signed with the same key.
    if token.type not in _TYPES or token.claims.get("typ", "ID") != "ID":
        raise VerificationError("The token is of another kind than an ID token.", check="person.token")
    if "events" in token.claims:
        raise VerificationError("The token is of another kind than an ID token.", check="person.token")
    # 2. Whose it is.
    if token.issuer != rules.issuer:
        raise VerificationError("The token is of another issuer.", check="person.token")
    verify_signature(token, keys, rules.algorithms)
    # 3. For whom.
    _check_audience(token.claims, rules)
    # 4. When.
    exp = check_times(token.claims, now, rules.leeway)
    # 5. About whom.
    required_text(token.claims, "sub")
    return exp


def check_nonce(claims: Claims, expected: str, *, renewal: bool) -> None:
    """Check that an ID token was asked for by whom it is presented.

    Args:
        claims: Its claims.
        expected: The nonce.
        renewal: Whether one without a nonce will do, as a renewed token may have none (OpenID Connect Core
            1.0, section 12.2).

    Raises:
        BindingError: The token has another nonce.
        FreshnessError: It has none and needs one.
    """
    found = claims.get("nonce")
    if found is None and renewal:
        return
    if not isinstance(found, str) or not found:
        raise FreshnessError("The token has no nonce, so it could be anybody's.", check="person.nonce")
    if not hmac.compare_digest(found.encode("utf-8", "surrogateescape"), expected.encode()):
        raise BindingError("The token was issued for another server.", check="person.nonce")


def check_access_token(claims: Claims, algorithm: object, access_token: str) -> None:
    """Check an access token against the ID token's `at_hash`, if it has one (OpenID Connect Core, 3.1.3.8).

    Raises:
        BindingError: It came with another ID token.
    """
    expected = claims.get("at_hash")
    if expected is None:
        return
    name = {"ES384": "sha384", "EdDSA": "sha512"}.get(str(algorithm), "sha256")
    digest = hashlib.new(name, access_token.encode("ascii", "replace")).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not isinstance(expected, str) or not hmac.compare_digest(
        half.encode(), expected.encode("utf-8", "surrogateescape")
    ):
        raise BindingError("The access token belongs to another ID token.", check="person.access_token")


def find(claims: Claims, claim: Claim) -> object:
    """Return a claim by its name or by the names on the way to it; None if it is not there."""
    value: object = claims
    for name in (claim,) if isinstance(claim, str) else claim:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def required_text(claims: Claims, claim: Claim) -> str:
    """Return a claim that is a name.

    Raises:
        FormatError: It is not there, or is none.
    """
    value = find(claims, claim)
    if not isinstance(value, str) or not is_name(value):
        name = claim if isinstance(claim, str) else ".".join(claim)
        raise FormatError(f"The token has no usable claim {name}.", field=name, check="person.claims")
    return value


def names_claim(claims: Claims, claim: Claim) -> tuple[str, ...]:
    """Return a claim that is a name or a list of names; none if it is not there.

    Raises:
        FormatError: It is something else.
    """
    value = find(claims, claim)
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > _MAX_GROUPS:
        names = [None]
    if not all(isinstance(name, str) and is_name(name) for name in names):
        name = claim if isinstance(claim, str) else ".".join(claim)
        raise FormatError(f"The token's claim {name} is no list of names.", field=name, check="person.claims")
    return tuple(dict.fromkeys(names))


def text_claim(claims: Claims, name: str) -> str:
    """Return a claim that is a text; empty if it is not."""
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def moment_claim(claims: Claims, name: str) -> datetime:
    """Return a claim that is a NumericDate (RFC 7519, section 2).

    Raises:
        FormatError: It is not there, or is none.
    """
    value = claims.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
    raise FormatError(f"The token has no usable claim {name}.", field=name, check="person.time")


def is_name(text: str) -> bool:
    """Tell whether a text can be a name: not empty, printable, of a bounded length."""
    return 0 < len(text) <= MAX_NAME and text.isprintable()


def _check_audience(claims: Claims, rules: IdTokenRules) -> None:
    value = claims.get("aud")
    audience = [value] if isinstance(value, str) else value
    wrong = VerificationError("The token is for another client than this broker.", check="person.audience")
    if not isinstance(audience, list) or rules.audience not in audience:
        raise wrong
    # Whoever else it is for could present it here (OpenID Connect Core 1.0, section 3.1.3.7, item 3).
    if not all(isinstance(one, str) and one in (rules.audience, *rules.parties) for one in audience):
        raise wrong
    party = claims.get("azp")
    if party is None and len(audience) == 1:
        return
    if not isinstance(party, str) or party not in rules.parties:
        raise VerificationError(
            "The token was given to a client that this broker does not know.", check="person.audience"
        )


def _json(part: str) -> Claims:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FormatError("The token's parts are no JSON objects.", check="person.token")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _no_constant(_: str) -> object:
    raise ValueError("NaN and Infinity are no JSON")


def code_of(error: Error) -> str:
    """Return the stable code of what is wrong with a token."""
    return error.check or "person.token"
