# SPDX-License-Identifier: BSD-3-Clause
"""The messages of the KBS protocol, version 0.4.0, as Trustee's broker and CoCo's guest components send them.

Both sides must tolerate newer peers, so unknown fields are ignored (`kbs-types` does the same); what a
signature or a hash covers is taken from the fields below and nothing else. `parse` is the only way in from
bytes.

Invariants:

- Nothing but `sealroom.errors.ProtocolError` leaves `parse`, and its message never quotes a value.
- `to_json` writes compact JSON with the protocol's own names, and no field that is not part of the protocol.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from sealroom.errors import ProtocolError
from sealroom.kbs.binding import DEFAULT_HASH, HASH_ALGORITHMS, HashAlgorithm, hash_algorithm

PROTOCOL_VERSION: Final = "0.4.0"
"""A broker demands exactly this (Trustee kbs/src/attestation/backend.rs)."""

PREFIX: Final = "/kbs/v0"
"""Where every call of the protocol lives."""

SESSION_COOKIE: Final = "kbs-session-id"
ERROR_BASE: Final = "https://github.com/confidential-containers/kbs/errors/"

NONCE_SIZE: Final = 32
MAX_NONCE_SIZE: Final = 1024
"""Our own bound; Trustee sends 32 bytes, its IBM SE nonce is a JSON text."""

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Our own bound on one message: an SNP report as JSON is 10 kB, with eight GPUs' evidence about 1 MB."""

_ADVICE_VERSION: Final = "Use a broker and a guest of the same protocol version."


class Message(BaseModel):
    """Base of the protocol's messages."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, hide_input_in_errors=True, strict=True
    )

    def to_json(self) -> bytes:
        """Return the message as it goes over the wire."""
        return self.model_dump_json(by_alias=True).encode()


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], body: bytes, *, limit: int = MAX_MESSAGE, strict: bool | None = None) -> M:
    """Parse a message.

    Args:
        model: What is expected.
        body: What arrived.
        limit: The most bytes to accept.
        strict: Whether a value of another JSON type is refused that could be read as the expected one; as the
            model says, without it.

    Raises:
        ProtocolError: It is something else. The sentence names the first wrong field and quotes no value.
    """
    if len(body) > limit:
        raise ProtocolError(f"The message is longer than the {limit} bytes that are accepted.")
    try:
        return model.model_validate_json(body, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the message"
        raise ProtocolError(f"This is not a {model.__name__}: {field}: {first['type']}.") from None
    except (ValueError, RecursionError):
        # Not JSON at all in a way that pydantic does not wrap, such as text that is not UTF-8.
        raise ProtocolError(f"This is not a {model.__name__}.") from None


class AuthRequest(Message):
    """`POST auth`: the guest says which protocol and which TEE."""

    version: str = PROTOCOL_VERSION
    tee: str
    extra_params: JsonValue = Field(default="", alias="extra-params")

    @classmethod
    def for_tee(cls, tee: str) -> Self:
        """Return the request of a guest of ours."""
        return cls(tee=tee, extra_params={"supported-hash-algorithms": list(HASH_ALGORITHMS)})

    @property
    def hash_algorithms(self) -> tuple[HashAlgorithm, ...]:
        """The algorithms that the guest offers and we know; the protocol's default where it offers none."""
        offered = (
            self.extra_params.get("supported-hash-algorithms")
            if isinstance(self.extra_params, dict)
            else None
        )
        if not isinstance(offered, list):
            return (DEFAULT_HASH,)
        names = {name.lower() for name in offered if isinstance(name, str)}
        return tuple(known for known in HASH_ALGORITHMS if known in names)

    def check_version(self) -> None:
        """Check that the guest speaks exactly our version.

        Raises:
            ProtocolError: It does not. The sentence is the one of Trustee.
        """
        if self.version != PROTOCOL_VERSION:
            said = self.version[:32]
            raise ProtocolError(
                "RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: "
                f"expect ={PROTOCOL_VERSION} while the request is {said}",
                advice=_ADVICE_VERSION,
            )


class Challenge(Message):
    """Answer to `auth`: the nonce that evidence must cover."""

    nonce: str = Field(min_length=1, max_length=MAX_NONCE_SIZE)
    extra_params: JsonValue = Field(default="", alias="extra-params")

    @classmethod
    def with_nonce(cls, nonce: bytes, algorithm: HashAlgorithm = DEFAULT_HASH) -> Self:
        """Return a challenge of ours."""
        extra: JsonValue = "" if algorithm == DEFAULT_HASH else {"selected-hash-algorithm": algorithm}
        return cls(nonce=base64.b64encode(nonce).decode(), extra_params=extra)

    @property
    def algorithm(self) -> HashAlgorithm:
        """The hash algorithm that the broker selected.

        Raises:
            ProtocolError: It selected one that we do not have.
        """
        if not isinstance(self.extra_params, dict) or "selected-hash-algorithm" not in self.extra_params:
            return DEFAULT_HASH
        selected = self.extra_params["selected-hash-algorithm"]
        if not isinstance(selected, str):
            raise ProtocolError("The broker's selected-hash-algorithm is not a string.")
        return hash_algorithm(selected)

    def nonce_bytes(self) -> bytes:
        """Return the nonce decoded.

        Raises:
            ProtocolError: It is not standard base64.
        """
        try:
            return base64.b64decode(self.nonce, validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError("The challenge's nonce is not base64.") from None


class InitData(Message):
    """The launch-time configuration whose digest is HOST_DATA."""

    format: Literal["toml"]
    """Trustee's attestation service accepts no other, although the written specification has `json`."""
    body: str


class RuntimeData(Message):
    """What the primary evidence covers, beside the devices' evidence."""

    nonce: str = Field(max_length=MAX_NONCE_SIZE)
    tee_pubkey: dict[str, str] = Field(alias="tee-pubkey")
    """The guest's public key as a JWK; see `sealroom.kbs.jwe.check_public_jwk`."""


class TeeEvidence(Message):
    """The evidence of the CPU and of the devices beside it."""

    primary_evidence: JsonValue
    additional_evidence: str = ""
    """A JSON text, `{tee: evidence}`; empty without devices."""


class AttestRequest(Message):
    """`POST attest`: evidence for the challenge."""

    init_data: InitData | None = Field(default=None, alias="init-data")
    runtime_data: RuntimeData = Field(alias="runtime-data")
    tee_evidence: TeeEvidence = Field(alias="tee-evidence")


class AttestResponse(Message):
    """Answer to `attest`: the attestation result as an EAR token."""

    token: str = Field(repr=False)


class KbsError(Message):
    """Body of an error answer."""

    type: str
    detail: str = ""

    @classmethod
    def named(cls, name: str, detail: str) -> Self:
        """Return an error of this name, for example `AttestationError`."""
        return cls(type=ERROR_BASE + name, detail=detail)

    @property
    def name(self) -> str:
        """The error's name without the base URL."""
        return self.type.removeprefix(ERROR_BASE)
