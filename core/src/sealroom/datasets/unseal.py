# SPDX-License-Identifier: BSD-3-Clause
"""Unseals a dataset into clear files: for its owner, who has the dataset's secret key.

Invariants:

- Every byte is authenticated and compared with the signed manifest before it is written.
- The clear files appear whole or not at all, readable by their owner alone, and never inside the dataset.
- Nothing is overwritten, and what an error leaves is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sealroom.crypt4gh import CIPHER_SEGMENT, OVERHEAD, SEGMENT, SecretKey, TagError
from sealroom.datasets.check import open_cipher
from sealroom.datasets.manifest import FileEntry, Manifest
from sealroom.datasets.partial import check_free, hidden_directory, sync_directory
from sealroom.datasets.reader import load_segment_list, open_checked
from sealroom.datasets.seal import check_destination, os_error
from sealroom.datasets.segment_list import COPY_AGAIN
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, IntegrityError

_AT_ONCE = 16
_KIND = "unsealing"


def unseal_dataset(
    directory: DatasetDirectory,
    manifest: Manifest,
    secret: SecretKey,
    destination: Path,
    *,
    progress: Callable[[str, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Write the files of a dataset in clear.

    Args:
        directory: Where the dataset lies.
        manifest: The verified manifest.
        secret: The dataset's secret key.
        destination: Where the clear files are made; must not exist, and not be inside the dataset.
        progress: Called with a file's name and how many more of its plaintext bytes were written; from
            several threads.
        workers: Files at once; as many as there are processors by default.

    Raises:
        StorageError: The destination exists, there is too little space, or a file cannot be read or written.
        ConfigurationError: The destination is inside the dataset, or the key is not the dataset's.
        IntegrityError: A file is not what the data owner sealed.
    """
    destination = destination.absolute()
    check_destination(destination)
    _check_apart(directory, destination)
    if secret.public.to_base64() != manifest.dataset_key:
        raise ConfigurationError(
            f"The key {secret.public.fingerprint} is not the one that {manifest.id} is sealed to."
        )
    check_free(destination.parent, manifest.size + (len(manifest.files) << 13), "Unsealing")
    threads = workers or os.cpu_count() or 1
    try:
        with hidden_directory(destination, _KIND) as hidden:
            shutil.rmtree(hidden.path)
            hidden.path.mkdir(mode=0o700)

            def one(entry: FileEntry) -> None:
                target = hidden.path / entry.name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _unseal_file(directory, manifest, entry, secret, target, progress)

            with ThreadPoolExecutor(threads, thread_name_prefix="sealroom-unseal") as pool:
                try:
                    list(pool.map(one, manifest.files))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            for folder, _, _ in os.walk(hidden.path):
                sync_directory(Path(folder))
            check_destination(destination)
            hidden.path.rename(destination)
            sync_directory(destination.parent)
    except OSError as error:
        raise os_error(f"The clear files cannot be written to {destination}", error) from error


def _unseal_file(
    directory: DatasetDirectory,
    manifest: Manifest,
    entry: FileEntry,
    secret: SecretKey,
    target: Path,
    progress: Callable[[str, int], None] | None,
) -> None:
    source = open_checked(directory, entry, mapped=False)
    with contextlib.closing(source):
        segments = load_segment_list(directory, entry)
        header = bytearray(entry.header_size)
        source.pread_into(0, memoryview(header))
        cipher = open_cipher(bytes(header), manifest, entry, secret)
        buffer = memoryview(bytearray(_AT_ONCE * CIPHER_SEGMENT))
        plain = memoryview(bytearray(_AT_ONCE * SEGMENT))
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as out:
            for first in range(0, entry.segments, _AT_ONCE):
                start = first * CIPHER_SEGMENT
                data = buffer[: min(len(buffer), entry.cipher_size - start)]
                if source.pread_into(entry.header_size + start, data) != len(data):
                    raise IntegrityError(f"{entry.name}: it was cut while it was read.", advice=COPY_AGAIN)
                size = 0
                for at in range(0, len(data), CIPHER_SEGMENT):
                    segment, index = data[at : at + CIPHER_SEGMENT], first + at // CIPHER_SEGMENT
                    if not (segments.pins(index, segment) and segments.digests(index, segment)):
                        raise segments.refusal(entry.name, index, segment)
                    try:
                        size += cipher.decrypt_into(segment, plain[size : size + len(segment) - OVERHEAD])
                    except TagError as error:
                        raise segments.refusal(entry.name, index, segment) from error
                rest = plain[:size]
                while rest:
                    rest = rest[out.write(rest) :]
                if progress is not None:
                    progress(entry.name, size)
            os.fsync(out.fileno())


def _check_apart(directory: DatasetDirectory, destination: Path) -> None:
    if not directory.far and destination.resolve().is_relative_to(directory.path.resolve()):
        raise ConfigurationError(
            "The clear files would lie inside the sealed dataset.",
            advice="Choose a directory outside of it.",
        )
