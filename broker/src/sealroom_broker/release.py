# SPDX-License-Identifier: BSD-3-Clause
"""Releases: decide, write the entry, and only then let a key go.

The order is the point: (1) the decision on what the store says now, (2) the headers against the signed
manifest, (3) the entry, durable, (4) the release in the store, committed, (5) the headers re-encrypted and
the answer made. A crash between two steps leaves an entry without a release, never the other way round. Steps
1 to 4 run alone, so that a withdrawal is either before the decision or after the entry.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sealroom.audit.entry import header_digests
from sealroom.crypt4gh import Header, PublicKey, SecretKey, reencrypt
from sealroom.datasets.manifest import Manifest
from sealroom.errors import Error, FormatError, StorageError
from sealroom.kbs import jwe
from sealroom.kbs.calls import Grant, ReleaseRequest, ReleaseResponse

from sealroom_broker.audit import Receipt, Record
from sealroom_broker.decide import RULES, Allowed, Denial, Facts, Refused, decide
from sealroom_broker.entries import release_entry
from sealroom_broker.facts import FactFinder
from sealroom_broker.places import take_place
from sealroom_broker.problem import Problem, bad_request
from sealroom_broker.registry import key_context, parse_manifest
from sealroom_broker.sessions import AttestedSession, Sessions
from sealroom_broker.store import DatasetRow, ReleaseRow, Store, holder_key
from sealroom_broker.wrap import KeyWrap


@dataclass(frozen=True, slots=True)
class _Order:
    """A release request, decoded."""

    dataset: str
    purpose: str
    reader: PublicKey
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A release whose entry is durable and whose row is committed."""

    attested: AttestedSession
    row: DatasetRow
    grant: Grant
    receipt: Receipt


class Releaser:
    """Releases datasets' headers to attested sessions.

    Args:
        store: The database.
        sessions: Its sessions.
        record: The audit log.
        wrap: Opens the datasets' keys.
        finder: Collects what a decision looks at.
    """

    def __init__(
        self, store: Store, sessions: Sessions, record: Record, wrap: KeyWrap, finder: FactFinder
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._record = record
        self._wrap = wrap
        self._finder = finder

    def release(
        self, cookie: str | None, dataset: str, request: ReleaseRequest, now: datetime
    ) -> dict[str, str]:
        """Release a dataset's headers.

        Returns:
            The flattened JWE of a `ReleaseResponse`, to the session's attested key.

        Raises:
            Problem: The session does not stand (401), the request is malformed (400) or refused (403).
            StorageError: The entry or the release could not be made durable: nothing was released.
        """
        order = _decode(dataset, request)
        return self._answer(order, self._decide_and_record(cookie, order, now))

    def _decide_and_record(self, cookie: str | None, order: _Order, now: datetime) -> _Recorded:
        with self._store.write() as session:
            attested = self._sessions.current(cookie, now, within=session)
            facts = self._finder.facts(session, attested, order.dataset, order.purpose, now)
            row = session.get(DatasetRow, order.dataset)
            # (1) The decision. (2) The headers; a person who is refused learns nothing about them.
            verdict = decide(facts)
            if isinstance(verdict, Allowed):
                verdict = _check_headers(order, row, facts, verdict)
            # (3) The entry.
            entry = release_entry(
                facts,
                verdict,
                attested,
                manifest_sha256=row.manifest_sha256 if row else "",
                headers=header_digests(order.headers) if isinstance(verdict, Allowed) else (),
            )
            receipt = self._record.append(entry)
            # (4) The release; committed at the end of this block.
            if isinstance(verdict, Allowed):
                take_place(session, attested, verdict.grant, now)
                manifest = entry.manifest_sha256
                session.add(release_row(attested, verdict.grant, order.purpose, manifest, receipt, now))
        if isinstance(verdict, Refused) or row is None:
            raise _refusal(verdict)
        return _Recorded(attested, row, verdict.grant, receipt)

    def _answer(self, order: _Order, recorded: _Recorded) -> dict[str, str]:
        # (5) The headers and the answer.
        row = recorded.row
        manifest = parse_manifest(row.manifest)
        secret = SecretKey(self._wrap.unwrap(row.wrapped_key, context=key_context(row.id)))
        try:
            headers = {
                name: _reencrypted(header, secret, order.reader, manifest)
                for name, header in order.headers.items()
            }
        finally:
            secret.wipe()
        answer = ReleaseResponse(
            dataset=row.id,
            grant=recorded.grant.id,
            manifest=_b64(row.manifest),
            owner_key=_b64(row.owner_key),
            headers=headers,
            until=_end(recorded.grant, row),
            outputs=recorded.grant.outputs,
            audit_index=recorded.receipt.index,
            audit_leaf=recorded.receipt.leaf,
        )
        return jwe.encrypt(answer.model_dump_json().encode(), recorded.attested.tee_pubkey)


def _decode(dataset: str, request: ReleaseRequest) -> _Order:
    if not request.headers:
        raise bad_request("A release needs the header of at least one file.")
    try:
        reader = PublicKey.from_base64(request.reader_key)
        headers = {name: _from_b64(text) for name, text in request.headers.items()}
    except FormatError as error:
        raise bad_request(error.message) from error
    return _Order(dataset, request.purpose, reader, headers)


def _check_headers(
    order: _Order, row: DatasetRow | None, facts: Facts, allowed: Allowed
) -> Allowed | Refused:
    """Compare the headers with what the owner registered."""
    if row is None or facts.dataset is None:  # an allowed dataset is a registered one
        raise RuntimeError("a dataset without a registration was allowed")
    expected = {entry.name: entry.header_sha256 for entry in parse_manifest(row.manifest).files}
    denials = []
    for name, header in sorted(order.headers.items()):
        if name not in expected:
            denials.append(_file_denial("file.unknown", name, facts))
        elif not hmac.compare_digest(hashlib.sha256(header).hexdigest(), expected[name]):
            denials.append(_file_denial("file.header", name, facts))
    # A few are enough to see what is wrong; an entry of the log is bounded.
    return Refused(tuple(denials[:5]), facts.dataset.ask, allowed.grant) if denials else allowed


def _file_denial(rule_id: str, name: str, facts: Facts) -> Denial:
    rule, words = RULES[rule_id], {**facts.words(), "file": name[:100]}
    return Denial(rule.id, rule.researcher.format_map(words), rule.owner.format_map(words))


def _reencrypted(header: bytes, secret: SecretKey, reader: PublicKey, manifest: Manifest) -> str:
    try:
        fresh = reencrypt(Header.from_bytes(header), secret, [reader], expected_writer=manifest.writer)
    except Error as error:
        # Its digest is the registered one, so the owner sealed it wrongly.
        message = f"A header of {manifest.id} does not open with the registered key."
        raise StorageError(message, advice="Tell the data owner to seal and register it again.") from error
    return _b64(fresh.to_bytes())


def release_row(
    attested: AttestedSession,
    grant: Grant,
    purpose: str,
    manifest_sha256: str,
    receipt: Receipt,
    now: datetime,
) -> ReleaseRow:
    """Return what the store keeps of a release, of headers or of a dataset's own key."""
    person = attested.person
    return ReleaseRow(
        session=attested.id,
        dataset=grant.dataset,
        grant=grant.id,
        purpose=purpose,
        manifest_sha256=manifest_sha256,
        released=now,
        audit_index=receipt.index,
        audit_leaf=receipt.leaf,
        holder=holder_key(person.issuer, person.subject) if person is not None else "",
    )


def _end(grant: Grant, row: DatasetRow) -> datetime | None:
    return min((end for end in (grant.until, row.keep_until) if end is not None), default=None)


def _refusal(verdict: Allowed | Refused) -> Problem:
    if isinstance(verdict, Allowed):
        return Problem(404, "NotFound", "There is no such dataset.")
    return Problem(
        403,
        "PolicyDeny",
        " ".join(reason.sentence for reason in verdict.reasons),
        reasons=verdict.reasons,
        ask=verdict.ask,
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_b64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("A header is not base64.") from error
