# SPDX-License-Identifier: BSD-3-Clause
"""How much a client may take of something: token buckets, of this process or of all that share a database.

A bucket holds an amount, is refilled at a rate, and never holds more than its size.
"""

from __future__ import annotations

import ipaddress
import logging
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sealroom.errors import StorageError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from sealroom_broker.config import Limits
from sealroom_broker.problem import Problem, unavailable
from sealroom_broker.store import Store

_log = logging.getLogger(__name__)

_MAX_BUCKETS = 10_000
"""How many buckets a process remembers; the one not used for longest is forgotten first."""
_DAY = 86400.0
_PRUNE_SECONDS = 600.0

_TAKE = text(
    """
    INSERT INTO buckets AS bucket (key, amount, seen)
    VALUES (:key, :size - :amount, clock_timestamp() AT TIME ZONE 'UTC')
    ON CONFLICT (key) DO UPDATE SET
      amount = least(:size, bucket.amount + :rate
        * greatest(0, extract(epoch FROM excluded.seen - bucket.seen))) - :amount,
      seen = excluded.seen
    WHERE least(:size, bucket.amount + :rate
        * greatest(0, extract(epoch FROM excluded.seen - bucket.seen))) >= :amount
    RETURNING 1
    """
)
_GIVE = text("UPDATE buckets SET amount = least(:size, amount + :amount) WHERE key = :key")
_PRUNE = text("DELETE FROM buckets WHERE seen < (clock_timestamp() AT TIME ZONE 'UTC') - interval '1 day'")


class Buckets(Protocol):
    """Buckets by key."""

    def take(self, key: str, amount: float, *, rate: float, size: float) -> bool:
        """Take an amount, if the bucket has it.

        Args:
            key: Whose bucket of what.
            amount: How much.
            rate: What comes back in a second.
            size: What a full bucket holds; a new one is full.
        """

    def give(self, key: str, amount: float, *, size: float) -> None:
        """Give back what was taken."""


class LocalBuckets:
    """Buckets in the memory of this process.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, amount: float, *, rate: float, size: float) -> bool:
        """Take an amount, if the bucket has it."""
        now = self._clock()
        with self._lock:
            left, seen = self._buckets.pop(key, (size, now))
            left = min(size, left + (now - seen) * rate)
            enough = left >= amount
            self._buckets[key] = (left - amount if enough else left, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return enough

    def give(self, key: str, amount: float, *, size: float) -> None:
        """Give back what was taken."""
        with self._lock:
            if key in self._buckets:
                left, seen = self._buckets[key]
                self._buckets[key] = (min(size, left + amount), seen)


class SharedBuckets:
    """Buckets in a PostgreSQL database, so that a client has one bucket at all processes.

    What this process alone can refuse, it refuses without asking the database. While the database is gone,
    its own buckets count; nothing can be had without the database then anyway.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._engine = store.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._local = LocalBuckets()
        self._pruned = time.monotonic()

    def take(self, key: str, amount: float, *, rate: float, size: float) -> bool:
        """Take an amount, if the bucket has it."""
        if amount > size or not self._local.take(key, amount, rate=rate, size=size):
            return False
        values = {"key": key, "amount": amount, "rate": rate, "size": size}
        try:
            with self._engine.connect() as connection:
                enough = connection.execute(_TAKE, values).first() is not None
                if time.monotonic() > self._pruned + _PRUNE_SECONDS:
                    self._pruned = time.monotonic()
                    connection.execute(_PRUNE)
        except SQLAlchemyError:
            return True
        return enough

    def give(self, key: str, amount: float, *, size: float) -> None:
        """Give back what was taken."""
        self._local.give(key, amount, size=size)
        try:
            with self._engine.connect() as connection:
                connection.execute(_GIVE, {"key": key, "amount": amount, "size": size})
        except SQLAlchemyError:
            _log.warning("a client's quota could not be given back")


class EvidenceQuota:
    """A bound on what strangers can make the broker keep: each refused evidence stays, with its entry.

    The amount is taken before the evidence is judged and given back if it is accepted. A server whose
    evidence is good never runs out; whoever sends refused evidence all day is told to wait before anything is
    stored.

    Args:
        buckets: Where the amounts are.
        limits: How much.
        folder: Where evidence is kept; None where that is not a folder of this machine.
    """

    def __init__(self, buckets: Buckets, limits: Limits, folder: Path | None) -> None:
        self._buckets = buckets
        self._limits = limits
        self._folder = folder

    def take(self, client: str, size: int) -> None:
        """Take what evidence of this size would need.

        Raises:
            Problem: The client, or all together, had their share of today (429), or the disk is almost full
                (503).
        """
        if self._folder is not None and free_bytes(self._folder) < self._limits.free_disk:
            _log.error("evidence is not taken: the disk of the audit log is almost full")
            raise unavailable("broker.disk", "The broker's disk is almost full; its operator must make room.")
        taken: list[tuple[str, float]] = []
        for key, share in self._shares(client):
            if not self._buckets.take(key, size, rate=share / _DAY, size=share):
                for other, whole in taken:
                    self._buckets.give(other, size, size=whole)
                raise Problem(
                    429,
                    "TooManyRequests",
                    "Too much evidence was refused today; try again later, or tell the broker's operator.",
                    headers={"Retry-After": "3600"},
                )
            taken.append((key, share))

    def give(self, client: str, size: int) -> None:
        """Give it back: the evidence was accepted, or not judged."""
        for key, share in self._shares(client):
            self._buckets.give(key, size, size=share)

    def _shares(self, client: str) -> tuple[tuple[str, float], ...]:
        limits = self._limits
        return (
            (f"evidence:{client}", float(limits.refused_evidence)),
            ("evidence", float(limits.refused_evidence_total)),
        )


def client_of(address: str) -> str:
    """Return who a bucket is for: an address, or the network of 64 bits that an IPv6 host can choose from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:60]
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be written in a folder.

    Raises:
        StorageError: Nobody can say.
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(f"The disk of {folder} cannot be looked at: {error.strerror}.") from error
