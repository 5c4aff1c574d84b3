# SPDX-License-Identifier: BSD-3-Clause
"""One HTTP exchange with a maker's service: bounded in time and size, without redirects, with our own errors.

Nothing but `sealroom.errors.Error` leaves `Service.send`. Nothing that comes back is trusted: the callers
verify it by its signatures, so an `http://` relay inside a computing centre is as good as the service itself.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from sealroom.errors import ConfigurationError, NetworkError

MAX_ANSWER: Final = 2 << 20
"""Longest answer in bytes; the longest real ones are manifests in base64, of about 60 KiB."""
TIMEOUT: Final = 15.0
"""Seconds for each step of a request; a miss at AMD's service takes one to two."""
MAX_SECONDS: Final = 60.0
"""Seconds for a whole answer: a peer that sends a byte now and then must not hold a request for ever."""
MAX_RETRY_AFTER: Final = 3600.0
"""Longest Retry-After that is believed, in seconds."""
USER_AGENT: Final = "sealroom"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes = field(repr=False)
    etag: str = ""
    """ETag, if it is short and printable."""
    retry_after: float | None = None
    """Seconds that Retry-After asks to wait."""


class Service:
    """Sends requests to one service.

    Args:
        base_url: Its address.
        what: Its name in sentences, for example "AMD's key distribution service".
        http: A client to use, for example with a certificate authority or proxy of your own.
        timeout: Seconds for each step of a request.

    Raises:
        ConfigurationError: The address is no HTTP URL.
    """

    def __init__(
        self, base_url: str, what: str, *, http: httpx.Client | None = None, timeout: float = TIMEOUT
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{base_url!r} is not the address of a service.", advice="Give it as https://host[:port]."
            )
        self.base_url: Final = base_url.rstrip("/")
        self.what: Final = what
        self._owned = http is None
        # A proxy that the environment names must not come between this machine and itself.
        self._http = http or httpx.Client(timeout=timeout, trust_env=not _is_loopback(parts.hostname))

    def close(self) -> None:
        """Close the connections, unless the caller gave the client."""
        if self._owned:
            self._http.close()

    def send(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request.

        Raises:
            NetworkError: The service cannot be reached, does not answer in time, or answers too much.
        """
        headers = {"User-Agent": USER_AGENT, **(headers or {})}
        try:
            with self._http.stream(
                method, self.base_url + path, content=content, headers=headers, follow_redirects=False
            ) as response:
                body = self._read(response)
                return Answer(
                    response.status_code, body, _etag(response), _retry_after(response, datetime.now(UTC))
                )
        except httpx.TimeoutException as error:
            raise self._error(
                "did not answer in time", "Try again later, or work from a store that is filled."
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, ValueError) as error:
            raise self._error(
                f"cannot be reached ({type(error).__name__})",
                "Check the address and the network, or work from a store that is filled.",
            ) from error

    def refuse(self, answer: Answer, what: str) -> NetworkError:
        """Return the error for an answer that is not a success.

        Args:
            answer: What came back.
            what: What was asked for.
        """
        if 300 <= answer.status < 400:
            return self._error(f"answers with a redirect (HTTP {answer.status})", "Give its own address.")
        return self._error(f"gave no {what} (HTTP {answer.status})", "Try again later.")

    def _error(self, what: str, advice: str) -> NetworkError:
        return NetworkError(f"{self.what} at {self.base_url} {what}.", advice=advice)

    def _read(self, response: httpx.Response) -> bytes:
        chunks, size, end = [], 0, time.monotonic() + MAX_SECONDS
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MAX_ANSWER:
                raise self._error(f"answers more than {MAX_ANSWER} bytes", "Check the address.")
            if time.monotonic() > end:
                raise self._error(f"took longer than {MAX_SECONDS:.0f} seconds to answer", "Try again later.")
            chunks.append(chunk)
        return b"".join(chunks)


def _etag(response: httpx.Response) -> str:
    etag = response.headers.get("etag", "")
    return etag if len(etag) <= 256 and etag.isascii() and etag.isprintable() else ""


def _retry_after(response: httpx.Response, now: datetime) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, section 10.2.3), a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:6]), MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max((when - now).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
