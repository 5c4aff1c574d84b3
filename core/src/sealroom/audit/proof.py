# SPDX-License-Identifier: BSD-3-Clause
"""The proof that one entry stands in a signed log, as a file that is checked offline.

The file has the format of C2SP tlog-proof (https://c2sp.org/tlog-proof, `c2sp.org/tlog-proof@v1`); its extra
data are the entry's own bytes, which the leaf hash is made of.

Invariants:

- `verify` needs a key that came from elsewhere; nothing in a proof vouches for itself.
- Nothing but `sealroom.errors.Error` leaves these calls, whatever the bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import MAX_NOTE, Checkpoint, VerifierKey
from sealroom.audit.tlog import (
    HASH_SIZE,
    MAX_ENTRY,
    TILE_WIDTH,
    Reader,
    Tiles,
    leaf_hash,
    read_bundle,
    verify_inclusion,
)
from sealroom.errors import FormatError, IntegrityError

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_HASHES: Final = 63
"""A tree whose size fits into 63 bits has no longer path."""

MAX_PROOF: Final = MAX_NOTE + 2 * MAX_ENTRY
"""Our own bound on a file: the entry in base64, the hashes and the checkpoint."""

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_EXTRA = "extra "


def verify_inclusion_of(
    entry: bytes, index: int, proof: Sequence[bytes], checkpoint: bytes, key: VerifierKey
) -> Checkpoint:
    """Check that an entry stands at an index of a log that this key signed.

    Args:
        entry: The entry's bytes.
        index: Its place.
        proof: The inclusion proof's hashes, from the leaf's sibling up (RFC 6962, section 2.1.1).
        checkpoint: The signed checkpoint.
        key: The log's key, from elsewhere than the proof.

    Returns:
        The checkpoint, verified.

    Raises:
        FormatError: The checkpoint is none, or a hash has another length.
        SignatureError: The checkpoint is not signed by the key, or is another log's.
        IntegrityError: The entry does not stand there.
    """
    # 1. The checkpoint. 2. The path from the entry to its root.
    head = Checkpoint.open(checkpoint, key)
    if any(len(node) != HASH_SIZE for node in proof):
        raise FormatError(f"A hash of an inclusion proof has {HASH_SIZE} bytes.", field="proof")
    verify_inclusion(leaf_hash(entry), index, head.size, proof, head.root)
    return head


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """An entry with what shows that it stands in a log. Not yet checked: `verify` does that."""

    index: int
    entry: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    """The signed note."""

    @classmethod
    def of(cls, reader: Reader, key: VerifierKey, index: int, checkpoint: bytes) -> InclusionProof:
        """Make the proof of an entry from a log's files, and check it.

        Args:
            reader: The log's files.
            key: The log's key.
            index: Which entry.
            checkpoint: The log's signed checkpoint.

        Raises:
            IntegrityError: The log has no such entry, or its files do not give the signed root.
            Error: The files cannot be read or are malformed.
        """
        size = Checkpoint.open(checkpoint, key).size
        if not 0 <= index < size:
            raise IntegrityError(f"The log has no entry {index}: it has {size}.", check="log.inclusion")
        entry = read_bundle(reader, index // TILE_WIDTH, size)[index % TILE_WIDTH]
        proof = cls(index, entry, tuple(Tiles(reader, size).inclusion_proof(index)), checkpoint)
        proof.verify(key)
        return proof

    def verify(self, key: VerifierKey) -> tuple[AuditEntry, Checkpoint]:
        """Check the proof and return the entry and the checkpoint.

        Raises:
            FormatError: The entry is no audit entry, or the checkpoint is none.
            SignatureError: The checkpoint is not signed by the key, or is another log's.
            IntegrityError: The entry does not stand there.
        """
        head = verify_inclusion_of(self.entry, self.index, self.hashes, self.checkpoint, key)
        return AuditEntry.from_bytes(self.entry), head

    def to_bytes(self) -> bytes:
        """Return the file."""
        lines = [HEADER, _EXTRA + _b64(self.entry), f"index {self.index}", *map(_b64, self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint

    @classmethod
    def from_bytes(cls, data: bytes) -> InclusionProof:
        """Parse a file.

        Raises:
            FormatError: It is no proof of this format, or has no entry in it.
        """
        if len(data) > MAX_PROOF:
            raise FormatError("The inclusion proof is too long.", field="proof")
        head, separator, checkpoint = data.partition(b"\n\n")
        try:
            header, extra, index, *hashes = head.decode("ascii").split("\n")
        except (UnicodeDecodeError, ValueError) as error:
            raise FormatError("This is not an inclusion proof.", field="proof") from error
        if header != HEADER or not separator:
            raise FormatError(
                f"This is not an inclusion proof: it does not begin with {HEADER}.", field="proof"
            )
        if not extra.startswith(_EXTRA):
            raise FormatError("The inclusion proof does not have its entry in it.", field="extra")
        place = _INDEX.fullmatch(index)
        if place is None or len(hashes) > MAX_HASHES:
            raise FormatError("The inclusion proof's index or its hashes are malformed.", field="index")
        nodes = tuple(_decoded(text, "hash") for text in hashes)
        if any(len(node) != HASH_SIZE for node in nodes):
            raise FormatError(f"A hash of an inclusion proof has {HASH_SIZE} bytes.", field="hash")
        return cls(int(place[1]), _decoded(extra.removeprefix(_EXTRA), "extra"), nodes, checkpoint)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str, field: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("The inclusion proof has a line that is not base64.", field=field) from error
    if _b64(data) != text:
        raise FormatError("The inclusion proof has a line in another spelling of base64.", field=field)
    return data
