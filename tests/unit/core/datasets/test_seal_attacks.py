# SPDX-License-Identifier: BSD-3-Clause
"""What whoever can write to the storage may do to a sealed file, against the owner's own commands.

Each attack is refused with the file, the segment, and what to do: without a key, with the dataset's key, in
one thread and in several, and by unsealing. (`test_reader` has the same for a notebook's reads.)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    DataKey,
    Header,
    SecretKey,
    SegmentCipher,
    make_header,
    open_header,
    reencrypt,
)
from sealroom.datasets.check import check_dataset, check_file
from sealroom.datasets.unseal import unseal_dataset
from sealroom.errors import IntegrityError
from support.sealed import PLAIN, Sealed

START = 124
NAME = "ecg.bin"


def part(index: int) -> slice:
    return slice(START + index * CIPHER_SEGMENT, START + (index + 1) * CIPHER_SEGMENT)


def cut_at_a_segment(sealed: Sealed, data: bytearray) -> str:
    del data[part(3).start :]
    return "from segment 4 of 5 on"


def cut_inside_a_segment(sealed: Sealed, data: bytearray) -> str:
    del data[part(2).start + 100 :]
    return "from segment 3 of 5 on"


def cut_to_the_header(sealed: Sealed, data: bytearray) -> str:
    del data[START:]
    return "from segment 1 of 5 on"


def swapped(sealed: Sealed, data: bytearray) -> str:
    data[part(1)], data[part(2)] = data[part(2)], data[part(1)]
    return "segment 2 of 5 holds what belongs into segment 3"


def duplicated(sealed: Sealed, data: bytearray) -> str:
    data[part(3)] = data[part(0)]
    return "segment 4 of 5 holds what belongs into segment 1"


def appended(sealed: Sealed, data: bytearray) -> str:
    data += data[part(0)]
    return "stand behind its last segment"


def flipped(sealed: Sealed, data: bytearray) -> str:
    data[part(2).start + 30_000] ^= 4
    return "segment 3 of 5 was changed"


def flipped_tag(sealed: Sealed, data: bytearray) -> str:
    data[part(0).stop - 1] ^= 1
    return "segment 1 of 5 was changed"


def injected(sealed: Sealed, data: bytearray) -> str:
    """A stranger's segment under a data key of theirs; the header is left alone."""
    segment = bytearray(CIPHER_SEGMENT)
    SegmentCipher([DataKey.generate()]).encrypt_into(b"E" * 65536, memoryview(segment))
    data[part(1)] = segment
    return "segment 2 of 5 is not from the data owner"


def injected_under_the_files_key(sealed: Sealed, data: bytearray) -> str:
    """By somebody who was released the data key once: the segment authenticates, and is not the owner's."""
    opened = open_header(Header.from_prefix(bytes(data)), sealed.dataset_key)
    segment = bytearray(CIPHER_SEGMENT)
    SegmentCipher(opened.data_keys).encrypt_into(b"E" * 65536, memoryview(segment))
    data[part(1)] = segment
    return "segment 2 of 5 is not from the data owner"


def with_another_header(sealed: Sealed, data: bytearray) -> str:
    """Everything by a stranger, who knows the dataset's public key."""
    key, at = DataKey.generate(), START
    data[:START] = make_header([key], [sealed.dataset_key.public]).to_bytes()
    cipher = SegmentCipher([key])
    for start in range(0, len(PLAIN[NAME]), 65536):
        plain = os.urandom(min(65536, len(PLAIN[NAME]) - start))
        cipher.encrypt_into(plain, memoryview(data)[at : at + len(plain) + 28])
        at += len(plain) + 28
    return "its header is not the one"


def with_a_reencrypted_header(sealed: Sealed, data: bytearray) -> str:
    """The right data key by another writer: what a broker hands out, written back."""
    header = Header.from_prefix(bytes(data))
    data[:START] = reencrypt(header, sealed.dataset_key, [sealed.dataset_key.public]).to_bytes()
    return "its header is not the one"


def of_another_file(sealed: Sealed, data: bytearray) -> str:
    data[:] = sealed.directory.sealed_file("exact.bin").read_bytes()
    return "its header is not the one"


ATTACKS = [
    cut_at_a_segment,
    cut_inside_a_segment,
    cut_to_the_header,
    swapped,
    duplicated,
    appended,
    flipped,
    flipped_tag,
    injected,
    injected_under_the_files_key,
    with_another_header,
    with_a_reencrypted_header,
    of_another_file,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_with_file_segment_and_what_to_do(
    sealed: Sealed, tmp_path: Path, attack: Callable[[Sealed, bytearray], str]
) -> None:
    path = sealed.directory.sealed_file(NAME)
    data = bytearray(path.read_bytes())
    said = attack(sealed, data)
    path.write_bytes(data)
    entry = sealed.manifest.file(NAME)
    for secret in (None, sealed.dataset_key):
        for workers in (1, 3):
            with pytest.raises(IntegrityError) as caught:
                check_file(sealed.directory, sealed.manifest, entry, secret=secret, workers=workers)
            assert caught.value.message.startswith(f"{NAME}: ")
            assert said in caught.value.message
            assert "get the file again from the data owner" in caught.value.advice
        found = check_dataset(sealed.directory, sealed.manifest, secret=secret)
        assert [name for name, error in found.items() if error is not None] == [NAME]
    with pytest.raises(IntegrityError) as caught:
        unseal_dataset(sealed.directory, sealed.manifest, sealed.dataset_key, tmp_path / "clear")
    assert said in caught.value.message
    assert not (tmp_path / "clear").exists()


def test_list_of_segments_that_was_changed_with_the_file_is_refused(sealed: Sealed) -> None:
    sealed.directory.segment_list(NAME).write_bytes(os.urandom(5 * 60))
    with pytest.raises(IntegrityError, match="list of its segments"):
        check_file(sealed.directory, sealed.manifest, sealed.manifest.file(NAME))


def test_another_key_says_which_file_and_which_keys(sealed: Sealed) -> None:
    other = SecretKey.generate()
    found = check_dataset(sealed.directory, sealed.manifest, secret=other)
    for name, error in found.items():
        assert error is not None
        assert error.message.startswith(f"{name}: ")
        assert other.public.fingerprint in error.message
        assert sealed.manifest.writer.fingerprint in error.message
        assert "room for 1 reader" in error.message
