# SPDX-License-Identifier: BSD-3-Clause
"""Small private files: written whole or not at all, and read only while nobody else may read them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from sealroom.errors import ConfigurationError, StorageError


def create_private(path: Path, content: bytes) -> None:
    """Make a new file of mode 0600 that is complete and durable when this returns.

    Raises:
        StorageError: A file is there already, or the disk refuses.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            # A link, not a rename: it fails where a file of this name is there already.
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def replace_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of another: whoever reads finds one of the two, whole.

    Raises:
        StorageError: The disk refuses.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    create_private(fresh, content)
    try:
        fresh.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be replaced: {error.strerror}.") from error


def read_private(path: Path, what: str) -> bytes:
    """Read a secret from a file of mode 0600.

    A file that others may read is refused, not repaired: somebody may have read it already.

    Raises:
        ConfigurationError: It is not there, or others may read it.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(1 << 16)
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path} cannot be read: {error.strerror}.",
            advice="Restore it from your backup, or make a new state with `sealroom-broker init`.",
        ) from error
    if mode & 0o077:
        raise ConfigurationError(
            f"{what} {path} has mode {mode:04o}: others may read it.",
            advice="Find out who could read it; if nobody did, set its mode to 0600.",
        )
    return content


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
