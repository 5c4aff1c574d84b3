# SPDX-License-Identifier: BSD-3-Clause
"""From samples to batches: without a second copy, and on the GPU ahead of time where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, default_collate

from sealroom.datasets.torch.handover import Handover, mapped
from sealroom.datasets.torch.sampler import BUFFER, BlockShuffleSampler

_T = TypeVar("_T")


def collate(samples: list[Any]) -> Any:
    """Make a batch of samples, as torch's `default_collate` does.

    Tensors that are the rows of one tensor in their order, as `SealedArray.__getitems__` gives them, are
    that tensor already and are not copied again; so are those in tuples, lists or dictionaries.
    """
    first = samples[0]
    if type(first) is torch.Tensor:
        base = first._base  # noqa: SLF001 - there is no public name for what a view is of
        return base if base is not None and _is_all_of(base, samples) else torch.stack(samples)
    if isinstance(first, tuple | list) and not hasattr(first, "_fields"):
        return type(first)(collate(list(field)) for field in zip(*samples, strict=True))
    if type(first) is dict:
        return {name: collate([sample[name] for sample in samples]) for name in first}
    return default_collate(samples)


def _is_all_of(base: torch.Tensor, rows: list[torch.Tensor]) -> bool:
    """Tell whether rows are those of one tensor: all of it, in its order, and looked at as it is."""
    if base.shape != (len(rows), *rows[0].shape) or not base.is_contiguous() or base.requires_grad:
        return False
    start, step = base.storage_offset(), base.stride(0)
    shape, strides = base.shape[1:], base.stride()[1:]
    return all(
        row._base is base  # noqa: SLF001
        and row.storage_offset() == start + number * step
        and row.stride() == strides
        and row.shape == shape
        and row.dtype is base.dtype
        # A view may also stand for other numbers than those in memory.
        and (row.is_conj(), row.is_neg()) == (base.is_conj(), base.is_neg())
        for number, row in enumerate(rows)
    )


def data_loader(
    dataset: Any,
    batch_size: int,
    *,
    workers: int = 0,
    buffer: int = BUFFER,
    block: int | None = None,
    seed: int = 0,
    drop_last: bool = False,
    num_replicas: int | None = None,
    rank: int | None = None,
    **more: Any,
) -> DataLoader[Any]:
    """Return a `DataLoader` that shuffles in blocks, with everything that makes sealed data fast.

    Its `sampler` is the `BlockShuffleSampler`, for `set_epoch` and `state_dict`. Memory is pinned where
    there is a GPU, and workers live as long as the loader.

    Args:
        dataset: What is read: a `SealedArray`, or a `StackDataset` of images and labels.
        batch_size: Samples of a batch.
        workers: Processes that read.
        buffer: Blocks of a window, see `BlockShuffleSampler`.
        block: Samples of a block; the dataset's own by default.
        seed: Of the order.
        drop_last: Leave out the last batch if it is not full.
        num_replicas: See `BlockShuffleSampler`.
        rank: See `BlockShuffleSampler`.
        more: Anything else that a `DataLoader` takes.

    Raises:
        ConfigurationError: The arguments do not fit together.
    """
    sampler = BlockShuffleSampler(
        dataset,
        block,
        buffer,
        seed,
        num_replicas=num_replicas,
        rank=rank,
        batch_size=batch_size,
        workers=workers,
    )
    settings: dict[str, Any] = {
        "collate_fn": Handover(collate),
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": workers > 0,
        **more,
    }
    return DataLoader(
        dataset, batch_size, sampler=sampler, num_workers=workers, drop_last=drop_last, **settings
    )


def prefetch(batches: Iterable[_T], device: torch.device | str | None = None) -> Iterator[_T]:
    """Give batches with their tensors on the GPU, the next one on its way while one is worked on.

    Without a GPU, or for another device, batches are given as they come.

    Args:
        batches: A `DataLoader`, with `pin_memory=True` if it can have it: from other memory a batch is
            copied once more.
        device: Where to; the current GPU by default.
    """
    target = torch.device("cuda" if device is None else device)
    if target.type != "cuda" or not torch.cuda.is_available():
        yield from batches
        return
    stream: Any = torch.cuda.Stream(target)  # type: ignore[no-untyped-call,unused-ignore]
    ahead: list[_T] = []
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = _moved(batch, target)
        if ahead:
            yield _ready(ahead.pop(), stream)
        ahead.append(moved)
    for moved in ahead:
        yield _ready(moved, stream)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        # Only from pinned memory the copy runs beside everything else.
        return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)
    return mapped(value, lambda one: _moved(one, device))


def _ready(value: Any, stream: Any) -> Any:
    current = torch.cuda.current_stream()
    current.wait_stream(stream)

    def mark(one: Any) -> Any:
        if isinstance(one, torch.Tensor):
            # Its memory is not used again before the work that comes now has ended.
            one.record_stream(current)
            return one
        return mapped(one, mark)

    return mark(value)
