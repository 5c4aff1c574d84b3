# SPDX-License-Identifier: BSD-3-Clause
"""Sealed datasets in S3 in a notebook server: settings, credentials, and what is shown without an answer."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom.datasets import s3_source
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError
from sealroom_jupyter import local as module
from sealroom_jupyter.app import Sealroom
from sealroom_jupyter.buckets import options_of
from sealroom_jupyter.local import LocalDataset, LocalDatasets
from sealroom_jupyter.settings import S3Settings, Settings, paths_from
from support.s3 import BUCKET, S3Server, s3, s3_server
from support.sealed import PLAIN, Sealed
from traitlets.config import Config
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import FakeBroker, FakeClock, FakeProcessor

__all__ = ["s3", "s3_server"]

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(f"access_key_id = AKIA1\nsecret_access_key = {SECRET}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def bucket(s3: S3Server, sealed: Sealed) -> Iterator[str]:
    """A place in S3 with the sealed dataset."""
    shutil.copytree(sealed.root / "heartbeats", s3.bucket / "shared" / "heartbeats")
    yield f"s3://{BUCKET}/shared"
    shutil.rmtree(s3.bucket / "shared")


# -- settings


def test_settings_reach_the_options_and_the_secret_is_in_no_text(credentials: Path) -> None:
    app = Sealroom(
        config=Config(
            {
                "Sealroom": {
                    "datasets": ["/data", "s3://bucket/sealed"],
                    "s3_endpoint": "https://s3.example.org",
                    "s3_region": "eu-north-1",
                    "s3_credentials_file": str(credentials),
                    "mapped": True,
                    "workspace": "/home/r/results",
                }
            }
        )
    )
    settings = app.to_settings()
    assert settings.datasets == (Path("/data"), "s3://bucket/sealed")
    assert (settings.mapped, settings.workspace) == (True, Path("/home/r/results"))
    options = options_of(settings.s3)
    assert (options.endpoint, options.region) == ("https://s3.example.org", "eu-north-1")
    assert (options.access_key_id, options.secret_access_key) == ("AKIA1", SECRET)
    assert SECRET not in repr(settings) + repr(options) + repr(app.config)
    assert "AKIA1" not in repr(settings) + repr(options)


def test_settings_come_from_the_environment_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SEALROOM_S3_ENDPOINT": "https://s3.example.org",
        "SEALROOM_S3_REGION": "eu",
        "SEALROOM_S3_CREDENTIALS_FILE": "/etc/s3",
        "SEALROOM_MAPPED": "0",
        "SEALROOM_WORKSPACE": "/results",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Sealroom().to_settings()
    assert settings.s3 == S3Settings("https://s3.example.org", "eu", Path("/etc/s3"))
    assert (settings.mapped, settings.workspace) == (False, Path("/results"))


def test_without_settings_results_go_home_and_files_are_mapped_where_it_is_safe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Sealroom().to_settings()
    assert (settings.mapped, settings.workspace) == (None, tmp_path / "workspace")
    assert options_of(settings.s3) == s3_source.S3Options()


def test_a_list_of_places_may_have_buckets_in_it() -> None:
    found = paths_from({"X": "/data:s3://bucket/a:/more:s3://bucket/b"}, "X")
    assert found == ["/data", "s3://bucket/a", "/more", "s3://bucket/b"]


# -- credentials


def test_a_file_of_the_aws_kind_is_understood(credentials: Path) -> None:
    credentials.write_text(
        f"[other]\naws_access_key_id=no\n[default]\naws_access_key_id = AKIA2\n"
        f"aws_secret_access_key = {SECRET}\naws_session_token = t%oken\n"
    )
    options = options_of(S3Settings(credentials=credentials))
    assert (options.access_key_id, options.session_token) == ("AKIA2", "t%oken")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_credentials_that_others_may_read_are_refused(credentials: Path, mode: int) -> None:
    credentials.chmod(mode)
    with pytest.raises(ConfigurationError, match="may be read by others") as caught:
        options_of(S3Settings(credentials=credentials))
    assert "chmod 600" in caught.value.advice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"access_key_id = a\n", "lack access_key_id or secret_access_key"),
        (SECRET.encode(), "not name = value"),
        (b"", "lack access_key_id"),
        (b"\xff\xfe", "it is no text"),
    ],
    ids=["half", "one word", "empty", "no text"],
)
def test_credentials_that_are_none_are_refused_without_a_word_of_them(
    credentials: Path, text: bytes, said: str
) -> None:
    credentials.write_bytes(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        options_of(S3Settings(credentials=credentials))
    assert SECRET not in caught.value.diagnostics()
    assert SECRET not in repr(caught.value.__cause__)


def test_credentials_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        options_of(S3Settings(credentials=tmp_path / "absent"))


# -- datasets in a bucket


def test_a_dataset_in_a_bucket_is_unlocked_and_read(bucket: str, sealed: Sealed, tmp_path: Path) -> None:
    clock = FakeClock()
    room = Room(clock, FakeBroker(clock, sealed), FakeProcessor(), settings_for(tmp_path, bucket))
    room.turn()
    assert room.shelf.dataset("heartbeats").here
    assert room.shelf.unlock("heartbeats").state == "unlocked"
    assert room.read("ecg.bin", 1000) == PLAIN["ecg.bin"][:1000]
    room.vault.drop_all("The test is over.")


def settings_for(run: Path, bucket: str) -> Settings:
    return Settings(run_dir=run, broker_url="http://broker.example", datasets=(bucket,))


def test_what_is_here_comes_before_what_is_in_a_bucket(bucket: str, sealed: Sealed) -> None:
    near, far = LocalDatasets([sealed.root, bucket]), LocalDatasets([bucket, sealed.root])
    assert near.all()["heartbeats"].directory.far is False
    assert far.all()["heartbeats"].directory.far is True


def test_a_manifest_in_a_bucket_is_read_again_only_when_it_changed(
    bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = module._read

    def counted(directory: DatasetDirectory) -> LocalDataset:
        read.append(directory)
        return real(directory)

    monkeypatch.setattr(module, "_read", counted)
    datasets = LocalDatasets([bucket], far_for=0.0)
    assert datasets.all()["heartbeats"].manifest is not None
    assert datasets.all()["heartbeats"].manifest is not None
    assert len(read) == 1
    path = s3.bucket / "shared" / "heartbeats" / "dataset.json"
    path.write_bytes(path.read_bytes() + b" ")
    datasets.all()
    assert len(read) == 2


def test_a_bucket_that_does_not_answer_does_not_hide_what_is_here(
    bucket: str, s3: S3Server, sealed: Sealed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    shutil.copytree(sealed.root / "heartbeats", other / "heartbeats")
    datasets = LocalDatasets([other, bucket], far_for=0.0, patience=20)
    options = s3.options("http://127.0.0.1:9", retries=0, patience=1.0)
    s3_source.configure(options)
    with caplog.at_level(logging.WARNING):
        assert set(datasets.all()) == {"heartbeats"}
    assert "does not answer" in caplog.text
    assert options.secret_access_key not in caplog.text


def test_a_bucket_that_hangs_does_not_hold_up_the_panel(
    bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(module, "iter_datasets", lambda _: held.wait(60) and [])
    datasets = LocalDatasets([bucket], patience=0.01)
    assert datasets.all() == {}
    assert not held.is_set()
    held.set()


def test_credentials_that_cannot_be_used_do_not_stop_the_server(
    credentials: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credentials.chmod(0o644)
    app = Sealroom(s3_credentials_file=str(credentials))
    app.log = logging.getLogger("server")
    before = s3_source.current_options()
    with caplog.at_level(logging.ERROR):
        app._configure_buckets(app.to_settings())
    assert "may be read by others" in caplog.text
    assert s3_source.current_options() == before


def test_settings_are_values_that_can_be_replaced() -> None:
    assert dataclasses.replace(S3Settings(), region="eu").region == "eu"
