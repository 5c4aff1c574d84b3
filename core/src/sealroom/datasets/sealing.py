# SPDX-License-Identifier: BSD-3-Clause
"""How the files of a dataset are sealed: positional reads, threads that encrypt, large aligned writes.

What a byte costs is its encryption and one SHA-256 of its cipher text (the record of its segment): nothing is
copied but into a buffer that stays in the processor's cache, and the cipher text goes from where it was
encrypted to the file system, past the page cache where that can be had.

Invariants:

- A sealed file that was not finished is removed; one that was is durable before anybody hears of it.
- A source that is not the same file before and after is an error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mimetypes
import mmap
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    DataKey,
    Header,
    PublicKey,
    SecretKey,
    SegmentCipher,
    cipher_size,
    make_header,
    segment_count,
)
from sealroom.datasets.manifest import SEALED_SUFFIX, SEGMENTS_SUFFIX, FileEntry
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.partial import Finished, SourceIdentity, write_durably
from sealroom.datasets.segment_list import RECORD, record_of
from sealroom.datasets.store import cannot_read
from sealroom.errors import ConfigurationError, StorageError

Progress = Callable[[str, int], None]
"""Called with a file's name and how many more of its plaintext bytes are sealed."""

# Segments that one task seals (2 MiB), and that are read at once: what stays in a processor's own cache.
_BATCH, _READ = 32, 4
_BATCH_BYTES = _BATCH * SEGMENT
_PAGE = 4096
# From this size on, a file is written past the page cache, where it would cost a copy and what others keep.
_DIRECT_FROM = 8 << 20
# Small files between two syncs of the journal, and seconds.
_SYNC_FILES, _SYNC_SECONDS = 64, 1.0


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that is to be sealed."""

    name: str
    path: Path
    size: int


class Sealer:
    """Seals files into a directory with a pool of threads."""

    def __init__(
        self,
        directory: Path,
        dataset_key: PublicKey,
        writer: SecretKey,
        *,
        workers: int | None = None,
        whole_digests: bool = False,
    ) -> None:
        """Start the threads.

        Args:
            directory: Where sealed files go.
            dataset_key: Whom they are sealed to.
            writer: The writer's key.
            workers: Threads; as many as there are processors by default.
            whole_digests: Whether to make a SHA-256 over each sealed file, too.
        """
        self._directory = directory
        self._dataset_key = dataset_key
        self._writer = writer
        self._workers = workers or os.cpu_count() or 1
        self._whole = whole_digests
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="sealroom-seal")

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def seal_all(
        self, files: Sequence[SourceFile], journal: Finished, progress: Progress | None
    ) -> list[FileEntry]:
        """Seal files and record each in the journal; those that are in it already are passed over.

        Raises:
            StorageError: A source cannot be read or changed.
            ConfigurationError: A source is no regular file any more.
            OSError: A sealed file cannot be written.
        """
        advance = progress or (lambda _name, _size: None)
        running: deque[tuple[SourceFile, Future[tuple[SourceIdentity, FileEntry]]]] = deque()
        synced = time.monotonic()
        unsynced = 0

        def record(file: SourceFile, sealed: tuple[SourceIdentity, FileEntry], *, tell: bool) -> None:
            nonlocal synced, unsynced
            journal.add(*sealed)
            unsynced += 1
            if unsynced >= _SYNC_FILES or time.monotonic() - synced > _SYNC_SECONDS:
                journal.sync()
                synced, unsynced = time.monotonic(), 0
            if tell and file.size:
                advance(file.name, file.size)

        def take(most: int) -> None:
            """Record what is done, and wait until so many are running at most."""
            while running and (len(running) > most or running[0][1].done()):
                first, future = running.popleft()
                record(first, future.result(), tell=True)

        try:
            for file in files:
                if file.size <= _BATCH_BYTES:
                    running.append((file, self._pool.submit(self._seal_small, file)))
                    take(2 * self._workers)
                else:
                    # Not beside small ones: where the disk is too small for it, they would fail with it.
                    take(0)
                    record(file, self._seal_large(file, advance), tell=False)
            take(0)
        finally:
            # After an error, too: the few that were begun are finished, and need not be sealed again.
            wait([future for _, future in running])
            for _, future in running:
                if future.exception() is None:
                    journal.add(*future.result())
            journal.sync()
        return [journal.done[file.name][1] for file in files]

    def _seal_small(self, file: SourceFile) -> tuple[SourceIdentity, FileEntry]:
        """Seal a file of one batch, in one task."""
        header, cipher = self._keys()
        fd, before = open_source(file)
        try:
            out = self._buffer("out", _BATCH * CIPHER_SEGMENT)
            records = self._encrypt(file, fd, 0, file.size, cipher, out)
            _check_unchanged(file, fd, before)
        finally:
            os.close(fd)
        body = out[: cipher_size(file.size)]
        digest = hashlib.sha256(header.to_bytes()) if self._whole else None
        if digest is not None:
            digest.update(body)
        with self._output(file.name + SEALED_SUFFIX, 0) as output:
            output.write_plain(header.to_bytes(), body)
        return before, self._finish(file, header, records, digest)

    def _seal_large(self, file: SourceFile, advance: Progress) -> tuple[SourceIdentity, FileEntry]:
        """Seal a file batch by batch; several run at once, and they are written in order."""
        header, cipher = self._keys()
        digest = hashlib.sha256(header.to_bytes()) if self._whole else None
        records = bytearray()
        fd, before = open_source(file)
        running: deque[tuple[memoryview, int, int, Future[bytes]]] = deque()
        free = [_aligned(_PAGE + _BATCH * CIPHER_SEGMENT) for _ in range(self._workers + 2)]

        def finish_one(output: Output) -> None:
            buffer, shift, size, future = running[0]
            more = future.result()
            running.popleft()
            records.extend(more)
            end = shift + cipher_size(size)
            if digest is not None:
                digest.update(buffer[shift:end])
            output.write(buffer, shift, end)
            free.append(buffer)
            advance(file.name, size)

        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            whole = header.size + cipher_size(file.size)
            with self._output(file.name + SEALED_SUFFIX, whole, header.to_bytes()) as output:
                for start in range(0, file.size, _BATCH_BYTES):
                    if not free:
                        finish_one(output)
                    buffer = free.pop()
                    size = min(_BATCH_BYTES, file.size - start)
                    # The same place within a page as in the file, so that whole pages are written.
                    shift = (header.size + start // SEGMENT * CIPHER_SEGMENT) % _PAGE
                    task = self._pool.submit(self._encrypt, file, fd, start, size, cipher, buffer[shift:])
                    running.append((buffer, shift, size, task))
                while running:
                    finish_one(output)
                _check_unchanged(file, fd, before)
        finally:
            for *_, future in running:
                future.cancel()
            wait([future for *_, future in running])
            os.close(fd)
        return before, self._finish(file, header, records, digest)

    def _keys(self) -> tuple[Header, SegmentCipher]:
        key = DataKey.generate()
        try:
            return make_header([key], [self._dataset_key], writer=self._writer), SegmentCipher([key])
        finally:
            key.wipe()

    def _output(self, name: str, size: int, begin: bytes = b"") -> AbstractContextManager[Output]:
        """Return a new file that is written in order; `size` is 0 where all of it comes at once."""
        target = self._directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return _Output(target, size, begin)

    def _store(self, name: str, data: bytes) -> None:
        """Make a small new file durable."""
        write_durably(self._directory / name, data)

    def _encrypt(
        self, file: SourceFile, fd: int, start: int, size: int, cipher: SegmentCipher, out: memoryview
    ) -> bytes:
        """Read and encrypt a batch into a buffer, and return the records of its segments."""
        scratch = self._buffer("scratch", _READ * SEGMENT)
        records, at = [], 0
        for offset in range(start, start + size, len(scratch)):
            plain = scratch[: min(len(scratch), start + size - offset)]
            _read_whole(file, fd, offset, plain)
            for begin in range(0, len(plain), SEGMENT):
                part = plain[begin : begin + SEGMENT]
                segment = out[at : at + len(part) + OVERHEAD]
                cipher.encrypt_into(part, segment)
                records.append(record_of(segment))
                at += len(segment)
        return b"".join(records)

    def _buffer(self, name: str, size: int) -> memoryview:
        found: memoryview | None = getattr(self._local, name, None)
        if found is None:
            found = _aligned(size)
            setattr(self._local, name, found)
        return found

    def _finish(
        self, file: SourceFile, header: Header, records: bytes | bytearray, digest: hashlib._Hash | None
    ) -> FileEntry:
        self._store(file.name + SEGMENTS_SUFFIX, bytes(records))
        view = memoryview(records)
        return FileEntry(
            name=file.name,
            media_type=mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            size=file.size,
            header_size=header.size,
            header_sha256=header.sha256,
            cipher_size=cipher_size(file.size),
            segments_root=root_hash(view[i : i + RECORD] for i in range(0, len(view), RECORD)).hex(),
            sha256=None if digest is None else digest.hexdigest(),
        )


class Output(Protocol):
    """Where a sealed file goes."""

    def write(self, buffer: memoryview, start: int, end: int) -> None:
        """Write what stands in a page-aligned buffer; what came before ends `start` bytes into a page."""

    def write_plain(self, *parts: bytes | memoryview) -> None:
        """Write some bytes as they are."""


class _Output:
    """A new file that is written in order in whole pages; removed if it is not finished."""

    def __init__(self, path: Path, size: int, begin: bytes = b"") -> None:
        self._path = path
        self._position = 0
        self._tail = begin
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._direct = False
        if size >= _DIRECT_FROM:
            try:
                self._fd = os.open(path, flags | os.O_DIRECT, 0o666)
                self._direct = True
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Some file systems say so only after they have made the file.
                path.unlink(missing_ok=True)
        if not self._direct:
            self._fd = os.open(path, flags, 0o666)
        else:
            self._allocate(size)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._buffered()
                self._write(memoryview(self._tail))
                os.fsync(self._fd)
        except BaseException:
            kind = OSError
            raise
        finally:
            os.close(self._fd)
            if kind is not None:
                self._path.unlink(missing_ok=True)

    def write(self, buffer: memoryview, start: int, end: int) -> None:
        """Write what stands in a page-aligned buffer; what came before ends `start` bytes into a page."""
        if len(self._tail) != start:
            if self._position or len(self._tail) < _PAGE or len(self._tail) % _PAGE != start:
                raise RuntimeError("written out of order")
            # A header of more than a page.
            whole = len(self._tail) - start
            self._buffered()
            self._write(memoryview(self._tail)[:whole])
            self._tail = self._tail[whole:]
        buffer[:start] = self._tail
        whole = end // _PAGE * _PAGE
        self._write(buffer[:whole])
        self._tail = bytes(buffer[whole:end])

    def write_plain(self, *parts: bytes | memoryview) -> None:
        """Write some bytes as they are."""
        for part in parts:
            self._write(memoryview(part))

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                done = os.pwrite(self._fd, data, self._position)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._buffered()
                continue
            self._position += done
            data = data[done:]

    def _buffered(self) -> None:
        if self._direct:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
            self._direct = False

    def _allocate(self, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                os.close(self._fd)
                self._path.unlink(missing_ok=True)
                raise
            # It only helps the file system to find one piece for it.


def open_source(file: SourceFile) -> tuple[int, SourceIdentity]:
    """Open a file that is to be sealed.

    Raises:
        StorageError: It cannot be read, or is not the file that was listed.
        ConfigurationError: It is not a regular file any more.
    """
    # NOFOLLOW: what was a file when it was listed must not have become a link to something else.
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise cannot_read(file.path, error) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ConfigurationError(f"{file.name} is a special file, which cannot be sealed.")
    if status.st_size != file.size:
        os.close(fd)
        raise _changed(file)
    return fd, SourceIdentity.of(status)


def space_needed(files: Sequence[SourceFile]) -> int:
    """Return how many bytes the sealed files take, with directories and file ends generously."""
    return sum(cipher_size(file.size) + RECORD * segment_count(file.size) + (16 << 10) for file in files)


def _read_whole(file: SourceFile, fd: int, offset: int, buffer: memoryview) -> None:
    got = 0
    while got < len(buffer):
        try:
            more = os.preadv(fd, [buffer[got:]], offset + got)
        except OSError as error:
            raise cannot_read(file.path, error) from error
        if more == 0:
            raise _changed(file)
        got += more


def _check_unchanged(file: SourceFile, fd: int, before: SourceIdentity) -> None:
    if SourceIdentity.of(os.fstat(fd)) != before:
        raise _changed(file)


def _changed(file: SourceFile) -> StorageError:
    return StorageError(
        f"{file.name} changed while it was sealed.", advice="Seal again when nothing writes to it."
    )


def _aligned(size: int) -> memoryview:
    """Return a page-aligned buffer, a whole number of pages."""
    return memoryview(mmap.mmap(-1, -(-size // _PAGE) * _PAGE))
