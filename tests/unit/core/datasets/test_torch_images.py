# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from sealroom.errors import AccessDeniedError, FormatError, IntegrityError, StorageError
from support.sealed import Backend, Sealed

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")

from sealroom.datasets.torch.images import load_image  # noqa: E402
from sealroom.torch import SealedImageFolder  # noqa: E402
from support.torch_data import FORK, damage, seal_files, serving  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

pytestmark = FORK


def png(number: int, side: int = 8) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    image.fromarray(pixels).save(out, "png")
    return out.getvalue()


FILES = {
    "train/normal/b.png": png(1),
    "train/normal/a.PNG": png(2),
    "train/normal/sub/a.png": png(3),
    "train/normal-2/x.png": png(4),
    "train/pneumonia/z.png": png(5),
    "train/pneumonia/notes.txt": b"not an image",
    "train/README.png": png(6),
    "labels.csv": b"a,b\n",
    "broken/one/cut.png": png(7)[:120],
    "broken/one/text.png": b"this is no image",
    "empty/none/notes.txt": b"",
    "empty/some/a.png": png(8),
    "large/noise/a.png": png(9, 300),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_files(tmp_path_factory.mktemp("images"), dict(FILES))


@pytest.fixture
def served(dataset: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with serving(dataset, run, monkeypatch) as backend:
        yield backend


def pixels(picture: Any) -> Any:
    return torch.from_numpy(np.array(picture))


def name_and_size(stream: BinaryIO) -> tuple[str, int]:
    return stream.name, len(stream.read())


def fail(stream: BinaryIO) -> Any:
    raise ZeroDivisionError


def test_classes_and_files_are_listed_as_torchvision_lists_them(dataset: Sealed, served: Backend) -> None:
    vision = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    source = dataset.root / "source"
    theirs, ours = vision.ImageFolder(source / "train"), SealedImageFolder("heartbeats/train")
    assert ours.classes == theirs.classes == ["normal", "normal-2", "pneumonia"]
    assert ours.class_to_idx == theirs.class_to_idx
    assert ours.targets == theirs.targets
    listed = [(str(Path(path).relative_to(source)), target) for path, target in theirs.samples]
    assert ours.samples == ours.imgs == listed


def test_images_and_classes_are_those_of_the_plain_files(dataset: Sealed, served: Backend) -> None:
    folder = SealedImageFolder("sealed://heartbeats/train/")
    assert len(folder) == 5
    for index, (name, target) in enumerate(folder.samples):
        picture, number = folder[index]
        assert number == target
        assert picture.mode == "RGB"
        assert picture.tobytes() == image.open(dataset.root / "source" / name).convert("RGB").tobytes()
    assert folder[-1][0].tobytes() == folder[4][0].tobytes()


def test_batch_is_read_with_one_request(served: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SealedImageFolder("heartbeats/train")
    original, asked = folder.client.read_ranges, []

    def spy(*arguments: Any) -> Any:
        asked.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(folder.client, "read_ranges", spy)
    assert len(folder.__getitems__([0, 3, 4])) == 3
    assert len(asked) == 1


def test_transforms_get_image_and_class(served: Backend) -> None:
    folder = SealedImageFolder("heartbeats/train", transform=pixels, target_transform=str)
    picture, target = folder[4]
    assert picture.shape == (8, 8, 3)
    assert target == "2"


def test_loader_gets_a_file_that_knows_its_name(served: Backend) -> None:
    folder = SealedImageFolder("heartbeats/train", loader=name_and_size)
    assert folder[0] == (("heartbeats/train/normal/a.PNG", len(FILES["train/normal/a.PNG"])), 0)


def test_without_pil_images_are_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert load_image(io.BytesIO(b"bytes")) == b"bytes"


def test_files_are_chosen_by_ending_or_by_name(served: Backend) -> None:
    texts = SealedImageFolder("heartbeats/train", extensions=[".txt"], allow_empty=True)
    assert texts.samples == [("train/pneumonia/notes.txt", 2)]
    chosen = SealedImageFolder("heartbeats/train", is_valid_file=lambda n: "/x." in n, allow_empty=True)
    assert chosen.samples == [("train/normal-2/x.png", 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_every_image(served: Backend, workers: int) -> None:
    folder = SealedImageFolder("heartbeats/train", transform=pixels)
    (batch,) = DataLoader(folder, 5, num_workers=workers)
    assert batch[1].tolist() == [0, 0, 0, 1, 2]
    assert torch.equal(batch[0], torch.stack([folder[index][0] for index in range(5)]))


def test_folder_pickles_as_names(served: Backend) -> None:
    folder = SealedImageFolder("heartbeats/train")
    again = pickle.loads(pickle.dumps(folder))
    assert again[2][0].tobytes() == folder[2][0].tobytes()
    assert len(pickle.dumps(folder)) < 2000


def test_directory_without_classes_is_refused(served: Backend) -> None:
    with pytest.raises(StorageError, match="no directory for any class"):
        SealedImageFolder("heartbeats/train/normal-2")


def test_class_without_an_image_is_refused(served: Backend) -> None:
    with pytest.raises(StorageError, match="no image in none"):
        SealedImageFolder("heartbeats/empty")
    assert SealedImageFolder("heartbeats/empty", allow_empty=True).classes == ["none", "some"]


@pytest.mark.parametrize("index", [5, -6])
def test_image_that_is_not_there_is_an_index_error(served: Backend, index: int) -> None:
    with pytest.raises(IndexError):
        SealedImageFolder("heartbeats/train")[index]


@pytest.mark.parametrize(("index", "name"), [(0, "cut.png is damaged"), (1, "text.png is not an image")])
@pytest.mark.parametrize("workers", [0, 1])
def test_file_that_is_no_image_is_named(served: Backend, index: int, name: str, workers: int) -> None:
    folder = SealedImageFolder("heartbeats/broken", transform=pixels)
    with pytest.raises(FormatError, match=f"heartbeats/broken/one/{name}"):
        list(DataLoader(folder, sampler=[index], num_workers=workers))


def test_error_of_ones_own_loader_says_for_which_file(served: Backend) -> None:
    folder = SealedImageFolder("heartbeats/train", loader=fail)
    with pytest.raises(ZeroDivisionError) as caught:
        folder[4]
    assert caught.value.__notes__ == ["It is heartbeats/train/pneumonia/z.png that could not be loaded."]


@pytest.mark.parametrize("workers", [0, 1])
def test_tampered_image_is_named_around_the_loop(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    sealed = seal_files(tmp_path, dict(FILES))
    damage(sealed, "large/noise/a.png", 2)
    with serving(sealed, run, monkeypatch):
        folder = SealedImageFolder("heartbeats/large", transform=pixels)
        with pytest.raises(IntegrityError, match=r"^large/noise/a\.png: segment 2 of 5 was changed"):
            list(DataLoader(folder, num_workers=workers))


def test_locked_dataset_is_refused(served: Backend) -> None:
    folder = SealedImageFolder("heartbeats/train")
    served.vault.drop("heartbeats", "It was withdrawn.")
    with pytest.raises(AccessDeniedError, match="It was withdrawn"):
        folder[0]
    with pytest.raises(AccessDeniedError):
        SealedImageFolder("heartbeats/train")
