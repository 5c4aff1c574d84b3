# SPDX-License-Identifier: BSD-3-Clause
"""Crypt4GH data segments: 64 KiB of plaintext each, ChaCha20-Poly1305 under one of the file's data keys.

Invariants:

- A destination buffer never keeps bytes that did not authenticate. (`decrypt_into` leaves them there when
  the tag is wrong; here the buffer is wiped before the error goes out.)
- The plaintext size follows from the cipher size alone; sizes that no writer can produce are errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from sealroom.crypt4gh.keys import DataKey
from sealroom.errors import FormatError, IntegrityError

SEGMENT = 65536
"""Plaintext bytes of every segment but the last."""
NONCE_SIZE = 12
TAG_SIZE = 16
OVERHEAD = NONCE_SIZE + TAG_SIZE
"""Bytes that a segment is longer in the file."""
CIPHER_SEGMENT = SEGMENT + OVERHEAD
"""Bytes of a full segment in the file."""


class TagError(IntegrityError):
    """A segment does not authenticate under any of the file's data keys."""

    code = "tag"


def segment_count(plain: int) -> int:
    """Return how many segments hold so many plaintext bytes."""
    return -(-plain // SEGMENT)


def cipher_size(plain: int) -> int:
    """Return the size of the body that holds so many plaintext bytes."""
    return plain + OVERHEAD * segment_count(plain)


def plain_size(cipher: int) -> int:
    """Return the plaintext size of a body of so many bytes.

    Raises:
        FormatError: No body has this size: its last segment is too short to hold anything.
    """
    full, rest = divmod(cipher, CIPHER_SEGMENT)
    if 0 < rest <= OVERHEAD:
        raise FormatError(f"The last segment has {rest} bytes, too few to hold anything.", field="segment")
    return full * SEGMENT + (rest - OVERHEAD if rest else 0)


class SegmentCipher:
    """Encrypts and decrypts segments; safe to use from several threads, which run in parallel."""

    __slots__ = ("_ciphers",)

    def __init__(self, data_keys: Iterable[DataKey]) -> None:
        self._ciphers = tuple(ChaCha20Poly1305(key.reveal()) for key in data_keys)
        if not self._ciphers:
            raise TypeError("at least one data key is needed")

    def decrypt_into(self, segment: memoryview, out: memoryview) -> int:
        """Decrypt one segment into a buffer of exactly its plaintext's size.

        Returns:
            The number of bytes written.

        Raises:
            TagError: No data key opens the segment; the buffer is wiped.
            FormatError: The segment or the buffer has a wrong size.
        """
        if not OVERHEAD < len(segment) <= CIPHER_SEGMENT or len(out) != len(segment) - OVERHEAD:
            raise FormatError(f"A segment of {len(segment)} bytes does not fit its place.", field="segment")
        nonce, sealed = segment[:NONCE_SIZE], segment[NONCE_SIZE:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt_into(nonce, sealed, None, out)
            except InvalidTag:
                continue
        out[:] = bytes(len(out))
        raise TagError("A segment was changed, or it was sealed with another key.")

    def decrypt_run(self, segments: Sequence[memoryview], outs: Sequence[memoryview]) -> int:
        """Decrypt some segments, each into a buffer of exactly its plaintext's size.

        Little is done between two segments: decrypting one pushes everything else out of the cache.

        Returns:
            How many were decrypted. If that is not all, the next one does not authenticate under any data
            key, and its buffer is wiped.

        Raises:
            FormatError: A segment or a buffer has a wrong size.
        """
        done, decrypt_into = 0, self._ciphers[0].decrypt_into
        several = len(self._ciphers) > 1
        for segment, out in zip(segments, outs, strict=True):
            size = len(out)
            if several or not 0 < size <= SEGMENT or len(segment) != size + OVERHEAD:
                try:
                    self.decrypt_into(segment, out)
                except TagError:
                    return done
            else:
                try:
                    decrypt_into(segment[:NONCE_SIZE], segment[NONCE_SIZE:], None, out)
                except InvalidTag:
                    out[:] = bytes(size)
                    return done
            done += 1
        return done

    def encrypt_into(self, plain: memoryview | bytes, out: memoryview) -> int:
        """Encrypt one segment with the first data key into a buffer that is 28 bytes longer.

        Returns:
            The number of bytes written.
        """
        if not 0 < len(plain) <= SEGMENT or len(out) != len(plain) + OVERHEAD:
            raise TypeError("a segment holds 1 to 65536 bytes and its cipher text 28 more")
        nonce = os.urandom(NONCE_SIZE)
        out[:NONCE_SIZE] = nonce
        self._ciphers[0].encrypt_into(nonce, plain, None, out[NONCE_SIZE:])
        return len(out)

    def __repr__(self) -> str:
        return f"<SegmentCipher of {len(self._ciphers)} data keys, not shown>"
