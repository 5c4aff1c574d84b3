# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from sealroom.errors import FormatError
from support.sealed import CREATED, DESCRIPTION, Backend, Sealed, write_tree

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

IMAGES = np.arange(300 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(300, 28, 28)
SIGNAL = np.linspace(-1, 1, 50_000, dtype=np.float32)


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


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
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    root = tmp_path_factory.mktemp("arrays")
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        write_tree(root / "source", FILES),
        root / "heartbeats",
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    return Sealed(root, manifest, dataset_key, signing_key, SecretKey.generate())


@pytest.fixture
def served(dataset: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    backend = Backend(dataset)
    dataset.unlock(backend.vault)
    with AgentServer(run / "agent.sock", backend):
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


@pytest.mark.parametrize("name", ["fortran.npy", "objects.npy", "scalar.npy", "short.npy", "text.txt"])
def test_file_that_cannot_be_read_by_rows_is_refused(served: Backend, name: str) -> None:
    with pytest.raises(FormatError, match=name):
        sealed_array(name)


def test_array_pickles_without_data(served: Backend) -> None:
    array = sealed_array("images.npy")
    data = pickle.dumps(array)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data)[4], array[4])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
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
