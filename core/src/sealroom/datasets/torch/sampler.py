# SPDX-License-Identifier: BSD-3-Clause
r"""The order in which a sealed dataset is trained on: shuffled in two steps, so that whole blocks are read.

A full shuffle of 12 KiB samples decrypts a segment of 64 KiB for each of them. Here, blocks of `b` samples
that lie together are put into a uniformly random order, and the samples of `B` blocks at a time (a window of
`K = B b` samples) are shuffled uniformly among themselves. This is the two-level shuffle of CorgiPile (Xu et
al., "In-Database Machine Learning with CorgiPile", SIGMOD 2022, doi:10.1145/3514221.3526150; arXiv
2206.05830), with windows of equal size that do not overlap.

How far that is from a full shuffle of `N` samples, exactly where `b`, `B` and the batch size `m` divide, with
`n = N / b` blocks:

- Position: every sample is equally likely at every position of the epoch, as in a full shuffle.
- Displacement: a sample is never further than `K - 1` places from where the shuffled blocks laid end to end
  have it. The displacement `d` has probability `(K - |d|) / K^2` (a triangle), so `|d|` is
  `(K^2 - 1) / (3 K)` on average, about a third of a window.
- Company: two samples of one block are always in the same window, and meet in one batch with probability
  `(m - 1) / (K - 1)` instead of `(m - 1) / (N - 1)`. Two of different blocks meet with
  `(B - 1) / (n - 1) * (m - 1) / (K - 1)`.
- Batches: let `rho` be the correlation of some quantity (a gradient's component) between two samples of one
  block. Between two samples of one batch it is

      r = q rho - (1 - q) (1 + (b - 1) rho) / (N - b)    with q = (b - 1) / (K - 1), about rho / B,

  and the variance of a batch's mean is `(sigma^2 / m) (1 + (m - 1) r)`: a full shuffle has
  `r = -1 / (N - 1)`. It is the design effect of cluster sampling (Kish, "Survey Sampling", 1965, 5.4).
  `inflation` gives the quotient of the two. It is near 1 where `B` is large against `m rho`, and it is
  1 whatever `B` is where the file's own order is random (`rho = 0`). Files that are sorted by class have
  `rho` near 1.

Where things do not divide, windows and blocks are smaller than `K` and `b`, never larger, and a batch may lie
in two windows, whose samples go together less often than those of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed
from torch.utils.data import Sampler

from sealroom.errors import ConfigurationError

BUFFER = 16
"""Blocks of a window, where nobody says it."""
_STATE = 1
_Order = npt.NDArray[np.int64]


class BlockShuffleSampler(Sampler[int]):
    """Shuffles blocks, and samples inside windows of blocks; the module's text says how well.

    Each pass is another epoch, in another order; `set_epoch` says which, as with `DistributedSampler`. The
    order depends on the arguments, the seed and the epoch alone, not on the version of NumPy or torch.

    With several ranks, each gets a part of the shuffled blocks, and all parts are equally long: up to
    `num_replicas - 1` samples are repeated for that, or left out with `drop_last`. With `workers` and
    `batch_size` as the `DataLoader` has them, each worker gets blocks of its own, so that none is decrypted
    twice; each worker's batches are shuffled in windows of its own.

    Args:
        data: What is sampled: a dataset, or the lengths of files that lie one behind the other (no block
            holds samples of two of them). A dataset that can read in blocks (`SealedArray`, also inside of
            `StackDataset`, `ConcatDataset` or `Subset`) is told to.
        block: Samples of a block; the dataset's own by default, for lengths it must be said.
        buffer: Blocks of a window. Each worker keeps so many in memory.
        seed: Of the order; the same on all ranks.
        num_replicas: How many ranks there are; as `torch.distributed` says by default, else 1.
        rank: Which of them this is.
        batch_size: Samples of a batch, if there are workers.
        workers: Workers of the `DataLoader`.
        drop_last: Leave samples out instead of repeating some for equal ranks.

    Raises:
        ConfigurationError: The arguments do not fit together.
    """

    def __init__(
        self,
        data: Any,
        block: int | None = None,
        buffer: int = BUFFER,
        seed: int = 0,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        batch_size: int = 1,
        workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None:
            num_replicas, rank = world(rank)
        self.rank = 0 if rank is None else rank
        self.lengths = _lengths(data)
        self.block = _block(data) if block is None else block
        self.buffer, self.seed, self.num_replicas = buffer, seed, num_replicas
        self.batch_size, self.workers, self.drop_last = batch_size, max(1, workers), drop_last
        if min(self.block, buffer, num_replicas, batch_size) < 1 or not 0 <= self.rank < num_replicas:
            raise ConfigurationError(
                "Block, buffer, replicas and batch size are at least 1, and the rank is below the replicas."
            )
        if seed < 0:
            raise ConfigurationError("The seed is not negative.")
        total = sum(self.lengths)
        self._length = total // num_replicas if drop_last else -(-total // num_replicas)
        self._next, self._epoch, self._position = 0, 0, 0
        self._resume: tuple[int, int] | None = None
        for one in parts(data):
            # One more at each end: windows need not begin where a block begins.
            one.read_in_blocks(self.block, buffer + 2)

    @property
    def window(self) -> int:
        """Samples that are shuffled among themselves, at most."""
        return self.block * self.buffer

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        self._epoch, self._next = self._next, self._next + 1
        resume, self._resume = self._resume, None
        start = resume[1] if resume is not None and resume[0] == self._epoch else 0
        self._position = start
        for index in self.order(self._epoch)[start:].tolist():
            self._position += 1
            yield index

    def order(self, epoch: int) -> _Order:
        """Return the samples of an epoch for this rank, in their order."""
        # Raw numbers: they are the same in every version of NumPy (NEP 19), its own permutations need not be.
        draw = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        blocks = _cut(self.lengths, self.block)
        blocks = blocks[np.argsort(draw.random_raw(len(blocks)), kind="stable")]
        sequence = _ranges(blocks)
        total = self._length * self.num_replicas
        if len(sequence):
            sequence = np.resize(sequence, total)
        keys = draw.random_raw(total)
        mine = slice(self.rank * self._length, (self.rank + 1) * self._length)
        return self._interleaved(sequence[mine], keys[mine])

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self._next = epoch

    def inflation(self, batch_size: int, correlation: float = 1.0) -> float:
        """Return how many times the variance of a batch's mean is that of a full shuffle.

        Args:
            batch_size: Samples of a batch.
            correlation: Between two samples of one block, of what the mean is of. 1 is the worst case.
        """
        total = sum(self.lengths)
        if total <= self.window or batch_size >= total:
            return 1.0
        b = self.block
        same = (b - 1) / (self.window - 1) if b > 1 else 0.0
        apart = (1 + (b - 1) * correlation) / (total - b)
        together = same * correlation - (1 - same) * apart
        return (1 + (batch_size - 1) * together) / (1 - (batch_size - 1) / (total - 1))

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """Return where the pass is, for `load_state_dict`.

        Args:
            taken: Samples that were trained on in this pass. A `DataLoader` asks for batches in advance, so
                what was handed out (the default) is more than that, unless the loader keeps the state with
                the batch, as torchdata's `StatefulDataLoader` does.
        """
        position = self._position if taken is None else taken
        if not 0 <= position <= self._length:
            raise ValueError(f"a pass has {self._length} samples")
        return {"version": _STATE, "epoch": self._epoch, "position": position, "of": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another sampler was; the next pass is the rest of its epoch.

        Raises:
            ConfigurationError: The state is not of a sampler with the same arguments.
        """
        epoch, position = state.get("epoch"), state.get("position")
        if state.get("version") != _STATE or not isinstance(epoch, int) or not isinstance(position, int):
            raise ConfigurationError("This is not the state of a sampler.")
        if state.get("of") != self._identity() or not 0 <= position <= self._length or epoch < 0:
            raise ConfigurationError(
                "The state is of a sampler with other arguments, so its order is another one.",
                advice="Use the same data, seed, block, buffer, batch size, workers and replicas.",
            )
        self._epoch, self._position = epoch, position
        self._resume = (epoch, position)
        self._next = epoch if position < self._length else epoch + 1

    def _identity(self) -> dict[str, Any]:
        names = ("seed", "block", "buffer", "num_replicas", "rank", "batch_size", "workers", "drop_last")
        return {"lengths": list(self.lengths), **{name: getattr(self, name) for name in names}}

    def _interleaved(self, sequence: _Order, keys: npt.NDArray[np.uint64]) -> _Order:
        """Shuffle each worker's samples, and deal batches out in turn, as `DataLoader` gives them."""
        size = self.batch_size
        batches = -(-len(sequence) // size)
        if self.workers == 1 or batches < 2:
            return self._shuffled(sequence, keys)
        dealt: list[_Order] = [sequence[:0]] * batches
        start = 0
        for worker in range(min(self.workers, batches)):
            count = len(range(worker, batches, self.workers))
            whole = (batches - 1) % self.workers != worker
            length = count * size if whole else count * size - (batches * size - len(sequence))
            part = slice(start, start + length)
            own = self._shuffled(sequence[part], keys[part])
            for number in range(count):
                dealt[worker + number * self.workers] = own[number * size : (number + 1) * size]
            start += length
        return np.concatenate(dealt)

    def _shuffled(self, sequence: _Order, keys: npt.NDArray[np.uint64]) -> _Order:
        """Shuffle inside of windows, all of about the same size."""
        length = len(sequence)
        count = max(1, -(-length // self.window))
        window = np.arange(length) * count // max(1, length)
        return sequence[np.lexsort((keys, window))]


def parts(data: Any) -> Iterator[Any]:
    """Give the datasets inside of a dataset that can read in blocks."""
    if callable(getattr(data, "read_in_blocks", None)):
        yield data
        return
    inside = getattr(data, "datasets", None)
    if isinstance(inside, Mapping):
        inside = list(inside.values())
    elif not isinstance(inside, list | tuple):
        one = getattr(data, "dataset", None)
        inside = [] if one is None else [one]
    for one in inside:
        yield from parts(one)


def _lengths(data: Any) -> tuple[int, ...]:
    if not callable(getattr(data, "__getitem__", None)) and isinstance(data, Iterable):
        data = list(data)
    if isinstance(data, int):
        data = [data]
    if isinstance(data, Sequence) and all(isinstance(one, int | np.integer) for one in data):
        found = tuple(int(one) for one in data)
    elif hasattr(data, "cumulative_sizes"):
        # ConcatDataset: its files lie one behind the other.
        found = tuple(len(one) for one in data.datasets)
    else:
        found = (len(data),)
    if not found or min(found) < 0:
        raise ConfigurationError("A sampler needs a dataset or lengths that are not negative.")
    return found


def _block(data: Any) -> int:
    sizes = [one.block_rows for one in parts(data)]
    if not sizes:
        raise ConfigurationError(
            "The dataset does not say how many samples a block has.",
            advice="Say it with block=…; samples of about 1 MiB are a good measure.",
        )
    # Those with the largest samples decide: labels beside images are small anyway.
    return int(min(sizes))


def world(rank: int | None) -> tuple[int, int]:
    """Return how many ranks there are and which this is, as `torch.distributed` says."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank() if rank is None else rank
    return 1, 0 if rank is None else rank


def _cut(lengths: Sequence[int], block: int) -> _Order:
    """Return first and last+1 sample of each block, shape (blocks, 2)."""
    found, start = [], 0
    for length in lengths:
        first = np.arange(start, start + length, block, dtype=np.int64)
        start += length
        found.append(np.stack([first, np.minimum(first + block, start)], axis=1))
    return np.concatenate(found)


def _ranges(blocks: _Order) -> _Order:
    """Return the samples of some blocks one behind the other."""
    sizes = blocks[:, 1] - blocks[:, 0]
    before = np.cumsum(sizes) - sizes
    samples: _Order = np.arange(int(sizes.sum()), dtype=np.int64)
    samples += np.repeat(blocks[:, 0] - before, sizes)
    return samples
