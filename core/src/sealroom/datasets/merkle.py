# SPDX-License-Identifier: BSD-3-Clause
"""The Merkle tree hash of RFC 6962 section 2.1, over the records of a file's segments.

The tree in the audit log is the same; it stands apart because the two never share data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def leaf_hash(data: bytes | memoryview) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Iterable[bytes | memoryview]) -> bytes:
    """Return the tree hash of some leaves, in constant memory."""
    # Each entry of the stack is a full subtree: its number of leaves (a power of two) and its hash.
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, digest = 1, leaf_hash(leaf)
        while stack and stack[-1][0] == size:
            digest = node_hash(stack.pop()[1], digest)
            size *= 2
        stack.append((size, digest))
    if not stack:
        return hashlib.sha256(b"").digest()
    digest = stack.pop()[1]
    while stack:
        digest = node_hash(stack.pop()[1], digest)
    return digest
