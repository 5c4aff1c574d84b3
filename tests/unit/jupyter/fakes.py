# SPDX-License-Identifier: BSD-3-Clause
"""A broker, a secure processor, a clock and a hub that do as a test says."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom import testing
from sealroom.audit.note import Checkpoint, Signer
from sealroom.audit.tlog import leaf_hash
from sealroom.crypt4gh import Header, PublicKey, reencrypt
from sealroom.datasets.messages import ClaimInfo, DeviceInfo, EnvironmentInfo
from sealroom.errors import AccessDeniedError, NetworkError, ProtocolError
from sealroom.guest import DeviceEvidence
from sealroom.kbs.calls import (
    AccessRequest,
    AccessRequestSpec,
    DatasetCondition,
    DatasetList,
    DatasetState,
    ExplainedRule,
    Explanation,
    IdentityRequest,
    IdentityResponse,
    OwnRelease,
    Person,
    Reason,
    ReleaseRequest,
    ReleaseResponse,
    ReleaseState,
    ServerSeen,
    SessionState,
    Term,
)
from sealroom.kbs.jwe import TeeKey
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
        self.knows = ROSALIND
        self.login_due = False
        self.purposes: tuple[Term, ...] = (RESEARCH,)
        self.condition: DatasetCondition = "locked"
        self.reasons: tuple[Reason, ...] = ()
        self.until: datetime | None = None
        self.outputs = False
        self.releases: dict[int, ReleaseState] = {}
        self.attested = 0
        self.listed = 0
        self.released: list[ReleaseRequest] = []
        self.identities: list[IdentityRequest] = []
        self.change_manifest = False
        self.extra: tuple[DatasetState, ...] = ()
        self.on_release: Callable[[], None] = lambda: None
        self.key = TeeKey.generate()
        self.requests: list[AccessRequest] = []
        self.asked: list[AccessRequestSpec] = []
        self.own: list[OwnRelease] = []
        self.closed = 0
        self.requests_listed = 0

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
        self.person, self.login_due = self.knows, False
        return IdentityResponse(person=self.knows, until=self.clock.now() + self.lifetime)

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

    @property
    def tee_pubkey(self) -> Mapping[str, str]:
        return self.key.public_jwk()

    def explain(self, dataset: str, purpose: str | None) -> Explanation:
        self._up()
        granted = self.condition in ("locked", "unlocked")
        return Explanation(
            dataset=dataset,
            title="Heartbeats",
            purpose=purpose,
            allowed=granted,
            rules=(
                ExplainedRule(code="person.none", outcome="passed", sentence="You are Rosalind."),
                ExplainedRule(
                    code="grant.none", outcome="passed" if granted else "failed", sentence=NO_GRANT.sentence
                ),
                ExplainedRule(code="grant.servers", outcome="not_reached", sentence="Two servers at once."),
            ),
            ask="" if granted else "data@heart.example",
        )

    def request_access(self, spec: AccessRequestSpec) -> AccessRequest:
        self._up()
        if self.person is None:
            raise AccessDeniedError(
                "The broker does not know who you are.",
                reasons=(("person.none", "The broker does not know who you are."),),
            )
        self.asked.append(spec)
        made = AccessRequest(
            id=f"request-{len(self.asked)}",
            dataset=spec.dataset,
            person=self.person,
            purpose=spec.purpose,
            reason=spec.reason,
            until=spec.until,
            created=self.clock.now(),
            server=ServerSeen(
                server="named",
                tier=self.tier,
                simulated=True,
                devices={"cpu0": self.tier},
                evidence="ef" * 32,
                attested=self.clock.now(),
            ),
            state="open",
        )
        self.requests.insert(0, made)
        return made

    def answer(self, state: str, words: str, grant: str = "") -> None:
        """Answer the newest request, as the owner does."""
        change = {
            "state": state,
            "answer": words,
            "answered": self.clock.now(),
            "answered_by": "Dr. Owner",
            "grant": grant,
        }
        self.requests[0] = self.requests[0].model_copy(update=change)

    def own_requests(self) -> tuple[AccessRequest, ...]:
        self._up()
        self.requests_listed += 1
        return tuple(self.requests)

    def withdraw_request(self, request: str) -> AccessRequest:
        self._up()
        for index, one in enumerate(self.requests):
            if one.id == request and one.state == "open":
                self.requests[index] = one.model_copy(
                    update={"state": "withdrawn", "answered": self.clock.now()}
                )
                return self.requests[index]
        raise ProtocolError("There is no open request with this id.")

    def own_releases(self, before: int | None = None) -> tuple[OwnRelease, ...]:
        self._up()
        return tuple(one for one in self.own if before is None or one.index < before)

    def jwks(self) -> Mapping[str, object]:
        self._up()
        return {"keys": []}

    def close(self) -> None:
        self.closed += 1
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
            outputs=self.outputs,
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
            outputs=self.outputs,
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


LOG = Signer("sealroom.example/log", Ed25519PrivateKey.generate())


def own_release(index: int, dataset: str = "heartbeats") -> OwnRelease:
    """Return a release that stands at an index of a log whose other entries are all the same."""
    entry, other = b'{"entry": "release"}', leaf_hash(b"other")
    entries = [other] * index + [leaf_hash(entry)]
    checkpoint = Checkpoint("sealroom.example/log", len(entries), _root(entries)).sign(LOG)
    return OwnRelease(
        index=index,
        time=START,
        dataset=dataset,
        purpose="DUO:0000042",
        grant="grant-1",
        entry=_b64(entry),
        proof=tuple(_b64(node) for node in _path(index, entries)),
        checkpoint=checkpoint.decode(),
        key=str(LOG.verifier),
    )


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*_path(index, leaves[:split]), _root(leaves[split:])]
    return [*_path(index - split, leaves[split:]), _root(leaves[:split])]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
