# SPDX-License-Identifier: BSD-3-Clause
"""What every spawner of Sealroom shares: its servers' way to being verified, told and remembered.

`Proving` is mixed into a JupyterHub spawner. It asks the hub service what a server has proven, tells each
step on the progress page, and refuses a start where a genuine TEE is demanded and none was proven.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from sealroom.errors import NetworkError
from tornado import web
from traitlets import Bool, Float, HasTraits, List, Unicode

from sealroom_spawner.status import FINAL, PERCENT, Event, ServerStatus, Stage, StatusClient
from sealroom_spawner.tiers import Badge, badge

SERVER_SCOPES = (
    "users:activity!user",
    "access:servers!server",
    "access:services!service=sealroom-broker",
    "access:services!service=sealroom",
)
"""What a server's token may do at the hub: say that it is used, and show the two services whose it is."""

REMEMBERED = ("tier", "stage", "sentence", "at", "until", "environment")
"""What the hub's state holds of an attestation result."""


class RefusedError(web.HTTPError):
    """A start was refused; the hub shows the sentence as it is."""

    def __init__(self, status: int, message: str, *, jupyterhub_message: str) -> None:
        super().__init__(status, message)
        self.jupyterhub_message = jupyterhub_message


def refusal(message: str) -> RefusedError:
    """Return the error that stops a spawn with a sentence for the person who waits."""
    return RefusedError(400, message, jupyterhub_message=message)


class Proving(HasTraits):
    """A spawner's part that knows what its server has proven; see the module."""

    user: Any
    name: Any
    log: Any

    broker_url = Unicode(help="The broker's address, without /kbs/v0.").tag(config=True)
    status_url = Unicode(help="The hub service's address, with its path.").tag(config=True)
    status_token = Unicode(help="The hub service's own token.").tag(config=True)
    proof_timeout = Float(
        60.0, help="Seconds to wait for a server's proof before it is shown without one."
    ).tag(config=True)
    linger = Float(
        1.0, help="Seconds for which the last stage stays on the progress page, so that it can be read."
    ).tag(config=True)
    environments = List(
        Unicode(), help="Names of the environments that are on offer; all that verify without any."
    ).tag(config=True)
    must_affirm: Any = Bool(
        False, help="Stop a server that has not proven itself to be a genuine TEE in time."
    ).tag(config=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attestation: dict[str, Any] = {}
        """What the hub service said last; the home page shows it, the hub's state keeps it."""
        self._events: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    @property
    def shown_tier(self) -> Badge:
        """How the home page shows what the server has proven."""
        return badge(str(self.attestation.get("tier", "none")))

    def demands_affirming(self) -> bool:
        """Tell whether the server has to prove that it is a genuine TEE."""
        return bool(self.must_affirm)

    def offers_environment(self, name: str) -> bool:
        """Tell whether an environment is on offer here."""
        return not self.environments or name in self.environments

    def forget_options(self) -> None:
        """Forget options that were refused: else the next start fails too."""
        self.user_options: dict[str, Any] = {}
        orm_spawner = getattr(self, "orm_spawner", None)
        if orm_spawner is not None:
            orm_spawner.user_options = None

    def proof_state(self) -> dict[str, Any]:
        """Return what the hub's state holds of the server's proof; empty if nothing is known."""
        if not self.attestation:
            return {}
        return {key: self.attestation[key] for key in REMEMBERED if key in self.attestation}

    # What the hub service is asked

    def status_client(self) -> StatusClient:
        """Return the way to the hub service."""
        return StatusClient(self.status_url, self.status_token)

    async def begin_proof(self) -> None:
        """Tell the hub service that the server starts anew."""
        # The service may be starting itself, after a restart of the hub.
        for remaining in range(20, -1, -1):
            try:
                await self.status_client().begin(self.user.name, self.name)
            except NetworkError as error:
                if not remaining:
                    self.log.warning("%s", error)
                await asyncio.sleep(0.5)
            else:
                return

    async def end_proof(self, user: str, server: str) -> None:
        """Tell the hub service that a server is no more."""
        try:
            await self.status_client().end(user, server)
        except NetworkError as error:
            self.log.warning("%s", error)

    async def refresh_proof(self) -> None:
        """Ask what the server has proven; without an answer the last one stays, until it ends."""
        try:
            status = await self.status_client().get(self.user.name, self.name)
        except NetworkError:
            if self.attestation.get("user"):
                status = ServerStatus.from_json(self.attestation).as_of(time.time())
                self.attestation = status.to_json()
            return
        self.attestation = status.to_json()

    async def wait_for_proof(self, ended: Callable[[], Awaitable[str]]) -> None:
        """Wait for the server's way to its end, telling each step.

        Args:
            ended: Brings `attestation` up to date; returns why the server is no more, empty while it runs.

        Raises:
            RefusedError: The server ended, or has not proven what is demanded.
        """
        told = 0
        deadline = time.monotonic() + self.proof_timeout
        while time.monotonic() < deadline:
            reason = await ended()
            if reason:
                raise refusal(reason)
            events = [Event.from_json(event) for event in self.attestation.get("events", [])]
            for event in events[told:]:
                told += 1
                self.tell(event)
            if events and events[-1].stage in FINAL:
                await asyncio.sleep(self.linger)
                break
            await asyncio.sleep(0.25)
        else:
            self.say(90, "The server has not proven itself yet; its panel says how it goes on")
        if self.demands_affirming() and self.attestation.get("tier") != "affirming":
            sentence = str(self.attestation.get("sentence", "")) or "It did not answer in time."
            raise refusal(
                f"This environment demands a genuine TEE, and the server has not proven one. {sentence}"
            )

    # What the progress page says

    def tell(self, event: Event) -> None:
        """Say one step of the server's way."""
        if event.stage is Stage.VERIFIED:
            shown = badge(event.tier)
            self.say(PERCENT[event.stage], f"Verified: {shown.title}", f"Verified: {shown.html()}")
        elif event.stage is Stage.REFUSED:
            self.say(PERCENT[event.stage], f"Not verified: {event.sentence}")
        elif event.stage is Stage.EVIDENCE:
            self.say(PERCENT[event.stage], "Evidence gathered")
        else:
            self.say(PERCENT[event.stage], event.sentence)

    def say(self, percent: int, message: str, html: str = "") -> None:
        """Say something to whoever watches the start.

        Args:
            percent: How far the start is, 0 to 100.
            message: A sentence.
            html: The same as HTML; escaped `message` if empty.
        """
        event: dict[str, Any] = {"progress": percent, "message": message}
        if html:
            event["html_message"] = html
        self._events.append(event)
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def said(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what is said, as it is said; without end."""
        told = 0
        while True:
            for event in self._events[told:]:
                told += 1
                yield event
            more = self._more
            await more.wait()
