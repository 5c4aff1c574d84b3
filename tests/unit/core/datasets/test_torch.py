# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.errors import AccessDeniedError, FormatError, IntegrityError
from support.sealed import Backend, Sealed

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from support.torch_data import FORK, Bytes, damage, npy, npy_with, seal_files, serving  # noqa: E402

pytestmark = FORK

IMAGES = np.arange(300 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(300, 28, 28)
SIGNAL = np.linspace(-1, 1, 50_000, dtype=np.float32)


FILES = {
    "images.npy": npy(IMAGES),
    "signal.npy": npy(SIGNAL),
    "big-endian.npy": npy(SIGNAL.astype(">f4")),
    "fortran.npy": npy(np.asfortranarray(IMAGES)),
    "objects.npy": npy(np.array([{}, []], dtype=object), allow_pickle=True),
    "scalar.npy": npy(np.float32(1)),
    "short.npy": npy(IMAGES)[:-1],
    "text.txt": b"no array",
    "none.npy": npy(np.empty((0, 4), np.float32)),
    "empty-rows.npy": npy(np.empty((4, 0), np.float32)),
    "large.npy": npy(np.arange(40 * 20_000, dtype=np.int32).reshape(40, 20_000)),
    "long.npy": npy(IMAGES) + b"\0",
    "structured.npy": npy(np.zeros(3, [("a", "<i4")])),
    "text.npy": npy(np.array(["a", "b"])),
    "long-double.npy": npy_with(b"{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }", bytes(16)),
    "lie.npy": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", bytes(8)),
    "code.npy": npy_with(b"__import__('os').abort()"),
    "extra.npy": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1, }", bytes(8)),
    "minus.npy": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1), }", bytes(8)),
    "bool-shape.npy": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }", bytes(4)),
    "huge.npy": npy_with(b"{'descr': '|i1', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"),
    "deep.npy": npy_with(b"(" * 9000),
    "version.npy": npy_with(b"{}", version=b"\x04\x00"),
    "cut-header.npy": npy(IMAGES)[:20],
    "version-2.npy": npy_with(
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }", b"\x01\0\x02\0", b"\x02\0"
    ),
}


REFUSED = sorted(
    {"fortran.npy", "objects.npy", "scalar.npy", "short.npy", "text.txt", "long.npy", "structured.npy"}
    | {"text.npy", "long-double.npy", "lie.npy", "code.npy", "extra.npy", "minus.npy", "bool-shape.npy"}
    | {"huge.npy", "deep.npy", "version.npy", "cut-header.npy"}
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_files(tmp_path_factory.mktemp("arrays"), FILES)


@pytest.fixture
def served(dataset: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with serving(dataset, run, monkeypatch) as backend:
        yield backend


def sealed_array(name: str, **options: Any) -> Any:
    from sealroom.datasets.torch import SealedArray

    return SealedArray(f"heartbeats/{name}", **options)


def test_rows_are_tensors(served: Backend) -> None:
    array = sealed_array("images.npy")
    assert len(array) == 300
    assert array.shape == (300, 28, 28)
    for index in (0, 7, 299, -1, np.int64(5)):
        assert torch.equal(array[index], torch.from_numpy(IMAGES[index].copy()))


def test_slices_are_tensors(served: Backend) -> None:
    array = sealed_array("signal.npy")
    for part in (slice(100, 200), slice(None), slice(0, 100, 7), slice(-5, None), slice(200, 100)):
        assert torch.equal(array[part], torch.from_numpy(SIGNAL[part].copy()))
    with pytest.raises(IndexError, match="backwards"):
        array[::-1]


def test_numbers_of_a_flat_array_are_scalars(served: Backend) -> None:
    assert float(sealed_array("signal.npy")[3]) == float(SIGNAL[3])
    assert sealed_array("big-endian.npy")[3].item() == float(SIGNAL[3])


def test_reading_a_row_touches_its_segments_only(served: Backend) -> None:
    array = sealed_array("images.npy")
    served.vault._cache.drop(0)
    lengths: list[int] = []
    original = served.vault.read_into

    def spy(dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        lengths.append(len(buffer))
        return original(dataset, file, offset, buffer)

    served.vault.read_into = spy  # type: ignore[method-assign]
    array[100]
    assert lengths == [28 * 28]


def test_batch_reads_neighbours_together_and_keeps_order(served: Backend) -> None:
    array, calls = sealed_array("images.npy"), []
    served.on_read = lambda: calls.append(1)
    batch = array.__getitems__([5, 3, 4, 200, 3])
    assert len(calls) == 2
    assert array.__getitems__([]) == []
    for got, index in zip(batch, [5, 3, 4, 200, 3], strict=True):
        assert torch.equal(got, torch.from_numpy(IMAGES[index].copy()))


def test_transform_gets_the_row(served: Backend) -> None:
    array = sealed_array("images.npy", transform=lambda row: float(row.mean()))
    assert array[9] == float(IMAGES[9].mean())
    assert array.__getitems__([9]) == [array[9]]


@pytest.mark.parametrize("index", [300, -301])
def test_row_that_is_not_there_is_an_index_error(served: Backend, index: int) -> None:
    with pytest.raises(IndexError):
        sealed_array("images.npy")[index]


def test_rows_beyond_the_end_are_an_index_error(served: Backend) -> None:
    with pytest.raises(IndexError):
        sealed_array("images.npy").rows(299, 301)


def test_array_without_rows_is_empty(served: Backend) -> None:
    assert len(sealed_array("none.npy")) == 0


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_cannot_be_read_by_rows_is_refused(served: Backend, name: str) -> None:
    with pytest.raises(FormatError, match=name):
        sealed_array(name)


def test_array_pickles_without_data(served: Backend) -> None:
    array = sealed_array("images.npy")
    data = pickle.dumps(array)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data)[4], array[4])


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_reads_everything_once(served: Backend, workers: int) -> None:
    loader = torch.utils.data.DataLoader(
        sealed_array("images.npy"), batch_size=32, shuffle=True, num_workers=workers
    )
    images = torch.cat(list(loader))
    assert sorted(image.numpy().tobytes() for image in images) == sorted(image.tobytes() for image in IMAGES)


def test_numpy_loads_a_sealed_file(served: Backend) -> None:
    import sealroom

    with sealroom.open("heartbeats/images.npy") as file:
        assert np.array_equal(np.load(file), IMAGES)
    with sealroom.open("heartbeats/fortran.npy") as file:
        assert np.array_equal(np.load(file), IMAGES)


def test_labels_are_scalars_and_stack_to_one_axis(served: Backend) -> None:
    batch = sealed_array("signal.npy").__getitems__([5, 3])
    assert [one.shape for one in batch] == [torch.Size([]), torch.Size([])]
    assert torch.stack(batch).tolist() == [SIGNAL[5], SIGNAL[3]]


def test_header_of_version_2_is_read(served: Backend) -> None:
    assert sealed_array("version-2.npy")[:].tolist() == [1, 2]


def test_objects_are_named_as_what_they_are_and_not_unpickled(served: Backend) -> None:
    with pytest.raises(FormatError, match=r"objects\.npy holds Python objects, which are never unpickled"):
        sealed_array("objects.npy")


def test_short_array_says_how_much_is_missing(served: Backend) -> None:
    with pytest.raises(FormatError, match=r"short\.npy ends 1 bytes before its last number"):
        sealed_array("short.npy")


@pytest.mark.parametrize(
    "name", ["images.npy", "signal.npy", "big-endian.npy", "large.npy", "empty-rows.npy"]
)
@pytest.mark.parametrize("keep", [0, 1, 4])
def test_blocks_give_the_same_rows_as_single_reads(served: Backend, name: str, keep: int) -> None:
    array, single = sealed_array(name), sealed_array(name)
    array.read_in_blocks(7, keep)
    chosen = [3, 0, 2, 3, len(array) - 1, 1, -1]
    for got, index in zip(array.__getitems__(chosen), chosen, strict=True):
        assert torch.equal(got, single[index])
        assert torch.equal(array[index], single[index])


def test_a_block_is_fetched_once_for_all_its_rows(served: Backend) -> None:
    array = sealed_array("images.npy")
    array.read_in_blocks(100, 2)
    calls: list[int] = []
    served.on_read = lambda: calls.append(1)
    for start in range(0, 200, 20):
        array.__getitems__([start, start + 3, 199 - start])
    assert len(calls) == 2


def test_block_of_no_rows_is_refused(served: Backend) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        sealed_array("images.npy").read_in_blocks(0)


def test_samples_of_a_block_are_copies(served: Backend) -> None:
    array = sealed_array("images.npy")
    array.read_in_blocks(100, 2)
    array.__getitems__([5])[0].fill_(1)
    array[5].fill_(2)
    assert torch.equal(array[5], torch.from_numpy(IMAGES[5].copy()))


def test_threads_read_blocks_at_once(served: Backend) -> None:
    array = sealed_array("images.npy")
    array.read_in_blocks(10, 3)
    with ThreadPoolExecutor(8) as pool:
        for index, got in enumerate(pool.map(array.__getitem__, range(300))):
            assert np.array_equal(got.numpy(), IMAGES[index])


def test_array_that_has_blocks_pickles_without_them(served: Backend) -> None:
    array = sealed_array("images.npy")
    array.read_in_blocks(300, 2)
    array.__getitems__([1, 2])
    data = pickle.dumps(array)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data).__getitems__([7])[0], array[7])


def test_rows_are_numpy_arrays_in_the_order_of_the_file(served: Backend) -> None:
    array = sealed_array("big-endian.npy")
    assert array.numpy(3).dtype == np.dtype(">f4")
    assert array.numpy(3) == SIGNAL[3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["single", "blocks"])
def test_tampered_segment_is_named_around_the_loop(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, workers: int, how: str
) -> None:
    sealed = seal_files(tmp_path, {"images.npy": FILES["images.npy"]})
    damage(sealed, "images.npy", 3)
    with serving(sealed, run, monkeypatch):
        array = sealed_array("images.npy")
        if how == "blocks":
            array.read_in_blocks(50)
        loader = torch.utils.data.DataLoader(array, batch_size=50, num_workers=workers)
        with pytest.raises(IntegrityError) as caught:
            list(loader)
    assert caught.value.message.startswith("images.npy: segment 3 of 4 was changed")
    assert caught.value.advice
    if workers:
        assert "DataLoader worker process" in caught.value.__notes__[0]


def test_trust_that_is_lost_in_the_middle_of_an_epoch_ends_it(served: Backend) -> None:
    array = sealed_array("images.npy")
    array.read_in_blocks(10, 2)
    loader = torch.utils.data.DataLoader(array, batch_size=10, num_workers=2, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    served.vault.drop("heartbeats", "The owner has withdrawn your access to heartbeats.", advice="Ask them.")
    with pytest.raises(AccessDeniedError) as caught:
        list(batches)
    assert caught.value.message == "The owner has withdrawn your access to heartbeats."
    assert caught.value.advice == "Ask them."


def test_workers_that_live_on_read_again_after_a_new_release(dataset: Sealed, served: Backend) -> None:
    array = sealed_array("images.npy")
    loader = torch.utils.data.DataLoader(array, batch_size=100, num_workers=1, persistent_workers=True)
    assert len(list(loader)) == 3
    served.vault.drop("heartbeats", "It was withdrawn.")
    with pytest.raises(AccessDeniedError, match="withdrawn"):
        list(loader)
    dataset.unlock(served.vault)
    assert torch.equal(torch.cat(list(loader)), torch.from_numpy(IMAGES))


@pytest.mark.slow
def test_spawned_workers_that_live_on_read_everything_each_epoch(served: Backend) -> None:
    from sealroom.torch import data_loader

    loader = data_loader(sealed_array("images.npy"), 64, workers=2, block=20, multiprocessing_context="spawn")
    for _ in range(2):
        images = torch.cat(list(loader))
        assert sorted(one.numpy().tobytes() for one in images) == sorted(one.tobytes() for one in IMAGES)


def test_core_is_imported_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import sealroom.datasets.api, sealroom.datasets.filesystem, sealroom.datasets.seal\n"
        "try:\n    import sealroom.torch\nexcept ImportError as error:\n    print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "torch"), done.stderr


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_but_a_format_error_comes_of_a_header_whatever_the_bytes(data: st.DataObject) -> None:
    from sealroom.datasets.torch.npy import read_header

    file = bytearray(npy(np.arange(6, dtype=np.int16).reshape(3, 2)))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    del file[data.draw(st.integers(len(file) - 20, len(file))) :]
    try:
        header = read_header(Bytes(bytes(file)))
    except FormatError:
        return
    assert header.start + header.dtype.itemsize * np.prod(header.shape) == len(file)
