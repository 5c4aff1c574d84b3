# SPDX-License-Identifier: BSD-3-Clause
"""What an entry of the audit log says, and its exact bytes.

An entry is canonical JSON without its own index: the log gives the index, the Merkle tree fixes it. An entry
names evidence, policy, environment and manifest by digest; the evidence itself is kept beside the log under
its digest (`evidence/<sha256>`), as the body of the `attest` request that carried it
(`sealroom.kbs.messages.AttestRequest`). Beside it, in the same folder, lies what the verification took from
elsewhere: the collateral that an entry names by kind and digest.

Invariants:

- One entry has one byte string: `AuditEntry.from_bytes` refuses every other spelling. An entry without
  collateral or without a project does not name it at all, as entries of older programs do not.
- No secret stands in an entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_serializer,
    field_validator,
)

from sealroom.audit.tlog import MAX_ENTRY, leaf_hash, tree_root
from sealroom.canonical import canonical_json
from sealroom.errors import FormatError

FORMAT: Final = "sealroom-audit/1"

MAX_HEADERS: Final = 512
"""How many header digests an entry lists; beyond that a Merkle root stands for them, see `header_digests`."""

Kind = Literal[
    "release",
    "refusal",
    "registration",
    "grant",
    "change",
    "withdrawal",
    "request",
    "answer",
    "halt",
    "resume",
    "destruction",
    "start",
]
_OMITTED: Final = ("collateral", "project")
"""What an entry does not name where it is empty."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in hex."""
CollateralKind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,39}$")]
"""A kind of collateral, such as `nvidia.rim` or `nvidia.ocsp`."""
Digest = Annotated[str, StringConstraints(pattern=r"^(|sha256:[0-9a-f]{64})$")]
"""`sha256:<hex>`, or empty where there is none."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class AuditPerson(_Part):
    """The person that the session was bound to."""

    subject: str
    name: str
    issuer: str


class GrantVersion(_Part):
    """The grant that was applied, as it was then."""

    id: str
    version: Digest
    """Digest of the grant's canonical JSON."""


class AuditReason(_Part):
    """One reason of a decision."""

    code: str
    sentence: str


class Decision(_Part):
    """What the broker decided."""

    allowed: bool
    reasons: tuple[AuditReason, ...] = ()


class EarSummary(_Part):
    """The attestation result in short; the evidence tells the rest."""

    tier: str
    simulated: bool
    devices: dict[str, str] = Field(default_factory=dict)
    """Device -> its tier, for example `cpu0` -> `affirming`."""


class AuditEntry(_Part):
    """One decision or act of the broker."""

    format: Literal["sealroom-audit/1"] = FORMAT
    time: datetime
    """When the broker decided; the reference time for re-verifying the evidence. UTC, microseconds."""
    kind: Kind
    actor: str = ""
    """Who acted on the owner's side: the label of the token used; empty for a researcher's request."""
    person: AuditPerson | None = None
    server: str = ""
    dataset: str = ""
    manifest_sha256: Annotated[str, StringConstraints(pattern=r"^(|[0-9a-f]{64})$")] = ""
    purpose: str = ""
    grant: GrantVersion | None = None
    project: str = ""
    """The project that was halted or resumed, or that the grant belongs to; empty for none."""
    decision: Decision
    environment: Digest = ""
    policy: Digest = ""
    ear: EarSummary | None = None
    evidence: Annotated[str, StringConstraints(pattern=r"^(|[0-9a-f]{64})$")] = ""
    """SHA-256 of the stored evidence; empty where none belongs to the entry."""
    collateral: dict[CollateralKind, tuple[Sha256, ...]] = Field(default_factory=dict)
    """What the verification took from elsewhere than the evidence, by kind; stored as evidence is."""
    headers: tuple[str, ...] = ()
    """What was released or registered, see `header_digests`."""
    detail: str = ""
    """A sentence for the reader, such as the program's version at its start."""

    @field_validator("time")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("time without a time zone")
        return value.astimezone(UTC)

    @field_validator("collateral")
    @classmethod
    def _one_spelling(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if any(not digests or list(digests) != sorted(set(digests)) for digests in value.values()):
            raise ValueError("the digests of a kind of collateral are sorted, each stands once")
        return value

    @field_serializer("time")
    def _write_time(self, value: datetime) -> str:
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, which are the leaf of the log.

        Raises:
            FormatError: They are more than a log entry may have.
        """
        fields = self.model_dump(mode="json")
        for name in _OMITTED:
            if not fields[name]:
                del fields[name]
        data = canonical_json(fields)
        if len(data) > MAX_ENTRY:
            raise FormatError(f"The audit entry has {len(data)} bytes, more than {MAX_ENTRY}.", field="entry")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> AuditEntry:
        """Parse an entry.

        Raises:
            FormatError: It is not an audit entry in canonical form.
        """
        try:
            entry = cls.model_validate_json(data)
            canonical = entry.to_bytes()
        except (ValidationError, ValueError, RecursionError) as error:
            raise FormatError("The bytes are not an audit entry.", field="entry") from error
        if canonical != data:
            raise FormatError("The audit entry is not in canonical form.", field="entry")
        return entry

    def leaf_hash(self) -> bytes:
        """Return the entry's hash in the Merkle tree."""
        return leaf_hash(self.to_bytes())


def header_digests(headers: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return what an entry says of headers: the SHA-256 (hex) of each, in the order of the file names.

    More than `MAX_HEADERS` become one `merkle:<hex>`: RFC 6962's root over the same digests as leaves.
    """
    digests = [hashlib.sha256(headers[name]).digest() for name in sorted(headers)]
    if len(digests) <= MAX_HEADERS:
        return tuple(digest.hex() for digest in digests)
    return (f"merkle:{tree_root(leaf_hash(digest) for digest in digests).hex()}",)
