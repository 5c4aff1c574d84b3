# SPDX-License-Identifier: BSD-3-Clause
"""Errors that survive the way from a `DataLoader` worker to the training loop.

`torch.utils.data` sends a worker's error as its class and the text of its traceback, and makes it again as
`Class(text)`. An error of Sealroom would then begin with the traceback and be cut before its own sentence.
The classes here find the sentence in the text, so that `except IntegrityError` works around the loop as it
does around a read, and the message names file and segment. The worker's traceback is a note of the error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.utils.data import get_worker_info

from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    FormatError,
    IntegrityError,
    NetworkError,
    ProtocolError,
    StorageError,
)


class WorkerError(Error):
    """An error that is made again from the text of its traceback."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        found = _sentence(type(self).__name__, message)
        if found is None:
            super().__init__(message, advice=advice)
        else:
            super().__init__(found[0], advice=found[1])
            self.add_note(message.rstrip())

    def __str__(self) -> str:
        # What the traceback carries; one line each.
        return f"{self.message}\n{self.advice}" if self.advice else self.message


class WorkerIntegrityError(WorkerError, IntegrityError):
    """A sealed file is not what its signed manifest says."""


class WorkerAccessDeniedError(WorkerError, AccessDeniedError):
    """Access to the dataset has ended, or there is none."""


class WorkerStorageError(WorkerError, StorageError):
    """A sealed file cannot be read."""


class WorkerNetworkError(WorkerError, NetworkError):
    """The notebook server does not answer."""


class WorkerFormatError(WorkerError, FormatError):
    """A file is not what its name or header says."""


class WorkerProtocolError(WorkerError, ProtocolError):
    """The notebook server answered with something else than was asked for."""


class WorkerConfigurationError(WorkerError, ConfigurationError):
    """Something is asked for that is not there."""


_KINDS: tuple[tuple[type[Error], type[WorkerError]], ...] = (
    (IntegrityError, WorkerIntegrityError),
    (AccessDeniedError, WorkerAccessDeniedError),
    (StorageError, WorkerStorageError),
    (NetworkError, WorkerNetworkError),
    (FormatError, WorkerFormatError),
    (ProtocolError, WorkerProtocolError),
    (ConfigurationError, WorkerConfigurationError),
)


@contextlib.contextmanager
def reading(file: str) -> Iterator[None]:
    """Have an error of what is done inside name the file, also where it crosses from a worker.

    Args:
        file: Dataset and file.

    Raises:
        Error: What was raised inside, with the file in its sentence.
    """
    try:
        yield
    except WorkerError:
        raise
    except Error as error:
        inside = get_worker_info() is not None
        named = isinstance(error, AccessDeniedError | NetworkError) or _names(error, file)
        if named and not inside:
            raise
        message = error.message if named else f"{file}: {error.message}"
        raise _again(error, message, inside=inside) from None


def _names(error: Error, file: str) -> bool:
    return file.partition("/")[2] in error.message


def _again(error: Error, message: str, *, inside: bool) -> Error:
    for kind, worker_kind in _KINDS:
        if isinstance(error, kind):
            made = worker_kind if inside else kind
            return made(message, advice=error.advice)
    return (WorkerError if inside else Error)(message, advice=error.advice)


def _sentence(name: str, text: str) -> tuple[str, str] | None:
    """Return message and advice from a worker's traceback; None if the text is not one."""
    before, mark, rest = text.rpartition(f".{name}: ")
    lines = rest.splitlines()
    if not mark or not lines or not before.startswith("Caught "):
        return None
    return lines[0], lines[1] if len(lines) > 1 else ""
