# SPDX-License-Identifier: BSD-3-Clause
"""The person's login at an OpenID Connect provider, made by this server and bound to its attested key.

Tokens are in this object and nowhere else: not in the browser, in no file, in no log line and in no answer.
The ID token is presented to the broker inside the attested session, and again, renewed, when it asks.

Invariants:

- Fails closed: with settings that are wrong, or after a refusal, there is nothing to present and nobody is
  bound. The hub's token does not take its place.
- One login at a time: beginning another, or logging out, makes what was begun before worthless.
- The provider is asked with no lock held, but for a renewal, which the broker waits for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpx
from sealroom import errors
from sealroom.datasets.messages import ErrorInfo
from sealroom.kbs.calls import IdentityRequest, IdentityResponse
from sealroom.kbs.oidc import BrowserLogin, DeviceLogin, OidcClient, Tokens

from sealroom_jupyter.errors import info_of
from sealroom_jupyter.messages import BrowserStart, DeviceCode, LoginView, Way
from sealroom_jupyter.ports import Clock
from sealroom_jupyter.settings import OidcSettings

BROWSER_TIME = timedelta(minutes=10)
"""How long a login in the browser may take."""
_ENDED = ErrorInfo(message="Your login has ended.", advice="Log in again.")


@dataclass(slots=True)
class _Begun:
    """A login that goes on."""

    way: Way
    ends: datetime
    browser: BrowserLogin | None = field(default=None, repr=False)
    stop: threading.Event = field(default_factory=threading.Event)


class OidcLogin:
    """A `PersonLogin` of an OpenID Connect provider. Safe for several threads.

    Args:
        settings: Which provider, and how.
        server: The server's name at the hub.
        nonce: Returns the nonce of the attested key; raises where the server has not proven itself.
        present: Has the Attester present the login now; returns when that is done.
        http: Connections to the provider; for tests, or with certificate authorities of one's own.
        timeout: Seconds that one call to the provider may take.
        clock: The time.
        log: Where to write.
    """

    def __init__(
        self,
        settings: OidcSettings,
        *,
        server: str,
        nonce: Callable[[], str],
        present: Callable[[], None],
        http: httpx.Client | None = None,
        timeout: float = 10.0,
        clock: Clock | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._settings = settings
        self._server = server
        self._nonce = nonce
        self._present = present
        self._clock = clock or Clock()
        self._log = log or logging.getLogger(__name__)
        self._lock = threading.RLock()
        self._client: OidcClient | None = None
        self._tokens: Tokens | None = None
        self._bound_nonce = ""
        self._presented = False
        self._accepted: IdentityResponse | None = None
        self._begun: _Begun | None = None
        self._finishing: _Begun | None = None
        self._error: ErrorInfo | None = None
        try:
            _check(settings)
            self._client = OidcClient(
                settings.issuer, settings.client_id, scope=settings.scope, http=http, timeout=timeout
            )
        except errors.Error as error:
            self._log.error("Sealroom: %s", error.diagnostics())
            self._error = info_of(error)

    def view(self) -> LoginView:
        """Return the login as the panel shows it."""
        with self._lock:
            begun, accepted = self._running(), self._accepted
            waiting = begun is not None or self._finishing is not None or self._tokens is not None
            ways: tuple[Way, ...] = () if self._client is None else _ways(self._settings)
            base = LoginView(issuer=self._settings.issuer, ways=ways, error=self._error)
            if self._tokens is not None and accepted is not None:
                more = {"name": accepted.person.name, "until": accepted.until}
                return base.model_copy(
                    update={"state": "in", "renews": bool(self._tokens.refresh_token), **more}
                )
            return base.model_copy(update={"state": "waiting"}) if waiting else base

    # -- beginning and ending a login

    def begin_browser(self, redirect_uri: str) -> BrowserStart:
        """Begin a login in the person's browser, and return where to send it.

        Raises:
            ConfigurationError: This way is off, or the settings are wrong.
            NotProvenError: This server has not proven itself, so a login could not be bound to it.
            NetworkError: The provider cannot be reached.
        """
        client = self._usable("browser")
        begun = client.begin_browser(self._settings.redirect_url or redirect_uri, self._nonce())
        self._begin(_Begun("browser", self._clock.now() + BROWSER_TIME, begun))
        return BrowserStart(url=begun.url)

    def finish_browser(self, query: Mapping[str, str]) -> None:
        """Finish a login with what the redirect brought back, and present it to the broker.

        Raises:
            AccessDeniedError: The person, the provider or the broker said no.
            FreshnessError: This server waits for no such answer, or for another.
            NetworkError: The provider cannot be reached.
        """
        with self._lock:
            begun = self._running()
            # Whatever comes of it, an answer is taken once.
            if begun is not None and begun.browser is not None:
                self._begun, self._finishing = None, begun
        if begun is None or begun.browser is None or self._client is None:
            raise errors.FreshnessError(
                "This server does not wait for a login.", advice="Begin the login again in the panel."
            )
        try:
            tokens = self._client.finish_browser(begun.browser, query)
            self._take(begun, tokens, begun.browser.nonce)
        except errors.Error as error:
            self._failed(error, begun)
            raise
        finally:
            self._finished(begun)

    def begin_device(self) -> DeviceCode:
        """Begin a login with a link and a code; a thread waits for the person.

        Raises:
            ConfigurationError: This way is off, or the settings are wrong.
            NotProvenError: This server has not proven itself, so a login could not be bound to it.
            NetworkError: The provider cannot be reached.
            ProtocolError: The provider knows no such login.
        """
        client = self._usable("device")
        login = client.begin_device(self._nonce())
        ends = self._clock.now() + timedelta(seconds=login.expires_in)
        begun = _Begun("device", ends)
        self._begin(begun)
        threading.Thread(
            target=self._wait, args=(client, login, begun), name="sealroom-login", daemon=True
        ).start()
        uri = login.verification_uri_complete or login.verification_uri
        return DeviceCode(uri=uri, code=login.user_code, expires=ends)

    def cancel(self) -> None:
        """Give up a login that goes on; one that has succeeded stays."""
        with self._lock:
            for begun in (self._begun, self._finishing):
                if begun is not None:
                    begun.stop.set()
            self._begun = self._finishing = None
            if self._accepted is None:
                # Tokens that the broker could not be shown yet.
                self._drop(self._error)

    def forget(self) -> None:
        """Log out of this server: forget every token. The login at the provider is not ended."""
        self.cancel()
        with self._lock:
            self._drop(None)

    def close(self) -> None:
        """End: forget everything and close the connections."""
        self.forget()
        if self._client is not None:
            self._client.close()

    # -- sealroom_jupyter.ports.PersonLogin

    def request(self, *, bound: bool) -> IdentityRequest | None:
        """Return what to present: the ID token, renewed if the broker has seen it; None without a login.

        Raises:
            AccessDeniedError: The provider does not renew the login.
            NetworkError: The provider cannot be reached.
        """
        with self._lock:
            if self._tokens is None or self._client is None:
                return None
            if self._presented:
                if not self._tokens.refresh_token:
                    if not bound:
                        self._drop(_ENDED)
                    return None
                self._renew(self._client, self._tokens)
            return IdentityRequest(
                provider="oidc",
                token=self._tokens.id_token,
                access_token=self._tokens.access_token if self._settings.userinfo else "",
                server=self._server,
            )

    def taken(self, response: IdentityResponse) -> None:
        """Take note that the broker bound the person."""
        with self._lock:
            self._presented, self._accepted, self._error = True, response, None

    def refused(self, error: errors.AccessDeniedError) -> None:
        """Drop a login that the broker, or the provider, does not accept."""
        with self._lock:
            self._drop(info_of(error))

    # -- inside

    def _usable(self, way: Way) -> OidcClient:
        if self._client is None:
            error = self._error or ErrorInfo(message="The login is not set up.")
            raise errors.ConfigurationError(error.message, advice=error.advice)
        if way not in _ways(self._settings):
            raise errors.ConfigurationError("This way to log in is off.", advice="Use the other one.")
        return self._client

    def _begin(self, begun: _Begun) -> None:
        self.cancel()
        with self._lock:
            self._begun, self._error = begun, None

    def _running(self) -> _Begun | None:
        """Return the login that goes on, if its time is not over."""
        begun = self._begun
        if begun is not None and self._clock.now() >= begun.ends:
            begun.stop.set()
            self._begun = begun = None
        return begun

    def _wait(self, client: OidcClient, login: DeviceLogin, begun: _Begun) -> None:
        tokens = None
        while tokens is None:
            if begun.stop.wait(login.interval):
                return
            try:
                tokens = client.poll_device(login)
            except errors.NetworkError as error:
                # RFC 8628, section 3.5: a connection that fails is tried again, less often.
                login.interval *= 2
                self._log.warning("Sealroom: %s", error.message)
            except errors.Error as error:
                self._failed(error, begun)
                return
            if tokens is None and self._clock.now() >= begun.ends:
                message = "The code was not used in time."
                self._failed(errors.AccessDeniedError(message, advice="Begin the login again."), begun)
                return
        with self._lock:
            if begun.stop.is_set():
                return
            self._begun, self._finishing = None, begun
        try:
            self._take(begun, tokens, login.nonce)
        except errors.Error as error:
            self._log.info("Sealroom: the login was not taken: %s", error.message)
        finally:
            self._finished(begun)

    def _take(self, begun: _Begun, tokens: Tokens, nonce: str) -> None:
        """Keep fresh tokens and have them presented.

        Raises:
            AccessDeniedError: The broker does not accept them.
            FreshnessError: The login was given up meanwhile.
        """
        with self._lock:
            if begun.stop.is_set():
                raise errors.FreshnessError("This login was given up.", advice="Begin the login again.")
            self._tokens, self._bound_nonce = tokens, nonce
            self._presented, self._accepted, self._error = False, None, None
        self._present()
        with self._lock:
            error = self._error
        if error is not None:
            raise errors.AccessDeniedError(error.message, advice=error.advice)

    def _renew(self, client: OidcClient, tokens: Tokens) -> None:
        try:
            self._tokens = client.refresh(tokens, self._bound_nonce)
        except errors.FreshnessError as error:
            raise errors.AccessDeniedError(error.message, advice="Log in again.") from error
        self._presented = False

    def _failed(self, error: errors.Error, begun: _Begun) -> None:
        with self._lock:
            if begun.stop.is_set():
                # Given up: nobody wants to know.
                return
            self._error = info_of(error)
            if self._begun is begun:
                self._begun = None

    def _finished(self, begun: _Begun) -> None:
        with self._lock:
            if self._finishing is begun:
                self._finishing = None

    def _drop(self, error: ErrorInfo | None) -> None:
        self._tokens, self._bound_nonce, self._accepted, self._presented = None, "", None, False
        self._error = error


def redirect_of(origin: str, host: str, path: str) -> str:
    """Return where the provider sends the browser back to.

    Args:
        origin: Scheme and host as the page knows them; a proxy before this server may hide the scheme.
        host: The host that the request itself was sent to.
        path: Path of the route.

    Raises:
        FormatError: The origin is not a web address of this host.
    """
    try:
        parts = urlsplit(origin)
        clean = f"{parts.scheme}://{parts.netloc}" == origin and parts.username is None
    except ValueError:
        clean = False
    if not clean or parts.scheme not in ("http", "https") or not host or parts.netloc != host:
        raise errors.FormatError("The page's address is not this server's.", field="origin")
    return origin + path


def _check(settings: OidcSettings) -> None:
    if not settings.issuer or not settings.client_id:
        raise errors.ConfigurationError(
            "The login is not set up: issuer and client id belong together.",
            advice="Set Sealroom.oidc_issuer and Sealroom.oidc_client_id, or neither.",
        )
    if not settings.ways or set(settings.ways) - {"browser", "device"}:
        raise errors.ConfigurationError(
            "The login is not set up: the ways to log in are `browser` and `device`.",
            advice="Set Sealroom.oidc_ways.",
        )


def _ways(settings: OidcSettings) -> tuple[Way, ...]:
    known: tuple[Way, ...] = ("browser", "device")
    return tuple(way for way in known if way in settings.ways)
