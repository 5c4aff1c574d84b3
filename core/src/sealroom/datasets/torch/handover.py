# SPDX-License-Identifier: BSD-3-Clause
"""Batches go from a worker to the training loop in memory that is used again and again.

`DataLoader` makes new shared memory for each batch, which costs more than to fill it: the kernel clears every
page, and each batch's descriptor travels over a connection of its own. Here each worker shares one piece of
memory, once, and writes its batches into slots of it; a message only names the slot.

Invariants:

- A slot is filled again only after nothing in the training loop refers to its memory any more, at whatever
  distance: views, `detach()`, NumPy arrays. Whoever keeps batches gets the later ones as torch sends them.
- Only the worker takes a slot, only the training loop gives one back: one byte for each, no lock.
- Small tensors go inside of the message, and batches that are too large for this as torch sends them.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import get_worker_info

SLOTS = 8
"""Batches of one worker that are on their way or in use; a loader asks for two in advance."""
# Tensors up to this size go inside of the message.
_INLINE = 32 << 10
# What one worker shares at most: a container's /dev/shm may be small.
_MOST = 128 << 20
_FEWEST_SLOTS = 3
# Where the slots begin; before them is one byte for each.
_FRONT = mmap.PAGESIZE
_numbers = itertools.count()
# Which loader, which process, which piece of memory.
_Key = tuple[tuple[int, int], int, int]


class Handover:
    """Makes batches with another function, and hands them over if this is a worker."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self._memory: _Memory | None = None
        self._pid = 0
        self._of = (os.getpid(), next(_numbers))
        self._largest = _MOST // _FEWEST_SLOTS
        # The loader and its iterators hold this object: without them nothing arrives any more.
        weakref.finalize(self, _forget, self._of)

    def __call__(self, samples: list[Any]) -> Any:
        """Return a batch of samples; in a worker, what unpickles as one."""
        batch = self.collate(samples)
        return batch if get_worker_info() is None else self._handed(batch)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": None, "_pid": 0}

    def _handed(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        return mapped(value, self._handed)

    def _tensor(self, tensor: torch.Tensor) -> Any:
        size = tensor.numel() * tensor.element_size()
        if not _is_plain(tensor) or not size:
            return tensor
        if size <= _INLINE:
            return _Inline(tensor)
        memory = self._memory_for(size)
        slot = None if memory is None else memory.take()
        if memory is None or slot is None:
            return tensor
        memory.place(slot, tensor.dtype, tensor.shape).copy_(tensor)
        return _Handed(memory, slot, tensor.dtype, tensor.shape)

    def _memory_for(self, size: int) -> _Memory | None:
        memory = self._memory if self._pid == os.getpid() else None
        if size > self._largest or (memory is not None and size <= memory.size):
            return memory if size <= self._largest else None
        try:
            # For a larger batch than before; what is on its way stays in the memory before.
            self._memory, self._pid = _Memory(self._of, size), os.getpid()
        except (OSError, RuntimeError):
            # No room: torch has its own way, and its own words if there is none for it either.
            self._largest = 0
            return None
        return self._memory


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is nothing but its numbers."""
    there = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return there and type(tensor) is torch.Tensor and not (tensor.requires_grad or tensor.is_quantized)


class _Memory:
    """A worker's side of what it shares."""

    def __init__(self, of: tuple[int, int], size: int) -> None:
        self.size = -(-size // _FRONT) * _FRONT
        self.slots = min(SLOTS, max(_FEWEST_SLOTS, _MOST // self.size))
        self.key: _Key = (of, os.getpid(), next(_numbers))
        # As torch's own collate function does it.
        empty: Any = torch.empty(0, dtype=torch.uint8)
        total = _FRONT + self.slots * self.size
        typed = empty._typed_storage()  # noqa: SLF001
        storage = typed._new_shared(total, device=empty.device)  # noqa: SLF001
        self.tensor: torch.Tensor = empty.new(storage).resize_(total)
        self._taken: Any = self.tensor[: self.slots].numpy()
        self._taken[:] = 0
        self.known = False
        """Whether the training loop has it already."""

    def take(self) -> int | None:
        """Return a free slot, the first one: its memory was used already."""
        for slot in range(self.slots):
            if not self._taken[slot]:
                self._taken[slot] = 1
                return slot
        return None

    def place(self, slot: int, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
        """Return a slot's memory as a tensor."""
        start = _FRONT + slot * self.size
        length = math.prod(shape) * dtype.itemsize
        return self.tensor[start : start + length].view(dtype).view(shape)


class _Handed:
    """A batch in a slot; it unpickles as a tensor."""

    def __init__(self, memory: _Memory, slot: int, dtype: torch.dtype, shape: torch.Size) -> None:
        self._memory, self._slot, self._dtype, self._shape = memory, slot, dtype, shape

    def __reduce__(self) -> tuple[Any, ...]:
        memory = self._memory
        # A worker's messages arrive in their order, so the memory itself goes with the first one only.
        shared = None if memory.known else memory.tensor
        memory.known = True
        return _receive, (memory.key, shared, memory.size, self._slot, self._dtype, tuple(self._shape))


class _Inline:
    """A small tensor inside of a message; it unpickles as a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        data = self._tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return _from_bytes, (data, self._tensor.dtype, tuple(self._tensor.shape))


class _Known:
    """The training loop's side of a worker's memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.memory: Any = tensor.numpy()
        self._pid = os.getpid()
        # The slots that something refers to.
        self._watched: dict[int, weakref.ref[Any]] = {}

    def tensor(self, start: int, slot: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a slot as a tensor; it is free when nothing refers to its memory any more."""
        length = math.prod(shape) * dtype.itemsize
        # The storage of the tensor holds this array, whatever is made from it; the array holds the memory.
        cells = (ctypes.c_ubyte * length).from_buffer(self.memory.data, start)

        def free(_: object) -> None:
            self._watched.pop(slot, None)
            if os.getpid() == self._pid:
                # Not in a forked child, which only lets go of its own copy.
                self.memory[slot] = 0

        self._watched[slot] = weakref.ref(cells, free)
        return torch.frombuffer(cells, dtype=dtype).view(shape)


_known: dict[_Key, _Known] = {}


def _receive(
    key: _Key,
    shared: torch.Tensor | None,
    size: int,
    slot: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
) -> torch.Tensor:
    if shared is not None:
        _forget_ended()
        _known[key] = _Known(shared)
    return _known[key].tensor(_FRONT + slot * size, slot, dtype, shape)


def _from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def _forget(of: tuple[int, int]) -> None:
    """Let go of the memory of a loader's workers; batches in it live as long as they are used."""
    for key in [key for key in _known if key[0] == of]:
        _known.pop(key, None)


def _forget_ended() -> None:
    """Let go of the memory of workers that have ended."""
    for key in list(_known):
        try:
            os.kill(key[1], 0)
        except ProcessLookupError:
            _known.pop(key, None)
        except OSError:
            continue


def mapped(value: Any, work: Callable[[Any], Any]) -> Any:
    """Apply something to what a batch consists of."""
    if isinstance(value, Mapping):
        return {name: work(one) for name, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(work(one) for one in value))
    if isinstance(value, tuple | list):
        return type(value)(work(one) for one in value)
    return value
