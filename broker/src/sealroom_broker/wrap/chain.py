# SPDX-License-Identifier: BSD-3-Clause
"""The broker's key-encryption key as its configuration has it now: one provider wraps, others still unwrap.

Brokers that run need no restart: where `broker.toml` changes, the next wrap, and the next unwrap of something
unknown, look into it again. So a move to another provider first makes all brokers know both.

Invariants:

- What is wrapped is wrapped by the provider that the file names first at that moment.
- Nothing unwrapped is kept: each release asks the provider. A stolen broker's memory opens what it serves at
  that moment, and a provider that is switched off ends all releases.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sealroom.errors import Error, StorageError

from sealroom_broker.wrap.base import KeyProvider, other_key
from sealroom_broker.wrap.file import FileKeyWrap
from sealroom_broker.wrap.settings import FileKek, Kek, Pkcs11Kek, Provider, load_kek

R = TypeVar("R")

Observer = Callable[[str, str, float, bool], None]
"""Is told of each operation: provider, operation, seconds, and whether it worked."""


def open_kek(settings: Provider, *, background: bool = False) -> KeyProvider:
    """Open a key-encryption key.

    Args:
        settings: Whose it is.
        background: Keep the permission to use it alive while nobody uses it.

    Raises:
        ConfigurationError: It is not there, or not as it must be.
        StorageError: Its keeper cannot be reached now.
    """
    if isinstance(settings, FileKek):
        return FileKeyWrap.load(settings.path)
    if isinstance(settings, Pkcs11Kek):
        from sealroom_broker.wrap.token import TokenKeyWrap

        return TokenKeyWrap(settings)
    from sealroom_broker.wrap.transit import TransitKeyWrap

    return TransitKeyWrap(settings, background=background)


def create_kek(settings: Provider, *, vault_token: Path | None = None) -> bool:
    """Make a key-encryption key if there is none.

    Args:
        settings: Where.
        vault_token: File with a token of Vault that may make keys, in place of the broker's own.

    Returns:
        Whether it was made now.

    Raises:
        Error: It cannot be made, or one that is there is not as it must be.
    """
    if isinstance(settings, FileKek):
        there = settings.path.exists()
        FileKeyWrap.create(settings.path)
        return not there
    if isinstance(settings, Pkcs11Kek):
        from sealroom_broker.wrap.token import create_key

        return create_key(settings)
    from sealroom_broker.wrap import transit

    return transit.create_key(settings, vault_token)


class Chain:
    """Wraps with the first of several providers, and unwraps with whichever wrapped.

    Args:
        kek: What the configuration says.
        source: The configuration file, to look into again; none for a chain that stays.
        background: Keep permissions alive while nobody uses them.

    Raises:
        ConfigurationError: A key is not there, or not as it must be.
        StorageError: A keeper cannot be reached now.
    """

    def __init__(self, kek: Kek, *, source: Path | None = None, background: bool = False) -> None:
        self._source = source
        self._background = background
        self._lock = threading.RLock()
        self._stamp = _stamp(source)
        self._providers: dict[Provider, KeyProvider] = {}
        self.observer: Observer | None = None
        self._take(kek)

    @property
    def kek(self) -> Kek:
        """What it was made of, as the file was when it was last looked into."""
        return self._kek

    @property
    def first(self) -> KeyProvider:
        """The provider that wraps."""
        return self._providers[self._kek.first]

    @property
    def prefix(self) -> bytes:
        """What everything begins with that is wrapped now.

        Raises:
            Error: It cannot be known now.
        """
        return self.first.prefix

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context.

        Raises:
            ConfigurationError: The configuration, or the key, is not as it must be.
            StorageError: The key cannot be used now.
        """
        self.refresh()
        name, provider = self._kek.first.provider, self.first
        return self._timed(name, "wrap", lambda: provider.wrap(secret, context=context))

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            ConfigurationError: The configuration, or the key, is not as it must be.
            StorageError: It was wrapped by another key or for another context, or was changed, or the key
                cannot be used now.
        """
        found = self._knowing(wrapped)
        if found is None:
            # Another process may have moved everything, or rotated the key.
            self.refresh()
            found = self._knowing(wrapped) or self._knowing_now(wrapped)
        if found is None:
            raise other_key()
        name, provider = found
        return self._timed(name, "unwrap", lambda: provider.unwrap(wrapped, context=context))

    def refresh(self) -> None:
        """Look into the configuration again if it was changed.

        Raises:
            Error: It cannot be read now, or names a provider that cannot be opened.
        """
        if self._source is None:
            return
        with self._lock:
            stamp = _stamp(self._source)
            if stamp != self._stamp:
                self._take(load_kek(self._source))
                self._stamp = stamp

    def check(self) -> None:
        """See within a bounded time whether each provider wraps and unwraps.

        Raises:
            Error: One does not.
        """
        self.refresh()
        for settings, provider in list(self._providers.items()):
            self._timed(settings.provider, "check", provider.check)

    def ends(self) -> float | None:
        """Return in how many seconds the first permission to use a key ends; None if none does."""
        known = [end for one in list(self._providers.values()) if (end := one.ends()) is not None]
        return min(known, default=None)

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            for provider in self._providers.values():
                provider.close()

    def _take(self, kek: Kek) -> None:
        """Open what is new, and only then close what is not there any more."""
        fresh: dict[Provider, KeyProvider] = {}
        try:
            for settings in kek.all:
                if settings not in self._providers:
                    fresh[settings] = open_kek(settings, background=self._background)
        except BaseException:
            for provider in fresh.values():
                provider.close()
            raise
        old, everything = self._providers, {**self._providers, **fresh}
        self._providers = {settings: everything[settings] for settings in kek.all}
        self._kek = kek
        for settings, provider in old.items():
            if settings not in self._providers:
                provider.close()

    def _knowing(self, wrapped: bytes) -> tuple[str, KeyProvider] | None:
        """Return the provider that wrapped this, as far as they know their versions."""
        everyone = list(self._providers.items())
        return next(((settings.provider, one) for settings, one in everyone if one.knows(wrapped)), None)

    def _knowing_now(self, wrapped: bytes) -> tuple[str, KeyProvider] | None:
        """Ask the providers that it may be of for versions that somebody else made."""
        failed: Error | None = None
        for provider in list(self._providers.values()):
            if wrapped.startswith(provider.mark):
                try:
                    provider.refresh()
                except Error as error:
                    failed = error
        found = self._knowing(wrapped)
        if found is None and failed is not None:
            # The one that cannot be asked may be the one: that is "could not", not "another key".
            raise StorageError(failed.message, advice=failed.advice) from failed
        return found

    def _timed(self, name: str, operation: str, call: Callable[[], R]) -> R:
        began, good = time.monotonic(), False
        try:
            result = call()
            good = True
            return result
        finally:
            if self.observer is not None:
                self.observer(name, operation, time.monotonic() - began, good)

    def __repr__(self) -> str:
        return f"<Chain of {', '.join(one.provider for one in self._kek.all)}, keys not shown>"


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)  # noqa: PTH116 - one call
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
