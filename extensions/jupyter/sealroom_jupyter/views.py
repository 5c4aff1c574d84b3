# SPDX-License-Identifier: BSD-3-Clause
"""What is shown of a dataset: the broker's word, what is on this machine, and what is open here. Pure.

Invariants:

- `unlocked` is said only of a dataset whose keys this server holds.
- Every state but `locked` and `unlocked` has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sealroom.datasets.messages import EndedInfo, ReasonInfo, TermInfo
from sealroom.datasets.terms import LABELS
from sealroom.kbs.calls import DatasetState

from sealroom_jupyter.local import Absent, LocalDataset
from sealroom_jupyter.messages import DatasetView

DIFFERS = "manifest.differs"
"""Rule id: the sealed files on this machine are not those that the data owner registered."""


PERMISSIONS = ("DUO:0000042", "DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000043", "DUO:0000004")
"""Terms that say what data are used for; the others say under which conditions."""

PURPOSES = tuple(TermInfo(code=code, label=LABELS[code]) for code in PERMISSIONS)
"""Every purpose that people may ask for."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Access that this server had, and why it has it no more."""

    code: str
    sentence: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Open:
    """A dataset whose keys this server holds."""

    purpose: TermInfo
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one dataset."""

    id: str
    offered: DatasetState | None = None
    """The broker's word."""
    local: LocalDataset | None = None
    absent: Absent | None = None
    open: Open | None = None
    doubt: ReasonInfo | None = None
    """Why the broker's word is not known or is old; None if it is new."""
    ended: Ended | None = None
    """Why the last release to this server ended; None if it was not taken away."""


def view(known: Known) -> DatasetView:
    """Return what is shown of a dataset."""
    shown = _view(known)
    shown = shown.model_copy(update={"asks": asks(shown.terms)})
    if known.ended is None or known.open is not None:
        return shown
    ended = EndedInfo(
        code=known.ended.code, sentence=known.ended.sentence, at=known.ended.at, advice=_what_now(shown)
    )
    return shown.model_copy(update={"ended": ended})


def asks(terms: Iterable[TermInfo]) -> tuple[TermInfo, ...]:
    """Return the purposes to ask for: those that the terms name, or all where they name none."""
    named = {term.code for term in terms}
    return tuple(term for term in PURPOSES if term.code in named) or PURPOSES


def _what_now(shown: DatasetView) -> str:
    """Return what a person does after access has ended."""
    if shown.state == "locked":
        allowed = ", ".join(term.label for term in shown.purposes)
        return f"Unlock it again; your grant allows: {allowed}." if allowed else "Unlock it again."
    if shown.state == "refused":
        return "See what stands in the way with “Why?”, or ask whoever is named below."
    return f'Ask for access again here, or with sealroom.request("{shown.id}", reason="…").'


def _view(known: Known) -> DatasetView:
    shown = _base(known)
    local = known.local
    same = local is not None and local.sha256 == shown.manifest_sha256 and local.manifest is not None
    if same and local is not None and local.manifest is not None:
        shown = shown.model_copy(update={"names": tuple(entry.name for entry in local.manifest.files)})
    if known.open is not None:
        return shown.model_copy(
            update={
                "state": "unlocked",
                "purpose": known.open.purpose,
                "until": known.open.until,
                "reasons": (),
            }
        )
    if known.offered is None and local is None:
        return shown
    if known.doubt is not None:
        return _refused(shown, known.doubt)
    if known.offered is None:
        return shown
    if local is not None and not same and shown.state in ("locked", "unlocked"):
        return _refused(shown, differs(local))
    if shown.state == "unlocked":
        # Released to this session earlier, and locked here since.
        return shown.model_copy(update={"state": "locked"})
    return shown


def differs(local: LocalDataset) -> ReasonInfo:
    """Return the reason for files that are not those that were registered."""
    sentence = "The sealed files on this machine are not those that the data owner registered."
    if local.problem:
        sentence = f"The sealed dataset on this machine cannot be used. {local.problem}"
    return ReasonInfo(code=DIFFERS, sentence=sentence)


def sort(views: Iterable[DatasetView]) -> tuple[DatasetView, ...]:
    """Return datasets in the order in which they are shown: what is here first, then by title."""
    return tuple(sorted(views, key=lambda item: (not item.here, item.title.casefold(), item.id)))


def _base(known: Known) -> DatasetView:
    here = known.local is not None
    if known.offered is not None:
        return DatasetView.model_validate({**known.offered.model_dump(), "here": here})
    if known.local is not None:
        return _from_disk(known.id, known.local)
    absent = known.absent or Absent(title=known.id)
    reason = absent.reason or "The sealed files of this dataset are not on this machine."
    return DatasetView(
        id=known.id,
        **absent.model_dump(exclude={"reason"}),
        state="refused",
        here=False,
        reasons=(ReasonInfo(code="dataset.absent", sentence=reason),),
    )


def _from_disk(dataset: str, local: LocalDataset) -> DatasetView:
    manifest = local.manifest
    if manifest is None:
        return DatasetView(id=dataset, title=dataset, owner="", state="refused", reasons=(differs(local),))
    return DatasetView(
        id=dataset,
        title=manifest.title,
        description=manifest.description,
        owner=manifest.owner,
        contact=manifest.contact,
        size=manifest.size,
        files=len(manifest.files),
        source=manifest.source,
        licence=manifest.licence,
        manifest_sha256=local.sha256,
        terms=tuple(TermInfo(code=term.code, label=term.label) for term in manifest.terms),
        state="refused",
        reasons=(
            ReasonInfo(code="dataset.unknown", sentence="The broker does not offer this dataset to anybody."),
        ),
        ask=manifest.contact,
    )


def _refused(shown: DatasetView, reason: ReasonInfo) -> DatasetView:
    return shown.model_copy(update={"state": "refused", "reasons": (reason,)})
