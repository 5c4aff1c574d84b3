# SPDX-License-Identifier: BSD-3-Clause
"""The auditor's check of a whole log, from its files alone.

Plan of `verify_log`:

1. The checkpoint is signed by the log's key.
2. The entries give the signed root.
3. Every tile is what the entries give.
4. The log continues the older checkpoint that the auditor kept.
5. Every entry is an audit entry in canonical form.
6. The evidence and the collateral that an entry names are there, have those digests, and the evidence
   verifies again as of the entry's time.

A broken checkpoint ends the check with an exception: nothing else would mean anything. Everything after it is
collected, because an auditor wants to know all of it. Only with an older checkpoint can a log whose key was
used to sign another history be told from an honest one: keep them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import Checkpoint, VerifierKey
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Reader,
    bundle_path,
    bundles_of,
    decode_bundle,
    leaf_hash,
    split_tile,
    tile_path,
    tiles_of,
    tree_root,
)
from sealroom.errors import ConfigurationError, Error, NetworkError

Reverify = Callable[[AuditEntry, bytes], None]
"""Verifies the evidence of an entry again as of its time.

It raises an `Error` if the evidence does not hold, and `ConfigurationError` if it lacks what it needs to
tell: that is a finding too (`evidence.unchecked`), never a pass.
"""

UNCHECKED = "evidence.unchecked"
"""The one finding that says that something could not be told."""

MAX_FINDINGS = 1000
"""Our own bound on what is reported one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a log."""

    code: str
    """Stable id, for example `entry.changed`."""
    sentence: str
    index: int | None = None
    """The entry that it is about."""


@dataclass(frozen=True, slots=True)
class LogReport:
    """What the check of a log found."""

    note: bytes
    """The signed checkpoint that everything was checked against; keep it for the next check."""
    checkpoint: Checkpoint
    older: Checkpoint | None
    findings: tuple[Finding, ...]
    kinds: Mapping[str, int]
    """How many entries there are of each kind."""
    evidence: int
    """How many entries' evidence was verified again."""
    evidence_skipped: int
    """How many entries' evidence was only compared with its digest: no `reverify` was given, or the broker
    itself had refused it as not authentic."""
    first: datetime | None
    last: datetime | None

    @property
    def ok(self) -> bool:
        """Whether everything was checked and nothing is wrong."""
        return not self.findings

    @property
    def refused(self) -> bool:
        """Whether something is wrong, and not merely unchecked."""
        return any(finding.code != UNCHECKED for finding in self.findings)


@dataclass(slots=True)
class _Check:
    reader: Reader
    size: int
    reverify: Reverify | None
    progress: Callable[[int, int], None] | None
    findings: list[Finding] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    times: list[datetime] = field(default_factory=list)
    evidence: int = 0
    skipped: int = 0
    collateral: dict[str, str] = field(default_factory=dict)
    """Digest -> what is wrong with that file: most entries name the same few."""

    def found(self, code: str, sentence: str, index: int | None = None) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(code, sentence, index))


def verify_log(
    reader: Reader,
    key: VerifierKey,
    *,
    older: bytes | None = None,
    reverify: Reverify | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LogReport:
    """Check a whole log.

    Args:
        reader: The log's files.
        key: The log's key, got from somewhere else than the log.
        older: A signed checkpoint that was kept from an earlier look.
        reverify: Verifies an entry's evidence again; without it evidence is only compared with its digest.
        progress: Called with the entries read and their number.

    Raises:
        FormatError: A checkpoint is none.
        SignatureError: A checkpoint is not signed by the key, or is another log's.
        NetworkError: The log cannot be reached.
        Error: The checkpoint cannot be read.
    """
    # 1. The checkpoint, and the older one.
    note = reader.get(CHECKPOINT_PATH)
    checkpoint = Checkpoint.open(note, key)
    before = Checkpoint.open(older, key) if older is not None else None
    check = _Check(reader, checkpoint.size, reverify, progress)

    # 2. The entries. Reading them also makes checks 5 and 6.
    leaves = _entries(check)
    signed = len(leaves) == checkpoint.size and tree_root(leaves) == checkpoint.root

    # 3. The tiles.
    if signed:
        _tiles(check, leaves)
    else:
        _explain(check, leaves, checkpoint)

    # 4. The older checkpoint. Its root is computed from the entries themselves, so no proof is needed.
    if before is not None:
        _continues(check, leaves, checkpoint, before)

    return LogReport(
        note,
        checkpoint,
        before,
        tuple(sorted(check.findings, key=lambda finding: (finding.index is not None, finding.index or 0))),
        dict(check.kinds),
        check.evidence,
        check.skipped,
        min(check.times, default=None),
        max(check.times, default=None),
    )


def _entries(check: _Check) -> list[bytes]:
    leaves: list[bytes] = []
    for number, width in bundles_of(check.size):
        try:
            bundle = decode_bundle(check.reader.get(bundle_path(number, width)))
        except NetworkError:
            raise
        except Error as error:
            check.found("bundle.unreadable", f"{error.message}", number * TILE_WIDTH)
            bundle = []
        if len(bundle) != width:
            check.found("bundle.short", f"Bundle {number} has {len(bundle)} entries, not {width}.")
        for entry in bundle:
            _entry(check, len(leaves), entry)
            leaves.append(leaf_hash(entry))
        if check.progress is not None:
            check.progress(len(leaves), check.size)
    return leaves


def _entry(check: _Check, index: int, data: bytes) -> None:
    try:
        entry = AuditEntry.from_bytes(data)
    except Error as error:
        check.found("entry.unreadable", f"Entry {index}: {error.message}", index)
        return
    check.kinds[entry.kind] += 1
    check.times.append(entry.time)
    if entry.evidence:
        _evidence(check, index, entry)
    if entry.kind == "release" and (not entry.evidence or entry.ear is None or not entry.decision.allowed):
        check.found("release.baseless", f"Entry {index} is a release without evidence or decision.", index)


def _evidence(check: _Check, index: int, entry: AuditEntry) -> None:
    try:
        evidence = check.reader.get(f"evidence/{entry.evidence}")
    except NetworkError:
        raise
    except Error as error:
        check.found("evidence.missing", f"Entry {index}: {error.message}", index)
        return
    if hashlib.sha256(evidence).hexdigest() != entry.evidence:
        check.found("evidence.changed", f"The evidence of entry {index} is not the one that it names.", index)
        return
    if not _collateral(check, index, entry):
        return
    if check.reverify is None or entry.ear is None:
        # Without an attestation result the broker itself had refused the evidence: nothing has to hold.
        check.skipped += 1
        return
    try:
        check.reverify(entry, evidence)
    except ConfigurationError as error:
        check.found(UNCHECKED, f"The evidence of entry {index}: {error.message}", index)
    except Error as error:
        check.found("evidence.refused", f"The evidence of entry {index}: {error.message}", index)
    else:
        check.evidence += 1


def _collateral(check: _Check, index: int, entry: AuditEntry) -> bool:
    """Look whether everything is there that the evidence was verified with."""
    codes = set()
    for digest in sorted({digest for digests in entry.collateral.values() for digest in digests}):
        if digest not in check.collateral:
            check.collateral[digest] = _wrong_with(check.reader, digest)
        codes.add(check.collateral[digest])
    codes.discard("")
    for code in sorted(codes):
        what = "is missing" if code == "collateral.missing" else "is not the one that it names"
        check.found(code, f"Collateral of entry {index} {what}.", index)
    return not codes


def _wrong_with(reader: Reader, digest: str) -> str:
    """Return the code of what is wrong with a file of collateral; empty if nothing is."""
    try:
        data = reader.get(f"evidence/{digest}")
    except NetworkError:
        raise
    except Error:
        return "collateral.missing"
    return "" if hashlib.sha256(data).hexdigest() == digest else "collateral.changed"


def _tile(check: _Check, level: int, index: int, width: int) -> list[bytes] | None:
    try:
        return split_tile(check.reader.get(tile_path(level, index, width)), width)
    except NetworkError:
        raise
    except Error as error:
        check.found("tile.unreadable", f"Tile {index} of level {level}: {error.message}")
        return None


def _tiles(check: _Check, leaves: list[bytes]) -> None:
    """Compare every tile with what the entries give."""
    levels = [leaves]
    for level, index, width in tiles_of(check.size):
        if level == len(levels):
            below = levels[-1]
            full = range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)
            levels.append([tree_root(below[at : at + TILE_WIDTH]) for at in full])
        tile = _tile(check, level, index, width)
        if tile is not None and tile != levels[level][index * TILE_WIDTH :][:width]:
            check.found("tile.changed", f"Tile {index} of level {level} is not what the entries give.")


def _explain(check: _Check, leaves: list[bytes], checkpoint: Checkpoint) -> None:
    """Tell what happened to entries that do not give the signed root, as far as the tiles still know."""
    expected: list[bytes] = []
    for level, index, width in tiles_of(check.size):
        if level == 0:
            expected += _tile(check, level, index, width) or []
    if len(expected) != checkpoint.size or tree_root(expected) != checkpoint.root:
        check.found("root.mismatch", "Neither the entries nor the tiles give the root that was signed.")
        return
    spare, lost = Counter(leaves) - Counter(expected), Counter(expected) - Counter(leaves)
    if len(leaves) < len(expected):
        check.found("entry.dropped", f"{len(expected) - len(leaves)} entries of the log are gone.")
    for index, leaf in enumerate(expected):
        there = leaves[index] if index < len(leaves) else None
        if there == leaf:
            continue
        if lost[leaf] and (there is None or not spare[there]):
            check.found("entry.dropped", f"Entry {index} is gone.", index)
        elif lost[leaf]:
            check.found("entry.changed", f"Entry {index} is not what was signed.", index)
        elif there is not None and len(leaves) == len(expected):
            check.found("entry.reordered", f"Entry {index} stands at another place than was signed.", index)
    check.found("root.entries", "The entries do not give the root that was signed.")


def _continues(check: _Check, leaves: list[bytes], checkpoint: Checkpoint, older: Checkpoint) -> None:
    if older.size > checkpoint.size:
        sentence = f"The log has {checkpoint.size} entries and had {older.size} before: it was cut."
        check.found("log.cut", sentence)
    elif len(leaves) < older.size or tree_root(leaves[: older.size]) != older.root:
        sentence = (
            f"The first {older.size} entries are not those of the older checkpoint: the log was forked."
        )
        check.found("log.forked", sentence)
