# SPDX-License-Identifier: BSD-3-Clause
"""A researcher asks for access in a real Chromium, and an owner answers; and the notebook's own login.

Processor, broker and notebook server are real; stand-ins play the hub and the identity provider.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import InclusionProof
from sealroom.kbs.calls import GrantChange, GrantSpec, RequestGrant
from support.oidc_http import OidcServer
from support.stack import REPOSITORY
from unit.jupyter.stand import BROWSER_TOKEN, USER, Stand, standing

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

expect.set_options(timeout=30_000)

RESULTS = REPOSITORY / "test-results"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium where it is installed, else Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture
def stand() -> Iterator[Stand]:
    """Everything but the notebook server, which a test starts."""
    with standing() as made:
        yield made


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(
        viewport={"width": 1400, "height": 1000},
        # The hub lets this browser in.
        extra_http_headers={"Authorization": f"token {BROWSER_TOKEN}"},
    )
    context.set_default_timeout(30_000)
    opened = context.new_page()
    yield opened
    picture(opened, "access-last")
    context.close()


def picture(page: Page, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    page.screenshot(path=RESULTS / f"{name}.png")


def open_panel(page: Page, stand: Stand) -> Locator:
    """Open JupyterLab with the panel, and return the dataset's card."""
    page.goto(f"http://127.0.0.1:{stand.server_port}/user/{USER}/lab", timeout=120_000)
    expect(page.get_by_test_id("sealroom-status")).to_be_visible(timeout=120_000)
    if not page.get_by_test_id("sealroom-panel").is_visible():
        page.get_by_test_id("sealroom-status").click()
    page.get_by_test_id("sealroom-panel").locator(".jp-AccordionPanel-title").first.click()
    card = page.locator('[data-testid="sealroom-dataset"][data-id="heartbeats"]')
    expect(card).to_be_visible()
    return card


def alert(page: Page, words: str) -> None:
    expect(page.locator(".Toastify__toast", has_text=words).first).to_be_visible()


def ask(page: Page, card: Locator, reason: str) -> None:
    card.get_by_test_id("ask").click()
    page.get_by_test_id("ask-reason").fill(reason)
    page.get_by_test_id("ask-confirm").click()
    expect(page.get_by_test_id("ask-dialog")).to_have_count(0)
    expect(card.get_by_test_id("request-state")).to_have_attribute("data-state", "open")


def test_from_the_question_to_the_proof(page: Page, stand: Stand, tmp_path: Path) -> None:
    stand.start_server()
    owner = stand.owner
    assert owner is not None
    card = open_panel(page, stand)
    expect(card).to_have_attribute("data-state", "not_granted")

    # Why: every rule with a word.
    card.get_by_test_id("why").click()
    failed = page.locator('[data-testid="why-rule"][data-outcome="failed"]')
    expect(failed.first).to_contain_text("Failed")
    expect(page.locator('[data-testid="why-rule"][data-outcome="passed"]').first).to_contain_text("Passed")
    picture(page, "access-1-why")
    page.get_by_test_id("why-close").click()

    # Ask: what the owner will see is said before; too long a reason cannot be sent; by keyboard alone.
    card.get_by_test_id("ask").click()
    expect(page.get_by_test_id("ask-preview")).to_contain_text(USER)
    expect(page.get_by_test_id("ask-preview")).to_contain_text("Simulated TEE")
    page.get_by_label("Why do you need it?").fill("x" * 2001)
    expect(page.get_by_test_id("ask-count")).to_contain_text("too long by 1")
    expect(page.get_by_test_id("ask-confirm")).to_be_disabled()
    page.get_by_label("Why do you need it?").fill("To train a network.")
    page.get_by_label("Why do you need it?").press("Enter")
    expect(page.get_by_test_id("ask-dialog")).to_be_visible()
    picture(page, "access-2-ask")
    page.get_by_test_id("ask-confirm").press("Enter")
    expect(card.get_by_test_id("request-state")).to_have_attribute("data-state", "open")

    # Taken back, asked again, refused: the owner's words and an alert.
    card.get_by_test_id("take-back").click()
    expect(card.get_by_test_id("request-state")).to_have_count(0)
    ask(page, card, "To train a network.")
    owner.refuse_request(owner.requests("heartbeats", "open")[0].id, "Write to the committee first.")
    expect(card.get_by_test_id("request-answer")).to_contain_text("Write to the committee first.")
    alert(page, "refused")
    picture(page, "access-3-refused")

    # Asked again and granted.
    ask(page, card, "The committee agrees.")
    (asked,) = owner.requests("heartbeats", "open")
    until = datetime.now(UTC) + timedelta(days=7)
    both = ("DUO:0000042", "DUO:0000006")
    owner.grant_request(asked.id, RequestGrant(until=until, minimum="simulated", purposes=both))
    expect(card).to_have_attribute("data-state", "locked")
    expect(card.get_by_test_id("request-state")).to_have_attribute("data-state", "granted")
    alert(page, "granted")
    card.get_by_test_id("unlock").click()
    page.locator('input[name=sealroom-purpose][value="DUO:0000042"]').check()
    page.get_by_test_id("unlock-confirm").click()
    expect(card).to_have_attribute("data-state", "unlocked")

    # Narrowed: at once, with the sentence and what to do.
    (grant,) = [one for one in owner.grants() if one.withdrawn is None]
    owner.change_grant(grant.id, GrantChange(purposes=("DUO:0000006",)))
    expect(card.get_by_test_id("dataset-ended")).to_contain_text("Unlock it again")
    expect(card).to_have_attribute("data-state", "locked")
    alert(page, "has ended")
    picture(page, "access-4-narrowed")

    # The release is listed, and its proof holds under the log's key.
    page.get_by_test_id("sealroom-panel").locator(".jp-AccordionPanel-title").last.click()
    expect(page.get_by_test_id("release")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_test_id("release-proof").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    key = VerifierKey.parse((stand.home / "broker" / "audit.pub").read_text())
    InclusionProof.from_bytes(saved.read_bytes()).verify(key)
    expect(page.get_by_test_id("release-key")).to_have_text(str(key))
    picture(page, "access-5-releases")


def with_provider(stand: Stand, provider: OidcServer) -> None:
    """Have broker and notebook server ask the provider who people are."""
    stand.kill("broker")
    config = stand.home / "broker" / "broker.toml"
    text = config.read_text()
    issuer = f'[[identity.issuers]]\nissuer = "{provider.issuer}"\nclient_id = "sealroom"\n'
    config.write_text(text[: text.index("[identity]")] + f'[identity]\nprovider = "oidc"\n\n{issuer}')
    stand.start_broker()
    stand.more = {"SEALROOM_OIDC_ISSUER": provider.issuer, "SEALROOM_OIDC_CLIENT_ID": "sealroom"}


def test_own_login_in_a_tab_of_its_own(page: Page, stand: Stand) -> None:
    with OidcServer() as provider:
        with_provider(stand, provider)
        assert stand.owner is not None
        stand.owner.add_grant(
            GrantSpec(dataset="heartbeats", subject="olivia-1", issuer=provider.issuer, minimum="simulated")
        )
        stand.start_server()
        card = open_panel(page, stand)
        login = page.get_by_test_id("login")
        expect(login).to_have_attribute("data-state", "out")
        expect(card.locator("[data-testid=ask][disabled]")).to_be_visible()
        with page.context.expect_page() as opened:
            page.get_by_test_id("log-in").click()
        tab = opened.value
        tab.get_by_role("link", name="olivia").click()
        expect(tab.get_by_role("heading")).to_have_text("You are logged in")
        assert tab.evaluate("window.opener") is None
        picture(tab, "login-1-done")
        tab.close()
        expect(login).to_have_attribute("data-state", "in")
        expect(login).to_contain_text("olivia")
        expect(card).to_have_attribute("data-state", "locked")
        picture(page, "login-2-in")
        card.get_by_test_id("unlock").click()
        page.get_by_test_id("unlock-confirm").click()
        expect(card).to_have_attribute("data-state", "unlocked")
        # Nothing of the login is in the browser.
        kept = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}\.", kept + str(page.context.storage_state()))
        page.get_by_test_id("log-out").click()
        expect(login).to_have_attribute("data-state", "out")
        expect(card).not_to_have_attribute("data-state", "unlocked")
        picture(page, "login-3-out")
