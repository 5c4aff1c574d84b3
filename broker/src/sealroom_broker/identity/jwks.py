# SPDX-License-Identifier: BSD-3-Clause
"""Keys that a provider publishes (RFC 7517): read when needed, kept a while, read anew for an unknown key.

Invariants:

- A key is used for the algorithms that its type and curve fit, and for signatures only.
- An unknown key id leads to one more look, at most every `MIN_PAUSE` seconds: who sends tokens with made-up
  key ids cannot make the broker ask for each.
- Keys older than `MAX_AGE` are not used: a key that was taken back ends with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from sealroom.errors import NetworkError, SignatureError

from sealroom_broker.identity.fetch import Fetch

MAX_AGE: Final = 600.0
"""Seconds that published keys are used for."""
MIN_PAUSE: Final = 30.0
"""Seconds between two looks because of an unknown key."""
_AFTER_FAILURE: Final = 2.0
_MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048  # RFC 7518, section 3.3
_MAX_RSA_BITS: Final = 8192  # Our own bound on work.

_KINDS: Final = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Algorithm -> type and curve of its keys (RFC 7518, section 3.1; RFC 8037, section 3.1)."""


class KeySet:
    """The keys of one provider.

    Args:
        fetch: Reads them.
        url: Where they are; asked for with each look.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, fetch: Fetch, url: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[dict[str, object], ...] = ()
        self._fetched: float | None = None
        self._failed: float | None = None

    def key(self, kid: object, algorithm: str) -> jwt.PyJWK:
        """Return the key of a token's header.

        Raises:
            NetworkError: The keys cannot be read.
            SignatureError: The provider has no such key, or more than one.
        """
        with self._lock:
            if self._fetched is None or self._clock() - self._fetched > MAX_AGE:
                self._look()
            found = self._fitting(kid, algorithm)
            if not found and self._fetched is not None and self._clock() - self._fetched > MIN_PAUSE:
                self._look()
                found = self._fitting(kid, algorithm)
        if len(found) != 1:
            raise SignatureError("The token is signed with a key that its issuer does not publish.")
        return _loaded(found[0], algorithm)

    def _look(self) -> None:
        if self._failed is not None and self._clock() - self._failed < _AFTER_FAILURE:
            raise NetworkError("The issuer's keys could not be read a moment ago.")
        try:
            status, document = self._fetch.get(self._url())
            keys = document.get("keys")
            if status != 200 or not isinstance(keys, list) or len(keys) > _MAX_KEYS:
                raise NetworkError("The issuer's keys are not understood.")
        except NetworkError:
            self._failed = self._clock()
            raise
        self._keys = tuple(one for one in keys if isinstance(one, dict))
        self._fetched, self._failed = self._clock(), None

    def _fitting(self, kid: object, algorithm: str) -> list[dict[str, object]]:
        kty, crv = _KINDS[algorithm]
        return [
            key
            for key in self._keys
            # A token without a key id needs a provider with one fitting key (OpenID Connect Core, 10.1).
            if (kid is None or key.get("kid") == kid)
            and key.get("kty") == kty
            and (crv is None or key.get("crv") == crv)
            and key.get("use", "sig") == "sig"
            and key.get("alg", algorithm) == algorithm
        ]


def _loaded(key: dict[str, object], algorithm: str) -> jwt.PyJWK:
    try:
        loaded = jwt.PyJWK({name: value for name, value in key.items() if name != "d"}, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SignatureError("The issuer publishes a key that cannot be used.") from error
    if isinstance(loaded.key, RSAPublicKey) and not _MIN_RSA_BITS <= loaded.key.key_size <= _MAX_RSA_BITS:
        raise SignatureError("The issuer publishes an RSA key of a size that is not accepted.")
    return loaded
