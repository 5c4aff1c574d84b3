# SPDX-License-Identifier: BSD-3-Clause
"""A workshop whose people come from a learning platform by LTI 1.3: a real hub, and a platform that signs."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from support.oidc import Signer
from support.stack import Stack, start

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

CLAIM = "https://purl.imsglobal.org/spec/lti/claim/"
CLIENT = "the-hub"


class Platform:
    """Publishes its key, and signs launches (LTI 1.3 Core, section 5)."""

    def __init__(self) -> None:
        self.signer = Signer("platform-key", "RS256")
        keys = json.dumps({"keys": [self.signer.jwk()]}).encode()

        class Keys(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(keys)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def launch(self, subject: str, **changes: Any) -> str:
        """Return the signed message of a person's click."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": subject,
            "iat": now,
            "exp": now + 300,
            f"{CLAIM}message_type": "LtiResourceLinkRequest",
            f"{CLAIM}version": "1.3.0",
            f"{CLAIM}deployment_id": "1",
            f"{CLAIM}target_link_uri": "http://hub/",
            f"{CLAIM}resource_link": {"id": "course-7"},
            f"{CLAIM}roles": ["http://purl.imsglobal.org/vocab/lis/v2/membership#Learner"],
        }
        return self.signer.sign(claims | changes)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("lti") / "state"
    home.mkdir(mode=0o700)
    end = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds")
    (home / "workshop.toml").write_text(
        'name = "summer-school"\ntitle = "Hearts and networks"\nseats = 1\nenvironment = "simulated-cpu"\n'
        f'until = {end}\nsignup = "lti"\n[lti]\nissuer = "{platform.url}"\nclient_id = "{CLIENT}"\n'
        f'authorize_url = "{platform.url}/authorize"\njwks_endpoint = "{platform.url}/keys"\n'
    )
    running = start(home)
    yield running
    running.bootstrap("down")


@contextlib.contextmanager
def click(
    platform: Platform, course: Stack, subject: str, **changes: Any
) -> Iterator[tuple[int, httpx.Client]]:
    """Go from the platform to the hub as a browser does; yield the last status and the browser."""
    with httpx.Client(base_url=course.url, timeout=60, trust_env=False) as browser:
        yield _click(browser, platform, subject, **changes), browser


def _click(browser: httpx.Client, platform: Platform, subject: str, **changes: Any) -> int:
    begun = browser.post(
        "/hub/lti13/oauth_login",
        data={
            "iss": platform.url,
            "login_hint": subject,
            "target_link_uri": f"{browser.base_url}hub/spawn",
            "lti_message_hint": "7",
            "client_id": CLIENT,
        },
    )
    assert begun.status_code == 302, begun.text[:500]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
    token = platform.launch(subject, **({"nonce": asked["nonce"]} | changes))
    answer = {"id_token": token, "state": asked["state"]}
    return browser.post("/hub/lti13/oauth_callback", data=answer).status_code


def test_learner_takes_the_seat_and_a_second_one_is_refused(platform: Platform, course: Stack) -> None:
    with click(platform, course, "learner-1") as (status, browser):
        assert status == 302
        page = browser.get("/hub/home")
        assert page.status_code == 200
        assert "learner-1" in page.text
    with click(platform, course, "learner-2") as (status, browser):
        assert status == 403
        assert browser.get("/hub/home").status_code == 302
    with click(platform, course, "learner-1") as (status, browser):
        assert status == 302


@pytest.mark.parametrize(
    "changes",
    [{"aud": "another-tool"}, {"iss": "http://127.0.0.1:9"}, {"nonce": "old"}, {"exp": 1_000_000_000}],
    ids=["audience", "issuer", "nonce", "expired"],
)
def test_launch_that_is_not_for_this_hub_is_refused(
    platform: Platform, course: Stack, changes: dict[str, Any]
) -> None:
    with click(platform, course, "learner-1", **changes) as (status, browser):
        assert status >= 400
        assert browser.get("/hub/home").status_code == 302


def test_launch_signed_by_somebody_else_is_refused(platform: Platform, course: Stack) -> None:
    known, platform.signer = platform.signer, Signer("platform-key", "RS256")
    try:
        with click(platform, course, "learner-1") as (status, browser):
            assert status >= 400
            assert browser.get("/hub/home").status_code == 302
    finally:
        platform.signer = known
