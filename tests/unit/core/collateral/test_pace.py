# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Protocol

import pytest
from sealroom.collateral._http import Answer, Service
from sealroom.collateral.pace import Client, Flights, Gate
from sealroom.errors import (
    CollateralUnavailableError,
    ConfigurationError,
    Error,
    NetworkError,
)
from sealroom.testing.services import Asked, Fault, Reply, StandIn

from .conftest import FakeTime


class Hello(StandIn):
    """Says hello."""

    def answer(self, asked: Asked) -> Reply:
        return Reply(200, b"hello", {"ETag": '"h"'})


@pytest.fixture
def hello() -> Iterator[Hello]:
    made = Hello()
    with made.running():
        yield made


class MakeClient(Protocol):
    def __call__(self, url: str = ..., *, interval: float = ..., timeout: float = ...) -> Client: ...


@pytest.fixture
def client(hello: Hello, time: FakeTime) -> Iterator[MakeClient]:
    """Make clients that are closed at the end."""
    services: list[Service] = []

    def make(url: str = hello.url, *, interval: float = 0.0, timeout: float = 5.0) -> Client:
        services.append(Service(url, "The service", timeout=timeout))
        return Client(services[-1], Gate(None, interval, time.clock), time.clock)

    yield make
    for service in services:
        service.close()


def ask(made: Client) -> Answer:
    answer = made.ask("GET", "/x")
    assert isinstance(answer, Answer)
    return answer


# --- turns ---


def test_turns_are_an_interval_apart(tmp_path: Path, time: FakeTime) -> None:
    gate = Gate(tmp_path / "turns", 10.0, time.clock)
    start = time.now()
    assert [gate.wait(start + 100) - start for _ in range(3)] == [0.0, 10.0, 20.0]


def test_turns_are_shared_by_all_who_share_the_file(tmp_path: Path, time: FakeTime) -> None:
    start = time.now()
    turns = [Gate(tmp_path / "turns", 10.0, time.clock).wait(start + 100) - start for _ in range(3)]
    assert turns == pytest.approx([0.0, 10.0, 20.0], abs=0.001)


def test_turns_of_threads_are_all_different(tmp_path: Path, time: FakeTime) -> None:
    gate = Gate(tmp_path / "turns", 10.0, time.clock)
    until = time.now() + 10_000
    with ThreadPoolExecutor(8) as pool:
        turns = sorted(pool.map(lambda _: gate.wait(until), range(24)))
    assert min(later - earlier for earlier, later in itertools.pairwise(turns)) >= 10.0


_PROCESS = """
import sys
from pathlib import Path
from sealroom.collateral.pace import Clock, Gate
gate = Gate(Path(sys.argv[1]), 10.0, Clock(now=lambda: 1_000_000.0, wait=lambda _: None))
for _ in range(5):
    print(gate.wait(2_000_000.0))
"""


def test_turns_of_processes_are_all_different(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _PROCESS, str(tmp_path / "turns")]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    turns = sorted(float(line) for process in processes for line in process.communicate()[0].split())
    assert turns == [1_000_000.0 + 10.0 * n for n in range(15)]


def test_turn_that_comes_too_late_is_refused_and_not_taken(time: FakeTime) -> None:
    gate = Gate(None, 10.0, time.clock)
    start = time.now()
    gate.wait(start)
    with pytest.raises(NetworkError, match="next turn is in 10 seconds"):
        gate.wait(start + 5)
    assert gate.wait(start + 10) == start + 10


def test_turn_that_was_given_back_is_free(time: FakeTime) -> None:
    gate = Gate(None, 10.0, time.clock)
    turn = gate.wait(time.now())
    gate.give_back(turn)
    assert gate.wait(time.now()) == turn


def test_turn_is_not_given_back_over_the_head_of_a_later_one(time: FakeTime) -> None:
    gate = Gate(None, 10.0, time.clock)
    first = gate.wait(time.now() + 100)
    second = gate.wait(time.now() + 100)
    gate.give_back(first)
    assert gate.wait(time.now() + 100) == second + 10


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe", b"1e300", b"nan"])
def test_damaged_file_of_turns_costs_an_interval_at_most(
    tmp_path: Path, time: FakeTime, content: bytes
) -> None:
    (tmp_path / "turns").write_bytes(content)
    start = time.now()
    assert Gate(tmp_path / "turns", 10.0, time.clock).wait(start + 60) - start <= 10.0


def test_turns_without_a_file_that_can_be_written(tmp_path: Path, time: FakeTime) -> None:
    (tmp_path / "file").write_bytes(b"")
    gate = Gate(tmp_path / "file" / "turns", 10.0, time.clock)
    start = time.now()
    assert [gate.wait(start + 100) - start for _ in range(2)] == [0.0, 10.0]


# --- one request for many ---


class _CountedKey:
    """A key that counts how often it was looked up."""

    def __init__(self) -> None:
        self.lookups = 0

    def __hash__(self) -> int:
        self.lookups += 1
        return 1


def test_threads_that_want_the_same_share_the_work() -> None:
    flights, key, go = Flights(), _CountedKey(), threading.Event()
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        assert go.wait(10)
        return "done"

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(flights.share, key, work) for _ in range(8)]
        # The first looks it up twice, the others once: then all have come.
        while key.lookups < 9:
            sleep(0.001)
        go.set()
        assert {result.result(10) for result in results} == {"done"}
    assert len(calls) == 1


def test_failure_is_everybodys_and_is_not_remembered() -> None:
    flights = Flights()
    go = threading.Event()

    def fail() -> str:
        assert go.wait(10)
        raise NetworkError("no")

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(flights.share, "key", fail) for _ in range(4)]
        go.set()
        for result in results:
            with pytest.raises(NetworkError, match="no"):
                result.result(10)
    assert flights.share("key", lambda: "works again") == "works again"


# --- a service that is busy ---


def test_answer_has_status_body_and_etag(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    answer = ask(client())
    assert (answer.status, answer.body, answer.etag) == (200, b"hello", '"h"')


def test_busy_service_is_asked_again_after_ten_twenty_and_thirty_seconds(
    hello: Hello, time: FakeTime, client: MakeClient
) -> None:
    hello.fail(*[Fault(status=429)] * 4)
    assert ask(client()).body == b"hello"
    assert time.waits == [10.0, 20.0, 30.0, 30.0]
    assert len(hello.requests) == 5


def test_busy_service_is_given_up_within_our_patience(
    hello: Hello, time: FakeTime, client: MakeClient
) -> None:
    hello.fail(*[Fault(status=429)] * 20)
    start = time.now()
    with pytest.raises(CollateralUnavailableError, match="is busy"):
        ask(client())
    assert time.now() - start <= 120.0
    assert len(hello.requests) == 6


def test_retry_after_in_seconds_is_followed(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    hello.fail(Fault(status=429, headers={"Retry-After": "7"}))
    ask(client())
    assert time.waits == [7.0]


def test_retry_after_beyond_our_patience_is_given_up_at_once(
    hello: Hello, time: FakeTime, client: MakeClient
) -> None:
    hello.fail(Fault(status=503, headers={"Retry-After": "900"}))
    with pytest.raises(CollateralUnavailableError):
        ask(client())
    assert time.waits == []


@pytest.mark.parametrize("value", ["soon", "-1", "", "1.5", "Thu, 99 Nov 2026", "\xb2"])
def test_retry_after_that_says_nothing_is_as_none(
    hello: Hello, time: FakeTime, client: MakeClient, value: str
) -> None:
    hello.fail(Fault(status=429, headers={"Retry-After": value}))
    ask(client())
    assert time.waits == [10.0]


def test_retry_after_date_that_has_passed_means_now(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    hello.fail(Fault(status=429, headers={"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}))
    ask(client())
    assert time.waits == []


def test_other_threads_keep_away_from_a_busy_service(
    hello: Hello, time: FakeTime, client: MakeClient
) -> None:
    made = client(interval=1.0)
    hello.fail(Fault(status=429, headers={"Retry-After": "60"}))
    start = time.now()
    ask(made)
    ask(made)
    assert time.now() - start == 61.0


def test_request_that_became_needless_is_not_sent(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    made = client(interval=10.0)
    ask(made)
    answers = iter([None, "somebody else fetched it"])
    assert made.ask("GET", "/y", ready=lambda: next(answers)) == "somebody else fetched it"
    assert len(hello.requests) == 1


# --- a service that is broken ---


@pytest.mark.parametrize(
    "fault",
    [Fault(drop=True), Fault(cut=True), Fault(body=bytes(3 << 20))],
    ids=["no answer", "half an answer", "too long"],
)
def test_broken_answer_is_a_network_error(hello: Hello, client: MakeClient, fault: Fault) -> None:
    hello.fail(fault)
    with pytest.raises(NetworkError, match="The service at http://127"):
        ask(client())


def test_slow_service_is_a_network_error(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    hello.hold = threading.Event()
    with pytest.raises(NetworkError, match="did not answer in time"):
        ask(client(timeout=0.2))


def test_service_that_is_not_there_is_a_network_error(client: MakeClient) -> None:
    gone = Hello()
    with gone.running():
        url = gone.url
    with pytest.raises(NetworkError, match="cannot be reached"):
        ask(client(url))


def test_redirect_is_not_followed(hello: Hello, time: FakeTime, client: MakeClient) -> None:
    hello.fail(Fault(status=302, headers={"Location": "/elsewhere"}))
    made = client()
    answer = ask(made)
    assert answer.status == 302
    assert "redirect" in made.service.refuse(answer, "thing").message
    assert hello.paths == ["/x"]


@pytest.mark.parametrize("url", ["", "kds", "ftp://h", "http://", "http://h?x=1", "http://h/#f"])
def test_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the address"):
        Service(url, "The service")


def test_errors_are_ours() -> None:
    assert issubclass(CollateralUnavailableError, NetworkError)
    assert issubclass(NetworkError, Error)
