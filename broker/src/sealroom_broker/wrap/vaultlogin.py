# SPDX-License-Identifier: BSD-3-Clause
"""The broker's token of Vault: from a file or by AppRole, renewed in time, and with an end that is known.

Invariants:

- Tokens and secret ids come from files of mode 0600 and are shown nowhere.
- A login that was refused is not tried again at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealroom.errors import ConfigurationError, Error, StorageError

from sealroom_broker.files import read_private
from sealroom_broker.wrap.settings import VaultKek
from sealroom_broker.wrap.vault import VaultLink

_log = logging.getLogger(__name__)
_PAUSE = 5.0
"""Seconds from one login that failed to the next."""
_BREATH = 1.0
"""Least seconds from one renewal to the next."""
_ROUND = 60.0
"""Longest time, in seconds, in which nobody looks after the token."""
_MAX_SECRET = 4096


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, and how long it holds. Times are of the clock that only goes forward."""

    token: str = field(repr=False)
    ends: float | None
    """None if it has no end."""
    lease: float
    """Seconds for which it was given."""
    renewable: bool
    stamp: tuple[int, int, int] | None
    """Of the file that it came from."""


class VaultLogin:
    """Holds a token.

    Args:
        settings: Where from.
        link: Calls Vault.
        clock: Seconds that only go forward.
        background: Look after the token also while nobody asks for it.
    """

    def __init__(
        self,
        settings: VaultKek,
        link: VaultLink,
        *,
        clock: Callable[[], float] = time.monotonic,
        background: bool = False,
    ) -> None:
        self._settings = settings
        self._link = link
        self._clock = clock
        self._lock = threading.RLock()
        self._held: _Held | None = None
        self._next = -_PAUSE
        self._failed: Error | None = None
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="vault token", daemon=True)
        if background:
            self._keeper.start()

    def token(self) -> str:
        """Return the token; log in, or renew it, where that is due.

        Raises:
            ConfigurationError: A file with a secret is not there, or others may read it.
            StorageError: Vault refuses, or cannot be asked now.
        """
        with self._lock:
            now = self._clock()
            held = self._held
            if held is None or (held.stamp is not None and _stamp(self._settings.token_file) != held.stamp):
                held = self._log_in(now)
            left = None if held.ends is None else held.ends - now
            if left is not None and left < held.lease / 2 and now >= self._next:
                held = self._prolong(held, now)
            if held.ends is not None and held.ends <= now:
                self._held = None
                raise StorageError(
                    "The broker's token of Vault has ended.",
                    advice="Write a new one into its file; one with a period can be renewed for ever.",
                )
            return held.token

    def again(self, refused: str) -> str | None:
        """Return another token than the one that Vault refused; None if there is no other.

        Raises:
            Error: Vault cannot be asked now.
        """
        with self._lock:
            now = self._clock()
            if self._held is None or self._held.token != refused:
                return self.token()
            if self._settings.token_file is not None or now < self._next:
                return None
            self._next = now + _PAUSE
            fresh = self._log_in(now).token
            return fresh if fresh != refused else None

    def ends(self) -> float | None:
        """Return in how many seconds the token ends; None if it does not, or if there is none."""
        with self._lock:
            held = self._held
            return None if held is None or held.ends is None else max(0.0, held.ends - self._clock())

    def close(self) -> None:
        """Stop looking after it."""
        self._stopped.set()

    def _log_in(self, now: float) -> _Held:
        if self._failed is not None and now < self._next and self._held is None:
            raise self._failed
        try:
            self._held = self._from_file(now) if self._settings.token_file else self._by_approle(now)
            self._failed = None
        except Error as error:
            self._held, self._failed, self._next = None, error, now + _PAUSE
            raise
        return self._held

    def _from_file(self, now: float) -> _Held:
        path = self._settings.token_file
        stamp = _stamp(path)
        token = read_secret(path, "The token of Vault")
        seen = _data(self._link.call("GET", "auth/token/lookup-self", token), "data")
        ttl = _seconds(seen, "ttl")
        given = max(ttl, _seconds(seen, "period"), min(_seconds(seen, "creation_ttl"), 86400.0))
        ends = now + ttl if ttl else None
        if ends is None and not seen.get("expire_time"):
            _log.info("the token of Vault has no end")
        return _Held(token, ends, given, seen.get("renewable") is True, stamp)

    def _by_approle(self, now: float) -> _Held:
        secret = read_secret(self._settings.secret_id_file, "The secret id of Vault")
        body = {"role_id": self._settings.role_id, "secret_id": secret}
        answer = self._link.call("POST", f"auth/{self._settings.approle_mount}/login", body=body)
        auth = _data(answer, "auth")
        token = auth.get("client_token")
        if not isinstance(token, str) or not token:
            raise StorageError("Vault answered a login without a token.")
        lease = _seconds(auth, "lease_duration")
        return _Held(token, now + lease if lease else None, lease, auth.get("renewable") is True, None)

    def _prolong(self, held: _Held, now: float) -> _Held:
        """Renew the token, or log in again; what holds now goes on holding if neither can be done."""
        left = held.lease if held.ends is None else held.ends - now
        self._next = now + max(_BREATH, left / 8)
        if held.renewable:
            try:
                auth = _data(self._link.call("POST", "auth/token/renew-self", held.token, {}), "auth")
                lease = _seconds(auth, "lease_duration")
                renewed = _Held(
                    held.token, now + lease if lease else None, held.lease, auth.get("renewable") is True,
                    held.stamp,
                )  # fmt: skip
                self._held = held = renewed
                if lease and lease < held.lease / 4:
                    _log.warning(
                        "the token of Vault ends in %d seconds and cannot be renewed for longer", lease
                    )
            except Error as error:
                _log.warning("the token of Vault could not be renewed: %s", error)
        left = held.lease if held.ends is None else held.ends - now
        if self._settings.token_file is None and left < held.lease / 4:
            try:
                return self._log_in(now)
            except Error as error:
                _log.warning("a new token of Vault could not be had: %s", error)
                self._held = held
        return held

    def _keep(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                self.token()
            except Error as error:
                _log.warning("the token of Vault: %s", error)

    def _pause(self) -> float:
        with self._lock:
            return max(1.0, min(_ROUND, self._held.lease / 8)) if self._held else _PAUSE

    def __repr__(self) -> str:
        return "<VaultLogin, token not shown>"


def read_secret(path: Path | None, what: str) -> str:
    """Return the secret in a file of mode 0600.

    Raises:
        ConfigurationError: It is not there, others may read it, or it has something else in it.
    """
    if path is None:
        raise ConfigurationError(f"{what} has no file.")
    try:
        secret = read_private(path, what).decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what} {path} is not one.") from error
    if not 0 < len(secret) <= _MAX_SECRET or not secret.isprintable() or " " in secret:
        raise ConfigurationError(f"{what} {path} is not one.", advice="Write nothing but the secret into it.")
    return secret


def _data(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    data = answer.get(name)
    if not isinstance(data, dict):
        raise StorageError("The answer of Vault is not understood.")
    return data


def _seconds(data: Mapping[str, Any], name: str) -> float:
    value = data.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e10:
        raise StorageError("The answer of Vault is not understood.")
    return float(value)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
