# SPDX-License-Identifier: BSD-3-Clause
"""The notebook server's side of the agent: answers kernels over a Unix socket that only its own user may use.

The data keys stay in the process that runs this, behind the backend; kernels get plaintext ranges.

Invariants:

- The socket has mode 0600, and the peer's user id is read from the kernel for every connection.
- One slow, silent or babbling client holds up nobody else: a thread per connection, bounds on sizes, time
  limits once a message has begun.
- Whatever a client sends, the answer is an error message or a closed connection; the server goes on.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from sealroom.datasets.agent import (
    MAX_READ,
    MAX_REQUEST,
    error_to_wire,
    receive_exactly,
    receive_json,
    send_frame,
)
from sealroom.datasets.messages import DatasetInfo, FileInfo, RecordInfo, ServerStatus
from sealroom.errors import ConfigurationError, Error, ProtocolError

MAX_CONNECTIONS = 256
"""A kernel holds one or two, a DataLoader worker one."""

# A client that has begun a message ends it within this time, and takes an answer within this time.
_MESSAGE_TIMEOUT = 30.0

_log = logging.getLogger(__name__)


class AgentBackend(Protocol):
    """What the server's process provides; called from several threads at once.

    Every method may raise a `sealroom.errors.Error`, which the kernel sees as it is.
    """

    def status(self) -> ServerStatus:
        """Return what the server can prove about itself."""

    def datasets(self) -> Sequence[DatasetInfo]:
        """Return the datasets on offer."""

    def unlock(self, dataset: str, purpose: str) -> DatasetInfo:
        """Have a dataset released; an empty purpose stands for the only one that the grant allows."""

    def files(self, dataset: str) -> Sequence[FileInfo]:
        """Return the files of an unlocked dataset."""

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from a file and return how many bytes there were, fewer only at its end."""

    def record(self, dataset: str) -> RecordInfo:
        """Return what was proven when the dataset was unlocked."""


class AgentServer:
    """Serves a backend on a Unix socket.

    Args:
        path: Where the socket is made; its directory exists and belongs to the server's user.
        backend: What answers.
        allowed_uid: The user whose processes may connect; this process's own by default.
    """

    def __init__(self, path: Path | str, backend: AgentBackend, *, allowed_uid: int | None = None) -> None:
        self.path = Path(path)
        self._backend = backend
        self._allowed_uid = os.getuid() if allowed_uid is None else allowed_uid
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._inode = 0

    def start(self) -> None:
        """Make the socket and begin to answer; returns at once.

        Raises:
            ConfigurationError: The socket cannot be made at this place.
        """
        if self._listener is not None:
            raise RuntimeError("the agent is running")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            # Made under another name with its mode set, then renamed over what an earlier server left behind.
            fresh.unlink(missing_ok=True)
            listener.bind(str(fresh))
            fresh.chmod(0o600)
            if self._allowed_uid != os.getuid():
                os.chown(fresh, self._allowed_uid, -1)
            listener.listen(64)
            self._inode = fresh.stat().st_ino
            fresh.rename(self.path)
        except OSError as error:
            listener.close()
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise ConfigurationError(
                f"The agent's socket {self.path} cannot be made: {error.strerror or error}.",
                advice="Choose a shorter directory that the server's user may write to.",
            ) from error
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, name="sealroom-agent", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and every connection."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def __enter__(self) -> AgentServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None and self._listener is listener:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._listener is listener:
                    # Out of descriptors for a moment: what is open goes on, newcomers wait.
                    threading.Event().wait(0.1)
                continue
            if not self._admit(connection):
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="sealroom-agent-connection", daemon=True
            ).start()

    def _admit(self, connection: socket.socket) -> bool:
        try:
            uid = peer_uid(connection)
        except OSError:
            return False
        if uid != self._allowed_uid:
            _log.warning("refused a connection of user id %d to the agent", uid)
            return False
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS:
                _log.warning("refused a connection to the agent: %d are open", MAX_CONNECTIONS)
                return False
            self._connections.add(connection)
        return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                session = _Session(connection, self._backend)
                while session.answer_one():
                    pass
        except (OSError, ProtocolError) as error:
            _log.debug("closed a connection to the agent: %s", error)
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Session:
    """One connection."""

    def __init__(self, connection: socket.socket, backend: AgentBackend) -> None:
        self._connection = connection
        self._backend = backend
        self._scratch: mmap.mmap | None = None

    def answer_one(self) -> bool:
        """Answer one request; False at the end of the connection."""
        # A kernel may be silent for days between two requests, but not in the middle of one.
        prefix = bytearray(4)
        self._connection.settimeout(None)
        got = self._connection.recv_into(prefix)
        if not got:
            return False
        self._connection.settimeout(_MESSAGE_TIMEOUT)
        receive_exactly(self._connection, memoryview(prefix)[got:])
        try:
            request = receive_json(self._connection, bytes(prefix), MAX_REQUEST)
        except ProtocolError as error:
            # Where the next message begins is not known any more.
            send_frame(self._connection, {"ok": False, "error": error_to_wire(error), "size": 0})
            return False
        self._answer(request)
        return True

    def _answer(self, request: dict[str, Any]) -> None:
        raw: memoryview | None = None
        answer: dict[str, Any]
        try:
            if request.get("op") == "read":
                raw = self._read(request)
                answer = {"ok": True, "size": len(raw)}
            else:
                answer = {"ok": True, "result": self._result(request), "size": 0}
        except Error as error:
            answer = {"ok": False, "error": error_to_wire(error), "size": 0}
        except Exception:  # noqa: BLE001 - a bug in the backend is an answer, not the end of the agent
            _log.exception("the agent failed inside")
            failure = Error(
                "The notebook server failed inside.", advice="Its log says more; tell the operator."
            )
            answer = {"ok": False, "error": error_to_wire(failure), "size": 0}
        try:
            send_frame(self._connection, answer, raw)
        finally:
            if raw is not None:
                # Nothing that was read stays here after access has ended.
                raw[:] = bytes(len(raw))

    def _result(self, request: dict[str, Any]) -> Any:
        op = request.get("op")
        if op == "status":
            return _dump(self._backend.status())
        if op == "datasets":
            return [_dump(item) for item in self._backend.datasets()]
        if op == "unlock":
            return _dump(self._backend.unlock(_text(request, "dataset"), _text(request, "purpose")))
        if op == "files":
            return [_dump(item) for item in self._backend.files(_text(request, "dataset"))]
        if op == "record":
            return _dump(self._backend.record(_text(request, "dataset")))
        raise ProtocolError(
            "The agent does not know this operation.", advice="Update Sealroom in the server."
        )

    def _read(self, request: dict[str, Any]) -> memoryview:
        offset, length = _number(request, "offset"), _number(request, "length")
        if length > MAX_READ:
            raise ProtocolError(f"At most {MAX_READ} bytes are read at once.")
        if self._scratch is None:
            # Page-aligned: copies into it run several times faster than into a bytearray.
            self._scratch = mmap.mmap(-1, MAX_READ)
        buffer = memoryview(self._scratch)[:length]
        size = self._backend.read_into(_text(request, "dataset"), _text(request, "file"), offset, buffer)
        return buffer[:size]


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel says.

    Raises:
        OSError: This system cannot tell, which is taken for a stranger.
    """
    platform: str = sys.platform
    if platform == "linux":
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    if platform == "darwin":
        # struct xucred of <sys/ucred.h>: version, uid, number of groups, 16 groups; SOL_LOCAL 0,
        # LOCAL_PEERCRED 1.
        credentials = connection.getsockopt(0, 1, struct.calcsize("2Ih16I"))
        return int(struct.unpack_from("2I", credentials)[1])
    raise OSError("this system does not tell who is at the other end of a Unix socket")


def _dump(message: BaseModel) -> dict[str, Any]:
    return message.model_dump(mode="json")


def _text(request: dict[str, Any], field: str) -> str:
    value = request.get(field)
    if not isinstance(value, str):
        raise ProtocolError(f"The request lacks the text {field!r}.")
    return value


def _number(request: dict[str, Any], field: str) -> int:
    value = request.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ProtocolError(f"The request lacks the number {field!r}.")
    return value
