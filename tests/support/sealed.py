# SPDX-License-Identifier: BSD-3-Clause
"""A small sealed dataset with its keys, and a backend that serves it to an agent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import Header, SecretKey, reencrypt
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.messages import (
    DatasetInfo,
    ExplanationInfo,
    FileInfo,
    PersonInfo,
    RecordInfo,
    RequestInfo,
    RuleInfo,
    ServerStatus,
    TermInfo,
)
from sealroom.datasets.seal import Description
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.vault import Vault
from sealroom.errors import AccessDeniedError, ProtocolError

CREATED = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
DESCRIPTION = Description(
    id="heartbeats",
    title="Heartbeats of record 208",
    owner="Heart Centre",
    contact="data@heart.example",
    description="Five minutes.",
    source="MIT-BIH",
    licence="ODC-BY",
    terms=("DUO:0000042",),
)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


# Four and a bit segments; exactly two; a nested one; an empty one.
PLAIN = {
    "ecg.bin": noise(4 * 65536 + 1000, 1),
    "empty": b"",
    "exact.bin": noise(2 * 65536, 2),
    "labels/beats.csv": b"sample,beat\n" + b"1,2\n" * 50,
}


@dataclass
class Sealed:
    """A sealed dataset with everything that its owner and a reader hold."""

    root: Path
    manifest: Manifest
    dataset_key: SecretKey
    signing_key: Ed25519PrivateKey
    reader_key: SecretKey

    @property
    def directory(self) -> DatasetDirectory:
        return DatasetDirectory(self.root / self.manifest.id)

    @property
    def owner_key(self) -> bytes:
        return self.signing_key.public_key().public_bytes_raw()

    def headers(self) -> dict[str, bytes]:
        """Release: what the broker answers with."""
        return {
            name: reencrypt(
                Header.from_bytes(header),
                self.dataset_key,
                [self.reader_key.public],
                expected_writer=self.manifest.writer,
            ).to_bytes()
            for name, header in self.directory.read_headers(self.manifest).items()
        }

    def unlock(self, vault: Vault, until: datetime | None = None) -> Vault:
        vault.add(self.manifest, self.directory, self.headers(), self.reader_key, until=until)
        return vault


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


class Backend:
    """What the notebook server's extension is to the agent, with a broker that always says yes or no."""

    def __init__(self, sealed: Sealed) -> None:
        self.sealed = sealed
        self.vault = Vault()
        self.purposes = [TermInfo(code="DUO:0000042", label="general research use")]
        self.refusal: AccessDeniedError | None = None
        self.asked: list[tuple[str, str]] = []
        self.on_read: Callable[[], None] = lambda: None
        self.asks = [TermInfo(code="DUO:0000042", label="general research use")]
        self.requested: list[RequestInfo] = []

    def info(self) -> DatasetInfo:
        manifest = self.sealed.manifest
        return DatasetInfo(
            id=manifest.id,
            title=manifest.title,
            owner=manifest.owner,
            size=manifest.size,
            files=len(manifest.files),
            purposes=tuple(self.purposes),
            asks=tuple(self.asks),
            purpose=self.purposes[0] if self.vault.holds(manifest.id) else None,
            state="unlocked" if self.vault.holds(manifest.id) else "locked",
        )

    def status(self) -> ServerStatus:
        return ServerStatus(tier="simulated", title="Simulated TEE", sentences=("Proves nothing.",))

    def datasets(self) -> Sequence[DatasetInfo]:
        return [self.info()]

    def unlock(self, dataset: str, purpose: str) -> DatasetInfo:
        self.asked.append((dataset, purpose))
        if self.refusal is not None:
            raise self.refusal
        self.sealed.unlock(self.vault)
        return self.info()

    def files(self, dataset: str) -> Sequence[FileInfo]:
        return self.vault.files(dataset)

    def file(self, dataset: str, file: str) -> FileInfo:
        return self.vault.file(dataset, file)

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        self.on_read()
        return self.vault.read_into(dataset, file, offset, buffer)

    def record(self, dataset: str) -> RecordInfo:
        manifest = self.vault.manifest(dataset)
        return RecordInfo(
            dataset=dataset,
            title=manifest.title,
            owner=manifest.owner,
            manifest_sha256=manifest.sha256,
            person=PersonInfo(subject="rosalind", name="Rosalind", issuer="hub"),
            server=self.status(),
            audit_index=7,
            audit_leaf="ab" * 32,
        )

    def explain(self, dataset: str, purpose: str) -> ExplanationInfo:
        self._known(dataset)
        allowed = bool(self.purposes)
        rules = (
            RuleInfo(code="person.none", outcome="passed", sentence="You are Rosalind."),
            RuleInfo(
                code="grant.none",
                outcome="passed" if allowed else "failed",
                sentence="You have a grant." if allowed else "You have <no> grant.",
            ),
            RuleInfo(code="grant.servers", outcome="not_reached", sentence="Only so many servers at once."),
        )
        return ExplanationInfo(
            dataset=dataset,
            title=self.sealed.manifest.title,
            purpose=TermInfo(code=purpose, label="general research use") if purpose else None,
            allowed=allowed,
            rules=rules,
            ask="" if allowed else self.sealed.manifest.contact,
        )

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None) -> RequestInfo:
        self._known(dataset)
        if self.refusal is not None:
            raise self.refusal
        made = RequestInfo(
            id=f"request-{len(self.requested) + 1}",
            dataset=dataset,
            title=self.sealed.manifest.title,
            purpose=TermInfo(code=purpose, label="general research use"),
            reason=reason,
            until=until,
            created=CREATED,
            person=PersonInfo(subject="rosalind", name="Rosalind", issuer="hub"),
            state="open",
        )
        self.requested.insert(0, made)
        return made

    def requests(self) -> Sequence[RequestInfo]:
        return self.requested

    def take_back(self, request: str) -> RequestInfo:
        for index, one in enumerate(self.requested):
            if one.id == request and one.state == "open":
                self.requested[index] = one.model_copy(update={"state": "withdrawn", "answered": CREATED})
                return self.requested[index]
        raise ProtocolError("There is no such request, or it was answered already.")

    def _known(self, dataset: str) -> None:
        if dataset != self.sealed.manifest.id:
            raise ProtocolError(f"There is no dataset {dataset}.")


def read_in_child(client: AgentClient, queue: Any) -> None:
    """Read in another process, which must be able to import this."""
    queue.put(client.read("heartbeats", "ecg.bin", 100, 50))
