# SPDX-License-Identifier: BSD-3-Clause
"""Files that are whole or absent, numbers that are given once, records that lead to processes."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import ConfigurationError, StorageError
from sealroom_spawner import records
from sealroom_spawner.files import read_json, write_atomic, write_json
from sealroom_spawner.processes import Process
from sealroom_spawner.settings import Settings
from sealroom_spawner.uids import FIRST, uid_of


def test_a_written_file_is_private_and_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"text")
    assert (tmp_path / "a").read_bytes() == b"text"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_not_json_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff{")
    assert read_json(tmp_path / "a") is None
    assert read_json(tmp_path / "b") is None


def test_each_person_keeps_a_number_of_their_own(tmp_path: Path) -> None:
    state = tmp_path / "uids.json"
    first, second = uid_of("alice", state), uid_of("bob", state)
    assert (first, second) == (FIRST, FIRST + 1)
    assert uid_of("alice", state) == first


def test_a_number_is_not_given_again(tmp_path: Path) -> None:
    state = tmp_path / "uids.json"
    uid_of("alice", state)
    write_json(state, {"gone": FIRST + 7})
    assert uid_of("bob", state) == FIRST + 8


def test_a_damaged_list_of_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uids.json").write_text('{"alice": "200000"')
    with pytest.raises(StorageError, match="damaged"):
        uid_of("alice", tmp_path / "uids.json")


def test_a_number_of_the_systems_own_users_is_not_given(tmp_path: Path) -> None:
    assert uid_of("alice", tmp_path / "uids.json", first=0) != 0


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_names_have_different_plain_file_names(one: str, other: str) -> None:
    assert (records.slug(one) == records.slug(other)) == (one == other)
    assert "/" not in records.slug(one)
    assert records.slug(one) not in (".", "..", "")
    assert len(records.slug(one)) < 64


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = records.Record("alice", "second", 200_000, Process(7, "70"), Process(8, "80"))
    record.write(tmp_path)
    assert records.read_all(tmp_path) == [(records.path_of(tmp_path, "alice", "second"), record)]


def test_a_damaged_record_is_left_out(tmp_path: Path) -> None:
    records.path_of(tmp_path, "alice", "").write_text("{")
    assert records.read_all(tmp_path) == []


def test_the_notebook_is_ended_before_its_processor() -> None:
    record = records.Record("alice", "", None, Process(7, "70"), Process(8, "80"))
    assert [process.pid for process in record.processes] == [8, 7]


def test_the_hubs_database_says_which_servers_it_knows(tmp_path: Path) -> None:
    database = tmp_path / "jupyterhub.sqlite"
    assert records.known_to_hub(database) == set()
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE spawners (state TEXT, server_id INTEGER)")
    rows = [
        ('{"notebook": {"pid": 8, "started": "80"}}', 1),
        ('{"notebook": {"pid": 9, "started": "90"}}', None),
        ("{}", 2),
        (None, 3),
    ]
    connection.executemany("INSERT INTO spawners VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    assert records.known_to_hub(database) == {Process(8, "80")}


def test_a_database_that_is_none_knows_no_server(tmp_path: Path) -> None:
    (tmp_path / "jupyterhub.sqlite").write_bytes(b"no database" * 100)
    assert records.known_to_hub(tmp_path / "jupyterhub.sqlite") == set()


SETTINGS = """
clone = "/src"
[hub]
url = "http://127.0.0.1:8000/"
bind_url = "http://127.0.0.1:8000/"
api_port = 1
[proxy]
api_port = 2
command = ["node", "proxy"]
[broker]
url = "http://127.0.0.1:3"
[status]
url = "http://127.0.0.1:4/services/sealroom"
"""


def test_settings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.setenv("SEALROOM_HOME", str(tmp_path))
    settings = Settings.from_environment()
    assert settings.broker_listen == "127.0.0.1:3"
    assert settings.status_service_url == "http://127.0.0.1:4"
    assert settings.hub_api_url == "http://127.0.0.1:1/hub/api"
    assert settings.proxy_command == ("node", "proxy")


@pytest.mark.parametrize(
    "text", ["", "clone = 1", SETTINGS.replace("[broker]", "[broken]"), "=", "hub = 1\nclone=''"]
)
def test_other_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Settings.load(tmp_path)


def test_settings_need_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALROOM_HOME", raising=False)
    with pytest.raises(ConfigurationError, match="SEALROOM_HOME"):
        Settings.from_environment()
