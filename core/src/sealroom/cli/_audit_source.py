# SPDX-License-Identifier: BSD-3-Clause
"""Where `sealroom audit` takes a log from: the broker, or a copy of its files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import VerifierKey
from sealroom.audit.tlog import Reader
from sealroom.cli.common import find_owner, load_owner, owner_option
from sealroom.errors import ConfigurationError, Error, StorageError

KEY_FILE: Final = "audit.pub"
"""Name of the log's key, beside the owner's settings and in a copy."""
ENVIRONMENTS: Final = "environments"
"""Folder of a copy with the manifests of the environments that its entries name."""
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """A log with its key."""

    reader: Reader
    key: VerifierKey
    manifest: Callable[[str], bytes]
    """Returns the manifest of an environment by its digest."""


def source_options(function: F) -> F:
    """Add `--log`, `--key` and `--owner`; the command hands them to `open_source`."""
    options = (
        click.option("--log", type=FOLDER, help="A copy of a log, as `audit export` makes it."),
        click.option(
            "--key", type=FILE, help=f"The log's key; {KEY_FILE} beside the owner's settings without it."
        ),
        owner_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@contextlib.contextmanager
def open_source(log: Path | None, key: Path | None, owner: Path | None) -> Iterator[Source]:
    """Open the log, from a copy or from the broker, with its key.

    Raises:
        click.UsageError: A copy was named without a key.
        ConfigurationError: The key or the owner's settings are not there, or wrong.
    """
    if log is not None:
        yield Source(DirectoryReader(log), key_of(key, owner), lambda digest: _kept_manifest(log, digest))
        return
    from sealroom.kbs.admin import AuditReader

    settings = load_owner(owner)
    verifier = read_key(key or settings.audit_key)
    with settings.client() as client:
        yield Source(AuditReader(client), verifier, client.environment)


def key_of(key: Path | None, owner: Path | None) -> VerifierKey:
    """Return the key that something offline is checked with: the named one, or the owner's own.

    Raises:
        click.UsageError: There is neither.
        ConfigurationError: It cannot be read or is none.
    """
    if key is None and owner is not None:
        key = load_owner(owner).audit_key
    if key is None:
        with contextlib.suppress(ConfigurationError):
            key = load_owner(find_owner()).audit_key
    if key is None or not key.exists():
        raise click.UsageError(
            "Name the log's key with --key: what comes with a copy proves nothing by itself."
        )
    return read_key(key)


def read_key(path: Path) -> VerifierKey:
    """Read a log's key.

    Raises:
        ConfigurationError: It cannot be read or is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The audit log's key {path} cannot be read.", advice="Name the file with --key."
        ) from error
    try:
        return VerifierKey.parse(text)
    except Error as error:
        raise ConfigurationError(f"{path}: {error.message}") from error


def manifest_name(digest: str) -> str:
    """Return the file name of an environment's manifest in a copy."""
    return f"{digest.removeprefix('sha256:')}.toml"


def _kept_manifest(log: Path, digest: str) -> bytes:
    return read_file(log / ENVIRONMENTS / manifest_name(digest), "an environment")


def read_file(path: Path, what: str) -> bytes:
    """Read a file.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"The file of {what}, {path}, cannot be read: {error.strerror}.") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Show progress on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading the log", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
