# SPDX-License-Identifier: BSD-3-Clause
"""Checks a sealed dataset, on disk or in S3, against its signed manifest, without any key to the data.

What this proves: these are the bytes that the data owner sealed, all of them, in order. With the dataset's
secret key it decrypts every segment too, in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    Header,
    HeaderKeyError,
    SecretKey,
    SegmentCipher,
    TagError,
    open_header,
)
from sealroom.datasets.manifest import FileEntry, Manifest
from sealroom.datasets.reader import load_segment_list, open_checked
from sealroom.datasets.segment_list import COPY_AGAIN, SegmentList
from sealroom.datasets.source import Source
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import Error, FormatError, IntegrityError

# Segments that are read at once; where each read costs a round trip, more.
_AT_ONCE, _FAR_AT_ONCE = 16, 128


def check_file(
    directory: DatasetDirectory,
    manifest: Manifest,
    entry: FileEntry,
    *,
    secret: SecretKey | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> None:
    """Read a whole sealed file and compare it with the manifest.

    Args:
        directory: Where the dataset lies.
        manifest: The verified manifest.
        entry: The file's entry in it.
        secret: The dataset's secret key, to decrypt every segment too.
        progress: Called with how many more bytes of the file were read; from several threads.
        workers: Threads that check it, if nothing is to be compared over the file as a whole.

    Raises:
        IntegrityError: It is not what the data owner sealed: what, where, and what to do.
        StorageError: It cannot be read.
        HeaderKeyError: The secret key does not open it.
    """
    # 1. Size and header.
    source = open_checked(directory, entry, mapped=False)
    with contextlib.closing(source):
        # 2. The list of segments, against its Merkle root.
        segments = load_segment_list(directory, entry)
        # 3. With a key: only the writer that the manifest names may have added packets.
        header = _read(source, 0, entry.header_size)
        cipher = None
        if secret is not None:
            cipher = open_cipher(header, manifest, entry, secret)
        # 4. Every segment; and the body, or the file, as a whole if the manifest has a digest of it.
        check = _Segments(source, entry, segments, cipher, progress)
        wholes = _wholes(entry, header)
        if wholes or workers < 2:
            for data in check.all():
                for whole, _, _ in wholes:
                    whole.update(data)
        else:
            check.all_at_once(workers)
    for whole, expected, what in wholes:
        if whole.hexdigest() != expected:
            raise IntegrityError(
                f"{entry.name}: {what} has another SHA-256 than the manifest says.", advice=COPY_AGAIN
            )


def check_dataset(
    directory: DatasetDirectory,
    manifest: Manifest,
    *,
    secret: SecretKey | None = None,
    progress: Callable[[str, int], None] | None = None,
    workers: int | None = None,
) -> dict[str, Error | None]:
    """Check every file, several at once; the answer holds for each what is wrong with it, or None.

    Args:
        directory: Where the dataset lies.
        manifest: The verified manifest.
        secret: The dataset's secret key, to decrypt every segment too.
        progress: Called with a file's name and how many more of its bytes were read; one call at a time.
        workers: Threads; as many as there are processors by default.
    """
    threads = workers or os.cpu_count() or 1
    turn = threading.Lock()
    # A few large files share the threads; of many, each has one.
    each = max(1, threads // len(manifest.files))

    def check(entry: FileEntry) -> Error | None:
        def advance(size: int) -> None:
            if progress is not None:
                with turn:
                    progress(entry.name, size)

        try:
            check_file(directory, manifest, entry, secret=secret, progress=advance, workers=each)
        except Error as error:
            return error
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="sealroom-check") as pool:
        try:
            found = list(pool.map(check, manifest.files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {entry.name: error for entry, error in zip(manifest.files, found, strict=True)}


@dataclass(frozen=True, slots=True)
class _Segments:
    """Compares the segments of a file with their list."""

    source: Source
    entry: FileEntry
    segments: SegmentList
    cipher: SegmentCipher | None
    progress: Callable[[int], None] | None

    def all(self) -> Iterator[memoryview]:
        """Check all segments in order, and yield their bytes, which the next step overwrites."""
        yield from self._range(range(self.entry.segments))

    def all_at_once(self, workers: int) -> None:
        """Check all segments, a share in each thread; the first wrong one of the file is what is raised."""
        count = self.entry.segments
        step = max(1, -(-count // workers))
        shares = [range(start, min(start + step, count)) for start in range(0, count, step)]
        with ThreadPoolExecutor(workers, thread_name_prefix="sealroom-check") as pool:
            for future in [pool.submit(self._drain, share) for share in shares]:
                future.result()

    def _drain(self, share: range) -> None:
        for _ in self._range(share):
            pass

    def _range(self, share: range) -> Iterator[memoryview]:
        step = _FAR_AT_ONCE if self.source.far else _AT_ONCE
        buffer = memoryview(bytearray(step * CIPHER_SEGMENT))
        out = memoryview(bytearray(SEGMENT))
        for first in share[::step]:
            begin = first * CIPHER_SEGMENT
            end = min(self.entry.cipher_size, min(first + step, share.stop) * CIPHER_SEGMENT)
            data = buffer[: end - begin]
            if self.source.pread_into(self.entry.header_size + begin, data) != len(data):
                raise IntegrityError(f"{self.entry.name}: it was cut while it was read.", advice=COPY_AGAIN)
            for index in range(first, min(first + step, share.stop)):
                start = (index - first) * CIPHER_SEGMENT
                self._one(index, data[start : start + CIPHER_SEGMENT], out)
            yield data
            if self.progress is not None:
                self.progress(len(data))

    def _one(self, index: int, segment: memoryview, out: memoryview) -> None:
        good = (
            len(segment) > OVERHEAD
            and self.segments.pins(index, segment)
            and self.segments.digests(index, segment)
        )
        if good and self.cipher is not None:
            good = _decrypts(self.cipher, segment, out)
        if not good:
            raise self.segments.refusal(self.entry.name, index, segment)


def _wholes(entry: FileEntry, header: bytes) -> Sequence[tuple[hashlib._Hash, str, str]]:
    """Return what is compared over a whole file: digest to be made, the manifest's, and of what."""
    found = []
    if entry.cipher_sha256 is not None:
        found.append((hashlib.sha256(), entry.cipher_sha256, "its body"))
    if entry.sha256 is not None:
        found.append((hashlib.sha256(header), entry.sha256, "it"))
    return found


def _read(source: Source, offset: int, size: int) -> bytes:
    data = bytearray(size)
    return bytes(data[: source.pread_into(offset, memoryview(data))])


def open_cipher(header: bytes, manifest: Manifest, entry: FileEntry, secret: SecretKey) -> SegmentCipher:
    """Open a file's header with the dataset's secret key.

    Raises:
        HeaderKeyError: The key does not open it.
        IntegrityError: Another writer than the manifest's added a packet.
        FormatError: It is no header, or it has an edit list.
    """
    try:
        opened = open_header(Header.from_bytes(header), secret, expected_writer=manifest.writer)
    except HeaderKeyError as error:
        raise HeaderKeyError(f"{entry.name}: {error.message}", advice=error.advice) from error
    try:
        if opened.edit_list is not None:
            raise FormatError(
                f"{entry.name} has an edit list, which sealed datasets do not support.",
                advice="Decrypt it with the crypt4gh command, which applies the list, and seal it again.",
            )
        return SegmentCipher(opened.data_keys)
    finally:
        for key in opened.data_keys:
            key.wipe()


def _decrypts(cipher: SegmentCipher, segment: memoryview, out: memoryview) -> bool:
    try:
        cipher.decrypt_into(segment, out[: len(segment) - OVERHEAD])
    except TagError:
        return False
    return True
