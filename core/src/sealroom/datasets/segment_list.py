# SPDX-License-Identifier: BSD-3-Clause
"""The list of a file's segments, beside it as `<name>.c4gh.segments`: any range can be checked by itself.

One record of 60 bytes per segment: nonce (12), tag (16), SHA-256 of the segment as it stands in the file
(32). The signed manifest holds the Merkle root over the records, so the list needs no signature of its own.

Why a record holds the nonce and the tag: whoever lacks the data key cannot make another segment that
authenticates under it with the same nonce and tag, so comparing them pins each segment to its place at no
cost. The SHA-256 pins the bytes for everybody, with the key or without: `sealroom dataset verify` checks
it, and so does a reader that is asked to.

The list is read once as a stream and checked against the root. What stays in memory is one SHA-256 for every
tile of some hundred records, and the tiles that were used last; another tile is read again when it is
needed and compared with its SHA-256. So a reader's memory does not grow with its file.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from sealroom.crypt4gh import OVERHEAD
from sealroom.datasets.merkle import root_hash
from sealroom.datasets.source import Source
from sealroom.errors import IntegrityError

RECORD = 60
"""Bytes of a record."""
COPY_AGAIN = "Do not use this copy: get the file again from the data owner, and tell them if it stays so."
"""What to do about a sealed file that is not what its manifest says."""
_NONCE = 12
_TAG = 16

# Records of a tile: 16 MiB of plaintext in 15 KB; where a read costs a round trip, four times that.
_TILE, _FAR_TILE = 256, 1024
# Tiles at most, so that what is kept for them stays below 512 KiB whatever the file.
_MOST_TILES = 16384
# Tiles in memory: 1 GiB of plaintext in 1 MB.
_KEPT = 64
# Bytes of the list that are read at once while it is checked.
_CHUNK, _FAR_CHUNK = 256 << 10, 4 << 20


def record_of(segment: bytes | memoryview) -> bytes:
    """Return the record of a segment as it stands in the file."""
    if len(segment) <= OVERHEAD:
        raise TypeError("a segment is longer than 28 bytes")
    return bytes(segment[:_NONCE]) + bytes(segment[-_TAG:]) + hashlib.sha256(segment).digest()


class SegmentList:
    """The records of one file's segments, as checked against the manifest."""

    def __init__(self, records: bytes | Source, *, name: str, count: int, root: str) -> None:
        """Check the list against the manifest.

        Args:
            records: The list file's content, or where it is read from.
            name: The file's name, for errors.
            count: How many segments the file has by its manifest.
            root: Hex Merkle root by its manifest.

        Raises:
            IntegrityError: It is not the list that the manifest names.
            StorageError: It cannot be read.
        """
        self._name = name
        self._count = count
        self._source = _Bytes(records) if isinstance(records, bytes) else records
        self._tile = _tile_records(count, far=self._source.far)
        self._digests: list[bytes] = []
        self._tiles: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        if self._source.size != RECORD * count or root_hash(self._stream()).hex() != root:
            raise self._wrong()
        _alive.add(self)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[memoryview]:
        for number in range(len(self._digests)):
            view = memoryview(self._load(number))
            yield from (view[i : i + RECORD] for i in range(0, len(view), RECORD))

    def pins(self, index: int, segment: memoryview) -> bool:
        """Tell whether a segment has the nonce and tag of this place.

        Raises:
            IntegrityError: The list was changed since it was checked.
            StorageError: It cannot be read.
        """
        tile, start = self._place(index)
        return (
            segment[:_NONCE] == tile[start : start + _NONCE]
            and segment[-_TAG:] == tile[start + _NONCE : start + _NONCE + _TAG]
        )

    def pin_all(self, first: int, segments: Sequence[memoryview]) -> bool:
        """Tell whether some segments in a row have the nonces and tags of their places; see `pins`."""
        found, expected = [], []
        number, start, tile = -1, 0, b""
        for index, segment in enumerate(segments, first):
            # One lookup for each tile, one comparison for all: what is done between two segments costs more
            # than it seems, because decrypting pushes it out of the processor's cache.
            if index // self._tile != number:
                number = index // self._tile
                tile, start = self._place(index)
            found.append(segment[:_NONCE])
            found.append(segment[-_TAG:])
            expected.append(tile[start : start + _NONCE + _TAG])
            start += RECORD
        return b"".join(found) == b"".join(expected)

    def digests(self, index: int, segment: memoryview) -> bool:
        """Tell whether a segment has the SHA-256 of this place."""
        tile, start = self._place(index)
        return hashlib.sha256(segment).digest() == tile[start + _NONCE + _TAG : start + RECORD]

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

    def renew_lock(self) -> None:
        """Forget who holds the lock: in a forked child nobody does."""
        self._lock = threading.Lock()

    def _find(self, segment: memoryview) -> int | None:
        nonce = bytes(segment[:_NONCE])
        return next((i for i, record in enumerate(self) if record[:_NONCE] == nonce), None)

    def _place(self, index: int) -> tuple[bytes, int]:
        number, within = divmod(index, self._tile)
        with self._lock:
            tile = self._tiles.get(number)
            if tile is not None:
                if len(self._tiles) > 1:
                    self._tiles.move_to_end(number)
                return tile, within * RECORD
        tile = self._load(number)
        with self._lock:
            self._keep(number, tile)
        return tile, within * RECORD

    def _keep(self, number: int, tile: bytes) -> None:
        self._tiles[number] = tile
        if len(self._tiles) > _KEPT:
            self._tiles.popitem(last=False)

    def _load(self, number: int) -> bytes:
        start = number * self._tile * RECORD
        tile = self._read(start, min(self._tile * RECORD, self._source.size - start))
        if hashlib.sha256(tile).digest() != self._digests[number]:
            raise self._wrong()
        return tile

    def _stream(self) -> Iterator[memoryview]:
        """Yield all records once, and keep the digests of the tiles."""
        size, tile = self._source.size, self._tile * RECORD
        step = max(1, (_FAR_CHUNK if self._source.far else _CHUNK) // tile) * tile
        for start in range(0, size, step):
            chunk = memoryview(self._read(start, min(step, size - start)))
            for at in range(0, len(chunk), tile):
                part = chunk[at : at + tile]
                if len(self._tiles) < _KEPT:
                    self._tiles[len(self._digests)] = bytes(part)
                self._digests.append(hashlib.sha256(part).digest())
                for i in range(0, len(part), RECORD):
                    yield part[i : i + RECORD]

    def _read(self, start: int, length: int) -> bytes:
        buffer = bytearray(length)
        if self._source.pread_into(start, memoryview(buffer)) != length:
            raise self._wrong()
        return bytes(buffer)

    def _wrong(self) -> IntegrityError:
        return IntegrityError(
            f"{self._name}: the list of its segments is not the one that the data owner signed.",
            advice=f"Copy {self._name}.c4gh.segments again from the data owner's storage.",
        )


class _Bytes:
    """A list that is in memory."""

    name, far = "memory", False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        part = self._data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def identity(self) -> str:
        return "memory"

    def view(self, offset: int, length: int) -> memoryview | None:
        return memoryview(self._data)[offset : offset + length]

    def close(self) -> None:
        return None


def _tile_records(count: int, *, far: bool) -> int:
    tile = _FAR_TILE if far else _TILE
    while tile * _MOST_TILES < count:
        tile *= 2
    return tile


_alive: weakref.WeakSet[SegmentList] = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_alive):
        one.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
