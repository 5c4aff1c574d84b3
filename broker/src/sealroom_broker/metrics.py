# SPDX-License-Identifier: BSD-3-Clause
"""Counts for Prometheus: requests, refusals by reason, releases, durations, sessions, the wrapping key.

Labels are names of calls, HTTP methods, statuses and reason codes: closed sets without personal data. The
counts are of this process; Prometheus adds those of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sealroom.errors import Error
from sqlalchemy import func, select

from sealroom_broker import __version__
from sealroom_broker.audit import Record
from sealroom_broker.store import DatasetRow, GrantRow, SessionRow, Store
from sealroom_broker.wrap import Chain

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RELEASING = {"release": "dataset", "resource": "resource"}
"""Call -> what it releases."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_KEK_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)


class Metrics:
    """The counts of one broker process.

    Args:
        mode: The broker's mode.
    """

    def __init__(self, mode: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "sealroom_broker_requests", "Requests by call.", ("call", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "sealroom_broker_request_seconds", "Duration.", ("call",), buckets=_SECONDS, registry=registry
        )
        self._refusals = Counter(
            "sealroom_broker_refusals", "Refusals by reason.", ("code",), registry=registry
        )
        self._releases = Counter("sealroom_broker_releases", "Releases.", ("kind",), registry=registry)
        self._kek_seconds = Histogram(
            "sealroom_broker_kek_seconds",
            "Duration of what the key-encryption key's keeper was asked.",
            ("provider", "operation"),
            buckets=_KEK_SECONDS,
            registry=registry,
        )
        self._kek_failures = Counter(
            "sealroom_broker_kek_failures",
            "What the key-encryption key's keeper did not do.",
            ("provider", "operation"),
            registry=registry,
        )
        build = Info("sealroom_broker_build", "This broker.", registry=registry)
        build.info({"version": __version__, "mode": mode})

    def observe(self, call: str, method: str, status: int, seconds: float, codes: Sequence[str]) -> None:
        """Count a request that was answered.

        Args:
            call: Name of what served it; empty if nothing did.
            method: Its HTTP method.
            status: The answer's status.
            seconds: From its begin to its end.
            codes: Reasons that were given.
        """
        call = call or "none"
        self._requests.labels(call, method if method in _METHODS else "other", str(status)).inc()
        self._seconds.labels(call).observe(seconds)
        for code in codes:
            self._refusals.labels(code).inc()
        if status == 200 and call in _RELEASING:
            self._releases.labels(_RELEASING[call]).inc()

    def watch(self, store: Store, record: Record, clock: Callable[[], datetime]) -> None:
        """Show how many sessions, datasets, grants and entries there are, asked for at each scrape."""
        self.registry.register(_State(store, record, clock))

    def watch_kek(self, wrap: Chain) -> None:
        """Count what the key-encryption key is used for, and show when the permission to use it ends."""

        def observe(provider: str, operation: str, seconds: float, good: bool) -> None:
            self._kek_seconds.labels(provider, operation).observe(seconds)
            if not good:
                self._kek_failures.labels(provider, operation).inc()

        wrap.observer = observe
        self.registry.register(_Permission(wrap))

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)


class _Permission(Collector):
    """How long the broker may still use its key-encryption key; nothing where that has no end."""

    def __init__(self, wrap: Chain) -> None:
        self._wrap = wrap

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return what is known, without asking anybody."""
        left = self._wrap.ends()
        if left is None:
            return ()
        words = "Seconds until the token ends with which the key-encryption key is used."
        return (GaugeMetricFamily("sealroom_broker_kek_token_seconds", words, left),)


class _State(Collector):
    """What the database knows. Where it cannot be asked, the values are missing and not wrong."""

    def __init__(self, store: Store, record: Record, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._record = record
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Ask the database."""
        now, up = self._clock(), GaugeMetricFamily("sealroom_broker_database_up", "The database answers.")
        sessions = GaugeMetricFamily("sealroom_broker_sessions", "Sessions by state.", labels=("state",))
        others = []
        try:
            with self._store.read() as session:
                count = func.count()
                total = session.scalar(select(count).select_from(SessionRow)) or 0
                query = select(count).select_from(SessionRow).where(SessionRow.attested_until > now)
                attested = session.scalar(query) or 0
                for name, table in (("datasets", DatasetRow), ("grants", GrantRow)):
                    value = session.scalar(select(count).select_from(table)) or 0
                    others.append(GaugeMetricFamily(f"sealroom_broker_{name}", f"Known {name}.", value))
            entries = self._record.log.size
        except Error:
            up.add_metric((), 0)
            return (up,)
        up.add_metric((), 1)
        sessions.add_metric(("attested",), attested)
        sessions.add_metric(("other",), total - attested)
        others.append(GaugeMetricFamily("sealroom_broker_log_entries", "Entries of the audit log.", entries))
        return (up, sessions, *others)
