# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom grant`: who may use which dataset, where, for what, and until when."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Literal, cast

import click

from sealroom.cli.common import json_option, load_owner, output, owner_option, short
from sealroom.errors import ConfigurationError
from sealroom.kbs.calls import Grant, GrantSpec

_SPAN = re.compile(r"\+([1-9][0-9]{0,4})(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}
_DUO = re.compile(r"DUO:[0-9]{7}")
_ENVIRONMENT = re.compile(r"sha256:[0-9a-f]{64}")
_DEFAULT_PURPOSE = "DUO:0000042"

_Callback = Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Read a date, a date and time, or a span from now."""
    if value is None:
        return None
    now = datetime.now(UTC)
    span = _SPAN.fullmatch(value)
    try:
        moment = now + timedelta(hours=int(span[1]) * _HOURS[span[2]]) if span else _absolute(value)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a date like 2027-03-31 nor a span like +30d, +12h or +2w."
        ) from None
    if moment <= now:
        raise click.BadParameter(f"{value} is not in the future.")
    return moment.replace(microsecond=0)


def _absolute(text: str) -> datetime:
    """Read ISO 8601: a date means its last second; without a zone it is this machine's time."""
    moment = datetime.fromisoformat(text)
    if len(text) <= len("2027-03-31"):
        moment = datetime.combine(moment.date(), time(23, 59, 59))
    return moment.astimezone(UTC)


def _all_match(pattern: re.Pattern[str], what: str) -> _Callback:
    def check(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not pattern.fullmatch(value):
                raise click.BadParameter(f"{value!r} is not {what}.")
        return values

    return check


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
@click.option("--until", callback=_moment, metavar="WHEN", help="End: 2027-03-31, or +30d, +12h, +2w.")
@click.option(
    "--minimum",
    type=click.Choice(["affirming", "simulated"]),
    default="affirming",
    show_default=True,
    help="Least that the server must prove; `simulated` only at a development broker.",
)
@click.option("--gpu", is_flag=True, help="Only on servers with a GPU in confidential mode.")
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
    )
    with load_owner(owner).client() as client:
        grant = client.add_grant(spec)
    if output().json:
        output().result(grant.model_dump(mode="json"))
        return
    end = f"until {_when(grant.until)}" if grant.until else "until it is withdrawn"
    output().say(f"Granted {grant.dataset} to {_who(grant)} {end} (grant {grant.id}).")


@command.command(name="list")
@click.argument("dataset", required=False, default="")
@owner_option
@json_option
def list_(dataset: str, owner: Path | None) -> None:
    """List grants, of DATASET or of all datasets."""
    with load_owner(owner).client() as client:
        grants = client.grants(dataset)
    if output().json:
        output().result([grant.model_dump(mode="json") for grant in grants])
    elif not grants:
        output().say("There are no grants.")
    else:
        output().table("Grants", _COLUMNS, [_row(grant, datetime.now(UTC)) for grant in grants])


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


_COLUMNS = ("id", "dataset", "who", "purposes", "environments", "minimum", "until", "state")


def _row(grant: Grant, now: datetime) -> tuple[str, ...]:
    return (
        grant.id,
        grant.dataset,
        _who(grant),
        ", ".join(grant.purposes),
        ", ".join(short(digest) for digest in grant.environments) or "all approved",
        f"{grant.minimum}, with GPU" if grant.gpu else grant.minimum,
        _when(grant.until) if grant.until else "-",
        grant_state(grant, now),
    )


def grant_state(grant: Grant, now: datetime) -> str:
    """Say in a word what a grant is worth now."""
    if grant.withdrawn is not None:
        return "withdrawn"
    if grant.until is not None and grant.until <= now:
        return "expired"
    if grant.starts is not None and grant.starts > now:
        return "not yet"
    return "active"


def _who(grant: Grant) -> str:
    if grant.visa:
        return f"holders of a visa for {grant.visa}"
    return grant.subject or f"group {grant.group}"


def _when(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M %Z")
