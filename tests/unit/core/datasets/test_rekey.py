# SPDX-License-Identifier: BSD-3-Clause
"""Changes of a sealed dataset: more files, and another dataset key."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.canonical import canonical_json
from sealroom.crypt4gh import DataKey, Header, HeaderKeyError, SecretKey, make_header, reencrypt
from sealroom.datasets import update
from sealroom.datasets.check import check_dataset
from sealroom.datasets.manifest import Manifest, encode_signature
from sealroom.datasets.sealing import SourceFile
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.update import add_files, complete_update, rekey_dataset
from sealroom.datasets.vault import Vault
from sealroom.errors import ConfigurationError, IntegrityError, SignatureError, StorageError
from support.sealed import CREATED, PLAIN, Sealed, noise

MORE = {"later/ecg.bin": noise(70_000, 9), "notes.txt": b"More beats."}


@pytest.fixture
def more(tmp_path: Path) -> list[SourceFile]:
    files = []
    for name, data in MORE.items():
        path = tmp_path / "more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files.append(SourceFile(name, path, len(data)))
    return files


def state(sealed: Sealed) -> dict[str, bytes]:
    root = sealed.directory.path
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def verified(sealed: Sealed) -> Manifest:
    return sealed.directory.read_manifest().verify(sealed.owner_key)


def all_good(sealed: Sealed, manifest: Manifest, secret: SecretKey) -> bool:
    found = check_dataset(sealed.directory, manifest, secret=secret)
    return set(found.values()) == {None} and not list(sealed.root.glob(".*"))


def add(sealed: Sealed, files: list[SourceFile], **options: object) -> Manifest:
    return add_files(
        sealed.directory.path,
        files,
        signing_key=sealed.signing_key,
        created=CREATED,
        **options,  # type: ignore[arg-type]
    )


def rekey(sealed: Sealed, new: SecretKey, old: SecretKey | None = None) -> Manifest:
    return rekey_dataset(
        sealed.directory.path,
        old=old or sealed.dataset_key,
        new=new.public,
        signing_key=sealed.signing_key,
        created=CREATED,
    )


# --- add ---


def test_added_files_are_read_beside_the_others(sealed: Sealed, more: list[SourceFile]) -> None:
    before = sealed.manifest
    manifest = add(sealed, more)
    assert (manifest.version, manifest.previous) == (2, before.sha256)
    assert manifest == verified(sealed)
    assert all_good(sealed, manifest, sealed.dataset_key)
    assert (manifest.dataset_key, manifest.writer_key) == (before.dataset_key, before.writer_key)
    sealed.manifest = manifest
    vault = sealed.unlock(Vault())
    for name, data in {**PLAIN, **MORE}.items():
        buffer = bytearray(len(data))
        vault.read_into(manifest.id, name, 0, memoryview(buffer))
        assert bytes(buffer) == data


def test_add_touches_no_sealed_file(sealed: Sealed, more: list[SourceFile]) -> None:
    before = state(sealed)
    add(sealed, more)
    after = state(sealed)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"dataset.json", "dataset.json.sig", "croissant.json", "dcat.json"}


def test_add_can_be_repeated(sealed: Sealed, more: list[SourceFile]) -> None:
    first = add(sealed, more[:1])
    second = add(sealed, more[1:])
    assert (second.version, second.previous) == (3, first.sha256)
    assert all_good(sealed, second, sealed.dataset_key)


def test_metadata_follow_the_manifest(sealed: Sealed, more: list[SourceFile]) -> None:
    manifest = add(sealed, more)
    described = json.loads((sealed.directory.path / "croissant.json").read_text())
    assert described["identifier"] == f"sha256:{manifest.sha256}"


def test_file_that_is_in_the_dataset_is_not_replaced(sealed: Sealed, more: list[SourceFile]) -> None:
    before = state(sealed)
    with pytest.raises(StorageError, match=r"ecg\.bin is in the dataset already"):
        add(sealed, [SourceFile("ecg.bin", more[0].path, more[0].size)])
    assert state(sealed) == before


def test_stray_file_in_the_way_is_not_overwritten(sealed: Sealed, more: list[SourceFile]) -> None:
    (sealed.directory.path / "notes.txt.c4gh").write_bytes(b"precious")
    with pytest.raises(StorageError, match="nothing was overwritten"):
        add(sealed, more)
    assert (sealed.directory.path / "notes.txt.c4gh").read_bytes() == b"precious"


def test_file_named_twice_is_refused(sealed: Sealed, more: list[SourceFile]) -> None:
    with pytest.raises(ConfigurationError, match="named twice"):
        add(sealed, [more[0], more[0]])


def test_nothing_to_add_is_refused(sealed: Sealed) -> None:
    with pytest.raises(ConfigurationError, match="nothing to add"):
        add(sealed, [])


def test_add_to_another_owners_dataset_is_refused(sealed: Sealed, more: list[SourceFile]) -> None:
    before = state(sealed)
    with pytest.raises(SignatureError):
        add_files(sealed.directory.path, more, signing_key=Ed25519PrivateKey.generate())
    assert state(sealed) == before
    assert not list(sealed.root.glob(".*"))


def test_add_to_no_dataset_is_refused(sealed: Sealed, more: list[SourceFile], tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        add_files(tmp_path / "more", more, signing_key=sealed.signing_key)


def first_format(sealed: Sealed) -> Manifest:
    """Make of it what an earlier Sealroom left: format 1, and a writer whose key nobody has."""
    old, path = SecretKey.generate(), sealed.directory.path
    fields = json.loads(sealed.manifest.to_bytes())
    del fields["version"]
    fields |= {"format": "sealroom-dataset/1", "writer_key": old.public.to_base64()}
    for entry in fields["files"]:
        sealed_file = path / f"{entry['name']}.c4gh"
        data = sealed_file.read_bytes()
        opened = reencrypt(
            Header.from_prefix(data), sealed.dataset_key, [sealed.dataset_key.public], writer=old
        )
        sealed_file.write_bytes(opened.to_bytes() + data[entry["header_size"] :])
        entry |= {
            "header_sha256": opened.sha256,
            "cipher_sha256": hashlib.sha256(data[entry["header_size"] :]).hexdigest(),
        }
    data = canonical_json(fields)
    (path / "dataset.json").write_bytes(data)
    (path / "dataset.json.sig").write_bytes(encode_signature(sealed.signing_key.sign(data)))
    return Manifest.from_bytes(data)


def test_dataset_of_the_first_format_is_checked_and_changed_after_a_rekey(
    sealed: Sealed, more: list[SourceFile]
) -> None:
    manifest = first_format(sealed)
    assert all_good(sealed, manifest, sealed.dataset_key)
    with pytest.raises(ConfigurationError, match="nobody has kept") as caught:
        add(sealed, more)
    assert "rekey" in caught.value.advice
    new = SecretKey.generate()
    second = rekey(sealed, new)
    assert (second.format, second.version, second.previous) == ("sealroom-dataset/2", 2, manifest.sha256)
    assert all_good(sealed, add(sealed, more), new)


# --- rekey ---


def test_rekeyed_dataset_opens_with_the_new_key_only(sealed: Sealed) -> None:
    new = SecretKey.generate()
    manifest = rekey(sealed, new)
    assert (manifest.version, manifest.previous) == (2, sealed.manifest.sha256)
    assert manifest.dataset_key == new.public.to_base64()
    assert manifest == verified(sealed)
    assert all_good(sealed, manifest, new)
    found = check_dataset(sealed.directory, manifest, secret=sealed.dataset_key)
    assert all(isinstance(error, HeaderKeyError) for error in found.values())


def test_rekey_touches_headers_only(sealed: Sealed) -> None:
    before = state(sealed)
    rekey(sealed, SecretKey.generate())
    after = state(sealed)
    for entry in sealed.manifest.files:
        old, new = before[f"{entry.name}.c4gh"], after[f"{entry.name}.c4gh"]
        assert old[entry.header_size :] == new[entry.header_size :]
        assert old[: entry.header_size] != new[: entry.header_size]
        assert before[f"{entry.name}.c4gh.segments"] == after[f"{entry.name}.c4gh.segments"]


def test_rekey_with_a_key_that_is_not_the_datasets_is_refused(sealed: Sealed) -> None:
    before = state(sealed)
    with pytest.raises(ConfigurationError, match="is not the one of heartbeats"):
        rekey(sealed, SecretKey.generate(), old=SecretKey.generate())
    assert state(sealed) == before


def test_rekey_of_a_changed_header_is_refused(sealed: Sealed) -> None:
    """A stranger's packet must not come into a header that the owner signs."""
    path = sealed.directory.sealed_file("ecg.bin")
    data = path.read_bytes()
    path.write_bytes(make_header([DataKey.generate()], [sealed.dataset_key.public]).to_bytes() + data[124:])
    with pytest.raises(IntegrityError, match=r"ecg\.bin: its header"):
        rekey(sealed, SecretKey.generate())
    assert verified(sealed) == sealed.manifest


def test_header_for_other_readers_too_does_not_fit(sealed: Sealed) -> None:
    path = sealed.directory.path
    fields = json.loads(sealed.manifest.to_bytes())
    data = sealed.directory.sealed_file("ecg.bin").read_bytes()
    writer = SecretKey.generate()
    readers = [sealed.dataset_key.public, SecretKey.generate().public]
    header = reencrypt(Header.from_prefix(data), sealed.dataset_key, readers, writer=writer)
    (path / "ecg.bin.c4gh").write_bytes(header.to_bytes() + data[124:])
    entry = next(entry for entry in fields["files"] if entry["name"] == "ecg.bin")
    entry |= {"header_size": header.size, "header_sha256": header.sha256}
    fields |= {"files": [entry], "writer_key": writer.public.to_base64()}
    signed = canonical_json(fields)
    (path / "dataset.json").write_bytes(signed)
    (path / "dataset.json.sig").write_bytes(encode_signature(sealed.signing_key.sign(signed)))
    with pytest.raises(ConfigurationError, match="for other readers, too"):
        rekey(sealed, SecretKey.generate())


# --- changes that are interrupted ---


class Killed(BaseException):
    """The process ends here."""


def kill_in(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """End the process at a call of a function that puts a change in place."""
    real, count = getattr(update, name), 0

    def killed(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count > call:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(update, name, killed)


# The first call puts the signature in place and the second the manifest; two moves for each file; and so on.
MOMENTS = [("write_durably", 0), ("write_durably", 2), ("_put_in_place", 0), ("replace_durably", 0)]
MOMENTS += [("replace_durably", 1), ("write_metadata", 0)]


def interrupt(sealed: Sealed, change: Callable[[], Manifest], name: str, call: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        kill_in(patched, name, call)
        with pytest.raises(Killed):
            change()


@pytest.mark.parametrize(("name", "call"), [*MOMENTS, ("_move", 3), ("_move", 8)])
def test_interrupted_add_is_undone_or_completed(
    sealed: Sealed, more: list[SourceFile], name: str, call: int
) -> None:
    before = state(sealed)
    interrupt(sealed, lambda: add(sealed, more), name, call)
    completed = complete_update(sealed.directory.path, sealed.signing_key)
    if name == "write_durably":
        assert completed is None
        assert state(sealed) == before
        completed = add(sealed, more)
    assert completed == verified(sealed)
    assert completed.version == 2
    assert all_good(sealed, completed, sealed.dataset_key)
    assert {entry.name for entry in completed.files} == {*PLAIN, *MORE}


@pytest.mark.parametrize(("name", "call"), [*MOMENTS, ("_write_headers", 0)])
def test_interrupted_rekey_is_undone_or_completed(sealed: Sealed, name: str, call: int) -> None:
    before, new = state(sealed), SecretKey.generate()
    interrupt(sealed, lambda: rekey(sealed, new), name, call)
    completed = complete_update(sealed.directory.path, sealed.signing_key)
    if name == "write_durably":
        assert completed is None
        assert state(sealed) == before
        completed = rekey(sealed, new)
    assert completed == verified(sealed)
    assert all_good(sealed, completed, new)


def test_rekey_that_ends_between_two_headers_is_completed(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, real, count = SecretKey.generate(), os.pwrite, 0

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 2:
            raise Killed
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(Killed):
            rekey(sealed, new)
    # In between, a reader refuses what does not fit together.
    found = check_dataset(sealed.directory, sealed.manifest)
    assert [name for name, error in found.items() if error is not None] == ["ecg.bin", "empty"]
    completed = complete_update(sealed.directory.path, sealed.signing_key)
    assert completed is not None
    assert all_good(sealed, completed, new)


def test_next_change_completes_the_interrupted_one(sealed: Sealed, more: list[SourceFile]) -> None:
    interrupt(sealed, lambda: add(sealed, more[:1]), "replace_durably", 0)
    manifest = add(sealed, more[1:])
    assert manifest.version == 3
    assert all_good(sealed, manifest, sealed.dataset_key)


def planted(sealed: Sealed, source: Path) -> Path:
    """Put an older version, with the owner's signature, where an unfinished change would be."""
    place = sealed.root / f".{sealed.manifest.id}.update"
    place.mkdir()
    for name in ("dataset.json", "dataset.json.sig"):
        shutil.copy(source / name, place / name)
    (place / "ready").touch()
    return place


def test_older_version_does_not_come_back_as_an_unfinished_change(
    sealed: Sealed, more: list[SourceFile], tmp_path: Path
) -> None:
    shutil.copytree(sealed.directory.path, tmp_path / "old")
    manifest = add(sealed, more)
    place = planted(sealed, tmp_path / "old")
    with pytest.raises(IntegrityError, match="does not follow") as caught:
        complete_update(sealed.directory.path, sealed.signing_key)
    assert str(place) in caught.value.advice
    assert verified(sealed) == manifest


def test_unfinished_change_of_somebody_else_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    before = state(sealed)
    place = planted(sealed, sealed.directory.path)
    data = (place / "dataset.json").read_bytes()
    (place / "dataset.json.sig").write_bytes(encode_signature(Ed25519PrivateKey.generate().sign(data)))
    with pytest.raises(SignatureError):
        complete_update(sealed.directory.path, sealed.signing_key)
    assert state(sealed) == before


def test_nothing_to_complete(sealed: Sealed) -> None:
    assert complete_update(sealed.directory.path, sealed.signing_key) is None
    assert not DatasetDirectory(sealed.root / ".heartbeats.update").path.exists()
