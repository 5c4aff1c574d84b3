# SPDX-License-Identifier: BSD-3-Clause
"""The words in which a call is described, and what is true of all calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel
from sealroom.kbs.messages import SESSION_COOKIE
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]

Security = Literal["none", "begun", "session", "resource", "owner", "metrics"]
"""Who may make a call. `begun`: whoever has the cookie of `auth`, attested or not. `resource`: an attested
session, by its cookie or by its attestation result."""

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """An answer that is not a refusal.

    Args:
        description: What it says.
        model: What its body is; text, bytes or nothing without one.
        status: HTTP status.
        media: Media type of a body; empty without a body.
        sealed: What is inside of the JWE, for the text.
        headers: Name -> description of headers that only this answer has.
        example: A body, for people.
    """

    description: str
    model: type[BaseModel] | None = None
    status: int = 200
    media: str = JSON
    sealed: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter in the path, the query or a header.

    Args:
        name: Its name; that of the route's parameter, for one in the path.
        description: What it is.
        schema: JSON Schema of its value.
        where: Where it stands.
        required: Whether it must be there; one in the path always must.
        example: A value, for people.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    where: Literal["path", "query", "header"] = "path"
    required: bool = False
    example: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the document says of a call.

    Args:
        endpoint: What serves it. Its name is the operation's id, its docstring the summary.
        tag: Heading that it stands under.
        security: Who may make it.
        success: The answers that are no refusals.
        description: More than the summary says.
        body: What is sent.
        body_required: Whether it must be sent.
        example: A body that may be sent.
        refusals: Status -> when, beside those that follow from security, body and parameters.
        parameters: Its parameters.
        links: Name -> (operation's id, parameter, where its value is in the answer), for what can be called
            with an answer.
    """

    endpoint: Endpoint
    tag: str
    security: Security
    success: Sequence[Success]
    description: str = ""
    body: type[BaseModel] | None = None
    body_required: bool = True
    example: Any = None
    refusals: Mapping[int, str] = field(default_factory=dict)
    parameters: Sequence[Parameter] = ()
    links: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The operation's id; also the label `call` of the metrics."""
        return str(getattr(self.endpoint, "__name__", ""))

    @property
    def summary(self) -> str:
        """The first line of what serves it."""
        return (self.endpoint.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def statuses(self) -> dict[int, str]:
        """Return the statuses of its refusals, each with when."""
        found = dict(_ALWAYS)
        if self.body is not None:
            found |= _WITH_BODY
        found |= _BY_SECURITY[self.security]
        if any(one.where == "path" for one in self.parameters):
            found[404] = "There is nothing of this name."
        found |= dict(self.refusals)
        taken = {one.status for one in self.success}
        return {status: found[status] for status in sorted(found) if status not in taken}


_ALWAYS: Final = {
    429: "Too many requests of this client.",
    500: "The broker failed; its log has the cause under the request's id.",
    503: "Something could not be checked or kept now, so nothing was done.",
}
_WITH_BODY: Final = {
    400: "The body is not what is expected.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
}
_AGAIN: Final = "There is no attested session, or its last proof is too old: attest (again)."
_BY_SECURITY: Final[Mapping[Security, Mapping[int, str]]] = {
    "none": {},
    "begun": {401: "The evidence is not accepted, or no handshake was begun."},
    "session": {401: _AGAIN},
    "resource": {401: _AGAIN},
    "owner": {
        401: "There is no owner's token, or it is wrong or has ended.",
        403: "The token may not do this.",
    },
    "metrics": {401: "The token is missing or wrong."},
}

SCHEMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "The session that `auth` began. It must be attested, but for `auth` and `attest`.",
    },
    "attestation": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The session's newest attestation result, in place of its cookie.",
    },
    "owner": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token that `sealroom-broker token add` made. Its scope says what it may do.",
    },
    "metrics": {"type": "http", "scheme": "bearer", "description": "The token for metrics."},
}
"""The document's security schemes."""

REQUIREMENTS: Final[Mapping[Security, Sequence[Mapping[str, Sequence[str]]]]] = {
    "none": (),
    "begun": ({"session": ()},),
    "session": ({"session": ()},),
    "resource": ({"session": ()}, {"attestation": ()}),
    "owner": ({"owner": ()},),
    "metrics": ({"metrics": ()},),
}
"""Who may make a call -> the schemes of which one is needed."""
