# SPDX-License-Identifier: BSD-3-Clause
"""The notebook's widget: what it shows, that it follows, and that nothing secret is in its state."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any

import pytest
from sealroom.datasets.messages import (
    DatasetInfo,
    DeviceInfo,
    ErrorInfo,
    FileInfo,
    ReasonInfo,
    ServerStatus,
    TermInfo,
)
from sealroom.errors import NetworkError
from sealroom_jupyter import widget as module
from sealroom_jupyter.card import make_card
from sealroom_jupyter.widget import DatasetWidget, display_dataset

INFO = DatasetInfo(
    id="heartbeats",
    title="Heartbeats",
    owner="Heart Centre",
    contact="data@heart.example",
    size=432_128,
    files=2,
    state="unlocked",
    purpose=TermInfo(code="DUO:0000042", label="general research use"),
    until=datetime(2027, 1, 1, tzinfo=UTC),
)
STATUS = ServerStatus(
    tier="simulated",
    title="Simulated TEE",
    phase="verified",
    sentences=("It is simulated.", "It protects nothing."),
    devices=(DeviceInfo(device="cpu0", tier="simulated"),),
)


@dataclass
class FakeClient:
    info: DatasetInfo = INFO
    state: ServerStatus = STATUS
    gone: bool = False
    asked: int = 0
    again: threading.Event = field(default_factory=threading.Event)

    def status(self) -> ServerStatus:
        self.asked += 1
        if self.asked >= 3:
            self.again.set()
        if self.gone:
            raise NetworkError("The agent does not answer.", advice="Restart your server.")
        return self.state

    def datasets(self) -> Sequence[DatasetInfo]:
        return (self.info,)


@dataclass
class Shown:
    client: FakeClient
    info: DatasetInfo = INFO
    files: tuple[FileInfo, ...] = (FileInfo(name="ecg.npy", size=5),)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def widget(client: FakeClient) -> Iterator[DatasetWidget]:
    made = DatasetWidget(Shown(client))
    yield made
    made.close()


def refused(client: FakeClient) -> None:
    reason = ReasonInfo(code="grant.withdrawn", sentence="Your grant was withdrawn.")
    client.info = INFO.model_copy(
        update={"state": "withdrawn", "reasons": (reason,), "ask": "data@heart.example"}
    )


# -- the card


def test_card_of_an_unlocked_dataset() -> None:
    card = make_card(INFO, (FileInfo(name="ecg.npy", size=5),), STATUS)
    assert card["state"] == {"label": "Unlocked", "tone": "blue"}
    assert card["tier"] == {"label": "Simulated TEE", "tone": "amber"}
    assert card["extent"] == "432.1 kB in 2 files"
    assert card["until"] == "2027-01-01T00:00:00+00:00"
    assert card["purpose"] == "general research use (DUO:0000042)"
    assert card["code"] == 'sealroom.open("heartbeats/ecg.npy")'
    assert (card["reasons"], card["ask"], card["problem"]) == ([], "", "")


def test_card_of_a_refused_dataset_says_why_and_whom_to_ask() -> None:
    client = FakeClient()
    refused(client)
    card = make_card(client.info, (FileInfo(name="ecg.npy", size=5),), STATUS)
    assert card["state"]["label"] == "Grant withdrawn"
    assert card["reasons"] == ["Your grant was withdrawn."]
    assert (card["ask"], card["code"], card["until"]) == ("data@heart.example", "", "")


def test_card_of_a_dataset_that_is_not_here() -> None:
    card = make_card(INFO.model_copy(update={"state": "locked", "here": False}), (), STATUS)
    assert card["state"]["label"] == "Not on this machine"


@pytest.mark.parametrize(
    ("changes", "tone"),
    [
        ({}, "amber"),
        ({"phase": "unreachable"}, "grey"),
        ({"phase": "refused"}, "red"),
        ({"phase": "starting"}, "grey"),
        ({"tier": "affirming", "devices": (DeviceInfo(device="cpu0", tier="affirming"),)}, "green"),
        ({"tier": "affirming"}, "red"),
        ({"tier": "affirming", "devices": ()}, "red"),
        ({"tier": "contraindicated"}, "red"),
        ({"tier": "a newer one"}, "red"),
    ],
)
def test_only_a_result_whose_every_device_affirms_is_green(changes: dict[str, Any], tone: str) -> None:
    card = make_card(INFO, (), STATUS.model_copy(update=changes))
    assert card["tier"]["tone"] == tone


def test_card_of_a_status_with_a_problem_says_it() -> None:
    status = STATUS.model_copy(update={"error": ErrorInfo(message="The hub cannot be reached.")})
    assert make_card(INFO, (), status)["problem"] == "The hub cannot be reached."


# -- the widget


def test_the_widget_shows_what_the_agent_says(widget: DatasetWidget) -> None:
    assert widget.card["state"]["label"] == "Unlocked"
    assert datetime.fromisoformat(widget.at).tzinfo is not None


def test_the_widget_follows_a_withdrawal(widget: DatasetWidget, client: FakeClient) -> None:
    refused(client)
    widget.look()
    assert widget.card["reasons"] == ["Your grant was withdrawn."]


def test_the_widget_says_when_the_server_does_not_answer(widget: DatasetWidget, client: FakeClient) -> None:
    client.gone = True
    widget.look()
    assert widget.card["state"]["label"] == "Not known"
    assert widget.card["problem"] == "The agent does not answer. Restart your server."
    client.gone = False
    widget.look()
    assert widget.card["state"]["label"] == "Unlocked"


def test_an_unchanged_state_is_not_sent_again_at_once(widget: DatasetWidget) -> None:
    changes: list[object] = []
    widget.observe(changes.append, ["card", "at"])
    widget.look()
    assert changes == []
    widget.at = "2026-01-01T00:00:00+00:00"
    changes.clear()
    widget.look()
    assert [change["name"] for change in changes] == ["at"]  # type: ignore[index]


def test_a_shown_widget_is_looked_for_in_a_thread_until_it_is_gone(
    widget: DatasetWidget, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    widget._heard(widget, {"kind": "shown"}, [])
    assert client.again.wait(20)
    thread = module._watcher._thread
    widget._heard(widget, {"kind": "gone"}, [])
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive()
    assert module._watcher._thread is None


@pytest.mark.parametrize("content", [None, "shown", {}, {"kind": "other"}, {"kind": ["shown"]}])
def test_other_messages_change_nothing(widget: DatasetWidget, content: object) -> None:
    widget._heard(widget, content, [])
    assert not widget.watched


def test_the_saved_state_holds_words_only(widget: DatasetWidget) -> None:
    state = {key: value for key, value in widget.get_state().items() if key not in ("_esm", "_css")}
    assert set(state["card"]) == set(make_card(INFO, (), STATUS))
    text = json.dumps(state, default=str)
    for word in ("sock", "SEALROOM_RUN", "token", "agent"):
        assert word not in text


def test_places_without_widgets_get_text_and_html(widget: DatasetWidget) -> None:
    bundle = widget._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "Heartbeats" in bundle["text/html"]
    assert "As of" in bundle["text/html"]
    assert "Simulated TEE" in bundle["text/plain"] or "Simulated TEE" in repr(widget)
    assert "As of" in repr(widget)


def test_a_title_with_markup_is_text(client: FakeClient) -> None:
    client.info = INFO.model_copy(update={"title": "<img src=x onerror=alert(1)>"})
    widget = DatasetWidget(Shown(client, client.info))
    assert "<img" not in widget._repr_mimebundle_()[0]["text/html"]
    widget.close()


def test_the_script_sets_nothing_as_html(widget: DatasetWidget) -> None:
    script = str(widget._esm)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("):
        assert word not in script
    assert "--jp-warn-color1" in str(widget._css)


def test_the_entry_point_displays_the_widget(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    (found,) = entry_points(group="sealroom.display")
    assert found.load() is display_dataset
    display_dataset(Shown(client))
    assert isinstance(shown[0], DatasetWidget)
    shown[0].close()
