# SPDX-License-Identifier: BSD-3-Clause
"""Who takes part: asked after every login, and before every start of a server.

Works with any authenticator of JupyterHub, as its `post_auth_hook`, and any spawner, as `pre_spawn_hook`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sealroom.errors import ConfigurationError
from tornado import web

from sealroom_spawner.files import read_json, write_json
from sealroom_spawner.workshop.settings import Workshop


class _Person(Protocol):
    name: str
    admin: bool


class _Spawner(Protocol):
    user: _Person


def _now() -> datetime:
    return datetime.now(UTC)


class Admission:
    """Gives seats, and closes the door at the end.

    Args:
        workshop: Says what holds now (`WorkshopFile`).
        seats: File of the seats that were taken; made when the first one is.
        clock: The time.
    """

    def __init__(
        self, workshop: Callable[[], Workshop], seats: Path, *, clock: Callable[[], datetime] = _now
    ) -> None:
        self._workshop = workshop
        self._file = seats
        self._clock = clock

    @property
    def workshop(self) -> Workshop:
        """The workshop as it is now."""
        return self._workshop()

    @property
    def over(self) -> bool:
        """Whether the workshop has ended."""
        return self.workshop.ended(self._clock())

    @property
    def taken(self) -> dict[str, str]:
        """Who has a seat, and since when.

        Raises:
            ConfigurationError: The file is damaged: nobody gets a seat that might be somebody else's.
        """
        if not self._file.exists():
            return {}
        value = read_json(self._file)
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ConfigurationError(f"The file of seats {self._file} is damaged.")
        return value

    def take(self, name: str) -> bool:
        """Give a person their seat; False if there is none left."""
        taken = self.taken
        if name in taken:
            return True
        if len(taken) >= self.workshop.seats:
            return False
        write_json(self._file, taken | {name: self._clock().isoformat(timespec="seconds")})
        return True

    async def after_login(self, _authenticator: Any, _handler: Any, model: dict[str, Any]) -> dict[str, Any]:
        """Let a person in with the workshop's group (JupyterHub's `post_auth_hook`).

        Raises:
            HTTPError: The workshop is over, or full.
        """
        if self.bound(model["name"], bool(model.get("admin"))):
            if self.over:
                raise _refused(self._over())
            if not self.take(model["name"]):
                raise _refused(f"All {self.workshop.seats} seats are taken: ask the instructor.")
            return model | {"groups": [self.workshop.name]}
        return model | {"groups": []}

    async def before_start(self, spawner: _Spawner) -> None:
        """Start no server of the workshop after its end (JupyterHub's `pre_spawn_hook`).

        Raises:
            HTTPError: It is over.
        """
        if self.over and self.bound(spawner.user.name, bool(spawner.user.admin)):
            raise _refused(self._over())

    def bound(self, name: str, admin: bool) -> bool:
        """Tell whether a person needs a seat, and goes at the end."""
        return not admin and name not in self.workshop.instructors

    def _over(self) -> str:
        return f"The workshop “{self.workshop.title}” ended at {self.workshop.ends}."


def _refused(sentence: str) -> web.HTTPError:
    error = web.HTTPError(403, sentence)
    # What the hub shows, in place of the status's own words.
    vars(error)["jupyterhub_message"] = sentence
    return error
