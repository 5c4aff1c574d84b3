# SPDX-License-Identifier: BSD-3-Clause
"""What every key-encryption key can do, whoever keeps it.

Invariants:

- A wrapped secret opens only for the context (kind and id) that it was wrapped for.
- Its first byte says which kind of provider wrapped it, the next eight which key.
- What could not be wrapped or unwrapped is an error: never a secret, and never an empty one.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from sealroom.errors import StorageError

KEY_ID_SIZE = 8
PROBE = "probe"
"""Context of what is wrapped only to see whether that works."""


class KeyWrap(Protocol):
    """Wraps and unwraps secrets."""

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context.

        Raises:
            ConfigurationError: The key is not set up as it must be.
            StorageError: It cannot be used now.
        """

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            StorageError: It was wrapped by another key or for another context, or was changed, or the key
                cannot be used now.
        """


class KeyProvider(KeyWrap, Protocol):
    """Keeps one key-encryption key with its versions, the newest of which wraps."""

    mark: bytes
    """First byte of what it wrapped."""

    @property
    def prefix(self) -> bytes:
        """What everything begins with that the newest version wrapped.

        Raises:
            Error: It cannot be known now.
        """

    def knows(self, wrapped: bytes) -> bool:
        """Tell whether one of its versions, as far as they are known here, wrapped this."""

    def refresh(self) -> None:
        """Look for versions that somebody else made.

        Raises:
            Error: That cannot be done now.
        """

    def check(self) -> None:
        """See within a bounded time whether the key is as it must be, and wraps and unwraps.

        Raises:
            Error: It does not.
        """

    def begin(self, *, stale: bool) -> bool:
        """Make a new version, which wraps from now on.

        Args:
            stale: Something is wrapped by an older version: a rotation is to be finished first.

        Returns:
            False if a rotation that was begun is still to be finished; then nothing changes.

        Raises:
            Error: It cannot be made.
        """

    def finish(self, *, destroy: bool) -> None:
        """End a rotation, after which nothing stored needs the older versions.

        Args:
            destroy: Destroy them also where they would otherwise stay for older backups.

        Raises:
            Error: That cannot be done now.
        """

    def ends(self) -> float | None:
        """Return in how many seconds the broker's permission to use the key ends; None if it does not."""

    def close(self) -> None:
        """Give everything back."""


def key_id(mark: bytes, *parts: bytes) -> bytes:
    """Return what a wrapped secret names a key by, which is a digest of what the key's keeper names it by."""
    return mark + hashlib.sha256(b"sealroom-kek\0" + mark + b"\0".join(parts)).digest()[:KEY_ID_SIZE]


def other_key() -> StorageError:
    """Return the error for what none of the keys wrapped."""
    return StorageError(
        "A stored key was wrapped by another key-encryption key.",
        advice="Put back the key file, or the [kek] of broker.toml, that belongs to this database.",
    )


def does_not_open() -> StorageError:
    """Return the error for what its own key does not open."""
    return StorageError("A stored key does not open: the database was changed.")
