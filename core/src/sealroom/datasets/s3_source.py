# SPDX-License-Identifier: BSD-3-Clause
"""Sealed files in S3 buckets, through obstore (`pip install sealroom[s3]`).

Credentials, region and endpoint are found as obstore finds them: `AWS_*` variables, the instance's or pod's
own identity, or the options that are given. None of them is shown by `repr` or in errors.

Invariants:

- An object is pinned by its ETag, its size and its time when it is opened. Each range is asked for with
  `If-Match`, and what is answered is compared as well, for servers that ignore the condition.
- What is shorter than asked for is asked for again, and then is an error; it is never padded.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any

from sealroom.datasets.source import replaced
from sealroom.errors import ConfigurationError, Error, StorageError

TRIES = 4
"""How often what is too short or was answered "slow down" is asked for, beside obstore's own retries."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

_SCHEME = "s3://"
_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a bucket is reached; what is left out comes from the environment."""

    endpoint: str = ""
    """The server's address, for anything but AWS itself."""
    region: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    anonymous: bool = False
    allow_http: bool = False
    """Whether an endpoint without TLS may be used. What is read is sealed either way."""
    timeout: float = 30.0
    """Seconds for one request."""
    retries: int = 5
    """How often obstore itself repeats a request that failed with 5xx, a timeout or a broken connection."""
    patience: float = 60.0
    """Seconds after which nothing is repeated any more."""

    def store(self, bucket: str) -> Any:
        """Return obstore's object for a bucket.

        Raises:
            ConfigurationError: obstore is not installed, or refuses the options.
        """
        config = {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "session_token": self.session_token,
            "skip_signature": self.anonymous,
        }
        obstore = _obstore()
        client: dict[str, Any] = {"timeout": timedelta(seconds=self.timeout)}
        # Client options that are given make obstore forget those of the environment.
        if self.allow_http or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
            client["allow_http"] = True
        try:
            return obstore.store.S3Store(
                bucket,
                config={name: value for name, value in config.items() if value},
                client_options=client,
                retry_config={
                    "max_retries": self.retries,
                    "retry_timeout": timedelta(seconds=self.patience),
                    "backoff": {
                        "init_backoff": timedelta(seconds=FIRST_PAUSE),
                        "max_backoff": timedelta(seconds=LONGEST_PAUSE),
                        "base": 2,
                    },
                },
            )
        except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
            # obstore's own text may quote the options.
            raise ConfigurationError(
                f"The options for the bucket {bucket} cannot be used.",
                advice="Check the AWS_ variables, or the options that were given.",
            ) from error


_lock = threading.Lock()
_stores: dict[tuple[str, S3Options], Any] = {}
_user = 0
_defaults = S3Options()


def configure(options: S3Options) -> None:
    """Set the options for every bucket that is opened from now on without its own."""
    global _defaults
    _defaults = options


def current_options() -> S3Options:
    """Return the options for buckets that are opened without their own."""
    return _defaults


class S3Source:
    """An object in a bucket.

    Args:
        bucket: The bucket's name.
        key: The object's key.
        options: How the bucket is reached.
        sleep: Waits between two tries.

    Raises:
        StorageError: It is not there or cannot be read.
        ConfigurationError: obstore is not installed, or refuses the options.
    """

    far = True

    def __init__(
        self,
        bucket: str,
        key: str,
        *,
        options: S3Options | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bucket, self._key = bucket, key
        self._options = options or _defaults
        self._sleep = sleep
        self.name = f"{_SCHEME}{bucket}/{key}"
        meta = _call(self.name, lambda: _obstore().head(self._store(), key))
        self.size = int(meta["size"])
        self._pin = _pin(meta)

    @classmethod
    def open(cls, location: str, *, options: S3Options | None = None) -> S3Source:
        """Open `s3://bucket/key`."""
        bucket, key = split_location(location)
        if not key:
            raise ConfigurationError(f"{location} names a bucket, not an object in it.")
        return cls(bucket, key, options=options)

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; see `Source`."""
        got = self.view(offset, len(buffer))
        buffer[: len(got)] = got
        return len(got)

    def identity(self) -> str:
        """Return ETag, time and size of the object that was opened."""
        return ":".join(str(part) for part in self._pin)

    def view(self, offset: int, length: int) -> memoryview:
        """Return a range as it was received."""
        want = max(0, min(length, self.size - offset))
        if not want:
            return memoryview(b"")
        pause, got = FIRST_PAUSE, 0
        for attempt in range(TRIES):
            if attempt:
                self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
                pause = min(2 * pause, LONGEST_PAUSE)
            answer = self._get(offset, want)
            if answer is None:
                continue
            got = len(answer)
            if got == want:
                return answer
        if not got:
            raise _busy(self.name)
        raise StorageError(
            f"{self.name} cannot be read: the server answered with {got} of {want} bytes, {TRIES} times.",
            advice="Try again when the server is well.",
        )

    def close(self) -> None:
        """Do nothing: connections belong to the process."""

    def __repr__(self) -> str:
        return f"<S3Source {self.name}, {getattr(self, 'size', 0)} bytes>"

    def _store(self) -> Any:
        return bucket_store(self._bucket, self._options)

    def _get(self, offset: int, want: int) -> memoryview | None:
        tag = self._pin[0]
        options: dict[str, Any] = {"range": (offset, offset + want)}
        if tag:
            options["if_match"] = tag
        try:
            result = _call(self.name, lambda: _obstore().get(self._store(), self._key, options=options))
            if _pin(result.meta) != self._pin or result.range[0] != offset:
                raise replaced(self.name)
            return memoryview(_call(self.name, result.bytes))
        except _BusyError:
            return None


def bucket_store(bucket: str, options: S3Options | None = None) -> Any:
    """Return obstore's object for a bucket; one for each bucket and options.

    Raises:
        ConfigurationError: This process was forked from one that has used obstore, whose threads are not
            here: obstore 0.12 ends such a process with a segmentation fault.
    """
    global _user
    if _user not in (0, os.getpid()):
        raise ConfigurationError(
            "S3 cannot be read in a process that was forked from one that has read from it.",
            advice="Start worker processes with 'spawn' or 'forkserver'.",
        )
    key = (bucket, options or _defaults)
    with _lock:
        _user = os.getpid()
        found = _stores.get(key)
        if found is None:
            found = _stores[key] = key[1].store(bucket)
        return found


def split_location(location: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`.

    Raises:
        ConfigurationError: It names no bucket.
    """
    bucket, _, key = location.removeprefix(_SCHEME).partition("/")
    if not location.startswith(_SCHEME) or not bucket:
        raise ConfigurationError(f"{location!r} is not s3://bucket/key.")
    return bucket, key.strip("/")


def exists(location: str) -> bool:
    """Tell whether there is an object.

    Raises:
        StorageError: The server does not say.
    """
    bucket, key = split_location(location)
    try:
        _call(location, lambda: _obstore().head(bucket_store(bucket), key))
    except _MissingError:
        return False
    return True


def list_prefixes(location: str) -> Iterator[str]:
    """Yield the names of the directories right below `s3://bucket/prefix`.

    Raises:
        StorageError: The server does not say.
    """
    bucket, key = split_location(location)
    listed = _call(location, lambda: _obstore().list_with_delimiter(bucket_store(bucket), prefix=key or None))
    for prefix in sorted(listed["common_prefixes"]):
        yield prefix.strip("/").rpartition("/")[2]


class _MissingError(StorageError):
    """There is no such object."""


class _BusyError(StorageError):
    """The server asks to come back later."""


def _call(name: str, work: Callable[[], Any]) -> Any:
    """Call obstore; its errors become ours, without their text, which quotes requests."""
    exceptions = _obstore().exceptions
    try:
        return work()
    except FileNotFoundError:
        raise _MissingError(
            f"{name} is not there.", advice="Copy it from the data owner's storage."
        ) from None
    except exceptions.PreconditionError:
        raise replaced(name) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise StorageError(
            f"{name} may not be read with these credentials.",
            advice="Check the AWS_ variables of the notebook server, or ask the operator.",
        ) from None
    except exceptions.BaseError as error:
        raise _failure(name, str(error)) from None
    except (OSError, ValueError) as error:
        raise _failure(name, str(error)) from None


def _failure(name: str, text: str) -> Error:
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if status == 429 or "SlowDown" in text:
        return _busy(name)
    if "TimedOut" in text or "timed out" in text or "kind: Timeout" in text:
        return StorageError(f"{name} cannot be read: the server is too slow.", advice="Try again later.")
    if "credential" in text.lower():
        return StorageError(
            f"{name} cannot be read: no credentials for the bucket were found.",
            advice="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE if it is public.",
        )
    said = f"the server answers {status}" if status else "the server does not answer"
    return StorageError(f"{name} cannot be read: {said}.", advice="Try again when it is well.")


def _busy(name: str) -> _BusyError:
    return _BusyError(f"{name} cannot be read: the server is busy.", advice="Try again later.")


def _pin(meta: Any) -> tuple[str, str, int]:
    return (meta["e_tag"] or "", meta["last_modified"].isoformat(), int(meta["size"]))


def _obstore() -> Any:
    try:
        import_module("obstore.store")
        return import_module("obstore")
    except ImportError as error:
        raise ConfigurationError(
            "Reading from S3 needs the package obstore.", advice="Install it: pip install 'sealroom[s3]'."
        ) from error
