# SPDX-License-Identifier: BSD-3-Clause
"""A firmware image of one page with the tables that SEV-SNP needs, right or with one thing wrong.

The layout is written down here apart from the code that reads it (edk2, OvmfPkg/ResetVector).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SEC_MEM, SECRETS, CPUID, SVSM_CAA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
SECTIONS = (
    (0x800000, 0x9000, SEC_MEM),
    (0x80D000, 0x1000, SECRETS),
    (0x80E000, 0x1000, CPUID),
    (0x80F000, 0x1000, SVSM_CAA),
    (0x810000, 0x1000, KERNEL_HASHES),
)
AT = 0x100
"""Offset of the metadata."""


def entry(guid: str, data: bytes, length: int | None = None) -> bytes:
    """Return an entry of the table: data, length, GUID."""
    return data + struct.pack("<H", len(data) + 18 if length is None else length) + uuid.UUID(guid).bytes_le


def firmware(
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    *,
    size: int = 4096,
    entries: Mapping[str, bytes | None] | None = None,
    signature: bytes = b"ASEV",
    version: int = 1,
    items: int | None = None,
    table_length: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """Return a firmware image.

    Args:
        sections: (address, size, kind) of each section of the metadata.
        size: Bytes of the image.
        entries: What an entry of the table holds instead of the right thing; None leaves it out.
        signature: Signature of the metadata.
        version: Version of the metadata.
        items: Number of sections that the metadata claims.
        table_length: Length that the table claims.
        extra: Bytes before the first entry of the table, as part of it.
    """
    content: dict[str, bytes | None] = {
        METADATA: struct.pack("<I", size - AT),
        HASH_TABLE: struct.pack("<II", 0x810C00, 0x400),
        RESET_BLOCK: struct.pack("<I", 0x80B004),
    }
    content |= entries or {}
    table = extra + b"".join(entry(guid, data) for guid, data in content.items() if data is not None)
    table += entry(FOOTER, b"", len(table) + 18 if table_length is None else table_length)
    body = b"".join(struct.pack("<III", *section) for section in sections)
    count = len(sections) if items is None else items
    metadata = struct.pack("<4sIII", signature, 16 + len(body), version, count) + body
    image = bytearray(b"\xa5" * size)
    image[AT : AT + len(metadata)] = metadata
    image[size - 32 - len(table) : size - 32] = table
    return bytes(image)


def write_firmware(directory: Path, image: bytes | None = None, name: str = "OVMF.fd") -> Path:
    """Write an image to a file and return its path."""
    path = directory / name
    path.write_bytes(firmware() if image is None else image)
    return path
