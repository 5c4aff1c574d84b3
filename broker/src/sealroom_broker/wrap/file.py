# SPDX-License-Identifier: BSD-3-Clause
"""The key-encryption key in a file of mode 0600.

While keys are rotated the file has two: a line each, the one that wraps first.

Invariants:

- A key file that others may read is refused.
- What is wrapped is wrapped with the file's first key as it is at that moment, so that a rotation, which puts
  a new key first and then wraps everything again, misses nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sealroom.errors import ConfigurationError

from sealroom_broker.files import create_private, read_private, replace_private
from sealroom_broker.wrap.base import KEY_ID_SIZE, PROBE, does_not_open, other_key

_KEY_SIZE = 32
_NONCE_SIZE = 12
_VERSION = b"\x01"
_MOST_KEYS = 2

_Stamp = tuple[int, int, int]


class FileKeyWrap:
    """AES-256-GCM under a key in a file.

    A wrapped secret is: version 1, first 8 bytes of SHA-256 of the key, nonce, cipher text with tag.

    Args:
        keys: The key that wraps, and further ones that still unwrap.
        path: The file to look into again; none for keys that stay.
    """

    mark = _VERSION

    def __init__(self, *keys: bytes, path: Path | None = None) -> None:
        self._path = path
        self._stamp: _Stamp | None = None
        self._keys = [_Key(key) for key in keys]

    @classmethod
    def create(cls, path: Path) -> FileKeyWrap:
        """Make a key file, or open the one that is there."""
        if not path.exists():
            create_private(path, _text([new_key()]))
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> FileKeyWrap:
        """Open a key file.

        Raises:
            ConfigurationError: It is not there, not a key, or others may read it.
        """
        return cls(*read_keys(path), path=path)

    @property
    def prefix(self) -> bytes:
        """What everything begins with that the first key wrapped."""
        return self._keys[0].prefix

    def refresh(self) -> None:
        """Read the file again if it was changed.

        Raises:
            ConfigurationError: It cannot be read now.
        """
        if self._path is None:
            return
        # Taken before the file is read: what changes in between is seen the next time.
        stamp = _stamp(self._path)
        if stamp is None or stamp != self._stamp:
            self._keys = [_Key(key) for key in read_keys(self._path)]
            self._stamp = stamp

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context.

        Raises:
            ConfigurationError: The key file cannot be read now.
        """
        self.refresh()
        return self._keys[0].wrap(secret, context)

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            StorageError: It was wrapped by another key or for another context, or was changed.
        """
        key = self._key_of(wrapped)
        if key is None:
            # Another process may have rotated the keys.
            self.refresh()
            key = self._key_of(wrapped)
        if key is None:
            raise other_key()
        return key.unwrap(wrapped, context)

    def knows(self, wrapped: bytes) -> bool:
        """Tell whether one of the keys wrapped this."""
        return self._key_of(wrapped) is not None

    def check(self) -> None:
        """See whether the file is as it must be.

        Raises:
            ConfigurationError: It is not.
        """
        if self._path is not None:
            read_keys(self._path)
        if self.unwrap(self.wrap(b"probe", context=PROBE), context=PROBE) != b"probe":
            raise does_not_open()

    def begin(self, *, stale: bool = False) -> bool:
        """Put a new key into the file, before the old one.

        Where brokers have files of their own, copy it to each of them before everything is wrapped again.

        Returns:
            False if there are two already: a rotation that was begun is to be finished.

        Raises:
            ConfigurationError: The file cannot be read.
            StorageError: It cannot be written.
        """
        path = self._file()
        keys = read_keys(path)
        if len(keys) > 1:
            self.refresh()
            return False
        write_keys(path, [new_key(), *keys])
        self.refresh()
        return True

    def finish(self, *, destroy: bool = False) -> None:
        """Take the old key out of the file.

        Raises:
            ConfigurationError: The file cannot be read.
            StorageError: It cannot be written.
        """
        path = self._file()
        write_keys(path, read_keys(path)[:1])
        self.refresh()

    def ends(self) -> None:
        """Return None: a file has no end."""

    def close(self) -> None:
        """Do nothing: the file is not kept open."""

    def _file(self) -> Path:
        if self._path is None:
            raise RuntimeError("keys without a file cannot be rotated")
        return self._path

    def _key_of(self, wrapped: bytes) -> _Key | None:
        return next((key for key in self._keys if wrapped.startswith(key.prefix)), None)

    def __repr__(self) -> str:
        return "<FileKeyWrap, key not shown>"


class _Key:
    """One key-encryption key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_SIZE:
            raise ConfigurationError(f"The key-encryption key has {len(key)} bytes, not {_KEY_SIZE}.")
        self._cipher = AESGCM(key)
        self.prefix = _VERSION + hashlib.sha256(b"sealroom-kek\0" + key).digest()[:KEY_ID_SIZE]

    def wrap(self, secret: bytes, context: str) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        return self.prefix + nonce + self._cipher.encrypt(nonce, secret, self._aad(context))

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        body = wrapped[len(self.prefix) :]
        try:
            return self._cipher.decrypt(body[:_NONCE_SIZE], body[_NONCE_SIZE:], self._aad(context))
        except (InvalidTag, ValueError) as error:
            raise does_not_open() from error

    def _aad(self, context: str) -> bytes:
        return self.prefix + context.encode()


def new_key() -> bytes:
    """Return a new key-encryption key."""
    return os.urandom(_KEY_SIZE)


def read_keys(path: Path) -> list[bytes]:
    """Return the keys in a file, the one that wraps first.

    Raises:
        ConfigurationError: It is not there, not of keys, or others may read it.
    """
    lines = read_private(path, "The key-encryption key").split()
    if not 1 <= len(lines) <= _MOST_KEYS:
        raise ConfigurationError(f"The key file {path} has {len(lines)} keys, not one or two.")
    try:
        return [base64.b64decode(line, validate=True) for line in lines]
    except binascii.Error as error:
        raise ConfigurationError(f"The key-encryption key {path} is not base64.") from error


def write_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Put keys in place of those in a file: at any moment it has either.

    Raises:
        StorageError: The disk refuses.
    """
    replace_private(path, _text(keys))


def _text(keys: Sequence[bytes]) -> bytes:
    return b"".join(base64.b64encode(key) + b"\n" for key in keys)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
