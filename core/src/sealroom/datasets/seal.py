# SPDX-License-Identifier: BSD-3-Clause
"""Seals a directory: a Crypt4GH file and a list of its segments for every file, and a signed manifest.

Invariants:

- The dataset appears whole or not at all: everything is written into a hidden directory beside it, made
  durable, and renamed. What a killed process left behind is hidden, has no manifest, and goes with the next
  try.
- Nothing is overwritten, and the space is there before the first byte is written.
- Each file has a data key of its own, and nobody keeps it; the writer's key lives as long as the call.
- A file that changes while it is read is an error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mimetypes
import os
import shutil
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    DataKey,
    PublicKey,
    SecretKey,
    SegmentCipher,
    cipher_size,
    make_header,
    segment_count,
)
from sealroom.datasets.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    SEALED_SUFFIX,
    SEGMENTS_SUFFIX,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    check_id,
    check_name,
    encode_signature,
    sign_manifest,
)
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.segment_list import RECORD, record_of
from sealroom.datasets.store import cannot_read
from sealroom.datasets.terms import Term, term
from sealroom.errors import ConfigurationError, StorageError

_BATCH = 16
"""Segments that one task seals: 1 MiB."""

# Directories and file ends beside the cipher text itself, generously.
_SPACE_PER_FILE = 16 << 10

Progress = Callable[[str, int], None]
"""Called with a file's name and how many more of its plaintext bytes are sealed."""


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


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that is to be sealed."""

    name: str
    path: Path
    size: int


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
        raise _os_error(f"{source} cannot be read", error) from error
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
) -> Manifest:
    """Seal the files of a directory as a new dataset.

    Args:
        source: The directory; its files are only read.
        destination: Where the dataset is made; must not exist.
        description: What the manifest says.
        dataset_key: The dataset's public key.
        signing_key: The data owner's key.
        created: The time in the manifest; now by default.
        progress: Told about every MiB.
        workers: Threads that seal; as many as there are processors by default.

    Raises:
        StorageError: The destination exists, there is too little space, or a file cannot be read or written.
        ConfigurationError: Another process seals to the same place, or the source holds what cannot be
            sealed.
        FormatError: A name or a text of the description cannot be used.
    """
    check_id(description.id)
    terms = tuple(term(code) for code in description.terms)
    files = list_files(source)
    destination = destination.absolute()
    _check_destination(destination)
    _check_apart(source, destination)
    _check_space(destination.parent, files)
    writer = SecretKey.generate()
    try:
        with (
            _partial_directory(destination) as partial,
            _Sealer(partial, dataset_key, writer, workers) as sealer,
        ):
            entries = [sealer.seal(file, progress) for file in files]
            manifest = _make_manifest(description, terms, entries, dataset_key, writer.public, created)
            data = manifest.to_bytes()
            _write_durably(partial / SIGNATURE_NAME, encode_signature(sign_manifest(data, signing_key)))
            _write_durably(partial / MANIFEST_NAME, data)
            for directory, _, _ in os.walk(partial):
                _sync_directory(Path(directory))
            _check_destination(destination)
            partial.rename(destination)
            _sync_directory(destination.parent)
    except OSError as error:
        raise _os_error(f"The dataset cannot be written to {destination}", error) from error
    finally:
        writer.wipe()
    return manifest


class _Sealer:
    """Seals files into a directory with a pool of threads."""

    def __init__(
        self, directory: Path, dataset_key: PublicKey, writer: SecretKey, workers: int | None
    ) -> None:
        self._directory = directory
        self._dataset_key = dataset_key
        self._writer = writer
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="sealroom-seal")

    def __enter__(self) -> _Sealer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def seal(self, file: SourceFile, progress: Progress | None) -> FileEntry:
        """Seal one file."""
        key = DataKey.generate()
        header = make_header([key], [self._dataset_key], writer=self._writer)
        cipher = SegmentCipher([key])
        key.wipe()
        target = self._directory / (file.name + SEALED_SUFFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        body, records = hashlib.sha256(), bytearray()
        with _open_source(file) as stream, target.open("xb") as out:
            out.write(header.to_bytes())
            size = 0
            for plain_bytes, cipher_text, more in self._batches(stream, cipher):
                out.write(cipher_text)
                body.update(cipher_text)
                records += more
                size += plain_bytes
                if progress is not None:
                    progress(file.name, plain_bytes)
            _check_unchanged(file, stream, size)
            _flush(out)
        _write_durably(self._directory / (file.name + SEGMENTS_SUFFIX), records)
        view = memoryview(records)
        return FileEntry(
            name=file.name,
            media_type=mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            size=size,
            header_size=header.size,
            header_sha256=header.sha256,
            cipher_size=cipher_size(size),
            cipher_sha256=body.hexdigest(),
            segments_root=root_hash(view[i : i + RECORD] for i in range(0, len(view), RECORD)).hex(),
        )

    def _batches(self, stream: BinaryIO, cipher: SegmentCipher) -> Iterator[tuple[int, bytearray, bytes]]:
        """Yield plaintext size, cipher text and records of each MiB, in order; a few run at once."""
        running: deque[Future[tuple[int, bytearray, bytes]]] = deque()
        while plain := stream.read(_BATCH * SEGMENT):
            running.append(self._pool.submit(_seal_batch, cipher, plain))
            if len(running) > self._workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _seal_batch(cipher: SegmentCipher, plain: bytes) -> tuple[int, bytearray, bytes]:
    source, out = memoryview(plain), bytearray(cipher_size(len(plain)))
    view, records = memoryview(out), []
    for i in range(segment_count(len(plain))):
        part = source[i * SEGMENT : (i + 1) * SEGMENT]
        segment = view[i * CIPHER_SEGMENT : i * CIPHER_SEGMENT + len(part) + OVERHEAD]
        cipher.encrypt_into(part, segment)
        records.append(record_of(segment))
    return len(plain), out, b"".join(records)


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


def _open_source(file: SourceFile) -> BinaryIO:
    # NOFOLLOW: what was a file when it was listed must not have become a link to something else.
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise cannot_read(file.path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigurationError(f"{file.name} is a special file, which cannot be sealed.")
    return os.fdopen(fd, "rb")


def _check_unchanged(file: SourceFile, stream: BinaryIO, size: int) -> None:
    if size != file.size or os.fstat(stream.fileno()).st_size != size:
        raise StorageError(
            f"{file.name} changed while it was sealed.", advice="Seal again when nothing writes to it."
        )


def _check_destination(destination: Path) -> None:
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


def _check_space(parent: Path, files: Sequence[SourceFile]) -> None:
    need = sum(cipher_size(file.size) + RECORD * segment_count(file.size) + _SPACE_PER_FILE for file in files)
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise _os_error(f"{parent} cannot be read", error) from error
    if need > free:
        raise StorageError(
            f"Sealing needs {need / 1e9:.2f} GB in {parent}, and {free / 1e9:.2f} GB are free.",
            advice="Free some space or choose another directory.",
        )


@contextlib.contextmanager
def _partial_directory(destination: Path) -> Iterator[Path]:
    """Make the hidden directory that becomes the dataset; whatever is left in it at the end goes away."""
    partial = destination.with_name(f".{destination.name}.partial")
    lock_path = destination.with_name(f".{destination.name}.lock")
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another process seals to {destination} now.", advice="Wait until it has ended."
            ) from error
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _make_manifest(
    description: Description,
    terms: tuple[Term, ...],
    entries: Sequence[FileEntry],
    dataset_key: PublicKey,
    writer: PublicKey,
    created: datetime | None,
) -> Manifest:
    fields = {
        "id": description.id,
        "title": description.title,
        "description": description.description,
        "owner": description.owner,
        "contact": description.contact,
        "source": description.source,
        "licence": description.licence,
        "terms": terms,
        "created": (created or datetime.now(UTC)).replace(microsecond=0),
        "dataset_key": dataset_key.to_base64(),
        "writer_key": writer.to_base64(),
        "files": tuple(entries),
    }
    return Manifest.build(fields)


def _write_durably(path: Path, data: bytes | bytearray) -> None:
    with path.open("xb") as out:
        out.write(data)
        _flush(out)


def _flush(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _os_error(what: str, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{what}: no space is left.",
            advice="Nothing half-made was left behind; free some space and seal again.",
        )
    return StorageError(f"{what}: {error.strerror or error}.")
