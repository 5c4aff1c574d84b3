# SPDX-License-Identifier: BSD-3-Clause
"""Rotate the key-encryption key, and with it wrap everything that is stored again.

Steps: (1) the file gets a new key before the old one, so that from now on everything is wrapped with the new
one, and both unwrap; (2) one transaction, in which nobody else writes, wraps all stored secrets again; (3)
the old key leaves the file. Killed after (1) or (2), everything still opens, and the next call goes on from
there. Brokers that run need no restart: they look into the file again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sealroom.errors import ConfigurationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.keyring import signing_key_context
from sealroom_broker.registry import key_context
from sealroom_broker.resources import resource_context
from sealroom_broker.store import DatasetRow, ResourceRow, SigningKeyRow, Store
from sealroom_broker.wrap import FileKeyWrap, new_key, read_keys, write_keys


def prepare_kek(path: Path) -> bool:
    """Put a new key into the file, before the old one.

    Where brokers have files of their own, copy it to each of them before `rotate_kek`.

    Returns:
        False if a rotation that was begun is still to be finished; then nothing changes.

    Raises:
        ConfigurationError: The file cannot be read.
        StorageError: It cannot be written.
    """
    keys = read_keys(path)
    if len(keys) > 1:
        return False
    write_keys(path, [new_key(), *keys])
    return True


def rotate_kek(path: Path, store: Store) -> int:
    """Rotate the key, or finish a rotation that was begun.

    Returns:
        How many secrets were wrapped again.

    Raises:
        ConfigurationError: The file cannot be read.
        StorageError: The file or the database cannot be written, or a secret does not open: then both keys
            stay.
    """
    prepare_kek(path)
    wrap = FileKeyWrap.load(path)
    changed = rewrap(store, wrap)
    if not wrapped_by(store, wrap.prefix):
        raise ConfigurationError("Another rotation is going on.", advice="Try again when it is done.")
    write_keys(path, read_keys(path)[:1])
    return changed


def rewrap(store: Store, wrap: FileKeyWrap) -> int:
    """Wrap every stored secret with the first key, all or none.

    Raises:
        StorageError: The database cannot be written, or a secret does not open.
    """
    changed = 0
    with store.write() as session:
        for row, name, context in _secrets(session):
            wrapped: bytes = getattr(row, name)
            if not wrapped.startswith(wrap.prefix):
                secret = wrap.unwrap(wrapped, context=context)
                setattr(row, name, wrap.wrap(secret, context=context))
                changed += 1
    return changed


def wrapped_by(store: Store, prefix: bytes) -> bool:
    """Tell whether every stored secret is wrapped by one key."""
    with store.read() as session:
        return all(getattr(row, name).startswith(prefix) for row, name, _ in _secrets(session))


def check_secrets(store: Store, wrap: FileKeyWrap) -> int:
    """Open every stored secret and return how many there are.

    Raises:
        StorageError: One does not open.
    """
    count = 0
    with store.read() as session:
        for row, name, context in _secrets(session):
            wrap.unwrap(getattr(row, name), context=context)
            count += 1
    return count


def _secrets(session: Session) -> Iterator[tuple[Any, str, str]]:
    """Yield every row with a wrapped secret, the secret's column, and what it is bound to."""
    for dataset in session.scalars(select(DatasetRow)):
        yield dataset, "wrapped_key", key_context(dataset.id)
    for resource in session.scalars(select(ResourceRow)):
        yield resource, "wrapped", resource_context(resource.path)
    for key in session.scalars(select(SigningKeyRow)):
        yield key, "wrapped", signing_key_context(key.kid)
