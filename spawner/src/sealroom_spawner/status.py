# SPDX-License-Identifier: BSD-3-Clause
"""What the spawner and the hub service say to each other about a server's way to being verified."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from sealroom.errors import NetworkError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest


class Stage(StrEnum):
    """Where a server is on its way."""

    STARTING = "starting"
    EVIDENCE = "evidence"
    VERIFIED = "verified"
    REFUSED = "refused"


PERCENT = {Stage.STARTING: 20, Stage.EVIDENCE: 60, Stage.VERIFIED: 90, Stage.REFUSED: 90}
"""How far a stage is on the progress bar."""

EXPIRED = "The last proof is too old, and the server has not given a new one."
"""What is said of a server whose result ended."""

FINAL = (Stage.VERIFIED, Stage.REFUSED)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened on the way."""

    stage: Stage
    sentence: str
    tier: str = "none"
    at: float = 0.0

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` reads."""
        return {"stage": str(self.stage), "sentence": self.sentence, "tier": self.tier, "at": self.at}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Event:
        """Read what `to_json` wrote."""
        return cls(Stage(value["stage"]), str(value["sentence"]), str(value["tier"]), float(value["at"]))


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What the hub service knows about one start of one server."""

    user: str
    server: str
    stage: Stage
    tier: str
    sentence: str
    environment: str = ""
    at: float = 0.0
    events: tuple[Event, ...] = field(default=())
    until: float = 0.0
    """When the verified result ends, in seconds since the epoch; 0 if there is none."""

    def as_of(self, now: float) -> ServerStatus:
        """Return what holds at a time: a result past its end proves nothing any more.

        Args:
            now: Seconds since the epoch.
        """
        if self.tier == "none" or self.until > now:
            return self
        return replace(self, tier="none", sentence=EXPIRED)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, and what the pages and the spawner's state hold."""
        return {
            "user": self.user,
            "server": self.server,
            "stage": str(self.stage),
            "tier": self.tier,
            "sentence": self.sentence,
            "environment": self.environment,
            "at": self.at,
            "until": self.until,
            "events": [event.to_json() for event in self.events],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ServerStatus:
        """Read what `to_json` wrote."""
        return cls(
            user=value["user"],
            server=value["server"],
            stage=Stage(value["stage"]),
            tier=value["tier"],
            sentence=value["sentence"],
            environment=value["environment"],
            at=value["at"],
            events=tuple(Event.from_json(event) for event in value["events"]),
            until=float(value.get("until", 0.0)),
        )


class StatusClient:
    """The spawner's side of the hub service's internal interface.

    Args:
        url: The service's address with its path.
        token: The service's own token, which only the hub and the service have.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def __repr__(self) -> str:
        return f"StatusClient({self._url!r})"

    async def begin(self, user: str, server: str) -> None:
        """Tell the service that a server starts anew: what it proved before is forgotten."""
        await self._ask("POST", user, server)

    async def get(self, user: str, server: str) -> ServerStatus:
        """Return what the service knows."""
        return ServerStatus.from_json(await self._ask("GET", user, server))

    async def end(self, user: str, server: str) -> None:
        """Tell the service that a server is no more."""
        await self._ask("DELETE", user, server)

    async def _ask(self, method: str, user: str, server: str) -> dict[str, Any]:
        request = HTTPRequest(
            f"{self._url}/api/internal/{quote(user, safe='')}/{quote(server, safe='')}",
            method=method,
            headers={"Authorization": f"token {self._token}"},
            body="" if method == "POST" else None,
            connect_timeout=5,
            request_timeout=10,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
        except (HTTPClientError, OSError) as error:
            raise NetworkError(f"The hub's status service did not answer: {error}.") from error
        value: dict[str, Any] = json.loads(answer.body or b"{}")
        return value
