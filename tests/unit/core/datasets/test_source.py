# SPDX-License-Identifier: BSD-3-Clause
"""Where sealed bytes come from: files, mapped or not, headers kept apart, and web servers."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom.crypt4gh import CIPHER_SEGMENT, SEGMENT, Header, open_header
from sealroom.datasets import source as source_module
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.http_source import TRIES, HttpSource
from sealroom.datasets.reader import SegmentReader, load_segment_list
from sealroom.datasets.source import (
    HeaderAndBody,
    LocalSource,
    Source,
    SourceStream,
    cannot_be_cut,
    open_source,
)
from sealroom.datasets.store import DatasetDirectory, directories_from_environment, find_dataset
from sealroom.errors import ConfigurationError, Error, IntegrityError, StorageError
from support.sealed import PLAIN, Sealed

DATA = bytes(range(256)) * 400
ECG = PLAIN["ecg.bin"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


def pread(source: Source, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: source.pread_into(offset, memoryview(buffer))])


RANGES = [(0, 10), (1000, 5000), (0, len(DATA)), (len(DATA) - 3, 10), (len(DATA), 5), (len(DATA) + 9, 5)]


# --- files ---


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_file_reads_right(path: Path, mapped: bool, offset: int, length: int) -> None:
    source = open_source(path, mapped=mapped)
    assert source.size == len(DATA)
    assert pread(source, offset, length) == DATA[offset : offset + length]
    view = source.view(offset, length)
    assert (view is not None) == mapped
    if view is not None:
        assert view == DATA[offset : offset + length]
        assert view.readonly
    source.close()


def test_path_as_text_is_a_path(path: Path) -> None:
    source = open_source(str(path))
    assert isinstance(source, LocalSource)
    assert source.path == path


def test_view_is_the_map_itself(path: Path) -> None:
    source = LocalSource(path, mapped=True)
    view = source.view(0, 4)
    assert view is not None
    with path.open("r+b") as stream:
        stream.write(b"seen")
    assert bytes(view) == b"seen"


def test_long_mapped_reads_let_go_of_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_MAPPED_AT_ONCE", 1000)
    source = LocalSource(path, mapped=True)
    for offset in range(0, len(DATA), 700):
        assert bytes(source.view(offset, 700) or b"") == DATA[offset : offset + 700]


def test_file_that_can_be_cut_is_not_mapped(path: Path) -> None:
    assert not LocalSource(path).mapped


def test_immutable_file_is_mapped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda _fd, _op, value: (0x10).to_bytes(len(value), "little"))
    assert LocalSource(path).mapped


def test_file_with_verity_is_mapped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda _fd, _op, value: (0x100000).to_bytes(len(value), "little"))
    assert LocalSource(path).mapped


@pytest.mark.parametrize(
    ("kind", "mount", "super_options", "expected"),
    [
        ("ext4", "ro", "ro,errors=remount-ro", True),
        ("squashfs", "ro", "ro", True),
        ("ext4", "ro", "rw", False),
        ("ext4", "rw", "rw", False),
        ("nfs4", "ro", "ro,vers=4.2", False),
        ("fuse.quobyte", "ro", "ro", False),
    ],
)
def test_only_a_local_file_system_that_is_read_only_as_a_whole_counts(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    mount: str,
    super_options: str,
    expected: bool,
) -> None:
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    line = f"36 35 {number} / /data {mount},noatime shared:1 - {kind} /dev/x {super_options}"
    monkeypatch.setattr(Path, "read_text", lambda _self, **_: f"1 0 99:99 / / ro - ext4 /dev/y ro\n{line}\n")
    monkeypatch.setattr("fcntl.ioctl", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTTY, "no")))
    with path.open("rb") as stream:
        assert cannot_be_cut(stream.fileno()) is expected


def test_empty_file_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    source = LocalSource(tmp_path / "empty", mapped=True)
    assert (source.size, source.mapped, pread(source, 0, 5)) == (0, False, b"")


def test_identity_changes_when_the_file_is_written_to(path: Path) -> None:
    source = LocalSource(path)
    before = source.identity()
    assert source.identity() == before
    os.utime(path, ns=(1, 1))
    assert source.identity() != before


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not there"):
        open_source(tmp_path / "absent")


def test_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a file"):
        open_source(tmp_path)


def test_pipe_in_the_place_of_a_file_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="is not a file"):
        open_source(tmp_path / "pipe")


def test_stale_handle_of_a_network_file_system_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LocalSource(path)

    def stale(*_: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "preadv", stale)
    with pytest.raises(StorageError, match="the file was replaced while it was open"):
        pread(source, 0, 5)


@pytest.mark.parametrize("location", ["ftp://host/file", "file:///x", "gopher://x"])
def test_unknown_kind_of_location_is_refused(location: str) -> None:
    with pytest.raises(ConfigurationError, match="are not read from"):
        open_source(location)


def test_stream_over_a_source_leaves_it_open(path: Path) -> None:
    source = LocalSource(path)
    with SourceStream(source) as stream:
        assert stream.read(5) == DATA[:5]
        assert stream.read() == DATA[5:]
    assert pread(source, 0, 5) == DATA[:5]


# --- header here, body there ---


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_header_and_body_read_as_one(tmp_path: Path, mapped: bool, offset: int, length: int) -> None:
    (tmp_path / "body").write_bytes(DATA[3000:])
    both = HeaderAndBody(DATA[:3000], LocalSource(tmp_path / "body", mapped=mapped))
    assert both.size == len(DATA)
    assert pread(both, offset, length) == DATA[offset : offset + length]
    view = both.view(offset, length)
    if view is not None:
        assert view == DATA[offset : offset + length]
    assert both.view(2990, 20) is None


def test_reader_of_a_header_and_a_body(sealed: Sealed, tmp_path: Path) -> None:
    entry = sealed.manifest.file("ecg.bin")
    whole = sealed.directory.sealed_file("ecg.bin").read_bytes()
    (tmp_path / "body").write_bytes(whole[entry.header_size :])
    keys = open_header(Header.from_prefix(whole), sealed.dataset_key).data_keys
    reader = SegmentReader(
        HeaderAndBody(whole[: entry.header_size], LocalSource(tmp_path / "body")),
        entry,
        keys,
        cache=SegmentCache(),
        segments=load_segment_list(sealed.directory, entry),
    )
    assert reader.pread(0, len(ECG)) == ECG
    assert reader.pread(70_000, 100) == ECG[70_000:70_100]


def test_reader_of_another_header_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    entry = sealed.manifest.file("ecg.bin")
    whole = sealed.directory.sealed_file("ecg.bin").read_bytes()
    (tmp_path / "body").write_bytes(whole[entry.header_size :])
    source = HeaderAndBody(bytes(entry.header_size), LocalSource(tmp_path / "body"))
    keys = open_header(Header.from_prefix(whole), sealed.dataset_key).data_keys
    segments = load_segment_list(sealed.directory, entry)
    with pytest.raises(IntegrityError, match="header is not the one"):
        SegmentReader(source, entry, keys, cache=SegmentCache(), segments=segments)


def test_reader_of_a_source_needs_the_list(path: Path, sealed: Sealed) -> None:
    keys = open_header(
        Header.from_bytes(sealed.directory.read_headers(sealed.manifest)["ecg.bin"]), sealed.dataset_key
    ).data_keys
    with pytest.raises(TypeError, match="list of its segments"):
        SegmentReader(LocalSource(path), sealed.manifest.file("ecg.bin"), keys, cache=SegmentCache())


@pytest.mark.parametrize("mapped", [False, True])
def test_mapped_reader_reads_the_same(sealed: Sealed, mapped: bool) -> None:
    header = sealed.directory.read_headers(sealed.manifest)["ecg.bin"]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    entry = sealed.manifest.file("ecg.bin")
    reader = SegmentReader(sealed.directory, entry, keys, cache=SegmentCache(), mapped=mapped)
    for offset, length in ((0, len(ECG)), (SEGMENT - 5, 10), (3 * SEGMENT, SEGMENT), (100, 2 * SEGMENT)):
        assert reader.pread(offset, length) == ECG[offset : offset + length]


def test_change_in_place_is_named_when_a_segment_is_refused(sealed: Sealed) -> None:
    header = sealed.directory.read_headers(sealed.manifest)["ecg.bin"]
    keys = open_header(Header.from_bytes(header), sealed.dataset_key).data_keys
    entry = sealed.manifest.file("ecg.bin")
    reader = SegmentReader(sealed.directory, entry, keys, cache=SegmentCache())
    with reader.path.open("r+b") as stream:
        stream.seek(entry.header_size + CIPHER_SEGMENT + 100)
        stream.write(b"somebody else")
    assert reader.pread(0, 10) == ECG[:10]
    with pytest.raises(IntegrityError, match=r"segment 2 of 5 .*replaced while it was open or written to"):
        reader.pread(SEGMENT, 10)


# --- directories ---


def test_directories_may_lie_in_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALROOM_DATASETS", "/data/one:s3://bucket/sealed:/data/two")
    found = directories_from_environment()
    assert found == (Path("/data/one"), "s3://bucket/sealed", Path("/data/two"))


def test_dataset_in_s3_has_no_path() -> None:
    directory = DatasetDirectory("s3://bucket/sealed/heartbeats")
    assert directory.far
    with pytest.raises(ConfigurationError, match="not on this machine"):
        directory.sealed_file("ecg.bin")


def test_dataset_is_found_by_its_directory(sealed: Sealed) -> None:
    assert find_dataset("heartbeats", [sealed.root]) == DatasetDirectory(sealed.root / "heartbeats")
    with pytest.raises(StorageError, match="not on this machine"):
        find_dataset("absent", [sealed.root])


def test_name_that_climbs_opens_nothing(sealed: Sealed) -> None:
    with pytest.raises(Error, match="not a usable name"):
        sealed.directory.sealed_source("../heartbeats/ecg.bin")


# --- web servers ---


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are what is tested."""


class Web:
    """A web server with one file."""

    def __init__(self) -> None:
        self.data = DATA
        self.tag = '"one"'
        self.changed = "Tue, 24 Nov 2026 10:00:00 GMT"
        self.respects_pin = True
        self.faults: list[Callable[[Any], bool]] = []
        self.requests: list[dict[str, str]] = []
        self._clients: list[httpx.Client] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.requests.append(dict(self.headers))
                if web.faults and web.faults.pop(0)(self):
                    return
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = (
            f"http://127.0.0.1:{self._server.server_address[1]}/dir/data.c4gh?X-Amz-Signature=topsecret"
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, to: Any) -> None:
        first, last = (int(part) for part in to.headers["Range"].removeprefix("bytes=").split("-"))
        pinned = to.headers.get("If-Match")
        if self.respects_pin and pinned is not None and pinned != self.tag:
            self.send(to, 412, b"")
            return
        if first >= len(self.data):
            self.send(to, 416, b"", f"bytes */{len(self.data)}")
            return
        part = self.data[first : last + 1]
        self.send(to, 206, part, f"bytes {first}-{first + len(part) - 1}/{len(self.data)}")

    def send(self, to: Any, status: int, body: bytes, content_range: str = "", length: int = -1) -> None:
        to.send_response(status)
        if content_range:
            to.send_header("Content-Range", content_range)
        for name, value in (("ETag", self.tag), ("Last-Modified", self.changed)):
            if value:
                to.send_header(name, value)
        to.send_header("Content-Length", str(len(body) if length < 0 else length))
        to.end_headers()
        to.wfile.write(body)

    def instead(
        self, status: int, body: bytes = b"", content_range: str = "", length: int = -1
    ) -> Callable[[Any], bool]:
        def fault(to: Any) -> bool:
            self.send(to, status, body, content_range, length)
            to.close_connection = length >= 0
            return True

        return fault

    def status(self, code: int) -> Callable[[Any], bool]:
        return self.instead(code)

    def client(self) -> httpx.Client:
        self._clients.append(httpx.Client(trust_env=False, timeout=5))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


def http_source(web: Web, **more: Any) -> HttpSource:
    return HttpSource(web.url, http=web.client(), sleep=lambda _: None, **more)


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_ranges_of_a_web_server_read_right(web: Web, offset: int, length: int) -> None:
    source = http_source(web)
    assert source.size == len(DATA)
    assert pread(source, offset, length) == DATA[offset : offset + length]
    view = source.view(offset, length)
    assert view is not None
    assert view == DATA[offset : offset + length]


def test_address_is_opened_by_its_scheme(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = open_source(web.url)
    assert isinstance(source, HttpSource)
    assert pread(source, 5, 5) == DATA[5:10]
    source.close()


def test_signature_of_an_address_is_not_shown(web: Web) -> None:
    source = http_source(web, headers={"Authorization": "Bearer tokentoken"})
    web.faults = [web.status(403)]
    with pytest.raises(StorageError, match="may not be read") as caught:
        pread(source, 0, 5)
    shown = repr(source) + source.name + caught.value.diagnostics() + source.identity()
    assert "topsecret" not in shown
    assert "tokentoken" not in shown
    assert web.requests[-1]["Authorization"] == "Bearer tokentoken"


@pytest.mark.parametrize("respects_pin", [True, False])
def test_replaced_file_of_a_web_server_is_refused(web: Web, respects_pin: bool) -> None:
    source = http_source(web)
    web.tag, web.data, web.respects_pin = '"two"', DATA[::-1], respects_pin
    with pytest.raises(IntegrityError, match="the file was replaced while it was open"):
        pread(source, 0, 5)


def test_without_a_tag_the_time_is_pinned(web: Web) -> None:
    web.tag = ""
    source = http_source(web)
    pread(source, 0, 5)
    assert web.requests[-1]["If-Unmodified-Since"] == web.changed
    web.changed = "Tue, 24 Nov 2026 11:00:00 GMT"
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


def test_weak_tag_is_compared_and_not_demanded(web: Web) -> None:
    web.tag = 'W/"one"'
    source = http_source(web)
    assert pread(source, 0, 5) == DATA[:5]
    assert "If-Match" not in web.requests[-1]
    web.tag = 'W/"two"'
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


def test_grown_file_of_a_web_server_is_refused(web: Web) -> None:
    source = http_source(web)
    web.data += b"more"
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_busy_web_server_is_asked_again(web: Web, code: int) -> None:
    source = http_source(web)
    web.faults = [web.status(code)] * (TRIES - 1)
    assert pread(source, 100, 50) == DATA[100:150]


def test_pauses_between_tries_grow_and_are_bounded(web: Web) -> None:
    slept: list[float] = []
    source = HttpSource(web.url, http=web.client(), sleep=slept.append)
    web.faults = [web.status(503)] * (TRIES - 1)
    pread(source, 0, 5)
    assert len(slept) == TRIES - 1
    for number, pause in enumerate(slept):
        assert 0.05 * 2**number <= pause <= 0.1 * 2**number


def test_web_server_that_stays_busy_is_an_error(web: Web) -> None:
    source = http_source(web)
    web.faults = [web.status(503)] * TRIES
    with pytest.raises(StorageError, match="it answers 503"):
        pread(source, 0, 5)


def test_answer_that_breaks_off_is_asked_for_again(web: Web) -> None:
    source = http_source(web)
    web.faults = [web.instead(206, DATA[:20], f"bytes 0-99/{len(DATA)}", 100)]
    assert pread(source, 0, 100) == DATA[:100]


def test_answer_that_is_too_short_is_never_padded(web: Web) -> None:
    source = http_source(web)
    web.faults = [web.instead(206, DATA[:20], f"bytes 0-99/{len(DATA)}")] * TRIES
    buffer = bytearray(b"\xff" * 100)
    with pytest.raises(StorageError, match="20 of 100 bytes"):
        source.pread_into(0, memoryview(buffer))
    assert buffer == b"\xff" * 100


def test_answer_of_another_range_is_refused(web: Web) -> None:
    source = http_source(web)
    web.faults = [web.instead(206, DATA[5:10], f"bytes 5-9/{len(DATA)}")]
    with pytest.raises(IntegrityError, match="replaced"):
        pread(source, 0, 5)


def test_web_server_that_ignores_ranges_is_refused_and_not_read(web: Web) -> None:
    web.faults = [web.instead(200, DATA)]
    with pytest.raises(StorageError, match="ignores ranges"):
        http_source(web)


@pytest.mark.parametrize(("code", "words"), [(404, "is not there"), (401, "may not be read"), (410, "410")])
def test_other_answers_are_errors(web: Web, code: int, words: str) -> None:
    web.faults = [web.status(code)]
    with pytest.raises(StorageError, match=words):
        http_source(web)


def test_web_server_that_is_gone_is_an_error(web: Web) -> None:
    with pytest.raises(StorageError, match="does not answer"):
        HttpSource("http://127.0.0.1:9/x", http=web.client(), sleep=lambda _: None)


def test_empty_file_of_a_web_server_is_empty(web: Web) -> None:
    web.data = b""
    source = http_source(web)
    assert (source.size, pread(source, 0, 5)) == (0, b"")


def test_reader_over_http(sealed: Sealed, web: Web) -> None:
    web.data = sealed.directory.sealed_file("ecg.bin").read_bytes()
    entry = sealed.manifest.file("ecg.bin")
    keys = open_header(Header.from_prefix(web.data), sealed.dataset_key).data_keys
    segments = load_segment_list(sealed.directory, entry)
    reader = SegmentReader(http_source(web), entry, keys, cache=SegmentCache(), segments=segments)
    asked = len(web.requests)
    assert hashlib.sha256(reader.pread(0, len(ECG))).digest() == hashlib.sha256(ECG).digest()
    assert len(web.requests) == asked + 1
