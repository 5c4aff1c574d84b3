# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.cli import run
from sealroom.environments import load, load_public_key


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_whole_path_from_key_to_checked_manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "keygen", "-o", "publisher.pem"]) == 0
    assert run(["env", "build", "--simulated", "--dataset", "heartbeats", "-o", "cpu.toml"]) == 0
    assert run(["env", "sign", "cpu.toml", "--key", "publisher.pem"]) == 0
    capsys.readouterr()
    assert run(["env", "show", "cpu.toml", "--key", "publisher.pub.pem"]) == 0
    shown = capsys.readouterr().out
    assert "Simulated TEE, CPU" in shown
    assert "signature    checked" in shown
    assert "protects nothing" in shown
    key = load_public_key((here / "publisher.pub.pem").read_bytes())
    assert load(here / "cpu.toml", [key]).datasets == ("heartbeats",)


def test_private_key_is_for_the_owner_alone(here: Path) -> None:
    run(["env", "keygen", "-o", "publisher.pem"])
    assert stat.S_IMODE((here / "publisher.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (here / "publisher.pub.pem").read_bytes()


def test_existing_key_is_not_replaced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "publisher.pem").write_text("mine")
    assert run(["env", "keygen", "-o", "publisher.pem"]) == 64
    assert "exists" in capsys.readouterr().err
    assert (here / "publisher.pem").read_text() == "mine"


def test_private_key_is_not_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["env", "keygen", "-o", "publisher.pem", "--json"])
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) == {"private", "public", "key_id"}
    secret = (here / "publisher.pem").read_text().splitlines()[1]
    assert secret not in captured.out + captured.err


def test_template_is_completed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "template.toml").write_bytes(testing.environment().raw)
    assert run(["env", "build", "template.toml", "-o", "out.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == testing.environment().digest


def test_manifest_is_replaced_only_by_force(here: Path) -> None:
    (here / "out.toml").write_text("mine")
    assert run(["env", "build", "--simulated", "-o", "out.toml"]) == 64
    assert (here / "out.toml").read_text() == "mine"
    assert run(["env", "build", "--simulated", "-o", "out.toml", "--force"]) == 0


def test_template_and_simulated_at_once_is_wrong_usage(here: Path) -> None:
    (here / "template.toml").write_bytes(testing.environment().raw)
    assert run(["env", "build", "template.toml", "--simulated", "-o", "out.toml"]) == 64
    assert run(["env", "build", "-o", "out.toml"]) == 64


def test_unsigned_manifest_shows_that_nothing_was_checked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "cpu.toml").write_bytes(testing.environment().raw)
    assert run(["env", "show", "cpu.toml"]) == 0
    assert "not checked (no --key given)" in capsys.readouterr().out


def test_shown_json_says_whether_the_signature_was_checked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "cpu.toml").write_bytes(testing.environment().raw)
    assert run(["env", "show", "cpu.toml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["signature_checked"] is False
    assert shown["name"] == "simulated-cpu"


def test_wrong_signature_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        run(["env", "keygen", "-o", f"{name}.pem"])
    run(["env", "build", "--simulated", "-o", "cpu.toml"])
    run(["env", "sign", "cpu.toml", "--key", "a.pem"])
    assert run(["env", "show", "cpu.toml", "--key", "b.pub.pem"]) == 1
    assert "not signed by a publisher" in capsys.readouterr().err


def test_missing_signature_could_not_be_checked(here: Path) -> None:
    run(["env", "keygen", "-o", "a.pem"])
    run(["env", "build", "--simulated", "-o", "cpu.toml"])
    assert run(["env", "show", "cpu.toml", "--key", "a.pub.pem"]) == 2


def test_difference_is_listed_and_is_exit_status_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.toml").write_bytes(testing.environment().raw)
    (here / "b.toml").write_bytes(testing.environment(title="Other").raw)
    assert run(["env", "diff", "a.toml", "a.toml"]) == 0
    assert "No difference." in capsys.readouterr().out
    assert run(["env", "diff", "a.toml", "b.toml"]) == 1
    assert "title\n  - Simulated TEE, CPU\n  + Other" in capsys.readouterr().out
    assert run(["env", "diff", "a.toml", "b.toml", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"][0]["field"] == "title"


def test_directory_that_cannot_be_written_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["env", "build", "--simulated", "-o", "none/cpu.toml"]) == 2
    assert "cannot be written" in capsys.readouterr().err
