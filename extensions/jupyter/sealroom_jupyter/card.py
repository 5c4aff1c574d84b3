# SPDX-License-Identifier: BSD-3-Clause
"""What the widget shows of a dataset and of the server that opened it. Pure.

The result is saved in the notebook file with the rest of the widget's state, so it holds nothing but words
that the panel shows too: no key, no token, no path.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

from sealroom.datasets.messages import DatasetInfo, FileInfo, ServerStatus
from sealroom.datasets.show import results_text, size_text
from sealroom.errors import Error


class Chip(TypedDict):
    """A short state in words, with the family of its colour."""

    label: str
    tone: str
    """`green`, `amber`, `red`, `blue` or `grey`; the words say the same."""


class Card(TypedDict):
    """Everything that the widget shows."""

    id: str
    title: str
    owner: str
    extent: str
    state: Chip
    until: str
    """ISO 8601, empty if there is no end."""
    purpose: str
    results: str
    """Whether results may leave the server; empty while the dataset is not open."""
    reasons: list[str]
    ask: str
    tier: Chip
    meaning: list[str]
    code: str
    """Python that reads the first file; empty where nothing can be read."""
    problem: str
    """Why nothing newer than this is known; empty if this is new."""


_STATES: dict[str, Chip] = {
    "locked": {"label": "Locked", "tone": "grey"},
    "unlocked": {"label": "Unlocked", "tone": "blue"},
    "not_granted": {"label": "Not granted", "tone": "grey"},
    "expired": {"label": "Grant expired", "tone": "amber"},
    "withdrawn": {"label": "Grant withdrawn", "tone": "amber"},
    "refused": {"label": "Refused", "tone": "red"},
}
_TONES = {"affirming": "green", "warning": "amber", "simulated": "amber"}
_ABSENT: Chip = {"label": "Not on this machine", "tone": "grey"}


def make_card(info: DatasetInfo, files: Sequence[FileInfo], status: ServerStatus | None) -> Card:
    """Return what is shown of a dataset in a server's state."""
    open_here = info.state == "unlocked"
    return {
        "id": info.id,
        "title": info.title,
        "owner": info.owner,
        "extent": _extent(info),
        "state": _STATES[info.state] if info.here or open_here else _ABSENT,
        "until": info.until.isoformat() if info.until is not None and open_here else "",
        "purpose": str(info.purpose) if info.purpose is not None and open_here else "",
        "results": results_text(info.outputs) if open_here else "",
        "reasons": [reason.sentence for reason in info.reasons],
        "ask": "" if open_here else info.ask or (info.contact if info.reasons else ""),
        "tier": _tier(status),
        "meaning": list(status.sentences) if status is not None else [],
        "code": _code(info.id, files) if open_here else "",
        "problem": "" if status is None or status.error is None else status.error.message,
    }


def without_answer(card: Card, error: Error) -> Card:
    """Return what is shown when the notebook server does not answer: the last words, marked as such."""
    grey: Chip = {"label": "Not known", "tone": "grey"}
    return {**card, "tier": grey, "state": grey, "meaning": [], "code": "", "problem": error.diagnostics()}


def card_text(card: Card, at: datetime) -> str:
    """Return a card as text, for places that show no widgets."""
    lines = [
        f"{card['title']} ({card['id']}): {card['state']['label']}",
        f"{card['owner']}, {card['extent']}",
        f"Server: {card['tier']['label']}",
    ]
    if card["until"]:
        lines.append(f"Until: {card['until']}")
    if card["purpose"]:
        lines.append(f"Purpose: {card['purpose']}")
    if card["results"]:
        lines.append(f"Results {card['results']}")
    lines += card["reasons"]
    lines += [f"Ask: {card['ask']}"] if card["ask"] else []
    lines += [card["problem"]] if card["problem"] else []
    lines.append(f"As of {at:%Y-%m-%d %H:%M} UTC")
    return "\n".join(lines)


def _extent(info: DatasetInfo) -> str:
    count = "1 file" if info.files == 1 else f"{info.files} files"
    return f"{size_text(info.size)} in {count}"


def _tier(status: ServerStatus | None) -> Chip:
    if status is None:
        return {"label": "Not known", "tone": "grey"}
    if status.phase != "verified":
        tone = "red" if status.phase == "refused" else "grey"
        return {"label": status.title, "tone": tone}
    proven = bool(status.devices) and all(device.tier == "affirming" for device in status.devices)
    if status.tier == "affirming" and not proven:
        # A result that contradicts itself is not shown in green.
        return {"label": "Not verified", "tone": "red"}
    return {"label": status.title, "tone": _TONES.get(status.tier, "red")}


def _code(dataset: str, files: Sequence[FileInfo]) -> str:
    if not files:
        return ""
    return f'sealroom.open("{dataset}/{files[0].name}")'
