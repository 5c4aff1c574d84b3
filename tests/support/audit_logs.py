# SPDX-License-Identifier: BSD-3-Clause
"""Audit logs for tests: entries, a signer, and a log of any size without appending one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.audit.entry import AuditEntry, Decision
from sealroom.audit.log import TileLog
from sealroom.audit.note import Checkpoint, Signer
from sealroom.audit.tlog import (
    bundle_path,
    bundles_of,
    encode_entry,
    leaf_hash,
    tile_path,
    tiles_of,
    tree_root,
)

SIGNER = Signer("sealroom.example/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer("sealroom.example/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
START = datetime(2026, 11, 1, tzinfo=UTC)


def entry(number: int, **fields: Any) -> bytes:
    """Return the bytes of an entry that differs from those of other numbers."""
    values: dict[str, Any] = {
        "time": START + timedelta(seconds=number),
        "kind": "refusal",
        "decision": Decision(allowed=False),
        "detail": f"entry {number}",
    }
    return AuditEntry(**(values | fields)).to_bytes()


def append_all(directory: Path, entries: Iterable[bytes], signer: Signer = SIGNER) -> bytes:
    """Append entries one by one and return the checkpoint."""
    with TileLog(directory, signer) as log:
        for one in entries:
            log.append(one)
        return log.checkpoint()


def write_log(
    directory: Path,
    entries: Sequence[bytes],
    signer: Signer = SIGNER,
    *,
    bundles: Callable[[int, list[bytes]], list[bytes]] = lambda _, bundle: bundle,
    edge: bool = False,
) -> bytes:
    """Write a whole log at once, as an exported copy or a forger has it, and return the checkpoint.

    Args:
        directory: Where to.
        entries: What the tiles and the checkpoint say.
        signer: Who signs.
        bundles: Changes what is stored of each bundle, given its number and its entries.
        edge: Write only the last bundle, and the last tile of each level: all that a writer reads.
    """
    size, levels = len(entries), [[leaf_hash(one) for one in entries]]
    while len(levels[-1]) >= 256:
        below = levels[-1]
        levels.append([tree_root(below[at : at + 256]) for at in range(0, len(below) - 255, 256)])
    for level, index, width in tiles_of(size):
        if edge and (index + 1) * 256 < len(levels[level]):
            continue
        put(directory / tile_path(level, index, width), b"".join(levels[level][index * 256 :][:width]))
    for number, width in bundles_of(size):
        if edge and (number + 1) * 256 < size:
            continue
        stored = bundles(number, list(entries[number * 256 :][:width]))
        put(directory / bundle_path(number, width), b"".join(map(encode_entry, stored)))
    note = Checkpoint(signer.name, size, tree_root(levels[0])).sign(signer)
    put(directory / "checkpoint", note)
    return note


def put(path: Path, data: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
