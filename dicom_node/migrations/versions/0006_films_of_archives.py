"""Earlier films of archives that were read for comparison only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "archive_films",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("age_months", sa.Double(), nullable=True),
        sa.Column("refusal_code", sa.String(64), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("interpreted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_films"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_archive_films_sop_instance_uid"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("archive_films")
