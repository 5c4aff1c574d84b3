# SPDX-License-Identifier: BSD-3-Clause
"""Seals a directory into S3: sealed files go up as they are encrypted, nothing is put down on this machine.

Invariants:

- The dataset is there when its manifest is, and the manifest is the last object. It is written on the
  condition that there is none.
- Nothing is overwritten but what an earlier try of the same owner, for the same dataset and key, has left.
- A killed try goes on: finished files stand in a journal, objects below `.journal/` under the dataset's
  prefix, each line under a MAC (see `partial`). A file counts as finished after both its objects are there.
- What is sent is sealed; the signature of each request covers what it carries.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealroom.crypt4gh import CIPHER_SEGMENT, PublicKey, SecretKey
from sealroom.datasets.manifest import (
    MANIFEST_NAME,
    SEALED_SUFFIX,
    SEGMENTS_SUFFIX,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    encode_signature,
    sign_manifest,
)
from sealroom.datasets.metadata import CROISSANT_NAME, DCAT_NAME, croissant, dcat, to_text
from sealroom.datasets.partial import Ledger, SourceIdentity, derive_writer
from sealroom.datasets.s3_source import S3Options, bucket_store, current_options, split_location
from sealroom.datasets.seal import (
    Description,
    check_description,
    finished,
    list_files,
    make_manifest,
    os_error,
)
from sealroom.datasets.sealing import Progress, Sealer
from sealroom.datasets.segment_list import RECORD
from sealroom.errors import ConfigurationError, Error, StorageError

JOURNAL_PREFIX = ".journal/"
"""Where the journal is, below the dataset's prefix; gone when the dataset is there."""

_BEGIN = b'{"sealroom":"journal of a seal"}'
# Whole segments: readers that ask for such ranges get whole parts.
_PART = 128 * CIPHER_SEGMENT
# S3 takes 10,000 parts of one object.
_MOST_PARTS = 9_000
# Parts of one file on the way at once, and threads: what is waited for is mostly the network.
_AT_ONCE, _WORKERS = 6, 16
# Seconds for one request that carries a part; a line of 1 Mbit/s needs a minute for it.
_TIMEOUT = 300.0
_STATUS = re.compile(r"status code: (\d{3})")
_GOES_ON = "Run the same command again: what is there by now is not sealed again."

_T = TypeVar("_T")


def seal_to_bucket(
    source: Path,
    location: str,
    *,
    description: Description,
    dataset_key: PublicKey,
    signing_key: Ed25519PrivateKey,
    created: datetime | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    whole_digests: bool = False,
    options: S3Options | None = None,
) -> Manifest:
    """Seal the files of a directory as a new dataset in S3, or go on with an earlier try.

    Args:
        source: The directory; its files are only read.
        location: `s3://bucket/prefix`; there must be nothing below it.
        description: What the manifest says.
        dataset_key: The dataset's public key.
        signing_key: The data owner's key.
        created: The time in the manifest; now by default.
        progress: Told about every 2 MiB, and about files that an earlier try has sealed.
        workers: Threads that seal and send.
        whole_digests: Whether the manifest has a SHA-256 over each sealed file, too.
        options: How the bucket is reached.

    Raises:
        StorageError: Something is there, a file cannot be read, or the server cannot be written to.
        ConfigurationError: Another process seals the directory, or the location cannot be used.
        FormatError: A name or a text of the description cannot be used.
    """
    terms = check_description(description)
    files = list_files(source)
    bucket = Bucket.of(location, options)
    writer = derive_writer(signing_key, description.id, dataset_key)
    try:
        # What the manifest cannot say is refused before anything is sealed.
        make_manifest(description, terms, [], dataset_key, writer.public, created, example=files[0].name)
        with _alone(source):
            journal = BucketJournal.open(bucket, Ledger.of(signing_key, description.id, dataset_key))
            done = finished(journal, files, progress, whole_digests=whole_digests)
            left = [file for file in files if file.name not in done]
            with _BucketSealer(
                bucket, dataset_key, writer, workers=workers or _WORKERS, whole_digests=whole_digests
            ) as sealer:
                sealer.seal_all(left, journal, progress)
            entries = [journal.done[file.name][1] for file in files]
            manifest = make_manifest(description, terms, entries, dataset_key, writer.public, created)
            data = manifest.to_bytes()
            bucket.put(CROISSANT_NAME, to_text(croissant(manifest)).encode())
            bucket.put(DCAT_NAME, to_text(dcat(manifest)).encode())
            bucket.put(SIGNATURE_NAME, encode_signature(sign_manifest(data, signing_key)))
            _put_manifest(bucket, data)
            # The dataset is there; what is left of the journal means nothing any more.
            with contextlib.suppress(Error):
                journal.remove()
    except OSError as error:
        raise os_error(f"The dataset cannot be written to {location}", error) from error
    finally:
        writer.wipe()
    return manifest


def begun(location: str, *, options: S3Options | None = None) -> bool:
    """Tell whether an earlier try to seal to a place has left something there.

    Raises:
        StorageError: The server does not say.
    """
    bucket = Bucket.of(location, options)
    names = bucket.names()
    return MANIFEST_NAME not in names and any(name.startswith(JOURNAL_PREFIX) for name in names)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The objects below a prefix."""

    location: str
    bucket: str
    prefix: str
    options: S3Options

    @classmethod
    def of(cls, location: str, options: S3Options | None = None) -> Bucket:
        """Take `s3://bucket/prefix` apart.

        Raises:
            ConfigurationError: It names no bucket, or no prefix in it.
        """
        bucket, prefix = split_location(location)
        if not prefix:
            raise ConfigurationError(
                f"{location} names a bucket, not a place in it.", advice=f"Write s3://{bucket}/NAME."
            )
        options = options or replace(current_options(), timeout=_TIMEOUT)
        return cls(f"s3://{bucket}/{prefix}", bucket, prefix, options)

    @property
    def store(self) -> Any:
        """What obstore calls a store."""
        return bucket_store(self.bucket, self.options)

    def key(self, name: str) -> str:
        """Return the key of an object of the dataset."""
        return f"{self.prefix}/{name}"

    def names(self) -> dict[str, int]:
        """Return the names of all objects below the prefix, with their sizes.

        Raises:
            StorageError: The server does not say.
        """

        def listed() -> dict[str, int]:
            found = {}
            for batch in _obstore().list(self.store, prefix=f"{self.prefix}/", chunk_size=1000):
                for one in batch:
                    found[str(one["path"]).removeprefix(f"{self.prefix}/")] = int(one["size"])
            return found

        return self.call(listed, "looked at")

    def get(self, name: str) -> bytes:
        """Return a small object."""
        return self.call(lambda: bytes(_obstore().get(self.store, self.key(name)).bytes()), "read")

    def put(self, name: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        """Write an object at once.

        Args:
            name: Its name.
            data: All of it.
            new: Whether it must not be there yet.
        """
        mode = "create" if new else "overwrite"
        put = _obstore().put
        self.call(lambda: put(self.store, self.key(name), data, mode=mode, use_multipart=False))

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects."""
        self.call(lambda: _obstore().delete(self.store, [self.key(name) for name in names]))

    def call(self, work: Callable[[], _T], what: str = "written to") -> _T:
        """Call obstore; its errors become ours, without their text, which quotes requests."""
        exceptions = _obstore().exceptions
        try:
            return work()
        except exceptions.AlreadyExistsError:
            raise there_already(self.location) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise self._forbidden(what) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            if "status code: 403" in str(error) or "status code: 401" in str(error):
                # Listing has no error of its own for it.
                raise self._forbidden(what) from None
            if isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error):
                raise StorageError(
                    f"{self.location} cannot be {what}: there is no bucket {self.bucket}.",
                    advice="Make the bucket first, or check its name and the endpoint.",
                ) from None
            raise _failure(f"{self.location} cannot be {what}", str(error)) from None

    def _forbidden(self, what: str) -> StorageError:
        return StorageError(
            f"{self.location} may not be {what} with these credentials.",
            advice="Check the AWS_ variables, or ask who runs the storage.",
        )


class BucketJournal:
    """What is sealed already below a prefix; see `partial.Finished`."""

    def __init__(self, bucket: Bucket, ledger: Ledger, sizes: dict[str, int]) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._sizes = sizes
        self._objects: list[str] = []
        self._next = 0
        self._lines: list[bytes] = []

    @classmethod
    def open(cls, bucket: Bucket, ledger: Ledger) -> BucketJournal:
        """Read the journal of an earlier try, or begin one.

        Raises:
            StorageError: Something else is there already, or the server does not answer.
        """
        sizes = bucket.names()
        if MANIFEST_NAME in sizes:
            raise there_already(bucket.location)
        journal = cls(bucket, ledger, sizes)
        first = _object(0)
        mark = ledger.mac(_BEGIN)
        if first in sizes:
            if not hmac.compare_digest(bucket.get(first), mark):
                raise StorageError(
                    f"{bucket.location} was begun by another owner or with another key; nothing was changed.",
                    advice="Choose another prefix, or remove what is there.",
                )
            journal._read()
        elif sizes:
            raise StorageError(
                f"{bucket.location} is not empty; nothing was overwritten.",
                advice="Choose another prefix, or remove what is there.",
            )
        else:
            bucket.put(first, mark)
        journal._objects = sorted({first, *(name for name in sizes if name.startswith(JOURNAL_PREFIX))})
        journal._next = 1 + int(journal._objects[-1].removeprefix(JOURNAL_PREFIX))
        return journal

    @property
    def done(self) -> dict[str, tuple[SourceIdentity, FileEntry]]:
        """The files, each with what it was made of."""
        return self._ledger.done

    def add(self, source: SourceIdentity, entry: FileEntry) -> None:
        """Record a file whose objects are there."""
        self._lines.append(self._ledger.line(source, entry))

    def sync(self) -> None:
        """Make the records durable: one object more."""
        if not self._lines:
            return
        name = _object(self._next)
        self._bucket.put(name, b"".join(self._lines))
        self._objects.append(name)
        self._next += 1
        self._lines.clear()

    def usable(self, name: str, source: SourceIdentity) -> FileEntry | None:
        """Return the entry of a file that need not be sealed again: both its objects have their sizes."""
        found = self.done.get(name)
        if found is None or found[0] != source:
            return None
        entry = found[1]
        sealed = entry.header_size + entry.cipher_size
        same = self._sizes.get(name + SEALED_SUFFIX) == sealed
        return entry if same and self._sizes.get(name + SEGMENTS_SUFFIX) == RECORD * entry.segments else None

    def remove(self) -> None:
        """Remove it."""
        self._bucket.delete(self._objects)

    def _read(self) -> None:
        for name in sorted(name for name in self._sizes if name.startswith(JOURNAL_PREFIX))[1:]:
            for line in self._bucket.get(name).splitlines(keepends=True):
                if not self._ledger.take(line):
                    # Of a try that another one has overtaken: what it says more is sealed again.
                    return


class _BucketSealer(Sealer):
    """Seals files into a bucket."""

    def __init__(self, bucket: Bucket, dataset_key: PublicKey, writer: SecretKey, **more: Any) -> None:
        super().__init__(Path(), dataset_key, writer, **more)
        self._bucket = bucket

    def _output(self, name: str, size: int, begin: bytes = b"") -> _Upload:
        return _Upload(self._bucket, name, size, begin)

    def _store(self, name: str, data: bytes) -> None:
        self._bucket.put(name, data)


class _Upload:
    """An object that is written in order. It is there when all of it is, or not at all."""

    def __init__(self, bucket: Bucket, name: str, size: int, begin: bytes) -> None:
        self._bucket = bucket
        self._name = name
        self._whole: list[bytes | memoryview] = []
        self._stream: Any = None
        if size:
            part = _PART * max(1, -(-size // (_PART * _MOST_PARTS)))
            open_writer = _obstore().open_writer
            self._stream = bucket.call(
                lambda: open_writer(
                    bucket.store, bucket.key(name), buffer_size=part, max_concurrency=_AT_ONCE
                )
            )
            self._send(begin)

    def __enter__(self) -> _Upload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            # Not closed, which would make an object of what was sent by now.
            return
        if self._stream is not None:
            self._bucket.call(self._stream.close)
        else:
            self._bucket.put(self._name, b"".join(self._whole))

    def write(self, buffer: memoryview, start: int, end: int) -> None:
        """Send a part of a buffer."""
        self._send(buffer[start:end])

    def write_plain(self, *parts: bytes | memoryview) -> None:
        """Take what is sent at once at the end."""
        self._whole += parts

    def _send(self, data: bytes | memoryview) -> None:
        # A copy: obstore sends from the memory that it is given, later, and the caller's is used again.
        copy = bytes(data)
        self._bucket.call(lambda: self._stream.write(copy))


def _put_manifest(bucket: Bucket, data: bytes) -> None:
    try:
        bucket.put(MANIFEST_NAME, data, new=True)
    except StorageError:
        # It may be there all the same: if only the answer was lost, or a second try has met the first one's.
        with contextlib.suppress(StorageError):
            if bucket.get(MANIFEST_NAME) == data:
                return
        raise


def there_already(location: str) -> StorageError:
    """Return the error for a place where there is a dataset."""
    return StorageError(
        f"{location} holds a dataset already; nothing was overwritten.",
        advice="Choose another prefix, or remove it first.",
    )


@contextlib.contextmanager
def _alone(source: Path) -> Iterator[None]:
    """Keep another process on this machine from sealing the same directory to S3 meanwhile."""
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another process seals {source} to S3 now.", advice="Wait until it has ended."
            ) from error
        except OSError:
            # A file system without locks: only a second try at the same time is not noticed.
            pass
        yield
    finally:
        os.close(fd)


def _object(number: int) -> str:
    return f"{JOURNAL_PREFIX}{number:08d}"


def _failure(what: str, text: str) -> StorageError:
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if status == 507 or re.search("InsufficientStorage|QuotaExceeded|no space left|StorageFull", text, re.I):
        return StorageError(
            f"{what}: no space is left in the storage.", advice=f"Have some freed. {_GOES_ON}"
        )
    if status == 429 or "SlowDown" in text:
        return StorageError(f"{what}: the server is busy.", advice=_GOES_ON)
    if re.search("timed ?out|kind: Timeout", text, re.I):
        return StorageError(f"{what}: the server is too slow.", advice=_GOES_ON)
    if "credential" in text.lower():
        return StorageError(
            f"{what}: no credentials for the bucket were found.",
            advice="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    said = f"the server answers {status}" if status else "the server does not answer"
    return StorageError(f"{what}: {said}.", advice=f"When it is well: {_GOES_ON[0].lower()}{_GOES_ON[1:]}")


def _obstore() -> Any:
    try:
        import_module("obstore.store")
        return import_module("obstore")
    except ImportError as error:
        raise ConfigurationError(
            "Writing to S3 needs the package obstore.", advice="Install it: pip install 'sealroom[s3]'."
        ) from error
