# SPDX-License-Identifier: BSD-3-Clause
"""ID tokens: one test for each thing that can be wrong with one."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.kbs.calls import IdentityRequest, Person
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.nonce import session_nonce
from sealroom_broker.config import Identity, Issuer
from sealroom_broker.identity import Login, OidcIdentity, Presented, Providers, open_identity
from sealroom_broker.identity.jwks import MAX_AGE, MIN_PAUSE
from sealroom_broker.problem import Problem
from support.oidc import ISSUER, Provider, Signer

NOW = testing.NOW
KEY, OTHER_KEY = TeeKey.generate(), TeeKey.generate()
NONCE = session_nonce(KEY.public_jwk())
ALICE = Person(subject="user-1", name="alice", issuer=ISSUER)


class Stand:
    """A provider and the part of the broker that asks it."""

    def __init__(self, provider: Provider | None = None, **changes: Any) -> None:
        self.provider = provider or Provider()
        configured = {"issuer": ISSUER, "client_id": "sealroom-broker"} | changes
        self.seconds = 1000.0
        self.identity = OidcIdentity(
            [Issuer.model_validate(configured)],
            transport=self.provider.transport,
            clock=lambda: self.seconds,
        )
        self.now = NOW

    def check(
        self, token: str | None = None, *, person: Person | None = None, access: str = "", **claims: Any
    ) -> Login:
        text = token if token is not None else self.provider.token(**({"nonce": NONCE} | claims))
        request = IdentityRequest(provider="oidc", token=text, access_token=access)
        return self.identity.check(request, Presented(KEY.public_jwk(), person, self.now))

    def problem(self, token: str | None = None, **kwargs: Any) -> tuple[int, str]:
        with pytest.raises(Problem) as caught:
            self.check(token, **kwargs)
        assert not token or token not in str(caught.value)
        return caught.value.status, caught.value.body.reasons[0].code


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.identity.close()


def test_person_of_a_token(stand: Stand) -> None:
    login = stand.check(email="a@lab.example", email_verified=True)
    assert login.person == Person(
        subject="user-1", name="alice", groups=("cardiology",), issuer=ISSUER, email="a@lab.example"
    )
    assert login.until == NOW + timedelta(minutes=5, seconds=30)


def test_address_that_the_provider_did_not_verify_is_left_out(stand: Stand) -> None:
    assert stand.check(email="a@lab.example", email_verified=False).person.email == ""
    assert stand.check(email="a@lab.example").person.email == ""


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_algorithms(algorithm: str) -> None:
    assert Stand(Provider(ISSUER, Signer(algorithm=algorithm))).check().person.subject == "user-1"


# --- whose token it is


def test_token_of_another_session(stand: Stand) -> None:
    other = session_nonce(OTHER_KEY.public_jwk())
    assert stand.problem(nonce=other) == (403, "person.nonce")


@pytest.mark.parametrize("nonce", [None, "", 1, ["x"], NONCE + "=", NONCE.lower(), "ü"])
def test_token_without_the_nonce(stand: Stand, nonce: object) -> None:
    assert stand.problem(nonce=nonce) == (403, "person.nonce")


def test_renewed_token_without_a_nonce_for_the_person_who_is_bound(stand: Stand) -> None:
    assert stand.check(person=ALICE, nonce=None).person.subject == "user-1"


@pytest.mark.parametrize("change", [{"subject": "user-2"}, {"issuer": "https://other.example"}])
def test_token_without_a_nonce_for_another_person_than_is_bound(stand: Stand, change: dict[str, str]) -> None:
    bound = ALICE.model_copy(update=change)
    assert stand.problem(person=bound, nonce=None) == (403, "person.nonce")


def test_token_with_another_nonce_for_the_person_who_is_bound(stand: Stand) -> None:
    assert stand.problem(person=ALICE, nonce="another") == (403, "person.nonce")


# --- for whom


@pytest.mark.parametrize(
    "audience",
    [
        "hub",
        ["hub"],
        [],
        None,
        1,
        {"a": "sealroom-broker"},
        ["sealroom-broker", "hub"],
        ["sealroom-broker", {}],
    ],
)
def test_token_for_another_audience(stand: Stand, audience: object) -> None:
    assert stand.problem(aud=audience) == (403, "person.audience")


def test_token_that_another_client_got(stand: Stand) -> None:
    assert stand.problem(azp="hub") == (403, "person.audience")


def test_token_for_several_without_an_authorized_party() -> None:
    stand = Stand(authorized_parties=["sealroom-broker", "notebook"])
    assert stand.problem(aud=["sealroom-broker", "notebook"], azp=None) == (403, "person.audience")
    assert stand.check(aud=["sealroom-broker", "notebook"], azp="notebook").person.subject == "user-1"


# --- when


def test_token_that_has_ended(stand: Stand) -> None:
    stand.now += timedelta(minutes=5, seconds=30)
    assert stand.problem() == (403, "person.expired")


def test_clocks_may_differ_by_the_leeway(stand: Stand) -> None:
    stand.now += timedelta(minutes=5, seconds=29)
    assert stand.check().person.subject == "user-1"
    stand.now = NOW - timedelta(seconds=30)
    assert stand.check().person.subject == "user-1"


def test_token_of_the_future(stand: Stand) -> None:
    stand.now -= timedelta(seconds=31)
    assert stand.problem() == (403, "person.time")


def test_token_that_does_not_hold_yet(stand: Stand) -> None:
    later = int((NOW + timedelta(minutes=1)).timestamp())
    assert stand.problem(nbf=later) == (403, "person.time")


@pytest.mark.parametrize("claim", ["exp", "iat"])
@pytest.mark.parametrize("value", [None, "1", True, 1e300, -1e300])
def test_token_without_a_usable_time(stand: Stand, claim: str, value: Any) -> None:
    status, code = stand.problem(**{claim: value})
    assert (status, code) == (403, "person.time")


def test_login_may_be_held_longer_than_its_token() -> None:
    assert Stand(hold=3600).check().until == NOW + timedelta(hours=1)


# --- by whom


def test_token_of_an_issuer_that_is_not_configured(stand: Stand) -> None:
    assert stand.problem(iss="https://evil.example") == (403, "person.issuer")
    assert not stand.provider.asked


def test_token_signed_with_another_key_of_the_same_id(stand: Stand) -> None:
    forged = Signer("key-1").sign(stand.provider.claims(nonce=NONCE))
    assert stand.problem(forged) == (403, "person.token")


def test_changed_token(stand: Stand) -> None:
    header, payload, signature = stand.provider.token(nonce=NONCE).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "user-2"
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    assert stand.problem(f"{header}.{changed}.{signature}") == (403, "person.token")


def test_token_without_a_signature(stand: Stand) -> None:
    claims = stand.provider.claims(nonce=NONCE)
    token = jwt.encode(claims, None, algorithm="none", headers={"kid": "key-1"})  # type: ignore[arg-type]
    assert stand.problem(token) == (403, "person.token")


def test_token_signed_with_the_public_key_as_a_shared_secret() -> None:
    stand = Stand(Provider(ISSUER, Signer(algorithm="RS256")))
    public = stand.provider.signers[0].key.public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "kid": "key-1"}, stand.provider.claims(nonce=NONCE))
    )
    mac = hmac.digest(secret, f"{head}.{payload}".encode(), "sha256")
    token = f"{head}.{payload}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert stand.problem(token) == (403, "person.token")


def test_token_with_an_algorithm_that_this_provider_may_not_use() -> None:
    assert Stand(algorithms=["RS256"]).problem() == (403, "person.token")


def test_token_whose_algorithm_does_not_fit_its_key(stand: Stand) -> None:
    signer = Signer("key-1", "ES384")
    assert stand.problem(signer.sign(stand.provider.claims(nonce=NONCE))) == (403, "person.token")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False}])
def test_header_that_asks_for_what_is_not_understood(stand: Stand, header: dict[str, Any]) -> None:
    token = stand.provider.signers[0].sign(stand.provider.claims(nonce=NONCE), **header)
    assert stand.problem(token) == (403, "person.token")


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "ES384"}, {"kid": "key-2"}, {"kty": "RSA"}, {"crv": "P-384"}, {"x": "AA"}],
)
def test_published_key_that_is_not_for_this(change: dict[str, str]) -> None:
    stand = Stand()
    keys = [stand.provider.signers[0].jwk(**change)]
    stand.provider.answers["/realms/lab/keys"] = lambda _: httpx.Response(200, json={"keys": keys})
    assert stand.problem() == (403, "person.token")


def test_weak_rsa_key() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    stand = Stand(Provider(ISSUER, Signer("key-1", "RS256", weak)))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = stand.provider.token(nonce=NONCE)
    assert stand.problem(token) == (403, "person.token")


def test_two_keys_with_one_id() -> None:
    stand = Stand(Provider(ISSUER, Signer("key-1"), Signer("key-1")))
    assert stand.problem() == (403, "person.token")


def test_token_without_a_key_id() -> None:
    stand = Stand()
    token = stand.provider.signers[0].sign(stand.provider.claims(nonce=NONCE), kid=None)
    assert stand.check(token).person.subject == "user-1"
    stand.provider.signers.append(Signer("key-2"))
    fresh = Stand(stand.provider)
    assert fresh.problem(token) == (403, "person.token")


# --- what it is


@pytest.mark.parametrize("claims", [{"typ": "Bearer"}, {"typ": "Logout"}, {"events": {}}])
def test_other_token_of_the_same_provider(stand: Stand, claims: dict[str, Any]) -> None:
    assert stand.problem(**claims) == (403, "person.token")


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "vnd.ga4gh.visa+jwt", 1, ["JWT"]])
def test_other_token_by_its_header(stand: Stand, typ: object) -> None:
    token = stand.provider.signers[0].sign(stand.provider.claims(nonce=NONCE), typ=typ)
    assert stand.problem(token) == (403, "person.token")


@pytest.mark.parametrize("subject", [None, "", 1, ["x"], "x" * 256, "line\nbreak"])
def test_token_without_a_usable_subject(stand: Stand, subject: object) -> None:
    assert stand.problem(sub=subject) == (403, "person.claims")


@pytest.mark.parametrize("groups", [1, {"a": 1}, [1], [""], ["x" * 256], [["a"]]])
def test_groups_that_are_no_names(stand: Stand, groups: object) -> None:
    assert stand.problem(groups=groups) == (403, "person.claims")


def test_no_groups(stand: Stand) -> None:
    assert stand.check(groups=None).person.groups == ()


def test_claims_by_configuration() -> None:
    stand = Stand(subject="voperson_id", username="name", groups=["realm_access", "roles"])
    person = stand.check(voperson_id="p-7", name="Ada", realm_access={"roles": ["r1", "r2", "r1"]}).person
    assert (person.subject, person.name, person.groups) == ("p-7", "Ada", ("r1", "r2"))


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b.c", "a.b.c.d", ".".join(["e30"] * 3), "é.é.é", "a b.c.d", "W10.W10.x", "x" * 70000],
)
def test_what_is_no_token(stand: Stand, token: str) -> None:
    status, _ = stand.problem(token)
    assert status == 403
    assert not stand.provider.asked


def test_member_that_is_there_twice(stand: Stand) -> None:
    text = json.dumps(stand.provider.claims(nonce=NONCE))
    twice = text[:-1] + ', "sub": "user-2"}'
    token = jwt.PyJWS().encode(twice.encode(), stand.provider.signers[0].key, "ES256", {"kid": "key-1"})
    assert stand.problem(token) == (403, "person.token")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(min_value=0), char=st.sampled_from("Aa0_-.=! \x00é"))
def test_no_changed_character_gets_past(stand: Stand, at: int, char: str) -> None:
    token = stand.provider.token(nonce=NONCE)
    at %= len(token) - 1  # the last character has unused bits
    changed = token[:at] + char + token[at + 1 :]
    if changed != token:
        status, _ = stand.problem(changed)
        assert status == 403


# --- the provider


def test_new_key_is_found_after_a_pause(stand: Stand) -> None:
    stand.check()
    stand.provider.signers.insert(0, Signer("key-2"))
    assert stand.problem() == (403, "person.token")
    stand.seconds += MIN_PAUSE + 1
    assert stand.check().person.subject == "user-1"


def test_unknown_key_ids_do_not_make_the_broker_ask_each_time(stand: Stand) -> None:
    for number in range(20):
        token = Signer(f"made-up-{number}").sign(stand.provider.claims(nonce=NONCE))
        assert stand.problem(token) == (403, "person.token")
        stand.seconds += 5
    # At 0 seconds, and at the first time after each pause: 35 and 70 seconds.
    assert stand.provider.count("keys") == 3


def test_key_that_was_taken_back(stand: Stand) -> None:
    token = stand.provider.token(nonce=NONCE)
    stand.check(token)
    stand.provider.signers[:] = [Signer("key-2")]
    stand.check(token)
    stand.seconds += MAX_AGE + 1
    assert stand.problem(token) == (403, "person.token")


def test_keys_are_not_used_longer_because_the_provider_is_gone(stand: Stand) -> None:
    stand.check()
    stand.provider.answers["/realms/lab/keys"] = lambda _: httpx.Response(500)
    stand.check()
    stand.seconds += MAX_AGE + 1
    assert stand.problem() == (503, "person.unchecked")


def answer(status: int = 200, **content: Any) -> Any:
    return lambda _: httpx.Response(status, **content)


DOCUMENT = "/realms/lab/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (DOCUMENT, answer(500)),
        (DOCUMENT, answer(302, headers={"Location": "https://elsewhere.example/"})),
        (DOCUMENT, answer(404, json={})),
        (DOCUMENT, answer(content=b"<html>")),
        (DOCUMENT, answer(json=[])),
        (DOCUMENT, answer(content=b" " * (2 << 20))),
        (DOCUMENT, answer(json={"issuer": ISSUER + "/", "jwks_uri": ISSUER + "/keys"})),
        (DOCUMENT, answer(json={"issuer": ISSUER})),
        (DOCUMENT, answer(json={"issuer": ISSUER, "jwks_uri": "http://login.example/keys"})),
        (DOCUMENT, answer(json={"issuer": ISSUER, "jwks_uri": "file:///etc/keys"})),
        (DOCUMENT, answer(json={"issuer": ISSUER, "jwks_uri": "https://[bad/keys"})),
        ("/realms/lab/keys", answer(503)),
        ("/realms/lab/keys", answer(json={"keys": {}})),
        ("/realms/lab/keys", answer(json={"keys": [{}] * 101})),
    ],
)
def test_provider_that_answers_something_else_is_no_pass(stand: Stand, path: str, reply: Any) -> None:
    stand.provider.answers[path] = reply
    assert stand.problem() == (503, "person.unchecked")


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_provider_that_cannot_be_reached_is_no_pass(stand: Stand, error: type[httpx.HTTPError]) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error("gone")

    stand.provider.answers[DOCUMENT] = fail
    assert stand.problem() == (503, "person.unchecked")


# --- several of them


def test_each_token_is_checked_with_its_own_provider() -> None:
    first, second = Provider(), Provider("https://second.example", Signer("key-1"))
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "login.example":
            return first.handle(request)
        keys = f"{second.issuer}/keys"
        if request.url.path == "/keys":
            return httpx.Response(200, json={"keys": second.keys})
        return httpx.Response(200, json={"issuer": second.issuer, "jwks_uri": keys})

    configured = [Issuer(issuer=one, client_id="sealroom-broker") for one in (ISSUER, second.issuer)]
    identity = OidcIdentity(configured, transport=httpx.MockTransport(handle))
    presented = Presented(KEY.public_jwk(), None, NOW)
    for provider in (first, second):
        request = IdentityRequest(provider="oidc", token=provider.token(nonce=NONCE))
        assert identity.check(request, presented).person.issuer == provider.issuer
    # The same key id and another key: one provider cannot speak for the other's people.
    forged = second.signers[0].sign(first.claims(nonce=NONCE))
    with pytest.raises(Problem):
        identity.check(IdentityRequest(provider="oidc", token=forged), presented)
    identity.close()


def test_kind_of_login_that_is_not_configured() -> None:
    only_oidc = Identity(provider="oidc", issuers=(Issuer(issuer=ISSUER, client_id="c"),))
    only_hub = Identity(api_url="http://127.0.0.1:9/hub/api")
    for configured, kind in ((only_oidc, "jupyterhub"), (only_hub, "oidc")):
        providers = open_identity(configured)
        request = IdentityRequest.model_validate({"provider": kind, "token": "x"})
        with pytest.raises(Problem) as caught:
            providers.check(request, Presented(KEY.public_jwk(), None, NOW))
        assert caught.value.body.reasons[0].code == "person.provider"
        providers.close()


def test_issuers_of_a_hub_and_a_provider() -> None:
    configured = Identity(
        api_url="http://127.0.0.1:9/hub/api", issuers=(Issuer(issuer=ISSUER, client_id="c"),)
    )
    providers = open_identity(configured)
    assert isinstance(providers, Providers)
    assert providers.issuers == ("http://127.0.0.1:9/hub/api", ISSUER) == configured.people_issuers
    providers.close()
