# SPDX-License-Identifier: BSD-3-Clause
"""Logins of owners and auditors to the pages: authorization code with PKCE, at whoever vouches for people.

Invariants:

- The cookie of a login holds 256 random bits and nothing else; the database has its SHA-256. It is new with
  each login, so that a cookie that was planted before is worth nothing.
- State, nonce and PKCE verifier of a login that was begun are made from a secret that only the browser has:
  an answer of the provider is taken only in the browser that asked for it, and beginning a login stores
  nothing here. The provider takes a code once.
- A role comes from what the provider says and from the configuration; who has none is refused.
- After a login the browser goes to a path of this broker, never to another place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode, urlsplit

import httpx
from sqlalchemy import delete

from sealroom_broker.config import Login
from sealroom_broker.login_providers import Attempt, Role, provider_of
from sealroom_broker.problem import refused
from sealroom_broker.store import LoginRow, Store

BEGUN: Final = timedelta(minutes=10)
"""From the begin of a login to its end at the provider."""
_MAX_TARGET: Final = 500


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is logged in."""

    issuer: str
    subject: str
    name: str
    roles: frozenset[str]
    until: datetime
    csrf: str
    """What a form of this visitor must bring along."""

    def has(self, role: Role) -> bool:
        """Tell whether somebody has a role."""
        return role in self.roles

    @property
    def actor(self) -> str:
        """Who this is, for the audit log."""
        return f"{self.name} ({self.subject} at {self.issuer})"


class Logins:
    """Logins to the pages.

    Args:
        settings: How people log in.
        store: The database.
        transport: Another way to the provider, for tests.

    Raises:
        ConfigurationError: A file that the settings name cannot be read.
    """

    def __init__(
        self, settings: Login, store: Store, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.settings = settings
        self._store = store
        self._provider = provider_of(settings, transport)

    def close(self) -> None:
        """Close the connections."""
        self._provider.close()

    def begin(self, target: str, now: datetime) -> tuple[str, str]:
        """Begin a login.

        Args:
            target: The path to go to afterwards.
            now: When.

        Returns:
            What the browser keeps, and where to send it.

        Raises:
            NetworkError: The provider cannot be reached.
        """
        begun = _Begun(secrets.token_urlsafe(32), int(now.timestamp()), safe_target(target))
        url, query = self._provider.authorization(self._attempt(begun))
        return begun.cookie(), url + ("&" if urlsplit(url).query else "?") + urlencode(query)

    def finish(self, kept: str | None, query: Mapping[str, str], now: datetime) -> tuple[str, str]:
        """Finish a login.

        Args:
            kept: What the browser kept.
            query: What it brought back from the provider.
            now: When.

        Returns:
            The value of the login's cookie, and the path to go to.

        Raises:
            Error: The token is not for this login.
            NetworkError: The provider cannot be reached.
            Problem: It belongs to another login, was refused, or the person has no role here.
        """
        begun = _Begun.read(kept)
        if begun is None or not begun.time <= now.timestamp() < begun.time + BEGUN.total_seconds():
            raise refused(
                "login.state", "This login was not begun in this browser, or too long ago: log in again."
            )
        if not hmac.compare_digest(begun.derived("state"), _ascii(query.get("state", ""))):
            raise refused("login.state", "This answer belongs to another login: log in again.")
        if query.get("iss", self._provider.issuer) != self._provider.issuer or "code" not in query:
            raise refused("login.refused", "The identity provider refused the login.")
        person = self._provider.person(query["code"], self._attempt(begun), now)
        if not person.roles:
            raise refused("login.role", "You are neither an owner nor an auditor here.")
        value = secrets.token_urlsafe(32)
        with self._store.write() as session:
            session.execute(delete(LoginRow).where(LoginRow.until <= now))
            session.add(
                LoginRow(
                    id=_digest(value),
                    until=now + timedelta(hours=self.settings.hours),
                    issuer=self._provider.issuer,
                    subject=person.subject,
                    name=person.name,
                    roles=sorted(person.roles),
                )
            )
        return value, begun.target

    def visitor(self, cookie: str | None, now: datetime) -> Visitor | None:
        """Return who is logged in with a cookie."""
        if not cookie:
            return None
        with self._store.read() as session:
            row = session.get(LoginRow, _digest(cookie))
            if row is None or now >= row.until:
                return None
            return Visitor(
                issuer=row.issuer,
                subject=row.subject,
                name=row.name,
                roles=frozenset(row.roles),
                until=row.until,
                csrf=_csrf(cookie),
            )

    def end(self, cookie: str | None) -> None:
        """End a login."""
        if cookie:
            with self._store.write() as session:
                session.execute(delete(LoginRow).where(LoginRow.id == _digest(cookie)))

    def _attempt(self, begun: _Begun) -> Attempt:
        return Attempt(
            redirect=f"{self.settings.public_url.rstrip('/')}/callback",
            state=begun.derived("state"),
            nonce=begun.derived("nonce"),
            verifier=begun.derived("verifier"),
        )


def safe_target(target: str) -> str:
    """Return a path of these pages, and the front page in place of anything else."""
    usable = (
        len(target) <= _MAX_TARGET
        and target.startswith("/")
        and not target.startswith("//")
        and target.isascii()
        and target.isprintable()
        and not set(target) & {"\\", " "}
    )
    return target if usable else "/"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A login that was begun, as its browser keeps it."""

    secret: str
    time: int
    target: str

    @classmethod
    def read(cls, text: str | None) -> _Begun | None:
        """Read what a browser sent; None if it is none of ours."""
        secret, _, rest = (text or "").partition(".")
        time, _, target = rest.partition(".")
        try:
            path = base64.urlsafe_b64decode(target.encode() + b"==").decode("ascii")
        except (ValueError, binascii.Error):
            return None
        if len(secret) != len(secrets.token_urlsafe(32)) or not secret.isascii() or not time.isdecimal():
            return None
        return cls(secret, int(time[:12]), safe_target(path))

    def cookie(self) -> str:
        """Return it as a cookie's value."""
        target = base64.urlsafe_b64encode(self.target.encode()).rstrip(b"=").decode()
        return f"{self.secret}.{self.time}.{target}"

    def derived(self, what: str) -> str:
        """Return state, nonce or verifier of this login (43 characters, as RFC 7636 wants at least)."""
        words = f"sealroom-login/1 {what} {self.time} {self.target}"
        return _b64url(hmac.digest(self.secret.encode(), words.encode(), "sha256"))


def _csrf(cookie: str) -> str:
    return _b64url(hmac.digest(cookie.encode(), b"sealroom-csrf/1", "sha256"))


def _digest(value: str) -> str:
    return hashlib.sha256(b"sealroom-login\0" + value.encode("utf-8", "surrogateescape")).hexdigest()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _ascii(text: str) -> str:
    return text if text.isascii() else ""
