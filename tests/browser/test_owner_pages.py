# SPDX-License-Identifier: BSD-3-Clause
"""The owner's pages in a real Chromium, against a broker process and a login provider over HTTP.

An owner answers a request, withdraws a grant and searches the log; every page is looked at wide and narrow,
light and dark. Screenshots go to `test-results/owner-pages/`.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)
from sealroom import testing
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import InclusionProof
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import Description
from sealroom.environments import Environment, generate_key, public_pem, sign
from sealroom.errors import AccessDeniedError
from sealroom.kbs.calls import AccessRequestSpec, GrantSpec
from sealroom.kbs.client import KbsClient
from support.broker_process import BrokerProcess, Hub
from support.brokers import GENERAL, Data
from support.oidc_http import OidcServer
from support.stack import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

expect.set_options(timeout=15_000)

RESULTS = REPOSITORY / "test-results" / "owner-pages"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
WIDE = ViewportSize(width=1400, height=900)
NARROW = ViewportSize(width=400, height=800)
SMALLEST = ViewportSize(width=360, height=740)
READER = SecretKey.generate()
COHORT = Description(
    id="cohort",
    title="Cohort of the heart centre, with follow-up until 2026",
    description="Ten thousand people, ten years. Pseudonymised; the key of pseudonyms is not part of it.",
    owner="Heart Centre",
    contact="data@heart.example",
    source="Registry of the heart centre",
    licence="Data use agreement 7",
    terms=(GENERAL, "DUO:0000021"),
)


@dataclass
class Stage:
    """A broker with people, datasets, grants and requests."""

    broker: BrokerProcess
    data: Data
    guests: dict[str, KbsClient]
    environments: tuple[Environment, Environment]

    @property
    def url(self) -> str:
        return f"{self.broker.url}/owner"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("owner-pages")
    with Hub() as hub, OidcServer() as oidc:
        broker = BrokerProcess.prepare(folder, hub)
        environments = publish(folder)
        # The first start chooses the port; only then the address is known that the login comes back to.
        broker.start()
        broker.end(signal.SIGTERM)
        broker.settings(
            f'[login]\nissuer = "{oidc.issuer}"\nclient_id = "pages"\npublic_url = "{broker.url}"\n'
            'owners = ["data-owners"]\nauditors = ["auditors"]\n'
        )
        broker.start()
        try:
            made = play(broker, environments)
            yield made
            for guest in made.guests.values():
                guest.close()
        finally:
            broker.kill()


def publish(folder: Path) -> tuple[Environment, Environment]:
    """Publish two environments."""
    key = generate_key()
    (folder / "environments" / "publisher.pub.pem").write_bytes(public_pem(key))
    first = testing.environment()
    second = testing.environment(
        name="simulated-cpu-large", version="2", title="Simulated TEE, CPU, large", vcpus=8, memory_mib=16384
    )
    for name, one in (("simulated-cpu.toml", first), ("simulated-cpu-large.toml", second)):
        (folder / "environments" / name).write_bytes(one.raw)
        (folder / "environments" / f"{name}.sig").write_bytes(sign(one.raw, key))
    return first, second


def play(broker: BrokerProcess, environments: tuple[Environment, Environment]) -> Stage:
    """Do what owners and researchers do."""
    now = datetime.now(UTC)
    data, cohort = Data.seal(broker.folder), Data.seal(broker.folder, COHORT)
    guests = {"alice": broker.guest(), "bob": broker.guest("hub-token-of-bob")}
    with broker.owner() as owner:
        owner.register_dataset(data.registration())
        permit = now + timedelta(days=21)
        owner.register_dataset(cohort.registration().model_copy(update={"keep_until": permit}))
        for dataset, fields in (
            ("heartbeats", {"subject": "alice", "until": now + timedelta(days=9), "project": "arrhythmia"}),
            ("cohort", {"group": "cardiology", "until": now + timedelta(days=90), "servers": 2}),
            ("cohort", {"subject": "carol", "starts": now + timedelta(days=3), "outputs": True}),
            ("cohort", {"subject": "dave", "project": "old-study"}),
        ):
            spec = {"dataset": dataset, "minimum": "simulated"} | fields
            owner.add_grant(GrantSpec.model_validate(spec))
        owner.halt_project("old-study", "The ethics approval ended.")
        guests["alice"].release("heartbeats", data.request(READER))
        with pytest.raises(AccessDeniedError):
            guests["bob"].release("heartbeats", data.request(READER))
        ask(
            guests["bob"],
            "heartbeats",
            "Detect arrhythmia in five-minute recordings, for my thesis.\nMy supervisor is Prof. Example.",
        )
        ask(guests["alice"], "cohort", "Compare the recordings with ten years of follow-up.")
    return Stage(broker, data, guests, environments)


def ask(guest: KbsClient, dataset: str, reason: str) -> None:
    guest.request_access(AccessRequestSpec(dataset=dataset, purpose=GENERAL, reason=reason))


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
def browse(chromium: Browser) -> Iterator[Browse]:
    opened: list[BrowserContext] = []

    def new(stage: Stage, who: str = "olivia", **settings: Any) -> Page:
        context = chromium.new_context(**({"viewport": WIDE} | settings))
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text) if _is_trouble(message) else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(f"{stage.url}/")
        page.get_by_role("link", name=who).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        return page

    trouble: list[str] = []
    yield new
    for context in opened:
        context.close()
    assert not trouble, "nothing is blocked by the pages' own policy, and no script fails"


Browse = Callable[..., Page]


def _is_trouble(message: ConsoleMessage) -> bool:
    """Tell a blocked or missing file from a page that is a refusal, which Chromium calls an error too."""
    return message.type == "error" and not message.text.endswith(("(Bad Request)", "(Forbidden)"))


def addresses(page: Page, stage: Stage) -> list[str]:
    """Return every kind of page that there is."""

    def first(path: str) -> str:
        page.goto(f"{stage.url}{path}")
        return str(page.locator("main tbody th a").first.get_attribute("href")).split("/owner")[1]

    grant = first("/grants?person=alice")
    old, new = (one.digest for one in stage.environments)
    return [
        "/",
        "/requests",
        first("/requests"),
        "/datasets",
        "/datasets/cohort",
        "/datasets/cohort/destroy",
        "/grants",
        "/grants/new",
        grant,
        f"{grant}/change",
        f"{grant}/withdraw",
        "/projects",
        "/projects/old-study",
        "/environments",
        f"/environments/{new}",
        f"/environments/diff?old={old}&new={new}",
        "/servers",
        "/audit",
        first("/audit?kind=release"),
    ]


def name_of(path: str) -> str:
    """Return a file's name for a page."""
    short = re.sub(r"[0-9a-f]{16,}", "id", path.strip("/") or "overview")
    return re.sub(r"\W+", "-", short).strip("-")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_can_be_used_by_everybody(
    stage: Stage, browse: Browse, scheme: str, size: ViewportSize
) -> None:
    page = browse(stage, viewport=size, color_scheme=scheme)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for path in addresses(page, stage):
        page.set_viewport_size(size)
        page.goto(f"{stage.url}{path}")
        page.screenshot(path=RESULTS / f"{name_of(path)}-{scheme}-{size['width']}.png", full_page=True)
        where = f"{path}, {scheme}, {size['width']}"
        assert page.evaluate(UNLABELLED) == [], where
        assert page.evaluate(STRUCTURE) == [], where
        assert page.evaluate(LOW_CONTRAST) == [], where
        if size == NARROW:
            page.set_viewport_size(SMALLEST)
        wide = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], f"{where}: the page scrolls sideways"


UNLABELLED = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a')]
  .filter(e => {
    const label = e.labels && [...e.labels].map(l => l.textContent).join(' ');
    return !(label || e.getAttribute('aria-label') || (e.matches('button, a') && e.textContent) || '').trim();
  }).map(e => e.outerHTML)"""
"""Whatever can be operated and has no name."""

STRUCTURE = """() => {
  const wrong = [], $ = selector => [...document.querySelectorAll(selector)];
  for (const [selector, number] of [['main', 1], ['h1', 1], ['header', 1], ['footer', 1]])
    if ($(selector).length !== number) wrong.push(`${$(selector).length} ${selector}`);
  if (document.documentElement.lang !== 'en') wrong.push('no language');
  const first = document.querySelector('a');
  if (first.getAttribute('href') !== '#main') wrong.push('the first link does not skip');
  for (const table of $('table'))
    if (!table.caption?.textContent.trim()) wrong.push('a table without a caption');
  for (const nav of $('nav, form[role=search], section')) {
    const by = nav.getAttribute('aria-labelledby');
    if (!nav.getAttribute('aria-label') && !(by && document.getElementById(by)))
      wrong.push(nav.outerHTML.slice(0, 99));
  }
  const ids = $('[id]').map(e => e.id);
  wrong.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map(id => `the id ${id} stands twice`));
  for (const e of $('[aria-describedby]')) for (const id of e.getAttribute('aria-describedby').split(' '))
    if (!document.getElementById(id)) wrong.push(`no ${id}`);
  let level = 0;
  for (const heading of $('h1, h2, h3')) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) wrong.push(`${heading.tagName} after level ${level}`);
    level = now;
  }
  return wrong;
}"""
"""What screen readers go by."""

LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = e => {
    let layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const wrong = [];
  for (const e of document.querySelectorAll('body *')) {
    const says = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!says || !e.checkVisibility() || e.closest('.sr-only, .skip, option, script, title')) continue;
    const back = behind(e), text = over(parse(getComputedStyle(e).color), back);
    const [dark, bright] = [light(back), light(text)].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5)
      wrong.push([ratio.toFixed(2), e.tagName, e.className, e.textContent.slice(0, 40)].join(' '));
  }
  return wrong;
}"""
"""Text whose contrast is below what WCAG 2.2 asks for at level AA (1.4.3), whatever its size."""


def test_keyboard_shows_where_it_is(stage: Stage, browse: Browse) -> None:
    page = browse(stage)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_owner_answers_changes_withdraws_and_finds_it_in_the_log(
    stage: Stage, browse: Browse, script: bool
) -> None:
    dataset, who, other = ("heartbeats", "bob", "Simulated TEE, CPU, version 1")
    if not script:
        dataset, who = "cohort", "alice"
    page = browse(stage, java_script_enabled=script)

    # The request, beside what its server proved.
    page.get_by_role("link", name="Requests", exact=True).click()
    page.locator("tr", has_text=who).get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"{who} asks for")
    expect(page.locator("main")).to_contain_text("Simulated TEE (not a real one)")
    form = page.locator("form", has=page.get_by_role("button", name="Grant access"))
    expect(form.get_by_label(re.compile("general research use"))).to_be_checked()
    expect(form.get_by_label(other)).to_be_checked()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert b"tee-evidence" in Path(download.value.path()).read_bytes()

    # Something is wrong with the form: it says so beside the field and keeps what was typed.
    form.get_by_label("Most servers of one person at once").fill("many")
    form.get_by_label("Message").fill("Welcome. Tell us what you find.")
    form.get_by_role("button", name="Grant access").click()
    expect(page.get_by_role("alert")).to_contain_text("Give a whole number")
    expect(page.get_by_label("Message")).to_have_value("Welcome. Tell us what you find.")
    expect(page.get_by_label("Most servers of one person at once")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Most servers of one person at once").fill("1")
    page.get_by_role("button", name="Grant access").click()
    expect(page.get_by_role("status")).to_contain_text(f"The request of {who} is granted.")
    guest = stage.guests[who]
    assert [one.state for one in guest.own_requests()] == ["granted"]
    assert guest.own_requests()[0].answer == "Welcome. Tell us what you find."
    (offer,) = [one for one in guest.datasets() if one.id == dataset]
    assert offer.state == "locked"

    # It is changed, and withdrawn.
    page.get_by_role("link", name="The grant").click()
    expect(page.locator("main")).to_contain_text("one at a time. Results may not leave.")
    page.get_by_role("link", name="Change", exact=True).click()
    page.get_by_label("Results may leave the server").check()
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("status")).to_contain_text("The grant is changed")
    expect(page.locator("main")).to_contain_text("Results may leave.")
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)
    page.get_by_role("link", name="Withdraw", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Withdraw the grant for")
    page.get_by_role("button", name="Withdraw it").click()
    expect(page.get_by_role("status")).to_contain_text("The grant is withdrawn")
    (offer,) = [one for one in guest.datasets() if one.id == dataset]
    assert offer.state == "withdrawn"

    # All of it is in the log.
    page.get_by_role("link", name="Audit log").first.click()
    page.get_by_label("Person or owner").fill("olivia")
    page.get_by_label("Kind").select_option("withdrawal")
    page.get_by_label("Dataset").select_option(dataset)
    page.get_by_role("button", name="Search").click()
    expect(page.locator("main tbody tr")).to_have_count(1)
    page.locator("main tbody tr a").first.click()
    expect(page.locator("main")).to_contain_text("olivia (olivia-1 at ")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the inclusion proof").click()
    proof = InclusionProof.from_bytes(Path(download.value.path()).read_bytes())
    with stage.broker.owner() as owner:
        entry, _ = proof.verify(VerifierKey.parse(owner.audit_key()))
    assert (entry.kind, entry.dataset) == ("withdrawal", dataset)

    page.get_by_role("button", name="Log out").click()
    page.goto(f"{stage.url}/grants")
    expect(page.get_by_role("link", name="andrew")).to_be_visible()


def test_auditor_reads_and_is_offered_nothing_to_do(stage: Stage, browse: Browse) -> None:
    page = browse(stage, "andrew")
    for path in ("/", "/grants", "/datasets/cohort", "/projects/old-study", "/audit"):
        page.goto(f"{stage.url}{path}")
        expect(page.locator("header")).to_contain_text("auditor, reads only")
        expect(page.locator("main form[method=post]")).to_have_count(0)
        expect(page.get_by_role("link", name=re.compile("Grant access|Destroy|Withdraw"))).to_have_count(0)
    page.goto(f"{stage.url}/grants/new")
    expect(page.get_by_role("heading", level=1)).to_have_text("You may not do this")


def test_long_value_opens_and_is_selected_by_one_click(stage: Stage, browse: Browse) -> None:
    page = browse(stage, java_script_enabled=False)
    page.goto(f"{stage.url}/datasets/heartbeats")
    row = page.locator("dl.facts > div", has_text="Manifest, SHA-256")
    whole = row.get_by_text(stage.data.manifest.sha256)
    expect(whole).to_be_hidden()
    row.locator("summary").click()
    expect(whole).to_be_visible()


def test_login_that_ended_while_a_form_was_open(stage: Stage, browse: Browse) -> None:
    page = browse(stage)
    page.goto(f"{stage.url}/grants/new")
    page.context.clear_cookies()
    page.get_by_label("Dataset (needed)").select_option("heartbeats")
    page.get_by_label("Name").fill("erin")
    page.get_by_role("button", name="Grant access").click()
    expect(page.locator("main")).to_contain_text("Your login has ended, and nothing was changed.")
    page.get_by_role("link", name="Log in").click()
    expect(page.get_by_role("link", name="olivia")).to_be_visible()
