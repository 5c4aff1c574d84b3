# SPDX-License-Identifier: BSD-3-Clause
"""Sealing into a real S3 server: whole or not at all, resumable, and clear about what went wrong."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.check import check_dataset
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.s3_source import S3Options, bucket_store
from sealroom.datasets.seal_s3 import begun, seal_to_bucket
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, StorageError
from support.s3 import BUCKET, FaultyProxy, S3Server, lost, reset, slow, status
from support.sealed import CREATED, DESCRIPTION, PLAIN, noise, write_tree

QUICK: dict[str, Any] = {"retries": 2, "patience": 5.0, "timeout": 5.0}
SEALROOM = Path(sys.executable).parent / "sealroom"


class Owner:
    """A data owner with a directory, and the bucket."""

    def __init__(self, source: Path, s3: S3Server) -> None:
        self.source, self.s3 = source, s3
        self.dataset_key, self.signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
        # A place of its own: the server remembers conditions on names whose files a test removes behind it.
        self.where = f"s3://{BUCKET}/new/{uuid.uuid4().hex}"
        self.place = s3.bucket / "new" / self.where.rpartition("/")[2]
        self.sealed: list[str] = []

    def seal(self, **more: Any) -> Manifest:
        def progress(name: str, _size: int) -> None:
            self.sealed.append(name)

        fields: dict[str, Any] = {
            "description": DESCRIPTION,
            "dataset_key": self.dataset_key.public,
            "signing_key": self.signing_key,
            "created": CREATED,
            "progress": progress,
        }
        return seal_to_bucket(self.source, self.where, **{**fields, **more})

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.place)) for p in self.place.rglob("*") if p.is_file())

    def whole(self) -> bool:
        directory = DatasetDirectory(self.where)
        manifest = directory.read_manifest().verify(self.signing_key.public_key().public_bytes_raw())
        found = check_dataset(directory, manifest, secret=self.dataset_key)
        return set(found) == {entry.name for entry in manifest.files} and set(found.values()) == {None}

    def stop_after(self, name: str) -> None:
        """Seal until a file is done, and be interrupted then."""

        def progress(done: str, _size: int) -> None:
            if done == name:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.seal(progress=progress, workers=1)


@pytest.fixture
def owner(s3: S3Server, tmp_path: Path) -> Iterator[Owner]:
    yield Owner(write_tree(tmp_path / "plain", PLAIN), s3)
    shutil.rmtree(s3.bucket / "new", ignore_errors=True)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3) as made:
        yield made


def through(proxy: FaultyProxy, owner: Owner, **more: Any) -> S3Options:
    return owner.s3.options(proxy.endpoint, **{**QUICK, **more})


# -- whole datasets


def test_what_is_sealed_into_a_bucket_is_a_whole_dataset(owner: Owner) -> None:
    manifest = owner.seal()
    assert owner.whole()
    assert DatasetDirectory(owner.where).read_manifest().data == manifest.to_bytes()
    expected = ["dataset.json", "dataset.json.sig", "croissant.json", "dcat.jsonld"]
    expected += [name + suffix for name in PLAIN for suffix in (".c4gh", ".c4gh.segments")]
    assert len(owner.names()) == len(expected)
    assert set(owner.names()) >= set(expected[:2]) | set(expected[4:])
    assert not begun(owner.where)


def test_nothing_clear_is_in_the_bucket_or_put_down_on_this_machine(owner: Owner, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    owner.seal()
    assert sorted(tmp_path.rglob("*")) == before
    marks = [data[:64] for data in PLAIN.values() if data]
    for path in owner.place.rglob("*"):
        assert path.is_dir() or not any(mark in path.read_bytes() for mark in marks)


def test_a_large_file_goes_up_in_parts(owner: Owner, proxy: FaultyProxy) -> None:
    (owner.source / "large.bin").write_bytes(noise(21 << 20, 9))
    owner.seal(options=through(proxy, owner), whole_digests=True)
    assert owner.whole()
    parts = [one for one in proxy.written if "large.bin.c4gh?partNumber=" in one]
    assert len(parts) == 3


def test_many_parts_on_the_way_at_once_are_each_what_was_sealed(owner: Owner, proxy: FaultyProxy) -> None:
    # Slow answers let parts pile up while the next ones are encrypted.
    (owner.source / "large.bin").write_bytes(os.urandom(100 << 20))
    proxy.write_faults = [slow(0.2)] * 16
    owner.seal(options=through(proxy, owner, timeout=60.0, patience=120.0))
    assert owner.whole()


def test_the_manifest_is_the_last_object_but_for_the_journal(owner: Owner, proxy: FaultyProxy) -> None:
    owner.seal(options=through(proxy, owner))
    last = [one for one in proxy.written if one.startswith("PUT")][-1]
    assert last.endswith("/dataset.json")
    assert proxy.written[-1].startswith("POST")


# -- what is there


def test_a_dataset_that_is_there_is_not_overwritten(owner: Owner) -> None:
    owner.seal()
    before = {name: (owner.place / name).read_bytes() for name in owner.names()}
    with pytest.raises(StorageError, match="holds a dataset already; nothing was overwritten"):
        owner.seal()
    assert {name: (owner.place / name).read_bytes() for name in owner.names()} == before


def test_a_place_with_something_else_is_not_written_to(owner: Owner) -> None:
    owner.place.mkdir(parents=True)
    (owner.place / "thesis.pdf").write_bytes(b"years of work")
    with pytest.raises(StorageError, match="is not empty; nothing was overwritten"):
        owner.seal()
    assert owner.names() == ["thesis.pdf"]


def test_what_another_owner_has_begun_is_left_alone(owner: Owner) -> None:
    owner.stop_after("ecg.bin")
    names = owner.names()
    with pytest.raises(StorageError, match="begun by another owner"):
        owner.seal(signing_key=Ed25519PrivateKey.generate())
    assert owner.names() == names


def test_a_dataset_that_appears_meanwhile_is_not_overwritten(owner: Owner) -> None:
    def other(_name: str, _size: int) -> None:
        obstore.put(
            bucket_store(BUCKET), f"{owner.where[len(BUCKET) + 6 :]}/dataset.json", b"somebody else's"
        )

    with pytest.raises(StorageError, match="holds a dataset already"):
        owner.seal(progress=other)
    assert (owner.place / "dataset.json").read_bytes() == b"somebody else's"


def test_a_bucket_alone_is_no_place(owner: Owner) -> None:
    with pytest.raises(ConfigurationError, match="names a bucket"):
        seal_to_bucket(
            owner.source, f"s3://{BUCKET}", description=DESCRIPTION,
            dataset_key=owner.dataset_key.public, signing_key=owner.signing_key,
        )  # fmt: skip


def test_two_processes_do_not_seal_the_same_directory_at_once(owner: Owner) -> None:
    fd = os.open(owner.source, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="Another process seals"):
            owner.seal()
    finally:
        os.close(fd)


# -- going on


def test_an_interrupted_seal_goes_on_with_what_is_left(owner: Owner) -> None:
    owner.stop_after("exact.bin")
    assert "dataset.json" not in owner.names()
    assert begun(owner.where)
    first = (owner.place / "ecg.bin.c4gh").read_bytes()
    owner.seal()
    assert owner.whole()
    assert (owner.place / "ecg.bin.c4gh").read_bytes() == first
    assert not any(name.startswith(".journal") for name in owner.names())


def test_a_source_that_changed_meanwhile_is_sealed_again(owner: Owner) -> None:
    owner.stop_after("exact.bin")
    first = (owner.place / "ecg.bin.c4gh").read_bytes()
    (owner.source / "ecg.bin").write_bytes(noise(1000, 5))
    owner.seal()
    assert owner.whole()
    assert (owner.place / "ecg.bin.c4gh").read_bytes() != first


def test_a_journal_that_somebody_changed_is_not_believed(owner: Owner) -> None:
    owner.stop_after("exact.bin")
    first = (owner.place / "ecg.bin.c4gh").read_bytes()
    line = owner.place / ".journal" / "00000001"
    line.write_bytes(line.read_bytes().replace(b'"ecg.bin"', b'"ecg.bix"'))
    owner.seal()
    assert owner.whole()
    assert (owner.place / "ecg.bin.c4gh").read_bytes() != first


@pytest.mark.parametrize("suffix", [".c4gh", ".c4gh.segments"])
def test_a_finished_file_that_is_gone_is_sealed_again(owner: Owner, suffix: str) -> None:
    owner.stop_after("exact.bin")
    (owner.place / f"ecg.bin{suffix}").unlink()
    owner.seal()
    assert owner.whole()


def test_a_seal_that_is_interrupted_twice_goes_on(owner: Owner) -> None:
    owner.stop_after("ecg.bin")
    owner.stop_after("exact.bin")
    owner.seal()
    assert owner.whole()


# -- faults


def test_a_busy_server_is_asked_again(owner: Owner, proxy: FaultyProxy) -> None:
    proxy.write_faults = [status(503, "SlowDown"), status(500), status(503)]
    owner.seal(options=through(proxy, owner, retries=5))
    assert owner.whole()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(503, "SlowDown"), "the server is busy"),
        (status(500), "the server answers 500"),
        (status(507, "InsufficientStorage"), "no space is left in the storage"),
        (status(403, "AccessDenied"), "may not be written to with these credentials"),
        (reset, "the server does not answer"),
    ],
    ids=["busy", "broken", "full", "forbidden", "gone"],
)
def test_a_server_that_refuses_is_said_and_the_seal_goes_on_later(
    owner: Owner, proxy: FaultyProxy, fault: Any, said: str
) -> None:
    owner.stop_after("ecg.bin")
    proxy.write_faults = [fault] * 50
    with pytest.raises(StorageError, match=said) as caught:
        owner.seal(options=through(proxy, owner))
    assert owner.s3.access_key not in caught.value.diagnostics()
    assert "dataset.json" not in owner.names()
    owner.seal()
    assert owner.whole()


def test_a_server_that_is_too_slow_is_said(owner: Owner, proxy: FaultyProxy) -> None:
    proxy.write_faults = [slow(3.0)] * 50
    with pytest.raises(StorageError, match="the server is too slow"):
        owner.seal(options=through(proxy, owner, timeout=0.5, retries=1))


def test_the_answer_to_the_manifest_may_get_lost(owner: Owner, proxy: FaultyProxy) -> None:
    def lose(answer: Any) -> None:
        if proxy.written[-1].endswith("/dataset.json"):
            lost(answer)

    owner.stop_after("exact.bin")
    proxy.write_faults = [lose] * 50
    owner.seal(options=through(proxy, owner), progress=None)
    assert owner.whole()


def test_a_bucket_that_is_not_there_is_said(owner: Owner) -> None:
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        seal_to_bucket(
            owner.source, "s3://nowhere/x", description=DESCRIPTION,
            dataset_key=owner.dataset_key.public, signing_key=owner.signing_key,
        )  # fmt: skip


# -- the command


@pytest.fixture
def command(owner: Owner, tmp_path: Path) -> Any:
    home = tmp_path / "owner"
    home.mkdir()
    (home / "owner.toml").write_text('broker = "http://127.0.0.1:9"\n')
    pem = owner.signing_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (home / "signing.pem").write_bytes(pem)
    (home / "token").write_text("token\n")
    for name in ("signing.pem", "token"):
        (home / name).chmod(0o600)
    environment = {
        **os.environ,
        "SEALROOM_OWNER": str(home / "owner.toml"),
        "AWS_ENDPOINT_URL": owner.s3.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": owner.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": owner.s3.secret_key,
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SEALROOM, "dataset", *arguments], env={**environment, **more}, text=True,
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip

    return run


def test_the_command_seals_shows_and_verifies_in_a_bucket(owner: Owner, command: Any) -> None:
    texts = ["--id", "heartbeats", "--title", "Heartbeats", "--owner", "Heart Centre"]
    seal = ["seal", str(owner.source), *texts, "--out", owner.where]
    refused = command(*seal, AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode != 0
    assert "with these credentials" in refused.stderr
    done = command(*seal)
    assert done.returncode == 0, done.stderr
    assert f"into {owner.where}" in done.stdout
    assert f"Next: sealroom dataset register {owner.where}" in done.stdout
    shown = command("show", owner.where)
    assert "Heartbeats" in shown.stdout, shown.stderr
    checked = command("verify", owner.where, "--decrypt")
    assert checked.returncode == 0, checked.stderr
    assert "is what the data owner sealed" in checked.stdout
    again = command(*seal)
    assert again.returncode != 0
    assert "nothing was overwritten" in again.stderr
    path = owner.place / "ecg.bin.c4gh"
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    wrong = command("verify", owner.where)
    assert wrong.returncode == 1
    assert "ecg.bin: segment 2 of 5 was changed" in wrong.stdout


def test_a_dataset_cannot_be_called_workspace(owner: Owner) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigurationError, match="cannot be called 'workspace'"):
        owner.seal(description=replace(DESCRIPTION, id="workspace"))
