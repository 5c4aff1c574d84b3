# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sealroom.cli import run
from support.audit_logs import SIGNER
from support.owner_api import OwnerApi, serve, settings

Streams = pytest.CaptureFixture[str]
ENVIRONMENT = "sha256:" + "a" * 64
REQUEST: dict[str, Any] = {
    "id": "r1",
    "dataset": "heartbeats",
    "person": {
        "subject": "u1",
        "name": "Ada",
        "groups": ["cardiology"],
        "issuer": "https://hub.example",
        "email": "ada@heart.example",
        "visas": [
            {
                "issuer": "https://visas.example",
                "value": "https://data.example/heartbeats",
                "source": "https://dac.example",
                "asserted": "2026-10-01T00:00:00Z",
                "until": "2027-10-01T00:00:00Z",
            }
        ],
    },
    "purpose": "DUO:0000042",
    "reason": "A study of arrhythmia.\nSecond line.",
    "until": "2027-01-01T00:00:00Z",
    "created": "2026-11-01T00:00:00Z",
    "server": {
        "server": "",
        "tier": "simulated",
        "simulated": True,
        "environment": ENVIRONMENT,
        "devices": {"cpu0": "simulated"},
        "evidence": "e" * 64,
        "attested": "2026-11-01T00:00:00Z",
    },
    "session": "5" * 64,
    "state": "open",
    "answer": "",
    "answered": None,
    "answered_by": "",
    "grant": "",
    "audit_index": 7,
}
EXPLANATION: dict[str, Any] = {
    "dataset": "heartbeats",
    "title": "Heartbeats",
    "purpose": "DUO:0000042",
    "allowed": False,
    "rules": [
        {"code": "person.none", "outcome": "passed", "sentence": "The person is known."},
        {"code": "grant.none", "outcome": "failed", "sentence": "Ada has no grant for heartbeats."},
    ],
    "ask": "",
}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnerApi]:
    with serve(tmp_path / "log") as served:
        monkeypatch.setenv(
            "SEALROOM_OWNER", str(settings(tmp_path / "owner", served.url, str(SIGNER.verifier)))
        )
        for changes in ({}, {"id": "r2", "dataset": "genomes", "state": "refused", "answer": "No."}):
            one = json.loads(json.dumps(REQUEST | changes))
            served.requests[one["id"]] = one
        yield served


def test_open_requests_are_listed(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "list"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "r1",
        "heartbeats",
        "Ada",
        "DUO:0000042",
        "A study of arrhythmia. Second line.",
        "simulated",
    ):
        assert part in shown, part
    assert "r2" not in shown
    assert "request show ID" in shown


def test_requests_are_listed_by_dataset_and_state(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "list", "genomes", "--state", "all", "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ["r2"]
    assert api.asked[-1][1].endswith("requests?dataset=genomes")
    assert run(["request", "list", "genomes"]) == 0
    assert capsys.readouterr().out == "There are no open requests.\n"
    assert run(["request", "list", "no-such", "--state", "all"]) == 0
    assert capsys.readouterr().out == "There are no requests.\n"


def test_a_request_is_shown_beside_its_servers_evidence(api: OwnerApi, capsys: Streams) -> None:
    api.explanation = EXPLANATION
    assert run(["request", "show", "r1"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Ada (u1 at https://hub.example)",
        "ada@heart.example",
        "https://data.example/heartbeats",
        "general research use",
        "simulated (simulated)",
        ENVIRONMENT,
        f"evidence/{'e' * 64}",
        "sealroom audit show 7",
        "grant.none: Ada has no grant for heartbeats.",
    ):
        assert part in shown, part
    assert "The person is known." not in shown
    assert f"session={'5' * 64}" in api.asked[-1][1]


def test_a_request_is_shown_whose_server_is_forgotten(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "show", "r2"]) == 0
    assert "has forgotten this server" in capsys.readouterr().out
    assert run(["request", "show", "r2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["explanation"]) == ("r2", None)


def test_nothing_in_the_way_is_said(api: OwnerApi, capsys: Streams) -> None:
    api.explanation = {**EXPLANATION, "allowed": True, "rules": EXPLANATION["rules"][:1]}
    assert run(["request", "show", "r1"]) == 0
    assert "Nothing stands in the way" in capsys.readouterr().out


def test_control_characters_of_a_name_do_not_reach_the_terminal(api: OwnerApi, capsys: Streams) -> None:
    api.requests["r1"]["person"]["name"] = "A\x1b[2Jda"
    assert run(["request", "list"]) == 0
    assert run(["request", "show", "r1"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_grant_is_given_with_every_term(api: OwnerApi, capsys: Streams) -> None:
    arguments = [
        *("--days", "7", "--purpose", "DUO:0000006", "--environment", ENVIRONMENT, "--minimum", "simulated"),
        *("--gpu", "--servers", "2", "--outputs", "--project", "arrhythmia", "--message", "For a week."),
    ]
    assert run(["request", "grant", "r1", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Granted heartbeats to Ada until ")
    assert "(grant g1)" in said
    _, path, body = api.asked[-1]
    assert path.endswith("/requests/r1/grant")
    end = datetime.fromisoformat(body.pop("until"))
    assert abs(end - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=5)
    assert body == {
        "purposes": ["DUO:0000006"],
        "environments": [ENVIRONMENT],
        "minimum": "simulated",
        "gpu": True,
        "servers": 2,
        "outputs": True,
        "project": "arrhythmia",
        "starts": None,
        "forever": False,
        "answer": "For a week.",
    }


def test_a_grant_without_an_end_is_given_by_name_only(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "grant", "r1", "--forever"]) == 0
    assert "until it is withdrawn" in capsys.readouterr().out
    body = api.asked[-1][2]
    assert (body["until"], body["forever"], body["purposes"], body["minimum"]) == (
        None,
        True,
        None,
        "affirming",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--days", "7", "--forever"],
        ["--days", "7", "--until", "+7d"],
        ["--days", "0"],
        ["--until", "2020-01-01"],
        ["--days", "7", "--purpose", "research"],
        ["--days", "7", "--environment", "sha256:abc"],
        ["--days", "7", "--servers", "0"],
        ["--days", "7", "--project", "a b"],
        ["--days", "7", "--message", "x" * 2001],
    ],
    ids=str,
)
def test_wrong_terms_are_refused_before_anything_is_sent(api: OwnerApi, arguments: list[str]) -> None:
    assert run(["request", "grant", "r1", *arguments]) == 64
    assert api.asked == []


def test_a_request_is_refused_with_a_message(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "refuse", "r1", "--message", "No ethics approval."]) == 0
    assert "Refused heartbeats to Ada" in capsys.readouterr().out
    assert api.asked[-1][1:] == (
        "/kbs/v0/sealroom/admin/requests/r1/refuse",
        {"answer": "No ethics approval."},
    )
    assert run(["request", "refuse", "r1", "--message", "No.", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "refused"


@pytest.mark.parametrize("arguments", [[], ["--message", " "], ["--message", "x" * 2001]], ids=str)
def test_a_refusal_without_a_message_is_64(api: OwnerApi, arguments: list[str]) -> None:
    assert run(["request", "refuse", "r1", *arguments]) == 64
    assert api.asked == []


def test_what_somebody_else_answered_already_is_said(api: OwnerApi, capsys: Streams) -> None:
    api.fail = (409, "Conflict", "This request was granted already, by ann.")
    assert run(["request", "refuse", "r1", "--message", "No."]) == 1
    assert capsys.readouterr().err == "This request was granted already, by ann.\n"


def test_an_unknown_request_is_said(api: OwnerApi, capsys: Streams) -> None:
    assert run(["request", "show", "r9"]) == 1
    assert "There is no such request." in capsys.readouterr().err
