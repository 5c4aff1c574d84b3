# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.audit.tlog import (
    EMPTY_ROOT,
    HASH_SIZE,
    TILE_WIDTH,
    Frontier,
    Tiles,
    bundle_path,
    bundles_of,
    decode_bundle,
    encode_entry,
    leaf_hash,
    node_hash,
    read_bundle,
    split_tile,
    tile_path,
    tile_width,
    tiles_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from sealroom.errors import FormatError, IntegrityError

# Leaves and roots that implementations of RFC 6962 share (certificate-transparency, merkle_tree_test.cc).
SHARED_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
SHARED_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


class Memory:
    """The tiles of a tree, kept in memory; counts what is read."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.files: dict[str, bytes] = {}
        self.read: list[str] = []
        for level, index, width in tiles_of(len(leaves)):
            span = TILE_WIDTH**level
            first = index * TILE_WIDTH
            hashes = [naive_root(leaves[at * span : (at + 1) * span]) for at in range(first, first + width)]
            self.files[tile_path(level, index, width)] = b"".join(hashes)

    def get(self, path: str) -> bytes:
        self.read.append(path)
        return self.files[path]


LEAVES = [leaf_hash(str(number).encode()) for number in range(1100)]
TREE = Memory(LEAVES)


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_are_those_of_rfc_6962(size: int) -> None:
    leaves = [leaf_hash(leaf) for leaf in SHARED_LEAVES[:size]]
    assert tree_root(leaves).hex() == SHARED_ROOTS[size - 1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert tree_root([]) == Tiles(TREE, 0).root() == Tiles(TREE, 0).frontier().root() == EMPTY_ROOT


@given(st.integers(0, 400))
def test_a_frontier_gives_the_root_of_every_size(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.add(leaf)
    assert frontier.size == size
    assert frontier.root() == naive_root(LEAVES[:size])


def test_a_frontiers_copy_grows_on_its_own() -> None:
    frontier = Frontier()
    frontier.add(LEAVES[0])
    grown = frontier.copy()
    grown.add(LEAVES[1])
    assert (frontier.root(), grown.root()) == (LEAVES[0], naive_root(LEAVES[:2]))


@pytest.mark.parametrize(
    ("index", "path"),
    [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")],
)
def test_indexes_are_written_in_groups_of_three(index: int, path: str) -> None:
    assert tile_path(3, index) == f"tile/3/{path}"
    assert bundle_path(index, 5) == f"tile/entries/{path}.p/5"


@pytest.mark.parametrize("width", [0, 257, -1])
def test_a_tile_has_1_to_256_hashes(width: int) -> None:
    with pytest.raises(ValueError, match="1 to 256"):
        tile_path(0, 0, width)


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    # tlog-tiles, partial tiles.
    tiles = list(tiles_of(70_000))
    assert sum(1 for level, _, width in tiles if (level, width) == (0, 256)) == 273
    assert [tile for tile in tiles if tile[2] != 256] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert [tile for tile in tiles if tile[0] == 1] == [(1, 0, 256), (1, 1, 17)]
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_of(0)) == []
    assert list(bundles_of(513)) == [(0, 256), (1, 256), (2, 1)]
    assert tile_width(0, 2, 513) == 1
    assert tile_width(0, 3, 513) == 0


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_reads_back(entries: list[bytes]) -> None:
    data = b"".join(map(encode_entry, entries))
    assert decode_bundle(data) == decode_bundle(data, len(entries)) == entries


def test_an_entry_has_at_most_65535_bytes() -> None:
    assert decode_bundle(encode_entry(bytes(65535))) == [bytes(65535)]
    with pytest.raises(FormatError, match="65535"):
        encode_entry(bytes(65536))


@pytest.mark.parametrize("data", [b"\0", b"\0\1", b"\0\2x", b"\0\1xx"])
def test_a_bundle_that_is_cut_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="within an entry"):
        decode_bundle(data)


def test_a_bundle_of_another_number_is_refused() -> None:
    with pytest.raises(FormatError, match="2 entries, not 3"):
        decode_bundle(b"\0\0\0\0", 3)


@given(st.binary())
def test_nothing_but_our_error_leaves_decoding(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode_bundle(data)
    with contextlib.suppress(FormatError):
        split_tile(data, 1)


def test_a_tile_of_another_length_is_refused() -> None:
    assert split_tile(bytes(64), 2) == [bytes(32)] * 2
    with pytest.raises(FormatError, match="63 bytes"):
        split_tile(bytes(63), 2)


def test_a_bundle_is_read_with_the_width_that_the_size_says() -> None:
    class OneBundle:
        def get(self, path: str) -> bytes:
            assert path == "tile/entries/001.p/2"
            return b"\0\1a\0\1b"

    assert read_bundle(OneBundle(), 1, 258) == [b"a", b"b"]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 1000, 1100])
def test_tiles_give_the_root(size: int) -> None:
    tiles = Tiles(Memory(LEAVES[:size]), size)
    assert tiles.root() == tiles.frontier().root() == naive_root(LEAVES[:size])


@given(st.integers(0, 1100))
@settings(deadline=None)
def test_tiles_give_the_root_of_every_older_size(older: int) -> None:
    assert Tiles(TREE, 1100).root(older) == naive_root(LEAVES[:older])


@given(index=st.integers(0, 1099))
@settings(deadline=None)
def test_every_leaf_has_an_inclusion_proof(index: int) -> None:
    tiles = Tiles(TREE, 1100)
    proof = tiles.inclusion_proof(index)
    assert tiles.leaf(index) == LEAVES[index]
    verify_inclusion(LEAVES[index], index, 1100, proof, naive_root(LEAVES))


@given(older=st.integers(1, 1100))
@settings(deadline=None)
def test_every_older_tree_has_a_consistency_proof(older: int) -> None:
    proof = Tiles(TREE, 1100).consistency_proof(older)
    verify_consistency(older, naive_root(LEAVES[:older]), 1100, naive_root(LEAVES), proof)


@given(size=st.integers(1, 40), data=st.data())
def test_every_proof_in_every_small_tree_verifies_and_no_other(size: int, data: st.DataObject) -> None:
    leaves, tiles = LEAVES[:size], Tiles(Memory(LEAVES[:size]), size)
    root = naive_root(leaves)
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    proof = tiles.inclusion_proof(index)
    verify_inclusion(leaves[index], index, size, proof, root)
    if other != index:
        with pytest.raises(IntegrityError):
            verify_inclusion(leaves[other], index, size, proof, root)
        with pytest.raises(IntegrityError):
            verify_inclusion(leaves[index], other, size, proof, root)
    older = data.draw(st.integers(1, size))
    consistency = tiles.consistency_proof(older)
    verify_consistency(older, naive_root(leaves[:older]), size, root, consistency)
    with pytest.raises(IntegrityError):
        verify_consistency(older, leaf_hash(b"other"), size, root, consistency)
    with pytest.raises(IntegrityError):
        verify_consistency(older, naive_root(leaves[:older]), size, leaf_hash(b"other"), consistency)


@pytest.mark.parametrize("change", ["shorter", "longer", "flipped"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_changed_proof_is_refused(change: str, position: int) -> None:
    tiles, root = Tiles(TREE, 1100), naive_root(LEAVES)

    def changed(proof: list[bytes]) -> list[bytes]:
        if change == "shorter":
            return proof[1:] if position == 0 else proof[:-1]
        if change == "longer":
            return [bytes(32), *proof] if position == 0 else [*proof, bytes(32)]
        proof = list(proof)
        proof[position] = bytes(HASH_SIZE)
        return proof

    with pytest.raises(IntegrityError):
        verify_inclusion(LEAVES[700], 700, 1100, changed(tiles.inclusion_proof(700)), root)
    older = naive_root(LEAVES[:700])
    with pytest.raises(IntegrityError):
        verify_consistency(700, older, 1100, root, changed(tiles.consistency_proof(700)))


def test_the_end_of_the_consistency_check_is_exact() -> None:
    root = naive_root(LEAVES)
    verify_consistency(0, EMPTY_ROOT, 1100, root, [])
    verify_consistency(1100, root, 1100, root, [])
    with pytest.raises(IntegrityError):
        verify_consistency(1100, root, 1100, root, [bytes(32)])
    with pytest.raises(IntegrityError):
        verify_consistency(1100, bytes(32), 1100, root, [])
    with pytest.raises(IntegrityError):
        verify_consistency(700, naive_root(LEAVES[:700]), 1100, root, [])
    with pytest.raises(IntegrityError, match="was cut"):
        verify_consistency(1101, root, 1100, root, [])


def test_an_entry_beyond_the_end_is_in_no_log() -> None:
    with pytest.raises(IntegrityError, match="no entry 1100"):
        verify_inclusion(LEAVES[0], 1100, 1100, [], naive_root(LEAVES))


def test_what_is_not_in_the_tree_cannot_be_asked_for() -> None:
    tiles = Tiles(TREE, 1100)
    for wrong in (-1, 1100):
        with pytest.raises(ValueError, match="no such"):
            tiles.leaf(wrong)
        with pytest.raises(ValueError, match="no such"):
            tiles.inclusion_proof(wrong)
    for wrong in (0, 1101):
        with pytest.raises(ValueError, match="no such"):
            tiles.consistency_proof(wrong)
    with pytest.raises(ValueError, match="no such"):
        tiles.root(1101)


def test_a_proof_reads_few_tiles_and_each_once() -> None:
    memory = Memory(LEAVES)
    Tiles(memory, 1100).inclusion_proof(700)
    assert len(memory.read) == len(set(memory.read)) <= 6
