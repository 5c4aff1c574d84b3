# SPDX-License-Identifier: BSD-3-Clause
"""Log in with accounts that the first start makes: for one machine, without an identity provider.

Invariants:

- Passwords are random (not chosen) and stored as scrypt hashes; the comparison takes the same time for all.
- A name that does not exist gets the same answer as a wrong password, at the first try after the same time.
  Names are not secret: who tries often enough can tell by the waits which of them exist.
- After a wrong password the next tries for that name wait, longer each time; tries in parallel wait their
  turn.
- Nobody is let in whose name is not in the file, also not with an old cookie after it was taken out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub.auth import Authenticator
from sealroom.errors import ConfigurationError
from traitlets import Float, Unicode

from sealroom_spawner.files import read_json

# RFC 7914 section 2; 2^15 and 8 need 32 MiB and about a tenth of a second, as OWASP's cheat sheet advises or
# more.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**15, 8, 1
SCRYPT_MEMORY = 64 * 2**20
SALT_BYTES, HASH_BYTES = 16, 32
PASSWORD_BYTES = 15
"""120 random bits: 20 characters."""


def new_password() -> str:
    """Return a random password that can be typed and pasted."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A salted scrypt hash."""

    salt: bytes
    digest: bytes
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(SALT_BYTES)
        return cls(salt, _scrypt(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P))

    @classmethod
    def from_json(cls, value: Any) -> PasswordHash:
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: It is something else, or weaker than what is written today.
        """
        try:
            found = cls(
                base64.b64decode(value["salt"], validate=True),
                base64.b64decode(value["digest"], validate=True),
                int(value["n"]),
                int(value["r"]),
                int(value["p"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                "The accounts file holds something that is not a password hash."
            ) from error
        if len(found.salt) < SALT_BYTES or len(found.digest) != HASH_BYTES or found.n < SCRYPT_N:
            raise ConfigurationError("The accounts file holds a password hash that is too weak.")
        return found

    def to_json(self) -> dict[str, object]:
        """Return what goes into the accounts file."""
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return {"salt": salt, "digest": digest, "n": self.n, "r": self.r, "p": self.p}

    def matches(self, password: str) -> bool:
        """Tell whether this is the password, in constant time."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.digest)


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in."""

    password: PasswordHash
    admin: bool = False


def read_accounts(path: Path) -> dict[str, Account]:
    """Read the accounts file.

    Raises:
        ConfigurationError: It is not there or damaged.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise ConfigurationError(
            f"The accounts file {path} is not there or damaged.", advice="`make up` makes a new one."
        )
    accounts = {}
    for name, fields in value.items():
        if not isinstance(fields, dict):
            raise ConfigurationError(f"The accounts file {path} is damaged at {name}.")
        accounts[name] = Account(PasswordHash.from_json(fields.get("password")), fields.get("admin") is True)
    return accounts


class LocalAccountsAuthenticator(Authenticator):
    """JupyterHub authenticator over a file of accounts."""

    accounts_file = Unicode(help="JSON file with the accounts.").tag(config=True)
    first_delay = Float(
        0.5, help="Seconds that the try after a wrong password waits; doubles each time."
    ).tag(config=True)
    longest_delay = Float(30.0, help="Longest wait in seconds.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        # Checked against for names that do not exist, so that these take as long.
        self._nobody = Account(PasswordHash(secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES)))
        accounts = self.accounts()
        self.allowed_users = set(accounts)
        self.admin_users = {name for name, account in accounts.items() if account.admin}

    def accounts(self) -> dict[str, Account]:
        """Return everybody who may log in.

        Raises:
            ConfigurationError: The file of accounts is not there or damaged.
        """
        return read_accounts(Path(self.accounts_file))

    async def authenticate(self, handler: Any, data: dict[str, str]) -> str | None:
        """Return the name if the password is right, None if not."""
        name, password = data.get("username", ""), data.get("password", "")
        accounts = self.accounts()
        account = accounts.get(name, self._nobody)
        # Names that do not exist share one turn: a stranger cannot fill the memory with them.
        key = name if name in accounts else ""
        async with self._turns.setdefault(key, asyncio.Lock()):
            await asyncio.sleep(max(0.0, self._not_before.get(key, 0.0) - time.monotonic()))
            matches = await asyncio.to_thread(account.password.matches, password)
            if matches and account is not self._nobody:
                self._failures.pop(key, None)
                self._not_before.pop(key, None)
                return name
            failures = self._failures.get(key, 0)
            self._failures[key] = min(failures + 1, 16)
            self._not_before[key] = time.monotonic() + min(self.first_delay * 2**failures, self.longest_delay)
        self.log.warning("Wrong name or password (%d in a row)", self._failures.get(key, 0))
        return None

    async def refresh_user(self, user: Any, handler: Any = None) -> bool:
        """End the session of somebody who was taken out of the file."""
        return user.name in self.accounts()


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=SCRYPT_MEMORY, dklen=HASH_BYTES)
