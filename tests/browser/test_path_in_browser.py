# SPDX-License-Identifier: BSD-3-Clause
"""A person's path in a real Chromium: spawn page, progress, JupyterLab, panel, unlock, notebook, refusals.

It looks at what is on the screen and fails if amber turns green or a refusal loses its reason. Screenshots go
to `test-results/`; `SEALROOM_SCREENSHOT` names the file that the picture in the README is written to.
"""

from __future__ import annotations

import colorsys
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.leaks import secrets_of
from support.stack import REPOSITORY, Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

expect.set_options(timeout=30_000)

RESULTS = REPOSITORY / "test-results"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(30_000)
    opened = context.new_page()
    yield opened
    picture(opened, "last")
    context.close()


def log_in(page: Page, stack: Stack, user: str) -> None:
    page.goto(stack.url)
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(stack.password(user))
    page.get_by_role("button", name="Sign in").click()


def picture(page: Page, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    page.screenshot(path=RESULTS / f"{name}.png")


def hue(page: Page, selector: str) -> float:
    """Return the hue (0 to 360 degrees) of the strongest colour that an element or its children show."""
    colours = page.eval_on_selector(
        selector,
        """element => [element, ...element.querySelectorAll('*')].flatMap(e => {
             const s = getComputedStyle(e);
             return [s.color, s.backgroundColor, s.fill, s.borderTopColor]; })""",
    )
    best = (0.0, -1.0)
    for colour in colours:
        numbers = [float(n) for n in re.findall(r"[\d.]+", colour)]
        if len(numbers) < 3 or (len(numbers) == 4 and numbers[3] == 0):
            continue
        h, _, s = colorsys.rgb_to_hls(*(n / 255 for n in numbers[:3]))
        if s > best[0] and max(numbers[:3]) - min(numbers[:3]) > 40:
            best = (s, h * 360)
    return best[1]


def assert_amber(page: Page, selector: str) -> None:
    seen = hue(page, selector)
    assert 20 <= seen <= 60, f"{selector} has hue {seen:.0f}: amber is 20 to 60, green would be about 120"


def open_lab(page: Page, stack: Stack, user: str) -> None:
    """Log in, start the environment on the spawn page, and watch the stages until JupyterLab is there."""
    session = stack.login(user)
    if session.client.get(f"/hub/api/users/{user}").json()["servers"]:
        session.stop_server()
    log_in(page, stack, user)
    expect(page.get_by_text("Simulated TEE, CPU").first).to_be_visible()
    picture(page, f"{user}-1-spawn")
    page.get_by_role("button", name=re.compile("^Start")).click()
    expect(page.locator("#progress-log")).to_contain_text("Evidence gathered")
    expect(page.locator("#progress-log")).to_contain_text("Verified: Simulated TEE")
    assert_amber(page, "#progress-log")
    picture(page, f"{user}-2-progress")
    expect(page.get_by_test_id("sealroom-status")).to_be_visible(timeout=120_000)


def run_all_cells(page: Page) -> None:
    """Choose Run, Run All Cells, as a person does who has clicked into the notebook."""
    page.get_by_role("heading", name=re.compile("What can this server prove")).click()
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()


def open_panel(page: Page) -> None:
    if not page.get_by_test_id("sealroom-panel").is_visible():
        page.get_by_test_id("sealroom-status").click()
    expect(page.get_by_test_id("sealroom-panel")).to_be_visible()


def dataset(page: Page, name: str) -> str:
    return f'[data-testid="sealroom-dataset"][data-id="{name}"]'


def test_researcher_walks_the_path(page: Page, stack: Stack, tmp_path: Path) -> None:
    open_lab(page, stack, "researcher")

    # The status bar says what it is, in amber, and never in green.
    status = '[data-testid="sealroom-status"]'
    expect(page.locator(status)).to_have_attribute("data-tier", "simulated")
    expect(page.locator(status)).to_contain_text("Simulated TEE")
    assert_amber(page, status)

    # The panel: two sentences, the device with its tier, each check with a sentence.
    open_panel(page)
    panel = page.get_by_test_id("sealroom-panel")
    expect(panel).to_contain_text("imulated")
    expect(panel.get_by_test_id("sealroom-device").first).to_contain_text(re.compile("simulated", re.I))
    assert_amber(page, '[data-testid="sealroom-device"]')
    before = panel.get_by_test_id("proven-at").locator("time").get_attribute("datetime")
    panel.get_by_test_id("prove-again").click()
    expect(panel.get_by_test_id("proven-at").locator("time")).not_to_have_attribute("datetime", str(before))

    # Verify yourself: own nonce, evidence that `sealroom verify` accepts with the development root named.
    panel.get_by_test_id("verify-yourself").click()
    nonce = os.urandom(32).hex()
    page.get_by_test_id("nonce").fill(nonce)
    with page.expect_download() as download:
        page.get_by_test_id("verify-confirm").click()
    evidence = tmp_path / "mine.evidence.json"
    download.value.save_as(evidence)
    root = str(stack.home / "simulated" / "ark.pem")
    stack.cli("verify", str(evidence), "--root", root, "--nonce", nonce)
    expect(page.get_by_test_id("verify-command")).to_contain_text(nonce)
    picture(page, "researcher-3-verify")
    page.get_by_test_id("verify-close").click()
    expect(page.locator(".jp-Dialog")).to_have_count(0)

    # Unlock in the panel: purpose, what is sent, unlocked.
    card = page.locator(dataset(page, "heartbeats"))
    expect(card).to_contain_text("Heartbeats", ignore_case=True)
    if card.get_attribute("data-state") == "unlocked":
        card.get_by_test_id("lock").click()
    expect(card).to_have_attribute("data-state", "locked")
    picture(page, "researcher-3-locked")
    card.get_by_test_id("unlock").click()
    expect(page.locator('input[name=sealroom-purpose][value="DUO:0000042"]')).to_be_checked()
    expect(page.get_by_test_id("request-preview")).to_contain_text("header", ignore_case=True)
    picture(page, "researcher-4-unlock")
    page.get_by_test_id("unlock-confirm").click()
    expect(card).to_have_attribute("data-state", "unlocked")

    # The welcome notebook runs and ends with the record.
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    run_all_cells(page)
    notebook = page.locator(".jp-Notebook").first
    expect(notebook).to_contain_text("F1 on unseen minutes: 0.9", timeout=240_000)
    expect(notebook).to_contain_text("manifest", timeout=60_000)
    picture(page, "researcher-5-record")
    # The notebook keeps only what is near the screen: back to the cell that shows the widget.
    page.locator(".jp-WindowedPanel-outer").first.evaluate("e => e.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    page.get_by_role("heading", name=re.compile("Unlock the data")).scroll_into_view_if_needed()
    widget = notebook.locator(".sealroom-widget").first
    expect(widget).to_contain_text("Simulated TEE")
    assert_amber(page, ".jp-Notebook .sealroom-widget")
    picture(page, "researcher-5-widget")
    wanted = os.environ.get("SEALROOM_SCREENSHOT")
    if wanted:
        page.screenshot(path=wanted)

    # The owner withdraws: the panel shows it within seconds, with the reason.
    stack.cli("grant", "withdraw", "--dataset", "heartbeats", "--user", "researcher")
    try:
        expect(card).to_have_attribute("data-state", re.compile("withdrawn|not_granted"), timeout=20_000)
        expect(card).to_contain_text("withdr")
        picture(page, "researcher-6-withdrawn")
    finally:
        stack.cli(
            "grant", "add", "heartbeats", "--user", "researcher", "--purpose", "DUO:0000042",
            "--minimum", "simulated",
        )  # fmt: skip

    # Nothing secret stays in the browser.
    kept = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
    kept += str(page.context.storage_state(indexed_db=True))
    for secret in secrets_of(stack):
        assert secret.decode("latin-1") not in kept

    # The hub's home page shows the tier too.
    page.goto(f"{stack.url}/hub/home")
    tier = page.locator('[data-testid="sealroom-tier"]').first
    expect(tier).to_contain_text("Simulated TEE")
    assert_amber(page, '[data-testid="sealroom-tier"]')
    picture(page, "researcher-7-home")


def test_visitor_reads_why_not(page: Page, stack: Stack) -> None:
    open_lab(page, stack, "visitor")
    open_panel(page)
    card = page.locator(dataset(page, "heartbeats"))
    expect(card).to_have_attribute("data-state", "not_granted")
    expect(card.get_by_test_id("reasons").first).to_contain_text("You have no grant for")
    expect(card.get_by_test_id("dataset-why")).to_contain_text("data-access@hospital.example")
    expect(card.get_by_test_id("unlock")).to_have_count(0)
    picture(page, "visitor-3-refused")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 700])
def test_status_is_readable_in_both_themes_and_narrow(
    page: Page, stack: Stack, theme: str, width: int
) -> None:
    session = stack.login("researcher")
    if not session.client.get("/hub/api/users/researcher").json()["servers"]:
        session.start_server()
    session.client.put(
        "/user/researcher/lab/api/settings/@jupyterlab/apputils-extension:themes",
        json={"raw": f'{{"theme": "JupyterLab {theme.title()}"}}'},
    ).raise_for_status()
    page.set_viewport_size({"width": width, "height": 900})
    log_in(page, stack, "researcher")
    page.goto(f"{stack.url}/user/researcher/lab")
    expect(page.get_by_test_id("sealroom-status")).to_be_visible()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "light").lower())
    # Grey until the first answer is there; a person waits for it too.
    expect(page.get_by_test_id("sealroom-status")).to_have_attribute("data-tier", "simulated")
    open_panel(page)
    assert_amber(page, '[data-testid="sealroom-status"]')
    picture(page, f"theme-{theme}-{width}")
