# SPDX-License-Identifier: BSD-3-Clause
"""Grants with more terms, projects that can be halted, the end of permits and destroyed keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    # Not in batches: those make a table anew where they drop a column, and others refer to these two.
    no = sa.false()
    op.add_column("grants", sa.Column("servers", sa.Integer(), nullable=True))
    op.add_column("grants", sa.Column("outputs", sa.Boolean(), nullable=False, server_default=no))
    op.add_column("grants", sa.Column("project", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("grants", sa.Column("dataset_key", sa.Boolean(), nullable=False, server_default=no))
    op.add_column("datasets", sa.Column("keep_until", sa.DateTime(), nullable=True))
    op.add_column("datasets", sa.Column("destroyed", sa.DateTime(), nullable=True))
    op.create_table(
        "projects",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("halted", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("releases_by_grant", "releases", ["grant", "ended"])


def downgrade() -> None:
    """Remove them. Nothing opens by that.

    What an older broker could not hold to is withdrawn: grants with a bound on servers, and those of halted
    projects. Grants end with the permit of their dataset. A key that was destroyed stays destroyed.
    """
    op.execute(
        "UPDATE grants SET withdrawn = CURRENT_TIMESTAMP, version = version + 1 WHERE withdrawn IS NULL AND "
        "(servers IS NOT NULL OR project IN (SELECT name FROM projects WHERE halted))"
    )
    op.execute(
        "UPDATE grants SET version = version + 1, "
        "until = (SELECT keep_until FROM datasets WHERE datasets.id = grants.dataset) "
        "WHERE EXISTS (SELECT 1 FROM datasets WHERE datasets.id = grants.dataset "
        "AND (grants.until IS NULL OR grants.until > datasets.keep_until))"
    )
    op.drop_index("releases_by_grant", table_name="releases")
    op.drop_table("projects")
    for name in ("destroyed", "keep_until"):
        op.drop_column("datasets", name)
    for name in ("dataset_key", "project", "outputs", "servers"):
        op.drop_column("grants", name)
