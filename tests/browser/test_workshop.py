# SPDX-License-Identifier: BSD-3-Clause
"""A workshop on one machine, in a real Chromium: a seat by link, one grant for all, the board, the end."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.stack import REPOSITORY, Stack, start

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

expect.set_options(timeout=30_000)

RESULTS = REPOSITORY / "test-results" / "workshop"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]


def write(home: Path, until: datetime) -> None:
    (home / "workshop.toml").write_text(
        'name = "summer-school"\ntitle = "Hearts and networks"\nseats = 2\nenvironment = "simulated-cpu"\n'
        f'until = {until.isoformat(timespec="seconds")}\ninstructors = ["visitor"]\n'
    )


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("workshop") / "state"
    home.mkdir(mode=0o700)
    write(home, datetime.now(UTC) + timedelta(hours=2))
    running = start(home)
    try:
        yield running
    finally:
        for client in running.clients:
            client.close()
        running.bootstrap("down")


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


def picture(page: Page, name: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=RESULTS / f"{name}.png")


def link(stack: Stack) -> str:
    """Return the invitation that `make up` prints."""
    found = re.search(r"Invite to the workshop with (\S+)", stack.bootstrap("up"))
    assert found is not None
    return found[1]


def test_from_the_link_to_data_to_the_end(page: Page, course: Stack) -> None:
    # 1. A seat.
    page.goto(link(course))
    expect(page.get_by_text("2 of 2 seats are free")).to_be_visible()
    picture(page, "1-invited")
    page.get_by_role("button", name="Take a seat").click()
    expect(page.locator("#seat-name")).to_have_text("summer-school-01")
    password = page.locator("#seat-password").inner_text()
    picture(page, "2-seat")

    # 2. The owner grants the group; the seat's server may read.
    course.cli("grant", "add", "heartbeats", "--group", "summer-school", "--minimum", "simulated")
    with (course.home / "login.txt").open("a") as file:
        file.write(f"summer-school-01 {password}\n")  # as the person writes it down
    seat = course.login("summer-school-01")
    seat.start_server()
    done = seat.execute("import sealroom; sealroom.unlock('heartbeats'); print(len(sealroom.datasets()))")
    assert (done.error, done.stdout.strip().isdecimal()) == ("", True)

    # 3. The instructor sees the group on the board, and nobody else.
    page.context.clear_cookies()
    page.goto(f"{course.url}/services/sealroom/")
    page.get_by_label("Username").fill("visitor")
    page.get_by_label("Password").fill(course.password("visitor"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Servers of summer-school")).to_be_visible()
    expect(page.locator("tr.sealroom-server")).to_have_count(1)
    picture(page, "3-board")

    # 4. The end: the server is stopped, and nobody gets in.
    write(course.home, datetime.now(UTC) - timedelta(seconds=1))
    deadline = time.monotonic() + 90
    while course.login("operator").client.get("/hub/api/users/summer-school-01").json()["servers"]:
        assert time.monotonic() < deadline, "the server of the workshop still runs"
        time.sleep(2)
    page.context.clear_cookies()
    page.goto(link(course))
    expect(page.get_by_text("This workshop ended")).to_be_visible()
    picture(page, "4-ended")
    page.goto(f"{course.url}/hub/login")
    page.get_by_label("Username").fill("summer-school-01")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("ended at")).to_be_visible()


def test_invitation_with_another_code_is_refused(page: Page, course: Stack) -> None:
    page.goto(f"{course.url}/hub/join?code={'A' * 43}")
    expect(page.get_by_role("heading", name="This invitation is not valid")).to_be_visible()
