# SPDX-License-Identifier: BSD-3-Clause
"""Whole Crypt4GH files from stream to stream, in constant memory.

This is what every Crypt4GH tool does and no more: a cut at a segment boundary, swapped and duplicated
segments go unnoticed, because the format has no means against them. Reading a dataset goes through
`sealroom.datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Decrypt a stream with a reader's key.

    Raises:
        FormatError: It is not a Crypt4GH file, or it has an edit list, which is not supported.
        HeaderKeyError: The header does not open with this key.
        IntegrityError: A segment does not authenticate, or another writer added a packet.
    """
    opened = open_header(Header.read(source), secret, expected_writer=expected_writer)
    if opened.edit_list is not None:
        raise FormatError(
            "The file has an edit list, which is not supported.",
            advice="Decrypt it with the crypt4gh command, which applies the edit list, and seal it again.",
        )
    cipher, out = SegmentCipher(opened.data_keys), memoryview(bytearray(SEGMENT))
    while segment := _read_exactly(source, CIPHER_SEGMENT):
        sink.write(out[: cipher.decrypt_into(memoryview(segment), out[: max(len(segment) - OVERHEAD, 0)])])


def _read_exactly(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the stream."""
    data = source.read(size)
    while 0 < len(data) < size:
        more = source.read(size - len(data))
        if not more:
            break
        data += more
    return data
