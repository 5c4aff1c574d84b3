# SPDX-License-Identifier: BSD-3-Clause
"""The KBS protocol's own calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from sealroom.kbs.messages import AttestRequest, AttestResponse, AuthRequest, Challenge

from sealroom_broker import kbs_routes
from sealroom_broker.api.operations import Operation, Parameter, Success

TAG: Final = "Handshake"
_COOKIE: Final = {"Set-Cookie": "The session's cookie, `kbs-session-id`."}


class Jwe(BaseModel):
    """A flattened JWE (RFC 7516, section 7.2.2), to the key that the session's evidence covers.

    Each member is base64url without padding.
    """

    protected: str
    """`alg`, `enc` and, for an EC key, `epk`; nothing stands outside of it."""
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str


JWE_EXAMPLE: Final = {
    "protected": "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnt9fQ",
    "encrypted_key": "c4zs2vBsXFjXw2BPDOo7RIOTHjkxzn5FHCwYFvMPBOHw_yZrCUkAbw",
    "iv": "w6EmWHyJ3FqSMhVe",
    "ciphertext": "2yo7BhKd",
    "tag": "JAjUE3fS4c2KKAeVzYvDJg",
}
"""A JWE, shortened."""


def name(parameter: str, what: str, example: str) -> Parameter:
    """Return a part of a static resource's name."""
    schema: dict[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$"}
    return Parameter(name=parameter, description=what, schema=schema, example=example)


_NAME: Final = (
    name("repository", "First part of the resource's name.", "default"),
    name("type", "Second part.", "key"),
    name("tag", "Third part.", "1"),
)

OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=kbs_routes.auth,
        tag=TAG,
        security="none",
        description="With the cookie of a living session the handshake continues that session.",
        body=AuthRequest,
        example={
            "version": "0.4.0",
            "tee": "snp",
            "extra-params": {"supported-hash-algorithms": ["sha384"]},
        },
        success=(
            Success(
                description="The challenge that evidence must cover; it is good for one answer.",
                model=Challenge,
                headers=_COOKIE,
                example={"nonce": "Nq6s1dX8mGm4tDq0iYw0hJ0mXqk3y5m6mN0l2oYH1rE=", "extra-params": ""},
            ),
        ),
        refusals={401: "Another protocol version, or a TEE or hash algorithm that is not accepted."},
    ),
    Operation(
        endpoint=kbs_routes.attest,
        tag=TAG,
        security="begun",
        description=(
            "The evidence must cover the nonce of `auth` and the key `tee-pubkey`. A nonce is used up "
            "whatever the answer is."
        ),
        body=AttestRequest,
        success=(
            Success(
                description="The attestation result, an EAR token that `jwks` verifies.",
                model=AttestResponse,
                headers=_COOKIE,
                example={"token": "eyJhbGciOiJFUzM4NCIsImtpZCI6ImVhci0x… .eyJlYXQ… .tLx…"},
            ),
        ),
        refusals={
            429: "Too many requests, or too much refused evidence of this client.",
            503: "Something that is needed to judge the evidence could not be had.",
        },
    ),
    Operation(
        endpoint=kbs_routes.resource,
        tag=TAG,
        security="resource",
        description=(
            "The server alone decides: its proof must be good enough, its environment approved. "
            "`sealroom/dataset-key/<dataset>` is a dataset's own key; a grant of the person must say "
            "that it may leave."
        ),
        parameters=(
            *_NAME,
            Parameter(
                name="purpose",
                where="query",
                description="What a dataset's own key is for, where the grants leave a choice.",
                schema={"type": "string"},
                example="DUO:0000042",
            ),
        ),
        success=(
            Success(description="The secret, as a JWE to the attested key.", model=Jwe, example=JWE_EXAMPLE),
        ),
        refusals={
            400: "The name is none of a resource.",
            403: "The server's proof is not enough for this resource, or the person has no such grant.",
        },
    ),
    Operation(
        endpoint=kbs_routes.store_resource,
        tag=TAG,
        security="owner",
        description=(
            "As `kbs-client config set-resource` does it: the body is the secret itself, and only affirming "
            "servers get it. One of the same name is replaced."
        ),
        parameters=_NAME,
        success=(Success(description="It is kept.", media=""),),
        refusals={
            400: "The name is none of a resource, or the body is empty or too long.",
            408: "The body did not arrive in time.",
            413: "The body is too long.",
        },
    ),
    Operation(
        endpoint=kbs_routes.remove_resource,
        tag=TAG,
        security="owner",
        parameters=_NAME,
        success=(Success(description="It is forgotten.", media=""),),
        refusals={400: "The name is none of a resource."},
    ),
)
