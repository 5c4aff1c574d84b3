# SPDX-License-Identifier: BSD-3-Clause
"""Owners' tokens: who may register datasets, grant and read the log.

A token is 256 random bits, so its SHA-256 is stored as it is: there is nothing to guess that a slow hash
would slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime

from sealroom.errors import ConfigurationError
from sqlalchemy import select

from sealroom_broker.problem import Problem
from sealroom_broker.store import OwnerTokenRow, Store

_PREFIX = "sealroom-owner-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def add_token(store: Store, name: str, now: datetime) -> str:
    """Make a token and return it; it is not shown again.

    Raises:
        ConfigurationError: The name is not usable, or taken.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError("A token's name has letters, digits, '.', '_' and '-', at most 64.")
    token = _PREFIX + secrets.token_urlsafe(32)
    with store.write() as session:
        if session.scalar(select(OwnerTokenRow.id).where(OwnerTokenRow.name == name)) is not None:
            raise ConfigurationError(f"There is a token named {name} already.", advice="Choose another name.")
        session.add(OwnerTokenRow(name=name, sha256=_digest(token), created=now))
    return token


def list_tokens(store: Store) -> list[tuple[str, datetime]]:
    """Return the names of all tokens and when they were made."""
    with store.read() as session:
        rows = session.scalars(select(OwnerTokenRow).order_by(OwnerTokenRow.created))
        return [(row.name, row.created) for row in rows]


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


def check_token(store: Store, authorization: str | None) -> str:
    """Return the name of the token in an `Authorization` header.

    Raises:
        Problem: There is none, or it is wrong (401).
    """
    scheme, _, token = (authorization or "").partition(" ")
    presented, found = _digest(token.strip()), None
    with store.read() as session:
        # All of them, each in constant time: how long it takes says nothing about which one was close.
        for row in session.scalars(select(OwnerTokenRow)):
            if hmac.compare_digest(row.sha256, presented):
                found = row.name
    if scheme.lower() != "bearer" or found is None:
        raise Problem(
            401,
            "TokenVerificationFailed",
            "This call needs an owner's token.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
