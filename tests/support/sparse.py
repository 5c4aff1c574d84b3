# SPDX-License-Identifier: BSD-3-Clause
"""A sealed file of any size of which only some segments were written; the rest are holes that no key opens.

Run as a program, it reads such a file and says how much its memory has grown.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    SEGMENT,
    DataKey,
    SecretKey,
    SegmentCipher,
    cipher_size,
    make_header,
    segment_count,
)
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.file import SealedFile
from sealroom.datasets.manifest import FileEntry
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.segment_list import RECORD, record_of
from sealroom.datasets.store import DatasetDirectory

KEY = bytes(range(32))
STREAMED = 512
"""Segments at the beginning that are there."""
EVERY = 1024
"""Of the others, one in so many is there."""


@dataclass(frozen=True)
class SparseFile:
    """The file and its entry."""

    folder: Path
    entry: FileEntry

    @classmethod
    def make(cls, folder: Path, *, size: int) -> SparseFile:
        """Write it."""
        key = DataKey(KEY)
        header, cipher = make_header([key], [SecretKey.generate().public]), SegmentCipher([key])
        count = segment_count(size)
        hole = record_of(bytes(CIPHER_SEGMENT))
        records = bytearray(hole * count)
        directory, segment = DatasetDirectory(folder), bytearray(CIPHER_SEGMENT)
        with directory.sealed_file("big.bin").open("wb") as stream:
            stream.write(header.to_bytes())
            for index in there(count):
                cipher.encrypt_into(cls.plain(index), memoryview(segment))
                os.pwrite(stream.fileno(), segment, header.size + index * CIPHER_SEGMENT)
                records[index * RECORD : (index + 1) * RECORD] = record_of(bytes(segment))
            stream.truncate(header.size + cipher_size(size))
        directory.segment_list("big.bin").write_bytes(records)
        view = memoryview(records)
        entry = FileEntry(
            name="big.bin",
            size=size,
            header_size=header.size,
            header_sha256=header.sha256,
            cipher_size=cipher_size(size),
            cipher_sha256="0" * 64,
            segments_root=root_hash(view[i : i + RECORD] for i in range(0, len(view), RECORD)).hex(),
        )
        (folder / "entry.json").write_text(entry.model_dump_json())
        return cls(folder, entry)

    @classmethod
    def open(cls, folder: Path) -> SparseFile:
        """Find one that was written."""
        return cls(folder, FileEntry.model_validate_json((folder / "entry.json").read_text()))

    @property
    def directory(self) -> DatasetDirectory:
        """Where it lies."""
        return DatasetDirectory(self.folder)

    @staticmethod
    def plain(index: int) -> bytes:
        """Return what a segment holds."""
        return hashlib.shake_128(index.to_bytes(8, "little")).digest(64) * (SEGMENT // 64)

    def reader(self, *, mapped: bool | None = None) -> SegmentReader:
        """Open it."""
        return SegmentReader(
            self.directory, self.entry, [DataKey(KEY)], cache=SegmentCache(4 << 20), mapped=mapped
        )


def there(count: int) -> list[int]:
    """Return the segments that are there."""
    return [*range(min(STREAMED, count)), *range(EVERY - 1, count, EVERY)]


def read_sha256(file: SealedFile, offset: int, length: int) -> bytes:
    """Read in another process, which must be able to import this."""
    return hashlib.sha256(file.pread(offset, length)).digest()


def private_memory() -> int:
    """Return the bytes of memory that belong to this process alone."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) << 10


def main(folder: str, mapped: str) -> None:
    """Read a file, compare it, and print how much memory that took."""
    found = SparseFile.open(Path(folder))
    buffer = memoryview(mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    buffer[:] = bytes(len(buffer))
    before = private_memory()
    most, segments = 0, 0
    reader = found.reader(mapped=mapped == "1")
    for offset in range(0, STREAMED * SEGMENT, len(buffer)):
        assert reader.pread_into(offset, buffer) == len(buffer)
        for at in range(0, len(buffer), SEGMENT):
            assert buffer[at : at + SEGMENT] == found.plain((offset + at) // SEGMENT)
            segments += 1
        most = max(most, private_memory() - before)
    for index in there(found.entry.segments)[STREAMED:]:
        assert reader.pread(index * SEGMENT + 100, 50) == found.plain(index)[100:150]
        segments += 1
        most = max(most, private_memory() - before)
    print(f"segments={segments} grown={most} listed={found.entry.segments}")


if __name__ == "__main__":
    main(*sys.argv[1:])
