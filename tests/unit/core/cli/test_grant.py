# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sealroom.cli import run
from sealroom.cli.grant import grant_state
from sealroom.kbs.calls import Grant
from support.audit_logs import SIGNER
from support.owner_api import TOKEN, OwnerApi, serve, settings

Streams = pytest.CaptureFixture[str]
ENVIRONMENT = "sha256:" + "ab" * 32


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnerApi]:
    with serve(tmp_path / "log") as served:
        file = settings(tmp_path / "owner", served.url, str(SIGNER.verifier))
        monkeypatch.setenv("SEALROOM_OWNER", str(file))
        yield served


def test_a_grant_is_added_with_its_defaults(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "add", "heartbeats", "--user", "ada"]) == 0
    assert api.asked == [
        (
            "POST",
            "/kbs/v0/sealroom/admin/grants",
            {
                "dataset": "heartbeats",
                "subject": "ada",
                "group": "",
                "visa": "",
                "issuer": "",
                "purposes": ["DUO:0000042"],
                "environments": [],
                "minimum": "affirming",
                "gpu": False,
                "starts": None,
                "until": None,
                "servers": None,
                "outputs": False,
                "project": "",
                "dataset_key": False,
            },
        )
    ]
    assert capsys.readouterr().out == "Granted heartbeats to ada until it is withdrawn (grant g0).\n"


def test_grant_for_servers_with_a_gpu(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "add", "heartbeats", "--user", "ada", "--gpu"]) == 0
    ((_, _, sent),) = api.asked
    assert sent["gpu"] is True
    capsys.readouterr()
    assert run(["grant", "list"]) == 0
    assert "with GPU" in " ".join(capsys.readouterr().out.split())


def test_grant_for_whoever_holds_a_visa(api: OwnerApi, capsys: Streams) -> None:
    arguments = ["--visa", "https://data.example/d", "--issuer", "https://visas.example"]
    assert run(["grant", "add", "heartbeats", *arguments]) == 0
    ((_, _, sent),) = api.asked
    assert (sent["subject"], sent["visa"], sent["issuer"]) == ("", arguments[1], arguments[3])
    assert "to holders of a visa for https://data.example/d until" in capsys.readouterr().out


def test_every_option_of_a_grant_is_sent(api: OwnerApi, capsys: Streams) -> None:
    arguments = ["--group", "cardiology", "--purpose", "DUO:0000006", "--purpose", "DUO:0000007"]
    arguments += ["--environment", ENVIRONMENT, "--minimum", "simulated", "--until", "2099-03-31T12:00:00Z"]
    assert run(["grant", "add", "heartbeats", *arguments]) == 0
    ((_, _, sent),) = api.asked
    assert sent["group"] == "cardiology"
    assert sent["purposes"] == ["DUO:0000006", "DUO:0000007"]
    assert sent["environments"] == [ENVIRONMENT]
    assert sent["minimum"] == "simulated"
    assert sent["until"] == "2099-03-31T12:00:00Z"
    assert "to group cardiology until 2099-03-31" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("span", "delta"),
    [("+30d", timedelta(days=30)), ("+12h", timedelta(hours=12)), ("+2w", timedelta(weeks=2))],
)
def test_a_grant_ends_a_span_from_now(api: OwnerApi, span: str, delta: timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert run(["grant", "add", "heartbeats", "--user", "ada", "--until", span]) == 0
    until = datetime.fromisoformat(api.asked[0][2]["until"])
    assert before + delta <= until <= datetime.now(UTC) + delta


def test_a_date_means_its_last_second_here(api: OwnerApi) -> None:
    assert run(["grant", "add", "heartbeats", "--user", "ada", "--until", "2099-03-31"]) == 0
    until = datetime.fromisoformat(api.asked[0][2]["until"]).astimezone()
    assert (until.day, until.hour, until.minute, until.second) == (31, 23, 59, 59)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--user or --group"),
        (["--user", "a", "--group", "b"], "--user or --group"),
        (["--user", "a", "--until", "2020-01-01"], "not in the future"),
        (["--user", "a", "--until", "tomorrow"], "neither a date"),
        (["--user", "a", "--until", "+0d"], "neither a date"),
        (["--user", "a", "--until", "+999999d"], "neither a date"),
        (["--user", "a", "--purpose", "research"], "DUO code"),
        (["--user", "a", "--environment", "ab" * 32], "digest"),
        (["--user", "a", "--minimum", "none"], "none"),
    ],
)
def test_a_wrong_grant_is_refused_before_anything_is_sent(
    api: OwnerApi, arguments: list[str], why: str, capsys: Streams
) -> None:
    assert run(["grant", "add", "heartbeats", *arguments]) == 64
    assert why in capsys.readouterr().err.replace("\n", " ")
    assert api.asked == []


def test_what_the_broker_does_not_take_is_said_in_its_words(api: OwnerApi, capsys: Streams) -> None:
    api.fail = (400, "ProtocolError", "This broker has no dataset x.")
    assert run(["grant", "add", "x", "--user", "ada"]) == 1
    assert capsys.readouterr().err == "This broker has no dataset x.\n"


def test_grants_are_listed(api: OwnerApi, capsys: Streams) -> None:
    run(["grant", "add", "heartbeats", "--user", "ada", "--until", "+30d"])
    run(["grant", "add", "chest-xray", "--group", "cardiology", "--environment", ENVIRONMENT])
    run(["grant", "withdraw", "g1"])
    capsys.readouterr()
    assert run(["grant", "list"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines() if line.strip().startswith("g")]
    assert [line[:3] for line in lines] == [["g0", "heartbeats", "ada"], ["g1", "chest-xray", "group"]]
    assert [line[-1] for line in lines] == ["active", "withdrawn"]
    assert "sha256:abababababab…" in shown


def test_grants_of_one_dataset_are_listed_as_json(api: OwnerApi, capsys: Streams) -> None:
    run(["grant", "add", "heartbeats", "--user", "ada"])
    run(["grant", "add", "chest-xray", "--user", "ada"])
    capsys.readouterr()
    assert run(["grant", "list", "chest-xray", "--json"]) == 0
    assert [grant["id"] for grant in json.loads(capsys.readouterr().out)] == ["g1"]


def test_no_grants_are_said(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "list"]) == 0
    assert capsys.readouterr().out == "There are no grants.\n"
    assert run(["grant", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_grant_is_withdrawn(api: OwnerApi, capsys: Streams) -> None:
    run(["grant", "add", "heartbeats", "--user", "ada"])
    capsys.readouterr()
    assert run(["grant", "withdraw", "g0"]) == 0
    assert "ada may no longer use heartbeats" in capsys.readouterr().out
    assert run(["grant", "withdraw", "g0", "--json"]) == 0
    (withdrawn,) = json.loads(capsys.readouterr().out)
    assert (withdrawn["id"], withdrawn["withdrawn"]) == ("g0", "2026-11-02T00:00:00Z")


def test_all_that_a_person_has_of_a_dataset_is_withdrawn(api: OwnerApi, capsys: Streams) -> None:
    for arguments in (
        ["heartbeats", "--user", "ada"],
        ["heartbeats", "--user", "bob"],
        ["xray", "--user", "ada"],
    ):
        run(["grant", "add", *arguments])
    run(["grant", "add", "heartbeats", "--user", "ada", "--until", "+1d"])
    assert run(["grant", "withdraw", "--dataset", "heartbeats", "--user", "ada"]) == 0
    assert sorted(grant for grant, one in api.grants.items() if "withdrawn" in one) == ["g0", "g3"]
    capsys.readouterr()
    assert run(["grant", "withdraw", "--dataset", "heartbeats", "--user", "eve"]) == 64
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["g0", "--user", "ada"],
        ["g0", "--dataset", "heartbeats"],
        ["--user", "ada"],
        ["--dataset", "heartbeats"],
        ["--dataset", "heartbeats", "--user", "ada", "--group", "cardiology"],
    ],
)
def test_a_withdrawal_that_names_nothing_or_too_much_is_64(api: OwnerApi, arguments: list[str]) -> None:
    assert run(["grant", "withdraw", *arguments]) == 64
    assert api.asked == []


def test_an_unknown_grant_is_refused(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "withdraw", "../g0"]) == 1
    assert capsys.readouterr().err == "There is no such grant.\n"


def test_a_wrong_token_is_refused_with_advice(api: OwnerApi, tmp_path: Path, capsys: Streams) -> None:
    (tmp_path / "owner" / "token").write_text("another")
    assert run(["grant", "list"]) == 1
    assert "token" in capsys.readouterr().err


def test_a_broker_that_is_not_there_could_not_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    file = settings(tmp_path / "owner", "http://127.0.0.1:9", str(SIGNER.verifier))
    assert run(["grant", "list", "--owner", str(file)]) == 2
    streams = capsys.readouterr()
    assert "cannot be reached" in streams.err
    assert "Check the address" in streams.err
    assert TOKEN not in streams.err + streams.out


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "active"),
        ({"until": "2026-11-02T00:00:00Z"}, "expired"),
        ({"until": "2026-11-02T00:00:01Z"}, "active"),
        ({"starts": "2026-11-03T00:00:00Z"}, "not yet"),
        ({"withdrawn": "2026-11-01T00:00:00Z", "until": "2026-11-01T00:00:00Z"}, "withdrawn"),
    ],
)
def test_a_grants_state_is_one_word(fields: dict[str, str], state: str) -> None:
    grant = Grant.model_validate({"id": "g", "created": "2026-11-01T00:00:00Z", "dataset": "d", **fields})
    assert grant_state(grant, datetime(2026, 11, 2, tzinfo=UTC)) == state
