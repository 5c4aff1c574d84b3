# SPDX-License-Identifier: BSD-3-Clause
"""Sealed datasets in a real S3 server, and what happens when it is slow, busy, gone or lies."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sealroom.crypt4gh import SEGMENT, Header, open_header
from sealroom.datasets import s3_source
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.check import check_dataset
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.s3_source import S3Options, S3Source, split_location
from sealroom.datasets.source import open_source
from sealroom.datasets.store import DatasetDirectory, find_dataset, iter_datasets
from sealroom.datasets.vault import Vault
from sealroom.errors import ConfigurationError, Error, IntegrityError, StorageError
from support.s3 import (
    BUCKET,
    FaultyProxy,
    S3Server,
    broken_off,
    flipped,
    reset,
    short,
    slow,
    status,
    without,
)
from support.sealed import PLAIN, Sealed

ECG = PLAIN["ecg.bin"]
QUICK: dict[str, Any] = {"retries": 2, "patience": 5.0, "timeout": 5.0}


@pytest.fixture
def place(s3: S3Server, sealed: Sealed) -> Iterator[str]:
    """The sealed dataset in the bucket."""
    target = s3.bucket / "sealed" / "heartbeats"
    shutil.copytree(sealed.root / "heartbeats", target)
    yield f"s3://{BUCKET}/sealed/heartbeats"
    shutil.rmtree(s3.bucket / "sealed")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3) as made:
        yield made


def put(key: str, data: bytes) -> None:
    import obstore

    obstore.put(s3_source.bucket_store(BUCKET), key, data)


def through(proxy: FaultyProxy, s3: S3Server, key: str, **more: Any) -> S3Source:
    options = s3.options(proxy.endpoint, **{**QUICK, **more})
    return S3Source(BUCKET, key, options=options, sleep=lambda _: None)


def pread(source: S3Source, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: source.pread_into(offset, memoryview(buffer))])


# --- the same as a directory ---


def test_dataset_in_s3_reads_as_one_on_disk(place: str, sealed: Sealed) -> None:
    directory = DatasetDirectory(place)
    assert directory.read_manifest() == sealed.directory.read_manifest()
    assert directory.read_headers(sealed.manifest) == sealed.directory.read_headers(sealed.manifest)
    vault = Vault()
    vault.add(sealed.manifest, directory, sealed.headers(), sealed.reader_key)
    for name, plain in PLAIN.items():
        buffer = bytearray(len(plain))
        assert vault.read_into("heartbeats", name, 0, memoryview(buffer)) == len(plain)
        assert buffer == plain
    part = bytearray(70_000)
    vault.read_into("heartbeats", "ecg.bin", 60_000, memoryview(part))
    assert part == ECG[60_000:130_000]


def test_dataset_in_s3_is_checked_like_one_on_disk(place: str, sealed: Sealed, s3: S3Server) -> None:
    directory = DatasetDirectory(place)
    assert set(check_dataset(directory, sealed.manifest, secret=sealed.dataset_key).values()) == {None}
    path = s3.bucket / "sealed" / "heartbeats" / "ecg.bin.c4gh"
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    error = check_dataset(directory, sealed.manifest)["ecg.bin"]
    assert isinstance(error, IntegrityError)
    assert "segment 2 of 5 was changed" in error.message


@pytest.mark.usefixtures("place")
def test_datasets_are_found_in_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    (s3.bucket / "sealed" / "not-a-dataset").mkdir()
    (s3.bucket / "sealed" / "not-a-dataset" / "file").touch()
    there = f"s3://{BUCKET}/sealed"
    assert [(name, found.location) for name, found in iter_datasets([tmp_path, there])] == [
        ("heartbeats", f"{there}/heartbeats")
    ]
    assert find_dataset("heartbeats", [tmp_path, there + "/"]).location == f"{there}/heartbeats"
    with pytest.raises(StorageError, match="not on this machine"):
        find_dataset("absent", [there])


def test_manifest_that_is_too_large_is_not_read(place: str, s3: S3Server) -> None:
    path = s3.bucket / "sealed" / "heartbeats" / "dataset.json.sig"
    path.write_bytes(bytes(5000))
    with pytest.raises(StorageError, match="larger than 4096"):
        DatasetDirectory(place).read_manifest()


@pytest.mark.usefixtures("s3")
def test_object_that_is_not_there_says_so() -> None:
    with pytest.raises(StorageError, match="is not there"):
        open_source(f"s3://{BUCKET}/no/such/object")
    assert not DatasetDirectory(f"s3://{BUCKET}/no").exists()


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (1000, 5000), (0, 100_000), (99_990, 50), (100_000, 5), (200_000, 5)]
)
def test_ranges_of_an_object_read_right(offset: int, length: int) -> None:
    data = os.urandom(100_000)
    put("ranges.bin", data)
    source = S3Source(BUCKET, "ranges.bin")
    assert pread(source, offset, length) == data[offset : offset + length]
    assert bytes(source.view(offset, length)) == data[offset : offset + length]


def test_names_of_locations() -> None:
    assert split_location("s3://bucket/a/b") == ("bucket", "a/b")
    assert split_location("s3://bucket") == ("bucket", "")
    for wrong in ("s3:///key", "bucket/key"):
        with pytest.raises(ConfigurationError):
            split_location(wrong)
    with pytest.raises(ConfigurationError, match="names a bucket"):
        open_source("s3://bucket")


# --- replaced and changed ---


@pytest.mark.usefixtures("s3")
def test_replaced_object_is_refused() -> None:
    put("replaced.bin", b"one" * 1000)
    source = S3Source(BUCKET, "replaced.bin")
    assert source.identity().startswith('"')
    put("replaced.bin", b"two" * 1000)
    with pytest.raises(IntegrityError, match="the file was replaced while it was open"):
        pread(source, 0, 5)


def test_object_without_a_tag_is_pinned_by_its_time(s3: S3Server) -> None:
    path = s3.bucket / "untagged.bin"
    path.write_bytes(b"one" * 1000)
    source = S3Source(BUCKET, "untagged.bin")
    assert pread(source, 0, 3) == b"one"
    path.write_bytes(b"two" * 1000)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


def test_every_range_is_asked_for_on_condition_that_the_object_is_the_same(
    s3: S3Server, proxy: FaultyProxy
) -> None:
    put("conditional.bin", b"one" * 1000)
    source = through(proxy, s3, "conditional.bin")
    begun = len(proxy.asked)
    assert pread(source, 0, 3) + pread(source, 2997, 3) == b"oneone"
    ranges, tags = zip(*proxy.asked[begun:], strict=True)
    assert ranges == ("bytes=0-2", "bytes=2997-2999")
    assert len(set(tags)) == 1
    assert tags[0].strip('"')


def test_server_that_ignores_the_condition_is_noticed(s3: S3Server, proxy: FaultyProxy) -> None:
    put("ignored.bin", b"one" * 1000)
    source = through(proxy, s3, "ignored.bin")
    proxy.faults = [lambda answer: answer.headers.append(("ETag", '"another"'))]
    proxy.faults.insert(0, without("etag"))
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


def test_replaced_object_reaches_the_reader(place: str, sealed: Sealed, s3: S3Server) -> None:
    reader = reader_in_s3(place, sealed)
    assert reader.pread(0, 10) == ECG[:10]
    path = s3.bucket / "sealed" / "heartbeats" / "ecg.bin.c4gh"
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with pytest.raises(IntegrityError, match="the file was replaced while it was open"):
        reader.pread(2 * SEGMENT, 10)
    assert reader.pread(5, 10) == ECG[5:15]


def reader_in_s3(place: str, sealed: Sealed) -> SegmentReader:
    directory = DatasetDirectory(place)
    header = directory.read_headers(sealed.manifest)["ecg.bin"]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    return SegmentReader(directory, sealed.manifest.file("ecg.bin"), keys, cache=SegmentCache())


def test_change_on_the_way_is_refused_with_its_segment(
    place: str, sealed: Sealed, s3: S3Server, proxy: FaultyProxy
) -> None:
    s3_source.configure(s3.options(proxy.endpoint, **QUICK))
    reader = reader_in_s3(place, sealed)
    proxy.faults = [flipped(70_000)]
    with pytest.raises(IntegrityError, match="segment 2 of 5 was changed"):
        reader.pread(0, len(ECG))
    assert reader.pread(0, len(ECG)) == ECG


# --- a server in trouble ---


@pytest.mark.parametrize(
    "faults",
    [
        [status(503, "SlowDown")],
        [status(500), status(502)],
        [broken_off(10)],
        [broken_off(0)],
        [reset],
        [short(1)],
        [short(90)],
        [status(429, "TooManyRequests"), status(429)],
        [slow(0.2)],
    ],
    ids=[
        "503", "500 then 502", "broken off", "nothing", "reset", "one byte short", "few bytes", "429", "slow",
    ],
)  # fmt: skip
def test_trouble_that_passes_is_not_seen(s3: S3Server, proxy: FaultyProxy, faults: list[Any]) -> None:
    data = os.urandom(1000)
    put("trouble.bin", data)
    source = through(proxy, s3, "trouble.bin")
    proxy.faults = faults
    assert pread(source, 100, 100) == data[100:200]
    assert not proxy.faults


@pytest.mark.parametrize(
    ("fault", "more", "words"),
    [
        (status(503), {}, "the server answers 503"),
        (short(10), {}, "90 of 100 bytes"),
        (broken_off(10), {}, "cannot be read"),
        (reset, {}, "cannot be read"),
        (status(429), {}, "busy"),
        (slow(1.0), {"timeout": 0.3, "patience": 1.5}, "too slow|does not answer"),
    ],
    ids=["503", "short", "broken off", "reset", "429", "slow"],
)
def test_trouble_that_stays_is_an_error_and_gives_no_bytes(
    s3: S3Server, proxy: FaultyProxy, fault: Any, more: dict[str, Any], words: str
) -> None:
    put("trouble.bin", bytes(1000))
    source = through(proxy, s3, "trouble.bin", **{"retries": 1, **more})
    proxy.faults = [fault] * 40
    buffer = bytearray(b"\xff" * 100)
    with pytest.raises(StorageError, match=words) as caught:
        source.pread_into(100, memoryview(buffer))
    assert buffer == b"\xff" * 100
    assert caught.value.advice


def test_server_that_is_gone_is_an_error_and_comes_back(s3: S3Server) -> None:
    put("gone.bin", b"here" * 100)
    source = S3Source(BUCKET, "gone.bin", options=s3.options(retries=1, patience=1.0))
    s3.stop()
    try:
        with pytest.raises(StorageError, match="does not answer"):
            pread(source, 0, 4)
    finally:
        s3.start()
    assert pread(source, 0, 4) == b"here"


def test_wrong_credentials_are_said_and_not_shown(s3: S3Server) -> None:
    put("private.bin", b"x")
    options = s3.options(secret_access_key="wrong-" + "s" * 20)
    with pytest.raises(StorageError, match="may not be read with these credentials") as caught:
        S3Source(BUCKET, "private.bin", options=options)
    text = caught.value.diagnostics() + repr(options)
    assert "wrong-" not in text
    assert s3.access_key not in text


def test_nothing_secret_is_printed(s3: S3Server) -> None:
    put("shown.bin", b"x")
    source = S3Source(BUCKET, "shown.bin")
    shown = repr(source) + repr(s3.options()) + source.name + source.identity()
    assert s3.secret_key not in shown
    assert s3.access_key not in shown


def test_credentials_come_from_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    put("environment.bin", b"found")
    variables = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Another number of retries, so that nothing made before is used.
    source = S3Source(BUCKET, "environment.bin", options=S3Options(retries=3))
    assert pread(source, 0, 5) == b"found"


def test_options_that_cannot_be_used_are_refused_without_showing_them() -> None:
    options = S3Options(endpoint="no address at all", secret_access_key="s" * 30, retries=1, patience=1)
    with pytest.raises(Error) as caught:
        S3Source(BUCKET, "x", options=options)
    assert "s" * 30 not in caught.value.diagnostics()


def test_without_obstore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(s3_source, "import_module", absent)
    with pytest.raises(ConfigurationError, match="needs the package obstore") as caught:
        S3Source(BUCKET, "x", options=S3Options(retries=4))
    assert "sealroom[s3]" in caught.value.advice


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_child_is_refused_and_not_killed(s3: S3Server) -> None:
    put("forked.bin", b"here")
    source = S3Source(BUCKET, "forked.bin")
    assert pread(source, 0, 4) == b"here"
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pread(source, 0, 4)
            said = b"read"
        except Error as error:
            said = error.message.encode()
        os.write(sending, said)
        os._exit(0)
    _, code = os.waitpid(child, 0)
    assert code == 0
    assert b"forked from one that has read from it" in os.read(receiving, 1000)
    for end in (receiving, sending):
        os.close(end)
    assert pread(source, 0, 4) == b"here"


def test_reader_in_s3_is_not_pickled(place: str, sealed: Sealed) -> None:
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(reader_in_s3(place, sealed))
