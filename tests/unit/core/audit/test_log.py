# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sealroom.audit.log import DirectoryReader, TileLog, is_log_path
from sealroom.audit.note import Checkpoint
from sealroom.audit.tlog import (
    bundle_path,
    leaf_hash,
    tile_path,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from sealroom.audit.verify import verify_log
from sealroom.errors import FormatError, IntegrityError, SignatureError, StorageError
from support.audit_logs import OTHER, SIGNER, append_all, entry, write_log


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the wait for the disk: what a killed process wrote is in the page cache all the same."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


ENTRIES = [entry(number) for number in range(600)]


def files(directory: Path) -> dict[str, bytes]:
    """Return every file of a log but its lock."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def check(directory: Path, entries: list[bytes]) -> None:
    """Check that a log is exactly these entries, in every file."""
    report = verify_log(DirectoryReader(directory), SIGNER.verifier)
    assert report.findings == ()
    assert report.checkpoint.size == len(entries)
    assert report.checkpoint.root == tree_root(map(leaf_hash, entries))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257])
def test_the_files_are_those_of_the_specification(tmp_path: Path, size: int) -> None:
    write_log(tmp_path / "log", ENTRIES[: max(0, size - 3)])
    append_all(tmp_path / "log", ENTRIES[max(0, size - 3) : size])
    write_log(tmp_path / "expected", ENTRIES[:size])
    assert files(tmp_path / "log") == files(tmp_path / "expected")


def test_an_entry_has_the_index_that_append_returned(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:250])
    with TileLog(tmp_path, SIGNER) as log:
        assert [log.append(one) for one in ENTRIES[250:300]] == list(range(250, 300))
        assert [log.entry(index) for index in (0, 255, 256, 299)] == [ENTRIES[i] for i in (0, 255, 256, 299)]
        assert list(log.entries(250, 260)) == list(enumerate(ENTRIES))[250:260]
        assert [index for index, _ in log.entries(298)] == [298, 299]
        assert log.size == 300
        for wrong in (-1, 300):
            with pytest.raises(ValueError, match="no such entry"):
                log.entry(wrong)


def test_every_append_is_covered_by_the_checkpoint_on_disk(tmp_path: Path) -> None:
    with TileLog(tmp_path, SIGNER) as log:
        for index, one in enumerate(ENTRIES[:5]):
            log.append(one)
            checkpoint = Checkpoint.open((tmp_path / "checkpoint").read_bytes(), SIGNER.verifier)
            assert (checkpoint.size, checkpoint.root) == (
                index + 1,
                tree_root(map(leaf_hash, ENTRIES[: index + 1])),
            )


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:240])
    for start in range(240, 270, 3):
        append_all(tmp_path, ENTRIES[start : start + 3])
    check(tmp_path, ENTRIES[:270])


def test_the_log_proves_what_it_holds(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES)
    with TileLog(tmp_path, SIGNER) as log:
        root = Checkpoint.open(log.checkpoint(), SIGNER.verifier).root
        for index in (0, 255, 256, 599):
            verify_inclusion(leaf_hash(ENTRIES[index]), index, 600, log.inclusion_proof(index), root)
        older = tree_root(map(leaf_hash, ENTRIES[:300]))
        verify_consistency(300, older, 600, root, log.consistency_proof(300))
        verify_inclusion(leaf_hash(ENTRIES[7]), 7, 300, log.inclusion_proof(7, 300), older)


def test_an_entry_that_is_too_long_changes_nothing(tmp_path: Path) -> None:
    with TileLog(tmp_path, SIGNER) as log:
        log.append(b"one")
        with pytest.raises(FormatError):
            log.append(bytes(65536))
        assert log.append(b"two") == 1


def test_threads_append_one_after_the_other(tmp_path: Path) -> None:
    with TileLog(tmp_path, SIGNER) as log, ThreadPoolExecutor(8) as pool:
        indexes = list(pool.map(log.append, ENTRIES[:64]))
        assert sorted(indexes) == list(range(64))
        assert {index: log.entry(index) for index in indexes} == dict(zip(indexes, ENTRIES, strict=False))


def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    append_all(tmp_path / "log", ENTRIES[:3])
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "log").rglob("*")}
    assert modes == {0o700, 0o600}


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first = TileLog(tmp_path, SIGNER)
    with pytest.raises(StorageError, match="Another process writes"):
        TileLog(tmp_path, SIGNER)
    first.close()
    first.close()
    with TileLog(tmp_path, SIGNER):
        pass
    with pytest.raises(RuntimeError, match="closed"):
        first.append(b"late")


def test_a_log_of_another_key_is_not_continued(tmp_path: Path) -> None:
    append_all(tmp_path, ENTRIES[:3], OTHER)
    with pytest.raises(SignatureError):
        TileLog(tmp_path, SIGNER)
    # The lock was given up again.
    TileLog(tmp_path, OTHER).close()


def test_a_log_without_its_checkpoint_is_not_begun_anew(tmp_path: Path) -> None:
    append_all(tmp_path, ENTRIES[:3])
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(IntegrityError, match="no checkpoint"):
        TileLog(tmp_path, SIGNER)


@pytest.mark.parametrize("index", [0, 255, 256, 299])
def test_an_entry_that_was_changed_on_disk_is_noticed_at_the_next_append_or_by_verify(
    tmp_path: Path, index: int
) -> None:
    write_log(tmp_path, ENTRIES[:300])
    path = tmp_path / bundle_path(index // 256, 256 if index < 256 else 44)
    path.write_bytes(path.read_bytes().replace(f"entry {index}".encode(), f"ENTRY {index}".encode()))
    assert not verify_log(DirectoryReader(tmp_path), SIGNER.verifier).ok
    if index >= 256:
        # The bundle that is written to is checked at every start; older ones by `audit verify`.
        with pytest.raises(IntegrityError, match="signed"):
            TileLog(tmp_path, SIGNER)


def test_a_bundle_that_was_lost_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:300])
    (tmp_path / bundle_path(1, 44)).unlink()
    with pytest.raises(StorageError, match="tile/entries/001"):
        TileLog(tmp_path, SIGNER)


@pytest.mark.parametrize("path", [tile_path(0, 0), tile_path(0, 2, 88), tile_path(1, 0, 2)])
@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
def test_tiles_that_were_damaged_are_made_again_from_the_entries(
    tmp_path: Path, path: str, damage: str
) -> None:
    write_log(tmp_path, ENTRIES)
    tile = tmp_path / path
    data = tile.read_bytes()
    if damage == "gone":
        tile.unlink()
    else:
        tile.write_bytes(bytes([data[0] ^ 1]) + data[1:] if damage == "changed" else data[:-1])
    noticed_at_start = path != tile_path(0, 0)
    TileLog(tmp_path, SIGNER).close()
    if noticed_at_start:
        check(tmp_path, ENTRIES)
    else:
        # The root needs only the hash one level up, so `audit verify` is what finds this one.
        assert not verify_log(DirectoryReader(tmp_path), SIGNER.verifier).ok


def test_everything_that_a_checkpoint_covers_is_durable_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path, ENTRIES[:255])
    dirty: set[str] = set()
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("write", "rename", "replace")}

    def name_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())

    def write(descriptor: int, data: bytes) -> object:
        dirty.add(name_of(descriptor))
        return real["write"](descriptor, data)

    def rename(source: Path, target: Path) -> object:
        assert str(source) not in dirty, "renamed before it was synced"
        dirty.add(str(Path(target).parent))
        return real["rename"](source, target)

    def replace(source: Path, target: Path) -> object:
        assert dirty <= {str(tmp_path)}, "not durable before the checkpoint"
        steps.append("checkpoint")
        dirty.add(str(tmp_path))
        return real["replace"](source, target)

    def fsync(descriptor: int) -> None:
        dirty.discard(name_of(descriptor))

    with TileLog(tmp_path, SIGNER) as log:
        for name, spy in (("write", write), ("rename", rename), ("replace", replace), ("fsync", fsync)):
            monkeypatch.setattr(os, name, spy)
        log.append(ENTRIES[255])
        assert dirty == set()
        log.append(ENTRIES[256])
        assert dirty == set()
    assert steps == ["checkpoint"] * 2


# --- crashes ---


def line(number: int) -> bytes:
    """Return a small entry: the writer does not mind what an entry says."""
    return f"entry {number}".encode()


class Crash(BaseException):
    """The process dies here."""


class Fault:
    """Fails at the n-th step that changes the disk; a write fails after half of its bytes."""

    STEPS = ("write", "fsync", "mkdir", "open", "rename", "replace", "rmdir", "unlink", "truncate")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, fault: Callable[[], BaseException]) -> None:
        self.left, self.fault = at, fault
        for name in self.STEPS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            if name == "open" and not int(arguments[1]) & (os.O_WRONLY | os.O_RDWR):  # type: ignore[call-overload]
                return real(*arguments, **options)
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    data = bytes(arguments[1])  # type: ignore[call-overload]
                    real(arguments[0], data[: len(data) // 2])
                raise self.fault()
            return real(*arguments, **options)

        return step


def crashes(
    tmp_path: Path, size: int, fault: Callable[[], BaseException]
) -> Iterator[tuple[Path, TileLog, bool]]:
    """Append to logs of a size, with the n-th step failing, for every n until nothing fails."""
    template = tmp_path / "template"
    write_log(template, [line(number) for number in range(size)], edge=size > 1000)
    for at in range(1, 200):
        directory = tmp_path / str(at)
        shutil.copytree(template, directory)
        log = TileLog(directory, SIGNER)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(monkeypatch, at, fault)
            try:
                log.append(line(size))
                failed = False
            except (Crash, StorageError):
                failed = True
        yield directory, log, failed
        shutil.rmtree(directory)
        if not failed:
            assert at > 8, "a step was not counted"
            return
    raise AssertionError("the append has too many steps")


@pytest.mark.parametrize("size", [0, 1, 2, 254, 255, 256, 257, 511, 65535, 65536])
def test_a_crash_at_any_step_leaves_the_old_log_or_the_new_one(tmp_path: Path, size: int) -> None:
    expected = tmp_path / "expected"
    write_log(expected, [line(number) for number in range(size + 1)], edge=size > 1000)
    for directory, log, failed in crashes(tmp_path, size, Crash):
        log.close()
        with TileLog(directory, SIGNER) as again:
            assert again.size in ((size, size + 1) if failed else (size + 1,))
            if again.size == size:
                assert files(directory) == files(tmp_path / "template")
                # It goes on.
                assert again.append(line(size)) == size
        now, then = files(directory), files(expected)
        assert {path: now[path] for path in then} == then
        assert size > 1000 or now.keys() == then.keys()


@pytest.mark.parametrize("size", [1, 255, 256])
def test_a_crash_during_recovery_is_recovered_from(tmp_path: Path, size: int) -> None:
    for first, (directory, log, _) in enumerate(crashes(tmp_path, size, Crash), start=1):
        log.close()
        for at in range(1, 20):
            with pytest.MonkeyPatch.context() as monkeypatch:
                Fault(monkeypatch, at, Crash)
                try:
                    TileLog(directory, SIGNER).close()
                    break
                except Crash:
                    pass
        with TileLog(directory, SIGNER) as again:
            write_log(tmp_path / f"expected{first}", [line(number) for number in range(again.size)])
        assert files(directory) == files(tmp_path / f"expected{first}")


@pytest.mark.parametrize("size", [0, 1, 255, 256])
def test_a_full_disk_fails_one_append_and_the_next_one_goes_on(tmp_path: Path, size: int) -> None:
    for directory, log, failed in crashes(
        tmp_path, size, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    ):
        with log:
            index = log.append(b"next")
            durable = index - size  # the failed entry may be in, if only the last step failed
            assert durable in ((0, 1) if failed else (1,))
        write_log(tmp_path / f"{directory.name}e", [*(line(number) for number in range(index)), b"next"])
        assert files(directory) == files(tmp_path / f"{directory.name}e")


def test_a_failed_append_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TileLog(tmp_path, SIGNER) as log:
        Fault(monkeypatch, 1, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(StorageError, match="No space left") as caught:
            log.append(b"x")
        monkeypatch.undo()
        assert "free space" in caught.value.advice


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.audit_logs import SIGNER, entry
from sealroom.audit.log import TileLog
with TileLog(Path(sys.argv[1]), SIGNER) as log:
    while True:
        print(log.append(entry(log.size)), flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    chance, reported = random.Random(7), -1
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "log"), str(Path(__file__).parents[3])],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 90)):
            reported = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        reported = int(([str(reported), *writer.stdout.read().split()])[-1])
        writer.wait()
        writer.stdout.close()
    with TileLog(tmp_path / "log", SIGNER) as log:
        size = log.size
    # One more may be durable than was reported: the kill came between the two.
    assert size - 1 - reported in (0, 1)
    check(tmp_path / "log", [entry(number) for number in range(size)])


# --- readers ---


def test_a_partial_tile_is_still_served_after_it_has_grown(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:253])
    reader = DirectoryReader(tmp_path)
    tile, bundle = reader.get(tile_path(0, 0, 253)), reader.get(bundle_path(0, 253))
    for end in (254, 256, 258):
        with TileLog(tmp_path, SIGNER) as log:
            for one in ENTRIES[log.size : end]:
                log.append(one)
        assert reader.get(tile_path(0, 0, 253)) == tile
        assert reader.get(bundle_path(0, 253)) == bundle


def test_a_wider_tile_than_there_is_is_not_served(tmp_path: Path) -> None:
    append_all(tmp_path, ENTRIES[:10])
    with pytest.raises(StorageError, match=r"tile/0/000\.p/11"):
        DirectoryReader(tmp_path).get(tile_path(0, 0, 11))


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    done = threading.Event()
    checked = 0

    def read() -> int:
        nonlocal checked
        reader = DirectoryReader(tmp_path)
        while not done.is_set():
            assert verify_log(reader, SIGNER.verifier).findings == ()
            checked += 1
        return checked

    write_log(tmp_path, ENTRIES[:230])
    with TileLog(tmp_path, SIGNER) as log, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for one in ENTRIES[230:280]:
                log.append(one)
        finally:
            done.set()
        assert reading.result() >= 0


@pytest.mark.parametrize(
    "path",
    [
        "",
        "lock",
        "../checkpoint",
        "checkpoint/",
        "/etc/passwd",
        "tile/0/../../lock",
        "tile/0/1",
        "tile/0/000.p/x",
        "tile/0/x001",
        "tile/100/000",
        "tile/entries/000.p/17.new",
        "evidence/../lock",
        "evidence/AB",
        "checkpoint\n",
        "evidence/" + "a" * 64 + "\0",
    ],
)
def test_only_files_of_a_log_are_read(tmp_path: Path, path: str) -> None:
    append_all(tmp_path, ENTRIES[:1])
    assert not is_log_path(path)
    with pytest.raises(StorageError, match="no file of an audit log"):
        DirectoryReader(tmp_path).get(path)


def test_paths_of_a_log_are_known() -> None:
    for path in (
        "checkpoint",
        tile_path(0, 1234067),
        tile_path(12, 0, 7),
        bundle_path(5),
        "evidence/" + "0f" * 32,
    ):
        assert is_log_path(path)
