# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import pytest
from sealroom.errors import ConfigurationError

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from sealroom.torch import BlockShuffleSampler  # noqa: E402
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset  # noqa: E402


class Rows(Dataset[int]):
    """A dataset that can read in blocks, and notes what it was told."""

    def __init__(self, length: int, block_rows: int = 10) -> None:
        self.length, self.block_rows = length, block_rows
        self.told: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index

    def read_in_blocks(self, block: int, keep: int) -> None:
        self.told.append((block, keep))


@pytest.mark.parametrize(
    ("lengths", "block", "buffer"),
    [([1000], 10, 4), ([1003], 10, 4), ([1], 10, 4), ([7, 0, 13, 100], 8, 3), ([64], 64, 1), ([0], 5, 2)],
)
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (16, 2), (7, 3), (300, 2)])
def test_every_sample_comes_once(
    lengths: list[int], block: int, buffer: int, batch_size: int, workers: int
) -> None:
    sampler = BlockShuffleSampler(lengths, block, buffer, batch_size=batch_size, workers=workers)
    assert len(sampler) == sum(lengths)
    for _ in range(3):
        assert sorted(sampler) == list(range(sum(lengths)))


def test_epochs_have_orders_of_their_own_that_can_be_had_again() -> None:
    sampler = BlockShuffleSampler([500], 10, 4, seed=7)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(sampler) == second
    assert list(BlockShuffleSampler([500], 10, 4, seed=8)) != first


def test_order_is_the_same_in_every_version() -> None:
    # Recorded: a run that goes on elsewhere must find the same order.
    assert list(BlockShuffleSampler([12], 3, 2, seed=1)) == [2, 6, 0, 7, 1, 8, 4, 11, 5, 10, 9, 3]


def test_a_window_holds_whole_blocks_and_nothing_else() -> None:
    block, buffer = 8, 4
    order = BlockShuffleSampler([256], block, buffer, seed=3).order(5).reshape(-1, block * buffer)
    for window in order:
        touched = sorted(set(window // block))
        assert len(touched) == buffer
        assert sorted(window) == [b * block + i for b in touched for i in range(block)]


def test_no_sample_is_further_from_its_block_than_a_window() -> None:
    # The order of the blocks is that of windows of one sample block by block: found from the outside by
    # the same seed with samples that stay in place.
    block, buffer, total = 8, 4, 4096
    window = block * buffer
    moved: list[int] = []
    for epoch in range(20):
        order = BlockShuffleSampler([total], block, buffer, seed=9).order(epoch)
        laid = _laid_end_to_end(order, block, window)
        place = np.empty(total, np.int64)
        place[order] = np.arange(total)
        moved += (place[laid] - np.arange(total)).tolist()
    assert max(map(abs, moved)) <= window - 1
    assert np.mean(np.abs(moved)) == pytest.approx((window**2 - 1) / (3 * window), rel=0.01)
    counts = np.bincount(np.array(moved) + window - 1, minlength=2 * window - 1) / len(moved)
    triangle = (window - np.abs(np.arange(1 - window, window))) / window**2
    assert np.abs(counts - triangle).max() < 0.002


def _laid_end_to_end(order: Any, block: int, window: int) -> Any:
    """Return the samples as the shuffled blocks have them, up to the order of blocks within a window."""
    draw = np.random.default_rng(4)
    laid = []
    for part in order.reshape(-1, window):
        blocks = np.unique(part // block)
        draw.shuffle(blocks)
        laid += [b * block + i for b in blocks for i in range(block)]
    return np.array(laid)


def test_every_sample_is_equally_likely_everywhere() -> None:
    sampler, epochs = BlockShuffleSampler([24], 4, 2, seed=5), 4000
    counts = np.zeros((24, 24))
    for epoch in range(epochs):
        counts[sampler.order(epoch), np.arange(24)] += 1
    expected = epochs / 24
    # Chi-square of 24 x 24 cells with 23 x 23 degrees of freedom: mean 529, standard deviation 33.
    assert ((counts - expected) ** 2 / expected).sum() < 529 + 4 * 33


def test_two_samples_meet_in_a_batch_as_often_as_is_said() -> None:
    block, buffer, size, total, epochs = 4, 4, 8, 64, 3000
    sampler = BlockShuffleSampler([total], block, buffer, seed=6)
    same = other = 0
    for epoch in range(epochs):
        batch = np.empty(total, np.int64)
        batch[sampler.order(epoch)] = np.arange(total) // size
        same += batch[0] == batch[1]
        other += batch[0] == batch[63]
    window, blocks = block * buffer, total // block
    together = (size - 1) / (window - 1)
    assert same / epochs == pytest.approx(together, abs=0.03)
    assert other / epochs == pytest.approx((buffer - 1) / (blocks - 1) * together, abs=0.02)


@pytest.mark.parametrize("kind", ["sorted", "mixed", "random"])
def test_variance_of_a_batch_is_what_is_said(kind: str) -> None:
    block, buffer, size, total = 16, 4, 16, 1024
    draw = np.random.default_rng(2)
    by_block = np.repeat(draw.normal(size=total // block), block)
    values = {
        "sorted": by_block,
        "mixed": by_block + draw.normal(size=total),
        "random": draw.normal(size=total),
    }[kind]
    values = values - values.mean()
    square = values.reshape(-1, block)
    pairs = (square.sum(axis=1) ** 2 - (square**2).sum(axis=1)).sum() / (total * (block - 1))
    correlation = float(pairs / values.var())
    sampler = BlockShuffleSampler([total], block, buffer, seed=4)
    means = np.concatenate([values[sampler.order(e)].reshape(-1, size).mean(axis=1) for e in range(600)])
    full = values.var() / size * (total - size) / (total - 1)
    assert (means**2).mean() / full == pytest.approx(sampler.inflation(size, correlation), rel=0.05)


def test_a_window_of_everything_is_a_full_shuffle() -> None:
    assert BlockShuffleSampler([1000], 100, 10).inflation(64) == 1
    assert BlockShuffleSampler([10_000], 100, 10).inflation(64) > 5
    assert BlockShuffleSampler([10_000], 100, 10).inflation(64, 0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("workers", [2, 3])
def test_no_two_workers_share_a_window(workers: int) -> None:
    block, size = 8, 16
    sampler = BlockShuffleSampler([1152], block, 4, batch_size=size, workers=workers)
    batches = np.array(list(sampler)).reshape(-1, size)
    touched = [set((batches[worker::workers] // block).ravel()) for worker in range(workers)]
    for one in range(workers):
        for other in range(one):
            # At most the block at the cut between two of them.
            assert len(touched[one] & touched[other]) <= 1


@pytest.mark.parametrize("total", [1000, 1003, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_cover_everything_in_equal_parts(total: int, workers: int) -> None:
    ranks = [
        list(BlockShuffleSampler([total], 10, 4, num_replicas=4, rank=r, batch_size=8, workers=workers))
        for r in range(4)
    ]
    assert {len(one) for one in ranks} == {-(-total // 4)}
    assert set().union(*ranks) == set(range(total))
    kept = [
        list(BlockShuffleSampler([total], 10, 4, num_replicas=4, rank=r, drop_last=True)) for r in range(4)
    ]
    assert {len(one) for one in kept} == {total // 4}
    assert len(set().union(*kept)) == 4 * (total // 4)


@pytest.mark.parametrize("taken", [0, 1, 64, 499, 500])
def test_pass_goes_on_where_the_state_says(taken: int) -> None:
    first = BlockShuffleSampler([500], 10, 4, seed=2)
    list(first)
    whole = list(first)
    state = first.state_dict(taken)
    second = BlockShuffleSampler([500], 10, 4, seed=2)
    second.load_state_dict(state)
    following = list(BlockShuffleSampler([500], 10, 4, seed=2).order(2))
    assert list(second) == (whole[taken:] or following)


def test_state_of_a_pass_that_goes_on_counts_what_was_handed_out() -> None:
    sampler = BlockShuffleSampler([50], 10, 2)
    handed = iter(sampler)
    first = [next(handed) for _ in range(17)]
    other = BlockShuffleSampler([50], 10, 2)
    other.load_state_dict(sampler.state_dict())
    assert first + list(other) == list(sampler.order(0))


def test_loop_that_sets_the_epoch_goes_on_in_the_middle_of_it() -> None:
    sampler = BlockShuffleSampler([50], 10, 2)
    other = BlockShuffleSampler([50], 10, 2)
    other.load_state_dict({**sampler.state_dict(20), "epoch": 3})
    seen = []
    for epoch in (3, 4):
        other.set_epoch(epoch)
        seen.append(list(other))
    assert seen == [list(sampler.order(3)[20:]), list(sampler.order(4))]


@pytest.mark.parametrize("change", [{"seed": 1}, {"block": 11}, {"buffer": 3}, {"batch_size": 2}])
def test_state_of_another_order_is_refused(change: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"block": 10, "buffer": 4, "seed": 0}
    state = BlockShuffleSampler([500], **arguments).state_dict()
    with pytest.raises(ConfigurationError, match="other arguments"):
        BlockShuffleSampler([500], **{**arguments, **change}).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"version": 1}, {"version": 2, "epoch": 0, "position": 0}])
def test_what_is_no_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="not the state"):
        BlockShuffleSampler([500], 10).load_state_dict(state)


def test_state_beyond_the_pass_is_refused() -> None:
    sampler = BlockShuffleSampler([500], 10)
    with pytest.raises(ValueError, match="500 samples"):
        sampler.state_dict(501)
    with pytest.raises(ConfigurationError):
        sampler.load_state_dict({**sampler.state_dict(), "position": 501})


@pytest.mark.parametrize(
    "arguments",
    [
        {"block": 0},
        {"buffer": 0},
        {"batch_size": 0},
        {"num_replicas": 2, "rank": 2},
        {"seed": -1},
        {"block": None},
    ],
)
def test_arguments_that_make_no_order_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        BlockShuffleSampler([100], **{"block": 10, **arguments})


def test_dataset_is_told_to_read_in_the_samplers_blocks() -> None:
    rows = Rows(100)
    assert BlockShuffleSampler(rows, buffer=4).block == 10
    assert rows.told == [(10, 6)]


def test_datasets_inside_of_others_are_told_too() -> None:
    images, labels = Rows(100, 5), Rows(100, 1000)
    assert BlockShuffleSampler(StackDataset(images, labels), buffer=4).block == 5
    assert images.told == labels.told == [(5, 6)]
    assert BlockShuffleSampler(Subset(images, range(50)), buffer=2).lengths == (50,)
    assert images.told[-1] == (5, 4)


def test_no_block_holds_samples_of_two_files() -> None:
    sampler = BlockShuffleSampler(ConcatDataset([Rows(15), Rows(25)]), buffer=1)
    assert sampler.lengths == (15, 25)
    blocks = [range(10), range(10, 15), range(15, 25), range(25, 35), range(35, 40)]
    for epoch in range(5):
        # With a window of one block, a block lies in two windows at most.
        order = sampler.order(epoch)
        for block in blocks:
            assert np.ptp(np.flatnonzero(np.isin(order, block))) < 2 * sampler.window
