# SPDX-License-Identifier: BSD-3-Clause
"""How statuses, datasets and records look as text and as HTML in a notebook.

Invariants:

- Whatever comes from a manifest or the broker is escaped.
- A simulated tier is never shown in the colour of an affirming one, and always in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from sealroom.datasets.messages import DatasetInfo, FileInfo, RecordInfo, ServerStatus

_STATES = {
    "locked": "locked",
    "unlocked": "unlocked",
    "not_granted": "not granted",
    "expired": "grant expired",
    "withdrawn": "grant withdrawn",
    "refused": "refused",
}

# Jupyter's own CSS variables, with its light theme's values where they are not defined.
_COLOURS = {
    "affirming": "var(--jp-success-color1, #388e3c)",
    "unlocked": "var(--jp-success-color1, #388e3c)",
    "simulated": "var(--jp-warn-color1, #f57c00)",
    "warning": "var(--jp-warn-color1, #f57c00)",
    "locked": "var(--jp-content-font-color2, #616161)",
}
_REFUSED = "var(--jp-error-color1, #d32f2f)"

_Rows = Sequence[tuple[str, str]]


def size_text(size: int) -> str:
    """Return a size for people, in decimal units."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit returns")


def time_text(time: datetime | None) -> str:
    """Return a time for people, empty if there is none."""
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip() if time else ""


def state_text(info: DatasetInfo) -> str:
    """Return a dataset's state in words."""
    state = _STATES[info.state]
    if info.state == "unlocked" and info.until is not None:
        return f"{state} until {time_text(info.until)}"
    return state


def dataset_text(info: DatasetInfo, files: Sequence[FileInfo]) -> str:
    """Return a dataset as text."""
    return _text(f"{info.title} ({info.id})", _dataset_rows(info, files))


def dataset_html(info: DatasetInfo, files: Sequence[FileInfo]) -> str:
    """Return a dataset as HTML."""
    return _html(info.title, _badge(info.state, state_text(info)), _dataset_rows(info, files)[1:])


def datasets_text(infos: Iterable[DatasetInfo]) -> str:
    """Return a list of datasets as text."""
    lines = [
        f"{info.id}: {info.title}, {info.owner}, {size_text(info.size)}, {state_text(info)}{_why(info)}"
        for info in infos
    ]
    return "\n".join(lines) or "No datasets are on offer."


def datasets_html(infos: Iterable[DatasetInfo]) -> str:
    """Return a list of datasets as HTML."""
    rows = "".join(
        f"<tr><td><code>{escape(i.id)}</code></td><td>{escape(i.title)}</td><td>{escape(i.owner)}</td>"
        f"<td>{escape(size_text(i.size))}</td><td>{_badge(i.state, state_text(i))}{escape(_why(i))}</td></tr>"
        for i in infos
    )
    if not rows:
        return "<p>No datasets are on offer.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("Dataset", "Title", "Owner", "Size", "State"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def status_text(info: ServerStatus) -> str:
    """Return a status as text."""
    return _text(info.title, _status_rows(info))


def status_html(info: ServerStatus) -> str:
    """Return a status as HTML."""
    return _html("This server", _badge(info.tier, info.title), _status_rows(info))


def record_text(info: RecordInfo) -> str:
    """Return a record as text."""
    return _text(f"Record of {info.title} ({info.dataset})", _record_rows(info))


def record_html(info: RecordInfo) -> str:
    """Return a record as HTML."""
    badge = _badge(info.server.tier, info.server.title) if info.server else ""
    return _html(f"Record of {info.title}", badge, _record_rows(info))


def _why(info: DatasetInfo) -> str:
    return "".join(f" {reason.sentence}" for reason in info.reasons)


def _dataset_rows(info: DatasetInfo, files: Sequence[FileInfo]) -> _Rows:
    rows = [("State", state_text(info)), ("Owner", info.owner)]
    if info.purpose is not None:
        only = ", the only one that your grant allows" if len(info.purposes) == 1 else ""
        rows.append(("Purpose", f"{info.purpose}{only}"))
    if info.state == "unlocked":
        rows.append(("Results", results_text(info.outputs)))
    rows += [("Terms", ", ".join(str(term) for term in info.terms)), ("Licence", info.licence)]
    rows.append(("Source", info.source))
    rows.append(("Files", _files_text(info, files)))
    rows += [("Why", _why(info).strip()), ("Ask", info.ask)]
    return [(label, value) for label, value in rows if value]


def _files_text(info: DatasetInfo, files: Sequence[FileInfo]) -> str:
    listed = ", ".join(f"{file.name} ({size_text(file.size)})" for file in files[:10])
    more = f" and {len(files) - 10} more" if len(files) > 10 else ""
    return listed + more if files else f"{info.files}, {size_text(info.size)}"


def _status_rows(info: ServerStatus) -> _Rows:
    environment = info.environment
    rows = [("Meaning", " ".join(info.sentences))]
    rows += [(device.device, device.title or device.tier) for device in info.devices]
    if environment is not None:
        rows.append(("Environment", f"{environment.title or environment.name} {environment.version}".strip()))
    rows += [("Proven", time_text(info.proven_at)), ("Valid until", time_text(info.expires))]
    if info.person is not None:
        rows.append(("Person", info.person.name or info.person.subject))
    if info.error is not None:
        rows.append(("Problem", f"{info.error.message} {info.error.advice}".strip()))
    return [(label, value) for label, value in rows if value]


def _record_rows(info: RecordInfo) -> _Rows:
    server = info.server
    rows = [("Dataset", info.dataset), ("Owner", info.owner), ("Manifest", _digest(info.manifest_sha256))]
    if info.person is not None:
        rows.append(("Unlocked by", f"{info.person.name or info.person.subject} ({info.person.issuer})"))
    rows += [("Unlocked at", time_text(info.unlocked_at)), ("Until", time_text(info.until))]
    rows.append(("Purpose", str(info.purpose) if info.purpose else ""))
    rows.append(("Results", results_text(info.outputs)))
    if server is not None:
        rows += [("Server", server.title), ("Proven", time_text(server.proven_at))]
        if server.environment is not None:
            rows.append(("Environment", f"{server.environment.name} {server.environment.version}".strip()))
            rows.append(("Environment digest", server.environment.digest))
    rows += [("Broker", info.broker), ("Grant", info.grant)]
    if info.audit_index is not None:
        rows.append(("Audit entry", f"{info.audit_index}, leaf {_digest(info.audit_leaf)}"))
    return [(label, value) for label, value in rows if value]


def results_text(leave: bool) -> str:
    """Return what a grant says about results."""
    return "may leave the server" if leave else "may not leave the server"


def _digest(sha256: str) -> str:
    return f"sha256:{sha256}" if sha256 else ""


def _text(title: str, rows: _Rows) -> str:
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in rows)])


def _html(title: str, badge: str, rows: _Rows) -> str:
    body = "".join(
        f'<tr><th scope="row" style="text-align:left;vertical-align:top">{escape(label)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for label, value in rows
    )
    return f"<div><p><strong>{escape(title)}</strong> {badge}</p><table><tbody>{body}</tbody></table></div>"


def _badge(kind: str, words: str) -> str:
    colour = _COLOURS.get(kind, _REFUSED)
    return f'<span style="color:{colour};font-weight:600">{escape(words)}</span>'
