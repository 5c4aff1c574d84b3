# SPDX-License-Identifier: BSD-3-Clause
"""The hidden directory in which a dataset is made, and the journal that lets a killed seal go on.

Invariants:

- A file is in the journal only after its sealed bytes and the list of its segments are durable. Whatever is
  not in the journal is sealed again.
- Every line carries a MAC under a key derived from the owner's signing key, over the line and the ones before
  it, for one dataset and its key: nobody else can make the owner sign a manifest over files of theirs.
- No data key and no writer key is on disk. The writer's key is derived from the signing key, so that a seal
  that goes on, and files that are added later, have the same writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import ValidationError

from sealroom.crypt4gh import CIPHER_SEGMENT, OVERHEAD, PublicKey, SecretKey
from sealroom.datasets.manifest import SEALED_SUFFIX, SEGMENTS_SUFFIX, FileEntry
from sealroom.datasets.segment_list import RECORD, SegmentList
from sealroom.errors import ConfigurationError, Error, StorageError

JOURNAL = "journal"
"""Name of the journal in the hidden directory; no sealed file is called so."""

# Segments of a file that are read again before a seal goes on with it; its list of segments is read whole.
_LOOKED_AT = 8


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """What tells that a source is still the file that was sealed."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> SourceIdentity:
        """Take it from a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def derive_writer(signing_key: Ed25519PrivateKey, dataset: str, dataset_key: PublicKey) -> SecretKey:
    """Return the writer's key of a dataset: HKDF-SHA256 (RFC 5869) of the owner's signing key.

    Whoever has the signing key can sign another manifest anyway, so the derivation gives nothing away;
    without it nobody finds the writer's key, not even who holds the dataset's.
    """
    return SecretKey(_derive(signing_key, dataset_key, b"sealroom writer 1\0" + dataset.encode()))


class Finished(Protocol):
    """What is sealed already, wherever that is written down."""

    @property
    def done(self) -> dict[str, tuple[SourceIdentity, FileEntry]]:
        """The files, each with what it was made of."""

    def add(self, source: SourceIdentity, entry: FileEntry) -> None:
        """Record a file whose sealed bytes are durable; `sync` makes the record durable."""

    def sync(self) -> None:
        """Make the records durable."""

    def usable(self, name: str, source: SourceIdentity) -> FileEntry | None:
        """Return the entry of a file that need not be sealed again."""


@dataclass(slots=True)
class Ledger:
    """The lines of a journal: each under a MAC over itself and the line before."""

    key: bytes = field(repr=False)
    done: dict[str, tuple[SourceIdentity, FileEntry]] = field(default_factory=dict)
    _last: bytes = b""

    @classmethod
    def of(cls, signing_key: Ed25519PrivateKey, dataset: str, dataset_key: PublicKey) -> Ledger:
        """Return an empty ledger of one owner, dataset and key."""
        return cls(_derive(signing_key, dataset_key, b"sealroom journal 1\0" + dataset.encode()))

    def line(self, source: SourceIdentity, entry: FileEntry) -> bytes:
        """Take in a file and return its line."""
        body = {
            "source": [source.size, source.mtime_ns, source.inode],
            "entry": entry.model_dump(mode="json", exclude_none=True),
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        self._last = self.mac(text)
        self.done[entry.name] = (source, entry)
        return self._last.hex().encode() + b" " + text + b"\n"

    def take(self, line: bytes) -> bool:
        """Take in a line that was written earlier; False if it is not good, and neither is what follows."""
        mac, _, text = line[:-1].partition(b" ")
        if not line.endswith(b"\n") or not hmac.compare_digest(mac, self.mac(text).hex().encode()):
            return False
        try:
            body = json.loads(text)
            entry = FileEntry.model_validate(body["entry"])
            self.done[entry.name] = (SourceIdentity(*body["source"]), entry)
        except (ValueError, KeyError, TypeError, ValidationError):
            return False
        self._last = self.mac(text)
        return True

    def mac(self, text: bytes) -> bytes:
        """Return the MAC of the text that comes next."""
        return hmac.digest(self.key, self._last + text, "sha256")


@dataclass(slots=True)
class Journal:
    """What is sealed already in a hidden directory."""

    directory: Path
    _ledger: Ledger
    _stream: FileIO | None = None

    @classmethod
    def open(
        cls, directory: Path, signing_key: Ed25519PrivateKey, dataset: str, dataset_key: PublicKey
    ) -> Journal:
        """Read the journal of an earlier try, if there is one for the same owner, dataset and key."""
        journal = cls(directory, Ledger.of(signing_key, dataset, dataset_key))
        path = directory / JOURNAL
        good = journal._read(path)
        # Behind the last good line nothing counts: a torn line is cut off before another one is written.
        # Unbuffered: what was recorded outlives the process, and after `sync` the machine.
        journal._stream = path.open("ab", buffering=0)
        journal._stream.truncate(good)
        return journal

    @property
    def done(self) -> dict[str, tuple[SourceIdentity, FileEntry]]:
        """The files that are sealed, each with what it was made of."""
        return self._ledger.done

    def add(self, source: SourceIdentity, entry: FileEntry) -> None:
        """Record a file whose sealed bytes are durable; `sync` makes the record durable."""
        if self._stream is None:
            raise RuntimeError("the journal is closed")
        self._stream.write(self._ledger.line(source, entry))

    def sync(self) -> None:
        """Make the records durable."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    def close(self, *, remove: bool = False) -> None:
        """Close it; `remove` when the directory becomes the dataset."""
        if self._stream is not None:
            with contextlib.suppress(OSError):  # what could not be written is sealed again
                self._stream.close()
            self._stream = None
        if remove:
            (self.directory / JOURNAL).unlink(missing_ok=True)

    def usable(self, name: str, source: SourceIdentity) -> FileEntry | None:
        """Return the entry of a file that need not be sealed again.

        The source must be the same as then. Of the sealed file, the size, the header, the whole list of
        segments and the digests of a few segments are checked: it was durable before it was recorded.
        """
        found = self.done.get(name)
        if found is None or found[0] != source:
            return None
        entry = found[1]
        try:
            return entry if _is_there(self.directory, entry) else None
        except (OSError, Error):
            return None

    def _read(self, path: Path) -> int:
        """Take in the good lines and return where they end."""
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except OSError:
            return 0
        end = 0
        for line in lines:
            if not self._ledger.take(line):
                break
            end += len(line)
        return end


@dataclass(slots=True)
class Hidden:
    """A hidden directory beside a dataset, held by one process."""

    path: Path
    """The directory."""
    keep: bool = False
    """Whether it stays when an error leaves the block."""


def hidden_path(destination: Path, kind: str = "partial") -> Path:
    """Return where the hidden directory of a dataset is."""
    return destination.with_name(f".{destination.name}.{kind}")


@contextlib.contextmanager
def hidden_directory(destination: Path, kind: str = "partial") -> Iterator[Hidden]:
    """Hold the hidden directory beside a dataset; what it holds from an earlier try is left in it.

    Raises:
        ConfigurationError: Another process works on the same dataset.
    """
    hidden = Hidden(hidden_path(destination, kind))
    with _locked(destination) as lock_path:
        hidden.path.mkdir(exist_ok=True)
        try:
            yield hidden
        except BaseException:
            if not hidden.keep:
                shutil.rmtree(hidden.path, ignore_errors=True)
            raise
        else:
            shutil.rmtree(hidden.path, ignore_errors=True)
        finally:
            lock_path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(destination: Path) -> Iterator[Path]:
    lock_path = hidden_path(destination, "lock")
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another process seals to {destination} now.", advice="Wait until it has ended."
            ) from error
        yield lock_path
    finally:
        os.close(lock)


def remove_unfinished(directory: Path, done: set[str]) -> None:
    """Remove what an earlier try left of files that are not in the journal."""
    keep = {directory / JOURNAL}
    keep |= {directory / (name + suffix) for name in done for suffix in (SEALED_SUFFIX, SEGMENTS_SUFFIX)}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            if path not in keep:
                path.unlink()


def _is_there(directory: Path, entry: FileEntry) -> bool:
    records = (directory / (entry.name + SEGMENTS_SUFFIX)).read_bytes()
    if len(records) != RECORD * entry.segments:
        return False
    segments = SegmentList(records, name=entry.name, count=entry.segments, root=entry.segments_root)
    fd = os.open(directory / (entry.name + SEALED_SUFFIX), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_size != entry.header_size + entry.cipher_size:
            return False
        if hashlib.sha256(os.pread(fd, entry.header_size, 0)).hexdigest() != entry.header_sha256:
            return False
        step = max(1, -(-entry.segments // _LOOKED_AT))
        last = {entry.segments - 1} if entry.segments else set()
        for index in {*range(0, entry.segments, step)} | last:
            segment = memoryview(os.pread(fd, CIPHER_SEGMENT, entry.header_size + index * CIPHER_SEGMENT))
            if len(segment) <= OVERHEAD or not segments.digests(index, segment):
                return False
        return True
    finally:
        os.close(fd)


def _derive(signing_key: Ed25519PrivateKey, dataset_key: PublicKey, purpose: bytes) -> bytes:
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=dataset_key.raw, info=purpose)
    return hkdf.derive(signing_key.private_bytes_raw())


def write_durably(path: Path, data: bytes | bytearray) -> None:
    """Write a new file and make it durable."""
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a small file at once, and make that durable."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    write_durably(fresh, data)
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: It cannot be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_free(parent: Path, need: int, doing: str) -> None:
    """Raise unless a file system has room.

    Args:
        parent: A directory of the file system.
        need: Bytes.
        doing: What is done, to begin the sentence with.

    Raises:
        StorageError: It has not, or cannot be asked.
    """
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise StorageError(f"{parent} cannot be read: {error.strerror or error}.") from error
    if need > free:
        raise StorageError(
            f"{doing} needs {need / 1e9:.2f} GB in {parent}, and {free / 1e9:.2f} GB are free.",
            advice="Free some space or choose another directory.",
        )
