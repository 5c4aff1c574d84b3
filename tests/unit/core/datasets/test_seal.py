# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import Header, SecretKey, open_header
from sealroom.datasets import seal
from sealroom.datasets.check import check_dataset, check_file
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.seal import Description, list_files, seal_directory
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, Error, FormatError, IntegrityError, StorageError
from support.sealed import CREATED, DESCRIPTION, PLAIN, Sealed, write_tree

KEY, SIGNING_KEY = SecretKey.generate(), Ed25519PrivateKey.generate()


def seal_it(source: Path, destination: Path, **options: object) -> Manifest:
    options = {"description": DESCRIPTION, "created": CREATED, **options}
    return seal_directory(source, destination, dataset_key=KEY.public, signing_key=SIGNING_KEY, **options)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "source", PLAIN)


def nothing_left(place: Path) -> bool:
    return [path.name for path in place.iterdir() if path.name != "source"] == []


def test_manifest_says_what_was_sealed(sealed: Sealed) -> None:
    manifest = sealed.manifest
    assert [entry.name for entry in manifest.files] == sorted(PLAIN)
    assert {entry.name: entry.size for entry in manifest.files} == {n: len(d) for n, d in PLAIN.items()}
    assert manifest.title == DESCRIPTION.title
    assert manifest.terms[0].label == "general research use"
    assert manifest.created == CREATED
    assert (manifest.format, manifest.version, manifest.previous) == ("sealroom-dataset/2", 1, None)
    assert manifest.dataset_key == sealed.dataset_key.public.to_base64()
    for entry in manifest.files:
        data = sealed.directory.sealed_file(entry.name).read_bytes()
        assert hashlib.sha256(data[: entry.header_size]).hexdigest() == entry.header_sha256
        assert entry.cipher_sha256 is None
        assert len(data) == entry.header_size + entry.cipher_size


def test_sealed_files_open_with_the_reference_tool(sealed: Sealed) -> None:
    from crypt4gh import lib

    logging.getLogger("crypt4gh").setLevel(logging.CRITICAL + 1)
    for name, plain in PLAIN.items():
        out = io.BytesIO()
        with sealed.directory.sealed_file(name).open("rb") as stream:
            lib.decrypt([(0, sealed.dataset_key.reveal(), None)], stream, out)
        assert out.getvalue() == plain


def test_no_plaintext_is_in_the_sealed_directory(sealed: Sealed) -> None:
    for path in sealed.directory.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert PLAIN["ecg.bin"][1000:1032] not in data
            assert b"sample,beat" not in data


def test_each_file_has_its_own_data_key_and_one_writer(sealed: Sealed) -> None:
    headers = sealed.directory.read_headers(sealed.manifest)
    opened = [
        open_header(Header.from_bytes(h), sealed.dataset_key, expected_writer=sealed.manifest.writer)
        for h in headers.values()
    ]
    assert len({keys.data_keys[0].reveal() for keys in opened}) == len(PLAIN)


def test_sources_are_left_alone(source: Path, tmp_path: Path) -> None:
    seal_it(source, tmp_path / "out")
    for name, plain in PLAIN.items():
        assert (source / name).read_bytes() == plain


@pytest.mark.parametrize("workers", [1, 4])
def test_order_does_not_depend_on_the_number_of_threads(tmp_path: Path, workers: int) -> None:
    plain = os.urandom(5 * 1024 * 1024 + 77)
    manifest = seal_it(write_tree(tmp_path / "source", {"big": plain}), tmp_path / "out", workers=workers)
    directory = DatasetDirectory(tmp_path / "out")
    assert check_dataset(directory, manifest, secret=KEY) == {"big": None}


def test_progress_adds_up(source: Path, tmp_path: Path) -> None:
    told: dict[str, int] = {}
    seal_it(source, tmp_path / "out", progress=lambda n, size: told.update({n: told.get(n, 0) + size}))
    assert told == {name: len(data) for name, data in PLAIN.items() if data}


def test_existing_destination_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "out", {"precious": b"data"})
    with pytest.raises(StorageError, match="nothing was overwritten"):
        seal_it(source, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_bytes() == b"data"


def test_dangling_link_as_destination_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is there already"):
        seal_it(source, tmp_path / "out")


def test_missing_parent_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not there"):
        seal_it(source, tmp_path / "no" / "out")


def test_destination_inside_the_source_is_refused(source: Path) -> None:
    with pytest.raises(ConfigurationError, match="inside the directory"):
        seal_it(source, source / "out")


def test_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(StorageError, match="holds no files"):
        seal_it(tmp_path / "source", tmp_path / "out")


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        seal_it(tmp_path / "source", tmp_path / "out")


def test_link_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="link is a link") as caught:
        seal_it(source, tmp_path / "out")
    assert "Replace links" in caught.value.advice


def test_pipe_is_refused(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(ConfigurationError, match="special file"):
        seal_it(source, tmp_path / "out")


def test_unreadable_name_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "a\nb").write_bytes(b"x")
    with pytest.raises(FormatError, match="usable name"):
        seal_it(source, tmp_path / "out")


def test_decomposed_names_are_composed(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"A\u0308rzte.csv": b"x"})
    assert list_files(source)[0].name == "Ärzte.csv"
    assert seal_it(source, tmp_path / "out").files[0].name == "Ärzte.csv"


@pytest.mark.parametrize(
    "description",
    [
        Description(id="Heart Beats", title="t", owner="o"),
        Description(id="a", title="", owner="o"),
        Description(id="a", title="t", owner="o", terms=("DUO:9999999",)),
    ],
    ids=["id", "title", "term"],
)
def test_unusable_description_is_refused_and_nothing_is_left(
    source: Path, tmp_path: Path, description: Description
) -> None:
    with pytest.raises(FormatError):
        seal_it(source, tmp_path / "out", description=description)
    assert nothing_left(tmp_path)


def test_too_little_space_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="GB are free"):
        seal_it(source, tmp_path / "out")
    assert nothing_left(tmp_path)


def test_full_disk_leaves_nothing_half_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space is left") as caught:
        seal_it(source, tmp_path / "out")
    assert "seal again" in caught.value.advice
    assert nothing_left(tmp_path)


def test_interruption_before_a_file_is_finished_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_name: str, _size: int) -> None:
        raise KeyboardInterrupt

    source = write_tree(tmp_path / "source", {"big": bytes(5 << 20)})
    with pytest.raises(KeyboardInterrupt):
        seal_it(source, tmp_path / "out", progress=interrupt)
    assert nothing_left(tmp_path)


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 100)


def rewrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"other bytes, and as many")
    # What a clock of a few milliseconds could hide.
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
def test_file_that_changes_while_it_is_sealed_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    source = write_tree(tmp_path / "source", {"big": bytes(30 << 20)})
    done: list[str] = []

    def once(name: str, _size: int) -> None:
        if not done:
            change(source / name)
        done.append(name)

    with pytest.raises(StorageError, match="big changed while it was sealed") as caught:
        seal_it(source, tmp_path / "out", progress=once, workers=1)
    assert "nothing writes to it" in caught.value.advice
    assert nothing_left(tmp_path)


# Around a segment, a batch of 32, the size from which pages are written directly, and the ends of pages.
SIZES = [1, 65536, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (4 << 20) + 65535, (8 << 20) - 1, 8 << 20]
SIZES += [(8 << 20) + 1, (8 << 20) + 4096 - 124, (10 << 20) + 77, 12 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_sealed_as_the_reference_tool_opens_it(tmp_path: Path, size: int) -> None:
    from crypt4gh import lib

    plain = os.urandom(size)
    source = write_tree(tmp_path / "source", {"data": plain})
    manifest = seal_it(source, tmp_path / "out", whole_digests=True)
    directory, out = DatasetDirectory(tmp_path / "out"), io.BytesIO()
    sealed = directory.sealed_file("data").read_bytes()
    lib.decrypt([(0, KEY.reveal(), None)], io.BytesIO(sealed), out)
    assert out.getvalue() == plain
    assert hashlib.sha256(sealed).hexdigest() == manifest.files[0].sha256
    assert check_dataset(directory, manifest, secret=KEY) == {"data": None}


def test_file_system_that_takes_no_direct_writes_gets_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    source = write_tree(tmp_path / "source", {"data": os.urandom(9 << 20)})
    manifest = seal_it(source, tmp_path / "out")
    assert check_dataset(DatasetDirectory(tmp_path / "out"), manifest, secret=KEY) == {"data": None}
    assert refused in ([], [0])  # none where the file could not be opened for them in the first place


def test_whole_digests_are_made_when_asked_for_and_checked(source: Path, tmp_path: Path) -> None:
    manifest = seal_it(source, tmp_path / "out", whole_digests=True)
    directory = DatasetDirectory(tmp_path / "out")
    for entry in manifest.files:
        assert hashlib.sha256(directory.sealed_file(entry.name).read_bytes()).hexdigest() == entry.sha256
    wrong = manifest.files[0].model_copy(update={"sha256": "ab" * 32})
    with pytest.raises(IntegrityError, match="another SHA-256"):
        check_file(directory, manifest, wrong)


def test_file_that_becomes_a_link_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list_files(source)
    (source / "ecg.bin").unlink()
    (source / "ecg.bin").symlink_to("/etc/passwd")
    monkeypatch.setattr(seal, "list_files", lambda _: files)
    with pytest.raises(StorageError, match="cannot be read"):
        seal_it(source, tmp_path / "out")


def test_second_process_sealing_to_the_same_place_is_refused(source: Path, tmp_path: Path) -> None:
    with (tmp_path / ".out.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="Another process"):
            seal_it(source, tmp_path / "out")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_descriptors_are_closed(source: Path, tmp_path: Path) -> None:
    before = open_descriptors()
    seal_it(source, tmp_path / "out")
    with pytest.raises(Error):
        seal_it(source, tmp_path / "out")
    assert open_descriptors() == before
