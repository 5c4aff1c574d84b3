# SPDX-License-Identifier: BSD-3-Clause
"""A broker, a secure processor, a clock and a hub that do as a test says."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sealroom import testing
from sealroom.crypt4gh import Header, PublicKey, reencrypt
from sealroom.datasets.messages import ClaimInfo, DeviceInfo, EnvironmentInfo
from sealroom.errors import AccessDeniedError, NetworkError
from sealroom.guest import DeviceEvidence
from sealroom.kbs.calls import (
    DatasetCondition,
    DatasetList,
    DatasetState,
    IdentityRequest,
    IdentityResponse,
    Person,
    Reason,
    ReleaseRequest,
    ReleaseResponse,
    ReleaseState,
    SessionState,
    Term,
)
from sealroom.simulated.gpu import SimulatedGpu
from sealroom_jupyter.ports import Clock, Proof
from support.sealed import Sealed

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
RESEARCH = Term(code="DUO:0000042", label="general research use")
HEALTH = Term(code="DUO:0000006", label="health or medical or biomedical research")
ROSALIND = Person(subject="rosalind", name="Rosalind", groups=("lab",), issuer="http://hub.example")
NO_GRANT = Reason(code="grant.none", sentence="You have no grant for Heartbeats. Ask data@heart.example.")


class FakeClock(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class FakeEvidence:
    report: bytes
    tee: str = "snp"
    provider: str = "simulated"
    certificates: Mapping[str, bytes] = field(default_factory=lambda: {"VCEK": b"vcek", "ASK": b"ask"})


class FakeProcessor:
    """Gives reports that hold the report data and nothing else."""

    name = "simulated"

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.asked: list[bytes] = []

    def evidence(self, report_data: bytes) -> FakeEvidence:
        self.asked.append(report_data)
        if self.broken is not None:
            raise self.broken
        return FakeEvidence(report=report_data)


class FakeGpus:
    """Gives the evidence of simulated GPUs, or none."""

    def __init__(self) -> None:
        self.chips: list[SimulatedGpu] = []
        self.broken: Exception | None = None
        self.asked: list[bytes] = []

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        self.asked.append(nonce)
        if self.broken is not None:
            raise self.broken
        return [testing.device_evidence(nonce, on=chip) for chip in self.chips]


class FakeBroker:
    """A broker for one dataset and one person; everything that it says can be changed at any moment."""

    def __init__(self, clock: FakeClock, sealed: Sealed | None = None) -> None:
        self.clock = clock
        self.sealed = sealed
        self.gather: Callable[[bytes], Any] = lambda data: FakeEvidence(data)
        self.token = ""
        self.tier = "simulated"
        self.lifetime = timedelta(minutes=5)
        self.down = False
        self.hub_down = False
        self.refusal: AccessDeniedError | None = None
        self.identity_refusal: AccessDeniedError | None = None
        self.person: Person | None = None
        self.login_due = False
        self.purposes: tuple[Term, ...] = (RESEARCH,)
        self.condition: DatasetCondition = "locked"
        self.reasons: tuple[Reason, ...] = ()
        self.until: datetime | None = None
        self.releases: dict[int, ReleaseState] = {}
        self.attested = 0
        self.listed = 0
        self.released: list[ReleaseRequest] = []
        self.identities: list[IdentityRequest] = []
        self.change_manifest = False
        self.extra: tuple[DatasetState, ...] = ()
        self.on_release: Callable[[], None] = lambda: None

    # -- what tests do to it

    def forget(self) -> None:
        """Lose the session, as a broker does that was set up anew."""
        self.person, self.releases = None, {}

    def withdraw(self) -> None:
        sentence = "Your grant for Heartbeats was withdrawn."
        self.condition, self.reasons = "withdrawn", (Reason(code="grant.withdrawn", sentence=sentence),)
        self.refusal_of_release = sentence
        for index, state in self.releases.items():
            self.releases[index] = state.model_copy(update={"state": "withdrawn", "sentence": sentence})

    # -- sealroom_jupyter.ports.Broker

    def attest(self) -> str:
        self._up()
        self.gather(b"\1" * 64)
        if self.refusal is not None:
            raise self.refusal
        self.attested += 1
        self.token = f"token-{self.attested}"
        return self.token

    def identity(self, request: IdentityRequest) -> IdentityResponse:
        self._up()
        self.identities.append(request)
        if self.hub_down:
            raise NetworkError("The broker could not check who you are: the hub cannot be reached.")
        if self.identity_refusal is not None:
            raise self.identity_refusal
        self.person, self.login_due = ROSALIND, False
        return IdentityResponse(person=ROSALIND)

    def datasets(self) -> DatasetList:
        self._up()
        self.listed += 1
        return DatasetList(datasets=(*self._own(), *self.extra))

    def release(self, dataset: str, request: ReleaseRequest) -> ReleaseResponse:
        self._up()
        self.released.append(request)
        allowed = {term.code for term in self.purposes}
        if self.condition not in ("locked", "unlocked") or request.purpose not in allowed:
            reasons = self.reasons or (NO_GRANT,)
            raise AccessDeniedError(
                " ".join(reason.sentence for reason in reasons),
                reasons=tuple((reason.code, reason.sentence) for reason in reasons),
                advice="Ask data@heart.example.",
            )
        self.on_release()
        return self._answer(dataset, request)

    def session(self) -> SessionState:
        self._up()
        return SessionState(
            person=self.person,
            expires=self.clock.now() + self.lifetime,
            login_due=self.login_due,
            releases=tuple(self.releases.values()),
        )

    def jwks(self) -> Mapping[str, object]:
        self._up()
        return {"keys": []}

    def close(self) -> None:
        self.down = True

    # -- inside

    def _up(self) -> None:
        if self.down:
            raise NetworkError("The broker cannot be reached.", advice="Check that it runs.")

    def _own(self) -> tuple[DatasetState, ...]:
        if self.sealed is None:
            return ()
        manifest = self.sealed.manifest
        state = DatasetState(
            id=manifest.id,
            title=manifest.title,
            owner=manifest.owner,
            contact=manifest.contact,
            size=manifest.size,
            files=len(manifest.files),
            manifest_sha256=manifest.sha256,
            terms=(RESEARCH,),
            purposes=self.purposes if self.condition in ("locked", "unlocked") else (),
            state=self.condition,
            until=self.until,
            reasons=self.reasons,
            ask=manifest.contact if self.reasons else "",
        )
        return (state,)

    def _answer(self, dataset: str, request: ReleaseRequest) -> ReleaseResponse:
        sealed = self.sealed
        if sealed is None:
            raise AssertionError("this broker has no dataset")
        reader = PublicKey.from_base64(request.reader_key)
        headers = {
            name: _b64(
                reencrypt(Header.from_bytes(base64.b64decode(text)), sealed.dataset_key, [reader]).to_bytes()
            )
            for name, text in request.headers.items()
        }
        index = 7 + len(self.released)
        self.releases[index] = ReleaseState(
            dataset=dataset, state="active", until=self.until, audit_index=index
        )
        manifest = sealed.manifest.to_bytes()
        if self.change_manifest:
            manifest = sealed.manifest.model_copy(update={"title": "Another"}).to_bytes()
        return ReleaseResponse(
            dataset=dataset,
            grant="grant-1",
            manifest=_b64(manifest),
            owner_key=_b64(sealed.owner_key),
            headers=headers,
            until=self.until,
            audit_index=index,
            audit_leaf=f"{index:064x}",
        )

    def read_token(self, token: str, jwks: Mapping[str, object], at: datetime) -> Proof:
        failed = self.tier in ("contraindicated", "none")
        claim = ClaimInfo(
            check="measurement",
            outcome="failed" if failed else "passed",
            sentence="What was started is what the environment names.",
        )
        return Proof(
            token=token,
            token_sha256="ab" * 32,
            tier=self.tier,
            devices=(DeviceInfo(device="cpu0", tier=self.tier, title="Processor 0", claims=(claim,)),),
            environment=EnvironmentInfo(name="simulated-cpu", version="1", digest="sha256:" + "cd" * 32),
            proven_at=at,
            expires=at + self.lifetime,
        )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
