# SPDX-License-Identifier: BSD-3-Clause
"""A sealed file behind an HTTP address, read in ranges: presigned URLs, DRS access URLs, plain web servers.

Invariants:

- A range is asked for with `If-Match` (or `If-Unmodified-Since`), and only 206 with exactly the range asked
  for is taken: a server that answers with something else never makes up a mixture of two files.
- The address may carry a signature: neither errors nor `repr` show its query.
- Reads are repeated, with growing pauses, when the server is busy (429, 5xx) or the answer breaks off.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from sealroom.datasets.source import replaced
from sealroom.errors import Error, StorageError

TRIES = 6
"""How often a range is asked for before the read fails."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries: doubled each time, with up to half of it left out at random."""

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class HttpSource:
    """A file behind an HTTP address.

    Args:
        url: The address.
        headers: Sent with every request, for example a bearer token.
        http: Connections to use; its own by default.
        sleep: Waits between two tries.

    Raises:
        StorageError: It is not there, or the server does not answer ranges.
    """

    far = True

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        self._headers = {**(headers or {}), "Accept-Encoding": "identity"}
        self._http = http or httpx.Client(timeout=_TIMEOUT, follow_redirects=True)
        self._own = http is None
        self._sleep = sleep
        self._lock = threading.Lock()
        self._pin: dict[str, str] = {}
        self._stamp = ""
        # HEAD is refused by many presigned addresses: the first byte tells size and version as well.
        try:
            self.size = self._first()
        except BaseException:
            self.close()
            raise

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; see `Source`."""
        want = max(0, min(len(buffer), self.size - offset))
        if want:
            buffer[:want] = self._fetch(offset, want)
        return want

    def identity(self) -> str:
        """Return what the server said about the version that was opened."""
        return self._stamp

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a range as it was received."""
        want = max(0, min(length, self.size - offset))
        return memoryview(self._fetch(offset, want) if want else b"")

    def close(self) -> None:
        """Close the connections."""
        if self._own:
            self._http.close()

    def __del__(self) -> None:
        if getattr(self, "_own", False):
            self.close()

    def __repr__(self) -> str:
        return f"<HttpSource {self.name}, {getattr(self, 'size', 0)} bytes>"

    def _first(self) -> int:
        answer = self._ask(0, 1)
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status_code == 416 and answer.headers.get("Content-Range", "") == "bytes */0":
            return 0
        if answer.status_code != 206 or found is None:
            raise self._refused(answer)
        tag = answer.headers.get("ETag", "")
        changed = answer.headers.get("Last-Modified", "")
        # RFC 9110, 13.1.1: a weak tag never matches.
        if tag and not tag.startswith("W/"):
            self._pin = {"If-Match": tag}
        elif changed:
            self._pin = {"If-Unmodified-Since": changed}
        self._stamp = f"{tag}:{changed}:{found[3]}"
        return int(found[3])

    def _fetch(self, offset: int, length: int) -> bytes:
        answer = self._ask(offset, length)
        if answer.status_code == 412:
            raise replaced(self.name)
        if answer.status_code != 206:
            raise self._refused(answer)
        tag, changed = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        expected = f"bytes {offset}-{offset + length - 1}/{self.size}"
        if answer.headers.get("Content-Range") != expected or f"{tag}:{changed}:{self.size}" != self._stamp:
            raise replaced(self.name)
        return answer.content

    def _ask(self, offset: int, length: int) -> httpx.Response:
        headers = {**self._headers, **self._pin, "Range": f"bytes={offset}-{offset + length - 1}"}
        pause, said = FIRST_PAUSE, "it does not answer"
        for attempt in range(TRIES):
            if attempt:
                self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                answer = self._request(headers, length)
            except httpx.HTTPError as error:
                said = "the answer broke off" if isinstance(error, httpx.ReadError) else "it does not answer"
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                said = f"it answers {answer.status_code}"
                continue
            if answer.status_code == 206 and len(answer.content) != length:
                said = f"it answered with {len(answer.content)} of {length} bytes"
                continue
            return answer
        raise StorageError(
            f"{self.name} cannot be read: {said}, {TRIES} times.", advice="Try again when the server is well."
        )

    def _request(self, headers: dict[str, str], length: int) -> httpx.Response:
        with self._http.stream("GET", self._url, headers=headers) as answer:
            # A server that ignores the range would send the whole file.
            if answer.status_code == 206 or int(answer.headers.get("Content-Length", "0") or 0) <= 65536:
                body = bytearray()
                for chunk in answer.iter_raw():
                    body += chunk
                    if len(body) > max(length, 65536):
                        break
                kept: dict[str, Any] = {"headers": answer.headers, "content": bytes(body)}
                return httpx.Response(answer.status_code, **kept)
            return httpx.Response(answer.status_code, headers=answer.headers)

    def _refused(self, answer: httpx.Response) -> Error:
        if answer.status_code == 404:
            return StorageError(f"{self.name} is not there.")
        if answer.status_code in (401, 403):
            return StorageError(
                f"{self.name} may not be read ({answer.status_code}).",
                advice="Its address may have expired: get a new one.",
            )
        if answer.status_code == 200:
            return StorageError(
                f"{self.name} cannot be read in parts: the server ignores ranges.",
                advice="Copy the file to a server that answers byte ranges, or to this machine.",
            )
        return StorageError(f"{self.name} cannot be read: the server answers {answer.status_code}.")
