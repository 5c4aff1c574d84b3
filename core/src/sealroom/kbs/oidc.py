# SPDX-License-Identifier: BSD-3-Clause
"""The guest's side of a person's login: get an ID token whose nonce is the attested server's.

Two ways, both for a public client (a notebook server can keep no client secret):

- in the person's browser: authorization code with PKCE (RFC 7636) and a redirect to a route of the notebook
  server;
- with a link and a short code: device authorization (RFC 8628), where a redirect cannot reach the server.
  That RFC knows no nonce; providers that put one into the ID token all the same (Keycloak does) can be used.

The nonce is `sealroom.kbs.nonce.session_nonce` of the key that the server's evidence covers. What comes back
is checked for the nonce only, so that the person is told at once; the signature is the broker's to check, and
nothing here trusts the token.

Invariants:

- Nothing but `sealroom.errors.Error` leaves a call. Tokens and codes are in no error, log line or `repr`.
- Redirects are not followed, answers are bounded, and all endpoints are at HTTPS or at this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

import httpx

from sealroom.errors import AccessDeniedError, ConfigurationError, FreshnessError, NetworkError, ProtocolError
from sealroom.kbs._http import is_loopback, printable
from sealroom.kbs.client import DEFAULT_TIMEOUT

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_MAX_ANSWER: Final = 1 << 20
_FIRST_INTERVAL: Final = 5
"""Seconds between two questions where the provider names none (RFC 8628, section 3.2)."""
_SLOWER: Final = 5
"""Seconds that each `slow_down` adds (RFC 8628, section 3.5)."""
_LOG_IN_AGAIN: Final = "Begin the login again."


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider does what; from its discovery document."""

    issuer: str
    authorization: str
    token: str
    device: str = ""
    """Empty if the provider knows no device authorization."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login ended with."""

    id_token: str = field(repr=False)
    access_token: str = field(default="", repr=False)
    """For the provider's userinfo, where a person's visas may be."""
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BrowserLogin:
    """A login that goes on in the person's browser."""

    url: str = field(repr=False)
    """Where to send the browser."""
    redirect_uri: str
    state: str = field(repr=False)
    """What the redirect must bring back."""
    verifier: str = field(repr=False)
    nonce: str


@dataclass(slots=True)
class DeviceLogin:
    """A login that goes on wherever the person opens a link."""

    verification_uri: str
    """The link to show."""
    verification_uri_complete: str
    """The link with the code in it; empty if the provider makes none."""
    user_code: str
    """The code to show: the person compares it, or types it."""
    expires_in: int
    """Seconds until the code is worth nothing."""
    interval: int
    """Seconds to wait before each `poll_device`; grows when the provider asks for it."""
    device_code: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str


class OidcClient:
    """A connection to one provider, as a public client. Use it as a context manager, or `close` it.

    Args:
        issuer: The provider's issuer identifier.
        client_id: The client that the broker accepts tokens of.
        scope: Scopes to ask for; `openid` is among them.
        http: A client to use, for example with a certificate authority of your own.
        timeout: Seconds for each step of a request.

    Raises:
        ConfigurationError: The issuer is no HTTPS address (HTTP at this machine is one too), or the scope
            lacks `openid`.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        *,
        scope: str = "openid",
        http: httpx.Client | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        if not _safe(issuer):
            raise ConfigurationError(f"{issuer!r} is not the HTTPS address of an identity provider.")
        if "openid" not in scope.split():
            raise ConfigurationError("The scope of a login must have openid in it.")
        self.issuer: Final = issuer
        self.client_id: Final = client_id
        self._scope = scope
        self._owned = http is None
        trust_env = not is_loopback(urlsplit(issuer).hostname or "")
        self._http = http or httpx.Client(timeout=timeout, trust_env=trust_env)
        self._endpoints: Endpoints | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OidcClient({self.issuer!r}, {self.client_id!r})"

    def close(self) -> None:
        """Close the connections, unless the caller gave the client."""
        if self._owned:
            self._http.close()

    def endpoints(self) -> Endpoints:
        """Return the provider's endpoints (OpenID Connect Discovery 1.0, section 4); read once.

        Raises:
            NetworkError: The provider cannot be reached.
            ProtocolError: Its answer is not understood, or names another issuer or an unsafe address.
        """
        if self._endpoints is None:
            url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
            status, document = self._send("GET", url)
            if status != httpx.codes.OK or document.get("issuer") != self.issuer:
                raise ProtocolError(f"{self.issuer} does not describe itself as an identity provider.")
            self._endpoints = Endpoints(
                self.issuer,
                authorization=_endpoint(document, "authorization_endpoint"),
                token=_endpoint(document, "token_endpoint"),
                device=_endpoint(document, "device_authorization_endpoint", needed=False),
            )
        return self._endpoints

    # --- in the browser

    def begin_browser(self, redirect_uri: str, nonce: str) -> BrowserLogin:
        """Begin a login in the person's browser.

        Args:
            redirect_uri: The notebook server's route, as it is registered for the client.
            nonce: `session_nonce` of the attested key.
        """
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": pkce_challenge(verifier),
            "code_challenge_method": "S256",
        }
        url = self.endpoints().authorization
        url += ("&" if urlsplit(url).query else "?") + urlencode(query)
        return BrowserLogin(url, redirect_uri, state, verifier, nonce)

    def finish_browser(self, login: BrowserLogin, query: Mapping[str, str]) -> Tokens:
        """Finish a login with what the redirect brought back.

        Args:
            login: What `begin_browser` returned.
            query: The redirect's query parameters.

        Raises:
            AccessDeniedError: The person or the provider said no.
            FreshnessError: The redirect belongs to another login, or the token has another nonce.
            NetworkError: The provider cannot be reached.
            ProtocolError: The provider's answer is not understood.
        """
        if not hmac.compare_digest(query.get("state", "").encode(), login.state.encode()):
            raise FreshnessError("This answer belongs to another login.", advice=_LOG_IN_AGAIN)
        # RFC 9207: an answer of another provider than the one that was asked.
        if query.get("iss", self.issuer) != self.issuer:
            raise ProtocolError("The answer to the login comes from another identity provider.")
        if "code" not in query:
            raise _denied(query)
        return self._tokens(
            {
                "grant_type": "authorization_code",
                "code": query["code"],
                "redirect_uri": login.redirect_uri,
                "code_verifier": login.verifier,
            },
            login.nonce,
        )

    # --- with a link and a code

    def begin_device(self, nonce: str) -> DeviceLogin:
        """Begin a login with a link and a code.

        Args:
            nonce: `session_nonce` of the attested key.

        Raises:
            AccessDeniedError: The provider does not allow it for this client.
            NetworkError: The provider cannot be reached.
            ProtocolError: The provider has no device authorization, or its answer is not understood.
        """
        url = self.endpoints().device
        if not url:
            raise ProtocolError(
                "The identity provider knows no login with a link and a code.",
                advice="Log in with the browser instead.",
            )
        verifier = secrets.token_urlsafe(48)
        status, answer = self._send(
            "POST",
            url,
            {
                "client_id": self.client_id,
                "scope": self._scope,
                "nonce": nonce,
                "code_challenge": pkce_challenge(verifier),
                "code_challenge_method": "S256",
            },
        )
        if status != httpx.codes.OK:
            raise _denied(answer)
        return _device_login(answer, verifier, nonce)

    def poll_device(self, login: DeviceLogin) -> Tokens | None:
        """Ask once whether the person has logged in; wait `login.interval` seconds before each call.

        Returns:
            The tokens, or None while the person has not logged in yet.

        Raises:
            AccessDeniedError: The person said no, or the code has expired.
            FreshnessError: The token has another nonce: the provider does not carry one in this flow.
            NetworkError: The provider cannot be reached.
            ProtocolError: The provider's answer is not understood.
        """
        request = {
            "grant_type": DEVICE_GRANT,
            "device_code": login.device_code,
            "code_verifier": login.verifier,
        }
        status, answer = self._token_call(request)
        if status != httpx.codes.OK and answer.get("error") in ("authorization_pending", "slow_down"):
            if answer["error"] == "slow_down":
                login.interval += _SLOWER
            return None
        return _accept(status, answer, login.nonce)

    # --- later

    def refresh(self, tokens: Tokens, nonce: str) -> Tokens:
        """Renew a login without the person.

        The new ID token may have no nonce (OpenID Connect Core 1.0, section 12.2); the broker accepts that
        where the same person is bound to the session already.

        Raises:
            AccessDeniedError: The provider says no: the login was ended, or the person's account.
            NetworkError: The provider cannot be reached.
            ProtocolError: There is nothing to renew with, or the answer is not understood.
        """
        if not tokens.refresh_token:
            raise ProtocolError("This login cannot be renewed.", advice=_LOG_IN_AGAIN)
        request = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token}
        status, answer = self._token_call(request)
        fresh = _accept(status, answer, nonce, renewal=True)
        return Tokens(fresh.id_token, fresh.access_token, fresh.refresh_token or tokens.refresh_token)

    # --- exchanges

    def _tokens(self, request: dict[str, str], nonce: str) -> Tokens:
        status, answer = self._token_call(request)
        return _accept(status, answer, nonce)

    def _token_call(self, request: dict[str, str]) -> tuple[int, Mapping[str, object]]:
        return self._send("POST", self.endpoints().token, {**request, "client_id": self.client_id})

    def _send(
        self, method: str, url: str, form: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, object]]:
        chunks, size = [], 0
        try:
            with self._http.stream(
                method, url, data=form, headers={"Accept": "application/json"}, follow_redirects=False
            ) as response:
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > _MAX_ANSWER:
                        raise ProtocolError("The identity provider's answer is too long.")
                    chunks.append(chunk)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
            raise NetworkError(
                f"The identity provider {self.issuer} cannot be reached ({type(error).__name__}).",
                advice="Check the address and the network, and try again.",
            ) from error
        finally:
            self._http.cookies.clear()
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise NetworkError(
                f"The identity provider failed (HTTP {response.status_code}).", advice="Try again later."
            )
        try:
            answer = json.loads(b"".join(chunks))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ProtocolError("The identity provider's answer is not understood.")
        return response.status_code, answer


def pkce_challenge(verifier: str) -> str:
    """Return the S256 challenge of a PKCE verifier (RFC 7636, section 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _accept(status: int, answer: Mapping[str, object], nonce: str, *, renewal: bool = False) -> Tokens:
    if status != httpx.codes.OK:
        raise _denied(answer)
    id_token = answer.get("id_token")
    if not isinstance(id_token, str):
        raise ProtocolError("The identity provider gave no ID token.")
    found = _nonce_of(id_token)
    if found != nonce and not (renewal and found is None):
        raise FreshnessError(
            "The identity provider's token is not bound to this server.",
            advice="If this was a login with a link and a code, log in with the browser instead.",
        )
    return Tokens(id_token, _text(answer, "access_token"), _text(answer, "refresh_token"))


def _nonce_of(id_token: str) -> object:
    """Return the nonce of a token that is not verified: to tell the person, not to trust it."""
    try:
        _, payload, _ = id_token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise ProtocolError("The identity provider's ID token is not a JWT.")
    return claims.get("nonce")


def _device_login(answer: Mapping[str, object], verifier: str, nonce: str) -> DeviceLogin:
    uri, code, device = (_text(answer, one) for one in ("verification_uri", "user_code", "device_code"))
    complete = _text(answer, "verification_uri_complete")
    expires, interval = answer.get("expires_in"), answer.get("interval", _FIRST_INTERVAL)
    if not (uri and code and device) or not isinstance(expires, int) or not isinstance(interval, int):
        raise ProtocolError("The identity provider's answer is not understood.")
    # People are shown these as links.
    if not all(urlsplit(link).scheme in {"http", "https"} for link in (uri, complete) if link):
        raise ProtocolError("The identity provider names a link that is no web address.")
    return DeviceLogin(
        verification_uri=uri,
        verification_uri_complete=complete,
        user_code=printable(code),
        expires_in=max(0, expires),
        interval=max(1, interval),
        device_code=device,
        verifier=verifier,
        nonce=nonce,
    )


def _denied(answer: Mapping[str, object]) -> AccessDeniedError:
    error = printable(_text(answer, "error")) or "no reason given"
    return AccessDeniedError(f"The identity provider refused the login ({error}).", advice=_LOG_IN_AGAIN)


def _text(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) else ""


def _endpoint(document: Mapping[str, object], name: str, *, needed: bool = True) -> str:
    url = _text(document, name)
    if (needed or url) and not _safe(url):
        raise ProtocolError(f"The identity provider's {name} is no HTTPS address.")
    return url


def _safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
