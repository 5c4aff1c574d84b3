# SPDX-License-Identifier: BSD-3-Clause
"""Calls of a Vault's HTTP API: bounded in size and time, over verified TLS, without redirects.

What is not a clear answer is an error that says "could not": a sealed Vault, a standby that redirects, a
limit on requests, a permission that is missing.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from sealroom.errors import ConfigurationError, StorageError

from sealroom_broker.wrap.settings import VaultKek

_MAX_ANSWER = 2 << 20
"""Bytes of an answer. A resource of 256 KiB is the largest that is wrapped, and base64 is a third longer."""


class VaultRefusalError(StorageError):
    """Vault understood a call and did not do it.

    Args:
        status: Its HTTP status.
        words: What it said.
        message: One sentence.
        advice: What to do.
    """

    def __init__(self, status: int, words: str, message: str, *, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.status = status
        self.words = words


@dataclass(frozen=True, slots=True)
class _Meaning:
    sentence: str
    advice: str


_MEANINGS: Mapping[int, _Meaning] = {
    400: _Meaning("does not accept the call", "See the words of Vault above."),
    403: _Meaning(
        "refuses the broker's token, or does not permit it the call",
        "See whether the token still holds and its policy has the paths of the documentation.",
    ),
    404: _Meaning("has nothing there", "See whether the mount, the key and the namespace are right."),
    405: _Meaning("does not know the call", "See whether the mount is a transit engine."),
    412: _Meaning("is a standby that is not up to date", "It is tried again with the next request."),
    429: _Meaning("has a limit on requests, which is reached", "Raise its rate limit quota for the broker."),
    472: _Meaning("is a standby of another region", "Name the address of the active one."),
    473: _Meaning("is a standby", "Name the address of the active one, or of a load balancer that knows it."),
    503: _Meaning("is sealed or in maintenance", "Unseal it."),
}
"""By status, https://developer.hashicorp.com/vault/api-docs#http-status-codes."""


class VaultLink:
    """Calls a Vault.

    Args:
        settings: Where it is.
        transport: Another way out, for tests.

    Raises:
        ConfigurationError: The certificate authorities cannot be read.
    """

    def __init__(self, settings: VaultKek, *, transport: httpx.BaseTransport | None = None) -> None:
        self._address = settings.address
        self._timeout = settings.timeout
        self._namespace = settings.namespace
        # No proxies of the environment: secrets go this way.
        self._http = httpx.Client(
            timeout=settings.timeout, verify=_trust(settings.ca), transport=transport, trust_env=False
        )

    def call(
        self, method: str, path: str, token: str = "", body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Make a call and return the answer's JSON object; an empty one for an answer without content.

        Args:
            method: HTTP method.
            path: Path under `/v1/`, in clear.
            token: The token to call with.
            body: What to send.

        Raises:
            VaultRefusalError: Vault answered, and not with a success.
            StorageError: It cannot be reached, or answers too much, too slowly, or something else than JSON.
        """
        headers = {"X-Vault-Request": "true"}
        if token:
            headers["X-Vault-Token"] = token
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        status, content = self._send(method, f"{self._address}/v1/{quote(path)}", headers, body)
        if 200 <= status < 300:
            return _object(content, self._host) if content else {}
        raise self._refusal(status, content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def _host(self) -> str:
        return urlsplit(self._address).netloc

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Mapping[str, object] | None
    ) -> tuple[int, bytes]:
        until, chunks, size = time.monotonic() + self._timeout, [], 0
        try:
            with self._http.stream(
                method, url, headers=dict(headers), json=body, follow_redirects=False
            ) as response:
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > _MAX_ANSWER or time.monotonic() > until:
                        raise StorageError(f"Vault at {self._host} answers too much or too slowly.")
                    chunks.append(chunk)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
            raise StorageError(
                f"Vault at {self._host} cannot be reached ({type(error).__name__}: {error}).",
                advice="See whether it is up, and whether `address` and `ca` are right.",
            ) from error
        finally:
            self._http.cookies.clear()
        return response.status_code, b"".join(chunks)

    def _refusal(self, status: int, content: bytes) -> VaultRefusalError:
        if 300 <= status < 400:
            meaning = _MEANINGS[473]
        else:
            meaning = _MEANINGS.get(status) or _Meaning("failed", "See its log.")
        words = _errors(content)
        said = f": {words}" if words else ""
        message = f"Vault at {self._host} {meaning.sentence} ({status}{said})."
        return VaultRefusalError(status, words, message, advice=meaning.advice)

    def __repr__(self) -> str:
        return f"<VaultLink {self._host}>"


def _trust(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigurationError(
            f"The certificate authorities {ca} of Vault cannot be read.", advice="Name a PEM file as `ca`."
        ) from error


def _object(content: bytes, host: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise StorageError(f"The answer of Vault at {host} is not understood.")
    return value


def _errors(content: bytes) -> str:
    """Return what Vault said, shortened: its words are for the log."""
    try:
        found = json.loads(content)["errors"]
        return "; ".join(str(one).strip() for one in found)[:200]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
