"""Earlier results that an archive had: of each report one row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "archive_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("birth_key", sa.String(64), nullable=True),
        sa.Column("sex", sa.String(1), nullable=True),
        sa.Column("acquired_on", sa.Date(), nullable=False),
        sa.Column("written_at", sa.String(32), nullable=False),
        sa.Column("chronological_age_months", sa.Double(), nullable=False),
        sa.Column("bone_age_months", sa.Double(), nullable=False),
        sa.Column("half_width_months", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_archive_results"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_archive_results_sop_instance_uid"),
    )
    op.create_index("ix_archive_results_patient_key", "archive_results", ["patient_key"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("archive_results")
