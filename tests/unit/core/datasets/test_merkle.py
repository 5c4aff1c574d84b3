# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from sealroom.datasets.merkle import leaf_hash, node_hash, root_hash


def by_the_book(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(by_the_book(leaves[:k]), by_the_book(leaves[k:]))


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_root_is_the_tree_hash_of_rfc_6962(leaves: list[bytes]) -> None:
    assert root_hash(leaves) == by_the_book(leaves)


def test_known_roots() -> None:
    # Test vectors of Certificate Transparency's reference implementation (merkletree/merkle_tree_test.cc).
    assert root_hash([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_hash([b""]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert (
        root_hash([b"", b"\x00"]).hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )
