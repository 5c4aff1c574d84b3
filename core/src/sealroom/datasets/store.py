# SPDX-License-Identifier: BSD-3-Clause
"""Where sealed datasets lie: directories of `<id>/dataset.json` and sealed files, on this machine or in S3.

Nothing here is trusted. The manifest that lies beside the files says which files to look at; what they must
be is said by the signed copy that comes with the released keys.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sealroom.crypt4gh import Header
from sealroom.datasets.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_SIZE,
    SEALED_SUFFIX,
    SEGMENTS_SUFFIX,
    SIGNATURE_NAME,
    Manifest,
    SignedManifest,
    check_id,
    check_name,
    decode_signature,
)
from sealroom.datasets.source import Source, SourceStream, cannot_read, open_source
from sealroom.errors import ConfigurationError, Error, FormatError, StorageError

DATASETS_VARIABLE = "SEALROOM_DATASETS"

_S3 = "s3://"
# Requests at once for the headers of a dataset's files where each costs a round trip.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class DatasetDirectory:
    """One sealed dataset's directory.

    Args:
        location: A path, or `s3://bucket/prefix`.
    """

    location: Path | str

    @property
    def far(self) -> bool:
        """Whether it lies in S3."""
        return is_far(self.location)

    @property
    def path(self) -> Path:
        """Where it lies on this machine.

        Raises:
            ConfigurationError: It lies in S3.
        """
        if self.far:
            raise ConfigurationError(
                f"The dataset {self.location} is not on this machine.", advice="Copy it here for this."
            )
        return Path(self.location)

    def read_manifest(self) -> SignedManifest:
        """Read the manifest and its signature; nothing is verified.

        Raises:
            StorageError: One of them is not there or cannot be read.
            FormatError: The signature is not one.
        """
        data = self.read_small(MANIFEST_NAME, MAX_MANIFEST_SIZE)
        signature = self.read_small(SIGNATURE_NAME, 4096)
        return SignedManifest(data, decode_signature(signature))

    def read_small(self, name: str, limit: int) -> bytes:
        """Read a small file of the directory whole.

        Raises:
            StorageError: It is not there, cannot be read, or is larger than the limit.
        """
        if not self.far:
            return read_file(self.path / name, limit)
        source = open_source(self._at(name))
        try:
            if source.size > limit:
                raise StorageError(f"{name} is larger than {limit} bytes.")
            data = bytearray(source.size)
            if source.pread_into(0, memoryview(data)) != len(data):
                raise StorageError(f"{name} cannot be read whole.")
            return bytes(data)
        finally:
            source.close()

    def exists(self, name: str = MANIFEST_NAME) -> bool:
        """Tell whether a file of the directory is there.

        Raises:
            StorageError: The server does not say.
        """
        if self.far:
            found: bool = _s3().exists(self._at(name))
            return found
        return (self.path / name).is_file()

    def sealed_file(self, name: str) -> Path:
        """Return where a file of the dataset lies on this machine, sealed."""
        return self.path / (check_name(name) + SEALED_SUFFIX)

    def segment_list(self, name: str) -> Path:
        """Return where the list of a file's segments lies on this machine."""
        return self.path / (check_name(name) + SEGMENTS_SUFFIX)

    def sealed_source(self, name: str, *, mapped: bool | None = None) -> Source:
        """Open a file of the dataset, sealed; nothing is checked.

        Args:
            name: The file's name in the dataset.
            mapped: See `open_source`.

        Raises:
            StorageError: It is not there or cannot be read.
        """
        return open_source(self._at(check_name(name) + SEALED_SUFFIX), mapped=mapped)

    def segments_source(self, name: str) -> Source:
        """Open the list of a file's segments; nothing is checked.

        Raises:
            StorageError: It is not there or cannot be read.
        """
        return open_source(self._at(check_name(name) + SEGMENTS_SUFFIX), mapped=False)

    def read_headers(self, manifest: Manifest) -> Mapping[str, bytes]:
        """Read the Crypt4GH header of every file: what a release asks to have re-encrypted.

        Raises:
            StorageError: A file is not there or cannot be read.
            FormatError: A file does not begin with a Crypt4GH header.
        """
        names = [entry.name for entry in manifest.files]
        if not self.far:
            return {name: self._read_header(name) for name in names}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sealroom-headers") as pool:
            return dict(zip(names, pool.map(self._read_header, names), strict=True))

    def _read_header(self, name: str) -> bytes:
        source = self.sealed_source(name, mapped=False)
        try:
            return Header.read(io.BufferedReader(SourceStream(source), 4096)).to_bytes()
        except FormatError as error:
            raise FormatError(
                f"{name}: {error.message}",
                field=error.field,
                offset=error.offset,
                advice="Copy the sealed file again from the data owner's storage.",
            ) from error
        finally:
            source.close()

    def _at(self, name: str) -> Path | str:
        if isinstance(self.location, str) and self.far:
            return f"{self.location.rstrip('/')}/{name}"
        return self.path / name


def is_far(location: Path | str) -> bool:
    """Tell whether a location lies in S3."""
    return isinstance(location, str) and location.startswith(_S3)


def directories_from_environment() -> tuple[Path | str, ...]:
    """Return the directories that `SEALROOM_DATASETS` names; those in S3 are texts."""
    value = os.environ.get(DATASETS_VARIABLE, "")
    # The colon of s3:// separates nothing.
    parts = re.split(f"{re.escape(os.pathsep)}(?!//)", value)
    return tuple(part if part.startswith(_S3) else Path(part) for part in parts if part)


def find_dataset(dataset: str, directories: Sequence[Path | str]) -> DatasetDirectory:
    """Return the first directory that holds a dataset of this id.

    Raises:
        StorageError: It is not there, or a server does not say.
    """
    check_id(dataset)
    for directory in directories:
        found = _below(directory, dataset)
        if found.exists():
            return found
    raise StorageError(
        f"The sealed files of {dataset} are not on this machine.",
        advice="Ask the operator to put them into one of the directories for datasets.",
    )


def iter_datasets(directories: Sequence[Path | str]) -> Iterator[tuple[str, DatasetDirectory]]:
    """Yield id and directory of every dataset that is here; what is half-made or hidden is passed over."""
    seen = set()
    for directory in directories:
        for name in _names(directory):
            try:
                check_id(name)
            except Error:
                continue
            found = _below(directory, name)
            if name not in seen and found.exists():
                seen.add(name)
                yield name, found


def read_file(path: Path, limit: int) -> bytes:
    """Read a small file.

    Raises:
        StorageError: It is not there, cannot be read, or is larger than the limit.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise cannot_read(path, error) from error
    if len(data) > limit:
        raise StorageError(f"{path.name} is larger than {limit} bytes.")
    return data


def _below(directory: Path | str, name: str) -> DatasetDirectory:
    if isinstance(directory, str) and is_far(directory):
        return DatasetDirectory(f"{directory.rstrip('/')}/{name}")
    return DatasetDirectory(Path(directory) / name)


def _names(directory: Path | str) -> list[str]:
    if is_far(directory):
        return list(_s3().list_prefixes(directory))
    path = Path(directory)
    return sorted(found.name for found in path.iterdir()) if path.is_dir() else []


def _s3() -> Any:
    return import_module("sealroom.datasets.s3_source")


__all__ = [
    "DATASETS_VARIABLE",
    "DatasetDirectory",
    "cannot_read",
    "directories_from_environment",
    "find_dataset",
    "is_far",
    "iter_datasets",
    "read_file",
]
