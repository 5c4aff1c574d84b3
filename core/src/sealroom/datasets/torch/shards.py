# SPDX-License-Identifier: BSD-3-Clause
"""Tar shards as a stream of samples: members that lie together and have the same key are one sample.

Source of the convention: WebDataset's documentation, "The WebDataset Format": the key is a member's name up
to the first dot of its last part, the rest names the field.
"""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.api import default_client, open_file
from sealroom.datasets.torch.failures import reading
from sealroom.datasets.torch.npy import Readable
from sealroom.datasets.torch.sampler import world
from sealroom.datasets.torch.tar import members
from sealroom.errors import ConfigurationError, FormatError, StorageError

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)\Z", re.DOTALL)

Sample = dict[str, Any]


class SealedShards(IterableDataset[Any]):
    """Samples from the tar shards of an unlocked dataset, read from beginning to end.

    A sample is a dictionary: `__key__`, `__shard__` (dataset and file), and for each field its bytes:
    `{"__key__": "000017", "__shard__": "scans/train-000.tar", "png": b"…", "cls": b"1"}`. Members whose names
    have no key or no field (`README`, `._x.png`) are passed over.

    Shards are dealt out to ranks, and a rank's shards to the workers of its `DataLoader`. Shards of different
    length, or a number of them that the ranks do not divide, give ranks different numbers of samples: end
    the epoch after a number of steps then.

    Args:
        shards: Dataset and pattern, `scans/train-*.tar`, or several names.
        transform: Applied to each sample, in the worker.
        shuffle: How many samples wait for their turn: each new one takes the place of a random one, which is
            given out. With it, the order of the shards is another one in each epoch. 0 leaves all as it is.
        seed: Of the order; the same on all ranks.
        num_replicas: How many ranks there are; as `torch.distributed` says by default, else 1.
        rank: Which of them this is.

    Raises:
        StorageError: There is no such shard.
        ConfigurationError: There are fewer shards than ranks, or the pattern names no dataset.
        AccessDeniedError: The dataset is locked, or access to it has ended.
    """

    def __init__(
        self,
        shards: str | Sequence[str | Readable],
        *,
        transform: Callable[[Sample], Any] | None = None,
        shuffle: int = 0,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        client: AgentClient | None = None,
    ) -> None:
        if num_replicas is None:
            num_replicas, rank = world(rank)
        self.num_replicas, self.rank = num_replicas, 0 if rank is None else rank
        self.transform, self.shuffle, self.seed = transform, shuffle, seed
        if shuffle < 0 or seed < 0 or not 0 <= self.rank < self.num_replicas:
            raise ConfigurationError(
                "Shuffle and seed are not negative, and the rank is below the number of replicas."
            )
        self.shards: list[Any] = _find(shards, client)
        if len(self.shards) < self.num_replicas:
            raise ConfigurationError(
                f"There are {len(self.shards)} shards for {self.num_replicas} ranks.",
                advice="Train on fewer ranks, or ask the data owner for more and smaller shards.",
            )
        # Shared memory: workers that live on see what the training loop sets.
        epoch: Any = torch.zeros((), dtype=torch.int64)
        self._epoch: torch.Tensor = epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; workers that are there already hear of it too."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        epoch, worker = int(self._epoch), get_worker_info()
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        shards = self._order(epoch)[self.rank :: self.num_replicas][number::of]
        samples: Iterator[Sample] = (sample for shard in shards for sample in _samples(shard))
        if self.shuffle:
            # Not for secrets: an order that can be had again.
            draw = random.Random(f"{self.seed} {epoch} {self.rank} {number}")  # noqa: S311
            samples = _shuffled(samples, self.shuffle, draw)
        return samples if self.transform is None else map(self.transform, samples)

    def __repr__(self) -> str:
        return f"<SealedShards, {len(self.shards)} of them>"

    def _order(self, epoch: int) -> list[Any]:
        if not self.shuffle:
            return self.shards
        draw = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        return [
            self.shards[number] for number in np.argsort(draw.random_raw(len(self.shards)), kind="stable")
        ]


def _find(shards: str | Sequence[str | Readable], client: AgentClient | None) -> list[Any]:
    names = [shards] if isinstance(shards, str) else shards
    found: list[Any] = []
    for one in names:
        if not isinstance(one, str):
            found.append(one)
            continue
        dataset, _, pattern = one.removeprefix("sealed://").partition("/")
        if not dataset or not pattern:
            raise ConfigurationError(
                f"{one!r} does not name files of a dataset.", advice="Write scans/train-*.tar."
            )
        where = default_client() if client is None else client
        fitting = sorted(
            file.name for file in where.files(dataset) if fnmatch.fnmatchcase(file.name, pattern)
        )
        if not fitting:
            raise StorageError(f"The dataset {dataset} has no file {pattern!r}.")
        found += [open_file(where, dataset, name) for name in fitting]
    return found


def _samples(file: Any) -> Iterator[Sample]:
    """Give the samples of one shard."""
    with reading(file.name):
        sample: Sample = {}
        for member in members(file):
            found = _KEY.match(member.name)
            if found is None:
                continue
            key, field = found[1], found[2].lower()
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            if not sample:
                sample = {"__key__": key, "__shard__": file.name}
            if field in sample:
                raise FormatError(f"{file.name}: the sample {key[:200]!r} has two fields {field[:60]!r}.")
            sample[field] = bytes(member.data)
        if sample:
            yield sample


def _shuffled(samples: Iterator[Sample], size: int, draw: random.Random) -> Iterator[Sample]:
    waiting: list[Sample] = []
    for sample in samples:
        if len(waiting) < size:
            waiting.append(sample)
            continue
        place = draw.randrange(size)
        yield waiting[place]
        waiting[place] = sample
    draw.shuffle(waiting)
    yield from waiting
