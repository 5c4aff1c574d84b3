# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom request`: what people ask for, and the owner's answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, cast, get_args

import click

from sealroom.cli._moment import future, when
from sealroom.cli.common import json_option, load_owner, output, owner_option
from sealroom.datasets.terms import LABELS
from sealroom.errors import ProtocolError
from sealroom.kbs.calls import MAX_REASON, PROJECT, AccessRequest, Explanation, RequestGrant, RequestState

_STATES: Final[tuple[str, ...]] = (*get_args(RequestState), "all")
_ENVIRONMENT = re.compile(r"sha256:[0-9a-f]{64}")
_COLUMNS = ("id", "dataset", "person", "purpose", "reason", "until", "server proved", "asked", "state")
_SHOWN = 120
"""Characters of a reason in a table; `request show` has all."""


@click.group(name="request")
def command() -> None:
    """See what people ask for, and answer them."""


@command.command(name="list")
@click.argument("dataset", required=False, default="")
@click.option(
    "--state", type=click.Choice(_STATES), default="open", show_default=True, help="Which requests."
)
@owner_option
@json_option
def list_(dataset: str, state: str, owner: Path | None) -> None:
    """List requests for DATASET or for all datasets, the newest first."""
    wanted = None if state == "all" else cast("RequestState", state)
    with load_owner(owner).client() as client:
        found = client.requests(dataset, wanted)
    if output().json:
        output().result([one.model_dump(mode="json") for one in found])
    elif not found:
        output().say("There are no requests." if wanted is None else f"There are no {wanted} requests.")
    else:
        output().table("Requests", _COLUMNS, map(_row, found))
        if any(one.state == "open" for one in found):
            output().say("Next: sealroom request show ID, then grant or refuse it.")


@command.command()
@click.argument("request")
@owner_option
@json_option
def show(request: str, owner: Path | None) -> None:
    """Show REQUEST with what its server has proven, and what else stands in the way of a release."""
    with load_owner(owner).client() as client:
        found = client.request(request)
        try:
            explained = client.explain(found.dataset, found.session, found.purpose)
        except ProtocolError:
            # The broker forgets a session after a while; the request stays.
            explained = None
    if output().json:
        said = explained.model_dump(mode="json") if explained else None
        output().result({**found.model_dump(mode="json"), "explanation": said})
        return
    output().table(f"Request {found.id}", ("", ""), [row for row in _fields(found) if row[1]])
    _tell(explained)


@command.command()
@click.argument("request")
@click.option("--until", callback=future, metavar="WHEN", help="End: 2027-03-31, or +30d, +12h, +2w.")
@click.option("--days", type=click.IntRange(1, 36500), metavar="N", help="End: N days from now.")
@click.option("--forever", is_flag=True, help="No end: until it is withdrawn.")
@click.option(
    "--purpose", "purposes", multiple=True, metavar="DUO:…", help="In place of the one that was asked for."
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    metavar="DIGEST",
    help="An environment; may be repeated. Every environment that the broker approves without it.",
)
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
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="At most so many servers of the person at once; any number without it.",
)
@click.option("--outputs", is_flag=True, help="Results may leave the server; shown to the person.")
@click.option("--project", default="", metavar="NAME", help="The project that it is part of.")
@click.option("--message", default="", metavar="TEXT", help="A sentence for the person.")
@owner_option
@json_option
def grant(
    request: str,
    until: datetime | None,
    days: int | None,
    forever: bool,
    purposes: tuple[str, ...],
    environments: tuple[str, ...],
    minimum: str,
    gpu: bool,
    servers: int | None,
    outputs: bool,
    project: str,
    message: str,
    owner: Path | None,
) -> None:
    """Give the person of REQUEST a grant for what they asked for."""
    if sum((until is not None, days is not None, forever)) != 1:
        raise click.UsageError("Say when the grant ends: --until, --days, or --forever.")
    if days is not None:
        until = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    _check(purposes, environments, project, message)
    terms = RequestGrant(
        purposes=purposes or None,
        environments=environments,
        minimum=cast('Literal["affirming", "simulated"]', minimum),
        gpu=gpu,
        servers=servers,
        outputs=outputs,
        project=project,
        until=until,
        forever=forever,
        answer=message,
    )
    with load_owner(owner).client() as client:
        answered = client.grant_request(request, terms)
    if output().json:
        output().result(answered.model_dump(mode="json"))
        return
    end = f"until {when(until)}" if until else "until it is withdrawn"
    output().say(f"Granted {answered.dataset} to {answered.person.name} {end} (grant {answered.grant}).")


@command.command()
@click.argument("request")
@click.option("--message", required=True, metavar="TEXT", help="Why, for the person.")
@owner_option
@json_option
def refuse(request: str, message: str, owner: Path | None) -> None:
    """Refuse REQUEST; the person sees the message."""
    if not message.strip():
        raise click.UsageError("Say why with --message.")
    _check((), (), "", message)
    with load_owner(owner).client() as client:
        answered = client.refuse_request(request, message)
    if output().json:
        output().result(answered.model_dump(mode="json"))
        return
    output().say(f"Refused {answered.dataset} to {answered.person.name}; they are told why.")


def _check(purposes: tuple[str, ...], environments: tuple[str, ...], project: str, message: str) -> None:
    for purpose in purposes:
        if purpose not in LABELS:
            raise click.UsageError(f"{purpose!r} is not a DUO code like DUO:0000042.")
    for environment in environments:
        if not _ENVIRONMENT.fullmatch(environment):
            raise click.UsageError(f"{environment!r} is not an environment's digest, sha256:<64 hex digits>.")
    if len(project) > 64 or not re.fullmatch(PROJECT, project):
        raise click.UsageError("A project's name has letters, digits, '.', '_' and '-', at most 64.")
    if len(message) > MAX_REASON:
        raise click.UsageError(f"A message has at most {MAX_REASON} characters.")


def _row(request: AccessRequest) -> tuple[str, ...]:
    reason = " ".join(request.reason.split())
    return (
        request.id,
        request.dataset,
        request.person.name,
        request.purpose,
        reason if len(reason) <= _SHOWN else f"{reason[: _SHOWN - 1]}…",
        when(request.until) if request.until else "-",
        request.server.tier,
        when(request.created),
        request.state,
    )


def _fields(request: AccessRequest) -> Iterator[tuple[str, str]]:
    person, server = request.person, request.server
    yield "dataset", request.dataset
    yield "person", f"{person.name} ({person.subject} at {person.issuer})"
    yield "email", person.email
    yield "groups", ", ".join(person.groups)
    for visa in person.visas:
        yield "visa", f"{visa.value}, says {visa.source} ({visa.issuer}), until {when(visa.until)}"
    yield "purpose", f"{request.purpose} {LABELS.get(request.purpose, '')}".rstrip()
    yield "reason", request.reason
    yield "needed until", when(request.until) if request.until else "no end named"
    yield "asked", when(request.created)
    yield "state", request.state
    yield "answer", request.answer
    if request.answered is not None:
        yield "answered", " by ".join(filter(None, (when(request.answered), request.answered_by)))
    yield "grant", request.grant
    yield "server", server.server or "default"
    yield "  proved", server.tier + (" (simulated)" if server.simulated else "")
    for device, tier in sorted(server.devices.items()):
        yield f"    {device}", tier
    yield "  environment", server.environment or "none that this broker approves"
    yield "  attested", when(server.attested)
    yield "  evidence", f"evidence/{server.evidence}"
    if request.audit_index is not None:
        yield "audit entry", f"{request.audit_index} (sealroom audit show {request.audit_index})"


def _tell(explained: Explanation | None) -> None:
    if explained is None:
        output().say("The broker has forgotten this server, so nobody can say what it would be given now.")
        return
    failed = [rule for rule in explained.rules if rule.outcome == "failed"]
    if not failed:
        output().say("Nothing stands in the way: this server would be given the dataset now.")
        return
    output().say("What stands in the way of a release to this server now:")
    for rule in failed:
        output().say(f"  {rule.code}: {rule.sentence}")
