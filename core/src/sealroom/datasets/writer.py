# SPDX-License-Identifier: BSD-3-Clause
"""Saves results sealed: `sealroom.create` returns a file that is clear in memory and never on the disk.

What a notebook writes is encrypted here, to the public key of the workspace (see `workspace`), segment by
segment. This process holds the key of the file that it writes, and no key that opens another.

Invariants:

- Nothing clear is written to disk, and what is buffered is overwritten at the end.
- A result has its name when it is whole, and not before. A `with` block that an exception leaves, a write
  that failed, a writer that is thrown away unclosed, a process that ends: all leave no result.
- Nothing is overwritten unless the caller says so.
- Writes from several threads are whole and one after the other. A forked child leaves its parent's file
  alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mimetypes
import mmap
import os
import secrets
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, overload

from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    DataKey,
    PublicKey,
    SegmentCipher,
    cipher_size,
    make_header,
    read_public_key,
)
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.api import default_client
from sealroom.datasets.manifest import SEALED_SUFFIX, check_name
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.partial import write_durably
from sealroom.datasets.segment_list import RECORD, record_of
from sealroom.datasets.workspace import LIST_SUFFIX, PART_SUFFIX, WORKSPACE, cannot_leave, there_already
from sealroom.errors import ConfigurationError, Error, FormatError, StorageError

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import ReadableBuffer, WriteableBuffer

Recipient = PublicKey | Path | str | bytes
"""A public key, the path of its file (Crypt4GH, OpenSSH or PEM), or such a file's bytes."""

# Segments that are written at once: 2 MiB, which stay in the processor's cache from encryption to disk.
_BATCH = 32
# Not shared with a forked child, which would overwrite what its parent still writes.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MODES = frozenset({"wb", "bw", "xb", "bx", "w", "wt", "tw", "x", "xt", "tx"})


@overload
def create(
    path: str,
    mode: Literal["wb", "xb"] = "wb",
    *,
    overwrite: bool = False,
    recipients: Iterable[Recipient] = (),
    client: AgentClient | None = None,
) -> SealedWriter: ...


@overload
def create(
    path: str,
    mode: Literal["w", "wt", "x", "xt"],
    *,
    overwrite: bool = False,
    recipients: Iterable[Recipient] = (),
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    client: AgentClient | None = None,
) -> SealedTextWriter: ...


@overload
def create(
    path: str,
    mode: str,
    *,
    overwrite: bool = False,
    recipients: Iterable[Recipient] = (),
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    client: AgentClient | None = None,
) -> SealedWriter | SealedTextWriter: ...


def create(
    path: str,
    mode: str = "wb",
    *,
    overwrite: bool = False,
    recipients: Iterable[Recipient] = (),
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    client: AgentClient | None = None,
) -> SealedWriter | SealedTextWriter:
    """Create a result in the workspace; what is written to it is sealed before it reaches the disk.

    Read it back with `sealroom.open` under the same path as long as this server runs.

    Args:
        path: Where, for example `workspace/model.pt`; `sealed://workspace/model.pt` is the same.
        mode: `wb`, or `w` for text.
        overwrite: Whether it may take the place of an earlier result.
        recipients: Who else can open it, with any Crypt4GH tool: your own public key, for the time after this
            server. Only where your grants let results leave.
        encoding: Of text; UTF-8 by default.
        errors: What to do about text that cannot be encoded, see `open`.
        newline: How ends of lines are written, see `open`.
        client: The notebook server's agent; this process's own by default.

    Raises:
        StorageError: There is such a result already, or the disk refuses.
        AccessDeniedError: Recipients were given, and results may not leave this server.
        ConfigurationError: The path is not in the workspace, or a recipient's key cannot be read.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    if mode not in _MODES:
        raise ValueError("a result is created with mode 'wb' or 'w'")
    if overwrite and "x" in mode:
        raise ValueError("mode 'x' never overwrites")
    if "b" in mode and (encoding, errors, newline) != (None, None, None):
        raise ValueError("bytes have no encoding and no ends of lines")
    name = workspace_name(path)
    keys = [_public_key(one) for one in recipients]
    writer = SealedWriter(client or default_client(), name, overwrite=overwrite, recipients=keys)
    if "b" in mode:
        return writer
    return SealedTextWriter(writer, encoding=encoding or "utf-8", errors=errors, newline=newline)


def workspace_name(path: str) -> str:
    """Return a result's name in the workspace.

    Raises:
        ConfigurationError: The path is not in the workspace, or names no file.
    """
    place, _, name = path.removeprefix("sealed://").partition("/")
    if place != WORKSPACE or not name:
        raise ConfigurationError(
            f"{path!r} is not in the workspace, and sealed datasets are read-only.",
            advice="Results have paths like workspace/model.pt.",
        )
    try:
        return check_name(name)
    except FormatError as error:
        raise ConfigurationError(f"{path!r} cannot be a result's path: {error.message}") from error


class SealedWriter(io.RawIOBase):
    """A result that is being written. It buffers by itself; `write` may be called from several threads.

    Args:
        client: The notebook server's agent.
        name: The result's name in the workspace.
        overwrite: Whether it may take the place of an earlier result.
        recipients: Who else can open it.
    """

    mode = "wb"

    def __init__(
        self,
        client: AgentClient,
        name: str,
        *,
        overwrite: bool = False,
        recipients: Sequence[PublicKey] = (),
    ) -> None:
        super().__init__()
        self._fd = -1
        self._failed = False
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.client = client
        self.path = name
        self._overwrite = overwrite
        info = client.workspace()
        if recipients and not info.outputs:
            raise cannot_leave(info.why)
        self._target = Path(info.directory) / (name + SEALED_SUFFIX)
        if not overwrite and os.path.lexists(self._target):
            raise there_already(self._target)
        key = DataKey.generate()
        readers = list(dict.fromkeys([PublicKey.from_base64(info.key), *recipients]))
        self._header = make_header([key], readers)
        self._cipher = SegmentCipher([key])
        key.wipe()
        self._size = 0
        self._records = bytearray()
        self._plain = memoryview(mmap.mmap(-1, SEGMENT, _PRIVATE))
        self._held = 0
        self._out = memoryview(mmap.mmap(-1, _BATCH * CIPHER_SEGMENT, _PRIVATE))
        self._filled = 0
        self._open_part()

    @property
    def name(self) -> str:
        """Its path, as `sealroom.open` takes it."""
        return f"{WORKSPACE}/{self.path}"

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False: a result is written from its beginning to its end."""
        return False

    def readinto(self, buffer: WriteableBuffer, /) -> NoReturn:
        """Refuse: what is written is read when it is whole."""
        raise io.UnsupportedOperation("a result is not read while it is written")

    def tell(self) -> int:
        """Return how many bytes were written."""
        self._check_open()
        return self._size

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of some bytes.

        Raises:
            StorageError: The disk refuses; nothing of the result stays.
        """
        view = memoryview(data)
        size = view.nbytes
        if not size:
            self._check_open()
            return 0
        view = view.cast("B")
        with self._lock:
            self._check_open()
            if self._failed:
                raise self._gone()
            try:
                self._take(view)
            except OSError as error:
                self.abort()
                raise _refused(self._target, error) from error
            except BaseException:
                # Interrupted in the middle: what is there is not what was to be written.
                self.abort()
                raise
        return size

    def flush(self) -> None:
        """Do nothing: a segment is sealed when it is full, the last one at the end."""
        if self.closed and not self._failed:
            raise ValueError("the file is closed")

    def close(self) -> None:
        """Finish the result and give it its name.

        Raises:
            StorageError: The disk refuses, a write had failed, or there is such a result by now.
            AccessDeniedError: Somebody else could open it, and results may not leave this server any more.
        """
        with self._lock:
            if self.closed:
                return
            if self._pid != os.getpid():
                # The parent's: here it only ends.
                self._let_go()
                return
            try:
                self._finish()
            except OSError as error:
                self.abort()
                raise _refused(self._target, error) from error
            except BaseException:
                self.abort()
                raise
            self._let_go()

    def abort(self) -> None:
        """Give up: nothing of the result stays."""
        with self._lock:
            if self._fd >= 0 and self._pid == os.getpid():
                self._failed = True
                for path in (self._part, self._list):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
            self._let_go()

    def __enter__(self) -> SealedWriter:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # Not `close`, which would take what is there for the whole result.
        if getattr(self, "_fd", -1) >= 0:
            if self._pid == os.getpid():
                warnings.warn(
                    f"{self!r} was not closed: there is no such result", ResourceWarning, stacklevel=2
                )
            self.abort()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a file that is being written is not pickled")

    def __repr__(self) -> str:
        return f"<SealedWriter of {WORKSPACE}/{getattr(self, 'path', '')}, {getattr(self, '_size', 0)} bytes>"

    # -- inside

    def _open_part(self) -> None:
        word = secrets.token_hex(8)
        # A long name is cut: what counts is that it is hidden and nobody else's.
        self._part = self._target.with_name(f".{self._target.name[:64]}.{word}{PART_SUFFIX}")
        self._list = self._part.with_name(self._part.name + LIST_SUFFIX)
        try:
            self._target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # The lock tells the server that somebody works on it; where there are no locks it may not sweep.
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_all(memoryview(self._header.to_bytes()))
        except OSError as error:
            self.abort()
            raise _refused(self._target, error) from error

    def _take(self, view: memoryview) -> None:
        if self._held:
            part = view[: SEGMENT - self._held]
            self._plain[self._held : self._held + len(part)] = part
            self._held += len(part)
            view = view[len(part) :]
            self._size += len(part)
            if self._held == SEGMENT:
                self._held = 0
                self._seal(self._plain)
        while len(view) >= SEGMENT:
            self._seal(view[:SEGMENT])
            self._size += SEGMENT
            view = view[SEGMENT:]
        if view:
            self._plain[: len(view)] = view
            self._held = len(view)
            self._size += len(view)

    def _seal(self, plain: memoryview) -> None:
        segment = self._out[self._filled : self._filled + len(plain) + OVERHEAD]
        self._cipher.encrypt_into(plain, segment)
        self._records += record_of(segment)
        self._filled += len(segment)
        if len(self._out) - self._filled < CIPHER_SEGMENT:
            self._write_out()

    def _write_out(self) -> None:
        self._write_all(self._out[: self._filled])
        self._filled = 0

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def _finish(self) -> None:
        if self._failed:
            raise self._gone()
        if self._held:
            held, self._held = self._held, 0
            self._seal(self._plain[:held])
        self._write_out()
        os.fsync(self._fd)
        view = memoryview(self._records)
        root = root_hash(view[i : i + RECORD] for i in range(0, len(view), RECORD))
        write_durably(self._list, self._records)
        fields = {
            "media_type": mimetypes.guess_type(self.path)[0] or "application/octet-stream",
            "size": self._size,
            "header_size": self._header.size,
            "header_sha256": self._header.sha256,
            "cipher_size": cipher_size(self._size),
            "segments_root": root.hex(),
        }
        self.client.keep(self.path, self._part.name, fields, overwrite=self._overwrite)

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if hasattr(self, "_plain"):
            self._plain[:] = bytes(SEGMENT)
        super().close()

    def _check_open(self) -> None:
        if self._failed:
            raise self._gone()
        if self.closed:
            raise ValueError("the file is closed")
        if self._pid != os.getpid():
            raise StorageError(
                f"{self.name} is written by another process.",
                advice="Create it in the process that writes it.",
            )

    def _gone(self) -> StorageError:
        return StorageError(
            f"{self.name} was given up after an error; there is no such result.", advice="Write it again."
        )


class SealedTextWriter(io.TextIOWrapper):
    """A text that is being written; like `SealedWriter`, it is kept only if it is closed without an error."""

    def __init__(
        self, writer: SealedWriter, *, encoding: str, errors: str | None, newline: str | None
    ) -> None:
        # `__del__` may run although what follows raises.
        self._writer = writer
        try:
            super().__init__(writer, encoding=encoding, errors=errors, newline=newline)
        except BaseException:
            writer.abort()
            raise

    def abort(self) -> None:
        """Give up: nothing of the result stays."""
        self._writer.abort()
        with contextlib.suppress(ValueError, Error):
            super().close()

    def close(self) -> None:
        """Finish the result and give it its name; see `SealedWriter.close`."""
        try:
            super().close()
        except BaseException:
            self._writer.abort()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # As in `SealedWriter`; what the text still buffers is lost with it.
        self._writer.__del__()


def _public_key(recipient: Recipient) -> PublicKey:
    if isinstance(recipient, PublicKey):
        return recipient
    if isinstance(recipient, bytes):
        return read_public_key(recipient)
    path = Path(recipient).expanduser()
    try:
        return read_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"The recipient's key {path} cannot be read: {error.strerror}.",
            advice="Name the file of a Crypt4GH public key.",
        ) from error
    except FormatError as error:
        raise ConfigurationError(f"The recipient's key {path} cannot be used: {error.message}") from error


def _refused(target: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{target} cannot be written: no space is left. Nothing of it was kept.",
            advice="Free some space and write the result again.",
        )
    return StorageError(
        f"{target} cannot be written: {error.strerror or error}. Nothing of it was kept.",
        advice="Choose another name, or tell the operator.",
    )


__all__ = ["Recipient", "SealedTextWriter", "SealedWriter", "create", "workspace_name"]
