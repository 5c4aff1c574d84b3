# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's side of the agent: asks the notebook server's process for plaintext ranges over a Unix socket.

A request is a JSON object `{"op": …, …}`, framed as `wire` says. The answer is JSON and raw bytes:

| field | meaning |
|---|---|
| `ok` | whether it worked |
| `result` | the operation's answer, if it did |
| `error` | `{"code", "message", "advice", "reasons": [[code, sentence], …]}`, if it did not |
| `size` | how many raw bytes follow |

| op | request | answer |
|---|---|---|
| `status` | - | `ServerStatus` |
| `datasets` | - | list of `DatasetInfo` |
| `unlock` | `dataset`, `purpose` (DUO code, or empty for the only one) | `DatasetInfo` |
| `files` | `dataset` | list of `FileInfo` |
| `file` | `dataset`, `file` | `FileInfo` |
| `share` | `size` | `{"block", "size"}` and a descriptor of shared memory; block 0 if there is none |
| `read` | `dataset`, `file`, `offset`, `length` (at most 4 MiB) | raw bytes; fewer only at the end |
| `read` | the same of any length, `into` (a block), `at` (a position in it) | `{"size"}` |
| `reads` | `dataset`, `ranges` (at most 64 of file, offset, length), `into`, `at` | sizes or errors |
| `record` | `dataset` | `RecordInfo` |
| `explain` | `dataset`, `purpose` (DUO code, or empty for any) | `ExplanationInfo` |
| `request` | `dataset`, `purpose`, `reason`, `until` (ISO 8601 with a zone, or empty) | `RequestInfo` |
| `requests` | - | list of `RequestInfo`, the newest first |
| `take_back` | `request` (its id) | `RequestInfo` |
| `workspace` | - | `WorkspaceInfo` |
| `keep` | `file`, `part`, `entry` (fields of the file), `overwrite` | `FileInfo` |
| `remove` | `file` | - |

A reading operation names a file by its name, or by its name and version with a NUL between them; then it is
refused where another version is open. `file`, `files` and the reading operations take `workspace` for a
dataset: the results that were saved here.

The ranges of `reads` begin at multiples of 64 in the block, one behind the other. Any request may carry
`drop`: numbers of blocks that are not used any more.

Invariants:

- No key ever crosses the socket.
- A client is safe to share between threads, survives `fork` and pickling, and holds no connection in a
  pickle.
- Large ranges are decrypted into memory that both processes share (see `shared`), without a copy where the
  caller takes the buffer as it is.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sealroom.datasets.connection import ALIGNMENT, Connection, RefusedError, gone, surprise
from sealroom.datasets.messages import (
    DatasetInfo,
    ExplanationInfo,
    FileInfo,
    RecordInfo,
    RequestInfo,
    ServerStatus,
    WorkspaceInfo,
)
from sealroom.datasets.shared import LARGEST_BLOCK
from sealroom.datasets.wire import (
    MAX_ANSWER,
    MAX_READ,
    MAX_REQUEST,
    error_from_wire,
    error_to_wire,
    send_frame,
)
from sealroom.errors import Error, NetworkError

SOCKET_NAME = "agent.sock"
RUN_VARIABLE = "SEALROOM_RUN"

MAX_RANGES = 64
"""Ranges of one `reads`."""
# Ranges below this go through the socket: a block would cost as much.
_INLINE = 48 << 10
# What is asked for at once where several pieces are put together.
_LARGEST_AT_ONCE = 32 << 20
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

_T = TypeVar("_T")
_STATUS = TypeAdapter(ServerStatus)
_DATASET = TypeAdapter(DatasetInfo)
_RECORD = TypeAdapter(RecordInfo)
_DATASETS = TypeAdapter(tuple[DatasetInfo, ...])
_FILES = TypeAdapter(tuple[FileInfo, ...])
_FILE = TypeAdapter(FileInfo)
_WORKSPACE = TypeAdapter(WorkspaceInfo)
_EXPLANATION = TypeAdapter(ExplanationInfo)
_REQUEST = TypeAdapter(RequestInfo)
_REQUESTS = TypeAdapter(tuple[RequestInfo, ...])


class AgentClient:
    """Talks to the agent behind one socket."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._reset()

    @classmethod
    def from_environment(cls) -> AgentClient:
        """Return a client of the notebook server that this kernel belongs to.

        Raises:
            NetworkError: This Python does not run in a Sealroom notebook server.
        """
        run = os.environ.get(RUN_VARIABLE)
        if not run:
            raise NetworkError(
                f"This Python does not run in a Sealroom notebook server: {RUN_VARIABLE} is not set.",
                advice="Open the notebook in a server that Sealroom's JupyterHub started.",
            )
        return cls(Path(run) / SOCKET_NAME)

    def status(self) -> ServerStatus:
        """Return what the server can prove about itself."""
        return _parse(_STATUS, self._call({"op": "status"}))

    def datasets(self) -> tuple[DatasetInfo, ...]:
        """Return the datasets on offer."""
        return _parse(_DATASETS, self._call({"op": "datasets"}))

    def unlock(self, dataset: str, purpose: str = "") -> DatasetInfo:
        """Have a dataset released to this server.

        Raises:
            AccessDeniedError: The broker refused; `reasons` says why.
        """
        return _parse(_DATASET, self._call({"op": "unlock", "dataset": dataset, "purpose": purpose}))

    def files(self, dataset: str) -> tuple[FileInfo, ...]:
        """Return the files of an unlocked dataset."""
        return _parse(_FILES, self._call({"op": "files", "dataset": dataset}))

    def file(self, dataset: str, file: str) -> FileInfo:
        """Return one file of an unlocked dataset.

        Raises:
            AccessDeniedError: The dataset is locked.
            StorageError: It has no such file.
        """
        return _parse(_FILE, self._call({"op": "file", "dataset": dataset, "file": file}))

    def record(self, dataset: str) -> RecordInfo:
        """Return what was proven when the dataset was unlocked."""
        return _parse(_RECORD, self._call({"op": "record", "dataset": dataset}))

    def explain(self, dataset: str, purpose: str = "") -> ExplanationInfo:
        """Return what the broker would decide on a dataset now, rule by rule; nothing is released."""
        return _parse(_EXPLANATION, self._call({"op": "explain", "dataset": dataset, "purpose": purpose}))

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None = None) -> RequestInfo:
        """Ask a dataset's owner for access.

        Raises:
            AccessDeniedError: The broker does not pass the request on; `reasons` says why.
        """
        end = "" if until is None else until.isoformat()
        request = {"op": "request", "dataset": dataset, "purpose": purpose, "reason": reason, "until": end}
        return _parse(_REQUEST, self._call(request))

    def requests(self) -> tuple[RequestInfo, ...]:
        """Return the person's own requests, the newest first."""
        return _parse(_REQUESTS, self._call({"op": "requests"}))

    def take_back(self, request: str) -> RequestInfo:
        """Take back a request that was not answered yet."""
        return _parse(_REQUEST, self._call({"op": "take_back", "request": request}))

    def workspace(self) -> WorkspaceInfo:
        """Return what is needed to seal a result to the workspace.

        Raises:
            StorageError: The workspace's directory cannot be made.
        """
        return _parse(_WORKSPACE, self._call({"op": "workspace"}))

    def keep(self, file: str, part: str, entry: dict[str, Any], *, overwrite: bool) -> FileInfo:
        """Have a finished part of the workspace named; see `workspace.Workspace.keep`."""
        request = {"op": "keep", "file": file, "part": part, "entry": entry, "overwrite": overwrite}
        return _parse(_FILE, self._call(request))

    def remove(self, file: str) -> None:
        """Remove a result from the workspace.

        Raises:
            StorageError: It is not there, or cannot be removed.
        """
        self._call({"op": "remove", "file": file})

    def read(self, dataset: str, file: str, offset: int, length: int) -> bytes:
        """Return a range of a file, shorter only at the file's end."""
        # The length may be far beyond the file's end: make room as data come.
        parts: list[memoryview] = []
        done = 0
        while done < length:
            want = min(length - done, _LARGEST_AT_ONCE)
            part = self.read_buffer(dataset, file, offset + done, want)
            parts.append(part)
            done += len(part)
            if len(part) < want:
                break
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def read_buffer(self, dataset: str, file: str, offset: int, length: int) -> memoryview:
        """Return a range of a file in memory that it was decrypted into, shorter only at the file's end.

        The memory begins at a multiple of the page size where the range is large. It belongs to the caller as
        long as anything refers to it.
        """
        request = {"op": "read", "dataset": dataset, "file": file, "offset": offset, "length": length}
        if _INLINE <= length <= LARGEST_BLOCK:
            found = self._use(lambda connection: connection.read_block(request, length))
            if found is not None:
                return found
        buffer = memoryview(bytearray(length) if length < _INLINE else mmap.mmap(-1, length, _PRIVATE))
        return buffer[: self.read_into(dataset, file, offset, buffer)]

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file into a buffer and return how many bytes there were."""
        request: dict[str, Any] = {"op": "read", "dataset": dataset, "file": file}
        if len(buffer) >= _INLINE:
            got = self._use(lambda connection: connection.read_copied(request, offset, buffer))
            if got is not None:
                return got
        done = 0
        while done < len(buffer):
            part = buffer if len(buffer) <= MAX_READ else buffer[done : done + MAX_READ]
            request["offset"], request["length"] = offset + done, len(part)
            got, _ = self._use(lambda connection, part=part: connection.call(request, part))  # type: ignore[misc]
            done += got
            if got < len(part):
                break
        return done

    def read_ranges(self, dataset: str, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview | Error]:
        """Read several ranges of a dataset's files with few requests.

        Args:
            dataset: The dataset's id.
            ranges: File, offset and length of each.

        Returns:
            For each range its bytes, fewer only at the file's end, or why it could not be read.

        Raises:
            NetworkError: The server does not answer.
        """
        answers: list[memoryview | Error] = []
        for batch in _batches(dataset, ranges):
            found = None
            if len(batch) > 1:
                found = self._use(lambda connection, batch=batch: connection.read_batch(dataset, batch))  # type: ignore[misc]
            answers += [self._one(dataset, *one) for one in batch] if found is None else found
        return answers

    def close(self) -> None:
        """Close idle connections; the client opens new ones when it is used again."""
        with self._lock:
            _close_all(self._idle)

    def __reduce__(self) -> tuple[type[AgentClient], tuple[str]]:
        return type(self), (str(self.path),)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def _one(self, dataset: str, file: str, offset: int, length: int) -> memoryview | Error:
        try:
            return self.read_buffer(dataset, file, offset, length)
        except NetworkError:
            raise
        except Error as error:
            return error

    def _call(self, request: dict[str, Any]) -> Any:
        return self._use(lambda connection: connection.call(request, memoryview(b"")))[1]

    def _use(self, work: Callable[[Connection], _T]) -> _T:
        """Do something with a connection that nobody else uses meanwhile."""
        connection, reused = self._take()
        try:
            try:
                result = work(connection)
            except OSError:
                connection.close()
                if not reused:
                    raise
                # The server was restarted since the last call: once more, on a new connection.
                connection = Connection(self.path)
                result = work(connection)
        except OSError as error:
            connection.close()
            raise gone(self.path) from error
        except RefusedError as refused:
            self._put_back(connection)
            raise refused.error from None
        except BaseException:
            # Interrupted or confused in the middle of an answer: what follows on it would be taken for
            # another.
            connection.close()
            raise
        self._put_back(connection)
        return result

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _take(self) -> tuple[Connection, bool]:
        if self._pid != os.getpid():
            # After a fork the connections belong to the parent, and its lock may never be released here.
            self._finalizer.detach()
            _close_all(self._idle)
            self._reset()
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return Connection(self.path), False


def _batches(dataset: str, ranges: Sequence[tuple[str, int, int]]) -> list[list[tuple[str, int, int]]]:
    """Group ranges so that each group fits into one request and one block."""
    batches: list[list[tuple[str, int, int]]] = []
    room, text = 0, 0
    for one in ranges:
        size, words = one[2] + ALIGNMENT, len(json.dumps(one)) + 1
        if not batches or len(batches[-1]) >= MAX_RANGES or size > room or words > text:
            batches.append([])
            room, text = _LARGEST_AT_ONCE, MAX_REQUEST - len(json.dumps(dataset)) - 4096
        batches[-1].append(one)
        room, text = room - size, text - words
    return batches


def _parse(adapter: TypeAdapter[_T], result: object) -> _T:
    try:
        return adapter.validate_python(result)
    except ValidationError as error:
        raise surprise() from error


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


__all__ = [
    "ALIGNMENT",
    "MAX_ANSWER",
    "MAX_RANGES",
    "MAX_READ",
    "MAX_REQUEST",
    "RUN_VARIABLE",
    "SOCKET_NAME",
    "AgentClient",
    "error_from_wire",
    "error_to_wire",
    "send_frame",
]
