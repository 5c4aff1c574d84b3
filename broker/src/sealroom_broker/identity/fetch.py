# SPDX-License-Identifier: BSD-3-Clause
"""Read JSON from an identity provider: bounded in size and time, without redirects."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from sealroom.errors import ConfigurationError, NetworkError

from sealroom_broker.config import is_loopback

_MAX_ANSWER: Final = 1 << 20
_STEPS: Final = 3
"""A whole answer may take this many times what one step may take."""


class Fetch:
    """Reads JSON objects.

    Args:
        timeout: Seconds for each step of a request.
        ca: Certificate authorities (PEM) in place of the system's.
        transport: Another way out, for tests.

    Raises:
        ConfigurationError: The certificate authorities cannot be read.
    """

    def __init__(
        self, timeout: float, ca: Path | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._timeout = timeout
        verify: ssl.SSLContext | bool = True
        if ca is not None:
            try:
                verify = ssl.create_default_context(cafile=str(ca))
            except OSError as error:
                raise ConfigurationError(f"The certificate authorities {ca} cannot be read.") from error
        # Proxies of the environment are for what is outside; a client of its own for this machine.
        self._http = httpx.Client(timeout=timeout, verify=verify, transport=transport, trust_env=True)
        self._local = httpx.Client(timeout=timeout, verify=verify, transport=transport, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._local.close()

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, object]]:
        """Return status and JSON object of a GET.

        Raises:
            NetworkError: It cannot be reached, or answers something else.
        """
        return self._send("GET", url, headers=headers)

    def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, object]]:
        """Return status and JSON object of a POST with a form.

        Raises:
            NetworkError: It cannot be reached, or answers something else.
        """
        return self._send("POST", url, form=form, headers=headers)

    def _send(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, object]]:
        http = self._local if is_loopback(urlsplit(url).hostname or "") else self._http
        until = time.monotonic() + self._timeout * _STEPS
        chunks, size = [], 0
        try:
            with http.stream(
                method,
                url,
                data=form,
                headers={"Accept": "application/json", **(headers or {})},
                follow_redirects=False,
            ) as response:
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > _MAX_ANSWER or time.monotonic() > until:
                        raise NetworkError(f"{_host(url)} answers too much or too slowly.")
                    chunks.append(chunk)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
            raise NetworkError(f"{_host(url)} cannot be reached ({type(error).__name__}).") from error
        finally:
            http.cookies.clear()
        if response.is_redirect or response.is_server_error:
            raise NetworkError(f"{_host(url)} answered with status {response.status_code}.")
        return response.status_code, _object(b"".join(chunks), url)


def _object(data: bytes, url: str) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NetworkError(f"The answer of {_host(url)} is not understood.")
    return value


def _host(url: str) -> str:
    # Without path and query, which may hold what must not be in a log.
    return urlsplit(url).netloc or "the identity provider"
