# SPDX-License-Identifier: BSD-3-Clause
"""Visas of a GA4GH passport: who may use which controlled dataset, signed by somebody the broker trusts.

GA4GH Passport 1.2 and GA4GH AAI OpenID Connect Profile 1.2. The passport comes from the person's identity
provider, which vouches that the visas are theirs; each visa is signed by its own issuer.

Invariants:

- A visa counts only if a configured issuer signed it, with a key from the configured address: a `jku` in its
  header never names a place to read keys from, it must be the configured one.
- Only `ControlledAccessGrants` open anything. Visas with conditions count where other verified visas of the
  same visa identity meet them; `LinkedIdentities` are not followed.
- Whatever does not count is left out and named to the person; it refuses nobody.
- No URL in a visa is read; they are compared as texts (Passport, URL Claims).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import httpx
from sealroom.errors import Error, FormatError, NetworkError, VerificationError
from sealroom.kbs.calls import Reason, Visa

from sealroom_broker.config import SIGNATURE_ALGORITHMS, VisaIssuer
from sealroom_broker.identity import tokens
from sealroom_broker.identity.fetch import Fetch
from sealroom_broker.identity.jwks import KeySet

_log = logging.getLogger(__name__)

CONTROLLED_ACCESS: Final = "ControlledAccessGrants"
STANDARD_TYPES: Final = frozenset(
    {
        CONTROLLED_ACCESS,
        "AffiliationAndRole",
        "AcceptedTermsAndPolicies",
        "ResearcherStatus",
        "LinkedIdentities",
    }
)
MAX_VISAS: Final = 100
_TIMEOUT: Final = 10.0
_BY: Final = frozenset({"self", "peer", "system", "so", "dac"})
_TYP: Final = frozenset({"JWT", "jwt", "vnd.ga4gh.visa+jwt", "application/vnd.ga4gh.visa+jwt", "at+jwt"})
_MAX_CLAUSES: Final = 50
_MATCHED: Final = frozenset({"value", "source", "by"})
"""Claims that a condition may look at: those of a visa object with a text, `type` apart."""


@dataclass(frozen=True, slots=True)
class VisaSubject:
    """Whose passport it is, as the identity provider says."""

    issuer: str
    sub: str


@dataclass(frozen=True, slots=True)
class _Verified:
    """A visa whose signature and times are right."""

    issuer: str
    sub: str
    until: datetime
    type: str
    value: str
    source: str
    by: str
    asserted: datetime
    conditions: object


class VisaChecker:
    """Checks passports.

    Args:
        issuers: Whose visas count.
        transport: Another way to their keys, for tests.

    Raises:
        ConfigurationError: A file of certificate authorities cannot be read.
    """

    def __init__(
        self, issuers: Sequence[VisaIssuer], *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._fetches = [Fetch(_TIMEOUT, one.ca, transport=transport) for one in issuers]
        self._issuers = {
            one.issuer: (one, _keys(fetch, one.jwks))
            for one, fetch in zip(issuers, self._fetches, strict=True)
        }

    @property
    def issuers(self) -> tuple[str, ...]:
        """Whose visas count."""
        return tuple(self._issuers)

    def close(self) -> None:
        """Close all connections."""
        for fetch in self._fetches:
            fetch.close()

    def check(
        self, passport: object, subject: VisaSubject, now: datetime, leeway: timedelta
    ) -> tuple[tuple[Visa, ...], tuple[Reason, ...]]:
        """Return the visas that count, and what of the passport does not and why.

        Args:
            passport: The claim `ga4gh_passport_v1`; None if there is none.
            subject: Whose it is.
            now: When to judge.
            leeway: How far the issuers' clocks may be off.
        """
        if passport is None:
            return (), ()
        if not isinstance(passport, list) or len(passport) > MAX_VISAS:
            return (), (Reason(code="passport.form", sentence="Your passport is not a list of visas."),)
        verified: list[_Verified] = []
        ignored: list[Reason] = []
        for number, text in enumerate(passport, 1):
            try:
                verified.append(self._verify(text, subject, now, leeway))
            except NetworkError as error:
                _log.warning("visa: %s", error.message)
                ignored.append(_ignored(number, "visa.unchecked", "could not be checked; try again later"))
            except Error as error:
                code = error.check if error.check.startswith("visa.") else "visa.form"
                ignored.append(_ignored(number, code, f"does not count: {error.message}"))
        counting: list[Visa] = []
        for one in verified:
            if one.type not in STANDARD_TYPES:
                ignored.append(_of_type(one, "visa.type", "is of a type that this broker does not know"))
            elif one.type == CONTROLLED_ACCESS:
                if _met(one, verified):
                    counting.append(_visa(one))
                else:
                    ignored.append(_of_type(one, "visa.conditions", "has conditions that are not met"))
        return tuple(counting), tuple(ignored)

    def _verify(self, text: object, subject: VisaSubject, now: datetime, leeway: timedelta) -> _Verified:
        # 1. Form and issuer.
        if not isinstance(text, str):
            raise FormatError("it is not a signed JWT.", check="visa.form")
        token = tokens.read(text)
        settings, keys = self._issuers.get(token.issuer, (None, None))
        if settings is None or keys is None:
            raise VerificationError("this broker does not trust its issuer.", check="visa.issuer")
        _check_header(token, settings)
        # 2. Signature and times.
        try:
            tokens.verify_signature(token, keys, SIGNATURE_ALGORITHMS)
        except NetworkError:
            raise
        except Error as error:
            raise VerificationError("its signature is wrong.", check="visa.signature") from error
        try:
            exp = tokens.check_times(token.claims, now, leeway)
        except Error as error:
            raise VerificationError("it has ended, or does not hold yet.", check="visa.time") from error
        # 3. What it says, and of whom.
        visa = _read(token, settings, exp)
        if visa.issuer == subject.issuer and visa.sub != subject.sub:
            raise VerificationError("it is another person's.", check="visa.person")
        if visa.asserted > now + leeway:
            raise VerificationError("it was asserted in the future.", check="visa.time")
        return visa


def _keys(fetch: Fetch, url: str) -> KeySet:
    return KeySet(fetch, lambda: url)


def _check_header(token: tokens.Token, settings: VisaIssuer) -> None:
    header = token.header
    if token.type not in _TYP:
        raise FormatError("it is of another kind than a visa.", check="visa.form")
    # AAI profile, Visa Document Token Format: the clearinghouse knows the address for each issuer.
    if "jku" in header:
        if header["jku"] != settings.jwks:
            raise VerificationError(
                "it names another place for its issuer's keys than this broker has.", check="visa.jku"
            )
    elif "openid" not in tokens.text_claim(token.claims, "scope").split():
        raise FormatError("it has neither jku nor scope.", check="visa.form")


def _read(token: tokens.Token, settings: VisaIssuer, exp: datetime) -> _Verified:
    visa = token.claims.get("ga4gh_visa_v1")
    sub = token.claims.get("sub")
    if not isinstance(visa, Mapping) or not isinstance(sub, str) or not sub:
        raise FormatError("it has no visa in it.", check="visa.form")
    kind, value, source = (tokens.text_claim(visa, name) for name in ("type", "value", "source"))
    if not all(map(tokens.is_name, (kind, value, source))):
        raise FormatError("it lacks a type, a value or a source.", check="visa.form")
    if settings.sources and source not in settings.sources:
        raise VerificationError("its issuer may not speak for its source.", check="visa.source")
    by = tokens.text_claim(visa, "by")
    try:
        asserted = tokens.moment_claim(visa, "asserted")
    except FormatError as error:
        raise FormatError("it does not say when it was asserted.", check="visa.form") from error
    return _Verified(
        issuer=settings.issuer,
        sub=sub,
        until=exp,
        type=kind,
        value=value,
        source=source,
        by=by if by in _BY else "",
        asserted=asserted,
        conditions=visa.get("conditions"),
    )


def _met(visa: _Verified, others: Sequence[_Verified]) -> bool:
    """Tell whether a visa's conditions are met: one of the lists, and in it every clause."""
    if visa.conditions is None or visa.conditions == []:
        return True
    if not isinstance(visa.conditions, list):
        return False
    # Visas with conditions of their own meet none (Passport, conditions); nor do those of another identity.
    usable = [
        one
        for one in others
        if not one.conditions and (one.issuer, one.sub) == (visa.issuer, visa.sub) and one is not visa
    ]
    lists = visa.conditions
    if not all(isinstance(clauses, list) and clauses for clauses in lists):
        return False
    if sum(map(len, lists)) > _MAX_CLAUSES:
        return False
    return any(all(any(_clause(c, one) for one in usable) for c in clauses) for clauses in lists)


def _clause(clause: object, visa: _Verified) -> bool:
    if not isinstance(clause, Mapping) or clause.get("type") != visa.type:
        return False
    rest = {name: pattern for name, pattern in clause.items() if name != "type"}
    if not rest or not set(rest) <= _MATCHED:
        return False
    return all(_matches(pattern, getattr(visa, name)) for name, pattern in rest.items())


def _matches(pattern: object, text: str) -> bool:
    if not isinstance(pattern, str):
        return False
    how, colon, what = pattern.partition(":")
    if not colon or len(what) > tokens.MAX_NAME:
        return False
    if how == "const":
        return text == what
    if how == "pattern":
        return matches_pattern(what, text)
    if how == "split_pattern":
        return any(matches_pattern(what, part) for part in text.split(";"))
    return False


def matches_pattern(pattern: str, text: str) -> bool:
    """Tell whether a pattern with `?` (one character) and `*` (any number) fits a whole text.

    Goes back to the last `*` only, so that no pattern takes long.
    """
    at, start, star, kept = 0, 0, -1, 0
    while start < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, kept, at = at, start, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[start]):
            at, start = at + 1, start + 1
        elif star >= 0:
            kept += 1
            at, start = star + 1, kept
        else:
            return False
    return not pattern[at:].strip("*")


def _visa(one: _Verified) -> Visa:
    return Visa(
        issuer=one.issuer,
        value=one.value,
        source=one.source,
        by=one.by,
        asserted=one.asserted,
        until=one.until,
    )


Code = Literal["visa.type", "visa.conditions"]


def _ignored(number: int, code: str, why: str) -> Reason:
    return Reason(code=code, sentence=f"Visa {number} of your passport {why.rstrip('.')}.")


def _of_type(one: _Verified, code: Code, why: str) -> Reason:
    return Reason(code=code, sentence=f"Your visa of the type {one.type[:80]} for {one.value} {why}.")
