# SPDX-License-Identifier: BSD-3-Clause
"""Images in a directory for each class, sealed file by file; classes and files as torchvision lists them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from torch.utils.data import Dataset

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.api import default_client
from sealroom.datasets.messages import FileInfo
from sealroom.datasets.torch.failures import reading
from sealroom.errors import Error, FormatError, StorageError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, as for torchvision's `ImageFolder`."""


class SealedImageFolder(Dataset[Any]):
    """Pairs of an image and its class, from files `root/class/…/image.png` of an unlocked dataset.

    Works without torchvision, and takes its transforms. A batch is read with few requests.

    Args:
        root: Dataset, or dataset and directory: `chest-xray/train`.
        transform: Applied to each image.
        target_transform: Applied to each class's number.
        loader: Makes an image of a binary file object that holds the whole file. By default PIL decodes it
            to RGB; where PIL is not installed, the image is its bytes.
        extensions: Endings of the files that are taken, in lower case.
        is_valid_file: Says of a file's name whether it is taken, instead of `extensions`.
        allow_empty: Let classes be without a file.

    Raises:
        StorageError: There is no class, or one without a file.
        AccessDeniedError: The dataset is locked, or access to it has ended.
    """

    def __init__(
        self,
        root: str,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        loader: Callable[[BinaryIO], Any] | None = None,
        *,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        client: AgentClient | None = None,
    ) -> None:
        self.root = root.removeprefix("sealed://").rstrip("/")
        self.transform, self.target_transform = transform, target_transform
        self.loader = load_image if loader is None else loader
        self.client = default_client() if client is None else client
        self.dataset, _, folder = self.root.partition("/")
        listed = self.client.files(self.dataset)
        files = _inside(listed, folder)
        self.classes: list[str] = sorted({name.partition("/")[0] for name, _ in files})
        if not self.classes:
            raise StorageError(
                f"{self.root} has no directory for any class.",
                advice="Name the directory that holds one directory for each class.",
            )
        self.class_to_idx: dict[str, int] = {name: number for number, name in enumerate(self.classes)}
        prefix = f"{folder}/" if folder else ""
        endings = tuple(extensions)
        taken: list[tuple[str, int, int]] = []
        for name, size in files:
            if is_valid_file(prefix + name) if is_valid_file else name.lower().endswith(endings):
                taken.append((prefix + name, self.class_to_idx[name.partition("/")[0]], size))
        # Class by class, directory by directory.
        taken.sort(key=lambda one: (one[1], one[0].rpartition("/")[0], one[0]))
        self.samples: list[tuple[str, int]] = [(name, target) for name, target, _ in taken]
        """Name in the dataset, and number of the class."""
        self.targets: list[int] = [target for _, target, _ in taken]
        self._sizes = [size for _, _, size in taken]
        handles = {file.name: file.handle for file in listed}
        self._handles = [handles[name] for name, _ in self.samples]
        empty = [name for name in self.classes if self.class_to_idx[name] not in set(self.targets)]
        if empty and not allow_empty:
            raise StorageError(
                f"{self.root}: no image in {', '.join(empty[:10])}.",
                advice="Say extensions=… or is_valid_file=… for other files, or allow_empty=True.",
            )

    @property
    def imgs(self) -> list[tuple[str, int]]:
        """The same as `samples`, under torchvision's name."""
        return self.samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several pairs; their files are read together. DataLoader calls this for a batch."""
        wanted = [self._index(index) for index in indices]
        ranges = [(self._handles[index], 0, self._sizes[index]) for index in wanted]
        first = self.samples[wanted[0]][0] if wanted else ""
        with reading(f"{self.dataset}/{first}"):
            answers = self.client.read_ranges(self.dataset, ranges)
        return [self._pair(index, answer) for index, answer in zip(wanted, answers, strict=True)]

    def __repr__(self) -> str:
        return f"<SealedImageFolder {self.root}, {len(self)} images of {len(self.classes)} classes>"

    def _index(self, index: int) -> int:
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return index

    def _pair(self, index: int, answer: memoryview | Error) -> tuple[Any, Any]:
        name, target = self.samples[index]
        full = f"{self.dataset}/{name}"
        with reading(full):
            if isinstance(answer, Error):
                raise answer
            if len(answer) != self._sizes[index]:
                raise FormatError(f"{full} is {len(answer)} bytes long instead of {self._sizes[index]}.")
            stream = _Named(answer, full)
            try:
                image = self.loader(stream)
            except Error:
                raise
            except Exception as error:
                error.add_note(f"It is {full} that could not be loaded.")
                raise
        if self.transform is not None:
            image = self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)


class _Named(io.BytesIO):
    """A file in memory that knows its name: dataset and file."""

    def __init__(self, data: memoryview, name: str) -> None:
        super().__init__(data)
        self.name = name


def load_image(stream: BinaryIO) -> Any:
    """Decode an image to RGB with PIL; return its bytes where PIL is not installed.

    Raises:
        FormatError: It is not an image that PIL knows, or it is damaged.
    """
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError:
        return stream.read()
    try:
        return image.open(stream).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, image.DecompressionBombError) as error:
        # PIL's own words show the stream as an object, the name says more.
        what = "is not an image that PIL knows" if "cannot identify" in str(error) else f"is damaged: {error}"
        raise FormatError(f"{getattr(stream, 'name', 'The image')} {what}.") from error


def _inside(files: Sequence[FileInfo], folder: str) -> list[tuple[str, int]]:
    """Return name below a directory and size of each file that is in a directory of its own there."""
    prefix = f"{folder}/" if folder else ""
    below = [(file.name[len(prefix) :], file.size) for file in files if file.name.startswith(prefix)]
    return [(name, size) for name, size in below if "/" in name]
