# SPDX-License-Identifier: BSD-3-Clause
"""Checks a sealed dataset on disk against its signed manifest, without any key to the data.

What this proves: these are the bytes that the data owner sealed, all of them, in order. With the dataset's
secret key it decrypts every segment too, in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    Header,
    SecretKey,
    SegmentCipher,
    TagError,
    open_header,
)
from sealroom.datasets.manifest import FileEntry, Manifest
from sealroom.datasets.reader import load_segment_list, open_checked
from sealroom.datasets.segment_list import COPY_AGAIN
from sealroom.datasets.store import DatasetDirectory, cannot_read
from sealroom.errors import Error, FormatError, IntegrityError


def check_file(
    directory: DatasetDirectory,
    manifest: Manifest,
    entry: FileEntry,
    *,
    secret: SecretKey | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read a whole sealed file and compare it with the manifest.

    Args:
        directory: Where the dataset lies.
        manifest: The verified manifest.
        entry: The file's entry in it.
        secret: The dataset's secret key, to decrypt every segment too.
        progress: Called with how many more bytes of the file were read.

    Raises:
        IntegrityError: It is not what the data owner sealed: what, where, and what to do.
        StorageError: It cannot be read.
        HeaderKeyError: The secret key does not open it.
    """
    # 1. Size and header.
    fd = open_checked(directory.sealed_file(entry.name), entry)
    with os.fdopen(fd, "rb") as stream:
        # 2. The list of segments, against its Merkle root.
        segments = load_segment_list(directory, entry)
        # 3. With a key: only the writer that the manifest names may have added packets.
        header = Header.from_bytes(stream.read(entry.header_size))
        cipher = None if secret is None else _cipher(header, manifest, entry, secret)
        # 4. Every segment, and the body as a whole.
        body, out = hashlib.sha256(), memoryview(bytearray(SEGMENT))
        for index in range(entry.segments):
            try:
                segment = stream.read(min(CIPHER_SEGMENT, entry.cipher_size - index * CIPHER_SEGMENT))
            except OSError as error:
                raise cannot_read(directory.sealed_file(entry.name), error) from error
            view = memoryview(segment)
            body.update(view)
            good = len(view) > OVERHEAD and segments.pins(index, view) and segments.digests(index, view)
            if good and cipher is not None:
                good = _decrypts(cipher, view, out)
            if not good:
                raise segments.refusal(entry.name, index, view)
            if progress is not None:
                progress(len(view))
    if body.hexdigest() != entry.cipher_sha256:
        raise IntegrityError(
            f"{entry.name}: its body has another SHA-256 than the manifest says.", advice=COPY_AGAIN
        )


def check_dataset(
    directory: DatasetDirectory,
    manifest: Manifest,
    *,
    secret: SecretKey | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Error | None]:
    """Check every file; the answer holds for each what is wrong with it, or None."""
    results: dict[str, Error | None] = {}
    for entry in manifest.files:
        try:
            check_file(directory, manifest, entry, secret=secret, progress=progress)
        except Error as error:
            results[entry.name] = error
        else:
            results[entry.name] = None
    return results


def _cipher(header: Header, manifest: Manifest, entry: FileEntry, secret: SecretKey) -> SegmentCipher:
    opened = open_header(header, secret, expected_writer=manifest.writer)
    if opened.edit_list is not None:
        raise FormatError(f"{entry.name} has an edit list, which sealed datasets do not support.")
    return SegmentCipher(opened.data_keys)


def _decrypts(cipher: SegmentCipher, segment: memoryview, out: memoryview) -> bool:
    try:
        cipher.decrypt_into(segment, out[: len(segment) - OVERHEAD])
    except TagError:
        return False
    return True
