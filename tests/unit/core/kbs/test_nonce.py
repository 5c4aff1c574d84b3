# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import hashlib

import pytest
from sealroom.errors import ProtocolError
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.nonce import jwk_thumbprint, session_nonce

RFC_7638 = {
    "kty": "RSA",
    "alg": "RSA-OAEP-256",
    "e": "AQAB",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiF"
        "V4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9"
        "c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1"
        "jF44-csFCur-kEgU8awapJzKnqDKgw"
    ),
}
"""The key of RFC 7638, section 3.1; its thumbprint there is over SHA-256 too."""


def test_thumbprint_of_the_rfc() -> None:
    expected = base64.urlsafe_b64decode("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs=")
    assert jwk_thumbprint(RFC_7638) == expected


def test_nonce_is_separated_from_the_thumbprint() -> None:
    digest = hashlib.sha256(b"sealroom-oidc-nonce/1" + jwk_thumbprint(RFC_7638)).digest()
    assert session_nonce(RFC_7638) == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA"])
def test_each_key_has_its_own_nonce(kind: str) -> None:
    keys = [TeeKey.generate(kind).public_jwk() for _ in range(2)]  # type: ignore[arg-type]
    first, second = map(session_nonce, keys)
    assert first != second
    assert session_nonce(dict(reversed(keys[0].items()))) == first


@pytest.mark.parametrize(
    "change", [{"kty": "oct"}, {"alg": "RS256"}, {"n": "AQAB"}, {"extra": "member"}, {"n": "not base64url!"}]
)
def test_what_is_no_key_has_no_nonce(change: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        session_nonce(RFC_7638 | change)
