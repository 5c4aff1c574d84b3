# SPDX-License-Identifier: BSD-3-Clause
"""Sealroom's own calls beside the KBS protocol, `/kbs/v0/sealroom/…`: what both sides send.

All calls but `jwks` and `admin/…` run inside an attested KBS session (cookie `kbs-session-id`). A policy
refusal is HTTP 403 with a `Refusal` body: a guest must not attest again because of it. 401 means "attest
again".

| call | request | answer |
|---|---|---|
| `POST identity` | `IdentityRequest` | `IdentityResponse` |
| `GET datasets` | - | `DatasetList` |
| `POST datasets/<id>/release` | `ReleaseRequest` | JWE (flattened, to the attested key): `ReleaseResponse` |
| `GET session` | - | `SessionState` |
| `GET jwks` | - | JWK set of the EAR signing keys |

The models the broker answers with tolerate unknown fields (a newer broker may say more); those it accepts do
not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DatasetCondition = Literal["locked", "unlocked", "not_granted", "expired", "withdrawn", "refused"]
"""State of a dataset for this person in this session.

`locked`: granted, not yet released. `unlocked`: released to this session. `refused`: granted to the person,
but something else stands in the way (the server's appraisal, its environment, the number of servers).
"""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Term(_Answer):
    """A Data Use Ontology term."""

    code: str
    """For example `DUO:0000042`."""
    label: str
    """For example `general research use`."""


class Reason(_Answer):
    """Why something was refused."""

    code: str
    """Stable id of the rule, for example `grant.none`."""
    sentence: str
    """One sentence for the person who was refused."""


class Refusal(_Answer):
    """Body of a 403, in the form of the KBS protocol's errors."""

    type: str = "https://github.com/confidential-containers/kbs/errors/PolicyDeny"
    detail: str
    reasons: tuple[Reason, ...] = ()
    ask: str = ""
    """Whom to ask: the data owner's contact."""


class IdentityRequest(_Request):
    """The person's token, presented inside the attested session and bound to it."""

    provider: Literal["jupyterhub", "oidc"]
    token: str = Field(repr=False)
    """The hub's token, or an ID token whose nonce is `session_nonce` of the attested key
    (`sealroom.kbs.nonce`)."""
    access_token: str = Field(default="", repr=False)
    """For the OIDC provider's userinfo, where a person's visas may be; only needed for that."""
    server: str = ""
    """Name of the notebook server as the hub knows it; empty for the default server."""


class Visa(_Answer):
    """A verified visa of a person's GA4GH passport, of the type `ControlledAccessGrants`."""

    issuer: str
    """Who signed it."""
    value: str
    """The dataset, as a URI."""
    source: str
    """The organisation that decided."""
    by: str = ""
    """Who decided there, for example `dac`; empty if the visa does not say."""
    asserted: datetime
    """When it was decided."""
    until: datetime
    """When the visa ends."""


class Person(_Answer):
    """Who the identity provider says this is. Only issuer and subject together name a person."""

    subject: str
    name: str
    groups: tuple[str, ...] = ()
    issuer: str
    email: str = ""
    """Empty unless the provider says that it has verified the address."""
    visas: tuple[Visa, ...] = ()


class IdentityResponse(_Answer):
    """The person that the broker bound to the session."""

    person: Person
    until: datetime | None = None
    """When the login must have been presented again."""
    ignored: tuple[Reason, ...] = ()
    """What the broker left out of the person's passport, and why."""


class DatasetState(_Answer):
    """A dataset on offer as this person in this session sees it."""

    id: str
    title: str
    description: str = ""
    owner: str
    contact: str = ""
    size: int
    """Plaintext bytes of all files."""
    files: int
    source: str = ""
    licence: str = ""
    manifest_sha256: str
    """SHA-256 (hex) of the signed manifest's bytes."""
    terms: tuple[Term, ...] = ()
    purposes: tuple[Term, ...] = ()
    """Purposes that the person's grant allows; empty without a grant."""
    state: DatasetCondition
    until: datetime | None = None
    """End of the grant, if it has one and the person has one."""
    reasons: tuple[Reason, ...] = ()
    ask: str = ""


class DatasetList(_Answer):
    """All datasets that the broker offers."""

    datasets: tuple[DatasetState, ...]


class ReleaseRequest(_Request):
    """Ask for a dataset's headers, re-encrypted to a key made inside the attested server."""

    purpose: str
    """A DUO code that the grant allows."""
    reader_key: str
    """X25519 public key, 32 bytes, standard base64."""
    headers: dict[str, str]
    """File name -> its Crypt4GH header (standard base64), as read from the sealed file.

    The broker never sees the data: the guest sends headers only.
    """


class ReleaseResponse(_Answer):
    """What is inside the JWE that answers a release."""

    dataset: str
    grant: str
    manifest: str
    """The signed manifest's bytes, standard base64: the trusted copy, to check the files against."""
    owner_key: str
    """Ed25519 public key that signed the manifest, standard base64."""
    headers: dict[str, str] = Field(repr=False)
    """File name -> Crypt4GH header re-encrypted to `reader_key`, standard base64."""
    until: datetime | None = None
    audit_index: int
    """Index of the audit entry, durable before this answer was made."""
    audit_leaf: str
    """SHA-256 leaf hash of the entry, hex."""


class ReleaseState(_Answer):
    """A release of this session."""

    dataset: str
    state: Literal["active", "withdrawn", "expired"]
    sentence: str = ""
    until: datetime | None = None
    audit_index: int


class SessionState(_Answer):
    """The session as the broker sees it now; polled by the guest, which drops keys that are not `active`."""

    person: Person | None
    """Nobody if the login has ended."""
    expires: datetime
    """When the attestation result is too old and the guest must attest again."""
    login_until: datetime | None = None
    """When the person's login must have been presented again."""
    login_due: bool = False
    """Whether to present it now: half of its time has passed."""
    releases: tuple[ReleaseState, ...] = ()


class GrantSpec(_Request):
    """Who may use which dataset, where, for what, and until when."""

    dataset: str
    subject: str = ""
    """The person, as the issuer names them; exactly one of `subject`, `group` and `visa` is given."""
    group: str = ""
    """Everybody in this group of the issuer."""
    visa: str = ""
    """Everybody who holds a `ControlledAccessGrants` visa with this value."""
    issuer: str = ""
    """Who says so: the identity provider of the person or group, or the visa's issuer. A broker that knows
    one provider of people fills it in; for a visa, empty means every visa issuer that the broker trusts."""
    purposes: tuple[str, ...] = ("DUO:0000042",)
    environments: tuple[str, ...] = ()
    """Environment digests (`sha256:<hex>`); empty means every environment the broker approves."""
    minimum: Literal["affirming", "simulated"] = "affirming"
    """Least tier of the server's appraisal. `simulated` is accepted by a development broker only."""
    gpu: bool = False
    """Whether the server must have a GPU in confidential mode, of at least that tier."""
    starts: datetime | None = None
    until: datetime | None = None


class Grant(GrantSpec):
    """A grant as the broker keeps it."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    created: datetime
    withdrawn: datetime | None = None


class DatasetRegistration(_Request):
    """A dataset's signed manifest and its secret key, for the broker to keep (wrapped)."""

    manifest: str
    """The manifest's bytes, standard base64."""
    signature: str
    """Ed25519 signature over the manifest's bytes, standard base64."""
    owner_key: str
    """Ed25519 public key, standard base64."""
    secret_key: str = Field(repr=False)
    """X25519 secret key that the files are sealed to, 32 bytes, standard base64."""
