# SPDX-License-Identifier: BSD-3-Clause
"""Rotate the key-encryption key, or move to another keeper of it, and so wrap everything stored again.

Steps of a rotation: (1) the keeper gets a new key or a new version of it, so that from now on everything is
wrapped with the new one, and both unwrap; (2) transactions, in each of which nobody else writes, wrap all
stored secrets again; (3) the old key leaves a file. A token and Vault keep old versions for older backups,
unless they are to be destroyed.

Steps of a move: (1) the configuration names the new keeper before the old one; (2) as above; (3) the old one
leaves the configuration.

Killed after any step, everything still opens, and the next call goes on from there. Brokers that run need no
restart: they look into the file, the token, Vault and the configuration again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sealroom.errors import ConfigurationError, StorageError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sealroom_broker.files import replace_private
from sealroom_broker.keyring import signing_key_context
from sealroom_broker.registry import key_context
from sealroom_broker.resources import resource_context
from sealroom_broker.store import DatasetRow, ResourceRow, SigningKeyRow, Store
from sealroom_broker.wrap import Chain, Kek, KeyWrap, VaultKek, create_kek, open_kek
from sealroom_broker.wrap.settings import load_kek, replace_kek

BATCH = 64
"""Secrets that one transaction wraps again: other writers wait for it, and a keeper may be far away."""


class Prefixed(KeyWrap, Protocol):
    """Wraps, and says what its work begins with."""

    @property
    def prefix(self) -> bytes:
        """What everything begins with that is wrapped now."""


def prepare_kek(kek: Kek, store: Store, *, vault_token: Path | None = None) -> bool:
    """Have a new key made, before the old one.

    Where brokers have key files of their own, copy the file to each of them before `rotate_kek`.

    Args:
        kek: The key-encryption key.
        store: The database.
        vault_token: File with a token of Vault that may rotate keys, in place of the broker's own.

    Returns:
        False if a rotation that was begun is still to be finished; then nothing changes.

    Raises:
        ConfigurationError: The key is not as it must be.
        StorageError: Its keeper refuses, or cannot be asked now.
    """
    provider = open_kek(_as_operator(kek, vault_token).first)
    try:
        return provider.begin(stale=not wrapped_by(store, provider.prefix))
    finally:
        provider.close()


def rotate_kek(kek: Kek, store: Store, *, destroy: bool = False, vault_token: Path | None = None) -> int:
    """Rotate the key, or finish a rotation that was begun.

    Args:
        kek: The key-encryption key.
        store: The database.
        destroy: Destroy the older versions on a token or in Vault: older backups do not open any more.
        vault_token: File with a token of Vault that may rotate keys, in place of the broker's own.

    Returns:
        How many secrets were wrapped again.

    Raises:
        ConfigurationError: The key is not as it must be, or another rotation is going on.
        StorageError: The keeper or the database refuses, or a secret does not open: then all keys stay.
    """
    chain = Chain(_as_operator(kek, vault_token))
    try:
        chain.first.begin(stale=not wrapped_by(store, chain.prefix))
        changed = rewrap(store, chain)
        if not wrapped_by(store, chain.prefix):
            raise ConfigurationError("Another rotation is going on.", advice="Try again when it is done.")
        chain.first.finish(destroy=destroy)
        return changed
    finally:
        chain.close()


def prepare_move(source: Path, target: Kek, *, vault_token: Path | None = None) -> bool:
    """Name another keeper in the configuration, before the one of now.

    Args:
        source: The configuration file.
        target: The other keeper; its key is made if there is none.
        vault_token: File with a token of Vault that may make keys, in place of the broker's own.

    Returns:
        False if it is named first already; then nothing changes.

    Raises:
        ConfigurationError: The other keeper's key, or the configuration, is not as it must be.
        StorageError: A keeper refuses, or cannot be asked now.
    """
    if target.former:
        raise ConfigurationError("The new [kek] must name one provider, without [[kek.former]].")
    now = load_kek(source)
    create_kek(target.first, vault_token=vault_token)
    provider = open_kek(target.first)
    try:
        provider.check()
    finally:
        provider.close()
    if now.first == target.first:
        return False
    _write(source, Kek(first=target.first, former=tuple(one for one in now.all if one != target.first)))
    return True


def move_kek(source: Path, target: Kek, store: Store, *, vault_token: Path | None = None) -> int:
    """Move everything to another keeper, or finish a move that was begun.

    Args:
        source: The configuration file.
        target: The other keeper.
        store: The database.
        vault_token: File with a token of Vault that may make keys, in place of the broker's own.

    Returns:
        How many secrets were wrapped again.

    Raises:
        ConfigurationError: The other keeper's key, or the configuration, is not as it must be.
        StorageError: A keeper or the database refuses, or a secret does not open: then both keepers stay.
    """
    prepare_move(source, target, vault_token=vault_token)
    chain = Chain(load_kek(source))
    try:
        changed = rewrap(store, chain)
        if not wrapped_by(store, chain.prefix):
            raise ConfigurationError("A rotation is going on.", advice="Try again when it is done.")
    finally:
        chain.close()
    _write(source, Kek(first=target.first))
    return changed


def rewrap(store: Store, wrap: Prefixed) -> int:
    """Wrap every stored secret with the newest key, a batch in a transaction.

    Raises:
        StorageError: The database cannot be written, or a secret does not open.
    """
    changed = 0
    while count := _rewrap_batch(store, wrap):
        changed += count
    return changed


def _rewrap_batch(store: Store, wrap: Prefixed) -> int:
    prefix, changed = wrap.prefix, 0
    with store.write() as session:
        for row, name, context in _secrets(session):
            wrapped: bytes = getattr(row, name)
            if wrapped.startswith(prefix):
                continue
            secret = wrap.unwrap(wrapped, context=context)
            again = wrap.wrap(secret, context=context)
            if again[: len(prefix)] != prefix:
                raise StorageError(
                    "Another rotation of the key-encryption key is going on.",
                    advice="Try again when it is done.",
                )
            setattr(row, name, again)
            changed += 1
            if changed == BATCH:
                break
    return changed


def wrapped_by(store: Store, prefix: bytes) -> bool:
    """Tell whether every stored secret is wrapped by one key."""
    with store.read() as session:
        return all(getattr(row, name).startswith(prefix) for row, name, _ in _secrets(session))


def check_secrets(store: Store, wrap: KeyWrap) -> int:
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
    for dataset in session.scalars(select(DatasetRow).where(DatasetRow.destroyed.is_(None))):
        yield dataset, "wrapped_key", key_context(dataset.id)
    for resource in session.scalars(select(ResourceRow)):
        yield resource, "wrapped", resource_context(resource.path)
    for key in session.scalars(select(SigningKeyRow)):
        yield key, "wrapped", signing_key_context(key.kid)


def _as_operator(kek: Kek, vault_token: Path | None) -> Kek:
    """Return the same with an operator's token of Vault for the key that is rotated."""
    if vault_token is None or not isinstance(kek.first, VaultKek):
        return kek
    first = kek.first.model_copy(update={"token_file": vault_token, "role_id": "", "secret_id_file": None})
    return kek.model_copy(update={"first": first})


def _write(source: Path, kek: Kek) -> None:
    """Put other `[kek]` tables into the configuration: at any moment it has either."""
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}.") from error
    # Through a link, whose name stays.
    replace_private(source.resolve(), replace_kek(text, kek, source).encode())
