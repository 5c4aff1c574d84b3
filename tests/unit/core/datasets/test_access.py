# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access and explanations, from a notebook through the agent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import sealroom
from hypothesis import given
from hypothesis import strategies as st
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.api import parse_end
from sealroom.datasets.messages import RequestInfo, RuleInfo, TermInfo
from sealroom.datasets.show_access import outcome_word, request_html, requests_text
from sealroom.errors import AccessDeniedError, ConfigurationError, Error, ProtocolError
from support.sealed import CREATED, Backend

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HEALTH = TermInfo(code="DUO:0000006", label="health or medical or biomedical research")


def test_explanation_says_in_words_what_failed_first(agent: AgentServer, backend: Backend) -> None:
    backend.purposes.clear()
    found = sealroom.explain("heartbeats")
    assert found.allowed is False
    lines = repr(found).splitlines()
    assert lines[0] == "The broker would not release Heartbeats of record 208 to this server."
    assert lines[1].split() == ["failed", "You", "have", "<no>", "grant."]
    assert lines[2].split()[0] == "passed"
    assert lines[3].strip().startswith("not looked at")
    assert lines[-1] == "Whom to ask: data@heart.example"


def test_explanation_as_html_is_escaped_and_has_words(agent: AgentServer, backend: Backend) -> None:
    backend.purposes.clear()
    html = sealroom.explain("heartbeats", "DUO:0000042")._repr_html_()
    assert "You have &lt;no&gt; grant." in html
    assert ">failed</span>" in html
    assert "general research use (DUO:0000042)" in html


def test_explanation_that_allows_asks_nobody(agent: AgentServer) -> None:
    found = sealroom.explain("heartbeats")
    assert found.allowed is True
    assert "would release" in repr(found)
    assert "Whom to ask" not in repr(found)


def test_outcome_of_a_newer_server_is_not_a_pass() -> None:
    assert outcome_word(RuleInfo(code="x", outcome="maybe", sentence="")) == "not looked at"


def test_request_takes_the_only_purpose_and_is_listed(agent: AgentServer, backend: Backend) -> None:
    made = sealroom.request("heartbeats", reason="  To train a network.  ", until="+30d")
    assert (made.state, made.purpose.code, made.reason) == ("open", "DUO:0000042", "To train a network.")
    assert made.until is not None
    assert timedelta(days=29) < made.until - datetime.now(UTC) <= timedelta(days=30)
    assert "open since 2026-11-02 10:00 UTC" in repr(made)
    (listed,) = sealroom.requests()
    assert listed.id == made.id
    assert "open since" in repr(sealroom.requests())


def test_request_is_taken_back_once(agent: AgentServer) -> None:
    made = sealroom.request("heartbeats", reason="By mistake.")
    assert made.take_back().state == "withdrawn"
    with pytest.raises(ProtocolError, match="answered already"):
        made.take_back()
    assert "taken back" in repr(sealroom.requests())


def test_several_purposes_must_be_named(agent: AgentServer, backend: Backend) -> None:
    backend.asks.append(HEALTH)
    with pytest.raises(ConfigurationError) as caught:
        sealroom.request("heartbeats", reason="To train.")
    assert "DUO:0000042" in caught.value.advice
    assert "DUO:0000006" in caught.value.advice
    made = sealroom.request("heartbeats", reason="To train.", purpose="DUO:0000006")
    assert made.purpose.code == "DUO:0000006"


def test_request_for_a_dataset_that_is_not_there(agent: AgentServer, backend: Backend) -> None:
    with pytest.raises(AccessDeniedError, match="no dataset 'nothing'"):
        sealroom.request("nothing", reason="To train.")
    assert backend.requested == []


@pytest.mark.parametrize("reason", ["", " \n ", "x" * 2001])
def test_reason_that_is_empty_or_too_long_is_not_sent(
    agent: AgentServer, backend: Backend, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match="1 to 2000 characters"):
        sealroom.request("heartbeats", reason=reason)
    assert backend.requested == []


def test_refusal_of_the_broker_keeps_its_reasons(agent: AgentServer, backend: Backend) -> None:
    backend.refusal = AccessDeniedError("Not passed on.", reasons=(("request.open", "There is one."),))
    with pytest.raises(AccessDeniedError) as caught:
        sealroom.request("heartbeats", reason="To train.")
    assert caught.value.reasons == (("request.open", "There is one."),)


def test_owners_words_are_escaped() -> None:
    info = RequestInfo(
        id="r",
        dataset="heartbeats",
        purpose=HEALTH,
        created=CREATED,
        state="refused",
        answered=CREATED,
        answer="<script>no</script>",
    )
    assert "<script>" not in request_html(info)
    assert "refused 2026-11-02 10:00 UTC: <script>no</script>" in requests_text([info])


def test_nothing_asked_is_said(agent: AgentServer) -> None:
    assert repr(sealroom.requests()) == "You have asked for nothing."
    assert "asked for nothing" in sealroom.requests()._repr_html_()


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("+2w", NOW + timedelta(weeks=2)),
        ("+12h", NOW + timedelta(hours=12)),
        ("2027-03-31T10:00:00+01:00", datetime(2027, 3, 31, 9, tzinfo=UTC)),
        (datetime(2027, 3, 31, 9, tzinfo=UTC), datetime(2027, 3, 31, 9, tzinfo=UTC)),
        (None, None),
        ("", None),
    ],
)
def test_ends_are_read(until: str | datetime | None, end: datetime | None) -> None:
    assert parse_end(until, NOW) == end


def test_day_means_its_last_second() -> None:
    assert parse_end(date(2027, 3, 31), NOW) == parse_end("2027-03-31", NOW)
    assert parse_end("2027-03-31", NOW) == datetime(2027, 3, 31, 23, 59, 59).astimezone(UTC)


@pytest.mark.parametrize("until", ["yesterday", "+0d", "+3y", "2027-02-31", "2026-11-23", NOW])
def test_end_that_is_none_or_over_is_refused(until: str | datetime) -> None:
    with pytest.raises(ConfigurationError):
        parse_end(until, NOW)


@given(st.text(max_size=40))
def test_whatever_is_given_as_an_end_is_a_time_or_our_error(text: str) -> None:
    try:
        end = parse_end(text, NOW)
    except ConfigurationError:
        return
    assert end is None or end > NOW


@pytest.mark.parametrize("until", ["tomorrow", "2027-03-31T10:00:00", "9" * 100])
def test_agent_refuses_a_time_without_a_zone(agent: AgentServer, backend: Backend, until: str) -> None:
    client = AgentClient(agent.path)
    request = {"op": "request", "dataset": "heartbeats", "purpose": "DUO:0000042", "reason": "x"}
    with pytest.raises(ProtocolError, match="no time with a zone"):
        client._call({**request, "until": until})
    client.close()
    assert backend.requested == []


@pytest.mark.parametrize("op", ["explain", "request", "take_back"])
def test_agent_refuses_an_operation_that_lacks_its_words(agent: AgentServer, op: str) -> None:
    client = AgentClient(agent.path)
    with pytest.raises(ProtocolError, match="lacks the text"):
        client._call({"op": op})
    client.close()


def test_server_that_is_gone_is_our_error(agent: AgentServer) -> None:
    agent.stop()
    for call in (sealroom.requests, lambda: sealroom.explain("heartbeats")):
        with pytest.raises(Error, match="does not answer"):
            call()
