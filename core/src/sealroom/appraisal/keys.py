# SPDX-License-Identifier: BSD-3-Clause
"""Keys of EAR tokens: their ids, and the JWK set that a verifier publishes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from sealroom.errors import FormatError

ALGORITHMS: Mapping[str, str] = {"P-256": "ES256", "P-384": "ES384"}
"""Curve -> the one algorithm that is used with it (RFC 7518, section 3.4)."""
_CURVES: Mapping[str, tuple[str, int]] = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48)}

PublicOrPrivate = ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey


def public_jwk(key: PublicOrPrivate) -> dict[str, str]:
    """Return the required members of a key's public JWK."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    if public.curve.name not in _CURVES:
        raise ValueError(f"EAR tokens are signed on P-256 or P-384, not {public.curve.name}")
    curve, size = _CURVES[public.curve.name]
    numbers = public.public_numbers()
    return {
        "crv": curve,
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(size, "big")),
        "y": _base64url(numbers.y.to_bytes(size, "big")),
    }


def algorithm(key: PublicOrPrivate) -> str:
    """Return the JWS algorithm of a key: ES256 or ES384."""
    return ALGORITHMS[public_jwk(key)["crv"]]


def thumbprint(key: PublicOrPrivate) -> str:
    """Return the key's JWK thumbprint (RFC 7638, SHA-256), the usual kid."""
    canonical = json.dumps(public_jwk(key), sort_keys=True, separators=(",", ":")).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def jwks(keys: Mapping[str, PublicOrPrivate]) -> dict[str, list[dict[str, str]]]:
    """Return a JWK set with the public halves of the given keys, by kid."""
    return {
        "keys": [
            public_jwk(key) | {"kid": kid, "alg": algorithm(key), "use": "sig"} for kid, key in keys.items()
        ]
    }


def find_key(keys: object, kid: str) -> ec.EllipticCurvePublicKey | None:
    """Return the signing key with that id in a JWK set, or None.

    Raises:
        FormatError: The set is malformed, or two of its keys have this id.
    """
    if not isinstance(keys, Mapping) or not isinstance(keys.get("keys"), list):
        raise FormatError("The JWK set has no list of keys.", field="keys")
    found = [item for item in keys["keys"] if isinstance(item, Mapping) and item.get("kid") == kid]
    if not found:
        return None
    if len(found) > 1:
        raise FormatError(f"The JWK set has two keys with the id {kid!r}.", field="kid")
    return _load(found[0])


def _load(jwk: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    sizes = {"P-256": (32, ec.SECP256R1()), "P-384": (48, ec.SECP384R1())}
    curve = jwk.get("crv")
    if jwk.get("kty") != "EC" or not isinstance(curve, str) or curve not in sizes:
        raise FormatError("The key is not an EC key on P-256 or P-384.", field="crv")
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", ALGORITHMS[curve]) != ALGORITHMS[curve]:
        raise FormatError("The key is not for EAR tokens.", field="alg")
    size, group = sizes[curve]
    try:
        x, y = (_integer(jwk.get(name), size) for name in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, group).public_key()
    except ValueError as error:
        raise FormatError(f"The key is not a point on {curve}.", field="x") from error


def _integer(text: object, size: int) -> int:
    if not isinstance(text, str):
        raise ValueError("a coordinate is missing")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(data) != size or _base64url(data) != text:
        raise ValueError("a coordinate has the wrong length")
    return int.from_bytes(data, "big")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
