# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    OVERHEAD,
    SEGMENT,
    DataKey,
    SegmentCipher,
    TagError,
    cipher_size,
    plain_size,
    segment_count,
)
from sealroom.errors import FormatError


def sealed(cipher: SegmentCipher, plain: bytes) -> bytearray:
    out = bytearray(len(plain) + OVERHEAD)
    assert cipher.encrypt_into(plain, memoryview(out)) == len(out)
    return out


@pytest.mark.parametrize("size", [1, 100, SEGMENT - 1, SEGMENT])
def test_segment_round_trips(size: int) -> None:
    cipher, plain = SegmentCipher([DataKey.generate()]), os.urandom(size)
    out = bytearray(size)
    assert cipher.decrypt_into(memoryview(sealed(cipher, plain)), memoryview(out)) == size
    assert out == plain


def test_each_of_several_keys_opens_its_segments() -> None:
    keys = [DataKey.generate() for _ in range(3)]
    reader = SegmentCipher(keys)
    for key in keys:
        out = bytearray(5)
        reader.decrypt_into(memoryview(sealed(SegmentCipher([key]), b"hello")), memoryview(out))
        assert out == b"hello"


@pytest.mark.parametrize("position", [0, 11, 12, 500, -17, -16, -1])
def test_flipped_bit_is_refused_and_the_buffer_is_wiped(position: int) -> None:
    cipher, plain = SegmentCipher([DataKey.generate()]), b"\xaa" * 1000
    segment = sealed(cipher, plain)
    segment[position] ^= 1
    out = bytearray(b"\xff" * len(plain))
    with pytest.raises(TagError, match="changed"):
        cipher.decrypt_into(memoryview(segment), memoryview(out))
    assert out == bytes(len(plain))


def test_segment_under_another_key_is_refused() -> None:
    segment = sealed(SegmentCipher([DataKey.generate()]), b"hello")
    with pytest.raises(TagError):
        SegmentCipher([DataKey.generate()]).decrypt_into(memoryview(segment), memoryview(bytearray(5)))


@pytest.mark.parametrize("size", [0, 1, OVERHEAD, CIPHER_SEGMENT + 1])
def test_segment_of_impossible_size_is_refused(size: int) -> None:
    cipher = SegmentCipher([DataKey.generate()])
    with pytest.raises(FormatError):
        cipher.decrypt_into(memoryview(bytes(size)), memoryview(bytearray(max(size - OVERHEAD, 0))))


def test_buffer_of_wrong_size_is_refused() -> None:
    cipher = SegmentCipher([DataKey.generate()])
    with pytest.raises(FormatError):
        cipher.decrypt_into(memoryview(sealed(cipher, b"hello")), memoryview(bytearray(6)))


@pytest.mark.parametrize("size", [0, SEGMENT + 1])
def test_writing_a_segment_of_impossible_size_is_the_callers_mistake(size: int) -> None:
    with pytest.raises(TypeError):
        SegmentCipher([DataKey.generate()]).encrypt_into(bytes(size), memoryview(bytearray(size + OVERHEAD)))


def test_cipher_without_keys_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError):
        SegmentCipher([])


def test_nonces_differ() -> None:
    cipher = SegmentCipher([DataKey.generate()])
    assert len({bytes(sealed(cipher, b"same")[:12]) for _ in range(50)}) == 50


@given(st.integers(min_value=0, max_value=1 << 40))
def test_sizes_follow_from_each_other(plain: int) -> None:
    assert plain_size(cipher_size(plain)) == plain
    assert cipher_size(plain) == plain + OVERHEAD * segment_count(plain)


@pytest.mark.parametrize("rest", [1, OVERHEAD])
def test_size_that_no_writer_makes_is_refused(rest: int) -> None:
    with pytest.raises(FormatError, match="too few"):
        plain_size(CIPHER_SEGMENT + rest)


def test_one_cipher_serves_many_threads() -> None:
    cipher, plain = SegmentCipher([DataKey.generate()]), os.urandom(SEGMENT)
    segment = bytes(sealed(cipher, plain))
    wrong: list[int] = []

    def work() -> None:
        out = bytearray(SEGMENT)
        for _ in range(50):
            cipher.decrypt_into(memoryview(segment), memoryview(out))
            if out != plain:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_keys_are_not_printed() -> None:
    key = DataKey.generate()
    assert key.reveal().hex() not in repr(SegmentCipher([key]))


# --- several segments ---


def run_of(keys: list[DataKey], plains: list[bytes]) -> list[bytearray]:
    return [sealed(SegmentCipher([keys[i % len(keys)]]), plain) for i, plain in enumerate(plains)]


@pytest.mark.parametrize("count", [1, 2])
def test_run_decrypts_each_segment_into_its_place(count: int) -> None:
    keys = [DataKey.generate() for _ in range(count)]
    plains = [os.urandom(size) for size in (SEGMENT, SEGMENT, 1, 5000)]
    outs = [bytearray(len(plain)) for plain in plains]
    segments = [memoryview(segment) for segment in run_of(keys, plains)]
    assert SegmentCipher(keys).decrypt_run(segments, [memoryview(out) for out in outs]) == 4
    assert [bytes(out) for out in outs] == plains


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("wrong", [0, 2])
def test_run_stops_before_a_changed_segment_and_wipes_its_buffer(count: int, wrong: int) -> None:
    keys = [DataKey.generate() for _ in range(count)]
    plains = [b"\xaa" * 1000] * 4
    segments = run_of(keys, plains)
    segments[wrong][500] ^= 1
    outs = [bytearray(b"\xff" * 1000) for _ in plains]
    views = [memoryview(segment) for segment in segments]
    done = SegmentCipher(keys).decrypt_run(views, [memoryview(out) for out in outs])
    assert done == wrong
    expected = [*plains[:wrong], bytes(1000), *[b"\xff" * 1000] * (3 - wrong)]
    assert [bytes(out) for out in outs] == expected


@pytest.mark.parametrize("size", [0, 4, 6])
def test_run_with_a_buffer_of_a_wrong_size_is_refused(size: int) -> None:
    cipher = SegmentCipher([DataKey.generate()])
    with pytest.raises(FormatError):
        cipher.decrypt_run([memoryview(sealed(cipher, b"hello"))], [memoryview(bytearray(size))])


def test_run_of_a_segment_that_is_too_long_is_refused() -> None:
    cipher, size = SegmentCipher([DataKey.generate()]), SEGMENT + 1
    with pytest.raises(FormatError):
        cipher.decrypt_run([memoryview(bytes(size + OVERHEAD))], [memoryview(bytearray(size))])
