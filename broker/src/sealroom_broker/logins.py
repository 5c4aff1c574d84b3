# SPDX-License-Identifier: BSD-3-Clause
"""Logins of owners and auditors to the pages: OpenID Connect, authorization code with PKCE.

Invariants:

- The cookie of a login holds 256 random bits and nothing else; the database has its SHA-256. It is new with
  each login, so that a cookie that was planted before is worth nothing.
- State, nonce and PKCE verifier of a login that was begun are made from a secret that only the browser has:
  an answer of the provider is taken only in the browser that asked for it, and beginning a login stores
  nothing here. The provider takes a code once.
- A role comes from the provider's claim and the configuration; who has none is refused.
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
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

import httpx
from sealroom.errors import ConfigurationError
from sealroom.kbs.oidc import pkce_challenge
from sqlalchemy import delete

from sealroom_broker.config import Login
from sealroom_broker.files import read_private
from sealroom_broker.identity import tokens
from sealroom_broker.identity.discovery import Provider
from sealroom_broker.identity.fetch import Fetch
from sealroom_broker.problem import refused
from sealroom_broker.store import LoginRow, Store

Role = Literal["owner", "auditor"]

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
        self._provider = Provider(settings.issuer, Fetch(settings.timeout, settings.ca, transport=transport))
        self._secret = _secret(settings)

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
        url = self._provider.endpoint("authorization_endpoint")
        begun = _Begun(secrets.token_urlsafe(32), int(now.timestamp()), safe_target(target))
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._redirect,
            "scope": self.settings.scope,
            "state": begun.derived("state"),
            "nonce": begun.derived("nonce"),
            "code_challenge": pkce_challenge(begun.derived("verifier")),
            "code_challenge_method": "S256",
        }
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
        if query.get("iss", self.settings.issuer) != self.settings.issuer or "code" not in query:
            raise refused("login.refused", "The identity provider refused the login.")
        token = self._exchange(query["code"], begun.derived("verifier"), now)
        tokens.check_nonce(token.claims, begun.derived("nonce"), renewal=False)
        roles = self._roles(token.claims)
        if not roles:
            raise refused("login.role", "You are neither an owner nor an auditor here.")
        value = secrets.token_urlsafe(32)
        subject = tokens.required_text(token.claims, "sub")
        name = tokens.find(token.claims, self.settings.username)
        with self._store.write() as session:
            session.execute(delete(LoginRow).where(LoginRow.until <= now))
            session.add(
                LoginRow(
                    id=_digest(value),
                    until=now + timedelta(hours=self.settings.hours),
                    issuer=self.settings.issuer,
                    subject=subject,
                    name=name if isinstance(name, str) and tokens.is_name(name) else subject,
                    roles=sorted(roles),
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

    @property
    def _redirect(self) -> str:
        return self.settings.public_url.rstrip("/") + "/callback"

    def _exchange(self, code: str, verifier: str, now: datetime) -> tokens.Token:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "client_id": self.settings.client_id,
            "code_verifier": verifier,
        }
        if self._secret:
            form["client_secret"] = self._secret
        status, answer = self._provider.fetch.post(self._provider.endpoint("token_endpoint"), form)
        id_token = answer.get("id_token")
        if status != httpx.codes.OK or not isinstance(id_token, str):
            raise refused("login.refused", "The identity provider refused the login.")
        return self._verified(id_token, now)

    def _verified(self, id_token: str, now: datetime) -> tokens.Token:
        token = tokens.read(id_token)
        tokens.verify_id_token(token, self._provider.keys, self._rules, now)
        return token

    @property
    def _rules(self) -> tokens.IdTokenRules:
        return tokens.IdTokenRules(
            issuer=self.settings.issuer,
            audience=self.settings.client_id,
            parties=(self.settings.client_id,),
            algorithms=self.settings.algorithms,
            leeway=timedelta(seconds=self.settings.leeway),
        )

    def _roles(self, claims: tokens.Claims) -> set[Role]:
        values = set(tokens.names_claim(claims, self.settings.roles))
        roles: dict[Role, tuple[str, ...]] = {
            "owner": self.settings.owners,
            "auditor": self.settings.auditors,
        }
        return {role for role, names in roles.items() if values & set(names)}


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


def _secret(settings: Login) -> str:
    if settings.client_secret is None:
        return ""
    content = read_private(settings.client_secret, "The client secret")
    secret = content.decode("ascii", "replace").strip()
    if not secret:
        raise ConfigurationError(f"{settings.client_secret} holds no client secret.")
    return secret


def _csrf(cookie: str) -> str:
    return _b64url(hmac.digest(cookie.encode(), b"sealroom-csrf/1", "sha256"))


def _digest(value: str) -> str:
    return hashlib.sha256(b"sealroom-login\0" + value.encode("utf-8", "surrogateescape")).hexdigest()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _ascii(text: str) -> str:
    return text if text.isascii() else ""
