# SPDX-License-Identifier: BSD-3-Clause
"""Projects: a name that grants carry, by which all of them are halted at once.

Regulation (EU) 2025/327 (European Health Data Space), Article 73, as TEHDAS2's requirements for secure
processing environments read it: processing of a project can be halted promptly. A project that was never
halted has no row: it is there as long as a grant names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sealroom.kbs.calls import Project
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.problem import Problem, not_found
from sealroom_broker.store import GrantRow, ProjectRow


def halted_projects(session: Session) -> Mapping[str, datetime]:
    """Return the projects that are halted, and since when."""
    rows = session.scalars(select(ProjectRow).where(ProjectRow.halted))
    return {row.name: row.since for row in rows}


def check_running(session: Session, project: str) -> None:
    """Refuse what a halted project must not get.

    Raises:
        Problem: The project is halted (409).
    """
    row = session.get(ProjectRow, project) if project else None
    if row is not None and row.halted:
        raise Problem(409, "Conflict", f"The project {project} is halted; resume it first.")


def datasets_of(session: Session, project: str) -> tuple[str, ...]:
    """Return the datasets that the grants of a project are for.

    Raises:
        Problem: No grant is of this project (404).
    """
    query = select(GrantRow.dataset).where(GrantRow.project == project).distinct().order_by(GrantRow.dataset)
    found = tuple(session.scalars(query)) if project else ()
    if not found:
        # A name with a mistake in it must not look like a project that is halted now.
        raise not_found(f"No grant is of a project {project[:64]}.")
    return found


def projects_of(session: Session, seen: Callable[[str], bool]) -> tuple[Project, ...]:
    """Return projects by name.

    Args:
        session: The transaction.
        seen: Which datasets count; a project without any of them is left out.
    """
    query = select(GrantRow.project, GrantRow.dataset, GrantRow.withdrawn).where(GrantRow.project != "")
    found: dict[str, list[tuple[str, bool]]] = {}
    for project, dataset, withdrawn in session.execute(query):
        if seen(dataset):
            found.setdefault(project, []).append((dataset, withdrawn is None))
    return tuple(_project(session, name, found[name]) for name in sorted(found))


def turn(session: Session, project: str, reason: str, now: datetime, *, halted: bool) -> tuple[Project, bool]:
    """Halt a project, or let it go on.

    Returns:
        The project, and whether that changed anything.
    """
    row = session.get(ProjectRow, project)
    changed = halted if row is None else row.halted is not halted
    if row is None and changed:
        row = ProjectRow(name=project)
        session.add(row)
    if row is not None and changed:
        row.halted, row.since, row.reason = halted, now, reason
    session.flush()
    found = next(one for one in projects_of(session, lambda _: True) if one.name == project)
    return found, changed


def _project(session: Session, name: str, grants: list[tuple[str, bool]]) -> Project:
    row = session.get(ProjectRow, name)
    return Project(
        name=name,
        state="halted" if row is not None and row.halted else "running",
        grants=sum(running for _, running in grants),
        datasets=tuple(sorted({dataset for dataset, _ in grants})),
        since=row.since if row is not None else None,
        reason=row.reason if row is not None else "",
    )
