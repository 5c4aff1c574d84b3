# SPDX-License-Identifier: BSD-3-Clause
"""What the notebook server's agent tells a kernel.

The models tolerate unknown fields: a kernel may run an older Sealroom than the server that answers it. Their
fields are those of the broker's own messages where they speak of the same thing (`sealroom.kbs.calls`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

DatasetCondition = Literal["locked", "unlocked", "not_granted", "expired", "withdrawn", "refused"]
"""State of a dataset for this person in this server."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TermInfo(_Message):
    """A data use term."""

    code: str
    label: str

    def __str__(self) -> str:
        return f"{self.label} ({self.code})"


class ReasonInfo(_Message):
    """Why something was refused."""

    code: str
    sentence: str


class EndedInfo(ReasonInfo):
    """Why access that this server had has ended, and what to do now."""

    advice: str = ""
    at: datetime | None = None


class DatasetInfo(_Message):
    """A dataset on offer as this person in this server sees it."""

    id: str
    title: str
    description: str = ""
    owner: str
    contact: str = ""
    size: int = 0
    """Plaintext bytes of all files."""
    files: int = 0
    source: str = ""
    licence: str = ""
    manifest_sha256: str = ""
    terms: tuple[TermInfo, ...] = ()
    purposes: tuple[TermInfo, ...] = ()
    """Purposes that the person's grant allows."""
    purpose: TermInfo | None = None
    """The purpose it was unlocked for."""
    state: DatasetCondition
    until: datetime | None = None
    reasons: tuple[ReasonInfo, ...] = ()
    ask: str = ""
    here: bool = True
    """Whether the sealed files are on this machine."""
    asks: tuple[TermInfo, ...] = ()
    """Purposes for which a person may ask the owner for access."""
    outputs: bool = False
    """Whether the person's grant lets results leave the server."""
    ended: EndedInfo | None = None
    """Why this server's access ended, until the dataset is unlocked again."""


class FileInfo(_Message):
    """A file of an unlocked dataset."""

    name: str
    size: int
    """Plaintext bytes."""
    media_type: str = "application/octet-stream"
    version: str = ""
    """Root of its segments' digests: another one is another file, also under the same name."""

    @property
    def handle(self) -> str:
        """What a read names the file by, so that it is refused where another version is open."""
        return handle(self.name, self.version)


def handle(name: str, version: str) -> str:
    """Return what a read names a version of a file by; any version without one.

    No name of a file holds a control character (`manifest.check_name`).
    """
    return f"{name}\0{version}" if version else name


class WorkspaceInfo(_Message):
    """What a kernel needs to seal a result to the workspace."""

    key: str
    """The workspace's public key (X25519), standard base64."""
    directory: str
    """Where sealed results lie."""
    outputs: bool = False
    """Whether a result may be sealed to further recipients."""
    why: str = ""
    """Why not, in a sentence."""


class ClaimInfo(_Message):
    """One check on a device."""

    check: str
    outcome: str
    sentence: str = ""


class DeviceInfo(_Message):
    """A device of the server and what it proved."""

    device: str
    tier: str
    title: str = ""
    claims: tuple[ClaimInfo, ...] = ()


class EnvironmentInfo(_Message):
    """The environment that the server was found to be."""

    name: str = ""
    title: str = ""
    version: str = ""
    digest: str = ""


class PersonInfo(_Message):
    """Who the identity provider says the person is."""

    subject: str
    name: str = ""
    groups: tuple[str, ...] = ()
    issuer: str = ""


class ErrorInfo(_Message):
    """What went wrong when the server tried to prove itself."""

    message: str
    advice: str = ""


class ServerStatus(_Message):
    """What the server can prove about itself, as the panel shows it."""

    tier: str
    title: str
    sentences: tuple[str, ...] = ()
    phase: str = ""
    devices: tuple[DeviceInfo, ...] = ()
    proven_at: datetime | None = None
    expires: datetime | None = None
    environment: EnvironmentInfo | None = None
    provider: str = ""
    person: PersonInfo | None = None
    broker: str = ""
    error: ErrorInfo | None = None


class RecordInfo(_Message):
    """What was proven, by whom, on which dataset, when it was unlocked."""

    dataset: str
    title: str
    owner: str = ""
    manifest_sha256: str
    purpose: TermInfo | None = None
    person: PersonInfo | None = None
    unlocked_at: datetime | None = None
    until: datetime | None = None
    grant: str = ""
    server: ServerStatus | None = None
    """The server's status at the time of release."""
    broker: str = ""
    audit_index: int | None = None
    audit_leaf: str = ""
    """Leaf hash of the audit entry, hex: what `sealroom audit verify` looks for."""
    outputs: bool = False
    """Whether the grant let results leave the server."""


# --- access requests and explanations ---

RequestCondition = Literal["open", "granted", "refused", "withdrawn"]
"""State of a request; `withdrawn`: the person took it back before it was answered."""

MAX_REASON = 2000
"""Characters of a request's reason, and of an owner's answer (`sealroom.kbs.calls`)."""


class ServerSeenInfo(_Message):
    """The attested server that a request came from, as the owner sees it."""

    server: str = ""
    """Its name at the hub; empty for the default server."""
    tier: str
    simulated: bool = False
    environment: str | None = None
    """Digest of the approved environment that it ran."""
    devices: dict[str, str] = {}
    """Device (`cpu0`, `gpu0`, …) -> its tier."""
    evidence: str = ""
    """SHA-256 (hex) of the evidence."""
    attested: datetime | None = None


class RequestInfo(_Message):
    """A request for access to a dataset, and what its owner said."""

    id: str
    dataset: str
    title: str = ""
    purpose: TermInfo
    reason: str = ""
    until: datetime | None = None
    """How long the person asked for; the grant says how long it is."""
    created: datetime
    person: PersonInfo | None = None
    server: ServerSeenInfo | None = None
    state: RequestCondition
    answer: str = ""
    """The owner's own words."""
    answered: datetime | None = None
    answered_by: str = ""
    grant: str = ""


class RuleInfo(_Message):
    """One rule of the broker's decision, and what it says here."""

    code: str
    outcome: str
    """`passed`, `failed` or `not_reached`."""
    sentence: str


class ExplanationInfo(_Message):
    """What the broker would decide now; nothing was released for it."""

    dataset: str
    title: str = ""
    purpose: TermInfo | None = None
    """None: whether any purpose would do."""
    allowed: bool
    rules: tuple[RuleInfo, ...] = ()
    ask: str = ""
