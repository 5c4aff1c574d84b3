# SPDX-License-Identifier: BSD-3-Clause
"""GA4GH passports: one test for each thing that can be wrong with a visa."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.kbs.calls import IdentityRequest, Visa
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.nonce import session_nonce
from sealroom_broker.config import Issuer
from sealroom_broker.config import VisaIssuer as VisaSettings
from sealroom_broker.identity import Login, OidcIdentity, Presented
from sealroom_broker.identity.tokens import check_access_token
from sealroom_broker.identity.visas import MAX_VISAS, VisaChecker, VisaSubject, matches_pattern
from sealroom_broker.problem import Problem
from support.oidc import DAC, DATASET, ISSUER, VISA_ISSUER, VISA_KEYS, Provider, Signer, VisaIssuer

NOW = testing.NOW
KEY = TeeKey.generate()
NONCE = session_nonce(KEY.public_jwk())
SUBJECT = VisaSubject(ISSUER, "user-1")
LEEWAY = timedelta(seconds=30)


class Stand:
    """An issuer of visas and what checks them."""

    def __init__(self, **changes: Any) -> None:
        self.issuer = VisaIssuer()
        settings = VisaSettings.model_validate({"issuer": VISA_ISSUER, "jwks": VISA_KEYS} | changes)
        self.checker = VisaChecker([settings], transport=self.issuer.transport)
        self.now = NOW

    def check(self, *passport: object) -> tuple[tuple[Visa, ...], list[str]]:
        visas, ignored = self.checker.check(list(passport), SUBJECT, self.now, LEEWAY)
        assert all(one.sentence for one in ignored)
        return visas, [one.code for one in ignored]

    def ignored(self, visa: object) -> str:
        visas, codes = self.check(visa)
        assert visas == ()
        (code,) = codes
        return code


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.checker.close()


def test_controlled_access_grant(stand: Stand) -> None:
    visas, ignored = stand.check(stand.issuer.visa())
    assert ignored == []
    assert visas == (
        Visa(
            issuer=VISA_ISSUER,
            value=DATASET,
            source=DAC,
            by="dac",
            asserted=NOW - timedelta(days=1),
            until=NOW + timedelta(hours=1),
        ),
    )


def test_no_passport(stand: Stand) -> None:
    assert stand.checker.check(None, SUBJECT, NOW, LEEWAY) == ((), ())


@pytest.mark.parametrize("passport", ["x", {}, 1, ["x"] * (MAX_VISAS + 1)])
def test_passport_that_is_none(stand: Stand, passport: object) -> None:
    visas, (reason,) = stand.checker.check(passport, SUBJECT, NOW, LEEWAY)
    assert (visas, reason.code) == ((), "passport.form")


def test_unknown_type_is_named(stand: Stand) -> None:
    assert stand.ignored(stand.issuer.visa(type="https://ras.nih.gov/visas/v1.1")) == "visa.type"


def test_other_standard_types_open_nothing_and_are_nothing_special(stand: Stand) -> None:
    assert stand.check(stand.issuer.visa(type="ResearcherStatus")) == ((), [])


def test_one_bad_visa_does_not_spoil_the_others(stand: Stand) -> None:
    visas, ignored = stand.check("rubbish", stand.issuer.visa(), 7)
    assert (len(visas), ignored) == (1, ["visa.form", "visa.form"])


# --- by whom


def test_issuer_that_is_not_trusted(stand: Stand) -> None:
    claims = stand.issuer.claims() | {"iss": "https://evil.example"}
    assert stand.ignored(stand.issuer.sign(claims)) == "visa.issuer"


def test_keys_at_another_place_are_never_read(stand: Stand) -> None:
    evil = Signer("visa-key", "RS256")
    headers = {"typ": "vnd.ga4gh.visa+jwt", "jku": "https://evil.example/keys"}
    assert stand.ignored(evil.sign(stand.issuer.claims(), **headers)) == "visa.jku"


def test_signature_of_another_key(stand: Stand) -> None:
    evil = Signer("visa-key", "RS256")
    headers = {"typ": "vnd.ga4gh.visa+jwt", "jku": VISA_KEYS}
    assert stand.ignored(evil.sign(stand.issuer.claims(), **headers)) == "visa.signature"


def test_keys_that_cannot_be_read_are_no_pass(stand: Stand) -> None:
    stand.issuer.reachable = False
    assert stand.ignored(stand.issuer.visa()) == "visa.unchecked"


def test_source_that_the_issuer_may_not_speak_for() -> None:
    stand = Stand(sources=["https://other-dac.example"])
    assert stand.ignored(stand.issuer.visa()) == "visa.source"
    assert Stand(sources=[DAC]).check() == ((), [])


# --- when


def test_visa_that_has_ended(stand: Stand) -> None:
    visa = stand.issuer.visa()
    stand.now += timedelta(hours=1, seconds=31)
    assert stand.ignored(visa) == "visa.time"


def test_visa_of_the_future(stand: Stand) -> None:
    assert stand.ignored(stand.issuer.visa(NOW + timedelta(minutes=2))) == "visa.time"


def test_visa_asserted_in_the_future(stand: Stand) -> None:
    later = int((NOW + timedelta(minutes=2)).timestamp())
    assert stand.ignored(stand.issuer.visa(asserted=later)) == "visa.time"


@pytest.mark.parametrize("claim", ["exp", "iat"])
def test_visa_without_a_time(stand: Stand, claim: str) -> None:
    claims = stand.issuer.claims()
    del claims[claim]
    assert stand.ignored(stand.issuer.sign(claims)) == "visa.time"


# --- whose


def test_visa_of_another_person_of_the_same_issuer() -> None:
    issuer = VisaIssuer(ISSUER, VISA_KEYS)
    checker = VisaChecker([VisaSettings(issuer=ISSUER, jwks=VISA_KEYS)], transport=issuer.transport)
    mine = issuer.sign(issuer.claims() | {"sub": "user-1"})
    visas, ignored = checker.check([mine, issuer.visa()], SUBJECT, NOW, LEEWAY)
    assert (len(visas), [one.code for one in ignored]) == (1, ["visa.person"])
    checker.close()


@pytest.mark.parametrize("sub", [None, "", 1, ["x"]])
def test_visa_of_nobody(stand: Stand, sub: object) -> None:
    claims = {k: v for k, v in (stand.issuer.claims() | {"sub": sub}).items() if v is not None}
    assert stand.ignored(stand.issuer.sign(claims)) == "visa.form"


# --- what it says


@pytest.mark.parametrize("member", ["type", "value", "source", "asserted"])
@pytest.mark.parametrize("value", [None, "", {"a": 1}, "x" * 256])
def test_visa_that_lacks_something(stand: Stand, member: str, value: Any) -> None:
    assert stand.ignored(stand.issuer.visa(**{member: value})) == "visa.form"


@pytest.mark.parametrize("visa", [None, "x", [], 1])
def test_visa_without_a_visa_in_it(stand: Stand, visa: object) -> None:
    assert stand.ignored(stand.issuer.sign(stand.issuer.claims() | {"ga4gh_visa_v1": visa})) == "visa.form"


def test_decider_of_an_unknown_kind_is_left_out(stand: Stand) -> None:
    visas, _ = stand.check(stand.issuer.visa(by="the-king"))
    assert visas[0].by == ""


@pytest.mark.parametrize("typ", ["vnd.ga4gh.passport+jwt", "logout+jwt", 1, ["JWT"]])
def test_other_kind_of_token(stand: Stand, typ: object) -> None:
    assert stand.ignored(stand.issuer.sign(stand.issuer.claims(), typ=typ)) == "visa.form"


def test_visa_access_token_needs_its_scope(stand: Stand) -> None:
    claims = stand.issuer.claims()
    assert stand.ignored(stand.issuer.sign(claims, jku=None)) == "visa.form"
    with_scope = stand.issuer.sign(claims | {"scope": "openid ga4gh_passport_v1"}, jku=None)
    assert len(stand.check(with_scope)[0]) == 1


# --- conditions

ROLE: dict[str, Any] = {
    "type": "AffiliationAndRole",
    "value": "faculty@uni.example",
    "source": "https://uni.example",
}


def clause(**changes: object) -> dict[str, object]:
    return {"type": "AffiliationAndRole", "value": "const:faculty@uni.example"} | changes


@pytest.mark.parametrize(
    "conditions",
    [
        [],
        [[clause()]],
        [[clause(value="pattern:faculty@*")]],
        [[clause(value="pattern:*@uni?example")]],
        [[clause(value="split_pattern:faculty@*")]],
        [[clause(value="const:other")], [clause()]],
        [[clause(), clause(source="const:https://uni.example")]],
    ],
)
def test_conditions_that_are_met(stand: Stand, conditions: object) -> None:
    grant = stand.issuer.visa(conditions=conditions)
    assert [one.value for one in stand.check(grant, stand.issuer.visa(**ROLE))[0]] == [DATASET]


@pytest.mark.parametrize(
    "conditions",
    [
        [[clause(value="const:student@uni.example")]],
        [[clause(value="const:FACULTY@uni.example")]],
        [[clause(value="pattern:faculty@")]],
        [[clause(value="regex:.*")]],
        [[clause(value="faculty@uni.example")]],
        [[clause(value=1)]],
        [[clause(by="const:so")]],
        [[clause(asserted="const:1")]],
        [[clause(conditions="const:x")]],
        [[clause(type="ResearcherStatus")]],
        [[{"type": "AffiliationAndRole"}]],
        [[{"value": "const:faculty@uni.example"}]],
        [[clause(), clause(value="const:other")]],
        [[]],
        [[clause()], []],
        [clause()],
        {"a": 1},
        "x",
        [["x"]],
        [[clause()] * 51],
    ],
)
def test_conditions_that_are_not_met(stand: Stand, conditions: object) -> None:
    grant = stand.issuer.visa(conditions=conditions)
    assert stand.check(grant, stand.issuer.visa(**ROLE)) == ((), ["visa.conditions"])


def test_condition_is_not_met_by_a_visa_with_conditions(stand: Stand) -> None:
    grant = stand.issuer.visa(conditions=[[clause()]])
    role = stand.issuer.visa(**ROLE, conditions=[[{"type": "ResearcherStatus", "value": "const:x"}]])
    assert stand.check(grant, role) == ((), ["visa.conditions"])


def test_condition_is_not_met_by_a_visa_of_another_identity(stand: Stand) -> None:
    grant = stand.issuer.visa(conditions=[[clause()]])
    role = stand.issuer.sign(stand.issuer.claims(**ROLE) | {"sub": "visa-user-2"})
    assert stand.check(grant, role) == ((), ["visa.conditions"])


def test_condition_is_not_met_by_a_visa_that_does_not_count(stand: Stand) -> None:
    grant = stand.issuer.visa(conditions=[[clause()]])
    forged = Signer("visa-key", "RS256").sign(stand.issuer.claims(**ROLE), jku=VISA_KEYS)
    assert stand.check(grant, forged) == ((), ["visa.signature", "visa.conditions"])


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("?", "", False),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "aXbXbX", False),
        ("**a", "ba", True),
        ("a?c", "abc", True),
        ("a.c", "abc", False),
        ("[a]", "a", False),
    ],
)
def test_patterns(pattern: str, text: str, *, expected: bool) -> None:
    assert matches_pattern(pattern, text) is expected


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=8))
def test_patterns_agree_with_the_plain_definition(pattern: str, text: str) -> None:
    def plain(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "*":
            return any(plain(p[1:], t[n:]) for n in range(len(t) + 1))
        return bool(t) and p[0] in ("?", t[0]) and plain(p[1:], t[1:])

    assert matches_pattern(pattern, text) == plain(pattern, text)


def test_no_pattern_takes_long() -> None:
    # Going back to every star would take years.
    assert not matches_pattern("a*" * 127 + "b", "a" * 255)


# --- the passport on its way


class Passport:
    """A provider whose people have passports."""

    def __init__(self, where: str = "token") -> None:
        self.provider, self.visas = Provider(), VisaIssuer()

        def handle(request: httpx.Request) -> httpx.Response:
            if request.url.host == "visas.example":
                return self.visas.transport.handle_request(request)
            return self.provider.handle(request)

        issuer = Issuer.model_validate({"issuer": ISSUER, "client_id": "sealroom-broker", "passport": where})
        settings = VisaSettings(issuer=VISA_ISSUER, jwks=VISA_KEYS)
        self.identity = OidcIdentity([issuer], [settings], transport=httpx.MockTransport(handle))

    def check(self, access: str = "", **claims: Any) -> Login:
        token = self.provider.token(nonce=NONCE, **claims)
        request = IdentityRequest(provider="oidc", token=token, access_token=access)
        return self.identity.check(request, Presented(KEY.public_jwk(), None, NOW))

    def problem(self, access: str, **claims: Any) -> tuple[int, str]:
        with pytest.raises(Problem) as caught:
            self.check(access, **claims)
        return caught.value.status, caught.value.body.reasons[0].code


def test_passport_in_the_token() -> None:
    stand = Passport()
    login = stand.check(ga4gh_passport_v1=[stand.visas.visa(), "rubbish"])
    assert [one.value for one in login.person.visas] == [DATASET]
    assert [one.code for one in login.ignored] == ["visa.form"]
    assert login.ignored[0].sentence.startswith("Visa 2 of your passport")


def test_passport_that_was_not_asked_for() -> None:
    stand = Passport("none")
    assert stand.check(ga4gh_passport_v1=[stand.visas.visa()]).person.visas == ()


def test_passport_in_the_userinfo() -> None:
    stand = Passport("userinfo")
    stand.provider.userinfo["ga4gh_passport_v1"] = [stand.visas.visa()]
    assert [one.value for one in stand.check("access").person.visas] == [DATASET]
    assert stand.provider.asked[-1].headers["Authorization"] == "Bearer access"


def test_userinfo_without_an_access_token_is_said() -> None:
    login = Passport("userinfo").check()
    assert (login.person.visas, [one.code for one in login.ignored]) == ((), ["passport.none"])


def test_userinfo_of_another_person() -> None:
    stand = Passport("userinfo")
    stand.provider.userinfo |= {"sub": "user-2", "ga4gh_passport_v1": [stand.visas.visa()]}
    assert stand.problem("access") == (403, "person.access_token")


def test_access_token_that_came_with_another_token() -> None:
    assert Passport("userinfo").problem("access", at_hash="AAAA") == (403, "person.access_token")


def test_access_token_that_came_with_this_token() -> None:
    # OpenID Connect Core 1.0, appendix A.3, for SHA-256.
    token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"
    check_access_token({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}, "RS256", token)


@pytest.mark.parametrize("access", ["two words", "line\nbreak", "ü"])
def test_what_is_no_access_token(access: str) -> None:
    assert Passport("userinfo").problem(access) == (403, "person.access_token")


@pytest.mark.parametrize("status", [401, 403])
def test_login_that_the_provider_has_ended(status: int) -> None:
    stand = Passport("userinfo")
    stand.provider.answers["/realms/lab/userinfo"] = lambda _: httpx.Response(status, json={})
    assert stand.problem("access") == (403, "person.revoked")


@pytest.mark.parametrize("status", [302, 404, 500])
def test_userinfo_that_answers_something_else_is_no_pass(status: int) -> None:
    stand = Passport("userinfo")
    stand.provider.answers["/realms/lab/userinfo"] = lambda _: httpx.Response(status, json={})
    assert stand.problem("access") == (503, "person.unchecked")
