# SPDX-License-Identifier: BSD-3-Clause
"""Sealroom's calls of an attested session, and what is public."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sealroom.kbs.calls import (
    DatasetList,
    IdentityRequest,
    IdentityResponse,
    ReleaseRequest,
    ReleaseResponse,
    SessionState,
)

from sealroom_broker import sealroom_routes
from sealroom_broker.api.kbs import JWE_EXAMPLE, Jwe
from sealroom_broker.api.operations import Operation, Parameter, Success
from sealroom_broker.config import Mode

TAG: Final = "Session"
PUBLIC: Final = "Public"
_HEX: Final = "5f78c33274e43fa9de5659265c1d917e25c03722dcb0b8d27db8d5feaa813953"
PERSON: Final = {
    "subject": "alice",
    "name": "alice",
    "groups": ["cardiology"],
    "issuer": "https://hub.example/hub/api",
    "email": "",
    "visas": [],
}
"""A person as the identity provider names them."""


class Jwk(BaseModel):
    """A public key that signs attestation results (RFC 7517)."""

    model_config = ConfigDict(extra="allow")

    kty: str
    kid: str


class JwkSet(BaseModel):
    """Public keys (RFC 7517, section 5)."""

    keys: list[Jwk]


class Version(BaseModel):
    """Which broker this is."""

    name: str
    """Issuer of its attestation results."""
    version: str
    mode: Mode
    """A `development` broker also accepts simulated evidence, which proves nothing."""
    kbs: str
    """Version of the KBS protocol."""


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str


def dataset(what: str = "Id of a dataset.") -> Parameter:
    """Return the parameter that names a dataset."""
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    return Parameter(name="dataset", description=what, schema=schema, example="heartbeats")


OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=sealroom_routes.identity,
        tag=TAG,
        security="session",
        description="An ID token's nonce must be the attested key's, so that it opens nothing elsewhere.",
        body=IdentityRequest,
        example={"provider": "jupyterhub", "token": "the-hubs-token", "access_token": "", "server": ""},
        success=(
            Success(
                description="The person that is bound to the session now.",
                model=IdentityResponse,
                example={"person": PERSON, "until": "2026-11-24T12:15:00Z", "ignored": []},
            ),
        ),
        refusals={403: "The token is not accepted, or the session is another person's."},
    ),
    Operation(
        endpoint=sealroom_routes.datasets,
        tag=TAG,
        security="session",
        success=(
            Success(
                description="The datasets, each with what stands in its way.",
                model=DatasetList,
                example={
                    "datasets": [
                        {
                            "id": "heartbeats",
                            "title": "Heartbeats",
                            "description": "",
                            "owner": "Heart Centre",
                            "contact": "data@heart.example",
                            "size": 70012,
                            "files": 2,
                            "source": "",
                            "licence": "",
                            "manifest_sha256": _HEX,
                            "terms": [{"code": "DUO:0000042", "label": "general research use"}],
                            "purposes": [{"code": "DUO:0000042", "label": "general research use"}],
                            "state": "locked",
                            "until": "2027-03-31T23:59:59Z",
                            "reasons": [],
                            "ask": "",
                        }
                    ]
                },
            ),
        ),
    ),
    Operation(
        endpoint=sealroom_routes.release,
        tag=TAG,
        security="session",
        description="The audit entry is durable before the answer is made. Headers are sent, never data.",
        parameters=(dataset(),),
        body=ReleaseRequest,
        example={
            "purpose": "DUO:0000042",
            "reader_key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "headers": {"labels.csv": "Y3J5cHQ0Z2g="},
        },
        success=(
            Success(
                description="The headers, re-encrypted to the reader's key, as a JWE to the attested key.",
                model=Jwe,
                sealed=ReleaseResponse,
                example=JWE_EXAMPLE,
            ),
        ),
        refusals={403: "The decision: each reason has its rule's id and a sentence."},
    ),
    Operation(
        endpoint=sealroom_routes.session,
        tag=TAG,
        security="session",
        success=(
            Success(
                description="The session now; a guest drops keys that are not `active`.",
                model=SessionState,
                example={
                    "person": PERSON,
                    "expires": "2026-11-24T12:15:00Z",
                    "login_until": "2026-11-24T12:15:00Z",
                    "login_due": False,
                    "releases": [
                        {
                            "dataset": "heartbeats",
                            "state": "withdrawn",
                            "sentence": "The data owner has withdrawn this access.",
                            "until": None,
                            "audit_index": 3,
                        }
                    ],
                },
            ),
        ),
    ),
    Operation(
        endpoint=sealroom_routes.jwks,
        tag=PUBLIC,
        security="none",
        success=(
            Success(
                description="The keys; the newest signs.",
                model=JwkSet,
                example={"keys": [{"kty": "EC", "kid": "ear-20261124", "crv": "P-384", "x": "…", "y": "…"}]},
            ),
        ),
    ),
    Operation(
        endpoint=sealroom_routes.version,
        tag=PUBLIC,
        security="none",
        success=(
            Success(
                description="Its name, version, mode and protocol.",
                model=Version,
                example={"name": "sealroom-broker", "version": "0.1.0", "mode": "production", "kbs": "0.4.0"},
            ),
        ),
    ),
)
