# SPDX-License-Identifier: BSD-3-Clause
"""Tells the hub's status service how far this server is, from a thread of its own.

Invariants:

- Reporting never holds up proving, and its failures change nothing else: the service shows, it decides
  nothing.
- Events arrive in order. While the service does not answer, all but the newest few are forgotten.
- The hub's token goes to the status service's address only, and no redirect is followed with it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from urllib.parse import quote

import httpx

from sealroom_jupyter.ports import Event, HubToken
from sealroom_jupyter.settings import Settings

_KEPT = 8
"""Events that wait at most; a start has three."""


class Reporter:
    """Posts events in order; callable with an event.

    Args:
        settings: Where the service is.
        token: The server's own token at the hub.
        log: Where to write.
        transport: Another way to the service, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        token: HubToken,
        *,
        log: logging.Logger | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._token = token
        self._log = log or logging.getLogger(__name__)
        self._http = httpx.Client(
            timeout=settings.timeout, transport=transport, trust_env=False, follow_redirects=False
        )
        self._waiting: deque[Event] = deque(maxlen=_KEPT)
        self._news = threading.Condition()
        self._stopping = False
        self._silent = False
        self._thread = threading.Thread(target=self._run, name="sealroom-reporter", daemon=True)

    @property
    def url(self) -> str:
        """Where events of this server go; the default server has no name."""
        name = f"{quote(self._settings.server_name, safe='')}/" if self._settings.server_name else ""
        return f"{self._settings.status_url.rstrip('/')}/api/servers/{name}events"

    def __call__(self, event: Event) -> None:
        """Take an event to be told; returns at once."""
        with self._news:
            self._waiting.append(event)
            self._news.notify()

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Stop telling; what still waits is not told."""
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.timeout)
        self._http.close()

    def _run(self) -> None:
        failures = 0
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                event = self._waiting[0]
            if self.tell(event):
                failures = 0
                with self._news:
                    if self._waiting and self._waiting[0] is event:
                        self._waiting.popleft()
            else:
                pause = min(self._settings.retry_first * 2.0 ** min(failures, 16), self._settings.retry_most)
                failures += 1
                with self._news:
                    self._news.wait_for(lambda: self._stopping, timeout=pause)

    def tell(self, event: Event) -> bool:
        """Post one event and return whether it is done with: taken, or refused for good."""
        body = {"stage": event.stage, "sentence": event.sentence}
        if event.token:
            body["token"] = event.token
        headers = {"Authorization": f"token {self._token.reveal()}"}
        try:
            answer = self._http.post(self.url, json=body, headers=headers)
        except httpx.HTTPError as error:
            return self._again(type(error).__name__)
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return self._again(f"status {answer.status_code}")
        if not answer.is_success:
            self._log.warning("Sealroom: the hub's status service refused an event: %d", answer.status_code)
        self._silent = False
        return True

    def _again(self, why: str) -> bool:
        if not self._silent:
            self._log.warning("Sealroom: the hub's status service does not answer (%s); trying again", why)
        self._silent = True
        return False
