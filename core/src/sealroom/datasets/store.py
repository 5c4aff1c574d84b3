# SPDX-License-Identifier: BSD-3-Clause
"""Where sealed datasets lie on this machine: directories of `<id>/dataset.json` and sealed files.

Nothing here is trusted. The manifest that lies beside the files says which files to look at; what they must
be is said by the signed copy that comes with the released keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from sealroom.errors import Error, FormatError, StorageError

DATASETS_VARIABLE = "SEALROOM_DATASETS"


@dataclass(frozen=True, slots=True)
class DatasetDirectory:
    """One sealed dataset's directory."""

    path: Path

    def read_manifest(self) -> SignedManifest:
        """Read the manifest and its signature; nothing is verified.

        Raises:
            StorageError: One of them is not there or cannot be read.
            FormatError: The signature is not one.
        """
        data = read_file(self.path / MANIFEST_NAME, MAX_MANIFEST_SIZE)
        signature = read_file(self.path / SIGNATURE_NAME, 4096)
        return SignedManifest(data, decode_signature(signature))

    def sealed_file(self, name: str) -> Path:
        """Return where a file of the dataset lies, sealed."""
        return self.path / (check_name(name) + SEALED_SUFFIX)

    def segment_list(self, name: str) -> Path:
        """Return where the list of a file's segments lies."""
        return self.path / (check_name(name) + SEGMENTS_SUFFIX)

    def read_headers(self, manifest: Manifest) -> Mapping[str, bytes]:
        """Read the Crypt4GH header of every file: what a release asks to have re-encrypted.

        Raises:
            StorageError: A file is not there or cannot be read.
            FormatError: A file does not begin with a Crypt4GH header.
        """
        return {entry.name: self._read_header(entry.name) for entry in manifest.files}

    def _read_header(self, name: str) -> bytes:
        path = self.sealed_file(name)
        try:
            with path.open("rb") as stream:
                return Header.read(stream).to_bytes()
        except OSError as error:
            raise cannot_read(path, error) from error
        except FormatError as error:
            raise FormatError(
                f"{name}: {error.message}",
                field=error.field,
                offset=error.offset,
                advice="Copy the sealed file again from the data owner's storage.",
            ) from error


def directories_from_environment() -> tuple[Path, ...]:
    """Return the directories that `SEALROOM_DATASETS` names."""
    value = os.environ.get(DATASETS_VARIABLE, "")
    return tuple(Path(part) for part in value.split(os.pathsep) if part)


def find_dataset(dataset: str, directories: Sequence[Path]) -> DatasetDirectory:
    """Return the first directory that holds a dataset of this id.

    Raises:
        StorageError: It is not on this machine.
    """
    check_id(dataset)
    for directory in directories:
        found = directory / dataset
        if (found / MANIFEST_NAME).is_file():
            return DatasetDirectory(found)
    raise StorageError(
        f"The sealed files of {dataset} are not on this machine.",
        advice="Ask the operator to put them into one of the directories for datasets.",
    )


def iter_datasets(directories: Sequence[Path]) -> Iterator[tuple[str, DatasetDirectory]]:
    """Yield id and directory of every dataset on this machine; what is half-made or hidden is passed over."""
    seen = set()
    for directory in directories:
        if not directory.is_dir():
            continue
        for candidate in sorted(directory.iterdir()):
            try:
                check_id(candidate.name)
            except Error:
                continue
            if candidate.name not in seen and (candidate / MANIFEST_NAME).is_file():
                seen.add(candidate.name)
                yield candidate.name, DatasetDirectory(candidate)


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


def cannot_read(path: Path, error: OSError) -> StorageError:
    """Return the error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path} is not there.", advice="Copy it from the data owner's storage.")
    return StorageError(f"{path} cannot be read: {error.strerror or error}.")
