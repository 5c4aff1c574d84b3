# SPDX-License-Identifier: BSD-3-Clause
"""Seals a directory: a Crypt4GH file and a list of its segments for every file, and a signed manifest.

Invariants:

- The dataset appears whole or not at all: everything is written into a hidden directory beside it, made
  durable, and renamed.
- What a killed process, or a full disk, left behind is hidden and has no manifest. Sealing again to the same
  place goes on with the files that were finished (`partial`), and makes the others anew.
- Nothing is overwritten, and the space is there before the first byte is written.
- Each file has a data key of its own, and nobody keeps it.
- A file that changes while it is read is an error.
"""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealroom.crypt4gh import PublicKey
from sealroom.datasets.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    check_id,
    check_name,
    encode_signature,
    sign_manifest,
)
from sealroom.datasets.metadata import write_metadata
from sealroom.datasets.partial import (
    Finished,
    Journal,
    SourceIdentity,
    check_free,
    derive_writer,
    hidden_directory,
    hidden_path,
    remove_unfinished,
    sync_directory,
    write_durably,
)
from sealroom.datasets.sealing import Progress, Sealer, SourceFile, space_needed
from sealroom.datasets.terms import Term, term
from sealroom.datasets.workspace import WORKSPACE
from sealroom.errors import ConfigurationError, StorageError


@dataclass(frozen=True, slots=True)
class Description:
    """What the manifest says about the dataset besides its files."""

    id: str
    title: str
    owner: str
    contact: str = ""
    description: str = ""
    source: str = ""
    licence: str = ""
    terms: tuple[str, ...] = ()
    """DUO codes."""


def list_files(source: Path) -> tuple[SourceFile, ...]:
    """Return the files below a directory, sorted by their names in the dataset.

    Raises:
        StorageError: The directory cannot be read or is empty.
        ConfigurationError: It holds a link or a special file, which cannot be sealed.
        FormatError: A file's name cannot be used.
    """
    try:
        files = sorted(_walk(source, source), key=lambda file: file.name)
    except OSError as error:
        raise os_error(f"{source} cannot be read", error) from error
    if not files:
        raise StorageError(f"{source} holds no files.", advice="Name the directory that holds the data.")
    if len(files) > MAX_FILES:
        raise ConfigurationError(
            f"{source} holds {len(files)} files, more than the {MAX_FILES} that a dataset may have.",
            advice="Pack small files into archives, for example tar shards.",
        )
    return tuple(files)


def seal_directory(
    source: Path,
    destination: Path,
    *,
    description: Description,
    dataset_key: PublicKey,
    signing_key: Ed25519PrivateKey,
    created: datetime | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    whole_digests: bool = False,
) -> Manifest:
    """Seal the files of a directory as a new dataset, or go on with an earlier try.

    Args:
        source: The directory; its files are only read.
        destination: Where the dataset is made; must not exist.
        description: What the manifest says.
        dataset_key: The dataset's public key.
        signing_key: The data owner's key.
        created: The time in the manifest; now by default.
        progress: Told about every 2 MiB, and about files that an earlier try has sealed.
        workers: Threads that seal; as many as there are processors by default.
        whole_digests: Whether the manifest has a SHA-256 over each sealed file, too. It costs as much as the
            one over its segments.

    Raises:
        StorageError: The destination exists, there is too little space, or a file cannot be read or written.
        ConfigurationError: Another process seals to the same place, or the source holds what cannot be
            sealed.
        FormatError: A name or a text of the description cannot be used.
    """
    terms = check_description(description)
    files = list_files(source)
    destination = destination.absolute()
    check_destination(destination)
    _check_apart(source, destination)
    writer = derive_writer(signing_key, description.id, dataset_key)
    # What the manifest cannot say is refused before anything is sealed.
    make_manifest(description, terms, [], dataset_key, writer.public, created, example=files[0].name)
    try:
        with hidden_directory(destination) as hidden:
            journal = Journal.open(hidden.path, signing_key, description.id, dataset_key)
            try:
                done = finished(journal, files, progress, whole_digests=whole_digests)
                hidden.keep = bool(done)
                left = [file for file in files if file.name not in done]
                check_free(destination.parent, space_needed(left), "Sealing")
                remove_unfinished(hidden.path, done)
                with Sealer(
                    hidden.path, dataset_key, writer, workers=workers, whole_digests=whole_digests
                ) as sealer:
                    sealer.seal_all(left, journal, progress)
                entries = [journal.done[file.name][1] for file in files]
                manifest = make_manifest(description, terms, entries, dataset_key, writer.public, created)
                data = manifest.to_bytes()
                signature = encode_signature(sign_manifest(data, signing_key))
                write_durably(hidden.path / SIGNATURE_NAME, signature)
                write_durably(hidden.path / MANIFEST_NAME, data)
                write_metadata(hidden.path, manifest)
                for directory, _, _ in os.walk(hidden.path):
                    sync_directory(Path(directory))
                check_destination(destination)
                journal.close(remove=True)
            finally:
                hidden.keep = hidden.keep or bool(journal.done)
                journal.close()
            hidden.path.rename(destination)
            sync_directory(destination.parent)
    except OSError as error:
        raise os_error(f"The dataset cannot be written to {destination}", error) from error
    finally:
        writer.wipe()
    return manifest


def check_description(description: Description) -> tuple[Term, ...]:
    """Check the id, and return the terms.

    Raises:
        FormatError: The id or a term cannot be used.
        ConfigurationError: The id means something else.
    """
    check_id(description.id)
    if description.id == WORKSPACE:
        raise ConfigurationError(
            f"A dataset cannot be called {WORKSPACE!r}: notebooks save their results there.",
            advice="Choose another id.",
        )
    return tuple(term(code) for code in description.terms)


def unfinished(destination: Path) -> Path | None:
    """Return the hidden directory that an earlier try to seal to a place has left, if there is one."""
    path = hidden_path(destination.absolute())
    return path if path.is_dir() else None


def finished(
    journal: Finished, files: Sequence[SourceFile], progress: Progress | None, *, whole_digests: bool
) -> set[str]:
    """Return the names of the files that an earlier try has sealed and that are still the same."""
    done = set()
    for file in files:
        try:
            entry = journal.usable(file.name, SourceIdentity.of(file.path.lstat()))
        except OSError:
            continue
        if entry is None or (whole_digests and entry.sha256 is None):
            continue
        done.add(file.name)
        if progress is not None and file.size:
            progress(file.name, file.size)
    return done


def _walk(root: Path, directory: Path) -> Iterator[SourceFile]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            # macOS may hand out decomposed names; a manifest has one spelling.
            name = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif entry.is_file(follow_symlinks=False):
                yield SourceFile(check_name(name), path, entry.stat().st_size)
            else:
                raise ConfigurationError(
                    f"{name} is a link or a special file, which cannot be sealed.",
                    advice="Replace links with the files themselves.",
                )


def check_destination(destination: Path) -> None:
    """Raise if something is where a dataset is to be made.

    Raises:
        StorageError: Something is there, or its directory is not.
    """
    if os.path.lexists(destination):
        raise StorageError(
            f"{destination} is there already; nothing was overwritten.",
            advice="Choose another directory, or remove it first.",
        )
    if not destination.parent.is_dir():
        raise StorageError(f"{destination.parent} is not there.", advice="Make the directory first.")


def _check_apart(source: Path, destination: Path) -> None:
    if destination.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(
            "The sealed dataset would lie inside the directory that is sealed.",
            advice="Choose a directory outside of it.",
        )


def _example(name: str) -> FileEntry:
    none = hashlib.sha256().hexdigest()
    return FileEntry(name=name, size=0, header_size=0, header_sha256=none, cipher_size=0, segments_root=none)


def make_manifest(
    description: Description,
    terms: tuple[Term, ...],
    entries: Sequence[FileEntry],
    dataset_key: PublicKey,
    writer: PublicKey,
    created: datetime | None,
    *,
    example: str = "",
) -> Manifest:
    """Make the manifest of a new dataset.

    Args:
        description: What it says.
        terms: Its terms.
        entries: Its files; none for a try, which has one of the name `example`.
        dataset_key: Whom the files are sealed to.
        writer: Who wrote them.
        created: Its time; now by default.
        example: Name of a file.

    Raises:
        FormatError: A text of the description cannot be used.
    """
    if not entries:
        entries = [_example(example)]
    fields = {
        "id": description.id,
        "title": description.title,
        "description": description.description,
        "owner": description.owner,
        "contact": description.contact,
        "source": description.source,
        "licence": description.licence,
        "terms": terms,
        "version": 1,
        "created": (created or datetime.now(UTC)).replace(microsecond=0),
        "dataset_key": dataset_key.to_base64(),
        "writer_key": writer.to_base64(),
        "files": tuple(entries),
    }
    return Manifest.build(fields)


def os_error(what: str, error: OSError) -> StorageError:
    """Return the error for what the system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{what}: no space is left.",
            advice="Free some space and seal again: what is sealed by now stays, and is not sealed again.",
        )
    return StorageError(f"{what}: {error.strerror or error}.")


__all__ = [
    "Description",
    "Progress",
    "SourceFile",
    "check_description",
    "check_destination",
    "finished",
    "list_files",
    "make_manifest",
    "os_error",
    "seal_directory",
    "unfinished",
]
