# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom audit export`: everything that an auditor needs offline, in one folder.

The folder has its name only when it is complete. Until then its files are in `.NAME.partial` beside it, where
the same command goes on after an interruption: for the checkpoint that the first attempt began with, with
what is there already and is right.

Invariants:

- Nothing is taken over from an earlier attempt unchecked: tiles are fetched again, a bundle's entries must
  have the hashes of its tile, evidence its digest.
- A folder that is there is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import Checkpoint
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    bundle_path,
    bundles_of,
    decode_bundle,
    leaf_hash,
    split_tile,
    tile_path,
    tiles_of,
)
from sealroom.audit.verify import Finding, verify_log
from sealroom.cli._audit_source import ENVIRONMENTS, KEY_FILE, Source, manifest_name, write_file
from sealroom.errors import AccessDeniedError, Error, IntegrityError, NetworkError, StorageError


@dataclass(frozen=True, slots=True)
class Exported:
    """What was copied."""

    size: int
    """Entries."""
    files: int
    reused: int
    """Files that were there from an earlier attempt."""
    environments: int
    missing: tuple[str, ...]
    """Digests of environments whose manifests are not to be had."""
    findings: tuple[Finding, ...]
    """What is wrong with the log itself, evidence aside from its digest unchecked."""


class Exporter:
    """Copies a log.

    Args:
        source: The log.
        directory: Where to; it must not be there.
    """

    def __init__(self, source: Source, directory: Path) -> None:
        self._source = source
        self._directory = directory
        self._partial = directory.with_name(f".{directory.name}.partial")
        self._files = 0
        self._reused = 0

    def run(self, progress: Callable[[int, int], None]) -> Exported:
        """Copy everything, compare it with the checkpoint, and give the folder its name.

        Args:
            progress: Called with the entries copied and their number.

        Raises:
            StorageError: The folder is there already, or cannot be written.
            Error: The log cannot be read, or is too damaged to be copied; what was copied stays for the next
                attempt.
        """
        note = self._note()
        size = Checkpoint.open(note, self._source.key).size
        self._write(CHECKPOINT_PATH, note)
        self._write(KEY_FILE, f"{self._source.key}\n".encode())
        for level, index, width in tiles_of(size):
            self._write(
                tile_path(level, index, width), self._source.reader.get(tile_path(level, index, width))
            )
        seen: set[str] = set()
        named: set[str] = set()
        for entry, done in self._entries(size):
            for digest in _evidence(entry):
                if digest not in seen:
                    seen.add(digest)
                    self._keep(digest)
            named |= {entry.environment} if entry.environment else set()
            progress(done, size)
        missing = tuple(digest for digest in sorted(named) if not self._manifest(digest))
        findings = verify_log(DirectoryReader(self._partial), self._source.key).findings
        self._publish()
        return Exported(size, self._files, self._reused, len(named) - len(missing), missing, findings)

    def _note(self) -> bytes:
        """Return the checkpoint that an earlier attempt began with, or the log's."""
        kept = self._partial / CHECKPOINT_PATH
        try:
            note = kept.read_bytes()
            Checkpoint.open(note, self._source.key)
        except OSError:
            return self._source.reader.get(CHECKPOINT_PATH)
        except Error as error:
            raise StorageError(
                f"{self._partial} is of another log.", advice="Remove it, or name another folder."
            ) from error
        return note

    def _entries(self, size: int) -> Iterator[tuple[AuditEntry, int]]:
        for number, width in bundles_of(size):
            path = bundle_path(number, width)
            data = self._kept_bundle(path, number, width)
            if data is None:
                data = self._source.reader.get(path)
                self._write(path, data)
            else:
                self._reuse()
            for offset, entry in enumerate(decode_bundle(data, width)):
                yield AuditEntry.from_bytes(entry), number * TILE_WIDTH + offset + 1

    def _kept_bundle(self, path: str, number: int, width: int) -> bytes | None:
        tile = split_tile((self._partial / tile_path(0, number, width)).read_bytes(), width)
        try:
            data = (self._partial / path).read_bytes()
            same = [leaf_hash(entry) for entry in decode_bundle(data, width)] == tile
        except (OSError, Error):
            return None
        return data if same else None

    def _keep(self, digest: str) -> None:
        """Copy evidence; the log may name what is gone, which the check at the end says."""
        path = f"evidence/{digest}"
        try:
            if hashlib.sha256((self._partial / path).read_bytes()).hexdigest() == digest:
                self._reuse()
                return
        except OSError:
            pass
        try:
            data = self._source.reader.get(path)
        except (NetworkError, AccessDeniedError):
            raise
        except Error:
            return
        self._write(path, data)

    def _manifest(self, digest: str) -> bool:
        from sealroom.environments import Environment

        path = f"{ENVIRONMENTS}/{manifest_name(digest)}"
        try:
            data = self._source.manifest(digest)
            if Environment.from_toml(data).digest != digest:
                raise IntegrityError("The manifest is another environment's.")
        except NetworkError:
            raise
        except Error:
            return False
        self._write(path, data)
        return True

    def _write(self, path: str, data: bytes) -> None:
        write_file(self._partial / path, data)
        self._files += 1

    def _reuse(self) -> None:
        self._files += 1
        self._reused += 1

    def _publish(self) -> None:
        for left in self._partial.rglob("*.new"):
            left.unlink(missing_ok=True)
        try:
            # A rename would replace an empty folder that somebody made meanwhile; mkdir would not.
            self._directory.mkdir(parents=True)
            self._partial.rename(self._directory)
        except FileExistsError:
            raise StorageError(
                f"{self._directory} is there already; the copy is in {self._partial}."
            ) from None
        except OSError as error:
            raise StorageError(f"{self._directory} cannot be made: {error.strerror}.") from error


def _evidence(entry: AuditEntry) -> Iterator[str]:
    if entry.evidence:
        yield entry.evidence
    for digests in entry.collateral.values():
        yield from digests
