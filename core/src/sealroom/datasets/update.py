# SPDX-License-Identifier: BSD-3-Clause
"""Changes a sealed dataset: more files, or another dataset key. Each makes a new version of the manifest.

How a change is atomic: everything that is new is made in a hidden directory beside the dataset, a marker
says that it is whole, and only then it is put in place: sealed files, headers, signature, manifest, in this
order. A change that was interrupted before the marker leaves the dataset as it was; one that was interrupted
behind it is completed by the next change (`complete_update`), and readers refuse in between what does not fit
together.

The bodies of sealed files are never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealroom.crypt4gh import Header, PublicKey, SecretKey, reencrypt
from sealroom.datasets.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    SEALED_SUFFIX,
    SEGMENTS_SUFFIX,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    encode_signature,
    sign_manifest,
)
from sealroom.datasets.metadata import write_metadata
from sealroom.datasets.partial import (
    Hidden,
    Journal,
    check_free,
    derive_writer,
    hidden_directory,
    hidden_path,
    remove_unfinished,
    replace_durably,
    sync_directory,
    write_durably,
)
from sealroom.datasets.seal import finished, os_error
from sealroom.datasets.sealing import Progress, Sealer, SourceFile, space_needed
from sealroom.datasets.segment_list import COPY_AGAIN
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, IntegrityError, StorageError

_KIND = "update"
_READY = "ready"
_HEADERS = "headers"


def add_files(
    directory: Path,
    files: Sequence[SourceFile],
    *,
    signing_key: Ed25519PrivateKey,
    created: datetime | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    whole_digests: bool = False,
) -> Manifest:
    """Seal more files into a dataset, to the key that it has, and sign a new version of its manifest.

    An add that was killed goes on with the files that it had finished, like `seal_directory`.

    Args:
        directory: The dataset.
        files: The files, with their names in the dataset.
        signing_key: The data owner's key, which also signed the dataset.
        created: The time in the manifest; now by default.
        progress: Told about every 2 MiB.
        workers: Threads that seal.
        whole_digests: Whether to make a SHA-256 over each sealed file, too.

    Returns:
        The new manifest.

    Raises:
        StorageError: A file of this name is there, there is too little space, or one cannot be read or
            written.
        ConfigurationError: Another process works on the dataset, or another writer sealed it.
        SignatureError: The dataset carries another owner's signature.
        FormatError: A name cannot be used.
    """
    directory = directory.absolute()
    with _changing(directory, signing_key) as (hidden, manifest):
        ordered = _check_new(directory, manifest, files)
        dataset_key = PublicKey.from_base64(manifest.dataset_key)
        writer = _known_writer(manifest, signing_key, dataset_key)
        journal = Journal.open(hidden.path, signing_key, manifest.id, dataset_key)
        try:
            done = finished(journal, ordered, progress, whole_digests=whole_digests)
            hidden.keep = bool(done)
            left = [file for file in ordered if file.name not in done]
            check_free(directory.parent, space_needed(left), "Sealing")
            remove_unfinished(hidden.path, done)
            with Sealer(
                hidden.path, dataset_key, writer, workers=workers, whole_digests=whole_digests
            ) as sealer:
                sealer.seal_all(left, journal, progress)
            entries = [journal.done[file.name][1] for file in ordered]
        finally:
            hidden.keep = hidden.keep or bool(journal.done)
            journal.close()
            writer.wipe()
        kept = [_second_format(entry) for entry in manifest.files]
        fresh = _next(manifest, [*kept, *entries], created)
        return _commit(hidden, directory, fresh, signing_key)


def rekey_dataset(
    directory: Path,
    *,
    old: SecretKey,
    new: PublicKey,
    signing_key: Ed25519PrivateKey,
    created: datetime | None = None,
) -> Manifest:
    """Re-encrypt the headers of a dataset to another dataset key; the files' bodies stay as they are.

    The data keys stay, too: who has the old dataset key and an old copy of the headers can still decrypt.
    Where that matters, seal again.

    Args:
        directory: The dataset.
        old: The dataset's secret key.
        new: The new public key.
        signing_key: The data owner's key, which also signed the dataset.
        created: The time in the manifest; now by default.

    Returns:
        The new manifest. Digests over whole files are not in it: they were over the old headers.

    Raises:
        IntegrityError: A header is not the one that was sealed.
        HeaderKeyError: The old key does not open a header.
        StorageError: A file cannot be read or written.
        ConfigurationError: Another process works on the dataset, the old key is not its key, or a header does
            not fit into the place of the old one.
        SignatureError: The dataset carries another owner's signature.
    """
    directory = directory.absolute()
    with _changing(directory, signing_key) as (hidden, manifest):
        if old.public.to_base64() != manifest.dataset_key:
            raise ConfigurationError(f"The key {old.public.fingerprint} is not the one of {manifest.id}.")
        writer = derive_writer(signing_key, manifest.id, new)
        try:
            headers = _new_headers(directory, manifest, old, new, writer)
            entries = [_with_header(entry, headers[entry.name]) for entry in manifest.files]
            keys = {"dataset_key": new.to_base64(), "writer_key": writer.public.to_base64()}
        finally:
            writer.wipe()
        remove_unfinished(hidden.path, set())
        joined = b"".join(headers[entry.name].to_bytes() for entry in entries)
        write_durably(hidden.path / _HEADERS, joined)
        return _commit(hidden, directory, _next(manifest, entries, created, keys), signing_key)


def complete_update(directory: Path, signing_key: Ed25519PrivateKey) -> Manifest | None:
    """Complete a change that was interrupted while it was put in place.

    Returns:
        The manifest that now holds; None if there was nothing to complete.

    Raises:
        StorageError: A file cannot be read or written.
        SignatureError: What is there does not carry this owner's signature.
        ConfigurationError: Another process works on the dataset.
    """
    directory = directory.absolute()
    if not (hidden_path(directory, _KIND) / _READY).is_file():
        return None
    with _changing(directory, signing_key) as (_, manifest):
        return manifest


@contextlib.contextmanager
def _changing(directory: Path, signing_key: Ed25519PrivateKey) -> Iterator[tuple[Hidden, Manifest]]:
    """Hold a dataset for a change, complete an earlier one, and give its verified manifest."""
    owner_key = signing_key.public_key().public_bytes_raw()
    # It must be one before anything is made beside it.
    DatasetDirectory(directory).read_manifest()
    try:
        with hidden_directory(directory, _KIND) as hidden:
            if (hidden.path / _READY).is_file():
                hidden.keep = True
                _put_in_place(hidden.path, directory, owner_key)
                hidden.keep = False
                remove_unfinished(hidden.path, set())
                (hidden.path / "journal").unlink(missing_ok=True)
            yield hidden, DatasetDirectory(directory).read_manifest().verify(owner_key)
    except OSError as error:
        raise os_error(f"The dataset in {directory} cannot be changed", error) from error


def _commit(hidden: Hidden, directory: Path, manifest: Manifest, signing_key: Ed25519PrivateKey) -> Manifest:
    data = manifest.to_bytes()
    write_durably(hidden.path / SIGNATURE_NAME, encode_signature(sign_manifest(data, signing_key)))
    write_durably(hidden.path / MANIFEST_NAME, data)
    for folder, _, _ in os.walk(hidden.path):
        sync_directory(Path(folder))
    # From here on the change is completed, if not now then by the next one.
    write_durably(hidden.path / _READY, b"")
    sync_directory(hidden.path)
    hidden.keep = True
    _put_in_place(hidden.path, directory, signing_key.public_key().public_bytes_raw())
    return manifest


def _put_in_place(fresh: Path, directory: Path, owner_key: bytes) -> None:
    """Put a whole change in place; every step can be repeated."""
    signed = DatasetDirectory(fresh).read_manifest()
    # 1. The owner signed what is to be put in place.
    manifest = signed.verify(owner_key)
    # 2. It follows what is there: an older version, which the owner signed too, does not take its place. The
    #    signature that is there may be the new one already.
    there = Manifest.from_bytes(DatasetDirectory(directory).read_manifest().data)
    if there.sha256 not in (manifest.previous, manifest.sha256):
        raise IntegrityError(
            f"The unfinished change of {manifest.id} does not follow the version that is there.",
            advice=f"Remove {fresh} and make the change again.",
        )
    # 3. Sealed files, each behind the list of its segments.
    for entry in manifest.files:
        for suffix in (SEGMENTS_SUFFIX, SEALED_SUFFIX):
            _move(fresh / (entry.name + suffix), directory / (entry.name + suffix))
    # 4. Headers.
    if (fresh / _HEADERS).is_file():
        _write_headers(directory, manifest, (fresh / _HEADERS).read_bytes())
    for folder, _, _ in os.walk(directory):
        sync_directory(Path(folder))
    # 5. The signature, and the manifest that makes it all count.
    replace_durably(directory / SIGNATURE_NAME, encode_signature(signed.signature))
    replace_durably(directory / MANIFEST_NAME, signed.data)
    write_metadata(directory, manifest)


def _move(source: Path, target: Path) -> None:
    if not source.exists():  # nothing new, or moved already
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _write_headers(directory: Path, manifest: Manifest, headers: bytes) -> None:
    at = 0
    for entry in manifest.files:
        header = headers[at : at + entry.header_size]
        at += entry.header_size
        if hashlib.sha256(header).hexdigest() != entry.header_sha256:
            raise IntegrityError(
                f"The new header of {entry.name} is not the one that was signed.",
                advice=f"Remove {hidden_path(directory, _KIND)} and change the key again.",
            )
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(directory / (entry.name + SEALED_SUFFIX), flags)
        try:
            if os.pread(fd, len(header), 0) != header:
                os.pwrite(fd, header, 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def _check_new(directory: Path, manifest: Manifest, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files sorted by name, if none of them is there already."""
    ordered = sorted(files, key=lambda file: file.name)
    names = [file.name for file in ordered]
    known = {entry.name for entry in manifest.files}
    twice = next((a for a, b in itertools.pairwise(names) if a == b), None)
    if not names or twice is not None:
        what = "There is nothing to add" if twice is None else f"{twice} was named twice"
        raise ConfigurationError(f"{what}.", advice="Name each file once.")
    for name in names:
        there = name in known or any(
            os.path.lexists(directory / (name + suffix)) for suffix in (SEALED_SUFFIX, SEGMENTS_SUFFIX)
        )
        if there:
            raise StorageError(
                f"{name} is in the dataset already; nothing was overwritten.",
                advice="Give the file another name: a sealed file is not replaced.",
            )
    if len(known) + len(names) > MAX_FILES:
        raise ConfigurationError(f"A dataset may have {MAX_FILES} files at most.")
    return ordered


def _known_writer(manifest: Manifest, signing_key: Ed25519PrivateKey, dataset_key: PublicKey) -> SecretKey:
    writer = derive_writer(signing_key, manifest.id, dataset_key)
    if writer.public != manifest.writer:
        writer.wipe()
        raise ConfigurationError(
            f"The files of {manifest.id} were sealed with a writer's key that nobody has kept.",
            advice="Run `sealroom dataset rekey` first: it gives them a writer's key that can be used again.",
        )
    return writer


def _new_headers(
    directory: Path, manifest: Manifest, old: SecretKey, new: PublicKey, writer: SecretKey
) -> Mapping[str, Header]:
    headers, entries = {}, {entry.name: entry for entry in manifest.files}
    for name, data in DatasetDirectory(directory).read_headers(manifest).items():
        entry = entries[name]
        if hashlib.sha256(data).hexdigest() != entry.header_sha256:
            raise IntegrityError(
                f"{name}: its header is not the one that it was sealed with.", advice=COPY_AGAIN
            )
        header = reencrypt(
            Header.from_bytes(data), old, [new], expected_writer=manifest.writer, writer=writer
        )
        if header.size != entry.header_size:
            raise ConfigurationError(
                f"The new header of {name} has {header.size} bytes, not {entry.header_size}: the old one was "
                "for other readers, too.",
                advice="Seal the dataset again.",
            )
        headers[name] = header
    return headers


def _with_header(entry: FileEntry, header: Header) -> FileEntry:
    return _second_format(entry).model_copy(update={"header_sha256": header.sha256, "sha256": None})


def _second_format(entry: FileEntry) -> FileEntry:
    return entry.model_copy(update={"cipher_sha256": None})


def _next(
    manifest: Manifest,
    entries: Sequence[FileEntry],
    created: datetime | None,
    changes: Mapping[str, str] | None = None,
) -> Manifest:
    fields = {
        **dict(manifest),
        "format": "sealroom-dataset/2",
        "version": (manifest.version or 1) + 1,
        "previous": manifest.sha256,
        "created": (created or datetime.now(UTC)).replace(microsecond=0),
        "files": tuple(sorted(entries, key=lambda entry: entry.name)),
        **(changes or {}),
    }
    return Manifest.build(fields)
