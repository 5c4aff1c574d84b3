# SPDX-License-Identifier: BSD-3-Clause
"""An end to the waiting for a PostgreSQL server that hangs.

The server's own limits (`statement_timeout`, `lock_timeout`) end nothing where the server itself stands
still: its machine is paused, or its disk does not answer. Its kernel goes on to acknowledge what is sent, so
that TCP's limits do not help either. A connection that waited longer than its patience is given up, and what
was asked fails.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Engine, event

R = TypeVar("R")


def be_patient(engine: Engine, seconds: float) -> None:
    """Make an engine's connections give up a server that does not answer a statement for some time.

    Args:
        engine: An engine with psycopg as its driver, not yet connected.
        seconds: How long; more than the server's own limit, which leaves the connection usable.
    """
    # Here, because the driver is an extra of this distribution.
    import psycopg

    class Patient(psycopg.Connection[Any]):
        """A connection with an end to its waiting."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            """Wait for an answer."""
            try:
                return super().wait(gen, interval, seconds if timeout is None else min(timeout, seconds))
            except psycopg.errors.OperationalError:
                if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    # Nobody knows what is still to come through it.
                    self.pgconn.finish()
                raise

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _entry: Any, arguments: Any, parameters: Any) -> Any:
        return Patient.connect(*arguments, **parameters)
