# SPDX-License-Identifier: BSD-3-Clause
"""Read signed manifests from disk: `<name>.toml` with `<name>.toml.sig` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealroom.environments.manifest import MAX_SIZE, Environment
from sealroom.environments.signing import verify
from sealroom.errors import FormatError, StorageError


def load(path: Path, keys: Sequence[Ed25519PublicKey]) -> Environment:
    """Return the environment in a file if a trusted publisher signed it.

    Raises:
        StorageError: The manifest or its signature cannot be read.
        FormatError: One of them is malformed.
        SignatureError: Nobody of `keys` signed it.
    """
    return verify(_read(path), _read(path.with_name(path.name + ".sig")), keys)


def load_directory(directory: Path, keys: Sequence[Ed25519PublicKey]) -> list[Environment]:
    """Return all environments of a directory, by name; one that is not signed is an error, not left out."""
    try:
        paths = sorted(directory.glob("*.toml"))
    except OSError as error:
        raise StorageError(f"{directory} cannot be read: {error.strerror}.") from error
    return [load(path, keys) for path in paths]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_SIZE:
        raise FormatError(f"{path} is longer than {MAX_SIZE} bytes.")
    return data
