# SPDX-License-Identifier: BSD-3-Clause
"""Who vouches for owners and auditors: an OpenID Connect provider, or the hub of a development broker.

Invariants:

- An ID token counts if it is the provider's, for this client, and for the login that this browser began.
- At a hub there are no ID tokens: the code is exchanged with the client's secret, and the hub itself is asked
  whose the token is (OAuth 2.0, RFC 6749, section 4.1; jupyterhub 6.1, apihandlers/users.py,
  `SelfAPIHandler`). The token is not kept.
- What is not understood is nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Protocol

import httpx
from sealroom.errors import ConfigurationError
from sealroom.kbs.oidc import pkce_challenge

from sealroom_broker.config import HubLogin, Login, OidcLogin
from sealroom_broker.files import read_private
from sealroom_broker.identity import tokens
from sealroom_broker.identity.base import printable_token
from sealroom_broker.identity.discovery import Provider
from sealroom_broker.identity.fetch import Fetch
from sealroom_broker.problem import Problem, refused

Role = Literal["owner", "auditor"]

_MAX_SCOPES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """What belongs to one login that was begun."""

    redirect: str
    """Where the provider sends the browser back to."""
    state: str
    nonce: str
    verifier: str
    """The PKCE code verifier."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Whom a provider vouches for."""

    subject: str
    name: str
    roles: frozenset[Role]


class LoginProvider(Protocol):
    """Vouches for the pages' visitors."""

    @property
    def issuer(self) -> str:
        """Its name."""

    def authorization(self, attempt: Attempt) -> tuple[str, dict[str, str]]:
        """Return the address to send the browser to, and the query to add.

        Raises:
            NetworkError: The provider cannot be reached.
        """

    def person(self, code: str, attempt: Attempt, now: datetime) -> LoggedIn:
        """Return who came back with a code.

        Raises:
            Error: The token is not for this login.
            NetworkError: The provider cannot be reached.
            Problem: The provider refuses the code.
        """

    def close(self) -> None:
        """Close the connections."""


def provider_of(settings: Login, transport: httpx.BaseTransport | None = None) -> LoginProvider:
    """Return the provider that the settings name; nothing is asked yet.

    Raises:
        ConfigurationError: A file that the settings name cannot be read.
    """
    if isinstance(settings, HubLogin):
        return HubProvider(settings, transport)
    return OidcProvider(settings, transport)


class OidcProvider:
    """An OpenID Connect provider (OpenID Connect Core 1.0, section 3.1).

    Args:
        settings: Which one.
        transport: Another way to it, for tests.

    Raises:
        ConfigurationError: A file that the settings name cannot be read.
    """

    def __init__(self, settings: OidcLogin, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._provider = Provider(settings.issuer, Fetch(settings.timeout, settings.ca, transport=transport))
        self._secret = _secret(settings.client_secret) if settings.client_secret is not None else ""

    @property
    def issuer(self) -> str:
        """Its issuer identifier."""
        return self._settings.issuer

    def authorization(self, attempt: Attempt) -> tuple[str, dict[str, str]]:
        """Return the address to send the browser to, and the query to add.

        Raises:
            NetworkError: The provider cannot be reached.
        """
        return self._provider.endpoint("authorization_endpoint"), {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": attempt.redirect,
            "scope": self._settings.scope,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": pkce_challenge(attempt.verifier),
            "code_challenge_method": "S256",
        }

    def person(self, code: str, attempt: Attempt, now: datetime) -> LoggedIn:
        """Return who came back with a code.

        Raises:
            Error: The token is not for this login.
            NetworkError: The provider cannot be reached.
            Problem: The provider refuses the code.
        """
        form = _form(code, attempt, self._settings.client_id, self._secret)
        status, answer = self._provider.fetch.post(self._provider.endpoint("token_endpoint"), form)
        id_token = answer.get("id_token")
        if status != httpx.codes.OK or not isinstance(id_token, str):
            raise _not_vouched()
        token = self.verified(id_token, now)
        tokens.check_nonce(token.claims, attempt.nonce, renewal=False)
        values = tokens.names_claim(token.claims, self._settings.roles)
        subject = tokens.required_text(token.claims, "sub")
        name = tokens.find(token.claims, self._settings.username)
        usable = isinstance(name, str) and tokens.is_name(name)
        return LoggedIn(subject, str(name) if usable else subject, _roles(self._settings, values))

    def verified(self, id_token: str, now: datetime) -> tokens.Token:
        """Return an ID token that is the provider's, and for the pages.

        Raises:
            Error: It is not.
            NetworkError: The provider's keys cannot be had.
        """
        token = tokens.read(id_token)
        rules = tokens.IdTokenRules(
            issuer=self._settings.issuer,
            audience=self._settings.client_id,
            parties=(self._settings.client_id,),
            algorithms=self._settings.algorithms,
            leeway=timedelta(seconds=self._settings.leeway),
        )
        tokens.verify_id_token(token, self._provider.keys, rules, now)
        return token

    def close(self) -> None:
        """Close the connections."""
        self._provider.close()


class HubProvider:
    """The OAuth provider of a JupyterHub.

    Args:
        settings: Which hub.
        transport: Another way to it, for tests.

    Raises:
        ConfigurationError: The file with the client's secret cannot be read.
    """

    def __init__(self, settings: HubLogin, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._fetch = Fetch(settings.timeout, transport=transport)
        self._secret = _secret(settings.client_secret)

    @property
    def issuer(self) -> str:
        """The hub's name."""
        return self._settings.issuer or self._settings.api_url

    def authorization(self, attempt: Attempt) -> tuple[str, dict[str, str]]:
        """Return the address to send the browser to, and the query to add."""
        return f"{self._settings.hub_url}/hub/api/oauth2/authorize", {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": attempt.redirect,
            "state": attempt.state,
            "code_challenge": pkce_challenge(attempt.verifier),
            "code_challenge_method": "S256",
        }

    def person(self, code: str, attempt: Attempt, now: datetime) -> LoggedIn:
        """Return who came back with a code; `now` is the hub's affair.

        Raises:
            NetworkError: The hub cannot be reached.
            Problem: The hub refuses the code, or vouches for nobody.
        """
        form = _form(code, attempt, self._settings.client_id, self._secret)
        status, answer = self._fetch.post(f"{self._settings.api_url}/oauth2/token", form)
        token = answer.get("access_token")
        if status != httpx.codes.OK or not isinstance(token, str) or not printable_token(token):
            raise _not_vouched()
        status, user = self._fetch.get(
            f"{self._settings.api_url}/user", headers={"Authorization": f"token {token}"}
        )
        name, scopes = user.get("name"), user.get("scopes")
        if status != httpx.codes.OK or user.get("kind") != "user":
            raise _not_vouched()
        if not isinstance(name, str) or not tokens.is_name(name):
            raise _not_vouched()
        if not isinstance(scopes, list) or len(scopes) > _MAX_SCOPES:
            raise _not_vouched()
        return LoggedIn(name, name, _roles(self._settings, [one for one in scopes if isinstance(one, str)]))

    def close(self) -> None:
        """Close the connections."""
        self._fetch.close()


def _form(code: str, attempt: Attempt, client_id: str, secret: str) -> Mapping[str, str]:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": attempt.redirect,
        "client_id": client_id,
        "code_verifier": attempt.verifier,
    }
    return form | {"client_secret": secret} if secret else form


def _roles(settings: Login, values: tuple[str, ...] | list[str]) -> frozenset[Role]:
    named: dict[Role, tuple[str, ...]] = {"owner": settings.owners, "auditor": settings.auditors}
    return frozenset(role for role, names in named.items() if set(values) & set(names))


def _not_vouched() -> Problem:
    return refused("login.refused", "The identity provider refused the login.")


def _secret(path: Path) -> str:
    content = read_private(path, "The client secret")
    secret = content.decode("ascii", "replace").strip()
    if not secret:
        raise ConfigurationError(f"{path} holds no client secret.")
    return secret
