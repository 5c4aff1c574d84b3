# SPDX-License-Identifier: BSD-3-Clause
"""Requests for access, explanations, and a person's own releases, for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sealroom.kbs.calls import (
    AccessRequest,
    AccessRequestList,
    AccessRequestSpec,
    Explanation,
    OwnReleaseList,
    RequestGrant,
    RequestRefusal,
)

from sealroom_broker import request_routes as routes
from sealroom_broker.api.operations import Operation, Parameter, Success
from sealroom_broker.api.session import PERSON, TAG, dataset

OWNER_TAG: Final = "Owner: requests"
_HEX: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SESSION: Final = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
_ASKED: Final[dict[str, Any]] = {
    "dataset": "heartbeats",
    "purpose": "DUO:0000042",
    "reason": "Detecting atrial fibrillation in single-lead recordings.",
    "until": "2027-03-31T23:59:59Z",
}
_REQUEST: Final[dict[str, Any]] = {
    **_ASKED,
    "id": "3b2a61f0c1d94e77",
    "person": PERSON,
    "created": "2026-11-24T12:00:00Z",
    "server": {
        "server": "",
        "tier": "affirming",
        "simulated": False,
        "environment": f"sha256:{_HEX}",
        "devices": {"cpu0": "affirming"},
        "evidence": _HEX,
        "attested": "2026-11-24T11:58:00Z",
    },
    "session": _SESSION,
    "state": "open",
    "answer": "",
    "answered": None,
    "answered_by": "",
    "grant": "",
    "audit_index": 4,
}
_ANSWERED: Final[dict[str, Any]] = {
    **_REQUEST,
    "state": "granted",
    "answer": "Until the end of your permit.",
    "answered": "2026-11-24T14:00:00Z",
    "answered_by": "owner",
    "grant": "6f1ed002ab559585",
}
_EXPLANATION: Final[dict[str, Any]] = {
    "dataset": "heartbeats",
    "title": "Heartbeats",
    "purpose": "DUO:0000042",
    "allowed": False,
    "rules": [
        {
            "code": "grant.none",
            "outcome": "failed",
            "sentence": "You have no access to Heartbeats. Ask data@heart.example.",
        }
    ],
    "ask": "data@heart.example",
}
_ID: Final = Parameter(
    name="request",
    description="Id of a request.",
    schema={"type": "string", "minLength": 1},
    example="3b2a61f0c1d94e77",
)
_PURPOSE: Final = Parameter(
    name="purpose",
    where="query",
    description="A DUO code; without it, whether any purpose would do.",
    schema={"type": "string", "maxLength": 100},
    example="DUO:0000042",
)
_NOBODY: Final = "Nobody is logged in at this session."

OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=routes.explain_dataset,
        tag=TAG,
        security="session",
        description="Nothing is released for it, and nothing recorded.",
        parameters=(dataset(), _PURPOSE),
        success=(
            Success(description="Every rule and what it says.", model=Explanation, example=_EXPLANATION),
        ),
        refusals={400: "The purpose is too long."},
    ),
    Operation(
        endpoint=routes.ask_for_access,
        tag=TAG,
        security="session",
        body=AccessRequestSpec,
        example=_ASKED,
        success=(Success(status=201, description="The request.", model=AccessRequest, example=_REQUEST),),
        refusals={403: f"{_NOBODY[:-1]}, there is no such dataset, or the person has asked enough."},
        links={"take_back": ("take_back_request", "request", "$response.body#/id")},
    ),
    Operation(
        endpoint=routes.list_own_requests,
        tag=TAG,
        security="session",
        success=(
            Success(
                description="The person's requests, the newest first.",
                model=AccessRequestList,
                example={"requests": [_ANSWERED]},
            ),
        ),
        refusals={403: _NOBODY},
    ),
    Operation(
        endpoint=routes.take_back_request,
        tag=TAG,
        security="session",
        description="To take it back again changes nothing.",
        parameters=(_ID,),
        success=(
            Success(
                description="The request.",
                model=AccessRequest,
                example={**_REQUEST, "state": "withdrawn", "answered": "2026-11-24T13:00:00Z"},
            ),
        ),
        refusals={403: _NOBODY, 409: "It was answered already."},
    ),
    Operation(
        endpoint=routes.list_own_releases,
        tag=TAG,
        security="session",
        parameters=(
            Parameter(
                name="before",
                where="query",
                description="Only those whose entry stands before this index of the log.",
                schema={"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999},
            ),
        ),
        success=(
            Success(
                description="The newest 100, each with its proof of inclusion in the audit log.",
                model=OwnReleaseList,
                example={
                    "releases": [
                        {
                            "index": 3,
                            "time": "2026-11-24T12:00:00Z",
                            "dataset": "heartbeats",
                            "purpose": "DUO:0000042",
                            "grant": "6f1ed002ab559585",
                            "entry": "eyJraW5kIjoicmVsZWFzZSJ9",
                            "proof": ["n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="],
                            "checkpoint": "sealroom-broker\n5\nn4bQgYhM…\n\n— sealroom-broker fSoc…\n",
                            "key": "sealroom-broker+7d2a1c0e+AZ…",
                        }
                    ]
                },
            ),
        ),
        refusals={400: "`before` is no index.", 403: _NOBODY},
    ),
)
"""What a person asks inside of the attested session."""

OWNER_OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=routes.list_requests,
        tag=OWNER_TAG,
        security="owner",
        parameters=(
            Parameter(
                name="dataset",
                where="query",
                description="Only those for this dataset.",
                schema={"type": "string"},
            ),
            Parameter(
                name="state",
                where="query",
                description="Only those that stand so.",
                schema={"enum": ["open", "granted", "refused", "withdrawn"], "type": "string"},
                example="open",
            ),
        ),
        success=(
            Success(
                description="The requests, the newest first.",
                model=AccessRequestList,
                example={"requests": [_REQUEST]},
            ),
        ),
        refusals={400: "There is no such state."},
    ),
    Operation(
        endpoint=routes.show_request,
        tag=OWNER_TAG,
        security="owner",
        parameters=(_ID,),
        success=(Success(description="The request.", model=AccessRequest, example=_REQUEST),),
    ),
    Operation(
        endpoint=routes.grant_request,
        tag=OWNER_TAG,
        security="owner",
        description="Request and grant are one act: neither is there without the other.",
        parameters=(_ID,),
        body=RequestGrant,
        example={"until": "2027-03-31T23:59:59Z", "answer": "Until the end of your permit."},
        success=(
            Success(description="The request, with the grant's id.", model=AccessRequest, example=_ANSWERED),
        ),
        refusals={409: "It was answered already, or the grant's project is halted."},
        links={"withdraw": ("delete_grant", "grant", "$response.body#/grant")},
    ),
    Operation(
        endpoint=routes.refuse_request,
        tag=OWNER_TAG,
        security="owner",
        parameters=(_ID,),
        body=RequestRefusal,
        example={"answer": "The permit does not cover this purpose."},
        success=(
            Success(
                description="The request.",
                model=AccessRequest,
                example={
                    **_ANSWERED,
                    "state": "refused",
                    "answer": "The permit does not cover this purpose.",
                    "grant": "",
                },
            ),
        ),
        refusals={409: "It was answered already."},
    ),
    Operation(
        endpoint=routes.explain_server,
        tag=OWNER_TAG,
        security="owner",
        parameters=(
            Parameter(
                name="dataset",
                where="query",
                required=True,
                description="What the server would be given.",
                schema={"type": "string", "minLength": 1},
                example="heartbeats",
            ),
            Parameter(
                name="session",
                where="query",
                required=True,
                description="Id of the server's session, as a request names it.",
                schema={"type": "string", "minLength": 1},
                example=_SESSION,
            ),
            _PURPOSE,
        ),
        success=(
            Success(
                description="Every rule and what it says, to the owner.",
                model=Explanation,
                example=_EXPLANATION,
            ),
        ),
        refusals={400: "Dataset or session is not named.", 404: "The broker has seen no such server."},
    ),
    Operation(
        endpoint=routes.environment_manifest,
        tag=OWNER_TAG,
        security="owner",
        parameters=(
            Parameter(
                name="digest",
                description="Digest of an environment that the broker approves.",
                schema={"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
                example=f"sha256:{_HEX}",
            ),
        ),
        success=(Success(description="The signed manifest, byte by byte.", media="application/toml"),),
    ),
)
"""What an owner asks and answers."""
