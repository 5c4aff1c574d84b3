# SPDX-License-Identifier: BSD-3-Clause
"""People of a real Keycloak at a broker in a process of its own, and owners who log in to its pages."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError
from sealroom.kbs.calls import GrantSpec, IdentityRequest
from sealroom.kbs.client import KbsClient
from sealroom.kbs.nonce import session_nonce
from sealroom.kbs.oidc import OidcClient, Tokens
from sealroom_broker import login as login_routes
from sealroom_broker.app import create_app
from sealroom_broker.config import OidcLogin
from sealroom_broker.login_providers import OidcProvider
from sealroom_broker.logins import Logins
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support import keycloak
from support.broker_process import BrokerProcess, Hub
from support.brokers import Data, World, world
from support.keycloak import CLIENT, Keycloak, Person
from support.oidc import DATASET, VisaIssuer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(bool(keycloak.why_not()), reason=keycloak.why_not() or "there is one"),
    pytest.mark.timeout(600),
]
REDIRECT = "http://127.0.0.1:1/sealroom/callback"
READER = SecretKey.generate()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with Keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


@pytest.fixture(scope="module")
def visas() -> Iterator[VisaIssuer]:
    with VisaIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, provider: Keycloak, visas: VisaIssuer
) -> Iterator[BrokerProcess]:
    """A broker that knows people of the provider and visas of the visa issuer, and nobody else."""
    with Hub() as hub:
        made = BrokerProcess.prepare(tmp_path_factory.mktemp("broker"), hub)
    text = made.config.read_text()
    made.config.write_text(
        text[: text.index("[identity]")]
        + f"""
[identity]
provider = "oidc"

[[identity.issuers]]
issuer = "{provider.issuer}"
client_id = "{CLIENT}"
passport = "token"
leeway = 0

[[identity.visa_issuers]]
issuer = "{visas.issuer}"
jwks = "{visas.keys}"
"""
    )
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def data(broker: BrokerProcess) -> Data:
    sealed = Data.seal(broker.folder)
    with broker.owner() as owner:
        owner.register_dataset(sealed.registration())
    return sealed


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def guest(broker: BrokerProcess, opened: ExitStack) -> KbsClient:
    """An attested server of nobody."""
    client = opened.enter_context(KbsClient(broker.url, lambda covered: testing.evidence(covered)))
    client.attest()
    return client


def log_in(provider: Keycloak, username: str, nonce: str, client: str = CLIENT) -> Tokens:
    """Log somebody in with their browser."""
    with OidcClient(provider.issuer, client) as oidc, Person(username) as person:
        login = oidc.begin_browser(REDIRECT, nonce)
        return oidc.finish_browser(login, keycloak.query_of(person.follow(login.url, REDIRECT)))


def present(guest: KbsClient, tokens: Tokens) -> Any:
    return guest.identity(IdentityRequest(provider="oidc", token=tokens.id_token))


def refusal(guest: KbsClient, tokens: Tokens) -> list[str]:
    with pytest.raises(AccessDeniedError) as caught:
        present(guest, tokens)
    assert tokens.id_token not in str(caught.value)
    return [code for code, _ in caught.value.reasons]


def denied(guest: KbsClient, data: Data) -> list[str]:
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    return [code for code, _ in caught.value.reasons]


@pytest.fixture
def grant(broker: BrokerProcess, data: Data) -> Iterator[Any]:
    """Grant for the time of a test."""
    given = []
    with broker.owner() as owner:

        def add(**who: str) -> str:
            spec = GrantSpec.model_validate({"dataset": "heartbeats", "minimum": "simulated"} | who)
            given.append(owner.add_grant(spec).id)
            return given[-1]

        yield add
        for one in given:
            owner.withdraw_grant(one)


def test_login_for_this_server_opens_what_the_group_was_granted(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any
) -> None:
    grant(group="cardiology")
    answer = present(guest, log_in(provider, "alice", session_nonce(guest.tee_pubkey)))
    person = answer.person
    assert (person.subject, person.issuer) == (provider.subject("alice"), provider.issuer)
    assert (person.name, person.groups, person.email) == ("alice", ("cardiology",), "alice@lab.example")
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_person_outside_the_group_is_refused(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any
) -> None:
    grant(group="cardiology")
    present(guest, log_in(provider, "andrew", session_nonce(guest.tee_pubkey)))
    assert denied(guest, data) == ["grant.none"]


def test_grant_to_a_person_by_issuer_and_subject(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any
) -> None:
    grant(subject=provider.subject("bob"), issuer=provider.issuer)
    present(guest, log_in(provider, "bob", session_nonce(guest.tee_pubkey)))
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_login_with_a_link_and_a_code(provider: Keycloak, guest: KbsClient, data: Data, grant: Any) -> None:
    grant(group="cardiology")
    with OidcClient(provider.issuer, CLIENT) as oidc, Person("alice") as person:
        login = oidc.begin_device(session_nonce(guest.tee_pubkey))
        assert oidc.poll_device(login) is None
        person.approve(login.verification_uri_complete)
        time.sleep(login.interval)
        tokens = oidc.poll_device(login)
    assert tokens is not None
    present(guest, tokens)
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_other_persons_token_in_my_session(provider: Keycloak, guest: KbsClient) -> None:
    nonce = session_nonce(guest.tee_pubkey)
    present(guest, log_in(provider, "alice", nonce))
    assert refusal(guest, log_in(provider, "bob", nonce)) == ["person.other"]
    person = guest.session().person
    assert person is not None
    assert person.name == "alice"


def test_token_for_another_program(provider: Keycloak, guest: KbsClient) -> None:
    tokens = log_in(provider, "alice", session_nonce(guest.tee_pubkey), "another-program")
    assert refusal(guest, tokens) == ["person.audience"]


def test_token_of_another_server_opens_nothing_here(
    provider: Keycloak, broker: BrokerProcess, guest: KbsClient
) -> None:
    tokens = log_in(provider, "alice", session_nonce(guest.tee_pubkey))
    present(guest, tokens)
    with KbsClient(broker.url, lambda covered: testing.evidence(covered)) as other:
        other.attest()
        assert refusal(other, tokens) == ["person.nonce"]


def test_access_token_in_place_of_the_id_token(provider: Keycloak, guest: KbsClient) -> None:
    tokens = log_in(provider, "alice", session_nonce(guest.tee_pubkey))
    assert refusal(guest, Tokens(tokens.access_token)) == ["person.token"]


@pytest.fixture
def short_tokens(provider: Keycloak) -> Iterator[int]:
    """Let tokens of the provider live for seconds."""
    provider.settings(accessTokenLifespan=4)
    yield 4
    provider.settings(accessTokenLifespan=300)


def test_token_that_has_ended(provider: Keycloak, guest: KbsClient, short_tokens: int) -> None:
    tokens = log_in(provider, "alice", session_nonce(guest.tee_pubkey))
    time.sleep(short_tokens + 1)
    assert refusal(guest, tokens) == ["person.expired"]


def test_login_ends_and_is_prolonged_by_a_renewed_token(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any, short_tokens: int
) -> None:
    grant(group="cardiology")
    nonce = session_nonce(guest.tee_pubkey)
    tokens = log_in(provider, "alice", nonce)
    until = present(guest, tokens).until
    guest.release("heartbeats", data.request(READER))
    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 0.5)
    state = guest.session()
    assert (state.person, [one.state for one in state.releases]) == (None, ["withdrawn"])
    assert denied(guest, data) == ["person.expired"]
    with OidcClient(provider.issuer, CLIENT) as oidc:
        renewed = oidc.refresh(tokens, nonce)
        present(guest, renewed)
        assert [one.state for one in guest.session().releases] == ["active"]
        # Somebody else's server cannot use the renewed token, although it has no nonce.
        with KbsClient(guest.base_url, lambda covered: testing.evidence(covered)) as other:
            other.attest()
            assert refusal(other, renewed) == ["person.nonce"]


def test_account_that_was_disabled_cannot_prolong_its_login(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any, short_tokens: int
) -> None:
    grant(subject=provider.subject("bob"))
    nonce = session_nonce(guest.tee_pubkey)
    tokens = log_in(provider, "bob", nonce)
    until = present(guest, tokens).until
    guest.release("heartbeats", data.request(READER))
    provider.change("bob", enabled=False)
    try:
        with OidcClient(provider.issuer, CLIENT) as oidc, pytest.raises(AccessDeniedError):
            oidc.refresh(tokens, nonce)
        time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 0.5)
        assert denied(guest, data) == ["person.expired"]
    finally:
        provider.change("bob", enabled=True)


def test_grant_to_whoever_holds_a_visa(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any, visas: VisaIssuer
) -> None:
    grant(visa=DATASET, issuer=visas.issuer)
    now = datetime.now(UTC)
    unknown = visas.visa(now, type="https://example.org/custom")
    provider.change("bob", attributes={"passport": [visas.visa(now), unknown]})
    answer = present(guest, log_in(provider, "bob", session_nonce(guest.tee_pubkey)))
    assert [one.value for one in answer.person.visas] == [DATASET]
    assert [one.code for one in answer.ignored] == ["visa.type"]
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


def test_person_without_the_visa_is_refused(
    provider: Keycloak, guest: KbsClient, data: Data, grant: Any, visas: VisaIssuer
) -> None:
    grant(visa=DATASET)
    forged = VisaIssuer(visas.issuer, visas.keys).visa(datetime.now(UTC))
    provider.change("andrew", attributes={"passport": [forged]})
    answer = present(guest, log_in(provider, "andrew", session_nonce(guest.tee_pubkey)))
    assert (answer.person.visas, [one.code for one in answer.ignored]) == ((), ["visa.signature"])
    assert denied(guest, data) == ["grant.none"]


def test_no_token_is_kept_or_logged(provider: Keycloak, broker: BrokerProcess, guest: KbsClient) -> None:
    tokens = log_in(provider, "alice", session_nonce(guest.tee_pubkey))
    present(guest, tokens)
    parts = [tokens.id_token.encode(), tokens.id_token.rpartition(".")[2].encode()]
    files = [broker.log, *(path for path in broker.config.parent.rglob("*") if path.is_file())]
    for path in files:
        content = path.read_bytes()
        assert not any(part in content for part in parts), path


# --- owners and auditors


async def whoami(request: Request) -> Response:
    visitor = await login_routes.require(request)
    return JSONResponse({"name": visitor.name, "roles": sorted(visitor.roles), "csrf": visitor.csrf})


class Pages:
    """A broker in this process whose pages people log in to."""

    def __init__(self, stand: World, provider: Keycloak) -> None:
        secret = stand.folder / "client-secret"
        secret.write_text(keycloak.PAGES_SECRET)
        secret.chmod(0o600)
        settings = OidcLogin(
            issuer=provider.issuer,
            client_id=keycloak.PAGES,
            client_secret=secret,
            public_url="http://127.0.0.1:1",
            roles="roles",
            owners=(keycloak.OWNERS,),
            auditors=(keycloak.AUDITORS,),
        )
        self.logins = Logins(settings, stand.broker.store)
        stand.clock.now = datetime.now(UTC)
        stand.app = create_app(dataclasses.replace(stand.broker, logins=self.logins))
        stand.app.router.routes.insert(0, Route("/whoami", whoami))
        self.stand = stand

    def log_in(self, username: str) -> tuple[httpx.Client, httpx.Response]:
        """Log somebody in with their browser, and return what they are answered in the end."""
        http = self.stand.http()
        begun = http.get("/login?next=/whoami", follow_redirects=False)
        with Person(username) as person:
            back = person.follow(begun.headers["location"], "http://127.0.0.1:1/callback")
        return http, http.get(back.removeprefix("http://127.0.0.1:1"), follow_redirects=False)


@pytest.fixture
def pages(tmp_path: Path, provider: Keycloak) -> Iterator[Pages]:
    with world(tmp_path) as stand:
        made = Pages(stand, provider)
        yield made
        made.logins.close()


@pytest.mark.parametrize(("username", "role"), [("olivia", "owner"), ("andrew", "auditor")])
def test_owner_and_auditor_log_in_and_out(pages: Pages, username: str, role: str) -> None:
    http, response = pages.log_in(username)
    assert (response.status_code, response.headers["location"]) == (303, "/whoami")
    who = http.get("/whoami").json()
    assert (who["name"], who["roles"]) == (username, [role])
    assert http.post("/logout", data={"csrf": "wrong"}).status_code == 403
    assert http.post("/logout", data={"csrf": who["csrf"]}, follow_redirects=False).status_code == 303
    assert http.get("/whoami", follow_redirects=False).status_code == 303


def test_researcher_has_no_role_at_the_pages(pages: Pages) -> None:
    http, response = pages.log_in("alice")
    assert (response.status_code, response.json()["reasons"][0]["code"]) == (403, "login.role")
    assert http.get("/whoami", follow_redirects=False).status_code == 303


def test_code_is_taken_once(pages: Pages) -> None:
    http = pages.stand.http()
    begun = http.get("/login", follow_redirects=False)
    kept = dict(http.cookies)
    with Person("olivia") as person:
        back = person.follow(begun.headers["location"], "http://127.0.0.1:1/callback")
    path = back.removeprefix("http://127.0.0.1:1")
    assert http.get(path, follow_redirects=False).status_code == 303
    again = pages.stand.http()
    for name, value in kept.items():
        again.cookies.set(name, value)
    response = again.get(path, follow_redirects=False)
    assert (response.status_code, response.json()["reasons"][0]["code"]) == (403, "login.refused")


def test_login_of_the_notebook_is_none_of_the_pages(provider: Keycloak, pages: Pages) -> None:
    begun = pages.stand.http().get("/login", follow_redirects=False).headers["location"]
    nonce = keycloak.query_of(begun)["nonce"]
    tokens = log_in(provider, "olivia", nonce)
    claims = json.loads(_payload(tokens.id_token))
    assert (claims["aud"], claims["roles"]) == (CLIENT, [keycloak.OWNERS])
    at_the_pages = pages.logins._provider
    assert isinstance(at_the_pages, OidcProvider)
    with pytest.raises(Exception, match="another client"):
        at_the_pages.verified(tokens.id_token, pages.stand.clock())


def _payload(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
