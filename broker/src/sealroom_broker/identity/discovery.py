# SPDX-License-Identifier: BSD-3-Clause
"""What an OpenID Connect provider says about itself (OpenID Connect Discovery 1.0, section 4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from sealroom.errors import NetworkError

from sealroom_broker.identity.fetch import Fetch
from sealroom_broker.identity.jwks import KeySet

_MAX_AGE: Final = 3600.0
_PATH: Final = "/.well-known/openid-configuration"


class Provider:
    """One provider: its endpoints and its keys. Nothing is asked before it is needed.

    Args:
        issuer: Its issuer identifier.
        fetch: Reads from it.
        clock: Seconds that only go forward.
    """

    def __init__(self, issuer: str, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self.fetch = fetch
        self.keys = KeySet(fetch, lambda: self.endpoint("jwks_uri"), clock=clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._document: Mapping[str, object] = {}
        self._read: float | None = None

    def endpoint(self, name: str) -> str:
        """Return one of the provider's addresses.

        Raises:
            NetworkError: The provider cannot be asked, describes another issuer, or names no safe address.
        """
        url = self._described().get(name)
        if not isinstance(url, str) or not self._safe(url):
            raise NetworkError(f"{self.issuer} names no usable {name}.")
        return url

    def close(self) -> None:
        """Close the connections."""
        self.fetch.close()

    def _described(self) -> Mapping[str, object]:
        with self._lock:
            if self._read is None or self._clock() - self._read > _MAX_AGE:
                status, document = self.fetch.get(self.issuer.rstrip("/") + _PATH)
                # Section 4.3: the issuer must be the one that was asked, to the letter.
                if status != 200 or document.get("issuer") != self.issuer:
                    raise NetworkError(f"{self.issuer} does not describe itself as an identity provider.")
                self._document, self._read = document, self._clock()
            return self._document

    def _safe(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            return False
        if not host or parts.username is not None or parts.fragment:
            return False
        # No weaker than the issuer itself, which the configuration vouches for.
        return parts.scheme in ("https", urlsplit(self.issuer).scheme)
