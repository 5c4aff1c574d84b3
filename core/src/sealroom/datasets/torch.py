# SPDX-License-Identifier: BSD-3-Clause
"""A torch dataset over a sealed `.npy` file: each sample is read, checked and decrypted when it is asked for.

Works in the workers of a `DataLoader`: what is handed to them is the file's name, never data or keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from torch.utils.data import Dataset

from sealroom.datasets.api import open as open_sealed
from sealroom.datasets.file import SealedFile
from sealroom.errors import FormatError

# Rows that lie closer than this are read in one go: a segment is the least that is decrypted anyway.
_GAP = 64 << 10
_MAX_GROUP = 4 << 20


class SealedArray(Dataset[Any]):
    """The rows (first axis) of a sealed `.npy` file, as torch tensors; a slice gives its rows as one tensor.

    Args:
        path: Dataset and file, for example `chest-xray/train_images.npy`, or an opened file.
        transform: Applied to each row or slice (a NumPy array); `torch.from_numpy` by default.

    Raises:
        FormatError: It is not a `.npy` file of plain numbers in C order.
        AccessDeniedError: The dataset is locked, or access to it has ended.
    """

    def __init__(
        self, path: str | SealedFile, transform: Callable[[npt.NDArray[Any]], Any] | None = None
    ) -> None:
        self.file = open_sealed(path) if isinstance(path, str) else path
        self.transform = transform
        self.shape, self.dtype, self._start = _read_header(self.file)
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step < 0:
                raise IndexError("a sealed array is not sliced backwards")
            return self._sample(self.rows(start, max(start, stop))[::step])
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._sample(self.rows(index, index + 1)[0])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples; what lies together is read together. DataLoader calls this for a batch."""
        samples: dict[int, Any] = {}
        for group in self._groups(sorted({int(index) for index in indices})):
            block = self.rows(group[0], group[-1] + 1)
            for index in group:
                samples[index] = block[index - group[0]]
        return [self._sample(samples[int(index)].copy()) for index in indices]

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows as one array."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)}")
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        target = block.reshape(-1).view(np.uint8).data
        if self.file.pread_into(self._start + start * self._row, target) != len(target):
            raise FormatError(f"{self.file.name} ends before its last row.")
        return block

    def _groups(self, indices: Sequence[int]) -> Iterator[list[int]]:
        group: list[int] = []
        for index in indices:
            near = group and (index - group[-1] - 1) * self._row <= _GAP
            if group and not (near and (index - group[0] + 1) * self._row <= _MAX_GROUP):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _sample(self, row: Any) -> Any:
        if self.transform is not None:
            return self.transform(row)
        array = np.ascontiguousarray(row)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _read_header(file: SealedFile) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    file.seek(0)
    try:
        version = npy.read_magic(file)  # type: ignore[arg-type,unused-ignore]
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)  # type: ignore[arg-type,unused-ignore]
    except (ValueError, KeyError) as error:
        raise FormatError(f"{file.name} is not a .npy file that can be read by rows.") from error
    if not shape or (fortran and len(shape) > 1) or dtype.hasobject:
        raise FormatError(
            f"{file.name} cannot be read by rows: it has no rows, is in Fortran order, or holds objects.",
            advice="Read it whole with numpy.load(sealroom.open(...)).",
        )
    start = file.tell()
    if start + dtype.itemsize * int(np.prod(shape, dtype=np.int64)) > file.size:
        raise FormatError(f"{file.name} is shorter than its .npy header says.")
    return tuple(shape), dtype, start
