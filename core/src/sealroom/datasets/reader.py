# SPDX-License-Identifier: BSD-3-Clause
"""Reads ranges of one sealed file, each segment checked against the signed manifest and decrypted in memory.

Invariants:

- A byte reaches the caller only if its segment is the one that the manifest pins at this place and
  authenticates under the file's data key. A failed read leaves zeros in the caller's buffer.
- Reads are positional, so any number of threads read at once; decryption runs without the interpreter lock.
- Whole segments are decrypted straight into the caller's buffer; only parts of segments go through the cache.
- After `close` no read succeeds, not even one that has begun.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from sealroom.crypt4gh import CIPHER_SEGMENT, OVERHEAD, SEGMENT, DataKey, SegmentCipher, TagError
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.manifest import FileEntry
from sealroom.datasets.segment_list import COPY_AGAIN, RECORD, SegmentList
from sealroom.datasets.store import DatasetDirectory, cannot_read, read_file
from sealroom.errors import AccessDeniedError, IntegrityError, StorageError

# Segments read from the file at once: 1 MiB stays in the processor's cache between reading and decrypting.
_RUN = 16


class SegmentReader:
    """Reads one sealed file of a dataset.

    Args:
        directory: Where the dataset lies.
        entry: The file's entry in the verified manifest.
        data_keys: What the released header held; the reader does not keep them.
        cache: Where decrypted segments are kept; shared between readers.
        check_digests: Compare each segment's SHA-256 too. Against anybody without the data key this adds
            nothing
            (see `segment_list`), and it doubles the cost.

    Raises:
        IntegrityError: Size, header or list of segments are not what the manifest says.
        StorageError: The file cannot be read.
    """

    def __init__(
        self,
        directory: DatasetDirectory,
        entry: FileEntry,
        data_keys: Sequence[DataKey],
        *,
        cache: SegmentCache,
        check_digests: bool = False,
    ) -> None:
        self.entry = entry
        self.path = directory.sealed_file(entry.name)
        self._cipher: SegmentCipher | None = SegmentCipher(data_keys)
        self._cache = cache
        self._owner = cache.new_owner()
        self._check_digests = check_digests
        self._scratch = threading.local()
        self._fd = open_checked(self.path, entry)
        try:
            self._segments = load_segment_list(directory, entry)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    @property
    def size(self) -> int:
        """Plaintext bytes."""
        return self.entry.size

    def pread(self, offset: int, length: int) -> bytes:
        """Return a range, shorter only at the file's end."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        self.pread_into(offset, memoryview(buffer))
        return bytes(buffer)

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Read a range into a buffer and return how many bytes there were, fewer only at the file's end.

        Raises:
            IntegrityError: A segment of the range is not the one that the data owner sealed.
            StorageError: The file cannot be read.
            AccessDeniedError: The reader was closed.
        """
        if offset < 0:
            raise TypeError("offset is negative")
        total = max(0, min(len(buffer), self.size - offset))
        target = buffer[:total]
        try:
            done = 0
            while done < total:
                done += self._step(offset + done, target[done:])
            self._alive()
        except BaseException:
            target[:] = bytes(total)
            raise
        return total

    def close(self) -> None:
        """Forget the key and what was decrypted; reads that have begun fail."""
        if self._cipher is not None:
            self._cipher = None
            self._cache.drop(self._owner)

    def __del__(self) -> None:
        # Not in close: another thread may be reading, and the number could already stand for another file.
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self.close()

    def __repr__(self) -> str:
        return f"<SegmentReader of {self.entry.name}, {self.size} bytes>"

    def _alive(self) -> SegmentCipher:
        cipher = self._cipher
        if cipher is None:
            raise AccessDeniedError(
                f"{self.entry.name} is not open any more.", advice="Unlock the dataset again."
            )
        return cipher

    def _step(self, position: int, target: memoryview) -> int:
        """Fill the target's beginning and return how many bytes that were."""
        index, within = divmod(position, SEGMENT)
        whole = 0 if within else self._whole_segments(index, len(target))
        if whole > 1 or (whole and self._cache.get(self._owner, index) is None):
            return self._read_run(index, min(whole, _RUN), target)
        plain = self._cached(index)
        part = memoryview(plain)[within : within + len(target)]
        target[: len(part)] = part
        return len(part)

    def _whole_segments(self, index: int, room: int) -> int:
        """Return how many segments from this one on fit into the room."""
        whole = room // SEGMENT
        last = self.entry.segments - 1
        if index + whole == last and room - whole * SEGMENT >= self._plain_size(last):
            whole += 1
        return whole

    def _plain_size(self, index: int) -> int:
        return min(SEGMENT, self.size - index * SEGMENT)

    def _read_run(self, index: int, count: int, target: memoryview) -> int:
        cipher_text = self._read_cipher(index, count)
        done = 0
        for i in range(index, index + count):
            start = (i - index) * CIPHER_SEGMENT
            size = self._plain_size(i)
            self._open(i, cipher_text[start : start + size + OVERHEAD], target[done : done + size])
            done += size
        return done

    def _cached(self, index: int) -> bytearray:
        plain = self._cache.get(self._owner, index)
        if plain is None:
            plain = bytearray(self._plain_size(index))
            cipher_text = self._read_cipher(index, 1)
            self._open(index, cipher_text, memoryview(plain))
            self._cache.put(self._owner, index, plain)
            if self._cipher is None:
                self._cache.drop(self._owner)
        return plain

    def _read_cipher(self, index: int, count: int) -> memoryview:
        """Return the cipher text of some segments, in this thread's scratch memory."""
        scratch = getattr(self._scratch, "view", None)
        if scratch is None:
            scratch = self._scratch.view = memoryview(mmap.mmap(-1, _RUN * CIPHER_SEGMENT))
        start = index * CIPHER_SEGMENT
        want = min(count * CIPHER_SEGMENT, self.entry.cipher_size - start)
        view: memoryview = scratch[:want]
        done = 0
        while done < want:
            try:
                got = os.preadv(self._fd, [view[done:]], self.entry.header_size + start + done)
            except OSError as error:
                raise cannot_read(self.path, error) from error
            if not got:
                raise _cut(self.entry, self.entry.header_size + start + done)
            done += got
        return view

    def _open(self, index: int, segment: memoryview, target: memoryview) -> None:
        cipher = self._alive()
        good = self._segments.pins(index, segment)
        if good and self._check_digests:
            good = self._segments.digests(index, segment)
        if not good:
            raise self._segments.refusal(self.entry.name, index, segment)
        try:
            cipher.decrypt_into(segment, target)
        except TagError as error:
            raise self._segments.refusal(self.entry.name, index, segment) from error


def open_checked(path: Path, entry: FileEntry) -> int:
    """Open a sealed file whose size and header are what the manifest says, and return its descriptor.

    Raises:
        IntegrityError: They are not.
        StorageError: The file cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_read(path, error) from error
    try:
        size = os.fstat(fd).st_size
        header = os.pread(fd, entry.header_size, 0)
        _check_outside(entry, size, header)
    except OSError as error:
        os.close(fd)
        raise cannot_read(path, error) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def load_segment_list(directory: DatasetDirectory, entry: FileEntry) -> SegmentList:
    """Read the list of a file's segments and check it against the manifest.

    Raises:
        IntegrityError: It is not the signed one.
        StorageError: It cannot be read.
    """
    try:
        records = read_file(directory.segment_list(entry.name), RECORD * entry.segments)
    except StorageError as error:
        if "larger" not in error.message:
            raise
        records = b""
    return SegmentList(records, name=entry.name, count=entry.segments, root=entry.segments_root)


def _check_outside(entry: FileEntry, size: int, header: bytes) -> None:
    if hashlib.sha256(header).hexdigest() != entry.header_sha256:
        raise IntegrityError(
            f"{entry.name}: its header is not the one that the data owner sealed it with.", advice=COPY_AGAIN
        )
    expected = entry.header_size + entry.cipher_size
    if size < expected:
        raise _cut(entry, size)
    if size > expected:
        raise IntegrityError(
            f"{entry.name}: {size - expected} bytes stand behind its last segment ({entry.segments}).",
            advice=COPY_AGAIN,
        )


def _cut(entry: FileEntry, size: int) -> IntegrityError:
    whole = max(0, size - entry.header_size) // CIPHER_SEGMENT
    missing = entry.header_size + entry.cipher_size - size
    return IntegrityError(
        f"{entry.name}: it was cut; {_bytes(missing)} missing, "
        f"from segment {min(whole + 1, max(entry.segments, 1))} of {entry.segments} on.",
        advice=COPY_AGAIN,
    )


def _bytes(count: int) -> str:
    return "1 byte is" if count == 1 else f"{count} bytes are"
