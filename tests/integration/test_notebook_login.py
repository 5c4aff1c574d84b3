# SPDX-License-Identifier: BSD-3-Clause
"""A notebook server's own login at a real Keycloak, with a broker as a program of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import AccessDeniedError
from sealroom.guest import GuestEvidence
from sealroom.kbs.calls import GrantSpec
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.real import connector, read_token
from sealroom_jupyter.service import SealroomService
from sealroom_jupyter.settings import OidcSettings, Settings
from support import keycloak
from support.broker_process import BrokerProcess, Hub
from support.brokers import Data
from support.keycloak import CLIENT, Keycloak, Person

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(bool(keycloak.why_not()), reason=keycloak.why_not() or "there is one"),
    pytest.mark.timeout(600),
]
REDIRECT = "http://127.0.0.1:1/sealroom/callback"


class Processor:
    """The processor of a server of the approved environment."""

    name = "simulated"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        return testing.evidence(report_data)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with Keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, provider: Keycloak) -> Iterator[BrokerProcess]:
    """A broker that knows people of the provider and nobody else."""
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
leeway = 0
"""
    )
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def folder(broker: BrokerProcess) -> Path:
    """Where a dataset is that the group of cardiologists may use."""
    sealed = Data.seal(broker.folder)
    with broker.owner() as owner:
        owner.register_dataset(sealed.registration())
        owner.add_grant(GrantSpec(dataset="heartbeats", group="cardiology", minimum="simulated"))
    return sealed.folder.parent


@pytest.fixture
def notebook(broker: BrokerProcess, provider: Keycloak, folder: Path) -> Iterator[SealroomService]:
    """A server that has proven itself, with nobody logged in."""
    settings = Settings(
        broker_url=broker.url,
        datasets=(folder,),
        oidc=OidcSettings(issuer=provider.issuer, client_id=CLIENT, ways=("browser", "device")),
    )
    made = SealroomService(
        settings,
        detect=lambda run_dir: Processor(),
        connect=connector(settings),
        read_token=read_token,
        hub_token=HubToken("hub-token-of-alice"),
    )
    made.attester.turn()
    assert made.status().phase == "verified", made.status().error
    yield made
    made.stop()


def log_in(notebook: SealroomService, username: str) -> None:
    """Log somebody in with their browser."""
    url = notebook.login_in_browser(REDIRECT).url
    with Person(username) as person:
        notebook.finish_login(keycloak.query_of(person.follow(url, REDIRECT)))


def state(notebook: SealroomService) -> str:
    login = notebook.status().login
    assert login is not None
    return login.state


def test_nobody_has_access_before_the_login(notebook: SealroomService) -> None:
    assert notebook.status().person is None
    with pytest.raises(AccessDeniedError) as caught:
        notebook.unlock("heartbeats", "")
    assert "person.none" in [code for code, _ in caught.value.reasons]


def test_login_in_the_browser_opens_what_the_group_may_use(notebook: SealroomService) -> None:
    log_in(notebook, "alice")
    status = notebook.status()
    assert status.person is not None
    assert (status.person.name, state(notebook)) == ("alice", "in")
    assert notebook.unlock("heartbeats", "").state == "unlocked"


def test_login_with_a_link_and_a_code(notebook: SealroomService) -> None:
    code = notebook.login_with_code()
    with Person("alice") as person:
        person.approve(code.uri)
    end = time.monotonic() + 30
    while state(notebook) == "waiting" and time.monotonic() < end:
        time.sleep(0.2)
    assert state(notebook) == "in"
    assert notebook.unlock("heartbeats", "").state == "unlocked"


def test_person_outside_the_group_is_refused(notebook: SealroomService) -> None:
    log_in(notebook, "andrew")
    with pytest.raises(AccessDeniedError) as caught:
        notebook.unlock("heartbeats", "")
    assert [code for code, _ in caught.value.reasons] == ["grant.none"]


def test_somebody_else_after_a_logout_has_nothing_of_the_first(notebook: SealroomService) -> None:
    log_in(notebook, "alice")
    notebook.unlock("heartbeats", "")
    status = notebook.logout()
    assert (status.person, status.phase, state(notebook)) == (None, "verified", "out")
    with pytest.raises(AccessDeniedError, match="logged out"):
        notebook.files("heartbeats")
    log_in(notebook, "andrew")
    person = notebook.status().person
    assert person is not None
    assert person.name == "andrew"


def test_login_is_renewed_by_itself_and_ends_with_the_account(
    notebook: SealroomService, provider: Keycloak
) -> None:
    provider.settings(accessTokenLifespan=4)
    try:
        log_in(notebook, "alice")
        notebook.unlock("heartbeats", "")
        # Three lives of a token.
        end = time.monotonic() + 12
        while time.monotonic() < end:
            notebook.attester.turn()
            time.sleep(0.3)
        assert state(notebook) == "in"
        assert notebook.files("heartbeats")
        provider.change("alice", enabled=False)
        end = time.monotonic() + 30
        while state(notebook) == "in" and time.monotonic() < end:
            notebook.attester.turn()
            time.sleep(0.3)
        assert state(notebook) == "out"
        with pytest.raises(AccessDeniedError):
            notebook.files("heartbeats")
    finally:
        provider.change("alice", enabled=True)
        provider.settings(accessTokenLifespan=300)
