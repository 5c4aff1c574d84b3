# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom grant change` and the further terms of `sealroom grant add`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sealroom.cli import run
from sealroom.cli.grant import grant_state
from sealroom.kbs.calls import Grant
from support.audit_logs import SIGNER
from support.owner_api import OwnerApi, serve, settings

Streams = pytest.CaptureFixture[str]
ENVIRONMENT = "sha256:" + "ab" * 32
GRANTS = "/kbs/v0/sealroom/admin/grants"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnerApi]:
    with serve(tmp_path / "log") as served:
        file = settings(tmp_path / "owner", served.url, str(SIGNER.verifier))
        monkeypatch.setenv("SEALROOM_OWNER", str(file))
        assert run(["grant", "add", "heartbeats", "--user", "ada"]) == 0
        served.asked.clear()
        yield served


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (
            ["--purpose", "DUO:0000006", "--purpose", "DUO:0000007"],
            {"purposes": ["DUO:0000006", "DUO:0000007"]},
        ),
        (["--environment", ENVIRONMENT], {"environments": [ENVIRONMENT]}),
        (["--any-environment"], {"environments": []}),
        (["--until", "2099-03-31T12:00:00Z"], {"until": "2099-03-31T12:00:00Z"}),
        (["--starts", "2099-03-31T12:00:00Z"], {"starts": "2099-03-31T12:00:00Z"}),
        (["--forever"], {"forever": True}),
        (["--minimum", "simulated"], {"minimum": "simulated"}),
        (["--gpu"], {"gpu": True}),
        (["--no-gpu"], {"gpu": False}),
        (["--servers", "2"], {"servers": 2}),
        (["--any-servers"], {"any_servers": True}),
        (["--outputs"], {"outputs": True}),
        (["--no-outputs"], {"outputs": False}),
        (["--project", "vroni"], {"project": "vroni"}),
        (["--no-project"], {"project": ""}),
        (["--dataset-key"], {"dataset_key": True}),
        (["--no-dataset-key"], {"dataset_key": False}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_only_what_is_named_is_sent(api: OwnerApi, arguments: list[str], sent: dict[str, Any]) -> None:
    assert run(["grant", "change", "g0", *arguments]) == 0
    assert api.asked == [("PATCH", f"{GRANTS}/g0", sent)]


def test_what_the_grant_is_now_is_shown(api: OwnerApi, capsys: Streams) -> None:
    capsys.readouterr()
    assert run(["grant", "change", "g0", "--servers", "2", "--outputs", "--project", "vroni"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Grant g0 of ada for heartbeats is now (version 2)" in out
    for shown in ("servers 2", "may leave results", "project vroni", "purposes DUO:0000042"):
        assert shown in out


def test_changed_grant_as_json(api: OwnerApi, capsys: Streams) -> None:
    capsys.readouterr()
    assert run(["grant", "change", "g0", "--gpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--forever", "--until", "+1d"],
        ["--servers", "1", "--any-servers"],
        ["--project", "a", "--no-project"],
        ["--environment", ENVIRONMENT, "--any-environment"],
        ["--servers", "0"],
        ["--project", "a/b"],
        ["--project", "x" * 65],
        ["--purpose", "research"],
        ["--until", "yesterday"],
    ],
    ids=" ".join,
)
def test_change_that_says_nothing_or_two_things(api: OwnerApi, arguments: list[str]) -> None:
    assert run(["grant", "change", "g0", *arguments]) == 64
    assert api.asked == []


def test_grant_that_is_not_there(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "change", "g7", "--gpu"]) == 1
    assert "There is no such grant." in capsys.readouterr().err


def test_further_terms_of_a_new_grant_are_sent(api: OwnerApi) -> None:
    arguments = ["--servers", "3", "--outputs", "--project", "vroni", "--dataset-key"]
    assert run(["grant", "add", "heartbeats", "--user", "ada", *arguments]) == 0
    ((_, _, sent),) = api.asked
    assert (sent["servers"], sent["outputs"], sent["project"], sent["dataset_key"]) == (
        3,
        True,
        "vroni",
        True,
    )


def test_list_shows_the_terms_and_halted_projects(api: OwnerApi, capsys: Streams) -> None:
    assert run(["grant", "add", "heartbeats", "--user", "bob", "--project", "vroni", "--servers", "3"]) == 0
    api.projects["vroni"] = {"name": "vroni", "state": "halted", "grants": 1}
    capsys.readouterr()
    assert run(["grant", "list"]) == 0
    ada, bob = [line.split() for line in capsys.readouterr().out.splitlines() if "heartbeats" in line]
    assert ada[-1] == "active"
    assert "vroni" in bob
    assert bob[-1] == "halted"


def test_list_of_grants_without_projects_does_not_ask_for_them(api: OwnerApi) -> None:
    assert run(["grant", "list"]) == 0
    assert [path for _, path, _ in api.asked] == [GRANTS]


def test_state_of_a_grant_of_a_halted_project() -> None:
    now = datetime(2026, 11, 2, tzinfo=UTC)
    grant = Grant(id="g", created=now, dataset="d", subject="ada", project="vroni")
    assert grant_state(grant, now) == "active"
    assert grant_state(grant, now, frozenset({"vroni"})) == "halted"
    assert grant_state(grant.model_copy(update={"until": now}), now, frozenset({"vroni"})) == "expired"
    assert grant_state(grant.model_copy(update={"project": ""}), now, frozenset({""})) == "active"
