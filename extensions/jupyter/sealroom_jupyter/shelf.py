# SPDX-License-Identifier: BSD-3-Clause
"""The datasets of this server: lists them, unlocks and locks them, and drops keys when the broker says so.

Headers and data keys are in the `Vault` of this process and nowhere else; nothing here gives them out.

Invariants:

- Files are opened only with the manifest that the broker released, and only if the one on disk is the same.
- A key whose release is withdrawn or expired is dropped at the next answer about the session.
- A lost release (the broker forgot the session) is asked for again, with a new decision and a new audit
  entry, or dropped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sealroom import errors
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.messages import FileInfo, PersonInfo, ReasonInfo, TermInfo
from sealroom.datasets.terms import LABELS
from sealroom.datasets.vault import Vault
from sealroom.kbs.calls import DatasetState, ReleaseRequest, ReleaseResponse, ReleaseState, SessionState

from sealroom_jupyter.attester import Attester
from sealroom_jupyter.errors import UnknownDatasetError
from sealroom_jupyter.local import LocalDataset, LocalDatasets
from sealroom_jupyter.messages import DatasetView, Preview, Record, Status
from sealroom_jupyter.ports import Broker, Clock
from sealroom_jupyter.preview import preview_items
from sealroom_jupyter.views import Ended, Known, Open, differs, sort, view


class StatusSource(Protocol):
    """Says what the server can prove now."""

    def __call__(self) -> Status:
        """Return the status."""


@dataclass(frozen=True, slots=True)
class _Released:
    purpose: TermInfo
    until: datetime | None
    audit_index: int


class Shelf:
    """Everything that this server knows and does about datasets. Safe for several threads.

    Args:
        attester: Lends the attested session.
        vault: Holds the keys.
        local: The sealed files on this machine.
        status: What the server can prove now, for records.
        fresh_for: Seconds for which the broker's list is not asked for again.
        clock: The time.
    """

    def __init__(
        self,
        attester: Attester,
        vault: Vault,
        local: LocalDatasets,
        *,
        status: StatusSource,
        fresh_for: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self._attester = attester
        self._vault = vault
        self._local = local
        self._status = status
        self._fresh_for = fresh_for
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._offered: dict[str, DatasetState] = {}
        self._asked: float | None = None
        self._released: dict[str, _Released] = {}
        self._ended: dict[str, Ended] = {}
        self._records: dict[str, Record] = {}
        self._outputs: dict[str, bool] = {}

    # -- what is shown

    def datasets(self) -> tuple[DatasetView, ...]:
        """Return every dataset that the broker offers or that is on this machine."""
        offered, doubt = self._ask()
        local, absent = self._local.all(), self._local.absent()
        names = {*offered, *local, *absent}
        return sort(
            view(
                Known(
                    id=name,
                    offered=offered.get(name),
                    local=local.get(name),
                    absent=absent.get(name),
                    open=self._open(name),
                    doubt=doubt and self._doubt(name, doubt),
                    ended=self._ended.get(name),
                )
            )
            for name in names
        )

    def dataset(self, dataset: str) -> DatasetView:
        """Return one dataset.

        Raises:
            UnknownDatasetError: Neither the broker nor this machine has it.
        """
        for found in self.datasets():
            if found.id == dataset:
                return found
        raise _unknown(dataset)

    def title(self, dataset: str) -> str:
        """Return a dataset's title as the broker gave it last; empty if it gave none."""
        with self._lock:
            offered = self._offered.get(dataset)
        return "" if offered is None else offered.title

    def preview(self, dataset: str) -> Preview:
        """Return what a request for a dataset's keys would send."""
        found = self.dataset(dataset)
        local = self._local.all().get(dataset)
        manifest = None if local is None else local.manifest
        return Preview(items=preview_items(found, manifest, self._status()))

    def files(self, dataset: str) -> tuple[FileInfo, ...]:
        """Return the files of an unlocked dataset."""
        return self._vault.files(dataset)

    def file(self, dataset: str, file: str) -> FileInfo:
        """Return one file of an unlocked dataset."""
        return self._vault.file(dataset, file)

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file of an unlocked dataset."""
        return self._vault.read_into(dataset, file, offset, buffer)

    def record(self, dataset: str) -> Record:
        """Return what was proven when a dataset was unlocked last.

        Raises:
            UnknownDatasetError: It was not unlocked in this server.
        """
        record = self._records.get(dataset)
        if record is None:
            raise UnknownDatasetError(
                f"There is no record: {dataset} was not unlocked in this server.",
                advice=f'Unlock it in the Sealroom panel or with sealroom.unlock("{dataset}").',
            )
        return record

    def bound(self) -> str:
        """Say why results may not leave this server, in a sentence; empty if they may.

        What was unlocked here counts until the server ends, locked again or not: the data were here.
        """
        with self._lock:
            names = sorted(name for name, allowed in self._outputs.items() if not allowed)
        titles = " and ".join(self.title(name) or name for name in names[:3])
        more = " and others" if len(names) > 3 else ""
        return f"Your grant for {titles}{more} does not let results leave." if names else ""

    # -- what is done

    def unlock(self, dataset: str, purpose: str = "") -> DatasetView:
        """Have a dataset released to this server and open it.

        Args:
            dataset: Its id.
            purpose: A DUO code; empty for the only one that the grant allows.

        Raises:
            AccessDeniedError: The broker refused; `reasons` says why.
            IntegrityError: The files on this machine are not those that the data owner registered.
            StorageError: The files are not on this machine.
            UnknownDatasetError: The broker has no such dataset.
        """
        with self._attester.session() as broker:
            offered = self._refresh(broker).get(dataset)
            if offered is None:
                raise _unknown(dataset)
            chosen = _choose_purpose(offered, purpose)
            before = self._open(dataset)
            if before is None or before.purpose.code != chosen.code:
                self._release(broker, offered, chosen)
            self._refresh(broker)
        return self.dataset(dataset)

    def lock(self, dataset: str) -> DatasetView:
        """Drop a dataset's keys because the person wants it."""
        found = self.dataset(dataset)
        if self._vault.holds(dataset):
            self._vault.drop(
                dataset,
                f"You locked {found.title}.",
                advice=f'Unlock it in the Sealroom panel or with sealroom.unlock("{dataset}").',
            )
        with self._lock:
            self._released.pop(dataset, None)
        return self.dataset(dataset)

    # -- what the Attester says

    def session_changed(self, broker: Broker, session: SessionState) -> None:
        """Take the broker's word on every release that is open here."""
        states = {state.audit_index: state for state in session.releases}
        for dataset in self._vault.datasets():
            released = self._released.get(dataset)
            state = None if released is None else states.get(released.audit_index)
            if released is None:
                self._end(dataset, "release.unknown", "This release is not known any more.")
            elif state is None:
                self._renew(broker, dataset, released)
            elif state.state != "active":
                self._end(dataset, f"release.{state.state}", state.sentence or _ended(dataset, state))

    def lost(self, sentence: str) -> None:
        """Drop every key."""
        for dataset in self._vault.datasets():
            self._end(dataset, "trust.lost", sentence)

    # -- inside

    def _ask(self) -> tuple[dict[str, DatasetState], ReasonInfo | None]:
        """Return the broker's list and, if it is old or not there, why."""
        with self._lock:
            asked, offered = self._asked, self._offered
        state = self._attester.state
        proven = state.proof is not None and state.phase == "verified"
        if proven and asked is not None and self._clock.monotonic() - asked < self._fresh_for:
            return offered, None
        try:
            with self._attester.session() as broker:
                return self._refresh(broker), None
        except errors.Error as error:
            return offered, ReasonInfo(code=f"broker.{error.code}", sentence=error.message)

    def _refresh(self, broker: Broker) -> dict[str, DatasetState]:
        offered = {state.id: state for state in broker.datasets().datasets}
        with self._lock:
            self._offered, self._asked = offered, self._clock.monotonic()
        for dataset in self._vault.datasets():
            state = offered.get(dataset)
            if state is not None and state.state in ("withdrawn", "expired"):
                self._end(dataset, f"grant.{state.state}", " ".join(r.sentence for r in state.reasons))
        return offered

    def _doubt(self, dataset: str, doubt: ReasonInfo) -> ReasonInfo:
        """Return why a dataset is closed while the broker's word is not known: what ended it says more."""
        ended = self._ended.get(dataset)
        return doubt if ended is None else ReasonInfo(code=ended.code, sentence=ended.sentence)

    def _open(self, dataset: str) -> Open | None:
        released = self._released.get(dataset)
        if released is None or not self._vault.holds(dataset):
            return None
        return Open(released.purpose, released.until)

    def _end(self, dataset: str, code: str, sentence: str) -> None:
        sentence = sentence or f"Your access to {dataset} has ended."
        offered = self._offered.get(dataset)
        ask = "" if offered is None else offered.ask or offered.contact
        self._vault.drop(dataset, sentence, advice=f"Ask {ask}." if ask else "")
        with self._lock:
            self._released.pop(dataset, None)
            self._ended[dataset] = Ended(code, sentence, self._clock.now())
            self._asked = None

    def _renew(self, broker: Broker, dataset: str, released: _Released) -> None:
        offered = self._refresh(broker).get(dataset)
        try:
            if offered is None:
                raise _unknown(dataset)
            self._release(broker, offered, released.purpose)
        except (errors.NetworkError, errors.ProtocolError):
            raise
        except errors.Error as error:
            self._end(dataset, f"release.{error.code}", error.message)

    def _release(self, broker: Broker, offered: DatasetState, purpose: TermInfo) -> None:
        # 1. What lies on this machine is what the broker offers, before anything is asked for.
        local = self._local.get(offered.id)
        headers = _headers(local, offered)
        # 2. The decision. The reader's key exists for this one release and not after it.
        with _ReaderKey() as key:
            request = ReleaseRequest(
                purpose=purpose.code,
                reader_key=key.public.to_base64(),
                headers={name: base64.b64encode(header).decode() for name, header in headers.items()},
            )
            answer = broker.release(offered.id, request)
            # 3. The released manifest is the one on disk, signed by the owner whom the broker names.
            manifest = _trusted_manifest(answer, local)
            released = {name: _decode(header, "header") for name, header in answer.headers.items()}
            # 4. From here on the data can be read.
            self._vault.add(manifest, local.directory, released, key, until=answer.until)
        record = self._make_record(offered, answer, purpose)
        with self._lock:
            self._released[offered.id] = _Released(purpose, answer.until, answer.audit_index)
            self._records[offered.id] = record
            self._outputs[offered.id] = answer.outputs
            self._ended.pop(offered.id, None)

    def _make_record(self, offered: DatasetState, answer: ReleaseResponse, purpose: TermInfo) -> Record:
        state, status = self._attester.state, self._status()
        person = None if state.person is None else PersonInfo(**state.person.model_dump())
        return Record(
            dataset=offered.id,
            title=offered.title,
            owner=offered.owner,
            source=offered.source,
            licence=offered.licence,
            manifest_sha256=offered.manifest_sha256,
            purpose=purpose,
            person=person,
            unlocked_at=self._clock.now(),
            until=answer.until,
            grant=answer.grant,
            server=status,
            broker=status.broker,
            audit_index=answer.audit_index,
            audit_leaf=answer.audit_leaf,
            outputs=answer.outputs,
            token_sha256="" if state.proof is None else state.proof.token_sha256,
        )


class _ReaderKey:
    """An X25519 key that is wiped when it was used."""

    def __enter__(self) -> SecretKey:
        self._key = SecretKey.generate()
        return self._key

    def __exit__(self, *_: object) -> None:
        self._key.wipe()


def _choose_purpose(offered: DatasetState, purpose: str) -> TermInfo:
    allowed = {term.code: TermInfo(code=term.code, label=term.label) for term in offered.purposes}
    if purpose:
        return allowed.get(purpose) or TermInfo(code=purpose, label=LABELS.get(purpose, purpose))
    if len(allowed) == 1:
        return next(iter(allowed.values()))
    if not allowed:
        # Nothing to choose from: the person has no running grant. The broker is asked all the same, so that
        # the refusal is its own and stands in its log.
        return TermInfo(code="", label="")
    choices = ", ".join(f"{term.code} ({term.label})" for term in allowed.values())
    raise errors.ConfigurationError(
        f"Your grant for {offered.title} allows several purposes.", advice=f"Name one of them: {choices}."
    )


def _headers(local: LocalDataset, offered: DatasetState) -> dict[str, bytes]:
    """Return the headers of the sealed files if they are those of the manifest that the broker offers."""
    manifest = local.manifest
    if manifest is None or local.sha256 != offered.manifest_sha256:
        raise _differs(local)
    headers = dict(local.directory.read_headers(manifest))
    for entry in manifest.files:
        if hashlib.sha256(headers[entry.name]).hexdigest() != entry.header_sha256:
            raise errors.IntegrityError(
                f"The header of {entry.name} is not the one that the data owner sealed.",
                advice="Get the sealed file again from the data owner, and tell them if it stays so.",
            )
    return headers


def _trusted_manifest(answer: ReleaseResponse, local: LocalDataset) -> Manifest:
    """Return the released manifest if the one on disk is the same and carries the owner's signature."""
    released = _decode(answer.manifest, "manifest")
    on_disk = local.directory.read_manifest()
    if on_disk.data != released:
        raise _differs(local)
    return on_disk.verify(_decode(answer.owner_key, "owner_key"))


def _differs(local: LocalDataset) -> errors.IntegrityError:
    return errors.IntegrityError(
        differs(local).sentence,
        advice="Nothing was opened. Get the dataset again from the data owner, and tell them if it stays so.",
    )


def _decode(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.ProtocolError(f"The broker's release has a malformed {field}.") from error


def _ended(dataset: str, state: ReleaseState) -> str:
    how = "was withdrawn" if state.state == "withdrawn" else "has expired"
    return f"Your access to {dataset} {how}."


def _unknown(dataset: str) -> UnknownDatasetError:
    return UnknownDatasetError(
        f"There is no dataset {dataset[:64]!r} on offer.",
        advice="The Sealroom panel lists what there is, and so does sealroom.datasets().",
    )
