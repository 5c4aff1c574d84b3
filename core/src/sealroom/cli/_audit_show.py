# SPDX-License-Identifier: BSD-3-Clause
"""How `sealroom audit` shows entries of the log; none is shown that was not proven to be in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, get_args

from sealroom.audit.entry import AuditEntry, Kind
from sealroom.audit.note import Checkpoint, VerifierKey
from sealroom.audit.proof import InclusionProof
from sealroom.audit.tlog import (
    TILE_WIDTH,
    Reader,
    Tiles,
    bundles_of,
    leaf_hash,
    read_bundle,
    verify_inclusion,
)
from sealroom.cli.common import output

KINDS: Final[tuple[str, ...]] = get_args(Kind)
_COLUMNS = ("#", "time", "what", "who", "dataset", "purpose", "server proved", "why")
_LISTED = 5
"""How many headers' digests are shown of an entry; `--json` has all."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are wanted."""

    dataset: str = ""
    person: str = ""
    """Name or subject."""
    kinds: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, entry: AuditEntry) -> bool:
        """Tell whether an entry is one of them."""
        if self.dataset and entry.dataset != self.dataset:
            return False
        if self.kinds and entry.kind not in self.kinds:
            return False
        named = () if entry.person is None else (entry.person.name, entry.person.subject)
        if self.person and self.person not in named:
            return False
        if self.since is not None and entry.time < self.since:
            return False
        return self.until is None or entry.time <= self.until


def newest(
    reader: Reader, checkpoint: Checkpoint, limit: int, wanted: Filter
) -> Iterator[tuple[int, AuditEntry]]:
    """Yield (index, entry) of those that are wanted, the newest first, each proven to be in the log.

    Raises:
        IntegrityError: An entry is not what was signed.
        Error: The log cannot be read.
    """
    # A clock may have been set back, so that times are not sorted: a time ends no search.
    tiles = Tiles(reader, checkpoint.size)
    for number, _ in reversed(list(bundles_of(checkpoint.size))):
        bundle = read_bundle(reader, number, checkpoint.size)
        for offset in reversed(range(len(bundle))):
            index = number * TILE_WIDTH + offset
            entry = AuditEntry.from_bytes(bundle[offset])
            if not wanted.takes(entry):
                continue
            proof = tiles.inclusion_proof(index)
            verify_inclusion(leaf_hash(bundle[offset]), index, checkpoint.size, proof, checkpoint.root)
            yield index, entry
            limit -= 1
            if limit == 0:
                return


def show_list(checkpoint: Checkpoint, entries: Sequence[tuple[int, AuditEntry]]) -> None:
    """Show entries as a table."""
    if output().json:
        output().result([{"index": index, **entry.model_dump(mode="json")} for index, entry in entries])
    elif not entries:
        output().say("The log has no such entries.")
    else:
        title = f"{checkpoint.origin}: {len(entries)} of {checkpoint.size} entries"
        output().table(title, _COLUMNS, [_row(index, entry) for index, entry in entries])


def show_entry(proof: InclusionProof, key: VerifierKey) -> None:
    """Check a proof and show its entry in full.

    Raises:
        Error: The proof does not hold.
    """
    entry, checkpoint = proof.verify(key)
    leaf = leaf_hash(proof.entry).hex()
    if output().json:
        head = {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
        value = {"index": proof.index, **entry.model_dump(mode="json"), "leaf": leaf, "checkpoint": head}
        output().result(value)
        return
    rows = [row for row in _fields(entry, leaf) if row[1]]
    output().table(f"Entry {proof.index} of {checkpoint.origin}", ("", ""), rows)
    output().say(
        f"Entry {proof.index} stands in the log of {checkpoint.size} entries that {key.name} signed "
        f"(root {checkpoint.root.hex()})."
    )


def _row(index: int, entry: AuditEntry) -> tuple[str, ...]:
    who = entry.actor or (entry.person.name if entry.person else "")
    return (
        str(index),
        entry.time.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        entry.kind,
        who or "-",
        entry.dataset or (f"project {entry.project}" if entry.project else "-"),
        entry.purpose or "-",
        entry.ear.tier if entry.ear else "-",
        _reasons(entry) or entry.detail,
    )


def _fields(entry: AuditEntry, leaf: str) -> Iterator[tuple[str, str]]:
    yield "time", entry.time.strftime("%Y-%m-%d %H:%M:%S.%f UTC")
    yield "what", entry.kind
    yield "decision", "allowed" if entry.decision.allowed else "refused"
    for reason in entry.decision.reasons:
        yield f"  {reason.code}", reason.sentence
    yield "owner's side", entry.actor
    if entry.person is not None:
        yield "person", f"{entry.person.name} ({entry.person.subject} at {entry.person.issuer})"
        yield "server", entry.server or "default"
    yield "dataset", entry.dataset
    yield "manifest", entry.manifest_sha256 and f"sha256:{entry.manifest_sha256}"
    yield "purpose", entry.purpose
    if entry.grant is not None:
        yield "grant", f"{entry.grant.id}, as of {entry.grant.version}"
    yield "project", entry.project
    if entry.ear is not None:
        yield "server proved", entry.ear.tier + (" (simulated)" if entry.ear.simulated else "")
        for device, tier in sorted(entry.ear.devices.items()):
            yield f"  {device}", tier
    yield "environment", entry.environment
    yield "policy", entry.policy
    yield "evidence", entry.evidence and f"evidence/{entry.evidence}"
    for kind, digests in sorted(entry.collateral.items()):
        for digest in digests:
            yield f"  {kind}", f"evidence/{digest}"
    for header in entry.headers[:_LISTED]:
        yield "header", header
    if len(entry.headers) > _LISTED:
        yield "", f"and {len(entry.headers) - _LISTED} more headers"
    yield "detail", entry.detail
    yield "leaf hash", leaf


def _reasons(entry: AuditEntry) -> str:
    return " ".join(reason.sentence for reason in entry.decision.reasons)
