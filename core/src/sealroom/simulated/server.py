# SPDX-License-Identifier: BSD-3-Clause
"""Serve a simulated processor on a Unix socket, for one notebook server.

The protocol is that of `sealroom.guest.simulated`: 96 bytes in, two length-prefixed blocks out; a
connection may ask several times. The socket appears under its name only when it can be used, owned by the
user and with mode 0600.

- Only the user, root and the process's own user are answered (SO_PEERCRED where the system has it).
- A request that is malformed or slow ends its connection and nothing else.
- At most `MAX_CONNECTIONS` connections at a time; more wait in the kernel's queue.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import secrets
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sealroom.errors import ConfigurationError, FormatError, StorageError
from sealroom.guest.messages import REQUEST_SIZE, STATUS_INVALID_PARAMETERS, ReportRequest, ReportResponse
from sealroom.simulated.processor import Processor

MAX_CONNECTIONS = 16
BACKLOG = 128
"""A client that connects with a timeout is turned away at once where the kernel's queue is full."""
REQUEST_SECONDS = 5.0
"""Time for one request to arrive in full and its answer to leave."""
MAX_PATH = 100
"""Unix socket paths hold 107 bytes on Linux and fewer elsewhere."""
_SLOT_SECONDS = 0.5

log = logging.getLogger(__name__)


class SocketServer(abc.ABC):
    """Something simulated that listens on a Unix socket; `serve` blocks until `stop` is called.

    Args:
        path: The socket to make; a stale one is replaced, a live one is not.
        uid: Owner of the socket, if it is to be another user.
        gid: Group of the socket, if it is to be another group.
        request_seconds: Time for one request.
    """

    def __init__(
        self,
        path: Path,
        *,
        uid: int | None = None,
        gid: int | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._path = path
        self._uid, self._gid = uid, gid
        self._seconds = request_seconds
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._slots = threading.Semaphore(MAX_CONNECTIONS)
        self._listener = self._bind()
        self._inode = path.stat().st_ino

    def stop(self) -> None:
        """Make `serve` return; safe in a signal handler and from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def serve(self, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Answer requests until `stop` is called or `alive`, asked every second, returns false."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            try:
                while alive():
                    ready = {key.fileobj for key, _ in selector.select(timeout=1.0)}
                    if self._wake_read in ready:
                        break
                    if self._listener in ready:
                        self._accept()
            finally:
                self.close()

    def close(self) -> None:
        """Close and remove the socket; twice does no harm."""
        self._listener.close()
        with contextlib.suppress(OSError):
            # Another server may have taken the name over.
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _accept(self) -> None:
        if not self._slots.acquire(timeout=_SLOT_SECONDS):
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # The peer went away, or there are no descriptors left: wait for better times without spinning.
            self._slots.release()
            time.sleep(0.01)
            return
        threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                if not self._peer_allowed(connection):
                    log.warning("refused a connection from another user")
                    return
                while self._answer_one(connection):
                    pass
        except (OSError, FormatError) as error:
            log.info("connection ended: %s", error)
        finally:
            self._slots.release()

    @abc.abstractmethod
    def _answer_one(self, connection: socket.socket) -> bool:
        """Answer one request; return false if there is none any more."""

    def _peer_allowed(self, connection: socket.socket) -> bool:
        if not hasattr(socket, "SO_PEERCRED"):
            return True
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return uid in {0, os.geteuid(), self._uid}

    def _bind(self) -> socket.socket:
        if len(os.fsencode(self._path)) > MAX_PATH:
            raise ConfigurationError(
                f"The socket path {self._path} is longer than {MAX_PATH} bytes.",
                advice="Use a run directory with a shorter path.",
            )
        # Where the directory is the user's, everything in it is done as the user, so that no name there can
        # be turned against this process. Elsewhere the user cannot interfere, and the socket is handed over.
        if self._owned_by_user():
            with _acting_as(self._uid, self._gid):
                self._refuse_live_socket()
                return self._listen(hand_over=False)
        self._refuse_live_socket()
        return self._listen(hand_over=self._uid is not None or self._gid is not None)

    def _owned_by_user(self) -> bool:
        try:
            return self._uid is not None and self._path.parent.stat().st_uid == self._uid
        except OSError as error:
            raise StorageError(f"{self._path.parent} cannot be used: {error.strerror}.") from error

    def _listen(self, *, hand_over: bool) -> socket.socket:
        # Made under another name, so that nobody sees it before it can be used.
        hidden = self._path.with_name(f".{secrets.token_hex(4)}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            old = os.umask(0o177)
            try:
                listener.bind(str(hidden))
            finally:
                os.umask(old)
            if hand_over:
                uid, gid = (-1 if value is None else value for value in (self._uid, self._gid))
                os.chown(hidden, uid, gid, follow_symlinks=False)
            listener.listen(BACKLOG)
            hidden.replace(self._path)
        except OSError as error:
            listener.close()
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise StorageError(f"The socket {self._path} cannot be made: {error.strerror}.") from error
        return listener

    def _refuse_live_socket(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"{self._path} exists and is not a socket.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except OSError:
                return
        raise ConfigurationError(f"Another simulated processor answers on {self._path}.")


class Server(SocketServer):
    """A listening simulated processor; `serve` blocks until `stop` is called.

    Args:
        processor: The processor to serve.
        path: The socket to make; a stale one is replaced, a live one is not.
        uid: Owner of the socket, if it is to be another user.
        gid: Group of the socket, if it is to be another group.
        alter: Applied to every report; demonstrations of refusals change bytes here.
        request_seconds: Time for one request.
    """

    def __init__(
        self,
        processor: Processor,
        path: Path,
        *,
        uid: int | None = None,
        gid: int | None = None,
        alter: Callable[[bytes], bytes] | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._processor = processor
        self._table = processor.certificate_table
        self._alter = alter
        super().__init__(path, uid=uid, gid=gid, request_seconds=request_seconds)

    def _answer_one(self, connection: socket.socket) -> bool:
        deadline = time.monotonic() + self._seconds
        data = receive(connection, REQUEST_SIZE, deadline)
        if data is None:
            return False
        try:
            response = self._processor.answer(ReportRequest.from_bytes(data))
        except FormatError:
            response = ReportResponse(STATUS_INVALID_PARAMETERS)
        if self._alter and response.report:
            response = ReportResponse(response.status, self._alter(response.report))
        table = self._table if response.report else b""
        message = response.to_bytes()
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.sendall(
            struct.pack("<I", len(message)) + message + struct.pack("<I", len(table)) + table,
        )
        return True


@contextlib.contextmanager
def _acting_as(uid: int | None, gid: int | None) -> Iterator[None]:
    # Process-wide, and therefore done before any thread is started.
    old_uid, old_gid = os.geteuid(), os.getegid()
    try:
        try:
            if gid is not None:
                os.setegid(gid)
            if uid is not None:
                os.seteuid(uid)
        except PermissionError as error:
            raise ConfigurationError("Only root can make a socket for another user.") from error
        yield
    finally:
        os.seteuid(old_uid)
        os.setegid(old_gid)


def receive(connection: socket.socket, size: int, deadline: float) -> bytes | None:
    """Return exactly `size` bytes that arrive before the deadline, or None if the peer has ended.

    Raises:
        FormatError: The peer ended in the middle.
        OSError: It is too slow.
    """
    data = bytearray()
    while len(data) < size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(data))
        if not part:
            if data:
                raise FormatError(f"A report request has {size} bytes, not {len(data)}.", offset=len(data))
            return None
        data += part
    return bytes(data)
