# SPDX-License-Identifier: BSD-3-Clause
"""Inclusion proofs as files: what an auditor or a researcher checks offline."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import Checkpoint
from sealroom.audit.proof import HEADER, MAX_PROOF, InclusionProof, verify_inclusion_of
from sealroom.audit.tlog import leaf_hash, tile_path, tree_root
from sealroom.errors import Error, FormatError, IntegrityError, SignatureError
from support.audit_logs import OTHER, SIGNER, entry, put, write_log

KEY = SIGNER.verifier
ENTRIES = [entry(number) for number in range(300)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> DirectoryReader:
    folder = tmp_path_factory.mktemp("log")
    write_log(folder, ENTRIES)
    return DirectoryReader(folder)


@pytest.fixture(scope="module")
def proof(reader: DirectoryReader) -> InclusionProof:
    return InclusionProof.of(reader, KEY, 257, reader.get("checkpoint"))


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_an_entry_is_proven(reader: DirectoryReader, index: int) -> None:
    proof = InclusionProof.of(reader, KEY, index, reader.get("checkpoint"))
    found, head = proof.verify(KEY)
    assert (found, head.size) == (AuditEntry.from_bytes(ENTRIES[index]), 300)
    assert verify_inclusion_of(ENTRIES[index], index, proof.hashes, proof.checkpoint, KEY) == head


def test_the_only_entry_needs_no_hashes(tmp_path: Path) -> None:
    note = write_log(tmp_path, ENTRIES[:1])
    proof = InclusionProof.of(DirectoryReader(tmp_path), KEY, 0, note)
    assert proof.hashes == ()
    assert InclusionProof.from_bytes(proof.to_bytes()).verify(KEY)[1].size == 1


def test_the_file_is_that_of_the_specification(proof: InclusionProof) -> None:
    lines = proof.to_bytes().decode().split("\n")
    assert lines[:3] == [HEADER, "extra " + base64.b64encode(ENTRIES[257]).decode(), "index 257"]
    empty = lines.index("")
    assert [base64.b64decode(line) for line in lines[3:empty]] == list(proof.hashes)
    assert "\n".join(lines[empty + 1 :]).encode() == proof.checkpoint


def test_a_file_reads_back(proof: InclusionProof) -> None:
    assert InclusionProof.from_bytes(proof.to_bytes()) == proof


def _swapped(proof: InclusionProof) -> InclusionProof:
    first, second, *rest = proof.hashes
    return replace(proof, hashes=(second, first, *rest))


TAMPERED: dict[str, Callable[[InclusionProof], InclusionProof]] = {
    "another entry": lambda p: replace(p, entry=ENTRIES[256]),
    "a changed entry": lambda p: replace(p, entry=entry(257, detail="entry 257, but friendlier")),
    "another index": lambda p: replace(p, index=256),
    "an index beyond the end": lambda p: replace(p, index=300),
    "a negative index": lambda p: replace(p, index=-1),
    "a dropped hash": lambda p: replace(p, hashes=p.hashes[:-1]),
    "an added hash": lambda p: replace(p, hashes=(*p.hashes, bytes(32))),
    "reordered hashes": _swapped,
    "a changed hash": lambda p: replace(p, hashes=(bytes(32), *p.hashes[1:])),
    "no hashes": lambda p: replace(p, hashes=()),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_proof_is_refused(proof: InclusionProof, name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        TAMPERED[name](proof).verify(KEY)
    assert caught.value.check == "log.inclusion"


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_hash_of_another_length_is_refused(proof: InclusionProof, length: int) -> None:
    changed = replace(proof, hashes=(bytes(length), *proof.hashes[1:]))
    with pytest.raises(FormatError, match="32 bytes"):
        changed.verify(KEY)
    with pytest.raises(FormatError):
        InclusionProof.from_bytes(changed.to_bytes())


def test_a_proof_of_another_logs_key_is_refused(proof: InclusionProof) -> None:
    with pytest.raises(SignatureError):
        proof.verify(OTHER.verifier)


def test_a_forked_checkpoint_does_not_prove_the_entry(proof: InclusionProof) -> None:
    """The log's own key signed another history."""
    forked = [*ENTRIES[:257], entry(257, detail="forked"), *ENTRIES[258:]]
    note = Checkpoint(SIGNER.name, 300, tree_root(map(leaf_hash, forked))).sign(SIGNER)
    with pytest.raises(IntegrityError):
        replace(proof, checkpoint=note).verify(KEY)


def test_a_checkpoint_that_was_changed_is_refused(proof: InclusionProof) -> None:
    changed = proof.checkpoint.replace(b"\n300\n", b"\n301\n")
    with pytest.raises(SignatureError):
        replace(proof, checkpoint=changed).verify(KEY)


def test_bytes_that_stand_in_the_log_and_are_no_entry_are_refused(tmp_path: Path) -> None:
    note = write_log(tmp_path, [b"{}"])
    with pytest.raises(FormatError, match="not an audit entry"):
        InclusionProof.of(DirectoryReader(tmp_path), KEY, 0, note)


@pytest.mark.parametrize("index", [-1, 300, 1 << 62])
def test_there_is_no_proof_of_what_is_not_there(reader: DirectoryReader, index: int) -> None:
    with pytest.raises(IntegrityError, match=f"no entry {index}"):
        InclusionProof.of(reader, KEY, index, reader.get("checkpoint"))


def test_no_proof_is_made_from_tiles_that_were_changed(tmp_path: Path) -> None:
    note = write_log(tmp_path, ENTRIES)
    put(tmp_path / tile_path(0, 1, 44), bytes(32) * 44)
    with pytest.raises(IntegrityError):
        InclusionProof.of(DirectoryReader(tmp_path), KEY, 257, note)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HEADER.encode(), b"c2sp.org/tlog-proof@v2"),
        (b"extra ", b"Extra "),
        (b"index 257", b"index 0257"),
        (b"index 257", b"index -1"),
        (b"index 257", b"index \xc2\xb2"),
        (b"index 257\n", b""),
        (b"\n\n", b"\n"),
        (b"=\n\n", b"\n\n"),
        (b"\nindex", b"\n\nindex"),
    ],
)
def test_a_file_that_is_malformed_is_refused(proof: InclusionProof, old: bytes, new: bytes) -> None:
    data = proof.to_bytes()
    assert old in data
    with pytest.raises(FormatError):
        InclusionProof.from_bytes(data.replace(old, new)).verify(KEY)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xff\n\n", HEADER.encode(), bytes(MAX_PROOF + 1)])
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        InclusionProof.from_bytes(data)


def test_a_file_with_very_many_hashes_is_refused(proof: InclusionProof) -> None:
    with pytest.raises(FormatError, match="hashes are malformed"):
        InclusionProof.from_bytes(replace(proof, hashes=(bytes(32),) * 64).to_bytes())


def test_a_file_without_its_entry_is_refused(proof: InclusionProof) -> None:
    lines = proof.to_bytes().split(b"\n")
    with pytest.raises(FormatError, match="does not have its entry"):
        InclusionProof.from_bytes(b"\n".join([lines[0], *lines[2:]]))


@given(st.binary(max_size=400))
def test_nothing_but_our_error_leaves_from_bytes(data: bytes) -> None:
    for whole in (data, HEADER.encode() + b"\nextra \nindex 0\n" + data):
        try:
            InclusionProof.from_bytes(whole).verify(KEY)
        except Error:
            continue
        raise AssertionError("random bytes were taken for a proof")


_FOUR = [leaf_hash(one) for one in ENTRIES[:4]]
_PROOF = InclusionProof(
    2,
    ENTRIES[2],
    (_FOUR[3], tree_root(_FOUR[:2])),
    Checkpoint(SIGNER.name, 4, tree_root(_FOUR)).sign(SIGNER),
)


@given(index=st.integers(0, len(_PROOF.to_bytes()) - 1), flip=st.integers(1, 255))
def test_no_changed_byte_proves_anything_else(index: int, flip: int) -> None:
    data = bytearray(_PROOF.to_bytes())
    data[index] ^= flip
    try:
        found = InclusionProof.from_bytes(bytes(data)).verify(KEY)
    except Error:
        return
    # Base64 of a signature has two bits that say nothing.
    assert found == _PROOF.verify(KEY)
