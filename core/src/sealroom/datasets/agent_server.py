# SPDX-License-Identifier: BSD-3-Clause
"""The notebook server's side of the agent: answers kernels over a Unix socket that only its own user may use.

The data keys stay in the process that runs this, behind the backend; kernels get plaintext ranges.

Invariants:

- The socket has mode 0600, and the peer's user id is read from the kernel for every connection.
- One slow, silent or babbling client holds up nobody else: a thread per connection, bounds on sizes, time
  limits once a message has begun.
- What is shared with a kernel (see `shared`) is bounded for each connection and for all of them, and is
  given up when the connection ends.
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
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from sealroom.datasets.agent import ALIGNMENT, MAX_RANGES
from sealroom.datasets.messages import (
    DatasetInfo,
    ExplanationInfo,
    FileInfo,
    RecordInfo,
    RequestInfo,
    ServerStatus,
)
from sealroom.datasets.parallel import for_each
from sealroom.datasets.shared import AgentBlocks, Budget
from sealroom.datasets.wire import MAX_READ, MAX_REQUEST, Inbox, error_to_wire, send_frame, set_patience
from sealroom.datasets.workspace import WORKSPACE, Workspace
from sealroom.errors import ConfigurationError, Error, IntegrityError, ProtocolError

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

    def file(self, dataset: str, file: str) -> FileInfo:
        """Return one file of an unlocked dataset."""

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from a file and return how many bytes there were, fewer only at its end."""

    def record(self, dataset: str) -> RecordInfo:
        """Return what was proven when the dataset was unlocked."""

    def explain(self, dataset: str, purpose: str) -> ExplanationInfo:
        """Return what the broker would decide now; an empty purpose stands for any."""

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None) -> RequestInfo:
        """Ask a dataset's owner for access."""

    def requests(self) -> Sequence[RequestInfo]:
        """Return the person's own requests, the newest first."""

    def take_back(self, request: str) -> RequestInfo:
        """Take back a request that was not answered yet."""


class AgentServer:
    """Serves a backend on a Unix socket.

    Args:
        path: Where the socket is made; its directory exists and belongs to the server's user.
        backend: What answers.
        allowed_uid: The user whose processes may connect; this process's own by default.
        workspace: Where kernels save results; none by default.
    """

    def __init__(
        self,
        path: Path | str,
        backend: AgentBackend,
        *,
        allowed_uid: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self.path = Path(path)
        self._backend = backend
        self._workspace = workspace
        self._allowed_uid = os.getuid() if allowed_uid is None else allowed_uid
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._budget = Budget()
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
            session = _Session(connection, self._backend, self._budget, self._workspace)
            with connection, contextlib.closing(session):
                while session.answer_one():
                    pass
        except (OSError, ProtocolError) as error:
            _log.debug("closed a connection to the agent: %s", error)
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Session:
    """One connection."""

    def __init__(
        self,
        connection: socket.socket,
        backend: AgentBackend,
        budget: Budget,
        workspace: Workspace | None = None,
    ) -> None:
        self._connection = connection
        self._backend = backend
        self._workspace = workspace
        self._inbox = Inbox(connection)
        self._blocks = AgentBlocks(budget)
        self._scratch: mmap.mmap | None = None
        # For sending only: a kernel may be silent for days between two requests, but not in the middle of
        # one.
        connection.settimeout(None)
        set_patience(connection, _MESSAGE_TIMEOUT, receiving=False)

    def answer_one(self) -> bool:
        """Answer one request; False at the end of the connection."""
        try:
            request = self._inbox.message(MAX_REQUEST, patience=_MESSAGE_TIMEOUT)
        except ProtocolError as error:
            # Where the next message begins is not known any more.
            send_frame(self._connection, {"ok": False, "error": error_to_wire(error), "size": 0})
            return False
        if request is None:
            return False
        self._answer(request)
        return True

    def close(self) -> None:
        """Give up what is shared."""
        self._blocks.close()

    def _answer(self, request: dict[str, Any]) -> None:
        raw: memoryview | None = None
        descriptor: int | None = None
        answer: dict[str, Any]
        try:
            self._drop(request)
            op = request.get("op")
            if op == "read" and "into" not in request:
                raw = self._read(request)
                answer = {"ok": True, "size": len(raw)}
            elif op == "share":
                result, descriptor = self._share(request)
                answer = {"ok": True, "result": result, "size": 0}
            else:
                answer = {"ok": True, "result": self._result(request), "size": 0}
        except Error as error:
            answer = {"ok": False, "error": error_to_wire(error), "size": 0}
        except Exception:  # noqa: BLE001 - a bug in the backend is an answer, not the end of the agent
            answer = {"ok": False, "error": _inside(), "size": 0}
        try:
            send_frame(self._connection, answer, raw, descriptor=descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
            if raw is not None:
                # Nothing that was read stays here after access has ended.
                raw[:] = bytes(len(raw))

    def _result(self, request: dict[str, Any]) -> Any:
        op = request.get("op")
        if op == "read":
            return self._read_block(request)
        if op == "reads":
            return self._read_batch(request)
        if op == "status":
            return _dump(self._backend.status())
        if op == "datasets":
            return [_dump(item) for item in self._backend.datasets()]
        if op == "unlock":
            return _dump(self._backend.unlock(_text(request, "dataset"), _text(request, "purpose")))
        if op == "files":
            return [_dump(item) for item in self._files(_text(request, "dataset"))]
        if op == "file":
            return _dump(self._file(_text(request, "dataset"), _text(request, "file")))
        if op == "record":
            return _dump(self._backend.record(_text(request, "dataset")))
        if op in ("explain", "request", "requests", "take_back"):
            return self._access(op, request)
        if op in ("workspace", "keep", "remove") and self._workspace is not None:
            return self._save(self._workspace, op, request)
        raise ProtocolError(
            "The agent does not know this operation.", advice="Update Sealroom in the server."
        )

    def _save(self, workspace: Workspace, op: str, request: dict[str, Any]) -> Any:
        if op == "workspace":
            return _dump(workspace.info())
        file = _text(request, "file")
        if op == "remove":
            workspace.remove(file)
            return None
        entry, part = request.get("entry"), _text(request, "part")
        if not isinstance(entry, dict):
            raise ProtocolError("The request lacks what is said about the file.")
        return _dump(workspace.keep(file, part, entry, overwrite=request.get("overwrite") is True))

    def _files(self, dataset: str) -> Sequence[FileInfo]:
        if dataset == WORKSPACE and self._workspace is not None:
            return self._workspace.files()
        return self._backend.files(dataset)

    def _file(self, dataset: str, file: str) -> FileInfo:
        if dataset == WORKSPACE and self._workspace is not None:
            return self._workspace.file(file)
        return self._backend.file(dataset, file)

    def _read_into(self, dataset: str, handle: str, offset: int, buffer: memoryview) -> int:
        file, _, version = handle.partition("\0")
        if not version:
            return self._read_any(dataset, file, offset, buffer)
        # Looked at again afterwards: another version may have taken its place during the read.
        self._check_version(dataset, file, version)
        done = self._read_any(dataset, file, offset, buffer)
        self._check_version(dataset, file, version)
        return done

    def _check_version(self, dataset: str, file: str, version: str) -> None:
        if self._file(dataset, file).version != version:
            raise IntegrityError(
                f"{dataset}/{file} is another version than the one that was opened.",
                advice="Open the file again.",
            )

    def _read_any(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        if dataset == WORKSPACE and self._workspace is not None:
            return self._workspace.read_into(file, offset, buffer)
        return self._backend.read_into(dataset, file, offset, buffer)

    def _access(self, op: str, request: dict[str, Any]) -> Any:
        if op == "requests":
            return [_dump(item) for item in self._backend.requests()]
        if op == "take_back":
            return _dump(self._backend.take_back(_text(request, "request")))
        dataset, purpose = _text(request, "dataset"), _text(request, "purpose")
        if op == "explain":
            return _dump(self._backend.explain(dataset, purpose))
        reason, until = _text(request, "reason"), _moment(request, "until")
        return _dump(self._backend.request(dataset, purpose, reason, until))

    def _read(self, request: dict[str, Any]) -> memoryview:
        offset, length = _number(request, "offset"), _number(request, "length")
        if length > MAX_READ:
            raise ProtocolError(f"At most {MAX_READ} bytes are read at once.")
        if self._scratch is None:
            # Page-aligned: copies into it run several times faster than into a bytearray.
            self._scratch = mmap.mmap(-1, MAX_READ)
        buffer = memoryview(self._scratch)[:length]
        size = self._read_into(_text(request, "dataset"), _text(request, "file"), offset, buffer)
        return buffer[:size]

    def _share(self, request: dict[str, Any]) -> tuple[dict[str, int], int | None]:
        made = self._blocks.make(_number(request, "size"))
        if made is None:
            return {"block": 0, "size": 0}, None
        number, size, descriptor = made
        return {"block": number, "size": size}, descriptor

    def _drop(self, request: dict[str, Any]) -> None:
        dropped = request.get("drop", [])
        if not isinstance(dropped, list):
            raise ProtocolError("The request's 'drop' is no list.")
        for number in dropped:
            self._blocks.drop(number)

    def _read_block(self, request: dict[str, Any]) -> dict[str, int]:
        offset, length, at = (_number(request, field) for field in ("offset", "length", "at"))
        buffer = self._blocks.view(request.get("into"), at, length)
        dataset, file = _text(request, "dataset"), _text(request, "file")
        return {"size": self._read_into(dataset, file, offset, buffer)}

    def _read_batch(self, request: dict[str, Any]) -> list[Any]:
        dataset, ranges = _text(request, "dataset"), request.get("ranges")
        if not isinstance(ranges, list) or len(ranges) > MAX_RANGES:
            raise ProtocolError(f"A request reads at most {MAX_RANGES} ranges.")
        wanted, at = [], _number(request, "at")
        for one in ranges:
            if not isinstance(one, list) or len(one) != 3:
                raise ProtocolError("A range is a file, an offset and a length.")
            fields = {"file": one[0], "offset": one[1], "length": one[2]}
            file, offset, length = _text(fields, "file"), _number(fields, "offset"), _number(fields, "length")
            wanted.append((file, offset, self._blocks.view(request.get("into"), at, length)))
            at += -(-length // ALIGNMENT) * ALIGNMENT
        results: list[Any] = [0] * len(wanted)

        def work(number: int) -> None:
            file, offset, buffer = wanted[number]
            try:
                results[number] = self._read_into(dataset, file, offset, buffer)
            except Error as error:
                results[number] = error_to_wire(error)
            except Exception:  # noqa: BLE001 - as for one range
                results[number] = _inside()

        # Several at once also where one processor must do: most of a request to another machine is waiting.
        for_each(work, len(wanted), waiting=True)
        return results


def _inside() -> dict[str, Any]:
    """Return the answer for a bug, and log it."""
    _log.exception("the agent failed inside")
    return error_to_wire(
        Error("The notebook server failed inside.", advice="Its log says more; tell the operator.")
    )


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


def _moment(request: dict[str, Any], field: str) -> datetime | None:
    text = _text(request, field)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ProtocolError(f"The request's {field!r} is no time with a zone.")
    return moment


def _number(request: dict[str, Any], field: str) -> int:
    value = request.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ProtocolError(f"The request lacks the number {field!r}.")
    return value
