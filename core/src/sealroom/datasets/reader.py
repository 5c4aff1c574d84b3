# SPDX-License-Identifier: BSD-3-Clause
"""Reads ranges of one sealed file, each segment checked against the signed manifest and decrypted in memory.

Invariants:

- A byte reaches the caller only if its segment is the one that the manifest pins at this place and
  authenticates under the file's data key. A failed read leaves zeros in the caller's buffer.
- Reads are positional, so any number of threads read at once; decryption runs without the interpreter lock,
  and long runs are spread over idle processors.
- Whole segments are decrypted straight into the caller's buffer; only parts of segments, and what is read
  ahead, go through the cache.
- After `close` no read succeeds, not even one that has begun.
- A reader works in a forked child (unless its file lies in S3), and is never pickled: it holds a key.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sealroom.crypt4gh import CIPHER_SEGMENT, OVERHEAD, SEGMENT, DataKey, SegmentCipher
from sealroom.datasets import parallel
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.fetch import Fetcher
from sealroom.datasets.manifest import FileEntry
from sealroom.datasets.readahead import LARGEST, ReadAhead
from sealroom.datasets.segment_list import COPY_AGAIN, SegmentList
from sealroom.datasets.source import REPLACED, LocalSource, Source
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import AccessDeniedError, IntegrityError

# Segments that are read and then decrypted by one thread: they stay in the processor's cache in between.
_RUN = 8
# The same where they are in memory already.
_IN_MEMORY_RUN = 64
# Segments of one request to another machine: 4 MiB.
_FAR_RUN = 64
# Segments from which on more threads than one are worth it, and how many each takes at once.
_PARALLEL = 8
# A read below this is small: what follows it is read ahead into the cache.
_SMALL = LARGEST * SEGMENT


class SegmentReader:
    """Reads one sealed file of a dataset.

    Args:
        place: The dataset's directory, or the sealed file itself.
        entry: The file's entry in the verified manifest.
        data_keys: What the released header held, or the cipher with it; the reader does not keep the keys.
        cache: Where decrypted segments are kept; shared between readers.
        segments: The list of its segments; needed where `place` is not a directory.
        check_digests: Compare each segment's SHA-256 too. Against anybody without the data key this adds
            nothing (see `segment_list`), and it doubles the cost.
        mapped: See `open_source`.
        parallel: Let idle processors help with long runs.

    Raises:
        IntegrityError: Size, header or list of segments are not what the manifest says.
        StorageError: The file cannot be read.
    """

    def __init__(
        self,
        place: DatasetDirectory | Source,
        entry: FileEntry,
        data_keys: Sequence[DataKey] | SegmentCipher,
        *,
        cache: SegmentCache,
        segments: SegmentList | None = None,
        check_digests: bool = False,
        mapped: bool | None = None,
        parallel: bool = True,
    ) -> None:
        self.entry = entry
        cipher = data_keys if isinstance(data_keys, SegmentCipher) else SegmentCipher(data_keys)
        self._cipher: SegmentCipher | None = cipher
        self._cache = cache
        self._owner = cache.new_owner()
        self._check_digests = check_digests
        self._parallel = parallel
        self._scratch = threading.local()
        if isinstance(place, DatasetDirectory):
            self.source = open_checked(place, entry, mapped=mapped)
            self._segments = segments or load_segment_list(place, entry)
        else:
            if segments is None:
                raise TypeError("a reader of a source needs the list of its segments")
            check_source(place, entry)
            self.source, self._segments = place, segments
        self._identity = self.source.identity()
        self._mapped = isinstance(self.source, LocalSource) and self.source.mapped
        self._fetcher = Fetcher(self.source, self.source.size) if self.source.far else None
        self._ahead = ReadAhead(min(LARGEST, cache.capacity // (2 * SEGMENT)))

    @property
    def size(self) -> int:
        """Plaintext bytes."""
        return self.entry.size

    @property
    def path(self) -> Path:
        """Where the file lies on this machine."""
        if not isinstance(self.source, LocalSource):
            raise TypeError("this file does not lie on this machine")
        return self.source.path

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
            self._alive()
            if total:
                self._read(offset, target)
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
        # The source stays open until the last read has ended: its number could already stand for another
        # file.

    def __del__(self) -> None:
        if getattr(self, "_cipher", None) is not None:
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a reader holds a key and is not pickled")

    def __repr__(self) -> str:
        return f"<SegmentReader of {self.entry.name}, {self.size} bytes>"

    def _alive(self) -> SegmentCipher:
        cipher = self._cipher
        if cipher is None:
            raise AccessDeniedError(
                f"{self.entry.name} is not open any more.", advice="Unlock the dataset again."
            )
        return cipher

    def _read(self, offset: int, target: memoryview) -> None:
        ahead = self._ahead.begin(offset)
        request = _Request(offset, target)
        first, last = offset // SEGMENT, (request.end - 1) // SEGMENT
        # 1. Parts of segments, and a single segment, may be in the cache.
        if (first == last or offset % SEGMENT) and self._from_cache(first, request):
            first += 1
        if first <= last and not self._is_whole(last, request) and self._from_cache(last, request):
            last -= 1
        # 2. Everything else is fetched, with what probably follows if it is little.
        fetched = first <= last
        if fetched:
            count = last + 1 - first
            if len(target) < _SMALL and count < ahead:
                count = max(count, self._not_cached(first, ahead))
            # What a stream of reads needs next, in advance.
            following = 0
            if ahead > 1:
                following = count if len(target) >= _SMALL else min(2 * ahead, self._ahead.largest)
            self._fetch(first, count, request, following)
        self._ahead.end(request.end, ahead, fetched=fetched)

    def _is_whole(self, index: int, request: _Request) -> bool:
        start = index * SEGMENT
        return request.offset <= start and start + self._plain_size(index) <= request.end

    def _from_cache(self, index: int, request: _Request) -> bool:
        plain = self._cache.get(self._owner, index)
        if plain is not None:
            request.copy(index, plain)
        return plain is not None

    def _not_cached(self, first: int, count: int) -> int:
        """Return how many of some segments in a row are there and not in the cache, from the first on."""
        count = min(count, self.entry.segments - first)
        for number in range(count):
            if self._cache.get(self._owner, first + number) is not None:
                return number
        return count

    def _plain_size(self, index: int) -> int:
        return min(SEGMENT, self.size - index * SEGMENT)

    def _fetch(self, first: int, count: int, request: _Request, following: int) -> None:
        """Read, check and decrypt some segments in their places.

        Args:
            first: The first of them.
            count: How many.
            request: What is wanted.
            following: How many will probably be needed next.
        """
        fetcher = self._fetcher
        if fetcher is None:
            self._spread(first, count, request, None)
            return
        last = first + count
        while first < last:
            start, length = self._cipher_range(first, min(_FAR_RUN, last - first))
            view = fetcher.get(start, length)
            if len(view) % CIPHER_SEGMENT and len(view) < length:
                raise _cut(self.entry, start + len(view))
            part = -(-len(view) // CIPHER_SEGMENT)
            after = first + part
            # The next request goes out before this answer is decrypted.
            wanted = last - after if after < last else self._not_cached(after, following)
            if wanted:
                fetcher.ask(*self._cipher_range(after, min(_FAR_RUN, wanted)))
            self._spread(first, part, request, view)
            first = after

    def _cipher_range(self, index: int, count: int) -> tuple[int, int]:
        start = index * CIPHER_SEGMENT
        length = min(count * CIPHER_SEGMENT, self.entry.cipher_size - start)
        return self.entry.header_size + start, length

    def _spread(self, first: int, count: int, request: _Request, view: memoryview | None) -> None:
        """Decrypt some segments, in several threads if there are many."""
        # Where another machine is asked, one processor is busy with that.
        if count < _PARALLEL or not self._parallel or (view is not None and parallel.processors() < 3):
            self._decrypt(first, count, request, view)
            return

        each = _PARALLEL if count < 8 * _PARALLEL else 2 * _PARALLEL

        def work(number: int) -> None:
            at = number * each
            part = None if view is None else view[at * CIPHER_SEGMENT : (at + each) * CIPHER_SEGMENT]
            self._decrypt(first + at, min(each, count - at), request, part)

        parallel.for_each(work, -(-count // each))

    def _decrypt(self, first: int, count: int, request: _Request, view: memoryview | None) -> None:
        """Decrypt some segments in this thread."""
        run = _RUN if view is None and not self._mapped else _IN_MEMORY_RUN
        for start in range(first, first + count, run):
            some = min(run, first + count - start)
            if view is None:
                cipher_text = self._cipher_text(start, some)
            else:
                cipher_text = view[(start - first) * CIPHER_SEGMENT :]
            self._open(start, some, cipher_text, request)

    def _open(self, first: int, count: int, cipher_text: memoryview, request: _Request) -> None:
        """Check and decrypt some segments that lie behind each other."""
        size = self._plain_size(first + count - 1)
        ends = [CIPHER_SEGMENT * (i + 1) for i in range(count - 1)]
        ends.append((count - 1) * CIPHER_SEGMENT + size + OVERHEAD)
        segments = [cipher_text[i * CIPHER_SEGMENT : end] for i, end in enumerate(ends)]
        self._check(first, segments)
        target, at = request.target, first * SEGMENT - request.offset
        outs: list[memoryview] = []
        parts: list[tuple[int, bytearray]] = []
        for index, segment in enumerate(segments, first):
            length = len(segment) - OVERHEAD
            if at >= 0 and at + length <= len(target):
                outs.append(target[at : at + length])
            else:
                # Not wanted whole: the rest may be wanted next.
                parts.append((index, bytearray(length)))
                outs.append(memoryview(parts[-1][1]))
            at += length
        done = self._alive().decrypt_run(segments, outs)
        if done < count:
            raise self._refusal(first + done, segments[done])
        for index, plain in parts:
            request.copy(index, plain)
            self._cache.put(self._owner, index, plain)
        if parts and self._cipher is None:
            self._cache.drop(self._owner)

    def _check(self, first: int, segments: Sequence[memoryview]) -> None:
        """Compare segments with what the manifest pins at their places."""
        good = self._segments.pin_all(first, segments)
        if good and not self._check_digests:
            return
        for index, segment in enumerate(segments, first):
            good = self._segments.pins(index, segment)
            if good and self._check_digests:
                good = self._segments.digests(index, segment)
            if not good:
                raise self._refusal(index, segment)

    def _cipher_text(self, index: int, count: int) -> memoryview:
        """Return the cipher text of some segments: mapped, or in this thread's scratch memory."""
        start, want = self._cipher_range(index, count)
        view = self.source.view(start, want)
        if view is None:
            scratch = getattr(self._scratch, "view", None)
            if scratch is None:
                # Private: a forked child must not share it.
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                scratch = memoryview(mmap.mmap(-1, _RUN * CIPHER_SEGMENT, flags))
                self._scratch.view = scratch
            view = scratch[:want]
            got = self.source.pread_into(start, view)
        else:
            got = len(view)
        if got < want:
            raise _cut(self.entry, start + got)
        return view

    def _refusal(self, index: int, segment: memoryview) -> IntegrityError:
        error = self._segments.refusal(self.entry.name, index, segment)
        if self.source.identity() == self._identity:
            return error
        return IntegrityError(f"{error.message[:-1]}; {REPLACED} or written to.", advice=error.advice)


class _Request:
    """What a caller wants: a range of the plaintext, and where it goes."""

    __slots__ = ("end", "offset", "target")

    def __init__(self, offset: int, target: memoryview) -> None:
        self.offset = offset
        self.target = target
        self.end = offset + len(target)

    def copy(self, index: int, plain: bytearray) -> None:
        """Put the part of a segment that is wanted into its place."""
        start = index * SEGMENT
        first, last = max(start, self.offset), min(start + len(plain), self.end)
        if first < last:
            part = memoryview(plain)[first - start : last - start]
            self.target[first - self.offset : last - self.offset] = part


def open_checked(directory: DatasetDirectory, entry: FileEntry, *, mapped: bool | None = None) -> Source:
    """Open a sealed file whose size and header are what the manifest says.

    Raises:
        IntegrityError: They are not.
        StorageError: The file cannot be read.
    """
    source = directory.sealed_source(entry.name, mapped=mapped)
    try:
        check_source(source, entry)
    except BaseException:
        source.close()
        raise
    return source


def check_source(source: Source, entry: FileEntry) -> None:
    """Check size and header of a sealed file.

    Raises:
        IntegrityError: They are not what the manifest says.
        StorageError: The file cannot be read.
    """
    header = bytearray(min(entry.header_size, source.size))
    got = source.pread_into(0, memoryview(header))
    if hashlib.sha256(header[:got]).hexdigest() != entry.header_sha256:
        raise IntegrityError(
            f"{entry.name}: its header is not the one that the data owner sealed it with.", advice=COPY_AGAIN
        )
    expected = entry.header_size + entry.cipher_size
    if source.size < expected:
        raise _cut(entry, source.size)
    if source.size > expected:
        raise IntegrityError(
            f"{entry.name}: {source.size - expected} bytes stand behind its last segment ({entry.segments}).",
            advice=COPY_AGAIN,
        )


def load_segment_list(directory: DatasetDirectory, entry: FileEntry) -> SegmentList:
    """Open the list of a file's segments and check it against the manifest.

    Raises:
        IntegrityError: It is not the signed one.
        StorageError: It cannot be read.
    """
    source = directory.segments_source(entry.name)
    return SegmentList(source, name=entry.name, count=entry.segments, root=entry.segments_root)


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
