# SPDX-License-Identifier: BSD-3-Clause
"""One connection of a kernel to the agent, with the memory that is shared over it; see `agent`.

Invariants:

- One thread at a time uses a connection.
- `RefusedError` means that the agent has answered and the next request may follow. After anything else that
  is raised here, the connection is closed: what arrives on it next would be taken for another answer.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sealroom.datasets.shared import LARGEST_BLOCK, KernelBlocks, Piece
from sealroom.datasets.wire import (
    MAX_ANSWER,
    Inbox,
    close_quietly,
    error_from_wire,
    send_frame,
    set_patience,
)
from sealroom.errors import Error, NetworkError, ProtocolError

ALIGNMENT = 64
"""Where ranges begin in a block: what Arrow asks of its buffers."""

# What is copied from a block into a caller's own buffer at once; the next part is decrypted meanwhile.
_COPIED = 4 << 20

# The server itself waits for the broker when it unlocks; everything else is local.
_TIMEOUT = 120.0


class RefusedError(Exception):
    """The agent answered with an error, and the connection is ready for the next request."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class Connection:
    """One connection and the blocks of memory that are shared over it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_TIMEOUT)
        try:
            self.socket.connect(str(path))
            self.socket.settimeout(None)
            set_patience(self.socket, _TIMEOUT)
        except OSError as error:
            self.socket.close()
            raise gone(path) from error
        self._inbox = Inbox(self.socket)
        self._blocks = KernelBlocks()
        self._sharing = True

    def call(self, request: dict[str, Any], buffer: memoryview) -> tuple[int, Any]:
        """Ask, and return how many raw bytes there were and the result."""
        size, body = _round_trip(self, self._with_dropped(request), buffer)
        return size, _result(body)

    def read_block(self, request: dict[str, Any], length: int) -> memoryview | None:
        """Read into shared memory and hand it out; None where nothing is shared."""
        piece = self._piece(length)
        if piece is None:
            return None
        try:
            _, result = self.call({**request, "into": piece.block.number, "at": piece.start}, memoryview(b""))
            return piece.hand_out(_size(result, length))
        except BaseException:
            piece.give_back()
            raise

    def read_copied(self, request: dict[str, Any], offset: int, buffer: memoryview) -> int | None:
        """Read through shared memory into a caller's own buffer; None where nothing is shared.

        One part is decrypted while the one before it is copied.
        """
        piece = self._piece(min(2 * _COPIED, len(buffer)))
        if piece is None:
            return None
        try:
            return self._copy(request, offset, buffer, piece)
        finally:
            piece.give_back()

    def _copy(self, request: dict[str, Any], offset: int, buffer: memoryview, piece: Piece) -> int:
        parts = [min(_COPIED, len(buffer) - start) for start in range(0, len(buffer), _COPIED)]
        view, asked, done = piece.view(piece.size), 0, 0

        def ask() -> None:
            nonlocal asked
            part = {"offset": offset + asked * _COPIED, "length": parts[asked]}
            where = {"into": piece.block.number, "at": piece.start + asked % 2 * _COPIED}
            send_frame(self.socket, {**self._with_dropped(request), **part, **where})
            asked += 1

        ask()
        for number, want in enumerate(parts):
            if asked < len(parts):
                ask()
            _, body = _answer(self, memoryview(b""))
            ended = body.get("ok") is not True or _size(body.get("result"), want) < want
            if ended and asked > number + 1:
                # What was asked for in advance is answered too, and says nothing more.
                _answer(self, memoryview(b""))
            got = _size(_result(body), want)
            at = number % 2 * _COPIED
            buffer[done : done + got] = view[at : at + got]
            done += got
            if ended:
                break
        return done

    def read_batch(
        self, dataset: str, ranges: Sequence[tuple[str, int, int]]
    ) -> list[memoryview | Error] | None:
        """Read several ranges into one block; None where nothing is shared."""
        starts, total = [], 0
        for _, _, length in ranges:
            starts.append(total)
            total += -(-length // ALIGNMENT) * ALIGNMENT
        piece = self._piece(max(1, total))
        if piece is None:
            return None
        request = {
            "op": "reads",
            "dataset": dataset,
            "ranges": [list(one) for one in ranges],
            "into": piece.block.number,
            "at": piece.start,
        }
        try:
            _, results = self.call(request, memoryview(b""))
            if not isinstance(results, list) or len(results) != len(ranges):
                raise surprise()
            view = piece.hand_out(total)
        except BaseException:
            piece.give_back()
            raise
        answers: list[memoryview | Error] = []
        for start, (_, _, length), result in zip(starts, ranges, results, strict=True):
            if isinstance(result, int):
                answers.append(view[start : start + _size(result, length)])
            else:
                answers.append(error_from_wire(result))
        return answers

    def close(self) -> None:
        """Close it."""
        close_quietly(self.socket)
        self._inbox.close()

    def _with_dropped(self, request: dict[str, Any]) -> dict[str, Any]:
        return {**request, "drop": self._blocks.dropped()} if self._blocks.has_dropped else request

    def _piece(self, length: int) -> Piece | None:
        """Return so much shared memory; None where nothing is shared."""
        if not self._sharing:
            return None
        piece = self._blocks.take(length)
        if piece is None and self._share(self._blocks.wanted(length)):
            piece = self._blocks.take(length)
        return piece

    def _share(self, size: int) -> bool:
        """Ask for another block."""
        send_frame(self.socket, self._with_dropped({"op": "share", "size": size}))
        body = self._inbox.message(MAX_ANSWER, descriptors=True)
        fd = self._inbox.descriptor()
        if body is None:
            raise ConnectionResetError("closed by the other side")
        if fd is None:
            # An older agent, or another system: not asked again. No room at the moment: this once.
            self._sharing = body.get("ok") is True
            return False
        try:
            self._blocks.add(*_numbers(_result(body)), fd)
        except (OSError, ValueError) as error:
            raise surprise() from error
        finally:
            os.close(fd)
        return True


def _round_trip(
    connection: Connection, request: dict[str, Any], buffer: memoryview
) -> tuple[int, dict[str, Any]]:
    send_frame(connection.socket, request)
    return _answer(connection, buffer)


def _answer(connection: Connection, buffer: memoryview) -> tuple[int, dict[str, Any]]:
    body = connection._inbox.message(MAX_ANSWER)  # noqa: SLF001 - the same module
    if body is None:
        raise ConnectionResetError("closed by the other side")
    size = body.get("size", 0)
    if not isinstance(size, int) or not 0 <= size <= len(buffer):
        raise ProtocolError("The notebook server's agent answered with more bytes than were asked for.")
    connection._inbox.raw(buffer[:size])  # noqa: SLF001 - the same module
    return size, body


def _result(body: dict[str, Any]) -> Any:
    if body.get("ok") is not True:
        raise RefusedError(error_from_wire(body.get("error")))
    return body.get("result")


def _size(result: object, most: int) -> int:
    size = result.get("size") if isinstance(result, dict) else result
    if not isinstance(size, int) or not 0 <= size <= most:
        raise surprise()
    return size


def _numbers(result: object) -> tuple[int, int]:
    if not isinstance(result, dict):
        raise surprise()
    number, size = result.get("block"), result.get("size")
    if not isinstance(number, int) or not isinstance(size, int) or not 0 < size <= LARGEST_BLOCK:
        raise surprise()
    return number, size


def surprise() -> ProtocolError:
    """Return the error for an answer of another kind."""
    return ProtocolError("The notebook server's agent answered with something else than was asked for.")


def gone(path: Path) -> NetworkError:
    """Return the error for an agent that does not answer."""
    return NetworkError(
        f"The notebook server's Sealroom agent does not answer on {path}.",
        advice="Restart your server from the hub's home page; if it stays so, tell the operator.",
    )
