# SPDX-License-Identifier: BSD-3-Clause
"""Memory that the agent and a kernel share, so that plaintext is decrypted where the kernel reads it.

The agent makes each block (`memfd_create`) and hands its descriptor over the socket; both sides map it. The
agent writes plaintext into a block and never reads from it, so a kernel that changes a block meanwhile only
spoils its own data.

Invariants:

- The agent makes the blocks, of plain memory, and seals their size: nobody can cut one while it is mapped,
  which would end the agent's process with SIGBUS.
- One connection maps at most `CONNECTION_LIMIT` bytes in the agent, all connections `PROCESS_LIMIT`. Memory
  that the kernel holds on to is the kernel's alone.
- A piece of a block is used again only after nothing in the kernel refers to it any more. After a fork that
  happened while something did, its block is not used again: the child may still look at it.
- Where there is no such memory (not Linux), data go through the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import threading
import weakref
from collections import deque
from typing import Any

from sealroom.errors import ProtocolError

USUAL_BLOCK = 64 << 20
"""What a kernel asks for first. Memory is taken only as it is written to, from the beginning on."""
LARGEST_BLOCK = 256 << 20
CONNECTION_LIMIT = 320 << 20
PROCESS_LIMIT = 8 << 30
MAX_BLOCKS = 16
"""Blocks of one connection."""

# Pieces begin at multiples of this: pages of most machines, and few sizes.
_PIECE = 64 << 10

# <linux/memfd.h>: MFD_NOEXEC_SEAL, which Python 3.11 does not name; kernels before 6.3 do not know it.
_NOEXEC_SEAL = 0x8
# <asm-generic/mman-common.h>: MADV_HUGEPAGE, where the machine allows it for such memory, and MADV_DONTDUMP.
_ADVICE = (14, 16)


class Budget:
    """How much all connections of a process may share."""

    def __init__(self, limit: int = PROCESS_LIMIT) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take some bytes if so many are left."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size


class AgentBlocks:
    """The agent's side: the blocks of one connection."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._blocks: dict[int, mmap.mmap] = {}
        self._total = 0
        self._last = 0

    def make(self, length: int) -> tuple[int, int, int] | None:
        """Make a block.

        Returns:
            Its number, its size, and a descriptor that the caller closes; None if there is no room or no such
            memory here.
        """
        size = _rounded(max(1, length))
        full = len(self._blocks) >= MAX_BLOCKS or self._total + size > CONNECTION_LIMIT
        if size > LARGEST_BLOCK or full or not self._budget.take(size):
            return None
        try:
            fd = _sealed_memory(size)
        except (OSError, AttributeError):
            self._budget.give(size)
            return None
        try:
            block = mmap.mmap(fd, size, mmap.MAP_SHARED)
            for advice in _ADVICE:
                with contextlib.suppress(OSError):
                    block.madvise(advice)
        except (OSError, ValueError):
            os.close(fd)
            self._budget.give(size)
            return None
        self._last += 1
        self._blocks[self._last] = block
        self._total += size
        return self._last, size, fd

    def view(self, number: object, offset: int, length: int) -> memoryview:
        """Return a part of a block.

        Raises:
            ProtocolError: There is no such part.
        """
        block = self._blocks.get(number) if isinstance(number, int) else None
        if block is None or offset + length > len(block):
            raise ProtocolError("The request names shared memory that there is not.")
        return memoryview(block)[offset : offset + length]

    def drop(self, number: object) -> None:
        """Give up a block; one that there is not is none."""
        block = self._blocks.pop(number, None) if isinstance(number, int) else None
        if block is not None:
            self._total -= len(block)
            self._budget.give(len(block))

    def close(self) -> None:
        """Give up all blocks."""
        for number in list(self._blocks):
            self.drop(number)


class Block:
    """The kernel's side: a block as it is mapped there."""

    def __init__(self, number: int, size: int, fd: int) -> None:
        self.number = number
        self.size = size
        self.memory = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self.retired = False
        """Whether nothing of it is taken any more."""
        self._taken: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        # A piece comes back in whatever thread let go of it, perhaps in the middle of a method here: no lock.
        self._back: deque[tuple[int, int]] = deque()

    @property
    def free(self) -> bool:
        """Whether nothing of it is in use."""
        with self._lock:
            self._collect()
            return not self._taken

    def take(self, length: int) -> Piece | None:
        """Take the first gap that is large enough: what was written to before is there already."""
        with self._lock:
            self._collect()
            size, start = _rounded(length), 0
            for place, (first, end) in enumerate([*self._taken, (self.size, self.size)]):
                if first - start >= size:
                    self._taken.insert(place, (start, start + size))
                    return Piece(self, start, size)
                start = end
            return None

    def give_back(self, start: int, size: int) -> None:
        """Take a piece back, from any thread."""
        self._back.append((start, start + size))

    def _collect(self) -> None:
        while self._back:
            self._taken.remove(self._back.popleft())


class Piece:
    """A part of a block that is in use."""

    __slots__ = ("_watch", "block", "size", "start")

    def __init__(self, block: Block, start: int, size: int) -> None:
        self.block = block
        self.start = start
        self.size = size
        self._watch: Any = None

    def view(self, length: int) -> memoryview:
        """Return its beginning, for use while it is not handed out."""
        return memoryview(self.block.memory)[self.start : self.start + length]

    def hand_out(self, length: int) -> memoryview:
        """Return its beginning; when nothing refers to that any more, the piece goes back to its block."""
        # Whatever is made from the view keeps this array alive, at any distance: slices, arrays, Arrow
        # buffers. The array keeps the memory alive.
        cells = (ctypes.c_ubyte * self.size).from_buffer(self.block.memory, self.start)
        # The reference lives as long as the piece, and the piece by the reference's own function.
        self._watch = weakref.ref(cells, lambda _: self.give_back())
        _handed_out.add(self)
        return memoryview(cells).cast("B")[:length]

    def give_back(self) -> None:
        """Give it back to its block."""
        _handed_out.discard(self)
        self.block.give_back(self.start, self.size)


class KernelBlocks:
    """The kernel's side: the blocks of one connection. One thread at a time uses a connection."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._dropped: list[int] = []
        _alive.add(self)

    def take(self, length: int) -> Piece | None:
        """Return a piece, or None: then a block of `wanted` bytes is asked for and added."""
        for block in list(self._blocks):
            large = block.size > USUAL_BLOCK and length <= USUAL_BLOCK
            if block.retired or (large and block.free):
                # So much is not kept for the next time.
                self._drop(block)
                continue
            piece = block.take(length)
            if piece is not None:
                return piece
        return None

    def wanted(self, length: int) -> int:
        """Make room for another block and return its size."""
        size = max(USUAL_BLOCK, _rounded(length))
        # What the kernel holds on to is from now on the kernel's alone.
        for block in sorted(self._blocks, key=lambda one: not one.free):
            total = sum(one.size for one in self._blocks)
            if total + size <= CONNECTION_LIMIT and len(self._blocks) < MAX_BLOCKS:
                break
            self._drop(block)
        return size

    def add(self, number: int, size: int, fd: int) -> None:
        """Map a block that the agent has made."""
        self._blocks.append(Block(number, size, fd))

    @property
    def has_dropped(self) -> bool:
        """Whether `dropped` has something to tell."""
        return bool(self._dropped)

    def dropped(self) -> list[int]:
        """Return the numbers of blocks that the agent may give up: told with the next request."""
        numbers, self._dropped = self._dropped, []
        return numbers

    def retire(self) -> None:
        """Use no block again of which something is in use; called before a fork, in any thread."""
        for block in list(self._blocks):
            block.retired = block.retired or not block.free

    def _drop(self, block: Block) -> None:
        self._blocks.remove(block)
        self._dropped.append(block.number)


def _rounded(length: int) -> int:
    return -(-length // _PIECE) * _PIECE


def _sealed_memory(size: int) -> int:
    name, flags = "sealroom", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


_alive: weakref.WeakSet[KernelBlocks] = weakref.WeakSet()
# Pieces that something in this process refers to.
_handed_out: set[Piece] = set()


def _before_fork() -> None:
    for one in list(_alive):
        one.retire()


os.register_at_fork(before=_before_fork)
