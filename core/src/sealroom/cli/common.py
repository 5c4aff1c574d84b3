# SPDX-License-Identifier: BSD-3-Clause
"""What every command shares: where the owner's settings are, how results and errors are shown, exit codes.

A command module exports `command`. Every command takes `--json` (`json_option`), writes results to standard
output and everything else to standard error, and raises `sealroom.errors.Error`; `sealroom.cli.run` turns
that into a sentence and an exit code.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    FormatError,
    NetworkError,
    RevocationUnavailableError,
    StorageError,
)

if TYPE_CHECKING:
    from sealroom.kbs.admin import OwnerClient

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
"""Something was checked and is not so, or was asked for and refused."""
EXIT_UNCHECKED: Final = 2
"""Something could not be checked or done: never a pass."""
EXIT_USAGE: Final = 64
"""The command line or a settings file is wrong (sysexits.h, EX_USAGE)."""

_UNCHECKED = (NetworkError, StorageError, RevocationUnavailableError)
_SEARCHED = Path(".sealroom/owner/owner.toml")
_FIELDS = {"broker", "token_file", "signing_key", "keys", "audit_key"}

F = TypeVar("F", bound=Callable[..., Any])


# --- output ---


class Output:
    """Where a command writes; JSON instead of text where `--json` was given."""

    def __init__(self) -> None:
        self.json = False

    def result(self, value: object) -> None:
        """Write a result as JSON."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def say(self, sentence: str) -> None:
        """Write a sentence of the result; nothing with `--json`."""
        if not self.json:
            click.echo(plain(sentence))

    def note(self, sentence: str) -> None:
        """Write a sentence beside the result."""
        click.echo(plain(sentence), err=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write a table; nothing in it is taken for markup."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, expand=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        # A pipe has no width of its own: there, nothing is folded at 80 columns.
        console = Console(file=sys.stdout)
        if not console.is_terminal:
            console = Console(file=sys.stdout, width=200)
        console.print(table)

    def error(self, error: Error) -> None:
        """Write an error: a sentence, its reasons, and what to do."""
        reasons = error.reasons if isinstance(error, AccessDeniedError) else ()
        if self.json:
            body = {
                "code": error.code,
                "message": error.message,
                "advice": error.advice,
                "check": error.check,
                **place_of(error),
                "reasons": [{"code": code, "sentence": sentence} for code, sentence in reasons],
            }
            self.result({"error": body})
            return
        click.echo(plain(sentence_of(error)), err=True)
        for _, sentence in reasons:
            if sentence not in error.message:
                click.echo(f"  - {plain(sentence)}", err=True)
        if error.advice:
            click.echo(plain(error.advice), err=True)


def output() -> Output:
    """Return the running command's output."""
    context = click.get_current_context(silent=True)
    found = context.find_object(Output) if context is not None else None
    return found or Output()


def json_option(command: F) -> F:
    """Add `--json` to a command."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(Output).json = value

    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=remember,
        is_eager=True,
        help="Write the result as JSON.",
    )(command)


def exit_code(error: Error) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    return EXIT_UNCHECKED if isinstance(error, _UNCHECKED) else EXIT_REFUSED


# --- the owner's settings ---


@dataclass(frozen=True, slots=True)
class Owner:
    """A data owner's settings, `owner.toml`; paths in it are relative to the file."""

    path: Path
    broker: str
    """The broker's address, without `/kbs/v0`."""
    token_file: Path
    signing_key: Path
    """Ed25519 key (PEM) that signs manifests."""
    keys: Path
    """Directory of the datasets' secret keys."""
    audit_key: Path
    """The broker's log key, as a note verifier key's text."""

    def token(self) -> str:
        """Return the owner's token.

        Raises:
            ConfigurationError: The file is not there, empty, or readable by others.
        """
        return _read_private(self.token_file, "the owner's token")

    def client(self) -> OwnerClient:
        """Return a connection to the broker."""
        from sealroom.kbs.admin import OwnerClient

        return OwnerClient(self.broker, self.token())


def owner_option(command: F) -> F:
    """Add `--owner FILE`; the command gets it as `owner`, to be given to `load_owner`."""
    return click.option(
        "--owner",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The owner's settings; without it $SEALROOM_OWNER, then the nearest "
        ".sealroom/owner/owner.toml, then ~/.config/sealroom/owner.toml.",
    )(command)


def find_owner(given: Path | None = None) -> Path:
    """Return the file of the owner's settings.

    Raises:
        ConfigurationError: There is none where it was said to be, or anywhere.
    """
    named = given or (Path(os.environ["SEALROOM_OWNER"]) if os.environ.get("SEALROOM_OWNER") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"There are no owner's settings at {named}.")
        return named
    here = Path.cwd()
    candidates = [parent / _SEARCHED for parent in (here, *here.parents)]
    candidates.append(Path.home() / ".config" / "sealroom" / "owner.toml")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        "There are no owner's settings here.",
        advice="Name the file with --owner or in SEALROOM_OWNER, or run this in the folder of your clone.",
    )


def load_owner(given: Path | None = None) -> Owner:
    """Load the owner's settings.

    Args:
        given: The value of `--owner`.

    Raises:
        ConfigurationError: They are not there or wrong.
    """
    path = find_owner(given)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from error
    unknown = set(settings) - _FIELDS
    if unknown:
        raise ConfigurationError(f"{path} has an unknown setting {min(unknown)!r}.")
    broker = _text(settings, "broker", path)
    if urlsplit(broker).scheme not in {"http", "https"}:
        raise ConfigurationError(f"{path}: `broker` is not an http or https address.")

    def place(name: str, default: str) -> Path:
        return path.parent / Path(_text(settings, name, path, default)).expanduser()

    return Owner(
        path=path,
        broker=broker,
        token_file=place("token_file", "token"),
        signing_key=place("signing_key", "signing.pem"),
        keys=place("keys", "keys"),
        audit_key=place("audit_key", "audit.pub"),
    )


def _text(settings: dict[str, object], name: str, path: Path, default: str = "") -> str:
    value = settings.get(name, default)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{path}: `{name}` is missing or not a text.")
    return value


def _read_private(path: Path, what: str) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file of {what}, {path}, cannot be read.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"The file of {what}, {path}, may be read by others.", advice=f"Run `chmod 600 {path}`."
        )
    if not text:
        raise ConfigurationError(f"The file of {what}, {path}, is empty.")
    return text


# --- small formats ---


def place_of(error: Error) -> dict[str, object]:
    """Return where input goes wrong: `offset` and `field`, as far as the error knows them."""
    if not isinstance(error, FormatError):
        return {}
    known = {"offset": error.offset, "field": error.field or None}
    return {name: value for name, value in known.items() if value is not None}


def sentence_of(error: Error) -> str:
    """Return an error's sentence, with the offset and the field at which input goes wrong."""
    place = place_of(error)
    parts = [f"offset {place['offset']:#x}"] if "offset" in place else []
    parts += [f"field {place['field']}"] if "field" in place else []
    return f"{error.message} [{', '.join(parts)}]" if parts else error.message


def plain(text: str) -> str:
    """Return a text without control characters: what a peer or a file says must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def size_text(size: int) -> str:
    """Return a size in bytes for people."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def short(digest: str, length: int = 12) -> str:
    """Return the beginning of a digest, which is enough to tell two apart by eye."""
    name, separator, value = digest.rpartition(":")
    return f"{name}{separator}{value[:length]}…" if len(value) > length else digest
