# SPDX-License-Identifier: BSD-3-Clause
"""Sealed files for pysam and other tools that want a file's name, without plaintext on the disk.

htslib opens files itself and takes no Python file object. There are two ways round that:

- `in_memory` gives a whole file a name in memory (`memfd_create`), with its index beside it. Every tool of
  pysam works on it. It costs as much memory as the file is large.
- `IndexedVariants` reads a region of a bgzipped VCF: it looks the region up in the tabix index, fetches those
  blocks alone, and gives them to pysam. It costs what the region costs, whatever the file's size.

What neither does: serve the file on a local port, where every process of the machine could read it.

Formats: SAM/BAM specification sec. 4.1 (BGZF), the tabix specification (index of bins and of 16 kb windows);
samtools/hts-specs of 2025.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sealroom.datasets.api import open as open_sealed
from sealroom.datasets.file import SealedFile
from sealroom.errors import FormatError, StorageError

_PIECE = 8 << 20
_CGROUP = Path("/sys/fs/cgroup")
# A BGZF block is at most this long, packed and unpacked (SAM/BAM specification sec. 4.1).
_BLOCK = 1 << 16
_WINDOW_BITS = 14
# The first bins of the five levels of 128 Mb, 16 Mb, 2 Mb, 256 kb and 16 kb below bin 0, and their shifts.
_LEVELS = ((1, 26), (9, 23), (73, 20), (585, 17), (4681, 14))
_BINS = 37450
_LARGEST_POSITION = 1 << 29
_MAX_INDEX = 256 << 20


class MemoryFile:
    """A plain copy of a sealed file in this process's memory, with a name that other libraries can open.

    The memory cannot be changed once it is filled, has no name in any directory, and goes when this is closed
    and nobody has it open any more.

    Args:
        data: What it holds, piece by piece.
        label: What it is called in `/proc`.
    """

    def __init__(self, data: Iterator[bytes | memoryview], label: str) -> None:
        self._fd = os.memfd_create(label[-200:], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            for piece in data:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The name, for this process only."""
        return f"/proc/self/fd/{self.fileno()}"

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._fd < 0:
            raise ValueError("the file is closed")
        return self._fd

    def close(self) -> None:
        """Give the memory back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __fspath__(self) -> str:
        return self.name

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def in_memory(path: str) -> MemoryFile:
    """Decrypt a whole sealed file into memory that has a name.

    Args:
        path: Dataset and file, as `sealroom.open` takes it.

    Raises:
        AccessDeniedError: The dataset is locked, or access to it has ended.
        StorageError: The dataset has no such file, or this machine has not enough memory.
        IntegrityError: The sealed file was changed, cut or replaced.
    """
    with open_sealed(path) as file:
        free = _free_memory()
        if file.size > free:
            raise StorageError(
                f"{file.name} has {file.size} bytes, and {free} bytes of memory are free.",
                advice="Read it in place with sealroom.open, or a region of it with IndexedVariants.",
            )
        return MemoryFile(_pieces(file), file.path.rpartition("/")[2])


class IndexedVariants:
    """Regions of a sealed VCF that was compressed with bgzip and indexed with tabix.

    Args:
        path: Dataset and file, as `sealroom.open` takes it.
        index: The same of its index; the file's name with `.tbi` by default.

    Raises:
        AccessDeniedError: The dataset is locked, or access to it has ended.
        StorageError: The dataset has no such file.
        FormatError: The index is not a tabix index of a VCF, or the file was not compressed with bgzip.
    """

    def __init__(self, path: str, index: str | None = None) -> None:
        with open_sealed(index or f"{path}.tbi") as file:
            if file.size > _MAX_INDEX:
                raise FormatError(f"{file.name} is too large for an index.")
            packed = file.read()
        self._index = TabixIndex.from_bytes(b"".join(_inflate(packed)))
        self._file = open_sealed(path)
        self._header = self._read_header()

    @property
    def contigs(self) -> tuple[str, ...]:
        """The sequences that have variants, as the index names them."""
        return tuple(self._index.sequences)

    def fetch(self, contig: str, start: int, end: int) -> Iterator[Any]:
        """Yield the variants that overlap a region, in the file's order, as pysam's `VariantRecord`.

        Args:
            contig: The sequence, for example `chr1`.
            start: Its first base, counted from 0, as in `pysam.VariantFile.fetch`.
            end: The base behind its last one.

        Raises:
            AccessDeniedError: Access to the dataset has ended.
            IntegrityError: The sealed file was changed, cut or replaced.
            FormatError: The file is not the one that was indexed.
            StorageError: The index has no such sequence.
        """
        text = itertools.chain([self._header], self._blocks(self._index.chunks(contig, start, end)))
        pysam = import_module("pysam")
        with MemoryFile(text, "region.vcf") as memory, pysam.VariantFile(memory.name) as opened:
            for record in opened:
                # The blocks hold neighbours too.
                if record.contig == contig and record.start < end and record.stop > start:
                    yield record

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> IndexedVariants:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self) -> bytes:
        """Return the lines that begin with `#`."""
        found, done = b"", 0
        while done < self._file.size:
            packed = self._file.pread(done, 4 * _BLOCK)
            size = _whole(packed)
            if not size:
                raise _not_indexed()
            found += b"".join(_inflate(packed[:size]))
            done += size
            lines = found.splitlines(keepends=True)
            for number, line in enumerate(lines):
                if not line.startswith(b"#"):
                    return b"".join(lines[:number])
        return found

    def _blocks(self, chunks: Sequence[Chunk]) -> Iterator[bytes]:
        """Yield the text of some parts of the file; they are asked for with few requests."""
        ranges = [(self._file.handle, *chunk.packed) for chunk in chunks]
        answers = self._file.client.read_ranges(self._file.dataset, ranges)
        for chunk, packed in zip(chunks, answers, strict=True):
            if isinstance(packed, Exception):
                raise packed
            yield chunk.cut(packed)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a BGZF file that holds whole lines, between two virtual offsets.

    A virtual offset is the place of a block in the file (48 bits) and one in what it unpacks to (16 bits).
    """

    begin: int
    end: int

    @property
    def packed(self) -> tuple[int, int]:
        """Offset and length of the blocks that hold it, with some bytes more than the last one needs."""
        first = self.begin >> 16
        return first, (self.end >> 16) - first + _BLOCK

    def cut(self, packed: bytes | memoryview) -> bytes:
        """Return the chunk, of the blocks that `packed` names.

        Raises:
            FormatError: They are no blocks, or end before the chunk does.
        """
        text: list[bytes] = []
        at, last = 0, (self.end >> 16) - (self.begin >> 16)
        while at < last:
            size, block = _block(packed, at)
            text.append(block)
            at += size
        if at != last:
            raise _not_indexed()
        if rest := self.end & 0xFFFF:
            _, block = _block(packed, at)
            if rest > len(block):
                raise _not_indexed()
            text.append(block[:rest])
        skipped = self.begin & 0xFFFF
        if not text or skipped > len(text[0]):
            raise _not_indexed()
        return b"".join(text)[skipped:]


@dataclass(frozen=True, slots=True)
class _Sequence:
    bins: dict[int, list[Chunk]]
    windows: tuple[int, ...]
    """The first virtual offset of each 16 kb."""


@dataclass(frozen=True, slots=True)
class TabixIndex:
    """A tabix index of a VCF."""

    sequences: dict[str, _Sequence]

    @classmethod
    def from_bytes(cls, data: bytes) -> TabixIndex:
        """Parse an unpacked `.tbi`.

        Raises:
            FormatError: It is none, is cut, or indexes something else than a VCF.
        """
        if data[:4] != b"TBI\x01":
            raise FormatError(
                "This is not a tabix index.", field="magic", offset=0, advice="Use tabix -p vcf."
            )
        try:
            count, kind, _seq, _begin, _end, _meta, _skip, names = struct.unpack_from("<8i", data, 4)
            if kind != 2:
                raise FormatError(
                    "The index is not one of a VCF.",
                    field="format",
                    offset=8,
                    advice="Make one with tabix -p vcf.",
                )
            titles = data[36 : 36 + names].split(b"\0")[:-1]
            at, found = 36 + names, {}
            if len(titles) != count or len(data) < at:
                raise _cut()
            for title in titles:
                found[title.decode()], at = _sequence(data, at)
        except (struct.error, UnicodeDecodeError) as error:
            raise _cut() from error
        return cls(found)

    def chunks(self, contig: str, start: int, end: int) -> list[Chunk]:
        """Return the parts of the file in which lines about a region can be, in the file's order.

        Raises:
            StorageError: There is no such sequence.
        """
        sequence = self.sequences.get(contig)
        if sequence is None:
            raise StorageError(
                f"The index has no sequence {contig!r}.",
                advice="It has: " + ", ".join(list(self.sequences)[:20]) + ".",
            )
        start, end = max(0, start), min(end, _LARGEST_POSITION)
        if start >= end or not sequence.windows:
            return []
        # Nothing of the region lies before the first line of its first window, and nothing behind the first
        # line that lies wholly in a later window: the lines are sorted by their start.
        first = sequence.windows[min(start >> _WINDOW_BITS, len(sequence.windows) - 1)]
        leaf = _LEVELS[-1][0] + ((end - 1) >> _WINDOW_BITS)
        after = min((number for number in sequence.bins if number > leaf), default=None)
        last = sequence.bins[after][0].begin if after and sequence.bins[after] else 1 << 64
        chunks = sorted(
            (chunk for number in _bins(start, end) for chunk in sequence.bins.get(number, ())),
            key=lambda chunk: chunk.begin,
        )
        merged: list[Chunk] = []
        for chunk in chunks:
            begin, until = chunk.begin, min(chunk.end, last)
            if until <= max(first, begin):
                continue
            if merged and begin >> 16 <= (merged[-1].end >> 16) + _BLOCK:
                merged[-1] = Chunk(merged[-1].begin, max(merged[-1].end, until))
            else:
                merged.append(Chunk(begin, until))
        return merged


def _sequence(data: bytes, at: int) -> tuple[_Sequence, int]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    bins: dict[int, list[Chunk]] = {}
    for _ in range(count):
        number, size = struct.unpack_from("<Ii", data, at)
        if size < 0:
            raise _cut()
        offsets = struct.unpack_from(f"<{2 * size}Q", data, at + 8)
        at += 8 + 16 * size
        # The last bin holds counts, no chunks.
        if number < _BINS:
            bins[number] = [Chunk(*pair) for pair in zip(offsets[::2], offsets[1::2], strict=True)]
    (size,) = struct.unpack_from("<i", data, at)
    if size < 0:
        raise _cut()
    windows = struct.unpack_from(f"<{size}Q", data, at + 4)
    return _Sequence(bins, windows), at + 4 + 8 * size


def _bins(start: int, end: int) -> Iterator[int]:
    """Yield the bins that can hold what overlaps a region (SAM/BAM specification sec. 5.3)."""
    yield 0
    for first, shift in _LEVELS:
        yield from range(first + (start >> shift), first + ((end - 1) >> shift) + 1)


def _block(data: bytes | memoryview, at: int) -> tuple[int, bytes]:
    """Return how long the block at a place is, and what it unpacks to.

    Raises:
        FormatError: There is none, or it is cut or damaged.
    """
    size = _block_size(data, at)
    if not size or at + size > len(data):
        raise _not_indexed()
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(data[at : at + size], _BLOCK + 1)
    except zlib.error as error:
        raise _not_indexed() from error
    if len(found) > _BLOCK or not unpacker.eof:
        raise _not_indexed()
    return size, found


def _block_size(data: bytes | memoryview, at: int) -> int:
    """Return the length of the block at a place, as its header says; 0 where none begins."""
    header = bytes(data[at : at + 12])
    if len(header) < 12 or header[:4] != b"\x1f\x8b\x08\x04":
        return 0
    extra = bytes(data[at + 12 : at + 12 + int.from_bytes(header[10:12], "little")])
    while len(extra) >= 6:
        length = int.from_bytes(extra[2:4], "little")
        if extra[:2] == b"BC" and length == 2:
            return int.from_bytes(extra[4:6], "little") + 1
        extra = extra[4 + length :]
    return 0


def _whole(data: bytes) -> int:
    """Return how many bytes whole blocks take, from the beginning on."""
    at = 0
    while (size := _block_size(data, at)) and at + size <= len(data):
        at += size
    return at


def _inflate(data: bytes) -> Iterator[bytes]:
    """Unpack blocks."""
    at = 0
    while at < len(data):
        size, block = _block(data, at)
        yield block
        at += size


def _pieces(file: SealedFile) -> Iterator[memoryview]:
    for offset in range(0, file.size, _PIECE):
        yield file.pread_buffer(offset, _PIECE)


def _free_memory() -> int:
    """Return how many bytes this process may still take: of the machine, and of its container."""
    free = 1 << 62
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        free = max(0, int(limit) - int(used))
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(free, *(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")))
    return free


def _cut() -> FormatError:
    return FormatError("The tabix index is cut or damaged.", advice="Make it again with tabix -p vcf.")


def _not_indexed() -> FormatError:
    return FormatError(
        "The file was not compressed with bgzip, or is not the one that was indexed.",
        advice="Compress it with bgzip and index it with tabix -p vcf before it is sealed.",
    )


__all__ = ["Chunk", "IndexedVariants", "MemoryFile", "TabixIndex", "in_memory"]
