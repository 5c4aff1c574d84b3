# SPDX-License-Identifier: BSD-3-Clause
"""How requests for access and explanations look as text and as HTML in a notebook.

Invariants:

- Whatever a person, an owner or the broker wrote is escaped.
- An outcome is said in words; colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sealroom.datasets.messages import ExplanationInfo, RequestInfo, RuleInfo
from sealroom.datasets.show import time_text

OUTCOMES = {"passed": "passed", "failed": "failed", "not_reached": "not looked at"}
"""Outcome of a rule -> its word."""

_COLOURS = {"passed": "var(--jp-success-color1, #388e3c)", "failed": "var(--jp-error-color1, #d32f2f)"}
_STATE_COLOURS = {
    "granted": "var(--jp-success-color1, #388e3c)",
    "refused": "var(--jp-error-color1, #d32f2f)",
}
_GREY = "var(--jp-content-font-color2, #616161)"


def outcome_word(rule: RuleInfo) -> str:
    """Return a rule's outcome in a word; one that this version does not know is "not looked at"."""
    return OUTCOMES.get(rule.outcome, OUTCOMES["not_reached"])


def verdict(info: ExplanationInfo) -> str:
    """Return what the rules together say, as a sentence."""
    for_what = f" for {info.purpose}" if info.purpose is not None else ""
    if info.allowed:
        return f"The broker would release {info.title or info.dataset} to this server{for_what}."
    return f"The broker would not release {info.title or info.dataset} to this server{for_what}."


def explanation_text(info: ExplanationInfo) -> str:
    """Return an explanation as text, what failed first."""
    width = max(len(word) for word in OUTCOMES.values())
    lines = [f"  {outcome_word(rule):<{width}}  {rule.sentence}" for rule in ordered(info.rules)]
    return "\n".join([verdict(info), *lines, *_to_ask(info)])


def explanation_html(info: ExplanationInfo) -> str:
    """Return an explanation as HTML, what failed first."""
    rows = "".join(
        f'<tr><td style="text-align:left;white-space:nowrap">{_word(outcome_word(rule), rule.outcome)}</td>'
        f'<td style="text-align:left">{escape(rule.sentence)}</td>'
        f'<td style="text-align:left"><code>{escape(rule.code)}</code></td></tr>'
        for rule in ordered(info.rules)
    )
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("Outcome", "Rule", "Code"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    ask = "".join(f"<p>{escape(line)}</p>" for line in _to_ask(info))
    return f"<div><p><strong>{escape(verdict(info))}</strong></p>{table}{ask}</div>"


def ordered(rules: Iterable[RuleInfo]) -> list[RuleInfo]:
    """Return rules with those that failed first, else in the broker's order."""
    return sorted(rules, key=lambda rule: rule.outcome != "failed")


def request_state(info: RequestInfo) -> str:
    """Return a request's state in words."""
    when = time_text(info.answered)
    if info.state == "open":
        return f"open since {time_text(info.created)}"
    if info.state == "granted":
        return f"granted {when}".rstrip()
    if info.state == "refused":
        return f"refused {when}".rstrip()
    return f"taken back {when}".rstrip()


def request_text(info: RequestInfo) -> str:
    """Return a request as text."""
    rows = _request_rows(info)
    width = max(len(label) for label, _ in rows)
    title = f"Request for {info.title or info.dataset} ({info.id})"
    return "\n".join([title, *(f"  {label:<{width}}  {value}" for label, value in rows)])


def request_html(info: RequestInfo) -> str:
    """Return a request as HTML."""
    body = "".join(
        f'<tr><th scope="row" style="text-align:left;vertical-align:top">{escape(label)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for label, value in _request_rows(info)
    )
    title = f"<strong>Request for {escape(info.title or info.dataset)}</strong>"
    return f"<div><p>{title} {_state(info)}</p><table><tbody>{body}</tbody></table></div>"


def requests_text(infos: Iterable[RequestInfo]) -> str:
    """Return a list of requests as text."""
    lines = [
        f"{info.id}: {info.dataset}, {info.purpose}, {request_state(info)}"
        + (f": {info.answer}" if info.answer else "")
        for info in infos
    ]
    return "\n".join(lines) or "You have asked for nothing."


def requests_html(infos: Iterable[RequestInfo]) -> str:
    """Return a list of requests as HTML."""
    rows = "".join(
        f"<tr><td><code>{escape(i.id)}</code></td><td>{escape(i.title or i.dataset)}</td>"
        f"<td>{escape(str(i.purpose))}</td><td>{_state(i)}</td><td>{escape(i.answer)}</td></tr>"
        for i in infos
    )
    if not rows:
        return "<p>You have asked for nothing.</p>"
    names = ("Request", "Dataset", "Purpose", "State", "The owner's words")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _request_rows(info: RequestInfo) -> list[tuple[str, str]]:
    rows = [("State", request_state(info)), ("The owner's words", info.answer)]
    rows += [("Purpose", str(info.purpose)), ("Reason", info.reason)]
    rows += [("Asked", time_text(info.created)), ("Wanted until", time_text(info.until))]
    if info.person is not None:
        rows.append(("As", f"{info.person.name or info.person.subject} ({info.person.issuer})"))
    if info.server is not None:
        rows += [("From a server", info.server.tier), ("Environment", info.server.environment or "")]
    rows.append(("Grant", info.grant))
    return [(label, value) for label, value in rows if value]


def _to_ask(info: ExplanationInfo) -> list[str]:
    return [f"Whom to ask: {info.ask}"] if info.ask and not info.allowed else []


def _state(info: RequestInfo) -> str:
    return _coloured(request_state(info), _STATE_COLOURS.get(info.state, _GREY))


def _word(word: str, outcome: str) -> str:
    return _coloured(word, _COLOURS.get(outcome, _GREY))


def _coloured(words: str, colour: str) -> str:
    return f'<span style="color:{colour};font-weight:600">{escape(words)}</span>'
