# SPDX-License-Identifier: BSD-3-Clause
"""Owner and operator of a new installation, in a real Chromium: log in at the hub, see their pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.stack import REPOSITORY, Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

expect.set_options(timeout=30_000)

RESULTS = REPOSITORY / "test-results" / "owner-and-operator"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    yield context.new_page()
    context.close()


def pages_of(stack: Stack) -> str:
    """Return the address that `make up` prints."""
    found = re.search(r"as `owner`, at (\S+)", stack.bootstrap("up"))
    assert found is not None
    return found[1]


def go_in(page: Page, stack: Stack, user: str) -> None:
    page.goto(pages_of(stack))
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(stack.password(user))
    page.get_by_role("button", name="Sign in").click()


def test_owner_logs_in_at_the_hub_and_sees_the_grants(page: Page, stack: Stack) -> None:
    go_in(page, stack, "owner")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    RESULTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=RESULTS / "overview.png")
    page.get_by_role("link", name="Grants").first.click()
    expect(page.get_by_text("researcher").first).to_be_visible()
    page.get_by_role("button", name=re.compile("Log out")).click()
    page.goto(pages_of(stack))
    # The hub still knows the person: its own logout is another one.
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


@pytest.mark.parametrize("user", ["visitor", "operator"])
def test_who_is_no_owner_is_told_so(page: Page, stack: Stack, user: str) -> None:
    go_in(page, stack, user)
    expect(page.get_by_text("neither an owner nor an auditor")).to_be_visible()
    page.goto(pages_of(stack))
    expect(page.get_by_role("heading", name="Overview")).not_to_be_visible()


def test_operator_looks_at_the_board(page: Page, stack: Stack) -> None:
    stack.login("visitor").start_server()
    page.goto(f"{stack.url}/services/sealroom/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill(stack.password("operator"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="All servers")).to_be_visible()
    row = page.locator("tr.sealroom-server", has_text="visitor")
    expect(row).to_have_attribute("data-tier", "simulated")
    expect(row.get_by_text("Simulated TEE (not a real one)")).to_be_visible()
    page.screenshot(path=RESULTS / "board.png")
    page.get_by_label("Proven", exact=True).select_option("affirming")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No server is like that")).to_be_visible()
    page.goto(f"{stack.url}/services/sealroom/")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as CSV").click()
    assert "visitor,,simulated" in download.value.path().read_text()
