# SPDX-License-Identifier: BSD-3-Clause
"""What a grant means, in one plain sentence, and how it stands now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from sealroom.kbs.calls import Grant, GrantSpec, Person

from sealroom_broker.owner_pages.words import label, listed, short, when

SOON: Final = timedelta(days=14)
"""What ends within this time ends soon."""

Names = Mapping[tuple[str, str], str]
"""(issuer, subject) -> the name that people are shown by."""

GRANT_STATES: Final = ("active", "ends_soon", "not_started", "halted", "ended", "withdrawn")


def grant_state(grant: Grant, now: datetime, halted: Collection[str] = ()) -> str:
    """Return how a grant stands: one of `GRANT_STATES`.

    Args:
        grant: The grant.
        now: The present.
        halted: The projects that are halted.
    """
    if grant.withdrawn is not None:
        return "withdrawn"
    if grant.until is not None and now >= grant.until:
        return "ended"
    if grant.project and grant.project in halted:
        return "halted"
    if grant.starts is not None and now < grant.starts:
        return "not_started"
    if grant.until is not None and grant.until - now <= SOON:
        return "ends_soon"
    return "active"


def grantee(grant: GrantSpec, names: Names) -> str:
    """Say whom a grant is for, in short: without who names them."""
    if grant.group:
        return f"everybody in the group {grant.group}"
    if grant.visa:
        return f"everybody with a visa for {grant.visa}"
    name = names.get((grant.issuer, grant.subject), "")
    return f"{name} ({grant.subject})" if name and name != grant.subject else grant.subject


def person_words(person: Person) -> str:
    """Say who somebody is: the name, and the subject where it is another."""
    return person.name if person.name == person.subject else f"{person.name} ({person.subject})"


def meaning(
    grant: Grant,
    now: datetime,
    *,
    title: str,
    names: Names,
    environments: Mapping[str, str],
    halted: Collection[str] = (),
) -> str:
    """Say what a grant means, as one or two sentences.

    Args:
        grant: The grant.
        now: The present.
        title: The dataset's title.
        names: How people are called.
        environments: Digest -> title of the approved environments.
        halted: The projects that are halted.
    """
    who = _grantee_with_issuer(grant, names)
    state = grant_state(grant, now, halted)
    purposes = listed([label(code) for code in grant.purposes])
    where = f"on {_servers(grant, environments)}"
    if state in ("withdrawn", "ended"):
        end = grant.withdrawn if state == "withdrawn" else grant.until
        how = "it was withdrawn" if state == "withdrawn" else "it ended"
        assert end is not None  # noqa: S101 - what makes these states
        return f"{who} could read {title} for {purposes}, {where}; {how} on {when(end)}."
    stop = f" Nothing of it holds now: the project {grant.project} is halted." if state == "halted" else ""
    begins = f" from {when(grant.starts)}" if state == "not_started" and grant.starts else ""
    until = f" until {when(grant.until)}" if grant.until else " without an end"
    results = "Results may leave." if grant.outputs else "Results may not leave."
    return f"{who} may read {title} for {purposes}{begins}{until}, {where}. {results}{_extras(grant)}{stop}"


def _grantee_with_issuer(grant: GrantSpec, names: Names) -> str:
    who = grantee(grant, names)
    if grant.group:
        who += f" of {grant.issuer or 'an issuer that is not named'}"
    elif grant.visa and grant.issuer:
        who += f", signed by {grant.issuer},"
    return who[:1].upper() + who[1:] if grant.group or grant.visa else who


def _servers(grant: Grant, environments: Mapping[str, str]) -> str:
    proof = "verified servers" if grant.minimum == "affirming" else "verified or simulated servers"
    gpu = " with a GPU in confidential mode" if grant.gpu else ""
    bound = ""
    if grant.servers is not None:
        bound = ", one at a time" if grant.servers == 1 else f", at most {grant.servers} at once"
    if not grant.environments:
        return f"{proof}{gpu} of every approved environment{bound}"
    titles = [environments.get(one, f"{short(one)}, which is not approved") for one in grant.environments]
    return f"{proof}{gpu} of the environment{'s' if len(titles) > 1 else ''} {listed(titles)}{bound}"


def _extras(grant: Grant) -> str:
    key = " The dataset's key itself may leave to a guest that asks for it." if grant.dataset_key else ""
    project = f" It belongs to the project {grant.project}." if grant.project else ""
    return key + project
