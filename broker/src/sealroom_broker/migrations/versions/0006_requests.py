# SPDX-License-Identifier: BSD-3-Clause
"""People's requests for access, and whose a release is.

Releases of sessions that are known still get their person; older ones have none and are not shown to anybody
as their own.
"""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and say whose the releases are."""
    op.create_table(
        "access_requests",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("dataset", sa.String(length=128), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("person", sa.JSON(), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("server", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("audit_index", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("answered", sa.DateTime(), nullable=True),
        sa.Column("answered_by", sa.String(), nullable=False),
        sa.Column("grant", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("access_requests_by_holder", "access_requests", ["holder", "state"])
    op.create_index("access_requests_by_dataset", "access_requests", ["dataset", "state"])
    with op.batch_alter_table("releases") as table:
        table.add_column(sa.Column("holder", sa.String(length=64), nullable=False, server_default=""))
    op.create_index("releases_by_holder", "releases", ["holder", "audit_index"])
    _fill_in()


def _fill_in() -> None:
    connection = op.get_bind()
    sessions = sa.table("sessions", *map(sa.column, ("id", "issuer", "subject")))
    releases = sa.table("releases", *map(sa.column, ("session", "holder")))
    known = sa.select(sessions).where(
        sessions.c.issuer.is_not(None),
        sessions.c.subject.is_not(None),
        sessions.c.id.in_(sa.select(releases.c.session)),
    )
    for row in connection.execute(known).all():
        holder = hashlib.sha256(json.dumps([row.issuer, row.subject]).encode()).hexdigest()
        connection.execute(releases.update().where(releases.c.session == row.id).values(holder=holder))


def downgrade() -> None:
    """Remove them; the log keeps what was asked and answered."""
    op.drop_index("releases_by_holder", table_name="releases")
    with op.batch_alter_table("releases") as table:
        table.drop_column("holder")
    op.drop_table("access_requests")
