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

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sealroom.crypt4gh import DataKey, Header, SecretKey, open_header
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.manifest import FileEntry, Manifest
from sealroom.datasets.messages import FileInfo
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import AccessDeniedError, FormatError, ProtocolError, StorageError


@dataclass(slots=True)
class _Release:
    manifest: Manifest
    directory: DatasetDirectory
    entries: Mapping[str, FileEntry]
    keys: dict[str, tuple[DataKey, ...]] = field(repr=False)
    until: datetime | None
    readers: dict[str, SegmentReader] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Ended:
    sentence: str
    advice: str


class Vault:
    """The datasets that are open in this process.

    Args:
        cache_bytes: How much decrypted data is kept for the next read.
        check_digests: See `SegmentReader`.
        clock: Tells the time.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 64 << 20,
        check_digests: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = SegmentCache(cache_bytes)
        self._check_digests = check_digests
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
        return tuple(
            FileInfo(name=entry.name, size=entry.size, media_type=entry.media_type)
            for entry in self.manifest(dataset).files
        )

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
        with release.lock:
            reader = release.readers.get(file)
            if reader is None:
                entry = release.entries.get(file)
                if entry is None:
                    raise StorageError(
                        f"The dataset {release.manifest.id} has no file {file!r}.",
                        advice="It has: " + ", ".join(list(release.entries)[:20]) + ".",
                    )
                if not release.keys:
                    raise _no_access(release.manifest.id, None)
                reader = release.readers[file] = SegmentReader(
                    release.directory,
                    entry,
                    release.keys[file],
                    cache=self._cache,
                    check_digests=self._check_digests,
                )
            return reader


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
        for reader in release.readers.values():
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
