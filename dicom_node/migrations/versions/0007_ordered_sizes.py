"""Heights and weights out of orders: of each finding one row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "ordered_sizes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False),
        sa.Column("metres", sa.Double(), nullable=True),
        sa.Column("kilograms", sa.Double(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name="fk_ordered_sizes_finding_id_findings"),
        sa.PrimaryKeyConstraint("id", name="pk_ordered_sizes"),
        sa.UniqueConstraint("finding_id", name="uq_ordered_sizes_finding_id"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("ordered_sizes")
