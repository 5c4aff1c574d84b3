# SPDX-License-Identifier: BSD-3-Clause
"""A key-encryption key in the transit engine of HashiCorp Vault or OpenBao.

The key is of type aes256-gcm96; secrets go to Vault to be wrapped, with the context as `associated_data`
(https://developer.hashicorp.com/vault/api-docs/secret/transit). Which version of the key wrapped is Vault's
own affair: it always uses the newest.

A wrapped secret is: version 3, eight bytes of a digest of namespace, mount and name, the key's version (four
bytes, big-endian), and the bytes of Vault's `vault:v…:` text.

Invariants:

- A key that can be exported, backed up in clear, deleted, or that is derived is refused.
- Each release is a call of Vault: nothing that it unwrapped is kept.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from sealroom.errors import ConfigurationError, StorageError

from sealroom_broker.wrap.base import PROBE, does_not_open, key_id, other_key
from sealroom_broker.wrap.settings import VaultKek
from sealroom_broker.wrap.vault import VaultLink, VaultRefusalError
from sealroom_broker.wrap.vaultlogin import VaultLogin, read_secret

_VERSION = b"\x03"
_NUMBER_SIZE = 4
_TEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})")
_TYPE = "aes256-gcm96"
_MUST: Mapping[str, tuple[object, str]] = {
    "type": (_TYPE, f"is not of the type {_TYPE}"),
    "derived": (False, "is derived: it would need a context of its own"),
    "exportable": (False, "is exportable: it could leave Vault"),
    "allow_plaintext_backup": (False, "may be backed up in clear: it could leave Vault"),
    "deletion_allowed": (False, "may be deleted, and with it every dataset key would be lost"),
}


class TransitKeyWrap:
    """AES-256-GCM in Vault.

    Args:
        settings: Which Vault and which key.
        background: Keep the token alive also while nobody uses it.
        transport: Another way out, for tests.

    Raises:
        ConfigurationError: A file cannot be read, or the key is not as it must be.
        StorageError: Vault refuses, or cannot be asked now.
    """

    mark = _VERSION

    def __init__(
        self, settings: VaultKek, *, background: bool = False, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._link = VaultLink(settings, transport=transport)
        self._login = VaultLogin(settings, self._link, background=background)
        self._id = key_id(
            _VERSION, settings.namespace.encode(), settings.mount.strip("/").encode(), settings.key.encode()
        )
        self._newest = 0
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> bytes:
        """What everything begins with that the newest version wrapped, as far as it is known here."""
        return self._id + self._newest.to_bytes(_NUMBER_SIZE, "big")

    def knows(self, wrapped: bytes) -> bool:
        """Tell whether this key wrapped this."""
        return wrapped.startswith(self._id)

    def refresh(self) -> None:
        """Ask which version is the newest, and whether the key is as it must be.

        Raises:
            ConfigurationError: It is not.
            StorageError: Vault refuses, or cannot be asked now.
        """
        try:
            answer = self._call("GET", self._path("keys"))
        except VaultRefusalError as error:
            if error.status == 404:
                raise _no_key(self._settings) from error
            raise
        self._newest = check_key(answer, self._settings)

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context by the newest version.

        Raises:
            StorageError: Vault refuses, or cannot be asked now.
        """
        body = {"plaintext": _b64(secret), "associated_data": self._bound(context)}
        data = self._call("POST", self._path("encrypt"), body).get("data")
        text = data.get("ciphertext") if isinstance(data, dict) else None
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise StorageError("The answer of Vault is not understood.")
        return self._id + int(match[1]).to_bytes(_NUMBER_SIZE, "big") + _bytes(match[2])

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            StorageError: It was wrapped by another key or for another context, or was changed, or Vault
                refuses, or cannot be asked now.
        """
        if not wrapped.startswith(self._id):
            raise other_key()
        body = wrapped[len(self._id) :]
        number, sealed = int.from_bytes(body[:_NUMBER_SIZE], "big"), body[_NUMBER_SIZE:]
        if not sealed or number == 0:
            raise does_not_open()
        asked = {"ciphertext": f"vault:v{number}:{_b64(sealed)}", "associated_data": self._bound(context)}
        try:
            data = self._call("POST", self._path("decrypt"), asked).get("data")
        except VaultRefusalError as error:
            if error.status != 400:
                raise
            raise StorageError(
                f"A stored key does not open ({error.words}): the database was changed, or Vault's key has "
                f"lost its version {number}."
            ) from error
        text = data.get("plaintext") if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise StorageError("The answer of Vault is not understood.")
        return _bytes(text)

    def check(self) -> None:
        """See whether the key is as it must be, and wraps and unwraps.

        Raises:
            ConfigurationError: It is not as it must be.
            StorageError: Vault refuses, or cannot be asked now.
        """
        self.refresh()
        if self.unwrap(self.wrap(PROBE.encode(), context=PROBE), context=PROBE) != PROBE.encode():
            raise StorageError("Vault does not give back what it wrapped.")

    def begin(self, *, stale: bool) -> bool:
        """Rotate the key, unless something is still wrapped by an older version.

        Raises:
            ConfigurationError: The key is not as it must be.
            StorageError: Vault refuses, or cannot be asked now.
        """
        self.refresh()
        if stale:
            return False
        self._call("POST", self._path("keys", "rotate"), {})
        self.refresh()
        return True

    def finish(self, *, destroy: bool) -> None:
        """Have Vault destroy the older versions if that is wanted; else they stay, for older backups.

        Raises:
            StorageError: Vault refuses, or cannot be asked now.
        """
        if destroy:
            self.refresh()
            least = {"min_decryption_version": self._newest, "min_encryption_version": self._newest}
            self._call("POST", self._path("keys", "config"), least)
            self._call("POST", self._path("keys", "trim"), {"min_available_version": self._newest})

    def ends(self) -> float | None:
        """Return in how many seconds the token ends; None if it does not."""
        return self._login.ends()

    def close(self) -> None:
        """Close the connections."""
        self._login.close()
        self._link.close()

    def _path(self, what: str, then: str = "") -> str:
        return "/".join(filter(None, (self._settings.mount.strip("/"), what, self._settings.key, then)))

    def _bound(self, context: str) -> str:
        return _b64(self._id + context.encode())

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        token = self._login.token()
        try:
            return self._link.call(method, path, token, body)
        except VaultRefusalError as error:
            # The token may have been revoked: a new login tells.
            other = self._login.again(token) if error.status == 403 else None
            if other is None:
                raise
        return self._link.call(method, path, other, body)

    def __repr__(self) -> str:
        return f"<TransitKeyWrap {self._settings.mount}/{self._settings.key}, token not shown>"


def check_key(answer: Mapping[str, Any], settings: VaultKek) -> int:
    """Refuse a key that is not what everything here depends on, and return its newest version.

    Raises:
        ConfigurationError: It is not.
        StorageError: The answer is not understood.
    """
    data = answer.get("data")
    newest = data.get("latest_version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(newest, int) or not 0 < newest < 1 << 31:
        raise StorageError("The answer of Vault is not understood.")
    name = f"{settings.mount}/{settings.key}"
    for field, (value, sentence) in _MUST.items():
        # What a Vault does not say is not as it must be.
        if data.get(field) != value:
            raise ConfigurationError(
                f"The key {name} of Vault {sentence}.",
                advice="Make another one: exportable and plaintext backup cannot be taken back. "
                "deletion_allowed=false can be set with `vault write …/config`.",
            )
    if data.get("imported_key", False) is not False and not settings.imported:
        raise ConfigurationError(
            f"The key {name} of Vault was imported.",
            advice="Let Vault make one, or set `imported = true` if a key ceremony brought it there.",
        )
    return newest


def create_key(settings: VaultKek, token_file: Path | None = None) -> bool:
    """Have Vault make the key if there is none.

    Args:
        settings: Which Vault and which key.
        token_file: File with a token that may make keys, in place of the broker's own.

    Returns:
        Whether it was made now.

    Raises:
        ConfigurationError: A key that is there is not as it must be.
        StorageError: Vault refuses, or cannot be asked now.
    """
    link = VaultLink(settings)
    path = f"{settings.mount.strip('/')}/keys/{settings.key}"
    login = VaultLogin(settings, link)
    try:
        token = read_secret(token_file, "The token of Vault") if token_file else login.token()
        try:
            check_key(link.call("GET", path, token), settings)
            return False
        except VaultRefusalError as error:
            if error.status != 404:
                raise
        try:
            link.call("POST", path, token, {"type": _TYPE})
        except VaultRefusalError as error:
            if error.status == 403:
                raise _no_key(settings) from error
            raise
        check_key(link.call("GET", path, token), settings)
        return True
    finally:
        login.close()
        link.close()


def _no_key(settings: VaultKek) -> ConfigurationError:
    return ConfigurationError(
        f"Vault has no key {settings.mount}/{settings.key}, or no transit engine there.",
        advice="Let an operator of Vault make it: "
        f"`vault write {settings.mount}/keys/{settings.key} type={_TYPE}`.",
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StorageError("The answer of Vault is not understood.") from error
