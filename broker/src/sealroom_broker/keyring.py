# SPDX-License-Identifier: BSD-3-Clause
"""The keys that sign EAR tokens: one is current, older ones stay published until no token of theirs is alive.

A key is a file `ear-<kid>.pem` of mode 0600, or a wrapped row where processes share a database. Its id begins
with the time at which it was made, so that a restored backup rotates as the original did.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sealroom.appraisal import ear
from sealroom.errors import ConfigurationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.files import create_private, read_private
from sealroom_broker.store import SigningKeyRow, Store
from sealroom_broker.wrap import KeyWrap

_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An ES256 key."""

    kid: str
    made: datetime
    private: ec.EllipticCurvePrivateKey = field(repr=False)


class KeyStore(Protocol):
    """Where signing keys are kept."""

    def load(self) -> Sequence[SigningKey]:
        """Return all keys, the newest last.

        Raises:
            Error: They cannot be read.
        """

    def add(self, key: SigningKey, since: SigningKey | None) -> Sequence[SigningKey]:
        """Keep a new key, unless another one came after `since`; return all keys.

        Raises:
            Error: It cannot be kept.
        """


class Keyring:
    """The signing keys.

    Args:
        keys: Where they are kept; a folder of files, or another place.
        rotate: How long a key signs.
        token_life: How long a token lives; a key stays published twice that much longer, for skewed clocks.
    """

    def __init__(self, keys: Path | KeyStore, *, rotate: timedelta, token_life: timedelta) -> None:
        self._store: KeyStore = FileKeys(keys) if isinstance(keys, Path) else keys
        self._period = rotate
        self._keep = rotate + 2 * token_life
        self._lock = threading.Lock()
        self._store.load()

    def current(self, now: datetime) -> SigningKey:
        """Return the key that signs now; make a new one where the newest has signed long enough."""
        return self._all(now)[-1]

    def published(self, now: datetime) -> Sequence[SigningKey]:
        """Return the keys whose tokens may be alive, the current one among them."""
        keys = self._all(now)
        return [key for key in keys if key is keys[-1] or key.made + self._keep > now]

    def jwks(self, now: datetime) -> dict[str, list[dict[str, str]]]:
        """Return the published keys as a JWK set."""
        return ear.jwks({key.kid: key.private for key in self.published(now)})

    def rotate(self, now: datetime) -> SigningKey:
        """Make a new key that signs from now on; the older ones stay published while their tokens live."""
        with self._lock:
            keys = self._store.load()
            newest = keys[-1] if keys else None
            # Its name sorts after the newest one's, also where the clock was set back since.
            made = max(now, newest.made + timedelta(seconds=1)) if newest else now
            return self._store.add(_new_key(made), newest)[-1]

    def _all(self, now: datetime) -> Sequence[SigningKey]:
        # Looked at each time: another process may have made a key.
        with self._lock:
            keys = self._store.load()
            newest = keys[-1] if keys else None
            # A key from the future is one that was made before the clock was set back: it is as good as any.
            if newest is None or newest.made + self._period <= now:
                keys = self._store.add(_new_key(now), newest)
            return keys


class FileKeys:
    """Keys in the files of a folder.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[Path, SigningKey] = {}

    def load(self) -> Sequence[SigningKey]:
        """Return all keys; each file is read once.

        Raises:
            ConfigurationError: A file is no key, or others may read it.
        """
        found = {path: self._loaded.get(path) or _load(path) for path in self._folder.glob("ear-*.pem")}
        self._loaded = dict(sorted(found.items()))
        return list(self._loaded.values())

    def add(self, key: SigningKey, since: SigningKey | None) -> Sequence[SigningKey]:
        """Keep a new key: one process has the folder, so that no other key came since.

        Raises:
            StorageError: The disk refuses.
        """
        path = self._folder / f"ear-{key.kid}.pem"
        create_private(path, _pem(key))
        self._loaded[path] = key
        return list(self._loaded.values())


class SharedKeys:
    """Keys in the database, wrapped, for brokers that run as several processes.

    Args:
        store: The database.
        wrap: Wraps them.
    """

    def __init__(self, store: Store, wrap: KeyWrap) -> None:
        self._store = store
        self._wrap = wrap
        self._loaded: dict[str, SigningKey] = {}

    def load(self) -> Sequence[SigningKey]:
        """Return all keys; each is unwrapped once.

        Raises:
            StorageError: The database cannot be read, or a key does not open.
        """
        with self._store.read() as session:
            return self._within(session)

    def add(self, key: SigningKey, since: SigningKey | None) -> Sequence[SigningKey]:
        """Keep a new key, unless another process was faster.

        Raises:
            StorageError: The database cannot be written.
        """
        with self._store.write() as session:
            keys = self._within(session)
            if (keys[-1].kid if keys else None) != (since.kid if since else None):
                return keys
            wrapped = self._wrap.wrap(_pem(key), context=signing_key_context(key.kid))
            session.add(SigningKeyRow(kid=key.kid, wrapped=wrapped))
            session.flush()
            return [*keys, key]

    def _within(self, session: Session) -> list[SigningKey]:
        kids = sorted(session.scalars(select(SigningKeyRow.kid)))
        for kid in kids:
            if kid not in self._loaded:
                row = session.get_one(SigningKeyRow, kid)
                pem = self._wrap.unwrap(row.wrapped, context=signing_key_context(kid))
                self._loaded[kid] = _parse(kid, pem, f"The token signing key {kid}")
        return [self._loaded[kid] for kid in kids]


def signing_key_context(kid: str) -> str:
    """Return what a wrapped signing key is bound to."""
    return f"signing-key:{kid}"


def _new_key(now: datetime) -> SigningKey:
    made = now.astimezone(UTC).replace(microsecond=0)
    private = ec.generate_private_key(ec.SECP256R1())
    return SigningKey(f"{made:{_TIME}}-{secrets.token_hex(4)}", made, private)


def _pem(key: SigningKey) -> bytes:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(path: Path) -> SigningKey:
    kid = path.stem.removeprefix("ear-")
    return _parse(kid, read_private(path, "The token signing key"), f"The token signing key {path}")


def _parse(kid: str, pem: bytes, what: str) -> SigningKey:
    try:
        made = datetime.strptime(kid.partition("-")[0], _TIME).replace(tzinfo=UTC)
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(
            f"{what} cannot be read.", advice="Remove it; the broker makes a new one."
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigurationError(f"{what} is not a P-256 key.")
    return SigningKey(kid, made, private)
