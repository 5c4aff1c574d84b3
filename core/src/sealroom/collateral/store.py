# SPDX-License-Identifier: BSD-3-Clause
"""The directory in which endorsements and reference values are kept.

What this is: whole files under safe names (`sealroom.collateral.layout`). What this is not: a judge of what
is in them; whoever reads an entry verifies it (`sealroom.collateral.check`).

Invariants:

- A file is written aside, flushed to disk and renamed: a reader sees the old content or the new one, and a
  writer that is killed, or finds the disk full, leaves the old one.
- Writers of all processes take turns by the lock on `.lock`. Readers need no lock, so a store on a read-only
  file system can be read.
- Only names of entries are read or written. A link in place of a file is not read, and nothing is written
  through a link to a folder.
- Files have mode 0644 and folders 0755: nothing here is secret.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from sealroom.collateral.layout import Entry
from sealroom.errors import FormatError, StorageError

MAX_ENTRY: Final = 1 << 20
"""Longest entry in bytes; the longest real ones are manifests of about 40 KiB."""
_PART: Final = ".part"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is remembered about a fetched file whose currency is not written in itself."""

    sha256: str
    """Digest of the file that this is about, in hex."""
    at: datetime
    """When it was fetched, or confirmed to be current."""
    etag: str = ""
    """ETag that the service gave; empty if none."""

    @classmethod
    def of(cls, data: bytes, at: datetime, etag: str = "") -> Fetched:
        """Describe a file that was just fetched."""
        return cls(hashlib.sha256(data).hexdigest(), at.astimezone(UTC).replace(microsecond=0), etag)

    @classmethod
    def from_json(cls, data: bytes) -> Fetched:
        """Parse what `to_json` wrote.

        Raises:
            FormatError: It is something else.
        """
        try:
            document = json.loads(data)
            sha256, at, etag = (
                document["sha256"],
                datetime.fromisoformat(document["fetched"]),
                document["etag"],
            )
            well_formed = set(document) == {"sha256", "fetched", "etag"} and len(etag) <= 256
            if not well_formed or len(bytes.fromhex(sha256)) != 32 or at.tzinfo is None:
                raise ValueError(sha256)
            return cls(sha256, at, str(etag))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError("This does not say when a file was fetched.", field="fetched") from error

    def to_json(self) -> bytes:
        """Return the document."""
        document = {"sha256": self.sha256, "fetched": self.at.isoformat(), "etag": self.etag}
        return json.dumps(document, indent=2).encode() + b"\n"


class Store:
    """A directory of entries.

    Args:
        path: The directory; made at the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    # --- read ---

    def read(self, name: str) -> bytes | None:
        """Return an entry, None if there is none.

        Raises:
            FormatError: The name is no entry's.
            StorageError: It cannot be read, is longer than `MAX_ENTRY`, or is no regular file.
        """
        path = self.path / Entry.parse(name).name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(f"{path} is no regular file.", advice="Remove it.")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_ENTRY + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(descriptor)
        if len(data) > MAX_ENTRY:
            raise StorageError(f"{path} is longer than {MAX_ENTRY} bytes.", advice="Remove it.")
        return data

    def names(self, folder: str = "", *, below: bool = True) -> list[str]:
        """Return the names of the entries in a folder, sorted; other files are left out.

        Args:
            folder: The folder, as names have it; the whole store without it.
            below: Whether those in folders of it count.

        Raises:
            StorageError: A folder cannot be read.
        """
        found: list[str] = []
        # Links to folders are not followed.
        for parent, folders, files in os.walk(self.path / folder, onerror=self._unlistable):
            for file in files:
                name = (Path(parent) / file).relative_to(self.path).as_posix()
                with contextlib.suppress(FormatError):
                    found.append(Entry.parse(name).name)
            if not below:
                folders.clear()
        return sorted(found)

    def fetched(self, name: str) -> Fetched | None:
        """Return what an entry says about when another was fetched; None if it is missing or damaged."""
        data = self.read(name)
        if data is None:
            return None
        try:
            return Fetched.from_json(data)
        except FormatError:
            return None

    # --- write ---

    def write(self, name: str, data: bytes) -> None:
        """Write an entry whole, replacing what was there.

        Raises:
            FormatError: The name is no entry's, or the content is longer than `MAX_ENTRY`.
            StorageError: It cannot be written; what was there is as it was.
        """
        with self.writing():
            self._write(name, data)

    def write_all(self, entries: list[tuple[str, bytes]]) -> None:
        """Write entries in order, each whole, without another writer in between; errors as `write`."""
        with self.writing():
            for name, data in entries:
                self._write(name, data)

    def remove(self, name: str) -> None:
        """Remove an entry; nothing happens if there is none.

        Raises:
            StorageError: It cannot be removed.
        """
        path = self.path / Entry.parse(name).name
        with self.writing():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _raise_unwritable(path, error)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers away, those of other processes too; not reentrant.

        Raises:
            StorageError: The store cannot be written.
        """
        path = self.path / ".lock"
        try:
            self._folder(self.path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            _raise_unwritable(path, error)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, name: str, data: bytes) -> None:
        if len(data) > MAX_ENTRY:
            raise FormatError(f"An entry of {len(data)} bytes is longer than {MAX_ENTRY}.", field=name)
        path = self.path / Entry.parse(name).name
        part = path.with_name(f".{path.name}{_PART}")
        try:
            self._folder(path.parent)
            # We hold the lock: what lies there was left by a writer that was killed.
            for leftover in path.parent.glob(f".*{_PART}"):
                leftover.unlink()
            try:
                self._fill(part, data)
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            _flush_folder(path.parent)
        except OSError as error:
            _raise_unwritable(path, error)

    def _fill(self, part: Path, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(part, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _folder(self, path: Path) -> None:
        """Make a folder and those above it, up to the store, with mode 0755 whatever the umask."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            # Another process may make it at the same time.
            folder.mkdir(mode=0o755, exist_ok=True)
            if folder.is_relative_to(self.path):
                folder.chmod(0o755)
        for link in (path, *path.parents):
            if link.is_relative_to(self.path) and link != self.path and link.is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(link))

    def _unlistable(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise _unreadable(Path(str(error.filename or self.path)), error)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be read: {error.strerror}.")


def _raise_unwritable(path: Path, error: OSError) -> NoReturn:
    advice = "Make room on the disk; nothing that was stored is lost." if error.errno in _NO_SPACE else ""
    raise StorageError(f"{path} cannot be written: {error.strerror}.", advice=advice) from error


Note = Callable[[str], None]
"""Is told in one sentence what happened beside the result: something is damaged or was not stored."""
