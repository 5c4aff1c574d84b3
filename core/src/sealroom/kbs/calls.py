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
| `GET datasets/<id>/explain[?purpose=DUO:…]` | - | `Explanation` |
| `POST requests` | `AccessRequestSpec` | `AccessRequest` |
| `GET requests` | - | `AccessRequestList`: the person's own |
| `DELETE requests/<id>` | - | `AccessRequest`, taken back |
| `GET releases[?before=INDEX]` | - | `OwnReleaseList`: the person's own, the newest 100 |
| `GET jwks` | - | JWK set of the EAR signing keys |

The models the broker answers with tolerate unknown fields (a newer broker may say more); those it accepts do
not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

PROJECT: Final = r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$"
"""A project's name, or nothing; it stands in addresses."""

DatasetCondition = Literal["locked", "unlocked", "not_granted", "expired", "withdrawn", "refused"]
"""State of a dataset for this person in this session.

`locked`: granted, not yet released. `unlocked`: released to this session. `refused`: granted to the person,
but something else stands in the way (the server's appraisal, its environment, the number of servers).
"""


_DATE_AND_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


def _written_out(value: object) -> object:
    # The library would take "5" for five seconds after 1970, and a date for its midnight.
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _DATE_AND_TIME.fullmatch(value):
        return datetime.fromisoformat(value.upper())
    raise ValueError("must be a date and a time, as 2027-03-31T23:59:59Z")


def _in_utc(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie within the years 1 to 9999, in UTC too") from None
    return value


Moment = Annotated[datetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
"""A time that a client sends, written out (RFC 3339); a zone is demanded where it is used."""


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
    outputs: bool = False
    """Whether that grant lets results leave the server."""
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
    outputs: bool = False
    """Whether the grant lets results leave the server."""
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
    starts: Moment | None = None
    until: Moment | None = None
    servers: int | None = Field(default=None, ge=1, le=100_000)
    """Most servers of one person that may hold the dataset at once; None means any number."""
    outputs: bool = False
    """Whether results may leave the server. The broker carries and shows it; it cannot enforce it."""
    project: str = Field(default="", max_length=64, pattern=PROJECT)
    """The project that it belongs to, which can be halted as a whole; empty for none."""
    dataset_key: bool = False
    """Whether the dataset's key itself may leave, as a static resource of the KBS protocol."""


class Grant(GrantSpec):
    """A grant as the broker keeps it."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    created: datetime
    withdrawn: datetime | None = None
    version: int = 1
    """Counts its changes; the withdrawal is one."""


class GrantChange(_Request):
    """What changes of a grant; what is not given, or is null, stays as it is.

    Dataset and people do not change: that would be another grant.
    """

    purposes: tuple[str, ...] | None = None
    environments: tuple[str, ...] | None = None
    """An empty list means every environment that the broker approves."""
    minimum: Literal["affirming", "simulated"] | None = None
    gpu: bool | None = None
    servers: int | None = Field(default=None, ge=1, le=100_000)
    any_servers: bool = False
    """Take the bound on servers away."""
    outputs: bool | None = None
    dataset_key: bool | None = None
    starts: Moment | None = None
    until: Moment | None = None
    forever: bool = False
    """Take the end away."""
    project: str | None = Field(default=None, max_length=64, pattern=PROJECT)
    """An empty text takes it out of its project."""


class StatedReason(_Request):
    """Why an owner does what cannot be undone by itself: halts or resumes a project, destroys a key."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
    """Stands in the audit log."""


class Project(_Answer):
    """A project: the grants that carry its name."""

    name: str
    state: Literal["running", "halted"]
    grants: int
    """How many that are not withdrawn."""
    datasets: tuple[str, ...] = ()
    """Which datasets they are for, sorted."""
    since: datetime | None = None
    """When it was halted, or resumed last; None if it never was."""
    reason: str = ""
    """Why it was."""


class Projects(_Answer):
    """Projects by name."""

    projects: tuple[Project, ...]


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
    keep_until: Moment | None = None
    """When the permit to use the dataset ends: from then on it is refused, and the broker destroys its key.
    Where a registered dataset has such an end already, None leaves it as it is."""


# --- access requests ---

MAX_REASON = 2000
"""Characters of a request's reason, and of an owner's answer."""

RequestState = Literal["open", "granted", "refused", "withdrawn"]
"""`withdrawn`: the person took it back before it was answered."""


class AccessRequestSpec(_Request):
    """A person asks the owner of a dataset for access."""

    dataset: str
    purpose: str
    """A DUO code."""
    reason: str = Field(min_length=1, max_length=MAX_REASON)
    """Why, in the person's own words. Newlines are the only control characters in it."""
    until: Moment | None = None
    """How long it is needed; the owner decides."""


class ServerSeen(_Answer):
    """The attested server that a request came from, as it was then."""

    server: str
    """Its name at the hub; empty for the default server."""
    tier: str
    """`affirming`, `warning`, `simulated`, `contraindicated` or `none`."""
    simulated: bool
    environment: str | None = None
    """Digest of the approved environment that it ran."""
    devices: dict[str, str] = Field(default_factory=dict)
    """Device (`cpu0`, `gpu0`, …) -> its tier."""
    evidence: str
    """SHA-256 (hex) of the evidence that the broker keeps beside its audit log."""
    attested: datetime


class AccessRequest(_Answer):
    """A request as the broker keeps it."""

    id: str
    dataset: str
    person: Person
    purpose: str
    reason: str
    until: datetime | None = None
    created: datetime
    server: ServerSeen
    session: str = ""
    """Id of the attested session; not its cookie."""
    state: RequestState
    answer: str = ""
    """What the owner said."""
    answered: datetime | None = None
    answered_by: str = ""
    """Name of the owner's token or login."""
    grant: str = ""
    """Id of the grant that was given."""
    audit_index: int | None = None
    """Index of the request's own audit entry."""


class AccessRequestList(_Answer):
    """Requests, the newest first."""

    requests: tuple[AccessRequest, ...]


class RequestGrant(_Request):
    """What an owner gives who was asked: the terms of a grant for this person."""

    purposes: tuple[str, ...] | None = None
    """The one that was asked for without it."""
    environments: tuple[str, ...] = ()
    """Environment digests; empty means every environment the broker approves."""
    minimum: Literal["affirming", "simulated"] = "affirming"
    gpu: bool = False
    servers: int | None = Field(default=None, ge=1, le=100_000)
    """Most servers at once."""
    outputs: bool = False
    """Whether results may leave."""
    project: str = Field(default="", max_length=64, pattern=PROJECT)
    starts: Moment | None = None
    until: Moment | None = None
    """The grant's end; it must be given unless `forever` is set."""
    forever: bool = False
    answer: str = Field(default="", max_length=MAX_REASON)
    """A sentence for the person."""


class RequestRefusal(_Request):
    """An owner says no."""

    answer: str = Field(min_length=1, max_length=MAX_REASON)
    """Why, for the person."""


# --- what stands in the way ---


class ExplainedRule(_Answer):
    """One rule of the decision, and what it says here."""

    code: str
    """Stable id of the rule, for example `grant.none`."""
    outcome: Literal["passed", "failed", "not_reached"]
    """`not_reached`: something before it failed, or it is about what a release alone sends."""
    sentence: str


class Explanation(_Answer):
    """What the broker would decide now, rule by rule; nothing was released for it."""

    dataset: str
    title: str
    purpose: str | None = None
    """None: whether any purpose would do."""
    allowed: bool
    rules: tuple[ExplainedRule, ...]
    ask: str = ""
    """Whom to ask about what failed."""


# --- a person's own releases ---


class OwnRelease(_Answer):
    """A release to this person, with the proof that it stands in the broker's audit log."""

    index: int
    time: datetime
    dataset: str
    purpose: str
    grant: str
    entry: str
    """The entry's bytes, standard base64."""
    proof: tuple[str, ...]
    """The inclusion proof's hashes (RFC 6962, PATH), standard base64."""
    checkpoint: str
    """The signed checkpoint, a signed note."""
    key: str
    """The log's verifier key as the broker gives it; compare it with one that came from elsewhere."""


class OwnReleaseList(_Answer):
    """Releases, the newest first."""

    releases: tuple[OwnRelease, ...]
