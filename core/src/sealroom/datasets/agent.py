# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's side of the agent: asks the notebook server's process for plaintext ranges over a Unix socket.

The wire: a request is a big-endian u32 length and that many bytes of JSON, `{"op": …, …}`. The answer is a
big-endian u32 length, JSON, and raw bytes:

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
| `read` | `dataset`, `file`, `offset`, `length` (at most 4 MiB) | raw bytes; fewer only at the end |
| `record` | `dataset` | `RecordInfo` |

Invariants:

- No key ever crosses the socket.
- A client is safe to share between threads, survives `fork` and pickling, and holds no connection in a
  pickle.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import weakref
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sealroom import errors
from sealroom.datasets.messages import DatasetInfo, FileInfo, RecordInfo, ServerStatus
from sealroom.errors import AccessDeniedError, Error, NetworkError, ProtocolError

SOCKET_NAME = "agent.sock"
RUN_VARIABLE = "SEALROOM_RUN"

MAX_REQUEST = 64 << 10
"""Bytes of a request's JSON; names are far shorter."""
MAX_ANSWER = 32 << 20
"""Bytes of an answer's JSON: the list of a hundred thousand files."""
MAX_READ = 4 << 20
"""Raw bytes of one answer."""

# The server itself waits for the broker when it unlocks; everything else is local.
_TIMEOUT = 120.0

_T = TypeVar("_T")
_STATUS = TypeAdapter(ServerStatus)
_DATASET = TypeAdapter(DatasetInfo)
_RECORD = TypeAdapter(RecordInfo)
_DATASETS = TypeAdapter(tuple[DatasetInfo, ...])
_FILES = TypeAdapter(tuple[FileInfo, ...])


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

    def record(self, dataset: str) -> RecordInfo:
        """Return what was proven when the dataset was unlocked."""
        return _parse(_RECORD, self._call({"op": "record", "dataset": dataset}))

    def read(self, dataset: str, file: str, offset: int, length: int) -> bytes:
        """Return a range of a file, shorter only at the file's end."""
        data = bytearray()
        while len(data) < length:
            # The length may be far beyond the file's end: make room as data come.
            buffer = memoryview(bytearray(min(length - len(data), MAX_READ)))
            size = self.read_into(dataset, file, offset + len(data), buffer)
            data += buffer[:size]
            if size < len(buffer):
                break
        return bytes(data)

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file into a buffer and return how many bytes there were."""
        done = 0
        while done < len(buffer):
            want = min(len(buffer) - done, MAX_READ)
            request = {
                "op": "read",
                "dataset": dataset,
                "file": file,
                "offset": offset + done,
                "length": want,
            }
            got, _ = self._exchange(request, buffer[done : done + want])
            done += got
            if got < want:
                break
        return done

    def close(self) -> None:
        """Close idle connections; the client opens new ones when it is used again."""
        with self._lock:
            _close_all(self._idle)

    def __reduce__(self) -> tuple[type[AgentClient], tuple[str]]:
        return type(self), (str(self.path),)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def _call(self, request: dict[str, str]) -> Any:
        _, result = self._exchange(request, memoryview(b""))
        return result

    def _exchange(self, request: dict[str, Any], buffer: memoryview) -> tuple[int, Any]:
        connection, reused = self._take()
        try:
            try:
                answer = _round_trip(connection, request, buffer)
            except OSError:
                connection.close()
                if not reused:
                    raise
                # The server was restarted since the last call: once more, on a new connection.
                connection = self._connect()
                answer = _round_trip(connection, request, buffer)
        except OSError as error:
            connection.close()
            raise _gone(self.path) from error
        except BaseException:
            # Interrupted or confused in the middle of an answer: what follows on it would be taken for
            # another.
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        size, body = answer
        if body.get("ok") is not True:
            raise error_from_wire(body.get("error"))
        return size, body.get("result")

    def _take(self) -> tuple[socket.socket, bool]:
        if self._pid != os.getpid():
            # After a fork the connections belong to the parent, and its lock may never be released here.
            self._finalizer.detach()
            _close_all(self._idle)
            self._reset()
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._connect(), False

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(self.path))
        except OSError as error:
            connection.close()
            raise _gone(self.path) from error
        return connection


def send_frame(connection: socket.socket, body: dict[str, Any], raw: memoryview | None = None) -> None:
    """Send a length, JSON and raw bytes."""
    data = json.dumps(body, separators=(",", ":")).encode()
    connection.sendall(struct.pack(">I", len(data)) + data)
    if raw is not None and len(raw):
        connection.sendall(raw)


def receive_exactly(connection: socket.socket, buffer: memoryview) -> None:
    """Fill a buffer.

    Raises:
        ConnectionError: The other side closed the connection before.
    """
    while len(buffer):
        got = connection.recv_into(buffer)
        if not got:
            raise ConnectionResetError("closed by the other side")
        buffer = buffer[got:]


def receive_json(connection: socket.socket, prefix: bytes, limit: int) -> dict[str, Any]:
    """Receive the JSON object that a length announced.

    Raises:
        ProtocolError: It is too large or not a JSON object.
        ConnectionError: The other side closed the connection before its end.
    """
    (size,) = struct.unpack(">I", prefix)
    if size > limit:
        raise ProtocolError(f"A message of {size} bytes is larger than the {limit} that are allowed.")
    data = bytearray(size)
    receive_exactly(connection, memoryview(data))
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("A message is not JSON.") from error
    if not isinstance(body, dict):
        raise ProtocolError("A message is not a JSON object.")
    return body


def error_to_wire(error: Error) -> dict[str, Any]:
    """Return an error as the answer carries it."""
    reasons = error.reasons if isinstance(error, AccessDeniedError) else ()
    return {
        "code": error.code,
        "message": error.message,
        "advice": error.advice,
        "reasons": [list(reason) for reason in reasons],
    }


def error_from_wire(body: object) -> Error:
    """Return the error that an answer carries, of the class that its code names."""
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return ProtocolError("The notebook server's agent answered with an error that cannot be read.")
    message, advice = body["message"], str(body.get("advice", ""))
    if body.get("code") == AccessDeniedError.code:
        reasons = tuple((str(r[0]), str(r[1])) for r in body.get("reasons", ()) if len(r) == 2)
        return AccessDeniedError(message, reasons=reasons, advice=advice)
    return _error_class(str(body.get("code")))(message, advice=advice)


def _error_class(code: str) -> type[Error]:
    for candidate in vars(errors).values():
        if isinstance(candidate, type) and issubclass(candidate, Error) and candidate.code == code:
            return candidate
    # A tag error and the like: subclasses that only tell more about where it was found.
    return errors.IntegrityError if code in ("tag", "header_key") else Error


def _round_trip(
    connection: socket.socket, request: dict[str, Any], buffer: memoryview
) -> tuple[int, dict[str, Any]]:
    send_frame(connection, request)
    prefix = bytearray(4)
    receive_exactly(connection, memoryview(prefix))
    body = receive_json(connection, bytes(prefix), MAX_ANSWER)
    size = body.get("size", 0)
    if not isinstance(size, int) or not 0 <= size <= len(buffer):
        raise ProtocolError("The notebook server's agent answered with more bytes than were asked for.")
    receive_exactly(connection, buffer[:size])
    return size, body


def _parse(adapter: TypeAdapter[_T], result: object) -> _T:
    try:
        return adapter.validate_python(result)
    except ValidationError as error:
        raise ProtocolError(
            "The notebook server's agent answered with something else than was asked for."
        ) from error


def _gone(path: Path) -> NetworkError:
    return NetworkError(
        f"The notebook server's Sealroom agent does not answer on {path}.",
        advice="Restart your server from the hub's home page; if it stays so, tell the operator.",
    )


def _close_all(connections: list[socket.socket]) -> None:
    while connections:
        connections.pop().close()
