# SPDX-License-Identifier: BSD-3-Clause
"""Holds the keys of released datasets in the notebook server's process, and reads with them.

Invariants:

- Keys enter by `add`, and nothing gives them out again.
- `drop` ends access at once: keys and decrypted segments are overwritten (best effort: Python and OpenSSL
  may hold copies until they reuse the memory), and every read from then on, even one that has begun, fails
  with the sentence that says why.
- A release ends by itself at its `until`.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sealroom.crypt4gh import DataKey, Header, SecretKey, SegmentCipher, open_header, reencrypt
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.manifest import FileEntry, Manifest
from sealroom.datasets.messages import FileInfo
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import AccessDeniedError, FormatError, IntegrityError, ProtocolError, StorageError

# Files that stay open for the next read, each with a descriptor and up to 1 MB: a dataset may have a hundred
# thousand.
_MOST_OPEN = 128


@dataclass(slots=True)
class _Release:
    manifest: Manifest
    directory: DatasetDirectory
    entries: Mapping[str, FileEntry]
    keys: dict[str, tuple[DataKey, ...]] = field(repr=False)
    until: datetime | None
    readers: OrderedDict[str, SegmentReader] = field(default_factory=OrderedDict)
    reading: weakref.WeakSet[SegmentReader] = field(default_factory=weakref.WeakSet)
    """Every reader that there is, also one that only a read in progress still holds."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reader(self, file: str) -> SegmentReader | None:
        """Return the reader of a file that is open."""
        with self.lock:
            reader = self.readers.get(file)
            if reader is not None:
                self.readers.move_to_end(file)
            return reader

    def keep(self, file: str, made: SegmentReader) -> SegmentReader:
        """Keep a new reader, or return the one that another thread has made meanwhile."""
        with self.lock:
            if not self.keys:
                made.close()
                raise _no_access(self.manifest.id, None)
            reader = self.readers.setdefault(file, made)
            self.reading.add(reader)
            if len(self.readers) > _MOST_OPEN:
                # Not closed: a read with it may be going on. It closes with the last one.
                self.readers.popitem(last=False)
            return reader


@dataclass(frozen=True, slots=True)
class _Ended:
    sentence: str
    advice: str


class Vault:
    """The datasets that are open in this process.

    Args:
        cache_bytes: How much decrypted data is kept for the next read.
        check_digests: See `SegmentReader`.
        mapped: Whether sealed files may be mapped into memory, see `open_source`: True is a promise that
            nobody cuts them while they are open.
        clock: Tells the time.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 64 << 20,
        check_digests: bool = False,
        mapped: bool | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = SegmentCache(cache_bytes)
        self._check_digests = check_digests
        self._mapped = mapped
        self._clock = clock
        self._lock = threading.Lock()
        self._releases: dict[str, _Release] = {}
        self._ended: dict[str, _Ended] = {}

    def add(
        self,
        manifest: Manifest,
        directory: DatasetDirectory,
        headers: Mapping[str, bytes],
        reader_key: SecretKey,
        *,
        until: datetime | None = None,
    ) -> None:
        """Open a dataset with its released headers; an earlier release of it is replaced.

        Args:
            manifest: The trusted copy, from the release.
            directory: Where the sealed files lie.
            headers: File name -> header, re-encrypted to `reader_key`.
            reader_key: This server's key; not kept.
            until: When the release ends.

        Raises:
            ProtocolError: The headers are not those of the manifest's files.
            HeaderKeyError: A header is not for `reader_key`.
            FormatError: A header is malformed, or a file has an edit list, which is not supported.
        """
        names = {entry.name for entry in manifest.files}
        if set(headers) != names:
            raise ProtocolError(
                f"The broker released {len(headers)} headers for the {len(names)} files of {manifest.id}."
            )
        keys: dict[str, tuple[DataKey, ...]] = {}
        try:
            for name, header in headers.items():
                keys[name] = _data_keys(name, header, reader_key)
        except BaseException:
            _wipe(keys)
            raise
        entries = {entry.name: entry for entry in manifest.files}
        release = _Release(manifest, directory, entries, keys, until)
        with self._lock:
            before = self._releases.get(manifest.id)
            self._releases[manifest.id] = release
            self._ended.pop(manifest.id, None)
        if before is not None:
            _end(before)

    def add_with_key(
        self,
        manifest: Manifest,
        directory: DatasetDirectory,
        dataset_key: SecretKey,
        *,
        until: datetime | None = None,
    ) -> None:
        """Open a dataset with its own key, as `add` does with headers that a broker re-encrypted.

        Args:
            manifest: The trusted copy.
            directory: Where the sealed files lie; their headers are read from there.
            dataset_key: The key that the files are sealed to; not kept.
            until: When access ends.

        Raises:
            IntegrityError: The key is not the manifest's, or a header is not the one that was sealed.
            FormatError: A header is malformed, or a file has an edit list.
            StorageError: A file is not there or cannot be read.
        """
        if dataset_key.public.to_base64() != manifest.dataset_key:
            raise IntegrityError(f"The key is not the one that the files of {manifest.id} are sealed to.")
        reader = SecretKey.generate()
        try:
            headers = {
                name: _reencrypted(manifest, name, header, dataset_key, reader)
                for name, header in directory.read_headers(manifest).items()
            }
            self.add(manifest, directory, headers, reader, until=until)
        finally:
            reader.wipe()

    def holds(self, dataset: str) -> bool:
        """Tell whether a dataset is open now."""
        try:
            self._release(dataset)
        except AccessDeniedError:
            return False
        return True

    def datasets(self) -> tuple[str, ...]:
        """Return the ids of the datasets that are open now."""
        with self._lock:
            names = list(self._releases)
        return tuple(name for name in names if self.holds(name))

    def manifest(self, dataset: str) -> Manifest:
        """Return the manifest of an open dataset.

        Raises:
            AccessDeniedError: It is not open.
        """
        return self._release(dataset).manifest

    def files(self, dataset: str) -> tuple[FileInfo, ...]:
        """Return the files of an open dataset.

        Raises:
            AccessDeniedError: It is not open.
        """
        return tuple(file_info(entry) for entry in self.manifest(dataset).files)

    def file(self, dataset: str, file: str) -> FileInfo:
        """Return one file of an open dataset.

        Raises:
            AccessDeniedError: It is not open.
            StorageError: It has no such file.
        """
        return file_info(_entry(self._release(dataset), file))

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file into a buffer and return how many bytes there were, fewer only at its end.

        Raises:
            AccessDeniedError: The dataset is not open, or access ended during the read.
            IntegrityError: A segment of the range is not the one that the data owner sealed.
            StorageError: There is no such file, or it cannot be read.
        """
        while True:
            release = self._release(dataset)
            try:
                return self._reader(release, file).pread_into(offset, buffer)
            except AccessDeniedError:
                # The reader was closed meanwhile: say why, or read with the release that took its place.
                if self._release(dataset) is release:
                    raise

    def drop(self, dataset: str, sentence: str, *, advice: str = "") -> None:
        """End access to a dataset.

        Args:
            dataset: Its id; one that is not open is only remembered.
            sentence: What every read from now on is told.
            advice: What to do about it.
        """
        with self._lock:
            self._ended[dataset] = _Ended(sentence, advice)
            release = self._releases.pop(dataset, None)
        if release is not None:
            _end(release)

    def drop_all(self, sentence: str, *, advice: str = "") -> None:
        """End access to every open dataset."""
        with self._lock:
            names = list(self._releases)
        for name in names:
            self.drop(name, sentence, advice=advice)

    def _release(self, dataset: str) -> _Release:
        with self._lock:
            release, ended = self._releases.get(dataset), self._ended.get(dataset)
        if release is None:
            raise _no_access(dataset, ended)
        if release.until is not None and self._clock() >= release.until:
            self.drop(
                dataset,
                f"Your access to {dataset} ended at {release.until:%Y-%m-%d %H:%M %Z}.",
                advice=f"Ask {release.manifest.contact or release.manifest.owner} to prolong it.",
            )
            raise _no_access(dataset, self._ended.get(dataset))
        return release

    def _reader(self, release: _Release, file: str) -> SegmentReader:
        reader = release.reader(file)
        if reader is not None:
            return reader
        entry = _entry(release, file)
        with release.lock:
            keys = release.keys.get(file)
            if keys is None:
                raise _no_access(release.manifest.id, None)
            cipher = SegmentCipher(keys)
        # Not under the lock: checking the list of a large file takes a while, and S3 longer.
        made = SegmentReader(
            release.directory,
            entry,
            cipher,
            cache=self._cache,
            check_digests=self._check_digests,
            mapped=self._mapped,
        )
        return release.keep(file, made)


def file_info(entry: FileEntry) -> FileInfo:
    """Return what a kernel is told of a file."""
    return FileInfo(
        name=entry.name, size=entry.size, media_type=entry.media_type, version=entry.segments_root
    )


def _entry(release: _Release, file: str) -> FileEntry:
    entry = release.entries.get(file)
    if entry is None:
        raise StorageError(
            f"The dataset {release.manifest.id} has no file {file!r}.",
            advice="It has: " + ", ".join(list(release.entries)[:20]) + ".",
        )
    return entry


def _reencrypted(
    manifest: Manifest, name: str, header: bytes, dataset_key: SecretKey, reader: SecretKey
) -> bytes:
    if not hmac.compare_digest(hashlib.sha256(header).hexdigest(), manifest.file(name).header_sha256):
        raise IntegrityError(
            f"The header of {name} is not the one that the owner of {manifest.id} sealed.",
            advice="Copy the sealed file again from the data owner's storage.",
        )
    parsed = Header.from_bytes(header)
    return reencrypt(parsed, dataset_key, [reader.public], expected_writer=manifest.writer).to_bytes()


def _data_keys(name: str, header: bytes, reader_key: SecretKey) -> tuple[DataKey, ...]:
    opened = open_header(Header.from_bytes(header), reader_key)
    if opened.edit_list is not None:
        for key in opened.data_keys:
            key.wipe()
        raise FormatError(
            f"{name} has an edit list, which sealed datasets do not support.",
            advice="Ask the data owner to apply it and to seal the dataset again.",
        )
    return opened.data_keys


def _end(release: _Release) -> None:
    with release.lock:
        for reader in list(release.reading):
            reader.close()
        release.readers.clear()
        _wipe(release.keys)


def _wipe(keys: dict[str, tuple[DataKey, ...]]) -> None:
    for group in keys.values():
        for key in group:
            key.wipe()
    keys.clear()


def _no_access(dataset: str, ended: _Ended | None) -> AccessDeniedError:
    if ended is not None:
        return AccessDeniedError(ended.sentence, advice=ended.advice)
    return AccessDeniedError(
        f"The dataset {dataset} is locked.",
        advice=f'Unlock it in the Sealroom panel or with sealroom.unlock("{dataset}").',
    )
