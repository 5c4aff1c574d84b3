# SPDX-License-Identifier: BSD-3-Clause
"""What the commands on datasets share: the owner's keys, and a bar that shows progress."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from sealroom.cli.common import Owner, output, size_text
from sealroom.crypt4gh import SecretKey, read_secret_key, write_secret_key
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.seal import unfinished
from sealroom.datasets.store import is_far
from sealroom.errors import ConfigurationError, StorageError

Advance = Callable[[str, int], None]
"""Called with a file's name and how many more of its bytes are done."""


def files_text(manifest: Manifest) -> str:
    """Return how many files of which size a dataset has."""
    count = len(manifest.files)
    return f"{count} file{'' if count == 1 else 's'}, {size_text(manifest.size)}"


def base64_text(data: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(data).decode()


# --- keys ---


def key_file(owner: Owner, dataset: str) -> Path:
    """Return where the owner's copy of a dataset's secret key is."""
    return owner.keys / f"{dataset}.sec"


@contextlib.contextmanager
def new_dataset_key(owner: Owner, dataset: str, *, begun: Callable[[], bool]) -> Iterator[SecretKey]:
    """Give the dataset's key; a new one is stored first.

    Args:
        owner: The owner's settings.
        dataset: The dataset's id.
        begun: Tells after a failure whether there are files that are sealed to it; if not, it is removed.
    """
    path = key_file(owner, dataset)
    if path.exists():
        output().note(f"Sealing to the key that is there already: {path}.")
        yield read_dataset_key(owner, dataset)
        return
    secret = SecretKey.generate()
    try:
        owner.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{owner.keys} cannot be made: {error.strerror}.") from error
    write_private(path, write_secret_key(secret, comment=f"dataset {dataset}".encode()))
    try:
        yield secret
    except BaseException:
        if not begun():
            path.unlink(missing_ok=True)
        raise


def read_dataset_key(owner: Owner, dataset: str) -> SecretKey:
    """Read the owner's copy of a dataset's secret key.

    Raises:
        ConfigurationError: It is not there, or others may read it.
        FormatError: It is not a key.
    """
    return read_secret_key(read_private(key_file(owner, dataset), f"the key of {dataset}"))


def signing_key(owner: Owner) -> Ed25519PrivateKey:
    """Read the key that signs the owner's manifests.

    Raises:
        ConfigurationError: It is not there, others may read it, or it is not an Ed25519 key.
    """
    try:
        key = load_pem_private_key(read_private(owner.signing_key, "the owner's signing key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(f"{owner.signing_key} is not a private key in PEM form.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{owner.signing_key} is not an Ed25519 key.")
    return key


def own_public_key(owner: Owner | None) -> bytes:
    """Return the public half of the owner's signing key, 32 bytes."""
    if owner is None:
        raise RuntimeError("the owner's settings were not loaded")
    return signing_key(owner).public_key().public_bytes_raw()


def public_key(path: Path) -> bytes:
    """Read an Ed25519 public key from a PEM file, 32 bytes."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(f"{path} is not a public key in PEM form.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is not an Ed25519 key.")
    return key.public_bytes_raw()


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone may read, durably."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}.") from error
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        # A part of a key is no key, and would be in the way of the next try.
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


def read_private(path: Path, what: str) -> bytes:
    """Read a file that nobody else may read."""
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The file of {what}, {path}, cannot be read: {error.strerror}.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"The file of {what}, {path}, may be read by others.", advice=f"Run `chmod 600 {path}`."
        )
    return data


# --- places ---


class Place(click.ParamType[Path | str]):
    """A directory on this machine, or `s3://bucket/prefix`."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Return a path, or the text of a place in S3."""
        return value if is_far(value) else Path(value)


class NearPlace(click.Path):
    """A directory on this machine and not in S3."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if is_far(value):
            self.fail(
                "a dataset in S3 is not changed in its place: copy it to a directory first.", param, ctx
            )
        return super().convert(value, param, ctx)


def begun_at(place: Path | str) -> bool:
    """Tell whether an earlier try to seal to a place has left something there that is sealed already.

    What cannot be told counts as such: a key is not removed on a doubt.
    """
    if isinstance(place, Path):
        return unfinished(place) is not None
    from sealroom.datasets.seal_s3 import begun

    try:
        return begun(place)
    except StorageError:
        return True


# --- progress ---


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Advance]:
    """Show a bar with rate and time left on standard error, if that is a terminal."""
    if output().json or not sys.stderr.isatty():
        yield lambda _name, _size: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(name: str, size: int) -> None:
            bar.update(task, advance=size, description=escape(f"{what} {name[-40:]}"))

        yield advance
