# SPDX-License-Identifier: BSD-3-Clause
"""What processes that share a database have in it: the audit log, signing keys, clients' counters.

Indexes by which ended sessions are found are new, too.

A broker with a SQLite file has the log and the keys in files and leaves these tables empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "log_entries",
        sa.Column("index", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("index"),
    )
    op.create_table(
        "log_hashes",
        sa.Column("level", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("index", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "index"),
    )
    op.create_table(
        "evidence",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(length=64), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kid"),
    )
    op.create_table(
        "buckets",
        sa.Column("key", sa.String(length=80), nullable=False),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.Column("seen", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        # What a crash of the server forgets of it, clients may have again; it costs no log of the server's.
        prefixes=["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else [],
    )
    op.create_index("buckets_by_time", "buckets", ["seen"])
    op.create_index("sessions_by_end", "sessions", ["attested_until"])
    op.create_index("sessions_by_nonce", "sessions", ["nonce_until"])


def downgrade() -> None:
    """Remove them, and with them a log that is in the database: export it before."""
    op.drop_index("sessions_by_end", table_name="sessions")
    op.drop_index("sessions_by_nonce", table_name="sessions")
    for table in ("buckets", "signing_keys", "evidence", "log_hashes", "log_entries", "log_head"):
        op.drop_table(table)
