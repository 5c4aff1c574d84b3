# SPDX-License-Identifier: BSD-3-Clause
"""Tokens for the owner's calls: who may register datasets, grant and read the log, and for how long.

A token is 256 random bits, so its SHA-256 is stored as it is: there is nothing to guess that a slow hash
would slow down.

| scope | read datasets and grants | read the log | register, grant, withdraw | resources |
|---|---|---|---|---|
| `owner` | yes | yes | yes | yes |
| `auditor` | yes | yes | no | no |
| `read-only` | yes | no | no | no |

A token for named datasets sees and changes those alone. The log and the static resources are not of single
datasets, so such a token has neither.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sealroom.errors import ConfigurationError
from sqlalchemy import select

from sealroom_broker.problem import Problem, refused
from sealroom_broker.store import OwnerTokenRow, Store

Scope = Literal["owner", "auditor", "read-only"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

Need = Literal["read", "audit", "write"]
"""What a call needs of whoever makes it."""

_MAY: dict[Scope, frozenset[Need]] = {
    "owner": frozenset({"read", "audit", "write"}),
    "auditor": frozenset({"read", "audit"}),
    "read-only": frozenset({"read"}),
}
_PREFIX = "sealroom-owner-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes an owner's call, and what they may do."""

    name: str
    """Stands in the audit log."""
    scope: Scope
    datasets: frozenset[str] | None = None
    """The only datasets that it is about; None means all."""

    def may(self, need: Need, dataset: str | None = None) -> bool:
        """Tell whether this may be done.

        Args:
            need: What.
            dataset: To which dataset; None where it is not about a single one, as the log is.
        """
        if need not in _MAY[self.scope]:
            return False
        return self.datasets is None or dataset in self.datasets

    def check(self, need: Need, dataset: str | None = None) -> None:
        """Refuse what may not be done.

        Raises:
            Problem: It may not (403).
        """
        if not self.may(need, dataset):
            raise self._refusal("this" if dataset is None else f"this with the dataset {dataset[:128]}")

    def check_scope(self, need: Need) -> None:
        """Refuse what may not be done with any dataset.

        Raises:
            Problem: It may not (403).
        """
        if need not in _MAY[self.scope]:
            raise self._refusal("this")

    @property
    def words(self) -> str:
        """Its scope, in words."""
        if self.datasets is None:
            return self.scope
        return f"{self.scope} of {', '.join(sorted(self.datasets)) or 'no dataset'}"

    def _refusal(self, what: str) -> Problem:
        return refused("token.scope", f"The token {self.name} may not do {what}: its scope is {self.words}.")


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token; not the token."""

    name: str
    scope: Scope
    datasets: frozenset[str] | None
    created: datetime
    expires: datetime | None


def add_token(
    store: Store,
    name: str,
    now: datetime,
    *,
    scope: Scope = "owner",
    datasets: Collection[str] | None = None,
    expires: datetime | None = None,
) -> str:
    """Make a token and return it; it is not shown again.

    Args:
        store: The database.
        name: Whose it is; stands in the audit log.
        now: When it is made.
        scope: What it may do.
        datasets: The only datasets that it is for, all if None; they need not be registered yet.
        expires: When it ends.

    Raises:
        ConfigurationError: The name is not usable, or taken, or the token would have ended already.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError("A token's name has letters, digits, '.', '_' and '-', at most 64.")
    if expires is not None and expires <= now:
        raise ConfigurationError("A token must end in the future.")
    if datasets is not None and not datasets:
        raise ConfigurationError("A token for no dataset is good for nothing.")
    token = _PREFIX + secrets.token_urlsafe(32)
    with store.write() as session:
        if session.scalar(select(OwnerTokenRow.id).where(OwnerTokenRow.name == name)) is not None:
            raise ConfigurationError(f"There is a token named {name} already.", advice="Choose another name.")
        session.add(
            OwnerTokenRow(
                name=name,
                sha256=_digest(token),
                created=now,
                scope=scope,
                datasets=sorted(datasets) if datasets is not None else None,
                expires=expires,
            )
        )
    return token


def list_tokens(store: Store) -> list[TokenInfo]:
    """Return all tokens, the oldest first; ended ones are among them."""
    with store.read() as session:
        return [_info(row) for row in session.scalars(select(OwnerTokenRow).order_by(OwnerTokenRow.created))]


def remove_token(store: Store, name: str) -> None:
    """Forget a token; whoever has it can do nothing with it any more.

    Raises:
        ConfigurationError: There is none of this name.
    """
    with store.write() as session:
        row = session.scalar(select(OwnerTokenRow).where(OwnerTokenRow.name == name))
        if row is None:
            raise ConfigurationError(f"There is no token named {name}.")
        session.delete(row)


def check_token(store: Store, authorization: str | None, now: datetime) -> Actor:
    """Return whose token is in an `Authorization` header.

    Raises:
        Problem: There is none, or it is wrong or has ended (401).
    """
    scheme, _, token = (authorization or "").partition(" ")
    presented, found = _digest(token.strip()), None
    with store.read() as session:
        # All of them, each in constant time: how long it takes says nothing about which one was close.
        for row in session.scalars(select(OwnerTokenRow)):
            if hmac.compare_digest(row.sha256, presented):
                found = _info(row)
    if scheme.lower() != "bearer" or found is None:
        raise _unauthorised("This call needs an owner's token.")
    if found.expires is not None and now >= found.expires:
        raise _unauthorised("This owner's token has ended.")
    return Actor(found.name, found.scope, found.datasets)


def token_digests(store: Store) -> frozenset[str]:
    """Return the digests of all tokens, ended ones among them.

    Raises:
        StorageError: The database cannot be read.
    """
    with store.read() as session:
        return frozenset(session.scalars(select(OwnerTokenRow.sha256)))


def presented_digest(authorization: str) -> str | None:
    """Return the digest of the token in an `Authorization` header; None without one of our form."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    return _digest(token) if scheme.lower() == "bearer" and token.startswith(_PREFIX) else None


def _info(row: OwnerTokenRow) -> TokenInfo:
    # A scope of a newer version is the least of ours.
    scope: Scope = next((one for one in SCOPES if one == row.scope), "read-only")
    datasets = frozenset(row.datasets) if row.datasets is not None else None
    return TokenInfo(row.name, scope, datasets, row.created, row.expires)


def _unauthorised(sentence: str) -> Problem:
    return Problem(401, "TokenVerificationFailed", sentence, headers={"WWW-Authenticate": "Bearer"})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
