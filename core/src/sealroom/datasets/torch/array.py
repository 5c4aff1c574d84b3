# SPDX-License-Identifier: BSD-3-Clause
"""A torch dataset over a sealed `.npy` file: rows are read, checked and decrypted as they are asked for.

Read one by one, a row costs the segment of 64 KiB that it lies in. Read in blocks (`read_in_blocks`, which
`BlockShuffleSampler` calls), a block is fetched whole, once, into memory that the notebook server decrypts
into, and its rows are taken from there.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from sealroom.datasets.api import open as open_sealed
from sealroom.datasets.file import SealedFile
from sealroom.datasets.torch.failures import reading
from sealroom.datasets.torch.npy import Readable, read_header
from sealroom.errors import Error, FormatError

BLOCK_BYTES = 1 << 20
"""About how much a block is, where nobody says it."""

_SEGMENT = 64 << 10
# Rows that lie closer than this are read in one go: a segment is the least that is decrypted anyway.
_GAP = 64 << 10
_MAX_GROUP = 4 << 20
# Ranges from here on are read as whole segments: straight into their place, without a detour by the cache.
_WHOLE_SEGMENTS = 256 << 10
# Blocks that one call fetches before it takes rows from them.
_AT_ONCE = 32
# Rows from this size on are copied one by one: below, one operation for many of them is faster.
_LARGE_ROW = 2048

_Bytes = npt.NDArray[np.uint8]


class SealedArray(Dataset[Any]):
    """The rows (first axis) of a sealed `.npy` file, as torch tensors; a slice gives its rows as one tensor.

    Safe to use from several threads and in the workers of a `DataLoader`, forked or spawned.

    Args:
        path: Dataset and file, for example `chest-xray/train_images.npy`, or an opened file.
        transform: Applied to each row or slice (a NumPy array); `torch.from_numpy` by default.

    Raises:
        FormatError: It is not a `.npy` file of plain numbers in C order, or not as long as it says.
        AccessDeniedError: The dataset is locked, or access to it has ended.
    """

    def __init__(
        self, path: str | SealedFile | Readable, transform: Callable[[npt.NDArray[Any]], Any] | None = None
    ) -> None:
        self.file: Any = open_sealed(path) if isinstance(path, str) else path
        self.transform = transform
        with reading(self.file.name):
            header = read_header(self.file)
        self.shape, self.dtype, self._start = header.shape, header.dtype, header.start
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self.block_rows = max(1, BLOCK_BYTES // max(1, self._row))
        """Rows of a block."""
        self._kept = _Kept(0)

    def read_in_blocks(self, block: int | None = None, keep: int = 16) -> None:
        """Fetch whole blocks of rows from now on, and keep the last ones for the next batch.

        A `BlockShuffleSampler` that is made with this dataset calls this. Nothing is gained by it for rows
        in another order, on the contrary.

        Args:
            block: Rows of a block; about 1 MiB of them by default.
            keep: How many blocks are kept, in each process that reads; 0 goes back to single rows.
        """
        if block is not None and block < 1:
            raise ValueError("a block has at least one row")
        self.block_rows = block or self.block_rows
        self._kept = _Kept(keep)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step < 0:
                raise IndexError("a sealed array is not sliced backwards")
            return self._sample(self.rows(start, max(start, stop))[::step])
        return self._sample(self.numpy(index))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples; what lies together is read together. DataLoader calls this for a batch."""
        chosen = [self._index(index) for index in indices]
        if self.transform is None:
            return list(self._batch(chosen).unbind(0)) if chosen else []
        rows = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        self._gather(chosen, rows)
        return [self.transform(row) for row in rows]

    def numpy(self, index: int) -> npt.NDArray[Any]:
        """Return one row as an array of its own, in the file's byte order."""
        index = self._index(index)
        if not self._kept.capacity:
            return self.rows(index, index + 1)[0, ...]
        row = np.empty((1, *self.shape[1:]), self.dtype)
        self._gather([index], row)
        return row[0, ...]

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows as one array, in the file's byte order."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)}")
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if block.nbytes:
            target = block.reshape(-1).view(np.uint8).data
            with reading(self.file.name):
                if self.file.pread_into(self._start + start * self._row, target) != len(target):
                    raise _too_short(self.file.name)
        return block

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": self._kept.capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = _Kept(state["_kept"])

    def __repr__(self) -> str:
        return f"<SealedArray {self.file.name}, {self.shape} {self.dtype}>"

    def _index(self, index: int) -> int:
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return index

    def _batch(self, indices: list[int]) -> torch.Tensor:
        shape = (len(indices), *self.shape[1:])
        if self.dtype.isnative:
            batch = torch.from_numpy(np.empty(shape, self.dtype))
            self._gather(indices, batch.numpy())
            return batch
        rows = np.empty(shape, self.dtype)
        self._gather(indices, rows)
        return torch.from_numpy(rows.astype(self.dtype.newbyteorder("=")))

    def _gather(self, indices: list[int], rows: npt.NDArray[Any]) -> None:
        """Put rows into their places in an array."""
        if not rows.size:
            return
        out: _Bytes = rows.reshape(len(indices), -1).view(np.uint8)
        for first, block, places in self._blocks(indices) if self._kept.capacity else self._groups(indices):
            if self._row < _LARGE_ROW:
                out[places] = block[[indices[place] - first for place in places]]
                continue
            for place in places:
                out[place] = block[indices[place] - first]

    def _blocks(self, indices: list[int]) -> Iterator[tuple[int, _Bytes, list[int]]]:
        """Give the blocks that hold some rows: first row, bytes, and the places of the rows in the batch."""
        wanted: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            wanted.setdefault(index // self.block_rows, []).append(place)
        missing: list[int] = []
        for number, places in wanted.items():
            block = self._kept.get(number)
            if block is None:
                missing.append(number)
            else:
                yield number * self.block_rows, block, places
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            spans = [(number * self.block_rows, (number + 1) * self.block_rows) for number in some]
            for number, block in zip(some, self._read(spans), strict=True):
                self._kept.put(number, block)
                yield number * self.block_rows, block, wanted[number]

    def _groups(self, indices: list[int]) -> Iterator[tuple[int, _Bytes, list[int]]]:
        """The same with the rows that lie together."""
        groups: list[list[int]] = []
        for place in sorted(range(len(indices)), key=indices.__getitem__):
            index = indices[place]
            if groups:
                first, last = indices[groups[-1][0]], indices[groups[-1][-1]]
                near = (index - last - 1) * self._row <= _GAP
                if near and (index - first + 1) * self._row <= _MAX_GROUP:
                    groups[-1].append(place)
                    continue
            groups.append([place])
        spans = [(indices[group[0]], indices[group[-1]] + 1) for group in groups]
        for group, block in zip(groups, self._read(spans), strict=True):
            yield indices[group[0]], block, group

    def _read(self, spans: list[tuple[int, int]]) -> list[_Bytes]:
        """Return the bytes of some ranges of rows, shape (rows, bytes of a row); all in one request."""
        ranges: list[tuple[int, int]] = []
        for first, last in spans:
            start, end = (self._start + min(row, len(self)) * self._row for row in (first, last))
            if end - start >= _WHOLE_SEGMENTS:
                start, end = start // _SEGMENT * _SEGMENT, min(self.file.size, -(-end // _SEGMENT) * _SEGMENT)
            ranges.append((start, end - start))
        with reading(self.file.name):
            buffers = read_ranges(self.file, ranges)
            if any(len(buffer) != length for buffer, (_, length) in zip(buffers, ranges, strict=True)):
                raise _too_short(self.file.name)
        blocks = []
        for (first, last), (start, _), buffer in zip(spans, ranges, buffers, strict=True):
            shape = (min(last, len(self)) - first, self._row)
            skip = self._start + first * self._row - start
            blocks.append(np.ndarray(shape, np.uint8, buffer, skip))
        return blocks

    def _sample(self, row: npt.NDArray[Any]) -> Any:
        if self.transform is not None:
            return self.transform(row)
        return torch.from_numpy(row.astype(row.dtype.newbyteorder("="), copy=False))


def read_ranges(file: Any, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Return ranges (offset, length) of a file, with one request where that is possible.

    Raises:
        Error: The first of them that could not be read says why.
    """
    if not isinstance(file, SealedFile) or len(ranges) < 2:
        return [file.pread_buffer(offset, length) for offset, length in ranges]
    wanted = [(file.handle, offset, length) for offset, length in ranges]
    found: list[memoryview] = []
    for answer in file.client.read_ranges(file.dataset, wanted):
        if isinstance(answer, Error):
            raise answer
        found.append(answer)
    return found


class _Kept:
    """The blocks of one process that were used lately."""

    def __init__(self, capacity: int) -> None:
        self.capacity = max(0, capacity)
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, _Bytes] = OrderedDict()

    def get(self, number: int) -> _Bytes | None:
        """Return a block if it is here."""
        if self._pid != os.getpid():
            # Forked: another thread of the parent may have held the lock.
            self._renew()
        with self._lock:
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
            return block

    def put(self, number: int, block: _Bytes) -> None:
        """Keep a block, and let go of the one that was not used for the longest time."""
        with self._lock:
            self._blocks[number] = block
            while len(self._blocks) > self.capacity:
                self._blocks.popitem(last=False)


def _too_short(name: str) -> FormatError:
    return FormatError(f"{name} ends before its last row.")
