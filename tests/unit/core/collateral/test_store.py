# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealroom.collateral.store import MAX_ENTRY, Fetched, Store
from sealroom.errors import FormatError, StorageError

NAME = "amd/milan/crl.der"
OTHER = "amd/milan/crl-vlek.der"


def test_written_entry_is_read_and_listed(store: Store) -> None:
    store.write(NAME, b"one")
    store.write(OTHER, b"other")
    assert store.read(NAME) == b"one"
    assert store.names() == [OTHER, NAME]
    assert store.names("amd", below=False) == []


def test_empty_store_has_nothing(store: Store) -> None:
    assert store.read(NAME) is None
    assert store.names() == []
    assert not store.path.exists()


def test_entry_is_replaced_whole(store: Store) -> None:
    store.write(NAME, b"a much longer content")
    store.write(NAME, b"short")
    assert store.read(NAME) == b"short"
    assert [path.name for path in (store.path / "amd/milan").iterdir()] == ["crl.der"]


def test_modes_do_not_depend_on_the_umask(store: Store) -> None:
    old = os.umask(0o077)
    try:
        store.write(NAME, b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((store.path / NAME).stat().st_mode) == 0o644
    for folder in (store.path, store.path / "amd", store.path / "amd/milan"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["../crl.der", "/etc/passwd", "amd/milan/other.der", ".lock"])
def test_name_of_no_entry_is_refused(store: Store, name: str) -> None:
    with pytest.raises(FormatError):
        store.read(name)
    with pytest.raises(FormatError):
        store.write(name, b"x")
    with pytest.raises(FormatError):
        store.remove(name)


def test_link_in_place_of_a_file_is_not_read(store: Store, tmp_path: Path) -> None:
    store.write(OTHER, b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    (store.path / NAME).symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError):
        store.read(NAME)


def test_link_in_place_of_a_file_is_replaced_and_not_followed(store: Store, tmp_path: Path) -> None:
    store.write(OTHER, b"x")
    (tmp_path / "other").write_bytes(b"untouched")
    (store.path / NAME).symlink_to(tmp_path / "other")
    store.write(NAME, b"new")
    assert store.read(NAME) == b"new"
    assert (tmp_path / "other").read_bytes() == b"untouched"


def test_link_in_place_of_a_folder_is_not_written_through(store: Store, tmp_path: Path) -> None:
    store.path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (store.path / "amd").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        store.write(NAME, b"x")
    assert list((tmp_path / "elsewhere").rglob("*.der")) == []


def test_folder_in_place_of_a_file_is_one_sentence(store: Store) -> None:
    (store.path / NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match="is no regular file"):
        store.read(NAME)


def test_pipe_in_place_of_a_file_does_not_block(store: Store) -> None:
    (store.path / "amd/milan").mkdir(parents=True)
    os.mkfifo(store.path / NAME)
    with pytest.raises(StorageError, match="is no regular file"):
        store.read(NAME)


def test_entry_that_is_too_long_is_neither_written_nor_read(store: Store) -> None:
    with pytest.raises(FormatError, match="longer than"):
        store.write(NAME, bytes(MAX_ENTRY + 1))
    store.write(NAME, b"x")
    (store.path / NAME).write_bytes(bytes(MAX_ENTRY + 1))
    with pytest.raises(StorageError, match="longer than"):
        store.read(NAME)


def test_removed_entry_is_gone_and_removing_it_again_is_no_error(store: Store) -> None:
    store.write(NAME, b"x")
    store.remove(NAME)
    store.remove(NAME)
    assert store.read(NAME) is None


def test_store_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        Store(tmp_path / "store").write(NAME, b"x")


def test_when_fetched_survives_its_file(store: Store) -> None:
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    fetched = Fetched.of(b"list", at, '"etag"')
    store.write("amd/milan/crl.json", fetched.to_json())
    assert store.fetched("amd/milan/crl.json") == fetched


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"sha256": "00", "fetched": "2026-06-01T00:00:00+00:00", "etag": ""}',
        b'{"sha256": "' + b"0" * 64 + b'", "fetched": "2026-06-01T00:00:00", "etag": ""}',
        b'{"sha256": "' + b"0" * 64 + b'", "fetched": "2026-06-01T00:00:00+00:00", "etag": 1}',
        b'{"sha256": "' + b"0" * 64 + b'", "fetched": "never", "etag": ""}',
    ],
)
def test_damaged_note_of_when_fetched_is_as_none(store: Store, content: bytes) -> None:
    store.write("amd/milan/crl.json", content)
    assert store.fetched("amd/milan/crl.json") is None


# --- more than one writer ---


def test_writers_in_threads_leave_whole_files(store: Store) -> None:
    contents = [bytes([n]) * 50_000 for n in range(8)]
    stop = threading.Event()
    seen: set[bytes] = set()

    def watch() -> None:
        while not stop.is_set():
            data = store.read(NAME)
            if data is not None:
                seen.add(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(store.write, NAME, content) for content in contents * 5]:
            result.result()
    stop.set()
    watcher.join()
    assert store.read(NAME) in contents
    assert seen <= set(contents)


_WRITER = """
import sys
from pathlib import Path
from sealroom.collateral.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for octet in (b"a", b"b"):
        store.write("amd/milan/crl.der", octet * 500_000)
        print("x", flush=True)
"""


@pytest.fixture
def writer(store: Store) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes an entry again and again."""
    arguments = [sys.executable, "-c", _WRITER, str(store.path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("attempt", range(5))
def test_writer_that_is_killed_leaves_a_whole_entry(
    store: Store, writer: subprocess.Popen[bytes], attempt: int
) -> None:
    assert writer.stdout is not None
    for _ in range(2 + attempt * 3):
        assert writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    data = store.read(NAME)
    assert data in (b"a" * 500_000, b"b" * 500_000)
    # The next writer is not held up, and clears away what the killed one left.
    store.write(OTHER, b"next")
    assert store.names() == [OTHER, NAME]
    assert list(store.path.rglob("*.part")) == []


def test_leftover_of_a_killed_writer_is_no_entry_and_is_cleared_away(store: Store) -> None:
    store.write(NAME, b"whole")
    leftover = store.path / "amd/milan/.crl.der.part"
    leftover.write_bytes(b"hal")
    assert store.read(NAME) == b"whole"
    assert store.names() == [NAME]
    store.write(OTHER, b"x")
    assert not leftover.exists()


# --- no room ---

_LIMITED = """
import resource, sys
from pathlib import Path
from sealroom.collateral.store import Store
from sealroom.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = Store(Path(sys.argv[1]))
store.write("amd/milan/crl-vlek.der", b"fits")
try:
    store.write("amd/milan/crl.der", bytes(5000))
except StorageError as error:
    print(error.diagnostics())
"""


def test_file_that_finds_no_room_leaves_the_old_one(store: Store) -> None:
    store.write(NAME, b"old")
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(store.path)], capture_output=True, check=True)
    assert b"Make room on the disk; nothing that was stored is lost." in done.stdout
    assert store.read(NAME) == b"old"
    assert store.read(OTHER) == b"fits"
    assert list(store.path.rglob("*.part")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where mounting is allowed."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("a file system cannot be mounted here; the limit on a file's size is tried instead")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk_is_a_storage_error_and_loses_nothing(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    store.write(NAME, b"old")
    with pytest.raises(StorageError, match="No space left") as caught:
        store.write(NAME, bytes(100_000))
    assert "Make room" in caught.value.advice
    assert store.read(NAME) == b"old"
    assert store.names() == [NAME]
    store.write(OTHER, b"there is room again")
