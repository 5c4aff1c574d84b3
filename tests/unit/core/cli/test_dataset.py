# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom dataset`, as a data owner runs it."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.cli import run
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from sealroom.crypt4gh import SecretKey, read_secret_key, write_secret_key
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.trustee import open_with_key
from sealroom.datasets.vault import Vault
from sealroom.errors import AccessDeniedError
from sealroom.kbs.admin import OwnedDataset, OwnerClient
from sealroom.kbs.calls import DatasetRegistration
from sealroom.kbs.trustee import DatasetKey
from support.sealed import PLAIN, write_tree

TEXTS = ["--title", "Heartbeats", "--owner", "Heart Centre", "--contact", "data@heart.example"]
TEXTS += [
    "--description",
    "Five minutes.",
    "--source",
    "MIT-BIH",
    "--licence",
    "ODC-BY",
    "--term",
    "DUO:0000042",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data owner's home: settings, keys and a directory of data."""
    owner = tmp_path / "owner"
    owner.mkdir()
    (owner / "owner.toml").write_text('broker = "http://127.0.0.1:9"\n')
    (owner / "token").write_text("token-of-the-owner\n")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (owner / "signing.pem").write_bytes(pem)
    for name in ("token", "signing.pem"):
        (owner / name).chmod(0o600)
    write_tree(tmp_path / "data", PLAIN)
    monkeypatch.setenv("SEALROOM_OWNER", str(owner / "owner.toml"))
    return tmp_path


def seal(home: Path, *more: str, out: str = "sealed") -> int:
    return run(
        ["dataset", "seal", str(home / "data"), "--id", "heartbeats", *TEXTS, "--out", str(home / out), *more]
    )


@pytest.fixture
def sealed(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert seal(home) == EXIT_OK
    capsys.readouterr()
    return home / "sealed"


def damage(directory: Path, name: str = "ecg.bin") -> None:
    path = DatasetDirectory(directory).sealed_file(name)
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)


# --- seal ---


def test_seal_makes_a_dataset_and_says_what_is_next(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(home) == EXIT_OK
    out = capsys.readouterr().out
    assert "Sealed 4 files, 394.4 kB" in out
    assert "keep a copy" in out
    assert "were left as they are" in out
    assert f"sealroom dataset register {home / 'sealed'}" in out
    assert run(["dataset", "verify", str(home / "sealed"), "--decrypt"]) == EXIT_OK


def test_seal_stores_the_secret_key_for_the_owner_alone(home: Path) -> None:
    assert seal(home) == EXIT_OK
    path = home / "owner" / "keys" / "heartbeats.sec"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    manifest = json.loads((home / "sealed" / "dataset.json").read_text())
    assert read_secret_key(path.read_bytes()).public.to_base64() == manifest["dataset_key"]


def test_seal_shows_no_secret(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(home, "--json") == EXIT_OK
    shown = "".join(capsys.readouterr())
    secret = read_secret_key((home / "owner" / "keys" / "heartbeats.sec").read_bytes()).reveal()
    assert secret.hex() not in shown
    assert base64.b64encode(secret).decode() not in shown


def test_seal_writes_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(home, "--json") == EXIT_OK
    result = json.loads(capsys.readouterr().out)
    assert result["id"] == "heartbeats"
    assert result["files"] == 4
    assert result["path"] == str(home / "sealed")


def test_seal_does_not_overwrite(sealed: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (sealed / "dataset.json").read_bytes()
    assert seal(home) == EXIT_UNCHECKED
    assert "is there already" in capsys.readouterr().err
    assert (sealed / "dataset.json").read_bytes() == before


def test_seal_again_elsewhere_uses_the_key_that_is_there(
    sealed: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seal(home, out="again") == EXIT_OK
    assert "the key that is there already" in capsys.readouterr().err
    first, second = (json.loads((home / name / "dataset.json").read_text()) for name in ("sealed", "again"))
    assert first["dataset_key"] == second["dataset_key"]
    assert first["writer_key"] == second["writer_key"]
    assert first["files"][0]["header_sha256"] != second["files"][0]["header_sha256"]


def test_seal_that_fails_leaves_no_key(home: Path) -> None:
    (home / "data" / "link").symlink_to("/etc/passwd")
    assert seal(home) == EXIT_USAGE
    (home / "data" / "link").unlink()
    assert seal(home, "--term", "DUO:9999999") == EXIT_REFUSED
    assert not list((home / "owner").glob("keys/*"))
    assert not (home / "sealed").exists()


@pytest.mark.parametrize("missing", ["--id", "--title", "--owner", "--out"])
def test_seal_prompts_for_nothing(home: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--id": "a", "--title": "t", "--owner": "o", "--out": str(home / "sealed")}
    del given[missing]
    arguments = [part for pair in given.items() for part in pair]
    assert run(["dataset", "seal", str(home / "data"), *arguments]) == EXIT_USAGE
    assert missing in capsys.readouterr().err


def test_seal_refuses_an_unusable_id(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--id", "../up", "--title", "t", "--owner", "o", "--out", str(home / "sealed")]
    assert run(["dataset", "seal", str(home / "data"), *arguments]) == EXIT_REFUSED
    assert "not a usable id" in capsys.readouterr().err


def test_seal_without_settings_says_where_they_are_looked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEALROOM_OWNER", str(home / "nothing.toml"))
    assert seal(home) == EXIT_USAGE
    assert "nothing.toml" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_signing_key_that_others_may_read_is_refused(
    home: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "owner" / "signing.pem").chmod(mode)
    assert seal(home) == EXIT_USAGE
    assert "chmod 600" in capsys.readouterr().err


def test_signing_key_that_is_none_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "owner" / "signing.pem").write_bytes(b"nonsense")
    assert seal(home) == EXIT_USAGE
    assert "not a private key" in capsys.readouterr().err


def test_signing_key_of_another_kind_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "X25519", "-out", home / "owner" / "signing.pem"], check=True
    )
    assert seal(home) == EXIT_USAGE
    assert "Ed25519" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only(home: Path) -> None:
    """In a real terminal, because that is what decides."""
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "from sealroom.cli import main; main()",
        "dataset",
        "seal",
        str(home / "data"),
    ]
    command += ["--id", "heartbeats", *TEXTS, "--out", str(home / "sealed")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "Sealing" in shown
    assert "394.4" in shown
    assert b"Sealed 4 files" in out
    assert b"\x1b" not in out


# --- show ---


def test_show_tells_the_manifest_and_that_nothing_was_checked(
    sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(sealed)
    assert run(["dataset", "show", str(sealed)]) == EXIT_OK
    out = capsys.readouterr().out
    for part in (
        "Heartbeats",
        "Heart Centre",
        "general research use",
        "labels/beats.csv",
        "MIT-BIH",
        "ODC-BY",
    ):
        assert part in out
    assert "Nothing was checked" in out


def test_show_writes_the_manifest_as_json(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", str(sealed), "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == json.loads((sealed / "dataset.json").read_text())


def test_show_of_no_dataset_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", str(home / "data")]) == EXIT_UNCHECKED
    assert "dataset.json is not there" in capsys.readouterr().err


# --- verify ---


@pytest.mark.parametrize("more", [[], ["--decrypt"]], ids=["without key", "with key"])
def test_verify_accepts_what_was_sealed(
    sealed: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dataset", "verify", str(sealed), *more]) == EXIT_OK
    out = capsys.readouterr().out
    assert out.count("unchanged") == len(PLAIN)
    assert "heartbeats is what the data owner sealed: 4 files, 394.4 kB." in out


def test_verify_with_a_public_key_needs_no_settings(
    sealed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_key, public_key = str(home / "owner" / "signing.pem"), str(home / "key.pem")
    subprocess.run(["openssl", "pkey", "-in", signing_key, "-pubout", "-out", public_key], check=True)
    monkeypatch.setenv("SEALROOM_OWNER", str(home / "nothing.toml"))
    assert run(["dataset", "verify", str(sealed), "--key", str(home / "key.pem")]) == EXIT_OK


def test_verify_names_file_and_segment(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(sealed)
    assert run(["dataset", "verify", str(sealed)]) == EXIT_REFUSED
    out = capsys.readouterr().out
    assert "REFUSED  ecg.bin: segment 2 of 5 was changed" in out
    assert "get the file again" in out
    assert out.count("unchanged") == len(PLAIN) - 1
    assert "is what the data owner sealed" not in out


def test_verify_writes_json(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(sealed)
    assert run(["dataset", "verify", str(sealed), "--json"]) == EXIT_REFUSED
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert [file["name"] for file in result["files"] if not file["ok"]] == ["ecg.bin"]


def test_verify_of_a_missing_file_is_not_checked(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DatasetDirectory(sealed).sealed_file("ecg.bin").unlink()
    assert run(["dataset", "verify", str(sealed)]) == EXIT_UNCHECKED
    assert "is not there" in capsys.readouterr().out


def test_verify_refuses_another_owners_signature(
    sealed: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = home / "owner" / "signing.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "Ed25519", "-out", key], check=True)
    assert run(["dataset", "verify", str(sealed)]) == EXIT_REFUSED
    assert "data owner's signature" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"nonsense", None])
def test_verify_refuses_a_file_that_is_no_public_key(sealed: Path, home: Path, content: bytes | None) -> None:
    path = home / "key.pem"
    if content is not None:
        path.write_bytes(content)
    assert run(["dataset", "verify", str(sealed), "--key", str(path)]) == EXIT_USAGE


def test_verify_with_another_datasets_key_is_refused(
    sealed: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_dataset_key(home)
    assert run(["dataset", "verify", str(sealed), "--decrypt"]) == EXIT_REFUSED
    assert "does not open with the key that was tried, SHA256:" in capsys.readouterr().out


def other_dataset_key(home: Path) -> None:
    shutil.copytree(home / "owner", home / "other")
    (home / "other" / "keys" / "heartbeats.sec").unlink()
    assert seal(home, "--settings", str(home / "other" / "owner.toml"), out="elsewhere") == EXIT_OK
    shutil.copy(home / "other" / "keys" / "heartbeats.sec", home / "owner" / "keys" / "heartbeats.sec")


# --- register ---


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[DatasetRegistration]:
    """What the broker was sent."""
    sent: list[DatasetRegistration] = []

    def register(_: OwnerClient, registration: DatasetRegistration) -> OwnedDataset:
        sent.append(registration)
        return OwnedDataset.model_validate(
            {
                "id": "heartbeats",
                "title": "Heartbeats",
                "manifest_sha256": "ab" * 32,
                "files": 4,
                "size": 1,
                "registered": "2026-11-02T10:00:00Z",
            }
        )

    monkeypatch.setattr(OwnerClient, "register_dataset", register)
    return sent


def test_register_sends_manifest_and_key_and_no_data(
    sealed: Path, home: Path, registered: list[DatasetRegistration], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dataset", "register", str(sealed)]) == EXIT_OK
    (sent,) = registered
    assert base64.b64decode(sent.manifest) == (sealed / "dataset.json").read_bytes()
    assert base64.b64decode(sent.signature) == base64.b64decode((sealed / "dataset.json.sig").read_bytes())
    secret = read_secret_key((home / "owner" / "keys" / "heartbeats.sec").read_bytes())
    assert base64.b64decode(sent.secret_key) == secret.reveal()
    shown = "".join(capsys.readouterr())
    assert "Nobody uses it without a grant" in shown
    assert "sealroom grant add heartbeats" in shown
    assert sent.secret_key not in shown + repr(sent)


def test_register_writes_json(
    sealed: Path, registered: list[DatasetRegistration], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dataset", "register", str(sealed), "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["id"] == "heartbeats"


def test_register_refuses_another_datasets_key(
    sealed: Path, home: Path, registered: list[DatasetRegistration], capsys: pytest.CaptureFixture[str]
) -> None:
    other_dataset_key(home)
    assert run(["dataset", "register", str(sealed)]) == EXIT_USAGE
    assert "not the one that this dataset is sealed to" in capsys.readouterr().err
    assert registered == []


def test_register_refuses_a_changed_manifest(sealed: Path, registered: list[DatasetRegistration]) -> None:
    path = sealed / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b"Heart Centre", b"Heart Center"))
    assert run(["dataset", "register", str(sealed)]) == EXIT_REFUSED
    assert registered == []


def test_register_without_a_key_says_so(
    sealed: Path, home: Path, registered: list[DatasetRegistration], capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "owner" / "keys" / "heartbeats.sec").unlink()
    assert run(["dataset", "register", str(sealed)]) == EXIT_USAGE
    assert "the key of heartbeats" in capsys.readouterr().err


def test_register_shows_the_brokers_refusal(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> OwnedDataset:
        raise AccessDeniedError("The token is wrong.", advice="Check it.")

    monkeypatch.setattr(OwnerClient, "register_dataset", refuse)
    assert run(["dataset", "register", str(sealed)]) == EXIT_REFUSED
    assert "The token is wrong." in capsys.readouterr().err


def test_register_without_a_broker_is_not_done(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "register", str(sealed)]) == EXIT_UNCHECKED
    assert capsys.readouterr().err


# --- trustee-resource


def resource(sealed: Path, out: Path, *more: str) -> int:
    return run(["dataset", "trustee-resource", str(sealed), "--out", str(out), *more])


def test_resource_for_a_trustee_opens_the_dataset(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "resource"
    assert resource(sealed, out) == EXIT_OK
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "set-resource --path default/sealroom/heartbeats" in " ".join(capsys.readouterr().out.split())
    found = DatasetKey.from_bytes(out.read_bytes())
    assert found.dataset == "heartbeats"
    owner_key = _public(home)
    vault = Vault()
    open_with_key(vault, "heartbeats", DatasetDirectory(sealed), found, owner_key=owner_key)
    buffer = bytearray(len(PLAIN["ecg.bin"]))
    vault.read_into("heartbeats", "ecg.bin", 0, memoryview(buffer))
    assert bytes(buffer) == PLAIN["ecg.bin"]


def test_resource_with_the_key_only(home: Path, sealed: Path) -> None:
    out = home / "resource"
    key = home / "owner" / "keys" / "heartbeats.sec"
    assert resource(sealed, out, "--key-only", "--key", str(key)) == EXIT_OK
    found = DatasetKey.from_bytes(out.read_bytes())
    assert (found.secret, found.manifest) == (read_secret_key(key.read_bytes()), b"")


def test_resource_in_json(home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "resource"
    assert resource(sealed, out, "--json") == EXIT_OK
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "id": "heartbeats",
        "path": str(out),
        "resource": "default/sealroom/heartbeats",
        "size": out.stat().st_size,
    }


def test_resource_replaces_no_file(home: Path, sealed: Path) -> None:
    out = home / "resource"
    out.write_text("something")
    assert resource(sealed, out) == EXIT_USAGE
    assert out.read_text() == "something"


def test_resource_with_the_key_of_another_dataset(
    home: Path, sealed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = home / "other.sec"
    other.write_bytes(write_secret_key(SecretKey.generate()))
    other.chmod(0o600)
    assert resource(sealed, home / "resource", "--key", str(other)) == EXIT_USAGE
    assert "is not the one that this dataset is sealed to" in " ".join(capsys.readouterr().err.split())
    assert not (home / "resource").exists()


def test_resource_with_a_key_that_others_may_read(home: Path, sealed: Path) -> None:
    key = home / "owner" / "keys" / "heartbeats.sec"
    key.chmod(0o644)
    assert resource(sealed, home / "resource") == EXIT_USAGE


def test_resource_of_a_dataset_of_another_owner(home: Path, sealed: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (home / "owner" / "signing.pem").write_bytes(pem)
    assert resource(sealed, home / "resource") == EXIT_REFUSED
    assert not (home / "resource").exists()


def _public(home: Path) -> bytes:
    key = serialization.load_pem_private_key((home / "owner" / "signing.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key.public_key().public_bytes_raw()
