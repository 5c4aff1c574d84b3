# SPDX-License-Identifier: BSD-3-Clause
"""The Crypt4GH file format: key files, header packets and data segments.

What this is: GA4GH Crypt4GH version 1 (hts-specs `crypt4gh.tex` at c101c79), byte-compatible both ways with
other tools. What it is not: a reader of datasets. The format by itself does not notice a cut, swapped,
duplicated or injected segment; `sealroom.datasets` does, with a signed manifest.

Invariants:

- No file or network access: bytes and streams come in, bytes go out.
- Keys live in types that do not print, pickle or copy them, and that can be wiped.
- Nothing but `sealroom.errors.Error` leaves a parser, whatever the bytes.
"""

from sealroom.crypt4gh.header import Header, HeaderKeyError, OpenedHeader, make_header, open_header, reencrypt
from sealroom.crypt4gh.keys import (
    DataKey,
    PublicKey,
    SecretKey,
    needs_passphrase,
    read_public_key,
    read_secret_key,
    write_public_key,
    write_secret_key,
)
from sealroom.crypt4gh.segments import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    SegmentCipher,
    TagError,
    cipher_size,
    plain_size,
    segment_count,
)
from sealroom.crypt4gh.stream import decrypt_stream, encrypt_stream

__all__ = [
    "CIPHER_SEGMENT",
    "OVERHEAD",
    "SEGMENT",
    "DataKey",
    "Header",
    "HeaderKeyError",
    "OpenedHeader",
    "PublicKey",
    "SecretKey",
    "SegmentCipher",
    "TagError",
    "cipher_size",
    "decrypt_stream",
    "encrypt_stream",
    "make_header",
    "needs_passphrase",
    "open_header",
    "plain_size",
    "read_public_key",
    "read_secret_key",
    "reencrypt",
    "segment_count",
    "write_public_key",
    "write_secret_key",
]
