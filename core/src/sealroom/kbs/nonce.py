# SPDX-License-Identifier: BSD-3-Clause
"""The nonce that binds a person's login to one attested server.

An OIDC provider puts the nonce of a login into the ID token that it signs (OpenID Connect Core 1.0, section
2). Ours is made from the attested key, so that both sides know it without having exchanged it, and a token
that was issued for another server, or for another program, cannot have it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from sealroom.kbs.jwe import b64url, check_public_jwk

NONCE_PREFIX: Final = b"sealroom-oidc-nonce/1"
"""Separates this use of the thumbprint from every other."""

_REQUIRED: Final = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
"""Members of a thumbprint, in lexicographic order (RFC 7638, section 3.2)."""


def jwk_thumbprint(jwk: Mapping[str, str]) -> bytes:
    """Return the SHA-256 thumbprint (32 bytes) of a guest's public key (RFC 7638).

    Raises:
        ProtocolError: It is no public key that this protocol uses.
    """
    check_public_jwk(jwk)
    members = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()


def session_nonce(tee_pubkey: Mapping[str, str]) -> str:
    """Return the nonce of logins for the server with this attested key: base64url of 32 bytes.

    Args:
        tee_pubkey: The public JWK that the server's evidence covers.

    Raises:
        ProtocolError: It is no public key that this protocol uses.
    """
    return b64url(hashlib.sha256(NONCE_PREFIX + jwk_thumbprint(tee_pubkey)).digest())
