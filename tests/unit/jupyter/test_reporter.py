# SPDX-License-Identifier: BSD-3-Clause
"""Telling the hub's status service: in order, to its address only, and without holding anything up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from sealroom_jupyter.ports import Event, HubToken
from sealroom_jupyter.reporter import Reporter
from sealroom_jupyter.settings import Settings

SETTINGS = Settings(status_url="http://hub.example/services/sealroom", retry_first=0.01, retry_most=0.02)


class Service:
    """The status service; says what a test wants it to say."""

    def __init__(self) -> None:
        self.answers: list[int | Exception] = []
        self.heard: list[httpx.Request] = []
        self.enough = threading.Event()
        self.wanted = 1

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(request)
        answer = self.answers.pop(0) if self.answers else 204
        if len(self.heard) >= self.wanted:
            self.enough.set()
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, headers={"Location": "http://evil.example/"})

    @property
    def sentences(self) -> list[str]:
        return [json.loads(request.content)["sentence"] for request in self.heard]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def reporter(service: Service) -> Iterator[Reporter]:
    made = Reporter(SETTINGS, HubToken("hub-token-secret"), transport=httpx.MockTransport(service))
    yield made
    made.stop()


def test_an_event_has_stage_sentence_and_result(reporter: Reporter, service: Service) -> None:
    assert reporter.tell(Event("verified", "Proven.", "ear"))
    (request,) = service.heard
    assert str(request.url) == "http://hub.example/services/sealroom/api/servers/events"
    assert request.headers["Authorization"] == "token hub-token-secret"
    assert json.loads(request.content) == {"stage": "verified", "sentence": "Proven.", "token": "ear"}


@pytest.mark.parametrize(("name", "path"), [("", "events"), ("gpu", "gpu/events"), ("a/b", "a%2Fb/events")])
def test_the_address_names_the_server(name: str, path: str) -> None:
    made = Reporter(replace(SETTINGS, server_name=name), HubToken("t"))
    assert made.url == f"http://hub.example/services/sealroom/api/servers/{path}"
    made.stop()


def test_events_arrive_in_order_although_the_service_is_away_for_a_while(
    reporter: Reporter, service: Service
) -> None:
    service.answers = [httpx.ConnectError("down"), 503, 429]
    service.wanted = 5
    reporter(Event("starting", "one"))
    reporter(Event("evidence", "two"))
    reporter.start()
    assert service.enough.wait(20)
    assert service.sentences == ["one", "one", "one", "one", "two"]


def test_only_the_newest_wait_while_the_service_is_away(reporter: Reporter, service: Service) -> None:
    for number in range(50):
        reporter(Event("refused", str(number)))
    service.wanted = 8
    reporter.start()
    assert service.enough.wait(20)
    assert service.sentences == [str(number) for number in range(42, 50)]


def test_a_refusal_is_not_tried_again(reporter: Reporter, service: Service) -> None:
    service.answers = [403]
    assert reporter.tell(Event("starting", "one"))


def test_a_redirect_is_not_followed_with_the_token(reporter: Reporter, service: Service) -> None:
    service.answers = [302]
    reporter.tell(Event("starting", "one"))
    assert [request.url.host for request in service.heard] == ["hub.example"]


def test_silence_is_logged_once_and_without_the_token(
    reporter: Reporter, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.answers = [503, 503, httpx.ReadTimeout("slow")]
    for _ in range(3):
        assert not reporter.tell(Event("starting", "one", "ear-token"))
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    assert "ear-token" not in caplog.text


def test_stop_ends_the_thread_while_events_wait(service: Service) -> None:
    made = Reporter(
        replace(SETTINGS, retry_first=60, retry_most=60),
        HubToken("t"),
        transport=httpx.MockTransport(service),
    )
    service.answers = [503]
    made(Event("starting", "one"))
    made.start()
    assert service.enough.wait(20)
    made.stop()
    assert not made._thread.is_alive()
