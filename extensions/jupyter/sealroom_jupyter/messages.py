# SPDX-License-Identifier: BSD-3-Clause
"""What the routes under `/sealroom/api/` answer beyond what kernels get from `sealroom.datasets.messages`.

Invariants:

- No field of these models holds a secret. Whatever is in them may be shown, logged and saved.
- Every state that is not good comes with a sentence for the person who looks at it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from sealroom.datasets.messages import (
    DatasetInfo,
    ErrorInfo,
    ReasonInfo,
    RecordInfo,
    RequestInfo,
    ServerStatus,
    TermInfo,
)

Phase = Literal["starting", "evidence", "verified", "refused", "unreachable"]
"""Where the server is on the way to being proven.

`refused`: it could not prove itself, or proof was not accepted. `unreachable`: the broker does not answer.
"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(_Model):
    """What is wrong and what to do: the body of every error answer."""

    message: str
    advice: str = ""
    reasons: tuple[ReasonInfo, ...] = ()
    code: str = ""
    """Stable machine code of the class of error."""


Way = Literal["browser", "device"]
"""How a person logs in: a redirect back to this server, or a link with a short code."""


class LoginView(_Model):
    """The person's login at an OpenID Connect provider, where this server has one of its own."""

    issuer: str
    ways: tuple[Way, ...] = ()
    """Ways that are on; none where the settings are wrong."""
    state: Literal["out", "waiting", "in"] = "out"
    name: str = ""
    """Who is logged in."""
    until: datetime | None = None
    """When the broker wants the login presented again."""
    renews: bool = False
    """Whether this server can do that without the person."""
    error: ErrorInfo | None = None
    """Why the last login did not work, or has ended."""


class BrowserStart(_Model):
    """Answer of `POST login/browser`: where to send the person's browser."""

    url: str


class DeviceCode(_Model):
    """Answer of `POST login/device`: what the person opens and compares. Worth nothing once it was used."""

    uri: str
    """The link to open, with the code in it if the provider makes one."""
    code: str
    expires: datetime


class Status(ServerStatus):
    """What this server can prove about itself, now."""

    root: str | None = None
    """Path of the development root's certificate, for `sealroom verify --root`; none with AMD's own roots."""
    login: LoginView | None = None
    """None where the hub says who the person is."""


class DatasetView(DatasetInfo):
    """A dataset as this server sees it: the broker's state, and what is on this machine."""

    names: tuple[str, ...] = ()
    """Names of its files, where they are here."""


class DatasetViews(_Model):
    """Answer of `GET datasets`."""

    datasets: tuple[DatasetView, ...] = ()
    purposes: tuple[TermInfo, ...] = ()
    """Every purpose that people may ask for, whatever a dataset's terms name."""


class RequestViews(_Model):
    """Answer of `GET requests`: the person's own, the newest first."""

    requests: tuple[RequestInfo, ...] = ()


class ReleaseView(_Model):
    """A release to this person, as the panel lists it."""

    index: int
    """Index of its entry in the broker's audit log."""
    time: datetime
    dataset: str
    title: str = ""
    purpose: TermInfo
    grant: str = ""
    key: str = ""
    """The log's key as the broker gives it, to compare with one that came from elsewhere."""


class ProofFile(_Model):
    """Answer of `GET releases/<index>/proof`: a file that `sealroom audit check-proof` takes."""

    name: str
    text: str
    """C2SP tlog-proof, with the entry in it."""


class ReleaseViews(_Model):
    """Answer of `GET releases`, the newest first."""

    releases: tuple[ReleaseView, ...] = ()


class PreviewItem(_Model):
    """One thing that a request for keys sends."""

    label: str
    value: str


class Preview(_Model):
    """Answer of `GET datasets/<id>/request-preview`."""

    items: tuple[PreviewItem, ...]


class EvidenceBundle(_Model):
    """Evidence over a person's own nonce; `sealroom verify` takes the file."""

    format: Literal["sealroom-evidence/1"] = "sealroom-evidence/1"
    tee: Literal["snp"] = "snp"
    nonce: str
    """Hex."""
    report: str
    """Base64."""
    certificates: dict[str, str]
    """Kind (`VCEK`, `VLEK`, `ASK`, `ASVK`, `ARK`) -> DER, base64."""
    additional_evidence: str = ""
    """Evidence of the GPUs, which the report covers; left out on a server without one."""
    runtime_data: dict[str, str]
    """How the report's REPORT_DATA was made from the nonce."""
    provider: str
    created: datetime

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        members: dict[str, Any] = handler(self)
        if not self.additional_evidence:
            del members["additional_evidence"]
        return members


class Record(RecordInfo):
    """What was proven, by whom, on which dataset, when its key was released."""

    format: Literal["sealroom-record/1"] = "sealroom-record/1"
    source: str = ""
    licence: str = ""
    token_sha256: str = ""
    """SHA-256 (hex) of the attestation result (EAR token) under which the key was released."""
