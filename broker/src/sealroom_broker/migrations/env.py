# SPDX-License-Identifier: BSD-3-Clause
"""Alembic's entry: migrations run on the connection that `sealroom_broker.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sealroom_broker.store import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run migrations through sealroom_broker.migrate")
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
