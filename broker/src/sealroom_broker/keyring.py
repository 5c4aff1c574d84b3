# SPDX-License-Identifier: BSD-3-Clause
"""The keys that sign EAR tokens: one is current, older ones stay published until no token of theirs is alive.

A key is a file `ear-<kid>.pem` of mode 0600; its id begins with the time at which it was made, so that a
restored backup rotates as the original did.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sealroom.appraisal import ear
from sealroom.errors import ConfigurationError

from sealroom_broker.files import create_private, read_private

_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An ES256 key."""

    kid: str
    made: datetime
    private: ec.EllipticCurvePrivateKey = field(repr=False)


class Keyring:
    """The signing keys in a folder.

    Args:
        folder: Where they are.
        rotate: How long a key signs.
        token_life: How long a token lives; a key stays published twice that much longer, for skewed clocks.
    """

    def __init__(self, folder: Path, *, rotate: timedelta, token_life: timedelta) -> None:
        self._folder = folder
        self._rotate = rotate
        self._keep = rotate + 2 * token_life
        self._lock = threading.Lock()
        self._keys = [_load(path) for path in sorted(folder.glob("ear-*.pem"))]

    def current(self, now: datetime) -> SigningKey:
        """Return the key that signs now; make a new one where the newest has signed long enough."""
        with self._lock:
            newest = self._keys[-1] if self._keys else None
            # A key from the future is one that was made before the clock was set back: it is as good as any.
            if newest is None or newest.made + self._rotate <= now:
                newest = self._make(now)
            return newest

    def published(self, now: datetime) -> Sequence[SigningKey]:
        """Return the keys whose tokens may be alive, the current one among them."""
        current = self.current(now)
        with self._lock:
            return [key for key in self._keys if key is current or key.made + self._keep > now]

    def jwks(self, now: datetime) -> dict[str, list[dict[str, str]]]:
        """Return the published keys as a JWK set."""
        return ear.jwks({key.kid: key.private for key in self.published(now)})

    def _make(self, now: datetime) -> SigningKey:
        made = now.astimezone(UTC).replace(microsecond=0)
        key = SigningKey(
            f"{made:{_TIME}}-{secrets.token_hex(4)}", made, ec.generate_private_key(ec.SECP256R1())
        )
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_private(self._folder / f"ear-{key.kid}.pem", pem)
        self._keys.append(key)
        return key


def _load(path: Path) -> SigningKey:
    kid = path.stem.removeprefix("ear-")
    try:
        made = datetime.strptime(kid.partition("-")[0], _TIME).replace(tzinfo=UTC)
        private = load_pem_private_key(read_private(path, "The token signing key"), None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The token signing key {path} cannot be read.", advice="Remove it; the broker makes a new one."
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigurationError(f"The token signing key {path} is not a P-256 key.")
    return SigningKey(kid, made, private)
