# SPDX-License-Identifier: BSD-3-Clause
"""The list of a file's segments, beside it as `<name>.c4gh.segments`: any range can be checked by itself.

One record of 60 bytes per segment: nonce (12), tag (16), SHA-256 of the segment as it stands in the file
(32). The signed manifest holds the Merkle root over the records, so the list needs no signature of its own.

Why a record holds the nonce and the tag: whoever lacks the data key cannot make another segment that
authenticates under it with the same nonce and tag, so comparing them pins each segment to its place at no
cost. The SHA-256 pins the bytes for everybody, with the key or without: `sealroom dataset verify` checks
it, and so does a reader that is asked to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from sealroom.crypt4gh import OVERHEAD
from sealroom.datasets.merkle import root_hash
from sealroom.errors import IntegrityError

RECORD = 60
"""Bytes of a record."""
COPY_AGAIN = "Do not use this copy: get the file again from the data owner, and tell them if it stays so."
"""What to do about a sealed file that is not what its manifest says."""
_NONCE = 12
_TAG = 16


def record_of(segment: bytes | memoryview) -> bytes:
    """Return the record of a segment as it stands in the file."""
    if len(segment) <= OVERHEAD:
        raise TypeError("a segment is longer than 28 bytes")
    return bytes(segment[:_NONCE]) + bytes(segment[-_TAG:]) + hashlib.sha256(segment).digest()


class SegmentList:
    """The records of one file's segments, as checked against the manifest."""

    __slots__ = ("_records",)

    def __init__(self, records: bytes, *, name: str, count: int, root: str) -> None:
        """Check the list against the manifest.

        Args:
            records: The list file's content.
            name: The file's name, for errors.
            count: How many segments the file has by its manifest.
            root: Hex Merkle root by its manifest.

        Raises:
            IntegrityError: It is not the list that the manifest names.
        """
        self._records = bytes(records)
        if len(records) != RECORD * count or root_hash(self).hex() != root:
            raise IntegrityError(
                f"{name}: the list of its segments is not the one that the data owner signed.",
                advice=f"Copy {name}.c4gh.segments again from the data owner's storage.",
            )

    def __len__(self) -> int:
        return len(self._records) // RECORD

    def __iter__(self) -> Iterator[memoryview]:
        view = memoryview(self._records)
        return (view[i : i + RECORD] for i in range(0, len(view), RECORD))

    def pins(self, index: int, segment: memoryview) -> bool:
        """Tell whether a segment has the nonce and tag of this place."""
        start = index * RECORD
        expected = self._records
        return (
            segment[:_NONCE] == expected[start : start + _NONCE]
            and segment[-_TAG:] == expected[start + _NONCE : start + _NONCE + _TAG]
        )

    def digests(self, index: int, segment: memoryview) -> bool:
        """Tell whether a segment has the SHA-256 of this place."""
        start = index * RECORD + _NONCE + _TAG
        return hashlib.sha256(segment).digest() == self._records[start : start + 32]

    def refusal(self, name: str, index: int, segment: memoryview) -> IntegrityError:
        """Return the error for a segment that is not the one of this place."""
        other = self._find(segment)
        if other is not None and other != index:
            what = f"holds what belongs into segment {other + 1}: segments were swapped or duplicated"
        elif other == index:
            what = "was changed after the data owner sealed it"
        else:
            what = "is not from the data owner: it was injected or overwritten"
        return IntegrityError(f"{name}: segment {index + 1} of {len(self)} {what}.", advice=COPY_AGAIN)

    def _find(self, segment: memoryview) -> int | None:
        nonce = bytes(segment[:_NONCE])
        return next((i for i, record in enumerate(self) if record[:_NONCE] == nonce), None)
