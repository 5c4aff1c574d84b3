# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner
from sealroom.cli import COMMANDS, cli, common, grant, run
from sealroom.cli.common import exit_code, find_owner, load_owner, short, size_text
from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    FormatError,
    IntegrityError,
    NetworkError,
    RevocationUnavailableError,
    SignatureError,
    StorageError,
)

Streams = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's own settings out."""
    monkeypatch.delenv("SEALROOM_OWNER", raising=False)
    monkeypatch.delenv("SEALROOM_DEBUG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def write(file: Path, text: str = 'broker = "http://127.0.0.1:1"\n') -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# --- commands ---


def test_help_names_every_command_and_loads_none() -> None:
    script = (
        "import sys; from sealroom.cli import run; code = run(['--help']); print(code, *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)
    assert not {"pydantic", "httpx", "cryptography", "rich", "sealroom.cli.grant"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Streams) -> None:
    assert run([command, "--help"]) == 0
    assert f"Usage: sealroom {command}" in capsys.readouterr().out


def test_the_version_is_shown(capsys: Streams) -> None:
    assert run(["--version"]) == 0
    assert "version" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["grant", "nothing"], ["--nothing"], ["grant", "add"], ["grant", "withdraw", "a", "b"]],
)
def test_a_wrong_command_line_is_64(arguments: list[str], capsys: Streams) -> None:
    assert run(arguments) == 64
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AccessDeniedError("no"), 1),
        (SignatureError("no"), 1),
        (FormatError("no"), 1),
        (IntegrityError("no"), 1),
        (NetworkError("no"), 2),
        (StorageError("no"), 2),
        (RevocationUnavailableError("no"), 2),
        (ConfigurationError("no"), 64),
    ],
)
def test_exit_codes_tell_refused_from_unchecked(
    error: Error, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    assert exit_code(error) == code
    raising(monkeypatch, error)
    assert run(["grant", "list"]) == code
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == "no\n"


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(grant, "load_owner", fail)


def test_a_refusal_shows_its_reasons_and_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    reasons = (("grant.none", "You have no grant."), ("same", "Refused."))
    raising(monkeypatch, AccessDeniedError("Refused.", reasons=reasons, advice="Ask data@heart.example."))
    assert run(["grant", "list"]) == 1
    assert capsys.readouterr().err == "Refused.\n  - You have no grant.\nAsk data@heart.example.\n"


def test_an_error_is_json_where_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    raising(monkeypatch, AccessDeniedError("Refused.", reasons=(("a", "b"),), advice="Ask.", check="c"))
    assert run(["grant", "list", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "code": "access_denied",
            "message": "Refused.",
            "advice": "Ask.",
            "check": "c",
            "reasons": [{"code": "a", "sentence": "b"}],
        }
    }


def test_a_fault_of_ours_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    raising(monkeypatch, RuntimeError("token-secret"))
    assert run(["grant", "list"]) == 2
    streams = capsys.readouterr()
    assert "fault of its own (RuntimeError)" in streams.err
    assert "Traceback" not in streams.err
    assert "token-secret" not in streams.err
    monkeypatch.setenv("SEALROOM_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(["grant", "list"])


def test_an_interrupt_is_not_a_pass(monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert run(["grant", "list"]) == 2
    assert capsys.readouterr().err.strip() == "Stopped."


@pytest.mark.parametrize(
    "show", ["print('x' * 100000, flush=True)", "output().table('t', ['a'], [['x' * 100000]])"]
)
def test_a_reader_that_goes_away_is_no_pass_and_no_traceback(show: str) -> None:
    script = f"""
import os, sys
from sealroom.cli import grant, run
from sealroom.cli.common import output
read, write = os.pipe(); os.close(read); os.dup2(write, 1)
def load(_): {show}
grant.load_owner = load
sys.exit(run(['grant', 'list']))
"""
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"")


# --- settings ---


def test_the_settings_named_on_the_command_line_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named = write(tmp_path / "given.toml"), write(tmp_path / "named.toml")
    above = write(tmp_path / ".sealroom/owner/owner.toml")
    home = write(tmp_path / "home/.config/sealroom/owner.toml")
    monkeypatch.setenv("SEALROOM_OWNER", str(named))
    assert find_owner(given) == given
    assert find_owner() == named
    monkeypatch.delenv("SEALROOM_OWNER")
    assert find_owner() == above
    above.unlink()
    assert find_owner() == home


def test_settings_that_are_nowhere_are_64_with_advice(capsys: Streams) -> None:
    assert run(["grant", "list"]) == 64
    assert "--owner" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["option", "variable"])
def test_named_settings_that_are_not_there_are_not_looked_for_elsewhere(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / ".sealroom/owner/owner.toml")
    missing = tmp_path / "missing.toml"
    if source == "variable":
        monkeypatch.setenv("SEALROOM_OWNER", str(missing))
    with pytest.raises(ConfigurationError, match=r"missing\.toml"):
        find_owner(missing if source == "option" else None)


def test_paths_are_relative_to_the_settings(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a/owner.toml",
        'broker = "https://b.example"\ntoken_file = "t"\nsigning_key = "/k/s.pem"\nkeys = "~/keys"\n',
    )
    owner = load_owner(file)
    assert owner.broker == "https://b.example"
    assert owner.token_file == tmp_path / "a/t"
    assert owner.signing_key == Path("/k/s.pem")
    assert owner.keys == tmp_path / "home/keys"
    assert owner.audit_key == tmp_path / "a/audit.pub"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "`broker` is missing"),
        ("broker = 7", "`broker` is missing or not a text"),
        ('broker = ""', "`broker` is missing"),
        ('broker = "b.example"', "not an http or https address"),
        ('broker = "http://b"\ntoken_fiel = "x"', "unknown setting 'token_fiel'"),
        ("broker = ", "not TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_owner(write(tmp_path / "owner.toml", text))


def token_file(tmp_path: Path, content: bytes, mode: int) -> common.Owner:
    owner = load_owner(write(tmp_path / "owner.toml"))
    owner.token_file.write_bytes(content)
    owner.token_file.chmod(mode)
    return owner


def test_a_token_is_read_without_its_newline(tmp_path: Path) -> None:
    owner = token_file(tmp_path, b"secret\n", 0o600)
    assert owner.token() == "secret"
    owner.client().close()
    assert "secret" not in repr(owner)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"x", 0o644, "read by others"),
        (b"x", 0o620, "read by others"),
        (b"\n", 0o600, "empty"),
        (b"\xff", 0o600, "be read"),
    ],
)
def test_a_token_that_is_not_private_or_none_is_refused(
    tmp_path: Path, content: bytes, mode: int, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        token_file(tmp_path, content, mode).token()


def test_a_token_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="owner's token"):
        load_owner(write(tmp_path / "owner.toml")).token()


# --- formats ---


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**13, "10.0 TB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_digests_are_shortened() -> None:
    assert short("sha256:" + "ab" * 32) == "sha256:abababababab…"
    assert short("abc") == "abc"


def test_what_a_peer_sent_is_never_markup() -> None:
    with CliRunner().isolation() as (out, *_):
        common.Output().table("t", ["a"], [["[red]x[/red] \x1b[31m"]])
    shown = out.getvalue().decode()
    assert "[red]x[/red]" in shown
    assert "\x1b[31m" not in shown


def test_the_group_is_usable_with_clicks_own_runner() -> None:
    assert CliRunner().invoke(cli, ["grant", "--help"]).exit_code == 0
