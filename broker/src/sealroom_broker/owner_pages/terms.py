# SPDX-License-Identifier: BSD-3-Clause
"""The terms of a grant as a form: for a new grant, a change, and the answer to a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from sealroom.datasets.terms import LABELS
from sealroom.environments import Environment
from sealroom.kbs.calls import Grant, GrantChange, GrantSpec, RequestGrant

from sealroom_broker.owner_pages.forms import MAX_TEXT, Form, local
from sealroom_broker.owner_pages.words import short

M = TypeVar("M", bound=BaseModel)

PRESET: Final = timedelta(days=7)
"""How long a grant holds unless somebody says otherwise."""
COMMON: Final = ("DUO:0000042", "DUO:0000006", "DUO:0000007", "DUO:0000043")
"""Purposes that stand first."""
PURPOSE: Final = "purpose:"
"""What the names of the boxes of purposes begin with: in a form, a name stands once."""
ENVIRONMENT: Final = "environment:"
"""The same for environments."""
WHO: Final = ("subject", "group", "visa")
FIELDS: Final = ("dataset", "issuer", "minimum", "servers", "project", "starts", "until", "answer")


def fresh(now: datetime, *, development: bool, **values: str) -> Form:
    """Return the form of a new grant."""
    preset = {"who": "subject", "until": local(now + PRESET), f"{PURPOSE}DUO:0000042": "on"}
    preset["minimum"] = "simulated" if development else "affirming"
    return Form({**preset, **values})


def filled(grant: Grant) -> Form:
    """Return the form of a grant as it is."""
    values = {f"{PURPOSE}{code}": "on" for code in grant.purposes}
    values |= {f"{ENVIRONMENT}{digest}": "on" for digest in grant.environments}
    values |= {name: "on" for name in ("gpu", "outputs", "dataset_key") if getattr(grant, name)}
    if grant.until is None:
        values["forever"] = "on"
    return Form(
        {
            **values,
            "minimum": grant.minimum,
            "servers": "" if grant.servers is None else str(grant.servers),
            "project": grant.project,
            "starts": local(grant.starts),
            "until": local(grant.until),
        }
    )


def choices(
    form: Form, environments: Mapping[str, Environment], *, first: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return what the form offers.

    Args:
        form: The form; what it has ticked is offered, whatever it is.
        environments: The approved ones by digest.
        first: Purposes that stand first: those that were asked for, or of the dataset's terms.
    """
    leading = dict.fromkeys([*form.chosen(PURPOSE), *first, *COMMON])
    codes = [*(code for code in leading if code in LABELS), *(code for code in LABELS if code not in leading)]
    known = {digest: f"{one.title}, version {one.version}" for digest, one in environments.items()}
    ticked = [one for one in form.chosen(ENVIRONMENT) if one not in known]
    gone = {one: f"{short(one)}, which is not approved" for one in ticked}
    return {
        "purposes": [(code, LABELS[code]) for code in codes[:6]],
        "more_purposes": [(code, LABELS[code]) for code in codes[6:]],
        "environments": sorted(known.items(), key=lambda item: item[1]) + sorted(gone.items()),
    }


def new_grant(form: Form, now: datetime) -> GrantSpec | None:
    """Read a new grant; None if something is wrong with the form."""
    terms = _terms(form, now)
    who = form.value("who")
    if who not in WHO:
        form.wrong("who", "Say whether this is for a person, a group or holders of a visa.")
    name = form.text("name", missing="Say who may use it, as the identity provider names them.")
    dataset = form.text("dataset", missing="Choose a dataset.")
    values = {**terms, "dataset": dataset, "issuer": form.text("issuer"), who: name}
    values["dataset_key"] = form.checked("dataset_key")
    return _made(GrantSpec, form, values)


def answer_grant(form: Form, now: datetime) -> RequestGrant | None:
    """Read the grant that answers a request; None if something is wrong with the form."""
    values = _terms(form, now)
    values |= {"forever": form.checked("forever"), "answer": form.text("answer", limit=MAX_TEXT)}
    return _made(RequestGrant, form, values)


def change(form: Form, grant: Grant, now: datetime) -> GrantChange | None:
    """Read what changes of a grant; None if something is wrong with the form.

    Only what was changed is in it: what somebody else changed meanwhile stays.
    """
    terms, before = _terms(form, now, grant), filled(grant)
    forever, servers = form.checked("forever"), terms["servers"]
    if not form.value("starts") and grant.starts is not None:
        form.wrong("starts", "A beginning cannot be taken away. A time in the past means at once.")
    values: dict[str, Any] = {
        "purposes": _differs(terms["purposes"], grant.purposes, ordered=False),
        "environments": _differs(terms["environments"], grant.environments, ordered=False),
        "minimum": _differs(terms["minimum"], grant.minimum),
        "gpu": _differs(terms["gpu"], grant.gpu),
        "outputs": _differs(terms["outputs"], grant.outputs),
        "dataset_key": _differs(form.checked("dataset_key"), grant.dataset_key),
        "project": _differs(terms["project"], grant.project),
        "servers": _differs(servers, grant.servers),
        "any_servers": servers is None and grant.servers is not None,
        # To the minute, as the form has it: seconds that it does not show are no change.
        "starts": terms["starts"] if form.value("starts") != before.value("starts") else None,
        "until": terms["until"] if form.value("until") != before.value("until") and not forever else None,
        "forever": forever and grant.until is not None,
    }
    return _made(GrantChange, form, values)


def is_empty(changed: GrantChange) -> bool:
    """Tell whether nothing changes."""
    return changed == GrantChange()


def _terms(form: Form, now: datetime, grant: Grant | None = None) -> dict[str, Any]:
    purposes, minimum = form.chosen(PURPOSE), form.value("minimum") or "affirming"
    if not purposes:
        form.wrong("purposes", "Tick at least one purpose.")
    if minimum not in ("affirming", "simulated"):
        form.wrong("minimum", "Choose what a server must prove.")
    starts = form.moment("starts")
    return {
        "purposes": purposes,
        "environments": form.chosen(ENVIRONMENT),
        "minimum": minimum,
        "gpu": form.checked("gpu"),
        "servers": form.number("servers"),
        "outputs": form.checked("outputs"),
        "project": form.text("project", limit=64),
        "starts": starts,
        "until": _until(form, now, starts, grant),
    }


def _until(form: Form, now: datetime, starts: datetime | None, grant: Grant | None) -> datetime | None:
    if form.checked("forever"):
        return None
    until = form.moment("until")
    if until is None:
        form.wrong("until", "Say when it ends, or tick that it has no end.")
        return None
    if until <= now and (grant is None or form.value("until") != local(grant.until)):
        form.wrong("until", "This is in the past. To end access at once, withdraw the grant.")
    if starts is not None and until <= starts:
        form.wrong("until", "It must end after it begins.")
    return until


def _differs(new: Any, old: Any, *, ordered: bool = True) -> Any:
    same = new == old if ordered else set(new) == set(old)
    return None if same else new


def _made(model: type[M], form: Form, values: Mapping[str, Any]) -> M | None:
    if form.errors:
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        form.take(error, (*FIELDS, "purposes", "environments"))
        return None
