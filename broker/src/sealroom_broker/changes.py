# SPDX-License-Identifier: BSD-3-Clause
"""The terms of grants: how they change, and how they read in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sealroom.kbs.calls import Grant, GrantChange
from sqlalchemy.orm import Session

from sealroom_broker import projects
from sealroom_broker.config import Mode
from sealroom_broker.problem import Problem, bad_request
from sealroom_broker.registry import as_grant, wrong_with
from sealroom_broker.store import GrantRow

_LISTED = 20
"""How many of a list the log's sentence names; the digest of the grant covers all."""


def apply(session: Session, row: GrantRow, change: GrantChange, mode: Mode) -> tuple[Grant, str]:
    """Change a grant.

    Args:
        session: The transaction.
        row: The grant.
        change: What changes.
        mode: The broker's mode.

    Returns:
        The grant as it is now, and what changed in words, old and new; empty if nothing did.

    Raises:
        Problem: The grant is withdrawn, a project of before or after is halted (409), or the terms do not fit
            together (400).
    """
    if row.withdrawn is not None:
        raise Problem(409, "Conflict", "A withdrawn grant does not change; give another one.")
    old = as_grant(row)
    new = old.model_copy(update=_updates(change))
    wrong = _contradiction(change) or wrong_with(new, mode)
    if wrong:
        raise bad_request(wrong)
    if new.project != old.project:
        # Otherwise a halt could be got round.
        projects.check_running(session, old.project)
        projects.check_running(session, new.project)
    words = difference(old, new)
    if not words:
        return old, ""
    row.purposes, row.environments = list(new.purposes), list(new.environments)
    row.minimum, row.gpu, row.servers = new.minimum, new.gpu, new.servers
    row.outputs, row.dataset_key, row.project = new.outputs, new.dataset_key, new.project
    row.starts, row.until, row.version = new.starts, new.until, row.version + 1
    return as_grant(row), words


def in_words(grant: Grant) -> str:
    """Return a grant's terms in a sentence, for the log."""
    return "; ".join(f"{name}: {say(grant)}" for name, say in _TERMS) + "."


def difference(old: Grant, new: Grant) -> str:
    """Return what is not the same in two versions of a grant, old and new; empty if all is."""
    changed = [
        f"{name}: {say(old)} -> {say(new)}" for name, say in _TERMS if _key(name, old) != _key(name, new)
    ]
    return "; ".join(changed) + "." if changed else ""


def moment(value: datetime | None) -> str:
    """Return a time to the second, as the log says it."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if value else "none"


def _updates(change: GrantChange) -> dict[str, object]:
    named = change.model_dump(exclude_none=True, exclude={"forever", "any_servers"})
    if change.forever:
        named["until"] = None
    if change.any_servers:
        named["servers"] = None
    return named


def _contradiction(change: GrantChange) -> str:
    if change.forever and change.until is not None:
        return "A grant either ends or does not: give `until` or `forever`, not both."
    if change.any_servers and change.servers is not None:
        return "A grant either bounds the servers or does not: give `servers` or `any_servers`, not both."
    return ""


def _listed(values: Sequence[str], none: str) -> str:
    if not values:
        return none
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return ", ".join(values[:_LISTED]) + more


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_TERMS: tuple[tuple[str, Callable[[Grant], str]], ...] = (
    ("purposes", lambda g: _listed(g.purposes, "none")),
    ("environments", lambda g: _listed(g.environments, "all approved")),
    ("minimum", lambda g: g.minimum),
    ("gpu", lambda g: _yes(g.gpu)),
    ("servers", lambda g: str(g.servers) if g.servers else "any number"),
    ("outputs", lambda g: _yes(g.outputs)),
    ("dataset_key", lambda g: _yes(g.dataset_key)),
    ("starts", lambda g: moment(g.starts)),
    ("until", lambda g: moment(g.until)),
    ("project", lambda g: g.project or "none"),
)


def _key(name: str, grant: Grant) -> object:
    return getattr(grant, name)
