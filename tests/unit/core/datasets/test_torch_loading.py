# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import gc
import pickle
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.sealed import Backend, Sealed

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from sealroom.datasets.torch import handover  # noqa: E402
from sealroom.datasets.torch.failures import WorkerIntegrityError, reading  # noqa: E402
from sealroom.errors import IntegrityError, StorageError  # noqa: E402
from sealroom.torch import SealedArray, collate, data_loader, prefetch  # noqa: E402
from support.torch_data import FORK, npy, seal_files, serving  # noqa: E402
from torch.utils.data import DataLoader, Dataset, StackDataset  # noqa: E402

pytestmark = FORK

IMAGES = np.random.default_rng(1).integers(0, 256, (400, 3, 32, 32), np.uint8)
LABELS = np.arange(400, dtype=np.int64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    files = {"images.npy": npy(IMAGES), "labels.npy": npy(LABELS)}
    return seal_files(tmp_path_factory.mktemp("pairs"), files)


@pytest.fixture
def served(dataset: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with serving(dataset, run, monkeypatch) as backend:
        yield backend


def pairs() -> Any:
    return StackDataset(SealedArray("heartbeats/images.npy"), SealedArray("heartbeats/labels.npy"))


class Counting(Dataset[Any]):
    """Tensors that say who they are."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return torch.full((self.size,), index, dtype=torch.int32)


def counting(size: int, count: int, **more: Any) -> Any:
    return DataLoader(Counting(size, count), 1, num_workers=1, collate_fn=handover.Handover(collate), **more)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_pairs_stay_pairs_and_come_once_each_epoch(served: Backend, workers: int) -> None:
    loader = data_loader(pairs(), 32, workers=workers, block=20, buffer=3)
    orders = []
    for _ in range(3):
        seen: list[int] = []
        for images, labels in loader:
            assert np.array_equal(images.numpy(), IMAGES[labels.numpy()])
            seen += labels.tolist()
        assert sorted(seen) == list(range(400))
        orders.append(tuple(seen))
    assert len(set(orders)) == 3


def test_batches_that_are_kept_stay_as_they_were(served: Backend) -> None:
    kept = list(data_loader(pairs(), 16, workers=2))
    assert len(kept) == 25
    for images, labels in kept:
        assert np.array_equal(images.numpy(), IMAGES[labels.numpy()])


@pytest.mark.parametrize("how", ["view", "detach", "numpy", "list"])
def test_what_is_made_of_a_batch_stays_as_it_was(how: str) -> None:
    make: Any = {
        "view": lambda batch: batch[0, 10:],
        "detach": lambda batch: batch.detach(),
        "numpy": lambda batch: batch.numpy(),
        "list": lambda batch: [*batch],
    }[how]
    made = [make(batch) for batch in counting(20_000, 4 * handover.SLOTS)]
    gc.collect()
    for number, one in enumerate(made):
        assert int(one[0].ravel()[0]) == int(one[-1].ravel()[-1]) == number


def test_memory_of_batches_is_used_again() -> None:
    places = [batch.data_ptr() for batch in counting(20_000, 100)]
    assert len(set(places)) <= handover.SLOTS


def test_memory_goes_with_the_loader() -> None:
    loader = counting(20_000, 4, persistent_workers=True)
    assert len(list(loader)) == 4
    assert handover._known
    del loader
    gc.collect()
    assert not handover._known


def test_memory_of_workers_that_have_ended_goes_with_the_next() -> None:
    loader = counting(20_000, 4)
    for _ in range(3):
        assert len(list(loader)) == 4
    assert len(handover._known) <= 1


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    loader = counting(20_000, 40)
    for number, (one, other) in enumerate(zip(loader, loader, strict=True)):
        assert one.unique().tolist() == other.unique().tolist() == [number]


def test_pass_that_was_left_does_not_use_up_the_memory() -> None:
    loader = counting(20_000, 30, persistent_workers=True)
    for _ in range(2 * handover.SLOTS):
        for _batch in loader:
            break
    places = set()
    for number, batch in enumerate(loader):
        assert batch.unique().tolist() == [number]
        places.add(batch.data_ptr())
    assert len(places) <= handover.SLOTS


def test_batches_may_be_written_to() -> None:
    for number, batch in enumerate(counting(20_000, 20)):
        assert batch.unique().tolist() == [number]
        batch.fill_(-1)


def test_batch_without_room_in_shared_memory_comes_as_torch_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_MOST", 3 * 40_000)
    for number, batch in enumerate(counting(20_000, 10)):
        assert batch.unique().tolist() == [number]


def test_batches_may_grow() -> None:
    class Growing(Counting):
        def __getitem__(self, index: int) -> Any:
            return torch.full((10_000 * (index + 1),), index, dtype=torch.int32)

    loader = DataLoader(Growing(0, 20), 1, num_workers=1, collate_fn=handover.Handover(collate))
    for number, batch in enumerate(loader):
        assert batch.shape == (1, 10_000 * (number + 1))
        assert batch.unique().tolist() == [number]


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float64, torch.complex64, torch.int8])
@pytest.mark.parametrize("length", [3, 50_000])
def test_every_kind_of_number_arrives(dtype: Any, length: int) -> None:
    class Same(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return (torch.arange(length) % 7 + index).to(dtype)

    loader = DataLoader(Same(), 2, num_workers=1, collate_fn=handover.Handover(collate))
    (batch,) = loader
    assert batch.dtype is dtype
    assert torch.equal(batch, torch.stack([Same()[0], Same()[1]]))


def test_rows_of_one_tensor_are_that_tensor() -> None:
    base = torch.arange(12).reshape(4, 3).clone()
    assert collate(list(base.unbind(0))) is base
    images, labels = collate(list(zip(base.unbind(0), torch.arange(4).unbind(0), strict=True)))
    assert images is base
    assert labels.tolist() == [0, 1, 2, 3]
    assert collate([{"x": row} for row in base.unbind(0)])["x"] is base


@pytest.mark.parametrize("rows", [[1, 0, 2, 3], [0, 1, 2], [0, 1, 2, 2]])
def test_rows_in_another_order_are_put_together(rows: list[int]) -> None:
    base = torch.arange(12).reshape(4, 3)
    taken = [base.unbind(0)[row] for row in rows]
    assert torch.equal(collate(taken), base[rows])


@pytest.mark.parametrize(
    "look",
    [
        lambda row: row.T,
        lambda row: row.conj(),
        lambda row: row.conj().imag,
        lambda row: row.real,
        lambda row: torch.view_as_real(row),
        lambda row: row[:1],
        lambda row: row.expand(3, 3),
    ],
)
def test_rows_that_are_looked_at_in_another_way_are_put_together(look: Any) -> None:
    base = torch.randn(3, 3, 3, dtype=torch.complex64)
    rows = [look(row) for row in base.unbind(0)]
    assert torch.equal(collate(rows), torch.stack(rows))


def test_rows_of_other_sizes_are_refused_as_torch_refuses_them() -> None:
    base = torch.arange(12).reshape(4, 3).clone()
    with pytest.raises(RuntimeError, match="equal size"):
        collate([base[0], base[1], base[2], base[3, :2]])


def test_everything_else_is_put_together_as_torch_does() -> None:
    pair = namedtuple("pair", "x y")
    for samples in ([1, 2], [1.5, 2.5], ["a", "b"], [pair(1, "a"), pair(2, "b")], [np.zeros(2), np.ones(2)]):
        ours, theirs = collate(samples), torch.utils.data.default_collate(samples)
        assert type(ours) is type(theirs)
        assert str(ours) == str(theirs)


def test_without_a_gpu_batches_come_as_they_are() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    batches = [{"x": torch.zeros(2)}, {"x": torch.ones(2)}]
    assert all(got is sent for got, sent in zip(prefetch(batches), batches, strict=True))


def test_for_another_device_batches_come_as_they_are() -> None:
    batches = [torch.zeros(2)]
    assert next(prefetch(batches, "cpu")) is batches[0]


def test_error_outside_of_a_worker_stays_what_it_is() -> None:
    error = IntegrityError("x.npy: segment 1 of 2 was changed.", advice="Copy it again.")
    with pytest.raises(IntegrityError) as caught, reading("heartbeats/x.npy"):
        raise error
    assert caught.value is error


def test_error_that_names_no_file_gets_its_name() -> None:
    with pytest.raises(StorageError) as caught, reading("heartbeats/x.npy"):
        raise StorageError("The disk is gone.")
    assert caught.value.message == "heartbeats/x.npy: The disk is gone."


def test_error_made_again_from_its_traceback_is_the_same() -> None:
    text = "Caught WorkerIntegrityError in DataLoader worker process 1.\nOriginal Traceback:\n"
    text += 100 * "  File somewhere\n"
    text += "a.b.WorkerIntegrityError: x: segment 1 of 2 was changed.\nCopy it again.\n"
    error = WorkerIntegrityError(text)
    assert (error.message, error.advice) == ("x: segment 1 of 2 was changed.", "Copy it again.")
    assert error.code == "integrity"
    assert "worker process 1" in error.__notes__[0]


@pytest.mark.parametrize(
    "text", ["", "Caught", "Caught X.WorkerIntegrityError: ", "a.WorkerIntegrityError: b"]
)
def test_text_that_is_no_traceback_is_the_sentence(text: str) -> None:
    assert WorkerIntegrityError(text).message == text


def test_worker_errors_pickle() -> None:
    error = pickle.loads(pickle.dumps(WorkerIntegrityError("x: cut.")))
    assert error.message == "x: cut."


def on_gpu(number: int, done: list[str]) -> Any:
    """Return a tensor that only notes what would be done with it on a GPU."""

    def pin_memory(self: Any) -> Any:
        done.append(f"pin {int(self)}")
        return self

    def to(self: Any, _: object, *, non_blocking: bool = False) -> Any:
        done.append(f"send {int(self)}" + (" in the background" if non_blocking else ""))
        return self

    def record_stream(self: Any, _: object) -> None:
        done.append(f"record {int(self)}")

    methods = {"is_pinned": lambda _: False, "pin_memory": pin_memory, "to": to}
    kind = type("OnGpu", (torch.Tensor,), {**methods, "record_stream": record_stream})
    return torch.tensor(number).as_subclass(kind)


def test_next_batch_is_sent_to_the_gpu_before_the_one_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # No GPU here: what is shown is the order of the calls, not that CUDA does what they say.
    done: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda _: done.append("wait"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    batches = ({"x": (on_gpu(number, done), "name")} for number in range(3))
    for batch in prefetch(batches):
        number = int(batch["x"][0])
        done.append(f"train {number}")
    assert done == [
        *("pin 0", "send 0 in the background"),
        *("pin 1", "send 1 in the background", "wait", "record 0", "train 0"),
        *("pin 2", "send 2 in the background", "wait", "record 1", "train 1"),
        *("wait", "record 2", "train 2"),
    ]


def test_loader_takes_its_rank_from_torch_distributed(
    served: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        loader: Any = data_loader(pairs(), 32, block=20, drop_last=True)
        assert (loader.sampler.num_replicas, loader.sampler.rank) == (2, rank)
        seen.append(torch.cat([labels for _, labels in loader]).tolist())
    assert [len(one) for one in seen] == [192, 192]
    assert not set(seen[0]) & set(seen[1])


def test_loader_goes_on_where_training_was(served: Backend) -> None:
    loader: Any = data_loader(pairs(), 16, workers=2, block=20, buffer=3)
    whole = [labels.tolist() for _, labels in loader]
    loader.sampler.set_epoch(0)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    other: Any = data_loader(pairs(), 16, workers=2, block=20, buffer=3)
    other.sampler.load_state_dict(loader.sampler.state_dict(taken=5 * 16))
    assert [labels.tolist() for _, labels in other] == whole[5:]
