# SPDX-License-Identifier: BSD-3-Clause
"""Merkle trees of RFC 6962 (section 2.1) stored as the tiles of C2SP tlog-tiles, and proofs from them.

Hashes come through a `Reader`, a few tiles at a time: a proof reads O(log n) of them.

Invariants:

- No file or network access of its own.
- A path is made here from numbers and never taken apart from a peer's text.
- Nothing but `sealroom.errors.Error` leaves these calls on bad bytes; indexes out of range are `ValueError`,
  the caller's mistake.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from sealroom.errors import FormatError, IntegrityError

HASH_SIZE: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 256
"""tlog-tiles: full tiles are exactly 256 hashes wide."""

MAX_ENTRY: Final = 0xFFFF
"""Entry bundles have a 16-bit length before each entry."""

CHECKPOINT_PATH: Final = "checkpoint"


class Reader(Protocol):
    """Where the log's files come from."""

    def get(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            sealroom.errors.Error: It is not there or cannot be read.
        """


# --- hashing ---


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


class Frontier:
    """The roots of the perfect subtrees along a tree's right edge; grows a leaf at a time."""

    __slots__ = ("_nodes", "size")

    def __init__(self, nodes: Iterable[tuple[int, bytes]] = ()) -> None:
        """Start from subtrees (height, hash) in descending height; empty for an empty tree."""
        self._nodes = list(nodes)
        self.size = sum(1 << height for height, _ in self._nodes)
        """Number of leaves."""

    def copy(self) -> Frontier:
        """Return a frontier that grows on its own."""
        return Frontier(self._nodes)

    def add(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        height, node = 0, leaf
        while self._nodes and self._nodes[-1][0] == height:
            node = node_hash(self._nodes.pop()[1], node)
            height += 1
        self._nodes.append((height, node))
        self.size += 1

    def root(self) -> bytes:
        """Return the tree's root."""
        if not self._nodes:
            return EMPTY_ROOT
        node = self._nodes[-1][1]
        for _, left in reversed(self._nodes[:-1]):
            node = node_hash(left, node)
        return node


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """Return the root of a tree from its leaves' hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


# --- tiles and bundles ---


def _index_path(index: int) -> str:
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def _suffix(width: int) -> str:
    if not 1 <= width <= TILE_WIDTH:
        raise ValueError("a tile has 1 to 256 hashes")
    return "" if width == TILE_WIDTH else f".p/{width}"


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile, partial if `width` is less than 256."""
    return f"tile/{level}/{_index_path(index)}{_suffix(width)}"


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of an entry bundle, partial if `width` is less than 256."""
    return f"tile/entries/{_index_path(index)}{_suffix(width)}"


def tile_width(level: int, index: int, size: int) -> int:
    """Return how many hashes a tile has in a tree of this size: 0 to 256."""
    return max(0, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - index * TILE_WIDTH))


def tiles_of(size: int) -> Iterable[tuple[int, int, int]]:
    """Yield (level, index, width) of every tile of a tree of this size."""
    level = 0
    while size >> TILE_HEIGHT * level:
        hashes = size >> TILE_HEIGHT * level
        for index in range((hashes + TILE_WIDTH - 1) // TILE_WIDTH):
            yield level, index, tile_width(level, index, size)
        level += 1


def bundles_of(size: int) -> Iterable[tuple[int, int]]:
    """Yield (index, width) of every entry bundle of a log of this size."""
    for index in range((size + TILE_WIDTH - 1) // TILE_WIDTH):
        yield index, tile_width(0, index, size)


def encode_entry(entry: bytes) -> bytes:
    """Return an entry as it stands in a bundle.

    Raises:
        FormatError: It is longer than 65535 bytes.
    """
    if len(entry) > MAX_ENTRY:
        raise FormatError(f"A log entry has at most {MAX_ENTRY} bytes, not {len(entry)}.", field="entry")
    return struct.pack(">H", len(entry)) + entry


def decode_bundle(data: bytes, width: int | None = None) -> list[bytes]:
    """Return a bundle's entries.

    Args:
        data: The bundle.
        width: How many entries it must have; any number without it.

    Raises:
        FormatError: It is cut, or has another number of entries.
    """
    entries, offset = [], 0
    while offset < len(data):
        head = data[offset : offset + 2]
        end = offset + 2 + int.from_bytes(head)
        if len(head) < 2 or end > len(data):
            raise FormatError("The entry bundle ends within an entry.", field="bundle", offset=offset)
        entries.append(data[offset + 2 : end])
        offset = end
    if width is not None and len(entries) != width:
        raise FormatError(f"The entry bundle has {len(entries)} entries, not {width}.", field="bundle")
    return entries


def split_tile(data: bytes, width: int) -> list[bytes]:
    """Return a tile's hashes.

    Raises:
        FormatError: It has another length.
    """
    if len(data) != width * HASH_SIZE:
        raise FormatError(f"The tile has {len(data)} bytes, not {width * HASH_SIZE}.", field="tile")
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


def read_bundle(reader: Reader, index: int, size: int) -> list[bytes]:
    """Return the entries of one bundle of a log of this size."""
    width = tile_width(0, index, size)
    return decode_bundle(reader.get(bundle_path(index, width)), width)


# --- trees from tiles ---


class Tiles:
    """A tree of a given size, read through its tiles; each tile is read once."""

    def __init__(self, reader: Reader, size: int) -> None:
        self._reader = reader
        self.size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def hashes(self, level: int, index: int) -> list[bytes]:
        """Return a tile's hashes.

        Raises:
            FormatError: It has another length than the tree's size says.
        """
        key = level, index
        if key not in self._tiles:
            width = tile_width(level, index, self.size)
            self._tiles[key] = split_tile(self._reader.get(tile_path(level, index, width)), width)
        return self._tiles[key]

    def leaf(self, index: int) -> bytes:
        """Return the hash of one leaf."""
        if not 0 <= index < self.size:
            raise ValueError("no such leaf")
        return self.hashes(0, index // TILE_WIDTH)[index % TILE_WIDTH]

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, all without it."""
        return self.subtree(0, self.size if size is None else size)

    def subtree(self, start: int, end: int) -> bytes:
        """Return RFC 6962's MTH(D[start:end]), where `start` is where such a subtree can start."""
        if not 0 <= start <= end <= self.size:
            raise ValueError("no such subtree")
        width = end - start
        if width == 0:
            return EMPTY_ROOT
        if width & (width - 1) == 0 and start % width == 0:
            return self._perfect(width.bit_length() - 1, start // width)
        split = _split_point(width)
        return node_hash(self.subtree(start, start + split), self.subtree(start + split, end))

    def _perfect(self, height: int, index: int) -> bytes:
        """Return the root of a perfect subtree: folded from the hashes of one tile."""
        level, rest = divmod(height, TILE_HEIGHT)
        count = 1 << rest
        first = index * count
        nodes = self.hashes(level, first // TILE_WIDTH)[first % TILE_WIDTH :][:count]
        while len(nodes) > 1:
            nodes = [node_hash(nodes[at], nodes[at + 1]) for at in range(0, len(nodes), 2)]
        return nodes[0]

    def frontier(self) -> Frontier:
        """Return the right edge, to go on from."""
        nodes, start = [], 0
        for height in reversed(range(self.size.bit_length())):
            if self.size >> height & 1:
                nodes.append((height, self._perfect(height, start >> height)))
                start += 1 << height
        return Frontier(nodes)

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Return RFC 6962's PATH(index, D): what shows that a leaf is in the tree."""
        if not 0 <= index < self.size:
            raise ValueError("no such leaf")
        proof: list[bytes] = []
        start, end = 0, self.size
        while end - start > 1:
            middle = start + _split_point(end - start)
            if index < middle:
                proof.append(self.subtree(middle, end))
                end = middle
            else:
                proof.append(self.subtree(start, middle))
                start = middle
        return proof[::-1]

    def consistency_proof(self, older: int) -> list[bytes]:
        """Return RFC 6962's PROOF(older, D): what shows that the tree has only grown since that size."""
        if not 0 < older <= self.size:
            raise ValueError("no such older tree")
        proof: list[bytes] = []
        start, end, whole = 0, self.size, True
        while older != end:
            middle = start + _split_point(end - start)
            if older <= middle:
                proof.append(self.subtree(middle, end))
                end = middle
            else:
                proof.append(self.subtree(start, middle))
                start, whole = middle, False
        if not whole:
            proof.append(self.subtree(start, end))
        return proof[::-1]


def _split_point(width: int) -> int:
    """Return the largest power of two smaller than the width (RFC 6962, section 2.1)."""
    return 1 << (width - 1).bit_length() - 1


# --- proofs ---


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf stands at an index of the tree with this root (RFC 9162, section 2.1.3.2).

    Raises:
        IntegrityError: It does not.
    """
    if not 0 <= index < size:
        raise IntegrityError(f"The log has no entry {index}: it has {size}.", check="log.inclusion")
    node, at, last = leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise IntegrityError("The inclusion proof is too long.", check="log.inclusion")
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    if last or node != root:
        raise IntegrityError(f"Entry {index} is not in the log with this root.", check="log.inclusion")


def verify_consistency(older: int, older_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that one tree is the beginning of another (RFC 9162, section 2.1.4.2).

    Raises:
        IntegrityError: It is not.
    """
    fork = IntegrityError("The log is not a continuation of the older checkpoint.", check="log.consistency")
    if older > size:
        raise IntegrityError(
            f"The log has {size} entries and had {older} before: it was cut.", check="log.consistency"
        )
    if older == size or older == 0:
        if proof or (older == size and older_root != root):
            raise fork
        return
    nodes = list(proof) if older & (older - 1) else [older_root, *proof]
    at, last = older - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not nodes:
        raise fork
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise fork
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    if last or old != older_root or new != root:
        raise fork
