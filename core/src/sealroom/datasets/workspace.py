# SPDX-License-Identifier: BSD-3-Clause
"""The workspace: results that notebooks of this server have saved, sealed, and can read back.

The notebook server's process makes a key pair. Kernels get the public key and seal to it (see `writer`); they
read back through the agent, like a dataset. The secret key is never on disk and never sent anywhere, so it
ends with the server: what must outlive it is sealed to the person's own key, too.

Invariants:

- A name stands for a whole file or for nothing: a file gets its name after it was written, checked and made
  durable, in one step.
- What is read back is what was written through this server: the digests of every segment are remembered here,
  not on the disk, so a file that was cut, changed or put there by somebody else is refused.
- While trust in the server is lost nothing is read; `forget` ends reading for good.
- Where a grant forbids that results leave, a file that anybody else could open is not kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    Header,
    HeaderKeyError,
    OpenedHeader,
    SecretKey,
    SegmentCipher,
    open_header,
)
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.manifest import SEALED_SUFFIX, FileEntry, check_name
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.messages import FileInfo, WorkspaceInfo
from sealroom.datasets.partial import sync_directory
from sealroom.datasets.reader import SegmentReader, check_source
from sealroom.datasets.segment_list import RECORD, SegmentList, record_of
from sealroom.datasets.source import LocalSource, SourceStream
from sealroom.datasets.vault import file_info
from sealroom.errors import AccessDeniedError, Error, IntegrityError, ProtocolError, StorageError

WORKSPACE = "workspace"
"""The workspace's name where a dataset's id stands; no dataset may be called so."""
PART_SUFFIX = ".part"
"""End of the name of a file that is being written; it begins with a dot."""
LIST_SUFFIX = ".segments"
"""What a part's list of segments has behind the part's name."""

_PART = re.compile(r"\.[^/\0]{1,250}\.part")
_MOST_OPEN = 32
# Lists of segments that stay in memory: those of 70 GB. Others are made again from the sealed file.
_RECORDS = 64 << 20
_CACHE = 16 << 20
_SAVE_AGAIN = "Do not use it; save the result again."


@dataclass(slots=True)
class _Kept:
    """A file that was saved in this server."""

    entry: FileEntry
    records: bytes | None


class Workspace:
    """The workspace of one notebook server. Safe for several threads.

    Args:
        directory: Where sealed results lie; made when it is first needed.
        bound: Says why results may not leave this server now, in a sentence; empty if they may.
        records_limit: Bytes of lists of segments that are kept in memory.
    """

    def __init__(
        self, directory: Path, *, bound: Callable[[], str] = lambda: "", records_limit: int = _RECORDS
    ) -> None:
        self.directory = directory
        self._bound = bound
        self._left = records_limit
        self._lock = threading.RLock()
        self._secret: SecretKey | None = None
        self._kept: dict[str, _Kept] = {}
        self._readers: OrderedDict[str, SegmentReader] = OrderedDict()
        self._cache = SegmentCache(_CACHE)
        self._suspended = ""
        self._ended = ""

    # -- writing

    def info(self) -> WorkspaceInfo:
        """Return what a kernel needs to seal a result.

        Raises:
            StorageError: The directory cannot be made.
            AccessDeniedError: The server ends.
        """
        with self._lock:
            if self._ended:
                raise AccessDeniedError(self._ended)
            if self._secret is None:
                self._secret = SecretKey.generate()
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"The workspace {self.directory} cannot be made: {error.strerror}.",
                    advice="Move away what is there, or tell the operator.",
                ) from error
            why = self._bound()
            return WorkspaceInfo(
                key=self._secret.public.to_base64(),
                directory=str(self.directory),
                outputs=not why,
                why=why,
            )

    def keep(self, file: str, part: str, fields: Mapping[str, object], *, overwrite: bool) -> FileInfo:
        """Give a finished part its name.

        Args:
            file: The result's name.
            part: The part's name, in the directory that the result belongs into.
            fields: The fields of its `FileEntry` but the name.
            overwrite: Whether it takes the place of an earlier result of the name.

        Raises:
            StorageError: There is a file of this name, or the disk refuses.
            AccessDeniedError: Somebody else could open it, and results may not leave.
            IntegrityError: The part is not what the fields say.
            ProtocolError: Fields or names cannot be used, or it is not sealed to this workspace.
        """
        target = self.directory / (check_name(file) + SEALED_SUFFIX)
        if not _PART.fullmatch(part):
            raise ProtocolError("The part has a name that no writer gives.")
        entry = _entry(file, fields)
        source = LocalSource(target.with_name(part), mapped=False)
        try:
            check_source(source, entry)
            header = Header.read(io.BufferedReader(SourceStream(source), 4096))
            self._check_readers(file, header)
            records = _records_beside(source.path, entry)
        finally:
            source.close()
        with self._lock:
            if self._ended:
                raise AccessDeniedError(self._ended)
            _name(source.path, target, overwrite=overwrite)
            self._let_go(file)
            if len(records) > self._left:
                self._kept[file] = _Kept(entry, None)
            else:
                self._left -= len(records)
                self._kept[file] = _Kept(entry, records)
        return file_info(entry)

    def remove(self, file: str) -> None:
        """Remove a result.

        Raises:
            StorageError: It is not there, or cannot be removed.
        """
        target = self.directory / (check_name(file) + SEALED_SUFFIX)
        with self._lock:
            try:
                target.unlink()
            except FileNotFoundError:
                raise _absent(file) from None
            except OSError as error:
                raise StorageError(f"{file} cannot be removed: {error.strerror}.") from error
            finally:
                self._let_go(file)

    def sweep(self) -> int:
        """Remove parts that no writer works on any more, and return how many; errors are passed over."""
        removed = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                if _PART.fullmatch(name):
                    removed += _sweep(Path(folder) / name)
                elif _PART.fullmatch(name.removesuffix(LIST_SUFFIX)):
                    with contextlib.suppress(OSError):
                        (Path(folder) / name).unlink()
        return removed

    # -- reading

    def files(self) -> tuple[FileInfo, ...]:
        """Return the results that can be read back here, by name.

        Raises:
            AccessDeniedError: Nothing may be read now.
        """
        with self._lock:
            self._check()
            kept = sorted(self._kept.items())
        return tuple(
            file_info(found.entry)
            for name, found in kept
            if (self.directory / (name + SEALED_SUFFIX)).is_file()
        )

    def file(self, file: str) -> FileInfo:
        """Return one result.

        Raises:
            AccessDeniedError: Nothing may be read now.
            StorageError: There is no such result of this server.
        """
        with self._lock:
            self._check()
            kept = self._kept.get(file)
        if kept is None or not (self.directory / (file + SEALED_SUFFIX)).is_file():
            raise _absent(file)
        return file_info(kept.entry)

    def read_into(self, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a result into a buffer and return how many bytes there were.

        Raises:
            AccessDeniedError: Nothing may be read now.
            IntegrityError: It is not what was saved.
            StorageError: There is no such result of this server, or it cannot be read.
        """
        try:
            return self._reader(file).pread_into(offset, buffer)
        except AccessDeniedError:
            with self._lock:
                self._check()
            raise
        except IntegrityError as error:
            raise _changed(file, error) from error

    # -- trust

    def suspend(self, sentence: str) -> None:
        """Read nothing until `resume`, and say why."""
        with self._lock:
            self._suspended = sentence or "This server is not proven."
            self._close_readers()

    def resume(self) -> None:
        """Read again."""
        with self._lock:
            self._suspended = ""

    def forget(self) -> None:
        """Overwrite the secret key: what was saved by now is not read here any more."""
        with self._lock:
            secret, self._secret = self._secret, None
            self._close_readers()
            for file in list(self._kept):
                self._let_go(file)
        if secret is not None:
            secret.wipe()

    def close(self, sentence: str) -> None:
        """End for good."""
        with self._lock:
            self._ended = sentence
            self.forget()

    def __repr__(self) -> str:
        return f"<Workspace in {self.directory}, {len(self._kept)} results>"

    # -- inside

    def _check(self) -> None:
        if self._ended:
            raise AccessDeniedError(self._ended)
        if self._suspended:
            raise AccessDeniedError(
                f"Results are not read now: {self._suspended}",
                advice="They are there again when this server has proven itself.",
            )

    def _check_readers(self, file: str, header: Header) -> None:
        try:
            opened = self._open(header)
        except HeaderKeyError as error:
            raise ProtocolError(
                f"{file} is not sealed to the key of this workspace.", advice="Write the result again."
            ) from error
        for key in opened.data_keys:
            key.wipe()
        if opened.edit_list is not None or len(opened.data_keys) != 1:
            raise ProtocolError(f"{file} has a header that no writer makes.")
        why = self._bound()
        if why and len(header.packets) > 1:
            raise cannot_leave(why)

    def _open(self, header: Header) -> OpenedHeader:
        with self._lock:
            if self._secret is None:
                raise ProtocolError(
                    "The workspace has another key than when this was begun.",
                    advice="Write the result again.",
                )
            return open_header(header, self._secret)

    def _reader(self, file: str) -> SegmentReader:
        with self._lock:
            self._check()
            found = self._readers.get(file)
            if found is not None:
                self._readers.move_to_end(file)
                return found
            kept = self._kept.get(file)
        if kept is None:
            raise _absent(file)
        made = self._make_reader(file, kept)
        with self._lock:
            self._check()
            if self._kept.get(file) is not kept:
                raise StorageError(f"{file} was replaced while it was opened.", advice="Open it again.")
            reader = self._readers.setdefault(file, made)
            if len(self._readers) > _MOST_OPEN:
                # Not closed: a read with it may be going on.
                self._readers.popitem(last=False)
            return reader

    def _make_reader(self, file: str, kept: _Kept) -> SegmentReader:
        source = LocalSource(self.directory / (file + SEALED_SUFFIX), mapped=False)
        try:
            check_source(source, kept.entry)
            header = Header.read(io.BufferedReader(SourceStream(source), 4096))
            records = _records_of(source, kept.entry) if kept.records is None else kept.records
            segments = SegmentList(
                records, name=file, count=kept.entry.segments, root=kept.entry.segments_root
            )
            opened = self._open(header)
            cipher = SegmentCipher(opened.data_keys)
            for key in opened.data_keys:
                key.wipe()
            return SegmentReader(source, kept.entry, cipher, cache=self._cache, segments=segments)
        except BaseException:
            source.close()
            raise

    def _let_go(self, file: str) -> None:
        kept = self._kept.pop(file, None)
        if kept is not None and kept.records is not None:
            self._left += len(kept.records)
        self._readers.pop(file, None)

    def _close_readers(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def cannot_leave(why: str) -> AccessDeniedError:
    """Return the error for a result that somebody else could open although results may not leave."""
    return AccessDeniedError(
        f"The result cannot be sealed to further recipients: {why}",
        advice="Write it without recipients, or ask the data owner for a grant that lets results leave.",
    )


def _entry(file: str, fields: Mapping[str, object]) -> FileEntry:
    try:
        return FileEntry.model_validate({**fields, "name": file})
    except ValidationError as error:
        raise ProtocolError("What is said about the part is not what a writer says.") from error


def _records_beside(part: Path, entry: FileEntry) -> bytes:
    """Read the list of segments that the writer left beside its part, and remove it."""
    beside = part.with_name(part.name + LIST_SUFFIX)
    try:
        records = beside.read_bytes()
        beside.unlink()
    except OSError as error:
        raise StorageError(f"The list of segments cannot be read: {error.strerror}.") from error
    _check_records(records, entry)
    return records


def _records_of(source: LocalSource, entry: FileEntry) -> bytes:
    """Make the list of a file's segments again."""
    records = []
    buffer = memoryview(bytearray(CIPHER_SEGMENT))
    for index in range(entry.segments):
        begin = index * CIPHER_SEGMENT
        segment = buffer[: min(CIPHER_SEGMENT, entry.cipher_size - begin)]
        if source.pread_into(entry.header_size + begin, segment) != len(segment):
            raise IntegrityError(f"{entry.name}: it was cut while it was read.")
        records.append(record_of(segment))
    found = b"".join(records)
    _check_records(found, entry)
    return found


def _check_records(records: bytes, entry: FileEntry) -> None:
    view = memoryview(records)
    root = root_hash(view[i : i + RECORD] for i in range(0, len(view), RECORD)).hex()
    if len(records) != RECORD * entry.segments or root != entry.segments_root:
        raise IntegrityError(f"{entry.name}: a segment is not the one that was sealed.")


def _name(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a part its name in one step, and make that durable."""
    try:
        if overwrite:
            part.replace(target)
        else:
            try:
                target.hardlink_to(part)
            except FileExistsError:
                raise
            except OSError:
                # A file system without links: the lock keeps other writers of this server away meanwhile.
                if os.path.lexists(target):
                    raise FileExistsError from None
                part.replace(target)
            part.unlink(missing_ok=True)
        sync_directory(target.parent)
    except FileExistsError:
        raise there_already(target) from None
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}.") from error


def there_already(target: Path) -> StorageError:
    """Return the error for a result that would overwrite another."""
    return StorageError(
        f"{target} is there already; nothing was overwritten.",
        advice="Choose another name, or write with overwrite=True.",
    )


def _absent(file: str) -> StorageError:
    return StorageError(
        f"There is no result {file!r} that was saved in this server since it was started.",
        advice="What an earlier server saved opens with the key of a recipient it was sealed to.",
    )


def _changed(file: str, error: Error) -> IntegrityError:
    detail = error.message.removeprefix(f"{file}: ").replace("the data owner", "this server")
    return IntegrityError(f"{file} was changed after it was saved: {detail}", advice=_SAVE_AGAIN)


def _sweep(path: Path) -> int:
    """Remove a part unless somebody works on it, which a lock tells."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        path.with_name(path.name + LIST_SUFFIX).unlink(missing_ok=True)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return 1
