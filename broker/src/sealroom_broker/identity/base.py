# SPDX-License-Identifier: BSD-3-Clause
"""What every kind of identity provider takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sealroom.kbs.calls import IdentityRequest, Person, Reason

from sealroom_broker.problem import Problem, unavailable

MAX_TOKEN = 64 << 10
"""Characters of a token: an ID token with a passport of several visas has some 10,000."""


@dataclass(frozen=True, slots=True)
class Presented:
    """Where and when a login is presented."""

    tee_pubkey: Mapping[str, str]
    """The attested key of the session."""
    person: Person | None
    """Who is bound to the session already."""
    now: datetime


@dataclass(frozen=True, slots=True)
class Login:
    """Who somebody is, and for how long that holds."""

    person: Person
    until: datetime | None = None
    """When the login must have been presented again; one attestation period later without it."""
    ignored: tuple[Reason, ...] = ()
    """What of a passport does not count, and why."""


class IdentityProvider(Protocol):
    """Checks people's logins."""

    @property
    def issuers(self) -> tuple[str, ...]:
        """Who names people here."""

    @property
    def visa_issuers(self) -> tuple[str, ...]:
        """Whose visas count."""

    def check(self, request: IdentityRequest, presented: Presented) -> Login:
        """Return who this is, and until when that holds.

        Raises:
            Problem: The login is refused (403), or could not be checked (503).
        """

    def close(self) -> None:
        """Give back what is open."""


def printable_token(token: str, limit: int = MAX_TOKEN) -> bool:
    """Tell whether a text can be a token: printable ASCII without spaces, of a bounded length."""
    return 0 < len(token) <= limit and token.isascii() and token.isprintable() and " " not in token


def could_not_check(why: str) -> Problem:
    """Return the answer where nobody can say who a person is."""
    return unavailable("person.unchecked", f"The broker could not check who you are: {why}. Try again later.")
