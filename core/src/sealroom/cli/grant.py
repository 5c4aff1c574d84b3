# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom grant`: who may use which dataset, where, for what, and until when."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import click

from sealroom.cli._moment import future, when
from sealroom.cli.common import json_option, load_owner, output, owner_option, short
from sealroom.errors import ConfigurationError
from sealroom.kbs.calls import PROJECT, Grant, GrantChange, GrantSpec

_DUO = re.compile(r"DUO:[0-9]{7}")
_ENVIRONMENT = re.compile(r"sha256:[0-9a-f]{64}")
_DEFAULT_PURPOSE = "DUO:0000042"

_Callback = Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]


def _all_match(pattern: re.Pattern[str], what: str) -> _Callback:
    def check(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not pattern.fullmatch(value):
                raise click.BadParameter(f"{value!r} is not {what}.")
        return values

    return check


def _project(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) > 64 or not re.fullmatch(PROJECT, value)):
        raise click.BadParameter("a project's name has letters, digits, '.', '_' and '-', at most 64.")
    return value


_SERVERS = click.IntRange(1, 100_000)


@click.group(name="grant")
def command() -> None:
    """Say who may use which dataset, where, for what, and until when."""


@command.command()
@click.argument("dataset")
@click.option("--user", metavar="NAME", help="The person, as the identity provider names them.")
@click.option("--group", metavar="NAME", help="Everybody in a group of the identity provider.")
@click.option("--visa", metavar="URI", help="Everybody who holds a GA4GH visa for this dataset.")
@click.option(
    "--issuer",
    default="",
    metavar="URL",
    help="Whose person, group or visa it is; needed where the broker knows several identity providers.",
)
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    callback=_all_match(_DUO, "a DUO code like DUO:0000042"),
    metavar="DUO:…",
    help=f"A purpose, as a Data Use Ontology code; may be repeated. {_DEFAULT_PURPOSE} without it.",
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    callback=_all_match(_ENVIRONMENT, "an environment's digest, sha256:<64 hex digits>"),
    metavar="DIGEST",
    help="An environment; may be repeated. Every environment that the broker approves without it.",
)
@click.option("--until", callback=future, metavar="WHEN", help="End: 2027-03-31, or +30d, +12h, +2w.")
@click.option(
    "--minimum",
    type=click.Choice(["affirming", "simulated"]),
    default="affirming",
    show_default=True,
    help="Least that the server must prove; `simulated` only at a development broker.",
)
@click.option("--gpu", is_flag=True, help="Only on servers with a GPU in confidential mode.")
@click.option(
    "--servers",
    type=_SERVERS,
    metavar="N",
    help="At most so many servers of one person at once; any number without it.",
)
@click.option("--outputs", is_flag=True, help="Results may leave the server; shown to the person.")
@click.option(
    "--project", default="", callback=_project, metavar="NAME", help="The project that it is part of."
)
@click.option(
    "--dataset-key", is_flag=True, help="The dataset's key itself may leave, for guests without Sealroom."
)
@owner_option
@json_option
def add(
    dataset: str,
    user: str | None,
    group: str | None,
    visa: str | None,
    issuer: str,
    purposes: tuple[str, ...],
    environments: tuple[str, ...],
    until: datetime | None,
    minimum: str,
    gpu: bool,
    servers: int | None,
    outputs: bool,
    project: str,
    dataset_key: bool,
    owner: Path | None,
) -> None:
    """Grant the use of DATASET to a person, to a group, or to whoever holds a visa."""
    if sum(map(bool, (user, group, visa))) != 1:
        raise click.UsageError("Name either --user or --group or --visa.")
    spec = GrantSpec(
        dataset=dataset,
        subject=user or "",
        group=group or "",
        visa=visa or "",
        issuer=issuer,
        purposes=purposes or (_DEFAULT_PURPOSE,),
        environments=environments,
        minimum=cast('Literal["affirming", "simulated"]', minimum),
        gpu=gpu,
        until=until,
        servers=servers,
        outputs=outputs,
        project=project,
        dataset_key=dataset_key,
    )
    with load_owner(owner).client() as client:
        grant = client.add_grant(spec)
    if output().json:
        output().result(grant.model_dump(mode="json"))
        return
    end = f"until {when(grant.until)}" if grant.until else "until it is withdrawn"
    output().say(f"Granted {grant.dataset} to {_who(grant)} {end} (grant {grant.id}).")


@command.command()
@click.argument("grant")
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    callback=_all_match(_DUO, "a DUO code like DUO:0000042"),
    metavar="DUO:…",
    help="A purpose in place of those of now; may be repeated.",
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    callback=_all_match(_ENVIRONMENT, "an environment's digest, sha256:<64 hex digits>"),
    metavar="DIGEST",
    help="An environment in place of those of now; may be repeated.",
)
@click.option("--any-environment", is_flag=True, help="Every environment that the broker approves.")
@click.option("--starts", callback=future, metavar="WHEN", help="Another beginning.")
@click.option("--until", callback=future, metavar="WHEN", help="Another end: 2027-03-31, or +30d, +12h, +2w.")
@click.option("--forever", is_flag=True, help="No end: until it is withdrawn.")
@click.option(
    "--minimum", type=click.Choice(["affirming", "simulated"]), help="Least that the server must prove."
)
@click.option(
    "--gpu/--no-gpu", default=None, help="Only on servers with a GPU in confidential mode, or on any."
)
@click.option("--servers", type=_SERVERS, metavar="N", help="At most so many servers of one person at once.")
@click.option("--any-servers", is_flag=True, help="Any number of servers.")
@click.option("--outputs/--no-outputs", default=None, help="Whether results may leave the server.")
@click.option("--project", callback=_project, metavar="NAME", help="Another project.")
@click.option("--no-project", is_flag=True, help="No project.")
@click.option(
    "--dataset-key/--no-dataset-key", default=None, help="Whether the dataset's key itself may leave."
)
@owner_option
@json_option
def change(grant: str, owner: Path | None, **terms: object) -> None:
    """Narrow or extend GRANT, named by its id; what is not named stays."""
    changed = _change(terms)
    with load_owner(owner).client() as client:
        after = client.change_grant(grant, changed)
    if output().json:
        output().result(after.model_dump(mode="json"))
        return
    output().say(f"Grant {after.id} of {_who(after)} for {after.dataset} is now (version {after.version}):")
    output().table(
        "", ("", ""), list(zip(_COLUMNS, _row(after, datetime.now(UTC), frozenset()), strict=True))[3:-1]
    )
    output().say("Running servers that it does not cover any more drop the keys within seconds.")


def _change(terms: dict[str, object]) -> GrantChange:
    pairs = (
        ("environments", "any_environment"),
        ("until", "forever"),
        ("servers", "any_servers"),
        ("project", "no_project"),
    )
    for one, other in pairs:
        if terms[one] and terms[other]:
            option = "--environment" if one == "environments" else f"--{one}"
            raise click.UsageError(f"{option} and --{other.replace('_', '-')} contradict each other.")
    named = {name: value for name, value in terms.items() if value is not None and value != ()}
    if named.pop("any_environment"):
        named["environments"] = ()
    if named.pop("no_project"):
        named["project"] = ""
    change = GrantChange.model_validate(named)
    if change == GrantChange():
        raise click.UsageError("Name what is to change.")
    return change


@command.command(name="list")
@click.argument("dataset", required=False, default="")
@owner_option
@json_option
def list_(dataset: str, owner: Path | None) -> None:
    """List grants, of DATASET or of all datasets."""
    with load_owner(owner).client() as client:
        grants = client.grants(dataset)
        named = any(grant.project for grant in grants)
        projects = client.projects() if named and not output().json else ()
    halted = frozenset(one.name for one in projects if one.state == "halted")
    if output().json:
        output().result([grant.model_dump(mode="json") for grant in grants])
    elif not grants:
        output().say("There are no grants.")
    else:
        output().table("Grants", _COLUMNS, [_row(grant, datetime.now(UTC), halted) for grant in grants])


@command.command()
@click.argument("grant", required=False)
@click.option("--dataset", metavar="ID", help="Every grant of this dataset that the person or group has.")
@click.option("--user", metavar="NAME", help="With --dataset: the person.")
@click.option("--group", metavar="NAME", help="With --dataset: the group.")
@owner_option
@json_option
def withdraw(
    grant: str | None, dataset: str | None, user: str | None, group: str | None, owner: Path | None
) -> None:
    """Withdraw GRANT, named by its id, or all that a person or group has; running servers lose the data."""
    by_name = dataset is not None and bool(user) != bool(group)
    if (grant is not None) == by_name or (grant is not None and (dataset or user or group)):
        raise click.UsageError("Name a grant by its id, or --dataset with either --user or --group.")
    with load_owner(owner).client() as client:
        if grant is not None:
            wanted = [grant]
        else:
            wanted = _standing(client.grants(dataset or ""), user or "", group or "")
        withdrawn = [client.withdraw_grant(one) for one in wanted]
    if not withdrawn:
        raise ConfigurationError(
            f"{user or f'The group {group}'} has no grant for {dataset} that could be withdrawn.",
            advice="`sealroom grant list` shows what there is.",
        )
    if output().json:
        output().result([one.model_dump(mode="json") for one in withdrawn])
        return
    for one in withdrawn:
        output().say(f"Withdrew grant {one.id}: {_who(one)} may no longer use {one.dataset} by it.")
    output().say("Running servers drop the keys within seconds.")


def _standing(grants: Iterable[Grant], user: str, group: str) -> list[str]:
    """Return the ids of the grants of exactly this person or group that are not withdrawn yet."""
    return [g.id for g in grants if g.withdrawn is None and (g.subject, g.group) == (user, group)]


_COLUMNS = (
    "id",
    "dataset",
    "who",
    "purposes",
    "environments",
    "minimum",
    "servers",
    "may leave",
    "project",
    "until",
    "state",
)


def _row(grant: Grant, now: datetime, halted: frozenset[str]) -> tuple[str, ...]:
    leave = ("results", grant.outputs), ("the key", grant.dataset_key)
    return (
        grant.id,
        grant.dataset,
        _who(grant),
        ", ".join(grant.purposes),
        ", ".join(short(digest) for digest in grant.environments) or "all approved",
        f"{grant.minimum}, with GPU" if grant.gpu else grant.minimum,
        str(grant.servers or "any"),
        ", ".join(what for what, may in leave if may) or "nothing",
        grant.project or "-",
        when(grant.until) if grant.until else "-",
        grant_state(grant, now, halted),
    )


def grant_state(grant: Grant, now: datetime, halted: frozenset[str] = frozenset()) -> str:
    """Say in a word what a grant is worth now.

    Args:
        grant: The grant.
        now: The time.
        halted: Projects that are halted.
    """
    if grant.withdrawn is not None:
        return "withdrawn"
    if grant.until is not None and grant.until <= now:
        return "expired"
    if grant.project and grant.project in halted:
        return "halted"
    if grant.starts is not None and grant.starts > now:
        return "not yet"
    return "active"


def _who(grant: Grant) -> str:
    if grant.visa:
        return f"holders of a visa for {grant.visa}"
    return grant.subject or f"group {grant.group}"
