# SPDX-License-Identifier: BSD-3-Clause
"""Reads a tar archive from its beginning to its end, strictly: a damaged header is an error, not the end.

Source: POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Interchange Format"; GNU tar's long names
(GNU tar manual, "Basic Tar Format").

Invariants:

- Every header's checksum is verified, and every size lies within the file, before anything is handed out.
- An archive ends with two blocks of zeros, and nothing but zeros follows. A cut one is an error.
- Links, devices and sparse files are refused: their contents are not what is read.
- Whatever the bytes, the outcome is members or `FormatError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sealroom.datasets.torch.npy import Readable
from sealroom.errors import FormatError

BLOCK = 512
# What is read at once; a long run of segments is decrypted by several processors.
_CHUNK = 4 << 20
# The longest name, and the longest pax header.
_MOST_TEXT = 1 << 20
_ZEROS = bytes(BLOCK)
# Zeros that archivers put behind the end, in records of up to this size.
_MOST_PADDING = 4 << 20

_OCTAL = re.compile(rb" *([0-7]+)[ \0]*\Z")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive."""

    name: str
    data: memoryview
    """Valid as long as anything refers to it."""


def members(file: Readable) -> Iterator[Member]:
    """Give the regular files of an archive, in its order; directories are passed over.

    Raises:
        FormatError: The archive is damaged, or holds something else than files and directories.
        IntegrityError: The sealed file was tampered with.
        AccessDeniedError: Access to the dataset has ended.
    """
    stream = _Stream(file)
    name, size = None, None
    while True:
        at = stream.position
        block = bytes(stream.take(BLOCK, "a header"))
        if block == _ZEROS:
            if name is not None or size is not None:
                raise stream.error(at, "a long name is followed by no file")
            _end(stream)
            return
        header = _Header.parse(stream, at, block)
        if header.kind in (b"x", b"g", b"L"):
            if header.size > _MOST_TEXT:
                raise stream.error(at, f"a header of {header.size} bytes is too long")
            text = bytes(stream.take_padded(header.size, "a long header"))
            if header.kind == b"L":
                name = _text(stream, at, text.rstrip(b"\0"))
            else:
                found = _pax(stream, at, text)
                if header.kind == b"g" and found != (None, None):
                    raise stream.error(at, "one name or size stands for all members")
                if header.kind == b"x":
                    name, size = found
            continue
        length = header.size if size is None else size
        named = header.name if name is None else name
        name = size = None
        if header.kind == b"5":
            if length:
                raise stream.error(at, "a directory has contents")
        elif header.kind in (b"0", b"\0"):
            yield Member(named, stream.take_padded(length, f"{named[:200]!r}"))
        else:
            kind = {b"1": "a link", b"2": "a link", b"S": "a sparse file"}.get(header.kind, "no regular file")
            raise stream.error(at, f"{named[:200]!r} is {kind}")


class _Stream:
    """A file from its beginning on."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.position = 0
        self._chunk = memoryview(b"")
        self._start = 0

    @property
    def rest(self) -> int:
        """Bytes that follow."""
        return self._file.size - self.position

    def take(self, length: int, what: str) -> memoryview:
        """Return so many bytes.

        Raises:
            FormatError: The file ends before.
        """
        if length > self.rest:
            beyond = length - self.rest
            raise self.error(self.position, f"{what} of {length} bytes goes {beyond} bytes beyond the end")
        at = self.position - self._start
        if at + length > len(self._chunk):
            # Let go of the old one first: its memory is there for the new one.
            self._chunk = memoryview(b"")
            self._chunk = self._file.pread_buffer(self.position, min(self.rest, max(length, _CHUNK)))
            self._start, at = self.position, 0
            if len(self._chunk) < length:
                raise self.error(self.position, "the file ends before its size")
        self.position += length
        return self._chunk[at : at + length]

    def take_padded(self, length: int, what: str) -> memoryview:
        """Return so many bytes, and pass over what fills the last block."""
        padded = -(-length // BLOCK) * BLOCK
        return self.take(padded, what)[:length]

    def error(self, at: int, what: str) -> FormatError:
        """Return the error for something at a place."""
        return FormatError(f"{self._file.name} is a damaged tar archive at byte {at}: {what}.", offset=at)


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    kind: bytes

    @classmethod
    def parse(cls, stream: _Stream, at: int, block: bytes) -> _Header:
        """Read a header whose checksum is right."""
        magic = block[257:265]
        if magic not in (b"ustar\x0000", b"ustar  \x00"):
            raise stream.error(at, "there is no tar header")
        # The checksum counts its own field as eight blanks.
        if sum(block) - sum(block[148:156]) + 8 * 0x20 != _number(stream, at, block[148:156], "checksum"):
            raise stream.error(at, "the checksum of a header is wrong")
        name = block[:100].split(b"\0", 1)[0]
        prefix = block[345:500].split(b"\0", 1)[0] if magic == b"ustar\x0000" else b""
        kind = block[156:157]
        full = (prefix + b"/" if prefix else b"") + name
        if not full:
            raise stream.error(at, "a member has no name")
        return cls(_text(stream, at, full), _number(stream, at, block[124:136], "size"), kind)


def _number(stream: _Stream, at: int, field: bytes, what: str) -> int:
    if field[0] == 0x80:
        # GNU tar's binary numbers, for more than 8 GiB.
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.match(field)
    if found is None:
        raise stream.error(at, f"the {what} of a header is no number")
    return int(found[1], 8)


def _text(stream: _Stream, at: int, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise stream.error(at, "a name is empty or not UTF-8")
    return text


def _pax(stream: _Stream, at: int, text: bytes) -> tuple[str | None, int | None]:
    """Return name and size that a pax header gives the next member."""
    name, size, start = None, None, 0
    while start < len(text):
        found = _PAX_LENGTH.match(text, start)
        end = start + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(text) or text[end - 1 : end] != b"\n":
            raise stream.error(at, "a pax header's record has a wrong length")
        key, equal, value = text[found.end() : end - 1].partition(b"=")
        if not equal or key.startswith(b"GNU.sparse"):
            raise stream.error(at, "a pax header is not one, or of a sparse file")
        if key == b"path":
            name = _text(stream, at, value)
        elif key == b"size":
            if not re.fullmatch(rb"[0-9]{1,19}", value):
                raise stream.error(at, "a pax header's size is no number")
            size = int(value)
        start = end
    return name, size


def _end(stream: _Stream) -> None:
    """Read the rest behind the first block of zeros."""
    at = stream.position
    if stream.rest > _MOST_PADDING:
        raise stream.error(at, f"{stream.rest} bytes stand behind the end")
    rest = stream.take(stream.rest, "the end") if stream.rest else memoryview(b"")
    if len(rest) < BLOCK:
        raise stream.error(at, "its end is missing")
    if bytes(rest) != bytes(len(rest)):
        raise stream.error(at, "something stands behind the end")
