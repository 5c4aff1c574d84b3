# SPDX-License-Identifier: BSD-3-Clause
"""Sign-up by link: whoever has the invitation takes a seat, and gets a name and a password for it.

Invariants:

- The invitation is 256 random bits; comparing it takes the same time for all.
- A seat's password is random, shown once, and stored as a hash. The seat is written down before it is shown.
- Nothing that a visitor types becomes a name.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from pathlib import Path
from typing import Any, Final

from jupyterhub.handlers import BaseHandler
from jupyterhub.utils import url_path_join
from sealroom.errors import ConfigurationError
from tornado import web
from traitlets import Instance, Unicode

from sealroom_spawner.accounts import (
    Account,
    LocalAccountsAuthenticator,
    PasswordHash,
    new_password,
    read_accounts,
)
from sealroom_spawner.files import read_json, write_atomic, write_json
from sealroom_spawner.workshop.admission import Admission

CODE_BYTES: Final = 32


def invitation(path: Path) -> str:
    """Return the invitation; made at the first call.

    Raises:
        ConfigurationError: The file is there and holds no invitation.
    """
    if not path.exists():
        write_atomic(path, secrets.token_urlsafe(CODE_BYTES).encode())
    code = path.read_text(encoding="ascii").strip()
    if len(code) < CODE_BYTES:
        raise ConfigurationError(f"{path} holds no invitation.", advice="Remove it; a new one is made.")
    return code


class WorkshopAuthenticator(LocalAccountsAuthenticator):
    """Accounts of the installation, and seats of a workshop."""

    seats_file = Unicode(help="JSON file with the seats' accounts; made with the first one.").tag(config=True)
    code = Unicode(help="The invitation (`invitation`).").tag(config=True)
    admission = Instance(Admission, allow_none=True, help="The workshop's rules.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        self._writing = asyncio.Lock()
        super().__init__(**kwargs)

    def accounts(self) -> dict[str, Account]:
        """Return everybody who may log in."""
        seats = Path(self.seats_file)
        return {**super().accounts(), **(read_accounts(seats) if self.seats_file and seats.exists() else {})}

    def seats_taken(self) -> int:
        """Return how many seats are taken."""
        seats = Path(self.seats_file)
        return len(read_accounts(seats)) if seats.exists() else 0

    async def refresh_user(self, user: Any, handler: Any = None) -> bool:
        """End the session of a seat when the workshop is over."""
        rules = self.admission
        if rules is not None and rules.over and rules.bound(user.name, bool(user.admin)):
            return False
        return await super().refresh_user(user, handler)

    async def new_seat(self) -> tuple[str, str]:
        """Make a seat and return its name and password.

        Raises:
            HTTPError: The workshop is over, or full.
        """
        rules = self.admission
        if rules is None:
            raise web.HTTPError(404)
        workshop = rules.workshop
        async with self._writing:
            seats = self._seats()
            if rules.over:
                raise web.HTTPError(403, f"This workshop ended at {workshop.ends}.")
            if len(seats) >= workshop.seats:
                raise web.HTTPError(403, f"All {workshop.seats} seats are taken: ask the instructor.")
            password = new_password()
            hashed = await asyncio.to_thread(PasswordHash.of, password)
            digits = max(2, len(str(workshop.seats)))
            names = (f"{workshop.name}-{number:0{digits}}" for number in range(1, workshop.seats + 1))
            # A name that the installation has already is somebody else.
            known = {*self.accounts(), *seats}
            name = next((one for one in names if one not in known), None)
            if name is None:
                raise web.HTTPError(403, f"All {workshop.seats} seats are taken: ask the instructor.")
            write_json(Path(self.seats_file), seats | {name: {"password": hashed.to_json(), "admin": False}})
            self.allowed_users.add(name)
        return name, password

    def _seats(self) -> dict[str, Any]:
        path = Path(self.seats_file)
        seats = read_json(path) if path.exists() else {}
        if not isinstance(seats, dict):
            raise ConfigurationError(f"The seats' accounts {path} are damaged.")
        return seats

    def get_handlers(self, app: Any) -> list[Any]:
        """Add the page of the invitation."""
        return [*super().get_handlers(app), ("/join", JoinHandler)]


class JoinHandler(BaseHandler):
    """`GET` shows the workshop, `POST` takes a seat."""

    async def get(self) -> None:
        """Show what one is invited to."""
        self._check(self.get_query_argument("code", ""))
        await self._page()

    async def post(self) -> None:
        """Take a seat, log in, and show its name and password once."""
        self._check(self.get_body_argument("code", ""))
        if self.current_user is not None:
            # Who is logged in has an account or a seat; a second click takes no second one.
            await self._page()
            return
        name, password = await self.authenticator.new_seat()
        if await self.login_user({"username": name, "password": password}) is None:
            raise web.HTTPError(500, "The seat was made, but the login failed: ask the instructor.")
        await self._page(name=name, password=password)

    def _check(self, code: str) -> None:
        if not hmac.compare_digest(code.encode(), self.authenticator.code.encode()):
            raise web.HTTPError(403, "This invitation is not valid: ask the instructor for the link.")

    async def _page(self, name: str = "", password: str = "") -> None:
        rules = self.authenticator.admission
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(
            await self.render_template(
                "join.html",
                workshop=rules.workshop,
                over=rules.over,
                left=max(0, rules.workshop.seats - self.authenticator.seats_taken()),
                code=self.authenticator.code,
                seat=name,
                password=password,
                start=url_path_join(self.hub.base_url, "spawn"),
            )
        )
