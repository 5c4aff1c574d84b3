# SPDX-License-Identifier: BSD-3-Clause
"""The certificate table that a host adds to an extended report.

What this is: the list of (GUID, offset, length) and the certificates behind it. What this is not: trusted;
the host writes it, and a certificate in it counts for nothing until a chain to a pinned root is verified.

Invariants:

- Every entry lies inside the table and behind its list; none overlap and none stands twice.
- A table without its all-zero last entry is refused, an empty one is not.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from sealroom.errors import FormatError
from sealroom.snp.structure import REPORT_SIZE

KINDS: Final = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "CRL",
}
"""GUIDs of what a table can hold (AMD 56421 rev 2.03, section 4.1.8.1); ASK stands for ASVK too."""

MAX_TABLE: Final = 1 << 20
"""Longest table in bytes; the guest's buffer is some pages."""
MAX_ENTRIES: Final = 64
"""Most entries of a table; hosts write two to four."""
ENTRY_SIZE: Final = 24
"""Bytes of an entry: GUID, offset and length."""
_CHECK: Final = "snp.table.format"


def _bad(message: str, offset: int) -> FormatError:
    return FormatError(message, field="certificate table", offset=offset, check=_CHECK)


def parse_certificate_table(data: bytes) -> dict[str, bytes]:
    """Parse a certificate table.

    Args:
        data: The table and nothing before it. Zeros after the last certificate are padding of the guest's
            buffer.

    Returns:
        Certificates in DER by kind (`VCEK`, `VLEK`, `ASK`, `ARK`, `CRL`), and by GUID where the kind is not
        known.

    Raises:
        FormatError: The table is malformed.
    """
    if len(data) > MAX_TABLE:
        raise _bad(
            f"A certificate table of {len(data)} bytes is longer than the {MAX_TABLE} that are read.",
            MAX_TABLE,
        )
    entries = list(_entries(data))
    header = ENTRY_SIZE * (len(entries) + 1)
    found: dict[str, bytes] = {}
    taken: list[tuple[int, int]] = []
    for at, kind, offset, length in entries:
        end = offset + length
        if length == 0 or offset < header or end > len(data):
            raise _bad(
                (
                    f"The entry at offset {at} of the certificate table names bytes {offset} to {end}, "
                    "which are not in it."
                ),
                at,
            )
        if any(offset < other_end and other < end for other, other_end in taken):
            raise _bad(f"The entry at offset {at} of the certificate table overlaps another.", at)
        if kind in found:
            raise _bad(f"The certificate table has {kind} twice, again at offset {at}.", at)
        taken.append((offset, end))
        found[kind] = data[offset:end]
    tail = max([header, *(end for _, end in taken)])
    if any(data[tail:]):
        raise _bad(f"Bytes follow the certificate table at offset {tail}.", tail)
    return found


def _entries(data: bytes) -> Iterator[tuple[int, str, int, int]]:
    """Yield (where the entry is, kind, offset, length) up to the all-zero entry."""
    for at in range(0, ENTRY_SIZE * (MAX_ENTRIES + 1), ENTRY_SIZE):
        entry = data[at : at + ENTRY_SIZE]
        if len(entry) < ENTRY_SIZE:
            raise _bad(
                f"The certificate table ends at offset {len(data)} without its all-zero entry.", len(data)
            )
        if not any(entry):
            return
        guid = str(uuid.UUID(bytes=entry[:16]))
        yield (
            at,
            KINDS.get(guid, guid),
            int.from_bytes(entry[16:20], "little"),
            int.from_bytes(entry[20:24], "little"),
        )
    raise _bad(f"The certificate table has more than {MAX_ENTRIES} entries.", ENTRY_SIZE * MAX_ENTRIES)


def build_certificate_table(certificates: Mapping[str, bytes]) -> bytes:
    """Return the table that holds some certificates; the inverse of `parse_certificate_table`.

    Args:
        certificates: Certificates in DER by kind or GUID.

    Raises:
        FormatError: A kind is neither known nor a GUID.
    """
    guids = {kind: guid for guid, kind in KINDS.items()}
    header, body = b"", b""
    start = ENTRY_SIZE * (len(certificates) + 1)
    for kind, certificate in certificates.items():
        try:
            guid = uuid.UUID(guids.get(kind, kind))
        except ValueError as error:
            raise _bad(f"{kind!r} is neither a kind of certificate nor a GUID.", 0) from error
        offset = start + len(body)
        header += guid.bytes + offset.to_bytes(4, "little") + len(certificate).to_bytes(4, "little")
        body += certificate
    return header + bytes(ENTRY_SIZE) + body


def split_extended_report(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Split an extended report into the report and the certificates of the table after it.

    Args:
        data: 1184 bytes of report, then a certificate table.

    Raises:
        FormatError: What follows the report is no certificate table.
    """
    if len(data) <= REPORT_SIZE:
        raise FormatError(
            f"A report with a certificate table is longer than {len(data)} bytes.",
            field="certificate table",
            offset=len(data),
            check=_CHECK,
        )
    return data[:REPORT_SIZE], parse_certificate_table(data[REPORT_SIZE:])
