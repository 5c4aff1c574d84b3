# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom project`: halt all grants of a project at once, and let them go on."""

from __future__ import annotations

from pathlib import Path

import click

from sealroom.cli._moment import when
from sealroom.cli.common import json_option, load_owner, output, owner_option
from sealroom.kbs.calls import Project

_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the audit log.")


@click.group(name="project")
def command() -> None:
    """Halt all grants of a project at once, and let them go on."""


@command.command(name="list")
@owner_option
@json_option
def list_(owner: Path | None) -> None:
    """List the projects that grants name."""
    with load_owner(owner).client() as client:
        projects = client.projects()
    if output().json:
        output().result([one.model_dump(mode="json") for one in projects])
    elif not projects:
        output().say("No grant is of a project.")
    else:
        output().table(
            "Projects", ("name", "state", "since", "grants", "datasets", "reason"), map(_row, projects)
        )


@command.command()
@click.argument("project")
@_REASON
@owner_option
@json_option
def halt(project: str, reason: str, owner: Path | None) -> None:
    """Halt PROJECT: its grants open nothing, and running servers lose its datasets."""
    with load_owner(owner).client() as client:
        halted = client.halt_project(project, reason)
    if output().json:
        output().result(halted.model_dump(mode="json"))
        return
    output().say(f"Halted {halted.name}: {_size(halted)}. Running servers drop the keys within seconds.")
    output().say(f"Next: sealroom project resume {halted.name} --reason TEXT")


@command.command()
@click.argument("project")
@_REASON
@owner_option
@json_option
def resume(project: str, reason: str, owner: Path | None) -> None:
    """Let PROJECT go on; people unlock its datasets again."""
    with load_owner(owner).client() as client:
        resumed = client.resume_project(project, reason)
    if output().json:
        output().result(resumed.model_dump(mode="json"))
        return
    output().say(f"{resumed.name} goes on: {_size(resumed)}.")


def _row(project: Project) -> tuple[str, ...]:
    return (
        project.name,
        project.state,
        when(project.since) if project.since else "-",
        str(project.grants),
        ", ".join(project.datasets),
        project.reason or "-",
    )


def _size(project: Project) -> str:
    grants, datasets = project.grants, len(project.datasets)
    return f"{grants} grant{'' if grants == 1 else 's'} for {datasets} dataset{'' if datasets == 1 else 's'}"
