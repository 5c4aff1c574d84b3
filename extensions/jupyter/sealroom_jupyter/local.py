# SPDX-License-Identifier: BSD-3-Clause
"""The sealed datasets that lie on this machine. Nothing that is read here is trusted.

A file `<id>.absent.json` in a directory of datasets stands for one that could not be brought here; it is
listed as such, so that a person sees that it exists and why it cannot be used.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sealroom.datasets.manifest import MANIFEST_NAME, MAX_MANIFEST_SIZE, Manifest, check_id
from sealroom.datasets.store import DatasetDirectory, find_dataset, iter_datasets, read_file
from sealroom.errors import Error

ABSENT_SUFFIX = ".absent.json"
_MAX_ABSENT = 64 << 10


class Absent(BaseModel):
    """What is known of a dataset that is not on this machine."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: str
    description: str = ""
    owner: str = ""
    contact: str = ""
    source: str = ""
    licence: str = ""
    reason: str = ""
    """One sentence: why it is not here."""


@dataclass(frozen=True, slots=True)
class LocalDataset:
    """A sealed dataset's directory and what the manifest on disk says, which is not the owner's word yet."""

    directory: DatasetDirectory
    manifest: Manifest | None
    sha256: str
    """SHA-256 (hex) of the manifest's bytes."""
    problem: str = ""
    """Why the manifest cannot be used; empty if it can."""


class LocalDatasets:
    """Looks at the directories for datasets, and reads a manifest again only when its file has changed.

    Args:
        directories: Where datasets lie, one directory each.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int, int], LocalDataset]] = {}

    def all(self) -> dict[str, LocalDataset]:
        """Return every dataset that is here by its id."""
        try:
            found = list(iter_datasets(self._directories))
        except OSError:
            return {}
        return {name: self._look(directory) for name, directory in found}

    def get(self, dataset: str) -> LocalDataset:
        """Return one dataset.

        Raises:
            StorageError: It is not on this machine.
            FormatError: That is not a dataset's id.
        """
        return self._look(find_dataset(dataset, self._directories))

    def absent(self) -> dict[str, Absent]:
        """Return what is said about datasets that are not here."""
        found: dict[str, Absent] = {}
        for directory in self._directories:
            try:
                candidates = sorted(directory.glob(f"*{ABSENT_SUFFIX}"))
            except OSError:
                continue
            for path in candidates:
                name = path.name.removesuffix(ABSENT_SUFFIX)
                try:
                    check_id(name)
                    if name not in found:
                        found[name] = Absent.model_validate_json(read_file(path, _MAX_ABSENT))
                except (Error, ValidationError):
                    continue
        return found

    def _look(self, directory: DatasetDirectory) -> LocalDataset:
        path = directory.path / MANIFEST_NAME
        try:
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            stamp = (0, 0, 0)
        with self._lock:
            known = self._known.get(path)
        if known is not None and known[0] == stamp and known[1].manifest is not None:
            return known[1]
        found = _read(directory)
        with self._lock:
            self._known[path] = (stamp, found)
        return found


def _read(directory: DatasetDirectory) -> LocalDataset:
    data = b""
    try:
        data = read_file(directory.path / MANIFEST_NAME, MAX_MANIFEST_SIZE)
        manifest = Manifest.from_bytes(data)
    except Error as error:
        return LocalDataset(directory, None, hashlib.sha256(data).hexdigest(), error.message)
    return LocalDataset(directory, manifest, hashlib.sha256(data).hexdigest())
