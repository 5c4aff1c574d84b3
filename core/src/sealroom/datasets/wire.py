# SPDX-License-Identifier: BSD-3-Clause
"""How the agent's messages go over a Unix socket; `agent` says which messages there are.

A message is a big-endian u32 length, that many bytes of JSON and, behind an answer, raw bytes. A file
descriptor may go with the first byte.

Invariants:

- Whatever arrives, the outcome is a JSON object within the bounds, `ProtocolError` or `OSError`.
- A message usually costs one system call to send and one to receive.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from typing import Any

from sealroom import errors
from sealroom.errors import AccessDeniedError, Error, ProtocolError

MAX_REQUEST = 64 << 10
"""Bytes of a request's JSON; names are far shorter."""
MAX_ANSWER = 32 << 20
"""Bytes of an answer's JSON: the list of a hundred thousand files."""
MAX_READ = 4 << 20
"""Raw bytes of one answer."""

_AT_ONCE = 64 << 10
_encode = json.JSONEncoder(separators=(",", ":")).encode
# Raw bytes up to this go out together with the JSON before them.
_JOINED = 32 << 10


def set_patience(connection: socket.socket, seconds: float, *, receiving: bool = True) -> None:
    """Let a blocking socket give up sending, and receiving, after some time: in the kernel, at no cost."""
    patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    if receiving:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)


def send_frame(
    connection: socket.socket,
    body: dict[str, Any],
    raw: memoryview | None = None,
    *,
    descriptor: int | None = None,
) -> None:
    """Send a length, JSON and raw bytes, and a file descriptor with them."""
    data = _encode(body).encode()
    head = struct.pack(">I", len(data)) + data
    if descriptor is not None:
        sent = socket.send_fds(connection, [head], [descriptor])
        head = head[sent:]
    if raw is not None and len(raw) <= _JOINED:
        head += raw
        raw = None
    if head:
        connection.sendall(head)
    if raw is not None:
        connection.sendall(raw)


class Inbox:
    """Takes messages from a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self._start = self._end = 0
        self._descriptors: list[int] = []

    def message(
        self, limit: int, *, patience: float | None = None, descriptors: bool = False
    ) -> dict[str, Any] | None:
        """Receive a message's JSON.

        Args:
            limit: Its most bytes.
            patience: Seconds for the rest of a message that has begun; as set on the socket by default.
            descriptors: Take a file descriptor too; see `descriptor`.

        Returns:
            The JSON object; None if the other side has closed the connection between two messages.

        Raises:
            ProtocolError: It is too large or not a JSON object.
            OSError: The connection ended in the middle, or nothing came in time.
        """
        if self._start == self._end and not self._more(descriptors=descriptors):
            return None
        # Nearly always the whole message is here.
        text = self._start + 4
        end = text + int.from_bytes(self._buffer[self._start : text], "big")
        if text <= self._end and end <= self._end and end - text <= limit:
            self._start = end
            return _json_object(self._buffer[text:end])
        if patience is None:
            return self._parse(limit)
        self._connection.settimeout(patience)
        body = self._parse(limit)
        self._connection.settimeout(None)
        return body

    def raw(self, buffer: memoryview) -> None:
        """Receive raw bytes until a buffer is full.

        Raises:
            OSError: The connection ended before, or nothing came in time.
        """
        here = min(len(buffer), self._end - self._start)
        if here:
            buffer[:here] = self._buffer[self._start : self._start + here]
            self._start += here
        if here < len(buffer):
            _receive(self._connection, buffer[here:])

    def descriptor(self) -> int | None:
        """Return the file descriptor that came with the last message; the caller closes it."""
        found, self._descriptors = self._descriptors, []
        for one in found[1:]:
            os.close(one)
        return found[0] if found else None

    def close(self) -> None:
        """Close descriptors that nobody took."""
        found = self.descriptor()
        if found is not None:
            os.close(found)

    def _more(self, *, descriptors: bool = False) -> bool:
        self._start = self._end = 0
        if descriptors:
            self._end = self._receive_with_descriptors()
        else:
            self._end = self._connection.recv_into(self._buffer)
        return self._end > 0

    def _receive_with_descriptors(self) -> int:
        size = array.array("i").itemsize
        got, ancillary, _, _ = self._connection.recvmsg_into(
            [self._buffer], socket.CMSG_SPACE(4 * size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % size])
                self._descriptors += list(numbers)
        return got

    def _parse(self, limit: int) -> dict[str, Any]:
        prefix = bytearray(4)
        self.raw(memoryview(prefix))
        size = int.from_bytes(prefix, "big")
        if size > limit:
            raise ProtocolError(f"A message of {size} bytes is larger than the {limit} that are allowed.")
        data = bytearray(size)
        self.raw(memoryview(data))
        return _json_object(data)


def _json_object(data: bytearray | memoryview) -> dict[str, Any]:
    try:
        body = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("A message is not JSON.") from error
    if not isinstance(body, dict):
        raise ProtocolError("A message is not a JSON object.")
    return body


def _receive(connection: socket.socket, buffer: memoryview) -> None:
    while len(buffer):
        got = connection.recv_into(buffer)
        if not got:
            raise ConnectionResetError("closed by the other side")
        buffer = buffer[got:]


def close_quietly(connection: socket.socket) -> None:
    """Close a connection of which nothing is expected any more."""
    with contextlib.suppress(OSError):
        connection.close()


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
