# SPDX-License-Identifier: BSD-3-Clause
"""A sealed file as a Python file object: read-only, seekable, decrypted in memory by the notebook server.

Invariants:

- Nothing is written to disk and no key is in this process.
- It pickles as its name, and works after `fork`: DataLoader workers each ask the server themselves.
- Small reads fetch the segment that they are in, and more of what follows only as a stream of them goes on.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, NoReturn

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.messages import handle

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_SEGMENT = 64 << 10
# Segments that a long stream of small reads fetches at once: 1, 2, 4, … and no more than this.
_LARGEST = 16
# From here on a read goes straight to where it is wanted.
_LARGE = 256 << 10


class SealedFile(io.RawIOBase):
    """A file of an unlocked dataset, opened for reading.

    It reads as much as it is asked for unless the file ends, so it can stand for a buffered file too.
    `pread` and `pread_into` may be called from several threads; `read` and `seek` share one position and
    may not.

    Args:
        client: The agent that reads.
        dataset: The dataset's id.
        name: The file's name in the dataset.
        size: Its plaintext size.
        version: Which version of it (`FileInfo.version`): reads are refused where another one is open. Any
            without it.
    """

    mode = "rb"

    def __init__(self, client: AgentClient, dataset: str, name: str, size: int, version: str = "") -> None:
        super().__init__()
        self.client = client
        self.dataset = dataset
        self.path = name
        self.size = size
        self.handle = handle(name, version)
        """What its reads name it by (`AgentClient.read_ranges`)."""
        self._version = version
        self._position = 0
        self._window = memoryview(b"")
        self._window_start = 0
        self._ahead = 1

    @property
    def name(self) -> str:
        """Dataset and file, as `sealroom.open` takes it."""
        return f"{self.dataset}/{self.path}"

    def pread_into(self, offset: int, buffer: WriteableBuffer) -> int:
        """Read a range into a buffer and return how many bytes there were, fewer only at the file's end."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        want = max(0, min(len(view), self.size - offset))
        return self.client.read_into(self.dataset, self.handle, offset, view[:want])

    def pread(self, offset: int, length: int) -> bytes:
        """Return a range, shorter only at the file's end."""
        self._check_open()
        return self.client.read(self.dataset, self.handle, offset, max(0, min(length, self.size - offset)))

    def pread_buffer(self, offset: int, length: int) -> memoryview:
        """Return a range, shorter only at the file's end, in memory that it was decrypted into.

        May be called from several threads. A large range begins at a page, and nothing of it was copied; the
        memory is the caller's as long as anything refers to it.
        """
        self._check_open()
        want = max(0, min(length, self.size - offset))
        return self.client.read_buffer(self.dataset, self.handle, offset, want)

    def read_buffer(self, size: int = -1, /) -> memoryview:
        """Return bytes from the position on as a buffer, as Arrow asks for them; see `pread_buffer`."""
        self._check_open()
        rest = max(0, self.size - self._position)
        want = rest if size < 0 else min(size, rest)
        if want < _LARGE and len(self._window_rest()) < want:
            self._fill_window(want)
        if len(self._window_rest()) >= want:
            found = self._window_rest()[:want]
        else:
            found = self.pread_buffer(self._position, want)
        self._position += len(found)
        return found

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, also beyond the end."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("the position would be negative")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position on and return how many bytes there were."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        want = max(0, min(len(view), self.size - self._position))
        done = self._from_window(view[:want])
        if want - done >= _LARGE:
            got = self.pread_into(self._position, view[done:want])
            self._position += got
            done += got
        elif done < want:
            self._fill_window(want - done)
            done += self._from_window(view[done:want])
        return done

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes from the position on; the rest of the file without a number."""
        self._check_open()
        if size is not None and 0 <= size <= len(self._window_rest()):
            found = bytes(self._window_rest()[:size])
            self._position += len(found)
            return found
        return bytes(self.read_buffer(-1 if size is None else size))

    def readall(self) -> bytes:
        """Return the rest of the file."""
        return self.read()

    def read1(self, size: int = -1, /) -> bytes:
        """Return some bytes, as text wrappers ask for them."""
        return self.read(_LARGE if size < 0 else size)

    def peek(self, size: int = 0, /) -> bytes:
        """Return some bytes from the position on without moving it."""
        self._check_open()
        if not self._window_rest() and self._position < self.size:
            self._fill_window(1)
        return bytes(self._window_rest())

    def write(self, data: ReadableBuffer, /) -> NoReturn:
        """Refuse: sealed datasets are read-only."""
        raise io.UnsupportedOperation("a sealed file is read-only")

    def __reduce__(self) -> tuple[object, ...]:
        made = (type(self), self.client, self.dataset, self.path, self.size, self._version)
        return _reopen, (*made, self._position)

    def __repr__(self) -> str:
        return f"<SealedFile {self.name}, {self.size} bytes>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _window_rest(self) -> memoryview:
        start = self._position - self._window_start
        return self._window[start:] if 0 <= start < len(self._window) else memoryview(b"")

    def _from_window(self, target: memoryview) -> int:
        part = self._window_rest()[: len(target)]
        target[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _fill_window(self, want: int) -> None:
        """Fetch at least so much from the position on."""
        goes_on = len(self._window) > 0 and self._position == self._window_start + len(self._window)
        self._ahead = min(2 * self._ahead, _LARGEST) if goes_on else 1
        first = self._position // _SEGMENT
        last = max(-(-(self._position + want) // _SEGMENT), first + self._ahead)
        # Let go of the old one first: its memory is there for the new one.
        self._window = memoryview(b"")
        self._window = self.pread_buffer(self._position, last * _SEGMENT - self._position)
        self._window_start = self._position


def _reopen(
    kind: type[SealedFile],
    client: AgentClient,
    dataset: str,
    name: str,
    size: int,
    version: str,
    position: int,
) -> SealedFile:
    file = kind(client, dataset, name, size, version)
    file.seek(position)
    return file
