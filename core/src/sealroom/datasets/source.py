# SPDX-License-Identifier: BSD-3-Clause
"""Where the bytes of a sealed file come from: a file, an S3 object, a URL, or a header here and a body there.

Nothing that a source gives is trusted; the reader checks every byte against the signed manifest.

Invariants:

- Reads are positional and safe to use from several threads.
- A source stands for one object as it was when it was opened. Where a server can tell (ETag, time of the
  last change), a replaced object is an error and never a mixture of two.
- Nothing but `sealroom.errors.Error` leaves a source.
- A file is mapped into memory only where it cannot be cut while it is mapped (that would end the whole
  process with SIGBUS), or where the caller promises it.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import stat
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sealroom.errors import ConfigurationError, IntegrityError, StorageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

REPLACED = "the file was replaced while it was open"

# What stays in this process's tables of mapped pages: the file's pages are the kernel's cache anyway.
_MAPPED_AT_ONCE = 512 << 20

# <linux/fs.h>: FS_IOC_GETFLAGS, FS_IMMUTABLE_FL, FS_VERITY_FL.
_GET_FLAGS = 0x80086601
_IMMUTABLE, _VERITY = 0x10, 0x100000
# File systems whose files change only through this machine's own mounts of them.
_LOCAL_FILE_SYSTEMS = frozenset(
    {"btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "squashfs", "xfs"}
)


class Source(Protocol):
    """Bytes at positions."""

    @property
    def size(self) -> int:
        """Bytes that there were when it was opened."""

    @property
    def name(self) -> str:
        """What errors call it; never with credentials in it."""

    @property
    def far(self) -> bool:
        """Whether every read costs a round trip, so that fewer and larger ones are better."""

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer and return how many bytes there were, fewer only at the end.

        Raises:
            StorageError: It cannot be read.
            IntegrityError: It was replaced since it was opened.
        """

    def identity(self) -> str:
        """Return a text that changes when the object is replaced or written to."""

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a range without a copy of its own if that is possible, shorter only at the end.

        Raises:
            StorageError: It cannot be read.
            IntegrityError: It was replaced since it was opened.
        """

    def close(self) -> None:
        """Give up what it holds. The caller makes sure that nobody reads any more."""


def open_source(location: str | Path, *, mapped: bool | None = None) -> Source:
    """Open a file, `s3://bucket/key`, or `http(s)://…`.

    Args:
        location: Where it lies.
        mapped: Whether a local file may be mapped into memory. True is a promise that nobody cuts it while
            it is open; None maps where the file system itself rules that out.

    Raises:
        StorageError: It is not there or cannot be read.
        ConfigurationError: The location is of an unknown kind, or what is needed for it is not installed.
    """
    if isinstance(location, Path):
        return LocalSource(location, mapped=mapped)
    scheme, separator, _ = location.partition("://")
    if not separator:
        return LocalSource(Path(location), mapped=mapped)
    if scheme == "s3":
        s3: Source = import_module("sealroom.datasets.s3_source").S3Source.open(location)
        return s3
    if scheme in ("http", "https"):
        http: Source = import_module("sealroom.datasets.http_source").HttpSource(location)
        return http
    raise ConfigurationError(
        f"Sealed files are not read from {scheme[:20]}://.",
        advice="Use a path, s3://bucket/key, or an http(s):// address.",
    )


class LocalSource:
    """A file on this machine."""

    far = False

    def __init__(self, path: Path, *, mapped: bool | None = None) -> None:
        self.path = path
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._seen = 0
        try:
            # NONBLOCK: a pipe in the place of a file must not hold up the reader.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        except OSError as error:
            self.close()
            raise cannot_read(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise StorageError(f"{path} is not a file.")
        self.size = status.st_size
        self._identity = _identity(status)
        if self.size and (cannot_be_cut(self._fd) if mapped is None else mapped):
            try:
                self._map = mmap.mmap(self._fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
            except (OSError, ValueError):
                # A file system that cannot map: read instead.
                self._map = None

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def mapped(self) -> bool:
        """Whether it is mapped into memory."""
        return self._map is not None

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; see `Source`."""
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise cannot_read(self.path, error) from error
            if not got:
                break
            done += got
        return done

    def identity(self) -> str:
        """Return inode, time of the last change and size."""
        try:
            return _identity(os.fstat(self._fd))
        except OSError as error:
            raise cannot_read(self.path, error) from error

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a range of the mapped file; None if it is not mapped."""
        mapped = self._map
        if mapped is None:
            return None
        self._seen += length
        if self._seen > _MAPPED_AT_ONCE:
            # Only the table of pages: whoever still looks at a page gets it again.
            self._seen = 0
            mapped.madvise(mmap.MADV_DONTNEED)
        return memoryview(mapped)[offset : offset + length]

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        self._map = None
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<LocalSource {self.name}, {getattr(self, 'size', 0)} bytes>"


class HeaderAndBody:
    """A file whose header comes from elsewhere, as DRS services hand them out; the body stays as it is.

    Args:
        header: The Crypt4GH header's bytes.
        body: Everything behind the header.
    """

    def __init__(self, header: bytes, body: Source) -> None:
        self._header = memoryview(bytes(header))
        self._body = body
        self.size = len(self._header) + body.size
        self.far = body.far

    @property
    def name(self) -> str:
        """The body's name."""
        return self._body.name

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; see `Source`."""
        part = self._header[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        if len(part) == len(buffer):
            return len(part)
        start = offset + len(part) - len(self._header)
        return len(part) + self._body.pread_into(start, buffer[len(part) :])

    def identity(self) -> str:
        """Return the body's identity."""
        return self._body.identity()

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a range that lies in the header or in the body; None if it lies in both."""
        edge = len(self._header)
        if offset >= edge:
            return self._body.view(offset - edge, length)
        return self._header[offset : offset + length] if offset + length <= edge else None

    def close(self) -> None:
        """Close the body."""
        self._body.close()

    def __repr__(self) -> str:
        return f"<HeaderAndBody {self.name}, {self.size} bytes>"


class SourceStream(io.RawIOBase):
    """A source as a stream, from its beginning on; closing the stream leaves the source open."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer and return how many bytes there were."""
        got = self._source.pread_into(self._position, memoryview(buffer).cast("B"))
        self._position += got
        return got


def cannot_be_cut(fd: int) -> bool:
    """Tell whether an open file cannot be cut or written to while it is open.

    True for files with the immutable or fs-verity attribute, and on local file systems that are mounted
    read-only as a whole. A read-only *mount* of a file system that is writable elsewhere says nothing.
    """
    platform: str = sys.platform
    if platform != "linux":
        return False
    try:
        answer = fcntl.ioctl(fd, _GET_FLAGS, struct.pack("l", 0))
        if struct.unpack("l", answer)[0] & (_IMMUTABLE | _VERITY):
            return True
    except OSError:
        # Not every file system has these attributes.
        pass
    return _file_system_is_read_only(os.fstat(fd).st_dev)


def _file_system_is_read_only(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return False
    for line in mounts.splitlines():
        # proc_pid_mountinfo(5): … major:minor … - type source super-options
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) > 2 and fields[2] == wanted and len(rest) > 2:
            return rest[0] in _LOCAL_FILE_SYSTEMS and "ro" in rest[2].split(",")
    return False


def replaced(name: str) -> IntegrityError:
    """Return the error for an object that is not the one that was opened."""
    return IntegrityError(f"{name}: {REPLACED}.", advice="Open it again.")


def cannot_read(path: Path | str, error: OSError) -> StorageError:
    """Return the error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path} is not there.", advice="Copy it from the data owner's storage.")
    if error.errno == errno.ESTALE:
        return StorageError(f"{path}: {REPLACED}.", advice="Open it again.")
    return StorageError(f"{path} cannot be read: {error.strerror or error}.")


def _identity(status: Any) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
