# SPDX-License-Identifier: BSD-3-Clause
"""Reading ranges, and every way in which a sealed file can be other than its manifest says."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    SEGMENT,
    DataKey,
    Header,
    SecretKey,
    SegmentCipher,
    make_header,
    open_header,
)
from sealroom.datasets import reader as reader_module
from sealroom.datasets import vault as vault_module
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.check import check_dataset, check_file
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.segment_list import SegmentList
from sealroom.datasets.vault import Vault
from sealroom.errors import AccessDeniedError, Error, IntegrityError, ProtocolError, StorageError
from support.sealed import PLAIN, Sealed

ECG = PLAIN["ecg.bin"]


def reader_of(
    sealed: Sealed, name: str = "ecg.bin", *, cache: int = 1 << 20, digests: bool = False
) -> SegmentReader:
    header = sealed.directory.read_headers(sealed.manifest)[name]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    entry = sealed.manifest.file(name)
    return SegmentReader(sealed.directory, entry, keys, cache=SegmentCache(cache), check_digests=digests)


# --- reading ---


@pytest.mark.parametrize("name", sorted(PLAIN))
@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_whole_files_read_right(sealed: Sealed, name: str, cache: int) -> None:
    reader = reader_of(sealed, name, cache=cache)
    assert reader.pread(0, reader.size) == PLAIN[name]


@given(
    offset=st.integers(0, len(ECG) + 10),
    length=st.integers(0, len(ECG) + 10),
    cache=st.sampled_from([0, 70_000]),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_range_reads_right(sealed: Sealed, offset: int, length: int, cache: int) -> None:
    assert reader_of(sealed, cache=cache).pread(offset, length) == ECG[offset : offset + length]


@pytest.mark.parametrize("delta", [-1, 0, 1])
@pytest.mark.parametrize("segment", [1, 2, 4])
def test_ranges_around_segment_boundaries_read_right(sealed: Sealed, segment: int, delta: int) -> None:
    reader, edge = reader_of(sealed), segment * SEGMENT + delta
    assert reader.pread(edge, SEGMENT) == ECG[edge : edge + SEGMENT]
    assert reader.pread(0, edge) == ECG[:edge]
    assert reader.pread(edge, len(ECG)) == ECG[edge:]


def test_buffer_beyond_the_end_is_left_alone(sealed: Sealed) -> None:
    buffer = bytearray(b"\xff" * 2000)
    assert reader_of(sealed).pread_into(len(ECG) - 1000, memoryview(buffer)) == 1000
    assert buffer == ECG[-1000:] + b"\xff" * 1000


def test_negative_offset_is_the_callers_mistake(sealed: Sealed) -> None:
    with pytest.raises(TypeError):
        reader_of(sealed).pread(-1, 1)


def test_many_threads_read_at_once(sealed: Sealed) -> None:
    reader = reader_of(sealed, cache=3 * SEGMENT)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(60):
            offset = (seed * 7919 + i * 104_729) % len(ECG)
            if reader.pread(offset, 100_000) != ECG[offset : offset + 100_000]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cache_stays_within_its_bytes(sealed: Sealed) -> None:
    cache = SegmentCache(2 * SEGMENT)
    header = sealed.directory.read_headers(sealed.manifest)["ecg.bin"]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    reader = SegmentReader(sealed.directory, sealed.manifest.file("ecg.bin"), keys, cache=cache)
    for i in range(5):
        reader.pread(i * SEGMENT + 1, 10)
        assert cache.size <= 2 * SEGMENT
    assert cache.size > 0


def test_cache_spares_the_file(sealed: Sealed) -> None:
    reader = reader_of(sealed)
    reader.pread(10, 10)
    os.truncate(reader.path, 0)
    assert reader.pread(20, 10) == ECG[20:30]


def test_readers_do_not_share_segments_in_a_cache(sealed: Sealed) -> None:
    cache = SegmentCache()
    first, second = cache.new_owner(), cache.new_owner()
    cache.put(first, 0, bytearray(b"mine"))
    assert cache.get(second, 0) is None
    cache.drop(first)
    assert (cache.get(first, 0), cache.size) == (None, 0)


def test_dropped_segments_are_overwritten() -> None:
    cache, segment = SegmentCache(), bytearray(b"secret")
    cache.put(owner := cache.new_owner(), 0, segment)
    cache.drop(owner)
    assert segment == bytes(6)


def test_descriptor_closes_with_the_reader(sealed: Sealed) -> None:
    reader = reader_of(sealed)
    fd = reader.source._fd  # type: ignore[attr-defined]
    os.fstat(fd)
    del reader
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_closed_reader_reads_nothing(sealed: Sealed) -> None:
    reader = reader_of(sealed)
    reader.pread(1, 1)
    reader.close()
    with pytest.raises(AccessDeniedError, match="not open"):
        reader.pread(1, 1)
    with pytest.raises(AccessDeniedError):
        reader.pread(0, len(ECG))


# --- tampering ---


def body(sealed: Sealed) -> tuple[Path, int, bytearray]:
    path = sealed.directory.sealed_file("ecg.bin")
    return path, sealed.manifest.file("ecg.bin").header_size, bytearray(path.read_bytes())


def segment(start: int, index: int) -> slice:
    return slice(start + index * CIPHER_SEGMENT, start + (index + 1) * CIPHER_SEGMENT)


def cut_inside_a_segment(sealed: Sealed) -> str:
    path, _, data = body(sealed)
    path.write_bytes(data[:-1])
    return "cut; 1 byte is missing, from segment 5 of 5 on"


def cut_at_a_boundary(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    path.write_bytes(data[: start + 2 * CIPHER_SEGMENT])
    return "from segment 3 of 5 on"


def cut_in_the_header(sealed: Sealed) -> str:
    path, _, data = body(sealed)
    path.write_bytes(data[:50])
    return "header"


def swapped(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    one, two = segment(start, 1), segment(start, 2)
    data[one], data[two] = data[two], data[one]
    path.write_bytes(data)
    return "segment 2 of 5 holds what belongs into segment 3"


def duplicated(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    data[segment(start, 3)] = data[segment(start, 0)]
    path.write_bytes(data)
    return "segment 4 of 5 holds what belongs into segment 1"


def appended(sealed: Sealed) -> str:
    path, _, data = body(sealed)
    path.write_bytes(data + data[-500:])
    return "500 bytes stand behind its last segment"


def injected_with_the_data_key(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    keys = open_header(Header.from_prefix(bytes(data)), sealed.dataset_key).data_keys
    evil = bytearray(CIPHER_SEGMENT)
    SegmentCipher(keys).encrypt_into(b"EVIL" * (SEGMENT // 4), memoryview(evil))
    data[segment(start, 1)] = evil
    path.write_bytes(data)
    return "segment 2 of 5 is not from the data owner"


def injected_with_a_header_packet(sealed: Sealed) -> str:
    """What a third party who knows only the public key can do, and plain Crypt4GH does not notice."""
    path, start, data = body(sealed)
    key, evil = DataKey.generate(), bytearray(CIPHER_SEGMENT)
    SegmentCipher([key]).encrypt_into(b"EVIL" * (SEGMENT // 4), memoryview(evil))
    data[segment(start, 1)] = evil
    header = Header.from_prefix(bytes(data))
    added = make_header([key], [sealed.dataset_key.public])
    path.write_bytes(Header((*header.packets, *added.packets)).to_bytes() + data[start:])
    return "header is not the one"


def flipped_in_cipher_text(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    data[start + 2 * CIPHER_SEGMENT + 500] ^= 1
    path.write_bytes(data)
    return "segment 3 of 5 was changed"


def flipped_in_tag(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    data[start + 3 * CIPHER_SEGMENT - 1] ^= 1
    path.write_bytes(data)
    return "segment 3 of 5 was changed"


def flipped_in_nonce(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    data[start + 2 * CIPHER_SEGMENT] ^= 1
    path.write_bytes(data)
    return "segment 3 of 5 is not from the data owner"


def flipped_in_header(sealed: Sealed) -> str:
    path, _, data = body(sealed)
    data[60] ^= 1
    path.write_bytes(data)
    return "header is not the one"


def other_file_of_the_dataset(sealed: Sealed) -> str:
    path, _, _ = body(sealed)
    path.write_bytes(sealed.directory.sealed_file("exact.bin").read_bytes())
    return "header is not the one"


def header_for_another_key(sealed: Sealed) -> str:
    path, start, data = body(sealed)
    path.write_bytes(
        make_header([DataKey.generate()], [SecretKey.generate().public]).to_bytes() + data[start:]
    )
    return "header is not the one"


def list_of_segments_cut(sealed: Sealed) -> str:
    path = sealed.directory.segment_list("ecg.bin")
    path.write_bytes(path.read_bytes()[:-60])
    return "list of its segments"


def list_of_segments_changed(sealed: Sealed) -> str:
    path = sealed.directory.segment_list("ecg.bin")
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.write_bytes(data)
    return "list of its segments"


def list_of_segments_too_long(sealed: Sealed) -> str:
    path = sealed.directory.segment_list("ecg.bin")
    path.write_bytes(path.read_bytes() + bytes(60))
    return "list of its segments"


def segment_and_list_replaced_together(sealed: Sealed) -> str:
    from sealroom.datasets.segment_list import record_of

    injected_with_the_data_key(sealed)
    _, start, data = body(sealed)
    path = sealed.directory.segment_list("ecg.bin")
    records = bytearray(path.read_bytes())
    records[60:120] = record_of(bytes(data[segment(start, 1)]))
    path.write_bytes(records)
    return "list of its segments"


TAMPERED: list[Callable[[Sealed], str]] = [
    cut_inside_a_segment,
    cut_at_a_boundary,
    cut_in_the_header,
    swapped,
    duplicated,
    appended,
    injected_with_the_data_key,
    injected_with_a_header_packet,
    flipped_in_cipher_text,
    flipped_in_tag,
    flipped_in_nonce,
    flipped_in_header,
    other_file_of_the_dataset,
    header_for_another_key,
    list_of_segments_cut,
    list_of_segments_changed,
    list_of_segments_too_long,
    segment_and_list_replaced_together,
]


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_tampered_file_is_refused_by_the_reader(sealed: Sealed, tamper: Callable[[Sealed], str]) -> None:
    headers = sealed.headers()
    words = tamper(sealed)
    vault = Vault()
    vault.add(sealed.manifest, sealed.directory, headers, sealed.reader_key)
    buffer = bytearray(b"\xff" * len(ECG))
    with pytest.raises(IntegrityError) as caught:
        vault.read_into("heartbeats", "ecg.bin", 0, memoryview(buffer))
    assert words in caught.value.message
    assert caught.value.message.startswith("ecg.bin: ")
    assert caught.value.advice
    assert set(buffer) <= {0, 0xFF}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_tampered_file_is_refused_by_the_check_without_a_key(
    sealed: Sealed, tamper: Callable[[Sealed], str]
) -> None:
    words = tamper(sealed)
    results = check_dataset(sealed.directory, sealed.manifest)
    error = results.pop("ecg.bin")
    assert isinstance(error, IntegrityError)
    assert words in error.message
    assert set(results.values()) == {None}


def test_untouched_parts_of_a_tampered_file_still_read(sealed: Sealed) -> None:
    flipped_in_cipher_text(sealed)
    reader = reader_of(sealed)
    assert reader.pread(0, 2 * SEGMENT) == ECG[: 2 * SEGMENT]
    assert reader.pread(3 * SEGMENT, SEGMENT) == ECG[3 * SEGMENT : 4 * SEGMENT]
    with pytest.raises(IntegrityError):
        reader.pread(2 * SEGMENT + 5, 1)


def forged_under_the_data_key(sealed: Sealed) -> None:
    """Change plaintext and keep nonce and tag, as far as anybody can: only the digest tells."""
    path, start, data = body(sealed)
    data[start + 100] ^= 1
    path.write_bytes(data)


def test_digests_are_compared_when_asked_for(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    forged_under_the_data_key(sealed)
    monkeypatch.setattr(SegmentCipher, "decrypt_run", lambda _self, segments, _outs: len(segments))
    assert len(reader_of(sealed).pread(0, 10)) == 10
    with pytest.raises(IntegrityError, match="segment 1 of 5 was changed"):
        reader_of(sealed, digests=True).pread(0, 10)


@given(position=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_flipped_bit_is_noticed(sealed: Sealed, position: int, bit: int) -> None:
    path, _, data = body(sealed)
    original = bytes(data)
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        with pytest.raises(IntegrityError):
            reader_of_untouched_keys(sealed, original).pread(0, len(ECG))
        with pytest.raises(IntegrityError):
            check_file(sealed.directory, sealed.manifest, sealed.manifest.file("ecg.bin"))
    finally:
        path.write_bytes(original)


def reader_of_untouched_keys(sealed: Sealed, original: bytes) -> SegmentReader:
    keys = open_header(Header.from_prefix(original), sealed.dataset_key).data_keys
    return SegmentReader(sealed.directory, sealed.manifest.file("ecg.bin"), keys, cache=SegmentCache())


def test_wrong_data_key_is_refused_and_leaves_zeros(sealed: Sealed) -> None:
    reader = SegmentReader(
        sealed.directory, sealed.manifest.file("ecg.bin"), [DataKey.generate()], cache=SegmentCache()
    )
    buffer = bytearray(b"\xff" * SEGMENT * 2)
    with pytest.raises(IntegrityError, match="segment 1"):
        reader.pread_into(0, memoryview(buffer))
    assert buffer == bytes(len(buffer))


def test_failure_later_in_a_range_wipes_its_beginning_too(sealed: Sealed) -> None:
    flipped_in_cipher_text(sealed)
    buffer = bytearray(b"\xff" * len(ECG))
    with pytest.raises(IntegrityError):
        reader_of(sealed).pread_into(0, memoryview(buffer))
    assert buffer == bytes(len(ECG))


def test_file_cut_while_it_is_open_is_refused(sealed: Sealed) -> None:
    reader = reader_of(sealed)
    os.truncate(reader.path, reader.entry.header_size + CIPHER_SEGMENT + 10)
    assert reader.pread(0, 10) == ECG[:10]
    with pytest.raises(IntegrityError, match="cut"):
        reader.pread(SEGMENT, 10)


def test_file_replaced_while_it_is_open_reads_as_before(sealed: Sealed) -> None:
    reader = reader_of(sealed)
    fresh = reader.path.with_name("fresh")
    fresh.write_bytes(b"something else")
    fresh.rename(reader.path)
    assert reader.pread(0, len(ECG)) == ECG


@pytest.mark.parametrize("which", ["sealed_file", "segment_list"])
def test_missing_file_is_a_storage_error(sealed: Sealed, which: str) -> None:
    before = reader_of(sealed)
    keys = [DataKey.generate()]
    getattr(sealed.directory, which)("ecg.bin").unlink()
    with pytest.raises(StorageError, match="is not there"):
        SegmentReader(sealed.directory, sealed.manifest.file("ecg.bin"), keys, cache=SegmentCache())
    assert before.pread(0, 10) == ECG[:10]


# --- the vault ---


def test_vault_reads_what_was_released(sealed: Sealed) -> None:
    vault = sealed.unlock(Vault())
    assert vault.holds("heartbeats")
    assert vault.datasets() == ("heartbeats",)
    assert [file.name for file in vault.files("heartbeats")] == sorted(PLAIN)
    for name, plain in PLAIN.items():
        buffer = bytearray(len(plain))
        assert vault.read_into("heartbeats", name, 0, memoryview(buffer)) == len(plain)
        assert buffer == plain


def test_locked_dataset_says_how_to_unlock(sealed: Sealed) -> None:
    with pytest.raises(AccessDeniedError, match="locked") as caught:
        Vault().files("heartbeats")
    assert 'sealroom.unlock("heartbeats")' in caught.value.advice


def test_dropped_dataset_tells_why_and_its_keys_are_wiped(sealed: Sealed) -> None:
    vault = sealed.unlock(Vault())
    held = [key for keys in vault._releases["heartbeats"].keys.values() for key in keys]
    vault.read_into("heartbeats", "ecg.bin", 10, memoryview(bytearray(10)))
    vault.drop("heartbeats", "The Heart Centre withdrew your access.", advice="Ask them.")
    assert not vault.holds("heartbeats")
    assert all(not any(key._raw) for key in held)
    assert vault._cache.size == 0
    for use in (
        lambda: vault.files("heartbeats"),
        lambda: vault.read_into("heartbeats", "ecg.bin", 0, memoryview(b"")),
    ):
        with pytest.raises(AccessDeniedError, match="withdrew") as caught:
            use()
        assert caught.value.advice == "Ask them."


def test_drop_all_drops_all(sealed: Sealed) -> None:
    vault = sealed.unlock(Vault())
    vault.drop_all("This server lost its trust.")
    assert vault.datasets() == ()
    with pytest.raises(AccessDeniedError, match="lost its trust"):
        vault.manifest("heartbeats")


def test_drop_during_a_read_fails_the_read(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = sealed.unlock(Vault())
    original = SegmentCipher.decrypt_run

    def drop_first(self: SegmentCipher, segments: list[memoryview], outs: list[memoryview]) -> int:
        vault.drop("heartbeats", "Withdrawn in the middle.")
        return original(self, segments, outs)

    monkeypatch.setattr(SegmentCipher, "decrypt_run", drop_first)
    for offset, length in ((0, len(ECG)), (10, 10), (0, SEGMENT)):
        monkeypatch.setattr(SegmentCipher, "decrypt_run", original)
        sealed.unlock(vault)
        monkeypatch.setattr(SegmentCipher, "decrypt_run", drop_first)
        buffer = bytearray(b"\xff" * length)
        with pytest.raises(AccessDeniedError, match="in the middle"):
            vault.read_into("heartbeats", "ecg.bin", offset, memoryview(buffer))
        assert buffer == bytes(length)
    assert vault._cache.size == 0


def test_new_release_during_a_read_lets_the_read_go_on(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = sealed.unlock(Vault())
    original = SegmentCipher.decrypt_run

    def release_first(self: SegmentCipher, segments: list[memoryview], outs: list[memoryview]) -> int:
        monkeypatch.setattr(SegmentCipher, "decrypt_run", original)
        sealed.unlock(vault)
        return original(self, segments, outs)

    monkeypatch.setattr(SegmentCipher, "decrypt_run", release_first)
    buffer = bytearray(len(ECG))
    vault.read_into("heartbeats", "ecg.bin", 0, memoryview(buffer))
    assert buffer == ECG


def test_only_so_many_files_stay_open(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "_MOST_OPEN", 2)
    vault = sealed.unlock(Vault())
    for _ in range(3):
        for name, plain in PLAIN.items():
            buffer = bytearray(len(plain))
            vault.read_into("heartbeats", name, 0, memoryview(buffer))
            assert buffer == plain
            assert len(vault._releases["heartbeats"].readers) <= 2


def test_drop_reaches_a_read_whose_file_does_not_stay_open(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "_MOST_OPEN", 1)
    vault = sealed.unlock(Vault())
    original = SegmentCipher.decrypt_run

    def others_first(self: SegmentCipher, segments: list[memoryview], outs: list[memoryview]) -> int:
        monkeypatch.setattr(SegmentCipher, "decrypt_run", original)
        vault.read_into("heartbeats", "exact.bin", 0, memoryview(bytearray(10)))
        assert list(vault._releases["heartbeats"].readers) == ["exact.bin"]
        vault.drop("heartbeats", "Withdrawn in the middle.")
        return original(self, segments, outs)

    monkeypatch.setattr(SegmentCipher, "decrypt_run", others_first)
    buffer = bytearray(b"\xff" * len(ECG))
    with pytest.raises(AccessDeniedError, match="in the middle"):
        vault.read_into("heartbeats", "ecg.bin", 0, memoryview(buffer))
    assert buffer == bytes(len(ECG))


def test_file_that_is_opened_while_access_ends_is_closed(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = sealed.unlock(Vault())
    original = reader_module.load_segment_list

    def drop_first(*place: Any) -> SegmentList:
        vault.drop("heartbeats", "Withdrawn meanwhile.")
        return original(*place)

    monkeypatch.setattr(reader_module, "load_segment_list", drop_first)
    with pytest.raises(AccessDeniedError, match="meanwhile"):
        vault.read_into("heartbeats", "ecg.bin", 0, memoryview(bytearray(10)))


def test_release_ends_at_its_time(sealed: Sealed) -> None:
    now = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
    vault = Vault(clock=lambda: now)
    sealed.unlock(vault, until=now + timedelta(minutes=5))
    assert vault.holds("heartbeats")
    now += timedelta(minutes=5)
    with pytest.raises(AccessDeniedError, match="ended at 2026-11-02 10:05 UTC") as caught:
        vault.read_into("heartbeats", "ecg.bin", 0, memoryview(bytearray(1)))
    assert "data@heart.example" in caught.value.advice
    assert vault.datasets() == ()


def test_unlocking_again_after_a_drop_works(sealed: Sealed) -> None:
    vault = sealed.unlock(Vault())
    vault.drop("heartbeats", "gone")
    sealed.unlock(vault)
    assert vault.read_into("heartbeats", "ecg.bin", 0, memoryview(bytearray(1))) == 1


def test_unknown_file_is_refused(sealed: Sealed) -> None:
    with pytest.raises(StorageError, match="no file") as caught:
        sealed.unlock(Vault()).read_into("heartbeats", "../secret", 0, memoryview(bytearray(1)))
    assert "ecg.bin" in caught.value.advice


def test_release_that_lacks_a_header_is_refused(sealed: Sealed) -> None:
    headers = sealed.headers()
    del headers["ecg.bin"]
    with pytest.raises(ProtocolError, match="3 headers for the 4 files"):
        Vault().add(sealed.manifest, sealed.directory, headers, sealed.reader_key)


def test_release_for_another_server_is_refused(sealed: Sealed) -> None:
    vault = Vault()
    with pytest.raises(Error, match="does not open"):
        vault.add(sealed.manifest, sealed.directory, sealed.headers(), SecretKey.generate())
    assert vault.datasets() == ()


def test_release_with_an_edit_list_is_refused(sealed: Sealed) -> None:
    headers = sealed.headers()
    edited = make_header([DataKey.generate()], [sealed.reader_key.public], edit_list=[0, 10])
    headers["ecg.bin"] = edited.to_bytes()
    with pytest.raises(Error, match="edit list") as caught:
        Vault().add(sealed.manifest, sealed.directory, headers, sealed.reader_key)
    assert caught.value.message.startswith("ecg.bin")


def test_nothing_secret_is_printed(sealed: Sealed) -> None:
    vault = sealed.unlock(Vault())
    keys = [key.reveal().hex() for group in vault._releases["heartbeats"].keys.values() for key in group]
    shown = repr(vault) + repr(vault._releases) + repr(reader_of(sealed))
    assert not any(key in shown for key in keys)
