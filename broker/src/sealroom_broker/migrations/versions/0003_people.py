# SPDX-License-Identifier: BSD-3-Clause
"""People of several issuers: who says who somebody is, visas, the end of logins, logins to pages, scopes.

Grants of the first schema name no issuer; the broker gives them the one that it knows when it starts
(`sealroom_broker.registry.adopt_issuer`). Its sessions have no end of the login, which means that the login
is presented again. Its tokens are those of owners.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("email", sa.String(), nullable=True))
        table.add_column(sa.Column("visas", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("login_until", sa.DateTime(), nullable=True))
    with op.batch_alter_table("grants") as table:
        table.add_column(sa.Column("visa", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("issuer", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("owner_tokens") as table:
        table.add_column(sa.Column("scope", sa.String(length=16), nullable=False, server_default="owner"))
        table.add_column(sa.Column("datasets", sa.JSON(none_as_null=True), nullable=True))
        table.add_column(sa.Column("expires", sa.DateTime(), nullable=True))
    op.create_table(
        "logins",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Remove them; grants to visas are withdrawn, and tokens that may do less than an owner are forgotten."""
    op.drop_table("logins")
    op.execute(
        "DELETE FROM owner_tokens WHERE scope <> 'owner' OR datasets IS NOT NULL OR expires IS NOT NULL"
    )
    op.execute("UPDATE grants SET withdrawn = CURRENT_TIMESTAMP WHERE visa <> '' AND withdrawn IS NULL")
    with op.batch_alter_table("owner_tokens") as table:
        for name in ("expires", "datasets", "scope"):
            table.drop_column(name)
    # Not in a batch, which would make the table anew: releases refer to it.
    for name in ("issuer", "visa"):
        op.drop_column("grants", name)
    with op.batch_alter_table("sessions") as table:
        for name in ("login_until", "visas", "email"):
            table.drop_column(name)
