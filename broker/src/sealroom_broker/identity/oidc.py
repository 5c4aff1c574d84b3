# SPDX-License-Identifier: BSD-3-Clause
"""People of OpenID Connect providers: an ID token for this broker and for this attested server.

The token's nonce must be the one that is made from the session's attested key
(`sealroom.kbs.nonce.session_nonce`). A token that was issued to the hub, to another notebook server or to
another program has another nonce, or none, and opens nothing here.

A renewed ID token may have no nonce (OpenID Connect Core 1.0, section 12.2). It is taken only in a session
that the same person is bound to already, where it can do no more than prolong what the first token began.

Invariants:

- Several providers may be configured; a person is issuer and subject together.
- A login holds until its ID token ends (or as long as the configuration says); then it is presented anew.
- A provider that cannot be asked is "could not check" (503).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import httpx
from sealroom.errors import Error, NetworkError
from sealroom.kbs.calls import IdentityRequest, Person, Reason, Visa
from sealroom.kbs.nonce import session_nonce

from sealroom_broker.config import Issuer, VisaIssuer
from sealroom_broker.identity import tokens
from sealroom_broker.identity.base import Login, Presented, could_not_check, printable_token
from sealroom_broker.identity.discovery import Provider
from sealroom_broker.identity.fetch import Fetch
from sealroom_broker.identity.visas import VisaChecker, VisaSubject
from sealroom_broker.problem import Problem, refused

_log = logging.getLogger(__name__)

PASSPORT: Final = "ga4gh_passport_v1"

_SENTENCES: Final = {
    "person.audience": "The login that your server presented was not made for this broker.",
    "person.expired": "The login that your server presented has ended: log in again.",
    "person.time": "The login that your server presented does not hold at this time: log in again.",
    "person.nonce": "The login that your server presented was not made for this server: log in from it.",
    "person.claims": "The login that your server presented does not say who you are as this broker needs it.",
    "person.access_token": "The two tokens that your server presented do not belong together: log in again.",
}
_OTHER: Final = "The login that your server presented is not one that this broker accepts: log in again."


class OidcIdentity:
    """People of the configured providers.

    Args:
        issuers: The providers.
        visa_issuers: Whose visas count.
        transport: Another way to all of them, for tests.
        clock: Seconds that only go forward.

    Raises:
        ConfigurationError: A file of certificate authorities cannot be read.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        visa_issuers: Sequence[VisaIssuer] = (),
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = {
            one.issuer: (
                one,
                Provider(one.issuer, Fetch(one.timeout, one.ca, transport=transport), clock=clock),
            )
            for one in issuers
        }
        self._visas = VisaChecker(visa_issuers, transport=transport)

    @property
    def issuers(self) -> tuple[str, ...]:
        """The providers."""
        return tuple(self._issuers)

    @property
    def visa_issuers(self) -> tuple[str, ...]:
        """Whose visas count."""
        return self._visas.issuers

    def check(self, request: IdentityRequest, presented: Presented) -> Login:
        """Return who this is, and until when that holds.

        Raises:
            Problem: The login is refused (403), or could not be checked (503).
        """
        try:
            return self._check(request, presented)
        except NetworkError as error:
            _log.warning("identity: %s", error.message)
            raise could_not_check("the identity provider does not answer as it should") from error
        except Error as error:
            raise _refusal(error) from error

    def close(self) -> None:
        """Close all connections."""
        for _, provider in self._issuers.values():
            provider.close()
        self._visas.close()

    def _check(self, request: IdentityRequest, presented: Presented) -> Login:
        token = tokens.read(request.token)
        settings, provider = self._issuers.get(token.issuer, (None, None))
        if settings is None or provider is None:
            raise refused("person.issuer", "This broker does not know the identity provider of your login.")
        # 1. The token itself.
        exp = tokens.verify_id_token(token, provider.keys, _rules(settings), presented.now)
        # 2. The server that it was made for.
        subject = tokens.required_text(token.claims, settings.subject)
        bound = presented.person
        again = bound is not None and (bound.issuer, bound.subject) == (settings.issuer, subject)
        tokens.check_nonce(token.claims, session_nonce(presented.tee_pubkey), renewal=again)
        # 3. The person.
        visas, ignored = self._passport(request, token, settings, provider, presented.now)
        person = _person(token.claims, settings, subject, visas)
        until = max(
            exp + timedelta(seconds=settings.leeway), presented.now + timedelta(seconds=settings.hold)
        )
        return Login(person, until, ignored)

    def _passport(
        self,
        request: IdentityRequest,
        token: tokens.Token,
        settings: Issuer,
        provider: Provider,
        now: datetime,
    ) -> tuple[tuple[Visa, ...], tuple[Reason, ...]]:
        """Return the visas that count, and what does not."""
        if settings.passport == "none":
            return (), ()
        claims = token.claims
        if settings.passport == "userinfo":
            if not request.access_token:
                sentence = "Your server presented no access token, so your passport was not read."
                return (), (Reason(code="passport.none", sentence=sentence),)
            claims = _userinfo(request.access_token, token, provider)
        subject = VisaSubject(settings.issuer, tokens.required_text(token.claims, "sub"))
        leeway = timedelta(seconds=settings.leeway)
        return self._visas.check(claims.get(PASSPORT), subject, now, leeway)


def _rules(settings: Issuer) -> tokens.IdTokenRules:
    return tokens.IdTokenRules(
        issuer=settings.issuer,
        audience=settings.client_id,
        parties=settings.authorized_parties or (settings.client_id,),
        algorithms=settings.algorithms,
        leeway=timedelta(seconds=settings.leeway),
    )


def _person(claims: tokens.Claims, settings: Issuer, subject: str, visas: tuple[Visa, ...]) -> Person:
    name, email = tokens.find(claims, settings.username), tokens.text_claim(claims, "email")
    return Person(
        subject=subject,
        name=name if isinstance(name, str) and tokens.is_name(name) else subject,
        groups=tokens.names_claim(claims, settings.groups),
        issuer=settings.issuer,
        email=email if claims.get("email_verified") is True and tokens.is_name(email) else "",
        visas=visas,
    )


def _userinfo(access_token: str, token: tokens.Token, provider: Provider) -> tokens.Claims:
    """Return the provider's userinfo of the same person (OpenID Connect Core 1.0, section 5.3)."""
    if not printable_token(access_token):
        raise refused("person.access_token", _SENTENCES["person.access_token"])
    tokens.check_access_token(token.claims, token.header.get("alg"), access_token)
    url = provider.endpoint("userinfo_endpoint")
    status, claims = provider.fetch.get(url, {"Authorization": f"Bearer {access_token}"})
    if status in (401, 403):
        raise refused(
            "person.revoked", "The identity provider does not know your login any more: log in again."
        )
    if status != httpx.codes.OK:
        raise NetworkError(f"The userinfo of {provider.issuer} answered with status {status}.")
    # Section 5.3.2: without this, somebody else's access token would bring their passport along.
    if claims.get("sub") != token.claims.get("sub"):
        raise refused("person.access_token", _SENTENCES["person.access_token"])
    return claims


def _refusal(error: Error) -> Problem:
    code = tokens.code_of(error)
    return refused(code, _SENTENCES.get(code, _OTHER))
