# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    FreshnessError,
    NetworkError,
    ProtocolError,
)
from sealroom.kbs.oidc import BrowserLogin, DeviceLogin, OidcClient, Tokens, pkce_challenge

ISSUER = "https://login.example/realms/lab"
REDIRECT = "https://hub.example/user/alice/sealroom/callback"
NONCE = "N" * 43


def jwt_with(claims: object) -> str:
    parts = [json.dumps({"alg": "ES256"}), json.dumps(claims)]
    return ".".join([base64.urlsafe_b64encode(one.encode()).rstrip(b"=").decode() for one in parts] + ["AA"])


class Stand:
    """A provider that answers what a test says."""

    def __init__(self) -> None:
        self.document: Any = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "device_authorization_endpoint": f"{ISSUER}/device",
        }
        self.device: Any = {
            "device_code": "the-device-code",
            "user_code": "ABCD-EFGH",
            "verification_uri": "https://login.example/device",
            "verification_uri_complete": "https://login.example/device?user_code=ABCD-EFGH",
            "expires_in": 600,
            "interval": 5,
        }
        self.status = 200
        self.token: Any = {"id_token": jwt_with({"nonce": NONCE}), "access_token": "a", "refresh_token": "r"}
        self.forms: list[dict[str, str]] = []
        self.fail: httpx.HTTPError | None = None
        http = httpx.Client(transport=httpx.MockTransport(self._handle))
        self.client = OidcClient(ISSUER, "sealroom-broker", http=http)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.fail is not None:
            raise self.fail
        if request.url.path.endswith("/openid-configuration"):
            return httpx.Response(200, json=self.document)
        form = parse_qs(request.content.decode())
        self.forms.append({name: values[0] for name, values in form.items()})
        answer = self.device if request.url.path.endswith("/device") else self.token
        status = self.status if not request.url.path.endswith("/device") else 200
        if isinstance(answer, bytes):
            return httpx.Response(status, content=answer)
        return httpx.Response(status, json=answer)

    def begin(self) -> BrowserLogin:
        return self.client.begin_browser(REDIRECT, NONCE)

    def finish(self, **query: str) -> Tokens:
        login = self.begin()
        return self.client.finish_browser(login, {"state": login.state, "code": "the-code"} | query)


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_challenge_of_the_rfc() -> None:
    # RFC 7636, appendix B
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert pkce_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


# --- in the browser


def test_link_for_the_browser(stand: Stand) -> None:
    login = stand.begin()
    query = {name: values[0] for name, values in parse_qs(urlsplit(login.url).query).items()}
    assert urlsplit(login.url)._replace(query="").geturl() == f"{ISSUER}/auth"
    assert query == {
        "response_type": "code",
        "client_id": "sealroom-broker",
        "redirect_uri": REDIRECT,
        "scope": "openid",
        "state": login.state,
        "nonce": NONCE,
        "code_challenge": pkce_challenge(login.verifier),
        "code_challenge_method": "S256",
    }
    assert len(login.verifier) >= 43
    assert stand.begin().state != login.state


def test_code_becomes_tokens(stand: Stand) -> None:
    login = stand.begin()
    tokens = stand.client.finish_browser(login, {"state": login.state, "code": "the-code", "iss": ISSUER})
    assert (tokens.access_token, tokens.refresh_token) == ("a", "r")
    assert stand.forms == [
        {
            "grant_type": "authorization_code",
            "code": "the-code",
            "redirect_uri": REDIRECT,
            "code_verifier": login.verifier,
            "client_id": "sealroom-broker",
        }
    ]


@pytest.mark.parametrize("state", ["", "another", "é"])
def test_answer_to_another_login(stand: Stand, state: str) -> None:
    with pytest.raises(FreshnessError):
        stand.finish(state=state)
    assert not stand.forms


def test_answer_of_another_provider(stand: Stand) -> None:
    with pytest.raises(ProtocolError, match="another identity provider"):
        stand.finish(iss="https://evil.example")
    assert not stand.forms


def test_person_who_says_no(stand: Stand) -> None:
    login = stand.begin()
    with pytest.raises(AccessDeniedError, match="access_denied"):
        stand.client.finish_browser(login, {"state": login.state, "error": "access_denied"})


@pytest.mark.parametrize("claims", [{}, {"nonce": "another"}, {"nonce": None}, {"nonce": 1}])
def test_token_that_is_not_bound_to_this_server(stand: Stand, claims: dict[str, object]) -> None:
    stand.token["id_token"] = jwt_with(claims)
    with pytest.raises(FreshnessError, match="not bound to this server"):
        stand.finish()


@pytest.mark.parametrize("token", ["x", "a.b.c", "a.b", jwt_with([1]), None, 1])
def test_token_that_is_none(stand: Stand, token: object) -> None:
    stand.token["id_token"] = token
    with pytest.raises(ProtocolError):
        stand.finish()


def test_code_that_the_provider_does_not_take(stand: Stand) -> None:
    stand.status, stand.token = 400, {"error": "invalid_grant", "error_description": "secret"}
    with pytest.raises(AccessDeniedError, match="invalid_grant"):
        stand.finish()


# --- with a link and a code


def test_device_login(stand: Stand) -> None:
    login = stand.client.begin_device(NONCE)
    assert (login.user_code, login.interval, login.expires_in) == ("ABCD-EFGH", 5, 600)
    assert stand.forms[0] == {
        "client_id": "sealroom-broker",
        "scope": "openid",
        "nonce": NONCE,
        "code_challenge": pkce_challenge(login.verifier),
        "code_challenge_method": "S256",
    }
    stand.status, good, stand.token = 400, stand.token, {"error": "authorization_pending"}
    assert stand.client.poll_device(login) is None
    stand.token = {"error": "slow_down"}
    assert stand.client.poll_device(login) is None
    assert login.interval == 10
    stand.status, stand.token = 200, good
    assert stand.client.poll_device(login) is not None
    assert stand.forms[-1] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "the-device-code",
        "code_verifier": login.verifier,
        "client_id": "sealroom-broker",
    }


@pytest.mark.parametrize("error", ["access_denied", "expired_token", "invalid_grant", ""])
def test_device_login_that_ended(stand: Stand, error: str) -> None:
    login = stand.client.begin_device(NONCE)
    stand.status, stand.token = 400, {"error": error}
    with pytest.raises(AccessDeniedError):
        stand.client.poll_device(login)


def test_pending_in_a_success_is_no_token(stand: Stand) -> None:
    login = stand.client.begin_device(NONCE)
    stand.token = {"error": "authorization_pending"}
    with pytest.raises(ProtocolError):
        stand.client.poll_device(login)


def test_provider_that_carries_no_nonce_in_device_logins(stand: Stand) -> None:
    login = stand.client.begin_device(NONCE)
    stand.token["id_token"] = jwt_with({"sub": "alice"})
    with pytest.raises(FreshnessError) as caught:
        stand.client.poll_device(login)
    assert "with the browser instead" in caught.value.diagnostics()


def test_provider_without_device_logins(stand: Stand) -> None:
    del stand.document["device_authorization_endpoint"]
    with pytest.raises(ProtocolError, match="no login with a link"):
        stand.client.begin_device(NONCE)


@pytest.mark.parametrize(
    "change",
    [
        {"device_code": 1},
        {"user_code": ""},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri_complete": "data:text/html,x"},
        {"expires_in": "600"},
        {"interval": None},
    ],
)
def test_device_answer_that_is_not_understood(stand: Stand, change: dict[str, object]) -> None:
    stand.device |= change
    with pytest.raises(ProtocolError):
        stand.client.begin_device(NONCE)


# --- later


def test_renewal_may_have_no_nonce(stand: Stand) -> None:
    stand.token = {"id_token": jwt_with({"sub": "alice"})}
    fresh = stand.client.refresh(Tokens("old", "", "the-refresh-token"), NONCE)
    assert fresh.refresh_token == "the-refresh-token"
    assert stand.forms[-1]["refresh_token"] == "the-refresh-token"


def test_renewal_with_another_nonce(stand: Stand) -> None:
    stand.token["id_token"] = jwt_with({"nonce": "another"})
    with pytest.raises(FreshnessError):
        stand.client.refresh(Tokens("old", "", "r"), NONCE)


def test_renewal_that_the_provider_refuses(stand: Stand) -> None:
    stand.status, stand.token = 400, {"error": "invalid_grant"}
    with pytest.raises(AccessDeniedError):
        stand.client.refresh(Tokens("old", "", "r"), NONCE)


def test_nothing_to_renew_with(stand: Stand) -> None:
    with pytest.raises(ProtocolError, match="cannot be renewed"):
        stand.client.refresh(Tokens("old"), NONCE)


# --- the provider


@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example",
        "login.example",
        "ftp://login.example",
        "https://",
        "https://a@b",
        "https://a#b",
        "https://[",
    ],
)
def test_issuer_that_is_no_safe_address(issuer: str) -> None:
    with pytest.raises(ConfigurationError):
        OidcClient(issuer, "c")


def test_issuer_on_this_machine_needs_no_https() -> None:
    OidcClient("http://127.0.0.1:8080/realms/lab", "c").close()


def test_scope_without_openid() -> None:
    with pytest.raises(ConfigurationError, match="openid"):
        OidcClient(ISSUER, "c", scope="profile")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": ISSUER + "/"},
        {"issuer": None},
        {"authorization_endpoint": "http://login.example/auth"},
        {"token_endpoint": 1},
        {"device_authorization_endpoint": "http://login.example/device"},
    ],
)
def test_description_that_cannot_be(stand: Stand, change: dict[str, object]) -> None:
    stand.document |= change
    with pytest.raises(ProtocolError):
        stand.begin()


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b" " * (2 << 20), b"[" * 100_000])
def test_answer_that_is_not_understood(stand: Stand, answer: bytes) -> None:
    stand.token = answer
    with pytest.raises(ProtocolError):
        stand.finish()


def test_provider_that_fails(stand: Stand) -> None:
    stand.status = 503
    with pytest.raises(NetworkError):
        stand.finish()


def test_provider_that_cannot_be_reached(stand: Stand) -> None:
    stand.fail = httpx.ConnectError("gone")
    with pytest.raises(NetworkError, match="cannot be reached"):
        stand.begin()


@given(
    st.dictionaries(
        st.sampled_from(["id_token", "error", "access_token"]), st.none() | st.text() | st.integers()
    )
)
@settings(deadline=None)
def test_nothing_but_our_errors_leaves(answer: dict[str, object]) -> None:
    stand = Stand()
    stand.token = answer
    with pytest.raises(Error):
        stand.finish()


def test_no_secret_in_a_repr(stand: Stand) -> None:
    browser, device = stand.begin(), stand.client.begin_device(NONCE)
    tokens = Tokens("id-secret", "access-secret", "refresh-secret")
    shown = f"{browser!r}{device!r}{tokens!r}{stand.client!r}"
    assert isinstance(device, DeviceLogin)
    for secret in (browser.verifier, browser.state, device.verifier, device.device_code, "secret"):
        assert secret not in shown
    assert hashlib.sha256(browser.verifier.encode()).hexdigest() not in shown
