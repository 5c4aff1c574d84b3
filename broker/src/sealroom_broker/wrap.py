# SPDX-License-Identifier: BSD-3-Clause
"""Keep secrets wrapped: whoever reads the database or its backup learns no dataset key.

`KeyWrap` is what the rest of the broker knows; `FileKeyWrap` keeps the key-encryption key in a file of mode
0600.

Invariants:

- A wrapped secret opens only for the context (kind and id) that it was wrapped for.
- A key file that others may read is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sealroom.errors import ConfigurationError, StorageError

from sealroom_broker.files import create_private, read_private

_KEY_SIZE = 32
_NONCE_SIZE = 12
_VERSION = b"\x01"
_KEY_ID_SIZE = 8


class KeyWrap(Protocol):
    """Wraps and unwraps secrets."""

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context."""

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            StorageError: It was wrapped by another key or for another context, or was changed.
        """


class FileKeyWrap:
    """AES-256-GCM under a key in a file.

    A wrapped secret is: version 1, first 8 bytes of SHA-256 of the key, nonce, cipher text with tag.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_SIZE:
            raise ConfigurationError(f"The key-encryption key has {len(key)} bytes, not {_KEY_SIZE}.")
        self._cipher = AESGCM(key)
        self._prefix = _VERSION + hashlib.sha256(b"sealroom-kek\0" + key).digest()[:_KEY_ID_SIZE]

    @classmethod
    def create(cls, path: Path) -> FileKeyWrap:
        """Make a key file, or open the one that is there."""
        if not path.exists():
            create_private(path, base64.b64encode(os.urandom(_KEY_SIZE)) + b"\n")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> FileKeyWrap:
        """Open a key file.

        Raises:
            ConfigurationError: It is not there, not a key, or others may read it.
        """
        text = read_private(path, "The key-encryption key")
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except binascii.Error as error:
            raise ConfigurationError(f"The key-encryption key {path} is not base64.") from error

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context."""
        nonce = os.urandom(_NONCE_SIZE)
        return self._prefix + nonce + self._cipher.encrypt(nonce, secret, self._aad(context))

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            StorageError: It was wrapped by another key or for another context, or was changed.
        """
        body = wrapped.removeprefix(self._prefix)
        if len(body) == len(wrapped):
            raise StorageError(
                "A stored key was wrapped by another key-encryption key.",
                advice="Put back the key file that belongs to this database.",
            )
        try:
            return self._cipher.decrypt(body[:_NONCE_SIZE], body[_NONCE_SIZE:], self._aad(context))
        except (InvalidTag, ValueError) as error:
            raise StorageError("A stored key does not open: the database was changed.") from error

    def _aad(self, context: str) -> bytes:
        return self._prefix + context.encode()

    def __repr__(self) -> str:
        return "<FileKeyWrap, key not shown>"
