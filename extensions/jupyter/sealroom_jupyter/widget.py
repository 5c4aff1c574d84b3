# SPDX-License-Identifier: BSD-3-Clause
"""Shows an unlocked dataset in a notebook, with the same state as the panel, and keeps it up to date.

A thread of the kernel asks the server's agent, so the widget follows also while a cell runs: a withdrawn
grant shows within seconds. It asks only while somebody looks.

Invariants:

- The widget's state is words (see `card`): it is saved in the notebook file.
- A state that may be old is shown as old: the front end marks what was not confirmed for a while.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets
from sealroom.datasets.messages import DatasetInfo, FileInfo, ServerStatus
from sealroom.datasets.show import dataset_html
from sealroom.errors import Error

from sealroom_jupyter.card import Card, card_text, make_card, without_answer

INTERVAL = 2.0
"""Seconds between two looks."""
CONFIRM = 10.0
"""Seconds after which an unchanged state is confirmed to the front end."""


class Client(Protocol):
    """What the widget asks (`sealroom.datasets.agent.AgentClient`)."""

    def status(self) -> ServerStatus:
        """Return what the server can prove."""

    def datasets(self) -> Sequence[DatasetInfo]:
        """Return the datasets."""


class ShownDataset(Protocol):
    """What is shown (`sealroom.datasets.api.Dataset`)."""

    @property
    def info(self) -> DatasetInfo:
        """What was known when it was unlocked."""

    @property
    def files(self) -> Sequence[FileInfo]:
        """Its files."""

    @property
    def client(self) -> Client:
        """The notebook server's agent."""


class DatasetWidget(anywidget.AnyWidget):
    """A dataset's title, owner and state, and what the server has proven."""

    _esm = Path(__file__).parent / "widget.js"
    _css = Path(__file__).parent / "widget.css"

    card = traitlets.Dict().tag(sync=True)
    """A `card.Card`."""
    at = traitlets.Unicode().tag(sync=True)
    """When the card was last confirmed, ISO 8601."""

    def __init__(self, dataset: ShownDataset, **kwargs: Any) -> None:
        self._client = dataset.client
        self._files = tuple(dataset.files)
        self._info = dataset.info
        self._views = 0
        self._look_lock = threading.Lock()
        self._shown = self._ask(make_card(dataset.info, self._files, None))
        super().__init__(card=dict(self._shown), at=_now().isoformat(), **kwargs)
        self.on_msg(self._heard)

    def look(self) -> None:
        """Ask the agent and show what it says; never raises for what does not answer."""
        with self._look_lock:
            card, now = self._ask(self._shown), _now()
            if card != self._shown:
                self._shown = card
                # One message for both, so that no front end draws the new card with the old time.
                with self.hold_sync():
                    self.card, self.at = dict(card), now.isoformat()
            elif (now - datetime.fromisoformat(self.at)).total_seconds() >= CONFIRM:
                self.at = now.isoformat()

    def _ask(self, before: Card) -> Card:
        try:
            status = self._client.status()
            for info in self._client.datasets():
                if info.id == self._info.id:
                    self._info = info
        except Error as error:
            return without_answer(before, error)
        return make_card(self._info, self._files, status)

    @property
    def watched(self) -> bool:
        """Whether a front end shows it."""
        return self._views > 0

    def _heard(self, _widget: object, content: object, _buffers: object) -> None:
        # A front end says `shown` when it draws the widget and `gone` when it takes it away.
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind == "shown":
            self._views += 1
            _watcher.watch(self)
        elif kind == "gone":
            self._views = max(0, self._views - 1)

    def close(self) -> None:
        """End the widget."""
        self._views = 0
        super().close()

    def __repr__(self) -> str:
        return card_text(self._shown, datetime.fromisoformat(self.at))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # The widget itself, and what is shown where there are none: on the web, in an exported file.
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            when = f"<p>As of {datetime.fromisoformat(self.at):%Y-%m-%d %H:%M} UTC</p>"
            bundle[0]["text/html"] = dataset_html(self._info, self._files) + when
        return bundle


class _Watcher:
    """One thread that looks for all widgets that are shown, and ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._widgets: weakref.WeakSet[DatasetWidget] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._pause = threading.Event()

    def watch(self, widget: DatasetWidget) -> None:
        """Look for this widget from now on."""
        with self._lock:
            self._widgets.add(widget)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sealroom-widget", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._pause.wait(INTERVAL)
            with self._lock:
                shown = [widget for widget in self._widgets if widget.watched]
                self._widgets = weakref.WeakSet(shown)
                if not shown:
                    self._thread = None
                    return
            for widget in shown:
                widget.look()


_watcher = _Watcher()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def display_dataset(dataset: ShownDataset) -> None:
    """Show a dataset in a notebook; `sealroom.unlock` calls this."""
    # Imported by name: IPython has no types, and is there wherever a notebook is.
    import_module("IPython.display").display(DatasetWidget(dataset))
