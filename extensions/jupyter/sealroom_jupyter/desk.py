# SPDX-License-Identifier: BSD-3-Clause
"""What a person asks of data owners from this server: access, why not, and proofs of what was released.

Everything is the broker's word, asked in the attested session; nothing is kept here but for a second.

Invariants:

- A request carries the person's own words and names no server: the broker sees itself where it comes from.
- Nothing here opens a dataset.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import SUFFIX, InclusionProof, verify_inclusion_of
from sealroom.datasets.messages import (
    MAX_REASON,
    ExplanationInfo,
    PersonInfo,
    RequestInfo,
    RuleInfo,
    ServerSeenInfo,
    TermInfo,
)
from sealroom.datasets.terms import LABELS
from sealroom.errors import ConfigurationError, FormatError
from sealroom.kbs.calls import AccessRequest, AccessRequestSpec

from sealroom_jupyter.attester import Attester
from sealroom_jupyter.errors import UnknownReleaseError
from sealroom_jupyter.messages import ProofFile, ReleaseView
from sealroom_jupyter.ports import Broker, Clock


class Desk:
    """Requests, explanations and releases of the person of this server. Safe for several threads.

    Args:
        attester: Lends the attested session.
        title: Says what a dataset is called; empty if that is not known.
        fresh_for: Seconds for which the list of requests is not asked for again.
        clock: The time.
    """

    def __init__(
        self,
        attester: Attester,
        *,
        title: Callable[[str], str],
        fresh_for: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self._attester = attester
        self._title = title
        self._fresh_for = fresh_for
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._requests: tuple[RequestInfo, ...] = ()
        self._asked: float | None = None

    def explain(self, dataset: str, purpose: str = "") -> ExplanationInfo:
        """Return what the broker would decide now, rule by rule; nothing is released.

        Args:
            dataset: Its id.
            purpose: A DUO code; empty asks whether any would do.
        """
        with self._attester.session() as broker:
            found = broker.explain(dataset, purpose or None)
        return ExplanationInfo(
            dataset=found.dataset,
            title=found.title,
            purpose=None if found.purpose is None else term_of(found.purpose),
            allowed=found.allowed,
            rules=tuple(RuleInfo(**rule.model_dump()) for rule in found.rules),
            ask=found.ask,
        )

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None = None) -> RequestInfo:
        """Ask the owner of a dataset for access.

        Raises:
            ConfigurationError: The reason is empty or too long, or no purpose was given.
            AccessDeniedError: The broker does not pass it on; `reasons` says why.
        """
        words = _clean(reason)
        if not 0 < len(words) <= MAX_REASON:
            raise ConfigurationError(
                f"A reason has 1 to {MAX_REASON} characters; this one has {len(words)}.",
                advice="Say in a few sentences what you need the data for.",
            )
        if not purpose:
            raise ConfigurationError("Say what you will use the data for: no purpose was given.")
        try:
            end = None if until is None else until.astimezone(UTC)
            spec = AccessRequestSpec(dataset=dataset, purpose=purpose, reason=words, until=end)
        except (ValidationError, OverflowError) as error:
            raise ConfigurationError("The request is not one that a broker takes.") from error
        with self._attester.session() as broker:
            made = self._shown(broker.request_access(spec))
            self._refresh(broker)
        return made

    def requests(self) -> tuple[RequestInfo, ...]:
        """Return the person's requests, the newest first."""
        with self._lock:
            asked, known = self._asked, self._requests
        if asked is not None and self._clock.monotonic() - asked < self._fresh_for:
            return known
        with self._attester.session() as broker:
            return self._refresh(broker)

    def take_back(self, request: str) -> RequestInfo:
        """Take back a request that was not answered yet.

        Raises:
            ProtocolError: There is none with this id, or it was answered.
        """
        with self._attester.session() as broker:
            taken = self._shown(broker.withdraw_request(request))
            self._refresh(broker)
        return taken

    def releases(self) -> tuple[ReleaseView, ...]:
        """Return what was released to the person, the newest first."""
        with self._attester.session() as broker:
            found = broker.own_releases()
        return tuple(
            ReleaseView(
                index=one.index,
                time=one.time,
                dataset=one.dataset,
                title=self._title(one.dataset),
                purpose=term_of(one.purpose),
                grant=one.grant,
                key=one.key,
            )
            for one in found
        )

    def proof(self, index: int) -> ProofFile:
        """Return the proof that one of the person's releases stands in the audit log, as a file.

        It is checked with the key that the broker gives, so that no broken file is saved. That the key is the
        log's is for the person to check, with a key from elsewhere.

        Raises:
            UnknownReleaseError: It is not one of theirs.
            IntegrityError: The proof does not hold.
            SignatureError: The checkpoint is not signed by the key that the broker gives.
            FormatError: The broker's answer is malformed.
        """
        with self._attester.session() as broker:
            # The page that begins with it, if it is the person's.
            found = broker.own_releases(before=index + 1)
        if not found or found[0].index != index:
            raise UnknownReleaseError(
                f"Entry {index} of the audit log is no release to you that is listed here."
            )
        one = found[0]
        proof = InclusionProof(
            index=one.index,
            entry=_decode(one.entry),
            hashes=tuple(_decode(node) for node in one.proof),
            checkpoint=one.checkpoint.encode(),
        )
        verify_inclusion_of(
            proof.entry, proof.index, proof.hashes, proof.checkpoint, VerifierKey.parse(one.key)
        )
        name = f"sealroom-release-{index}{SUFFIX}"
        return ProofFile(name=name, text=proof.to_bytes().decode())

    def forget(self) -> None:
        """Forget whose requests were seen last."""
        with self._lock:
            self._requests, self._asked = (), None

    def _refresh(self, broker: Broker) -> tuple[RequestInfo, ...]:
        found = tuple(self._shown(one) for one in broker.own_requests())
        with self._lock:
            self._requests, self._asked = found, self._clock.monotonic()
        return found

    def _shown(self, one: AccessRequest) -> RequestInfo:
        return RequestInfo(
            id=one.id,
            dataset=one.dataset,
            title=self._title(one.dataset),
            purpose=term_of(one.purpose),
            reason=one.reason,
            until=one.until,
            created=one.created,
            person=PersonInfo(**one.person.model_dump()),
            server=ServerSeenInfo(**one.server.model_dump()),
            state=one.state,
            answer=one.answer,
            answered=one.answered,
            answered_by=one.answered_by,
            grant=one.grant,
        )


def term_of(code: str) -> TermInfo:
    """Return a term with its label; a code that this version does not know is its own label."""
    return TermInfo(code=code, label=LABELS.get(code, code))


def _clean(reason: str) -> str:
    """Return a reason as brokers take it: newlines are the only control characters."""
    lines = reason.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return "".join(char for char in lines if char.isprintable() or char == "\n").strip()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("The broker's proof has a part that is not base64.", field="proof") from error
