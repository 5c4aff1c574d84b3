# SPDX-License-Identifier: BSD-3-Clause
"""Whole Crypt4GH files from stream to stream, in constant memory.

This is what every Crypt4GH tool does and no more: a cut at a segment boundary, swapped and duplicated
segments go unnoticed, because the format has no means against them. Reading a dataset goes through
`sealroom.datasets`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from sealroom.crypt4gh.header import Header, make_header, open_header
from sealroom.crypt4gh.keys import DataKey, PublicKey, SecretKey
from sealroom.crypt4gh.segments import CIPHER_SEGMENT, OVERHEAD, SEGMENT, SegmentCipher
from sealroom.errors import FormatError


def encrypt_stream(
    source: BinaryIO, sink: BinaryIO, readers: Sequence[PublicKey], *, writer: SecretKey | None = None
) -> None:
    """Encrypt a stream for some readers, under a new data key."""
    key = DataKey.generate()
    sink.write(make_header([key], readers, writer=writer).to_bytes())
    cipher, out = SegmentCipher([key]), memoryview(bytearray(CIPHER_SEGMENT))
    key.wipe()
    while plain := _read_exactly(source, SEGMENT):
        sink.write(out[: cipher.encrypt_into(plain, out[: len(plain) + OVERHEAD])])


def decrypt_stream(
    source: BinaryIO, sink: BinaryIO, secret: SecretKey, *, expected_writer: PublicKey | None = None
) -> None:
    """Decrypt a stream with a reader's key; an edit list is applied.

    Raises:
        FormatError: It is not a Crypt4GH file, or its edit list is empty or goes beyond its end.
        HeaderKeyError: The header does not open with this key.
        IntegrityError: A segment does not authenticate, or another writer added a packet.
    """
    opened = open_header(Header.read(source), secret, expected_writer=expected_writer)
    edits = None if opened.edit_list is None else _Edits(opened.edit_list)
    cipher, out = SegmentCipher(opened.data_keys), memoryview(bytearray(SEGMENT))
    while segment := _read_exactly(source, CIPHER_SEGMENT):
        size = cipher.decrypt_into(memoryview(segment), out[: max(len(segment) - OVERHEAD, 0)])
        for part in [out[:size]] if edits is None else edits.kept(out[:size]):
            sink.write(part)
    if edits is not None:
        edits.finish()


class _Edits:
    """Applies an edit list (crypt4gh.tex, section 3.2.2): lengths to skip and to keep, in turn.

    Behind a list that ends with a length to keep, everything is skipped; behind one that ends with a length
    to skip, everything is kept.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths:
            raise FormatError("The header's edit list is empty.", field="number_lengths")
        self._left = deque(lengths)
        self._keep = False

    def kept(self, plain: memoryview) -> Iterator[memoryview]:
        """Yield the parts of the next plaintext bytes that are kept."""
        while plain:
            size = min(self._left[0], len(plain)) if self._left else len(plain)
            if self._keep and size:
                yield plain[:size]
            plain = plain[size:]
            if self._left:
                self._left[0] -= size
                if not self._left[0]:
                    self._left.popleft()
                    self._keep = not self._keep

    def finish(self) -> None:
        """Raise unless everything that the list names was there."""
        if any(self._left):
            raise FormatError(
                "The header's edit list goes beyond the end of the file: it was cut, or the list is wrong.",
                field="lengths",
                advice="Get the file again from where it came from.",
            )


def _read_exactly(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the stream."""
    data = source.read(size)
    while 0 < len(data) < size:
        more = source.read(size - len(data))
        if not more:
            break
        data += more
    return data
