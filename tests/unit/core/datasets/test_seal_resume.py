# SPDX-License-Identifier: BSD-3-Clause
"""Sealing that is killed, that runs out of space, or whose rests somebody changed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets import seal
from sealroom.datasets.check import check_dataset
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.partial import JOURNAL, derive_writer
from sealroom.datasets.seal import seal_directory, unfinished
from sealroom.datasets.store import DatasetDirectory, iter_datasets
from sealroom.errors import FormatError, StorageError
from support.sealed import CREATED, DESCRIPTION, PLAIN, noise, write_tree

KEY, SIGNING_KEY = SecretKey.generate(), Ed25519PrivateKey.generate()
# Sealed in this order; the last one in five batches, and written directly where that can be had.
FILES = {**PLAIN, "z.bin": noise((9 << 20) + 5, 3)}

Progress = Callable[[str, int], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "source", FILES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "heartbeats"


def seal_it(source: Path, out: Path, key: SecretKey = KEY, progress: Progress | None = None) -> Manifest:
    return seal_directory(
        source,
        out,
        description=DESCRIPTION,
        dataset_key=key.public,
        signing_key=SIGNING_KEY,
        created=CREATED,
        progress=progress,
        workers=2,
    )


def is_whole(out: Path, manifest: Manifest) -> bool:
    """Tell whether it is what a seal in one go makes, with nothing beside it."""
    directory = DatasetDirectory(out)
    verified = directory.read_manifest().verify(SIGNING_KEY.public_key().public_bytes_raw())
    found = check_dataset(directory, verified, secret=KEY)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    expected = {name + end for name in FILES for end in (".c4gh", ".c4gh.segments")}
    expected |= {"dataset.json", "dataset.json.sig", "croissant.json", "dcat.json"}
    return (
        verified == manifest
        and found == dict.fromkeys(sorted(FILES))
        and names == expected
        and not list(out.parent.glob(".*"))
    )


def sealed_files(partial: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of the sealed files that are in the journal."""
    lines = (partial / JOURNAL).read_text().splitlines()
    names = [name for name in FILES if any(f'"name":"{name}"' in line for line in lines)]
    found = {name: (partial / f"{name}.c4gh").stat() for name in names}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.sealed import CREATED, DESCRIPTION
from sealroom.crypt4gh import SecretKey
from sealroom.datasets import seal

count = 0

def progress(name, size):
    global count
    count += 1
    if count == {moment}:
        print("now", flush=True)
        time.sleep(60)

def last(_):
    print("now", flush=True)
    time.sleep(60)

if {moment} == 0:
    seal.sync_directory = last
seal.seal_directory(
    Path({source!r}), Path({out!r}), description=DESCRIPTION, created=CREATED, progress=progress, workers=2,
    dataset_key=SecretKey(bytes.fromhex({key!r})).public,
    signing_key=Ed25519PrivateKey.from_private_bytes(bytes.fromhex({signing!r})),
)
"""


def kill_at(source: Path, out: Path, moment: int) -> None:
    """Seal in another process and kill it after so many reports of progress; with 0, before the rename."""
    code = KILLED.format(
        tests=str(Path(__file__).parents[3]),
        source=str(source),
        out=str(out),
        moment=moment,
        key=KEY.reveal().hex(),
        signing=SIGNING_KEY.private_bytes_raw().hex(),
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moment", [1, 4, 7, 0])
def test_killed_seal_goes_on_with_what_is_left(source: Path, out: Path, moment: int) -> None:
    kill_at(source, out, moment)
    assert list(iter_datasets([out.parent])) == []
    assert not out.exists()
    partial = unfinished(out)
    assert partial is not None
    before = sealed_files(partial)
    told: dict[str, int] = {}
    manifest = seal_it(source, out, progress=lambda name, size: told.update({name: told.get(name, 0) + size}))
    assert is_whole(out, manifest)
    assert told == {name: len(data) for name, data in FILES.items() if data}
    after = {name: (out / f"{name}.c4gh").stat() for name in before}
    assert {name: (s.st_ino, s.st_mtime_ns) for name, s in after.items()} == before
    if moment == 0:
        assert before.keys() == FILES.keys()


def test_seal_that_is_killed_twice_goes_on(source: Path, out: Path) -> None:
    kill_at(source, out, 3)
    kill_at(source, out, 6)
    assert is_whole(out, seal_it(source, out))


@pytest.fixture
def rest(source: Path, out: Path) -> Path:
    """What is left of a seal that ended within the last file."""

    def stop(name: str, _size: int) -> None:
        if name == "z.bin":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_it(source, out, progress=stop)
    partial = unfinished(out)
    assert partial is not None
    return partial


def test_interrupted_seal_keeps_finished_files_only(rest: Path) -> None:
    assert (rest / "ecg.bin.c4gh").exists()
    assert not (rest / "z.bin.c4gh").exists()
    assert not (rest / "dataset.json").exists()


def test_no_key_is_in_what_is_left(rest: Path) -> None:
    writer = derive_writer(SIGNING_KEY, DESCRIPTION.id, KEY.public)
    for path in rest.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (writer.reveal(), KEY.reveal(), SIGNING_KEY.private_bytes_raw()):
                assert secret not in data
                assert secret.hex().encode() not in data


def resealed(rest: Path, source: Path, out: Path, key: SecretKey = KEY) -> set[str]:
    """Go on, and return which files of the journal were sealed again."""
    before = sealed_files(rest)
    seal_it(source, out, key)
    after = {name: (out / f"{name}.c4gh").stat() for name in before}
    return {name for name, s in after.items() if (s.st_ino, s.st_mtime_ns) != before[name]}


def test_source_that_changed_since_is_sealed_again(rest: Path, source: Path, out: Path) -> None:
    (source / "ecg.bin").write_bytes(b"other")
    assert resealed(rest, source, out) == {"ecg.bin"}
    manifest = Manifest.from_bytes((out / "dataset.json").read_bytes())
    assert manifest.file("ecg.bin").size == 5


def test_source_that_is_gone_is_not_in_the_dataset(rest: Path, source: Path, out: Path) -> None:
    (source / "ecg.bin").unlink()
    manifest = seal_it(source, out)
    assert "ecg.bin" not in {entry.name for entry in manifest.files}
    assert not (out / "ecg.bin.c4gh").exists()


@pytest.mark.parametrize("offset", [3, 130, -1], ids=["header", "first segment", "last segment"])
def test_sealed_file_that_was_damaged_since_is_sealed_again(
    rest: Path, source: Path, out: Path, offset: int
) -> None:
    path = rest / "ecg.bin.c4gh"
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert is_whole(out, seal_it(source, out))


def test_sealed_file_that_was_cut_since_is_sealed_again(rest: Path, source: Path, out: Path) -> None:
    os.truncate(rest / "ecg.bin.c4gh", 1000)
    assert is_whole(out, seal_it(source, out))


def test_list_of_segments_that_was_changed_since_is_not_used(rest: Path, source: Path, out: Path) -> None:
    (rest / "ecg.bin.c4gh.segments").write_bytes(bytes(300))
    assert is_whole(out, seal_it(source, out))


def test_line_that_was_torn_is_not_used(rest: Path, source: Path, out: Path) -> None:
    journal = rest / JOURNAL
    os.truncate(journal, journal.stat().st_size - 5)
    assert is_whole(out, seal_it(source, out))


def test_forged_line_is_not_used(rest: Path, source: Path, out: Path) -> None:
    """Somebody who may write there puts a file of theirs in the place of one that was sealed."""
    journal = rest / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    forged = lines[0].replace(b'"size":263144', b'"size":263145')
    assert forged != lines[0]
    journal.write_bytes(b"".join([forged, *lines[1:]]))
    assert is_whole(out, seal_it(source, out))


def test_lines_in_another_order_are_not_used(rest: Path, source: Path, out: Path) -> None:
    journal = rest / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(reversed(lines)))
    assert resealed(rest, source, out) == set(PLAIN)


def test_rest_of_a_seal_to_another_key_is_not_used(rest: Path, source: Path, out: Path) -> None:
    other = SecretKey.generate()
    assert resealed(rest, source, out, other) == set(PLAIN)
    manifest = Manifest.from_bytes((out / "dataset.json").read_bytes())
    assert set(check_dataset(DatasetDirectory(out), manifest, secret=other).values()) == {None}


def test_writer_depends_on_owner_dataset_and_key() -> None:
    writer = derive_writer(SIGNING_KEY, "a", KEY.public)
    assert writer == derive_writer(SIGNING_KEY, "a", KEY.public)
    others = [
        derive_writer(Ed25519PrivateKey.generate(), "a", KEY.public),
        derive_writer(SIGNING_KEY, "b", KEY.public),
        derive_writer(SIGNING_KEY, "a", SecretKey.generate().public),
    ]
    assert all(other != writer for other in others)


def test_disk_that_fills_up_within_a_file_leaves_the_others(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if offset > 4 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(StorageError, match="no space is left") as caught:
            seal_it(source, out)
    assert "is not sealed again" in caught.value.advice
    partial = unfinished(out)
    assert partial is not None
    assert not (partial / "z.bin.c4gh").exists()
    assert sealed_files(partial).keys() == PLAIN.keys()
    assert is_whole(out, seal_it(source, out))


SMALL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.sealed import CREATED, DESCRIPTION
from sealroom.crypt4gh import SecretKey
from sealroom.datasets import partial, seal
from sealroom.errors import FormatError, StorageError

key, signing = SecretKey.generate(), Ed25519PrivateKey.generate()

def attempt():
    try:
        seal.seal_directory(
            Path({source!r}), Path({out!r}), description=DESCRIPTION,
            dataset_key=key.public, signing_key=signing,
        )
    except StorageError as error:
        print(error.diagnostics())
    else:
        print("sealed")

attempt()
seal.check_free = lambda *_: None
attempt()
print(sorted(path.name for path in Path({out!r}).with_name(".out.partial").glob("*.c4gh")))
Path({filler!r}).unlink()
attempt()
"""


def test_small_disk_is_noticed_before_and_while_it_fills_up(source: Path, tmp_path: Path) -> None:
    """On a real file system of 12 MiB, of which a file takes 5."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = SMALL_DISK.format(
        tests=str(Path(__file__).parents[3]),
        source=str(source),
        out=str(disk / "out"),
        filler=str(disk / "filler"),
    )
    script = f"mount -t tmpfs -o size=12m tmpfs {disk} && head -c 5M /dev/zero > {disk}/filler && exec "
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs a mount namespace of its own")
    command = [unshare, "-rm", "sh", "-c", script + '"$0" -c "$1"', sys.executable, code]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "GB are free" in found[0]
    assert "no space is left" in found[1]
    assert "is not sealed again" in found[1]
    assert found[2] == "['ecg.bin.c4gh', 'empty.c4gh', 'exact.bin.c4gh']"
    assert found[3] == "sealed"


def test_many_small_files_are_sealed_by_several_threads(tmp_path: Path, out: Path) -> None:
    files = {f"{number % 7}/{number:03}": noise(number * 11, number) for number in range(200)}
    source = write_tree(tmp_path / "source", files)
    manifest = seal_it(source, out)
    assert [entry.name for entry in manifest.files] == sorted(files)
    assert set(check_dataset(DatasetDirectory(out), manifest, secret=KEY).values()) == {None}


def test_unusable_metadata_is_noticed_before_anything_is_sealed(source: Path, out: Path) -> None:
    """A title that no manifest can have does not cost hours of sealing first."""
    told: list[str] = []
    bad = seal.Description(id="a", title="\x1b[31m", owner="o")
    with pytest.raises(FormatError):
        seal_directory(
            source,
            out,
            description=bad,
            dataset_key=KEY.public,
            signing_key=SIGNING_KEY,
            progress=lambda name, _: told.append(name),
        )
    assert told == []
