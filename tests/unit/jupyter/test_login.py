# SPDX-License-Identifier: BSD-3-Clause
"""The notebook's own login at an OpenID Connect provider, against a stand-in that signs with a real key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sealroom import errors
from sealroom.kbs.calls import IdentityResponse
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.nonce import session_nonce
from sealroom.kbs.oidc import pkce_challenge
from sealroom_jupyter.errors import NotProvenError
from sealroom_jupyter.login import redirect_of
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.service import SealroomService
from sealroom_jupyter.settings import OidcSettings, Settings
from support.oidc import ISSUER, Provider
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import ROSALIND, FakeBroker

REDIRECT = "http://hub.example/user/rosalind/sealroom/api/login/callback"
OIDC = OidcSettings(issuer=ISSUER, client_id="sealroom-broker", ways=("browser", "device"))


@dataclass
class Tokens:
    """A provider's token endpoint, as a test wants it."""

    provider: Provider
    forms: list[dict[str, str]] = field(default_factory=list)
    queue: list[dict[str, Any]] = field(default_factory=list)
    nonce: str | None = ""
    refresh_token: str = "refresh-1"
    down: bool = False

    def token(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.forms.append(form)
        if self.down:
            raise httpx.ConnectError("gone")
        if self.queue:
            answer = self.queue.pop(0)
            return httpx.Response(400 if "error" in answer else 200, json=answer)
        number = len(self.forms)
        answer = {
            "id_token": self.provider.token(nonce=self.nonce, jti=str(number)),
            "access_token": f"access-{number}",
        }
        if self.refresh_token:
            answer["refresh_token"] = f"{self.refresh_token}-{number}"
        return httpx.Response(200, json=answer)

    def device(self, request: httpx.Request) -> httpx.Response:
        self.nonce = parse_qs(request.content.decode())["nonce"][0]
        answer = {
            "device_code": "device-code",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{ISSUER}/device",
            "verification_uri_complete": f"{ISSUER}/device?user_code=ABCD-EFGH",
            "expires_in": 600,
            "interval": 1,
        }
        return httpx.Response(200, json=answer)


@dataclass
class Place:
    """A server with a login of its own; nothing runs by itself."""

    room: Room
    service: SealroomService
    desk: Tokens

    @property
    def broker(self) -> FakeBroker:
        return self.room.broker

    def turn(self, seconds: float = 0.0) -> None:
        self.room.clock.seconds += seconds
        self.service.attester.turn()

    def begin(self) -> dict[str, str]:
        """Begin a login in the browser and return what the provider is asked."""
        url = self.service.login_in_browser(REDIRECT).url
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.desk.nonce = query["nonce"]
        return query

    def log_in(self) -> None:
        query = self.begin()
        self.service.finish_login({"state": query["state"], "code": "code-1"})

    @property
    def login(self) -> Any:
        return self.service.status().login


def make(room: Room, oidc: OidcSettings, desk: Tokens) -> SealroomService:
    settings = Settings(
        run_dir=None,
        broker_url="http://broker.example",
        datasets=room.settings.datasets,
        server_name="named",
        oidc=oidc,
    )

    def connect(gather: Callable[[bytes], object]) -> FakeBroker:
        # A new session has a new key, and nobody in it.
        room.broker.gather, room.broker.key, room.broker.down = gather, TeeKey.generate(), False
        room.broker.forget()
        return room.broker

    return SealroomService(
        settings,
        detect=lambda run_dir: room.processor,
        connect=connect,
        read_token=room.broker.read_token,
        hub_token=HubToken("hub-token-secret"),
        vault=room.vault,
        provider_http=httpx.Client(transport=desk.provider.transport),
        clock=room.clock,
    )


@pytest.fixture
def desk() -> Tokens:
    provider = Provider()
    made = Tokens(provider)
    provider.answers["/realms/lab/token"] = made.token
    provider.answers["/realms/lab/device"] = made.device
    return made


@pytest.fixture
def place(room: Room, desk: Tokens) -> Iterator[Place]:
    made = Place(room, make(room, OIDC, desk), desk)
    made.turn()
    yield made
    made.service.stop()


def eventually(check: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(200):
        if check():
            return
        waiting.wait(0.05)
    raise AssertionError("not within 10 s")


def test_nobody_is_bound_before_the_login_and_the_hubs_token_is_not_used(place: Place) -> None:
    for _ in range(3):
        place.turn(2)
    state = place.service.attester.state
    assert (state.phase, state.person, state.error) == ("verified", None, None)
    assert place.broker.identities == []
    login = place.login
    assert (login.issuer, login.state, login.ways, login.error) == (
        ISSUER,
        "out",
        ("browser", "device"),
        None,
    )


def test_login_in_the_browser_is_bound_to_the_attested_key_and_presented(place: Place) -> None:
    query = place.begin()
    assert query["nonce"] == session_nonce(place.broker.tee_pubkey)
    assert (query["redirect_uri"], query["code_challenge_method"]) == (REDIRECT, "S256")
    assert place.login.state == "waiting"
    place.service.finish_login({"state": query["state"], "code": "code-1"})
    (form,) = place.desk.forms
    assert pkce_challenge(form["code_verifier"]) == query["code_challenge"]
    (presented,) = place.broker.identities
    assert (presented.provider, presented.server, presented.access_token) == ("oidc", "named", "")
    login = place.login
    assert (login.state, login.name, login.renews, login.error) == ("in", "Rosalind", True, None)
    assert login.until == place.room.clock.now() + place.broker.lifetime
    person = place.service.status().person
    assert person is not None
    assert person.subject == ROSALIND.subject


def test_no_token_is_shown_printed_or_told_to_kernels(place: Place) -> None:
    place.log_in()
    token = place.broker.identities[0].token
    shown = place.service.status().model_dump_json() + repr(vars(place.service)) + repr(place.login)
    shown += repr(vars(place.service._login))
    for secret in (token, token.rpartition(".")[2], "refresh-1-1", "access-1"):
        assert secret not in shown


def test_answer_of_another_login_is_refused_and_not_taken_twice(place: Place) -> None:
    place.begin()
    with pytest.raises(errors.FreshnessError, match="another login"):
        place.service.finish_login({"state": "wrong", "code": "code-1"})
    assert place.login.state == "out"
    query = place.begin()
    place.service.finish_login({"state": query["state"], "code": "code-1"})
    with pytest.raises(errors.FreshnessError, match="does not wait for a login"):
        place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert place.login.state == "in"


def test_second_login_makes_the_first_worthless(place: Place) -> None:
    first = place.begin()
    place.begin()
    with pytest.raises(errors.FreshnessError):
        place.service.finish_login({"state": first["state"], "code": "code-1"})


def test_login_that_takes_too_long_is_not_taken(place: Place) -> None:
    query = place.begin()
    place.room.clock.seconds += 601
    assert place.login.state == "out"
    with pytest.raises(errors.FreshnessError, match="does not wait"):
        place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert place.desk.forms == []


def test_token_with_another_nonce_is_not_presented(place: Place) -> None:
    query = place.begin()
    place.desk.nonce = "another"
    with pytest.raises(errors.FreshnessError, match="not bound to this server"):
        place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert place.broker.identities == []
    assert place.login.state == "out"
    assert "not bound to this server" in place.login.error.message


def test_person_who_says_no_is_told_so(place: Place) -> None:
    query = place.begin()
    with pytest.raises(errors.AccessDeniedError, match="access_denied"):
        place.service.finish_login({"state": query["state"], "error": "access_denied"})
    assert (place.login.state, place.broker.identities) == ("out", [])


def test_broker_that_refuses_the_person_ends_the_login(place: Place) -> None:
    place.broker.identity_refusal = errors.AccessDeniedError(
        "This broker does not know the identity provider.", reasons=(("person.issuer", "Not known here."),)
    )
    query = place.begin()
    with pytest.raises(errors.AccessDeniedError, match="does not know the identity provider"):
        place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert place.login.state == "out"
    place.turn(2)
    # It is not tried again by itself, and the server stays proven.
    assert len(place.broker.identities) == 1
    assert place.service.attester.state.phase == "verified"


def test_logout_while_the_provider_answers_leaves_nobody_logged_in(place: Place) -> None:
    query = place.begin()
    answer = place.desk.token

    def slowly(request: httpx.Request) -> httpx.Response:
        assert place.login.state == "waiting"
        place.service.logout()
        return answer(request)

    place.desk.provider.answers["/realms/lab/token"] = slowly
    with pytest.raises(errors.FreshnessError, match="given up"):
        place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert (place.login.state, place.login.error) == ("out", None)
    assert place.broker.identities == []


def test_login_is_presented_later_where_the_broker_is_away_for_a_moment(place: Place) -> None:
    query = place.begin()
    place.broker.hub_down = True
    place.service.finish_login({"state": query["state"], "code": "code-1"})
    assert place.login.state == "waiting"
    place.broker.hub_down = False
    place.turn(2)
    assert place.login.state == "in"
    # The same token: nothing was renewed for it.
    assert len({one.token for one in place.broker.identities}) == 1


def test_states_of_a_login_with_a_code_never_go_back_to_out(place: Place) -> None:
    seen: list[str] = []
    presented = place.broker.identity

    def identity(request: Any) -> IdentityResponse:
        seen.append(place.login.state)
        return presented(request)

    place.broker.identity = identity  # type: ignore[method-assign]
    place.service.login_with_code()
    eventually(lambda: place.login.state == "in")
    assert seen == ["waiting"]


def test_before_the_server_has_proven_itself_no_login_begins(room: Room, desk: Tokens) -> None:
    service = make(room, OIDC, desk)
    with pytest.raises(NotProvenError):
        service.login_in_browser(REDIRECT)
    with pytest.raises(NotProvenError):
        service.login_with_code()


# --- with a link and a code


def test_login_with_a_link_and_a_code(place: Place) -> None:
    place.desk.queue = [{"error": "authorization_pending"}]
    code = place.service.login_with_code()
    assert (code.code, code.uri) == ("ABCD-EFGH", f"{ISSUER}/device?user_code=ABCD-EFGH")
    assert code.expires == place.room.clock.now() + timedelta(seconds=600)
    assert place.login.state == "waiting"
    eventually(lambda: place.login.state == "in")
    assert len(place.desk.forms) == 2
    assert place.broker.identities[0].provider == "oidc"


def test_login_that_was_given_up_takes_no_token(place: Place) -> None:
    place.service.login_with_code()
    place.service.cancel_login()
    assert place.login.state == "out"
    threading.Event().wait(1.5)
    assert (place.desk.forms, place.broker.identities) == ([], [])


def test_code_that_was_denied_is_told(place: Place) -> None:
    place.desk.queue = [{"error": "access_denied"}]
    place.service.login_with_code()
    eventually(lambda: place.login.error is not None)
    assert "access_denied" in place.login.error.message
    assert place.login.state == "out"


def test_way_that_is_off_is_refused(room: Room, desk: Tokens) -> None:
    service = make(room, OidcSettings(issuer=ISSUER, client_id="sealroom-broker"), desk)
    service.attester.turn()
    login = service.status().login
    assert login is not None
    assert login.ways == ("browser",)
    with pytest.raises(errors.ConfigurationError, match="off"):
        service.login_with_code()


# --- renewal and end


def test_login_that_is_due_is_renewed_without_the_person(place: Place) -> None:
    place.log_in()
    place.desk.nonce = None
    place.broker.login_due = True
    place.turn(2)
    place.turn(2)
    assert [form["grant_type"] for form in place.desk.forms] == ["authorization_code", "refresh_token"]
    assert place.desk.forms[1]["refresh_token"] == "refresh-1-1"
    first, second = place.broker.identities
    assert first.token != second.token
    place.broker.login_due = True
    place.turn(2)
    # A provider that changes its refresh token with each use is followed.
    assert place.desk.forms[2]["refresh_token"] == "refresh-1-2"


def test_provider_that_is_away_for_a_while_takes_nothing_away(place: Place) -> None:
    place.log_in()
    place.service.unlock("heartbeats", "")
    place.desk.down = place.broker.login_due = True
    for _ in range(3):
        place.turn(2)
    assert place.room.vault.holds("heartbeats")
    assert place.login.state == "in"
    place.desk.down, place.desk.nonce = False, None
    place.turn(2)
    assert not place.broker.login_due


def test_account_that_was_disabled_loses_the_data_when_the_login_is_due(place: Place) -> None:
    place.log_in()
    place.service.unlock("heartbeats", "")
    place.desk.queue = [{"error": "invalid_grant"}]
    place.broker.login_due = True
    place.turn(2)
    assert not place.room.vault.holds("heartbeats")
    assert (place.login.state, place.service.status().person) == ("out", None)
    assert "invalid_grant" in place.login.error.message


def test_login_that_cannot_be_renewed_lasts_until_its_end(place: Place) -> None:
    place.desk.refresh_token = ""
    place.log_in()
    assert place.login.renews is False
    place.broker.login_due = True
    place.turn(2)
    assert (place.login.state, len(place.broker.identities)) == ("in", 1)
    place.broker.person = None
    place.turn(2)
    assert (place.login.state, place.login.error.message) == ("out", "Your login has ended.")


def test_logout_drops_keys_tokens_and_the_session(place: Place) -> None:
    place.log_in()
    place.service.unlock("heartbeats", "")
    before = session_nonce(place.broker.tee_pubkey)
    status = place.service.logout()
    assert not place.room.vault.holds("heartbeats")
    with pytest.raises(errors.AccessDeniedError, match="You have logged out"):
        place.service.files("heartbeats")
    assert status.login is not None
    assert (status.login.state, status.person, status.phase) == ("out", None, "verified")
    assert place.broker.closed == 1
    # Tokens of the old session are for another key.
    assert session_nonce(place.broker.tee_pubkey) != before
    place.turn(2)
    assert len(place.broker.identities) == 1


def test_logout_while_the_broker_is_away_ends_everything_here(place: Place) -> None:
    place.log_in()
    place.service.unlock("heartbeats", "")
    place.room.processor.broken = OSError("gone")
    assert place.service.logout().login.state == "out"  # type: ignore[union-attr]
    assert not place.room.vault.holds("heartbeats")


def test_access_token_goes_along_only_where_it_is_set(room: Room, desk: Tokens) -> None:
    oidc = OidcSettings(issuer=ISSUER, client_id="sealroom-broker", userinfo=True)
    made = Place(room, make(room, oidc, desk), desk)
    made.turn()
    made.log_in()
    assert room.broker.identities[0].access_token == "access-1"


# --- settings that are wrong


@pytest.mark.parametrize(
    "settings",
    [
        OidcSettings(issuer=ISSUER, client_id=""),
        OidcSettings(issuer="", client_id="sealroom-broker"),
        OidcSettings(issuer="http://login.example", client_id="sealroom-broker"),
        OidcSettings(issuer=ISSUER, client_id="sealroom-broker", scope="profile"),
        OidcSettings(issuer=ISSUER, client_id="sealroom-broker", ways=("password",)),
        OidcSettings(issuer=ISSUER, client_id="sealroom-broker", ways=()),
    ],
    ids=["no-client", "no-issuer", "no-tls", "no-openid", "unknown-way", "no-way"],
)
def test_wrong_settings_bind_nobody_and_say_so(room: Room, desk: Tokens, settings: OidcSettings) -> None:
    service = make(room, settings, desk)
    service.attester.turn()
    login = service.status().login
    assert login is not None
    assert (login.state, login.ways) == ("out", ())
    assert login.error is not None
    assert room.broker.identities == []
    with pytest.raises(errors.ConfigurationError):
        service.login_in_browser(REDIRECT)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://hub.example/",
        "http://hub.example/path",
        "javascript://hub.example",
        "http://a@hub.example",
        "hub.example",
        "http://[",
        "",
    ],
)
def test_redirect_to_another_place_is_refused(origin: str) -> None:
    with pytest.raises(errors.FormatError):
        redirect_of(origin, "hub.example", "/callback")


def test_redirect_takes_the_scheme_from_the_page() -> None:
    assert redirect_of("https://hub.example", "hub.example", "/callback") == "https://hub.example/callback"


def test_taken_shows_who_and_until_when(place: Place) -> None:
    login = place.service._login
    assert login is not None
    place.log_in()
    person = ROSALIND.model_copy(update={"name": "R. Franklin"})
    login.taken(IdentityResponse(person=person, until=None))
    assert (place.login.name, place.login.until) == ("R. Franklin", None)
