# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom project`, `sealroom dataset list` and `sealroom dataset destroy-key`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom.cli import run
from support.audit_logs import SIGNER
from support.owner_api import OwnerApi, serve, settings

Streams = pytest.CaptureFixture[str]
ADMIN = "/kbs/v0/sealroom/admin"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnerApi]:
    with serve(tmp_path / "log") as served:
        file = settings(tmp_path / "owner", served.url, str(SIGNER.verifier))
        monkeypatch.setenv("SEALROOM_OWNER", str(file))
        served.projects["vroni"] = {
            "name": "vroni",
            "state": "running",
            "grants": 2,
            "datasets": ["heartbeats"],
        }
        served.datasets["heartbeats"] = {
            "id": "heartbeats",
            "title": "Heartbeats",
            "manifest_sha256": "00" * 32,
            "files": 2,
            "size": 70_012,
            "registered": "2026-11-01T00:00:00Z",
            "keep_until": "2027-11-01T00:00:00Z",
        }
        yield served


def test_project_is_halted_with_a_reason(api: OwnerApi, capsys: Streams) -> None:
    assert run(["project", "halt", "vroni", "--reason", "Incident 7"]) == 0
    assert api.asked == [("POST", f"{ADMIN}/projects/vroni/halt", {"reason": "Incident 7"})]
    assert "Halted vroni: 2 grants for 1 dataset." in capsys.readouterr().out


def test_project_goes_on(api: OwnerApi, capsys: Streams) -> None:
    assert run(["project", "resume", "vroni", "--reason", "Solved", "--json"]) == 0
    assert api.asked == [("POST", f"{ADMIN}/projects/vroni/resume", {"reason": "Solved"})]
    assert json.loads(capsys.readouterr().out)["state"] == "running"


@pytest.mark.parametrize("turn", ["halt", "resume"])
def test_reason_must_be_given(api: OwnerApi, turn: str) -> None:
    assert run(["project", turn, "vroni"]) == 64
    assert run(["project", turn, "vroni", "--reason", " "]) == 64
    assert api.asked == []


def test_project_that_is_not_there(api: OwnerApi, capsys: Streams) -> None:
    assert run(["project", "halt", "Vroni", "--reason", "Incident"]) == 1
    assert "There is no such thing." in capsys.readouterr().err


def test_projects_are_listed(api: OwnerApi, capsys: Streams) -> None:
    run(["project", "halt", "vroni", "--reason", "Incident 7"])
    capsys.readouterr()
    assert run(["project", "list"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "vroni halted 2026-11-0" in out
    assert "2 heartbeats Incident 7" in out
    api.projects.clear()
    assert run(["project", "list"]) == 0
    assert "No grant is of a project." in capsys.readouterr().out


def test_datasets_are_listed_with_permit_and_key(api: OwnerApi, capsys: Streams) -> None:
    assert run(["dataset", "list"]) == 0
    out = capsys.readouterr().out
    assert "there" in out
    assert "2027-11-01" in out
    run(["dataset", "destroy-key", "heartbeats", "--reason", "Over", "--yes"])
    capsys.readouterr()
    assert run(["dataset", "list"]) == 0
    assert "destroyed 2026-11-02" in capsys.readouterr().out
    api.datasets.clear()
    assert run(["dataset", "list"]) == 0
    assert "holds no dataset" in capsys.readouterr().out


def answering(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    """Answer what is asked at the terminal; returns the questions."""
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return text

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    return questions


def test_key_is_destroyed_after_a_question(
    api: OwnerApi, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = answering(monkeypatch, "y")
    assert run(["dataset", "destroy-key", "heartbeats", "--reason", "The project is over"]) == 0
    assert api.asked == [("DELETE", f"{ADMIN}/datasets/heartbeats/key", {"reason": "The project is over"})]
    streams = capsys.readouterr()
    assert "has no key of heartbeats any more" in streams.out
    assert "Your own key is still there" in streams.out
    assert "Destroy the key of heartbeats" in "".join(questions) + streams.err


def test_no_is_no(api: OwnerApi, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "n")
    assert run(["dataset", "destroy-key", "heartbeats", "--reason", "Over"]) == 2
    assert api.asked == []
    assert "Stopped." in capsys.readouterr().err


def test_script_says_yes_beforehand(api: OwnerApi, capsys: Streams) -> None:
    assert run(["dataset", "destroy-key", "heartbeats", "--reason", "Over", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["destroyed"] == "2026-11-02T00:00:00Z"


def test_nobody_to_ask_is_no_yes(api: OwnerApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("click.termui.visible_prompt_func", nobody)
    assert run(["dataset", "destroy-key", "heartbeats", "--reason", "Over"]) == 2
    assert api.asked == []


def test_dataset_that_is_not_there(api: OwnerApi, capsys: Streams) -> None:
    assert run(["dataset", "destroy-key", "other", "--reason", "Over", "--yes"]) == 1
    assert "There is no such thing." in capsys.readouterr().err
