# SPDX-License-Identifier: BSD-3-Clause
"""Grants that need a GPU, and the collateral that a session's evidence was verified with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("grants", sa.Column("gpu", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("sessions", sa.Column("collateral", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Remove them."""
    op.drop_column("sessions", "collateral")
    op.drop_column("grants", "gpu")
