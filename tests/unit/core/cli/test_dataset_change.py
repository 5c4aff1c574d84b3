# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom dataset add`, `rekey`, `unseal`, an interrupted `seal`, and metadata, as an owner runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.cli import run
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from sealroom.crypt4gh import SecretKey, read_secret_key, write_secret_key
from sealroom.datasets import sealing, update
from sealroom.errors import StorageError
from support.sealed import PLAIN, write_tree

TEXTS = ["--id", "heartbeats", "--title", "Heartbeats", "--owner", "Heart Centre", "--term", "DUO:0000042"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data owner's home: settings, keys and a directory of data."""
    owner = tmp_path / "owner"
    owner.mkdir()
    (owner / "owner.toml").write_text('broker = "http://127.0.0.1:9"\n')
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (owner / "signing.pem").write_bytes(pem)
    (owner / "signing.pem").chmod(0o600)
    write_tree(tmp_path / "data", PLAIN)
    monkeypatch.setenv("SEALROOM_OWNER", str(owner / "owner.toml"))
    return tmp_path


def seal(home: Path, *more: str) -> int:
    return run(["dataset", "seal", str(home / "data"), *TEXTS, "--out", str(home / "sealed"), *more])


@pytest.fixture
def sealed(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert seal(home) == EXIT_OK
    capsys.readouterr()
    return home / "sealed"


def manifest(sealed: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((sealed / "dataset.json").read_text())
    return read


def verify(sealed: Path) -> int:
    return run(["dataset", "verify", str(sealed), "--decrypt"])


# --- seal that is interrupted ---


def test_interrupted_seal_says_how_to_go_on_and_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("No space is left.")

    write_tree(home / "data", {"z.bin": bytes(3 << 20)})
    with monkeypatch.context() as patched:
        patched.setattr(sealing.Sealer, "_seal_large", full)
        assert seal(home) == EXIT_UNCHECKED
    said = capsys.readouterr().err
    assert "The same command goes on from here" in said
    assert str(home / ".sealed.partial") in said
    key = home / "owner" / "keys" / "heartbeats.sec"
    first = key.read_bytes()
    assert seal(home) == EXIT_OK
    assert "Going on with what an earlier try has sealed" in capsys.readouterr().err
    assert key.read_bytes() == first
    assert verify(home / "sealed") == EXIT_OK


def test_seal_makes_digests_of_whole_files_when_asked(home: Path) -> None:
    assert seal(home, "--sha256") == EXIT_OK
    assert all(len(entry["sha256"]) == 64 for entry in manifest(home / "sealed")["files"])
    assert verify(home / "sealed") == EXIT_OK


# --- show ---


def test_show_writes_croissant_and_dcat(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", str(sealed), "--croissant", "--url", "https://heart.example/d"]) == EXIT_OK
    described = json.loads(capsys.readouterr().out)
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert described["url"] == "https://heart.example/d"
    assert run(["dataset", "show", str(sealed), "--dcat"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["@type"] == "dcat:Dataset"


# --- add ---


def test_add_seals_files_and_folders(home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(home / "more", {"a/x.csv": b"1,2\n", "y.csv": b"3,4\n"})
    (home / "notes.txt").write_bytes(b"notes")
    given = [str(home / "more"), str(home / "notes.txt")]
    assert run(["dataset", "add", str(sealed), *given, "--under", "second"]) == EXIT_OK
    out = capsys.readouterr().out
    assert "Added 3 files: heartbeats is now version 2, 7 files" in out
    assert f"sealroom dataset register {sealed}" in out
    names = {entry["name"] for entry in manifest(sealed)["files"]}
    assert names == {*PLAIN, "second/a/x.csv", "second/y.csv", "second/notes.txt"}
    assert verify(sealed) == EXIT_OK


def test_add_writes_json(home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "notes.txt").write_bytes(b"notes")
    assert run(["dataset", "add", str(sealed), str(home / "notes.txt"), "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["version"] == 2


def test_add_of_a_file_that_is_there_is_refused(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (sealed / "dataset.json").read_bytes()
    assert run(["dataset", "add", str(sealed), str(home / "data" / "ecg.bin")]) == EXIT_UNCHECKED
    assert "in the dataset already" in capsys.readouterr().err
    assert (sealed / "dataset.json").read_bytes() == before


def test_add_of_a_link_is_refused(home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "link").symlink_to("/etc/passwd")
    assert run(["dataset", "add", str(sealed), str(home / "link")]) == EXIT_UNCHECKED
    assert "link" in capsys.readouterr().err


def test_add_of_a_missing_file_is_not_done(home: Path, sealed: Path) -> None:
    assert run(["dataset", "add", str(sealed), str(home / "nothing")]) == EXIT_UNCHECKED


# --- rekey ---


def test_rekey_keeps_the_old_key_and_says_what_is_next(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = home / "owner" / "keys" / "heartbeats.sec"
    old = read_secret_key(key.read_bytes())
    assert run(["dataset", "rekey", str(sealed)]) == EXIT_OK
    out = capsys.readouterr().out
    assert "is now version 2" in out
    assert "can still read that" in out
    kept = key.with_name("heartbeats.sec.version-1")
    assert read_secret_key(kept.read_bytes()) == old
    assert read_secret_key(key.read_bytes()) != old
    assert not key.with_name("heartbeats.sec.next").exists()
    assert manifest(sealed)["dataset_key"] == read_secret_key(key.read_bytes()).public.to_base64()
    assert verify(sealed) == EXIT_OK


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["_put_in_place", "replace_durably", "write_metadata"])
def test_rekey_that_was_killed_ends_with_a_key_that_opens(
    home: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(update, where, killed)
        with pytest.raises(Killed):
            run(["dataset", "rekey", str(sealed)])
    assert run(["dataset", "rekey", str(sealed)]) == EXIT_OK
    assert verify(sealed) == EXIT_OK
    assert manifest(sealed)["version"] == 2


def test_rekey_that_failed_on_the_disk_keeps_the_new_key_for_the_next_try(
    home: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some headers may be for the new key already: without it they open for nobody."""
    real, count = os.pwrite, 0

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(5, "Input/output error")
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        assert run(["dataset", "rekey", str(sealed)]) == EXIT_UNCHECKED
    assert run(["dataset", "rekey", str(sealed)]) == EXIT_OK
    assert verify(sealed) == EXIT_OK


def test_rekeyed_dataset_takes_more_files(home: Path, sealed: Path) -> None:
    assert run(["dataset", "rekey", str(sealed)]) == EXIT_OK
    (home / "notes.txt").write_bytes(b"notes")
    assert run(["dataset", "add", str(sealed), str(home / "notes.txt")]) == EXIT_OK
    assert manifest(sealed)["version"] == 3
    assert verify(sealed) == EXIT_OK


# --- unseal ---


def unseal(home: Path, sealed: Path, *more: str) -> int:
    return run(["dataset", "unseal", str(sealed), "--out", str(home / "clear"), *more])


def test_unseal_writes_the_files_and_warns(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unseal(home, sealed, "--yes") == EXIT_OK
    out = capsys.readouterr().out
    assert "in clear; every byte was checked" in out
    assert "Nothing protects them there" in out
    for name, data in PLAIN.items():
        assert (home / "clear" / name).read_bytes() == data


def test_unseal_that_is_not_confirmed_writes_nothing(
    home: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object, **__: object) -> None:
        raise click.Abort

    monkeypatch.setattr(click, "confirm", no)
    assert unseal(home, sealed) != EXIT_OK
    assert not (home / "clear").exists()


def test_unseal_takes_a_locked_key_file(home: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = home / "owner" / "keys" / "heartbeats.sec"
    locked = home / "backup.sec"
    locked.write_bytes(write_secret_key(read_secret_key(key.read_bytes()), b"open sesame"))
    locked.chmod(0o600)
    key.unlink()
    monkeypatch.setattr("click.prompt", lambda *_, **__: "open sesame")
    assert unseal(home, sealed, "--yes", "--key", str(locked)) == EXIT_OK


def test_unseal_with_another_key_is_refused(home: Path, sealed: Path) -> None:
    other = home / "other.sec"
    other.write_bytes(write_secret_key(SecretKey.generate()))
    other.chmod(0o600)
    assert unseal(home, sealed, "--yes", "--key", str(other)) == EXIT_USAGE
    assert not (home / "clear").exists()


def test_unseal_of_a_changed_file_is_refused(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sealed / "ecg.bin.c4gh"
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    assert unseal(home, sealed, "--yes") == EXIT_REFUSED
    assert "ecg.bin: segment 2 of 5" in capsys.readouterr().err
    assert not (home / "clear").exists()
