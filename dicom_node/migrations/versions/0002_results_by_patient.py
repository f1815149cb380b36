"""Results by patient, so that later films find earlier ones; kinds of documents with longer names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("birth_key", sa.String(64), nullable=True),
        sa.Column("sex", sa.String(1), nullable=True),
        sa.Column("acquired_on", sa.Date(), nullable=False),
        sa.Column("chronological_age_months", sa.Double(), nullable=False),
        sa.Column("bone_age_months", sa.Double(), nullable=False),
        sa.Column("half_width_months", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name="fk_results_finding_id_findings"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_results_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.UniqueConstraint("finding_id", name="uq_results_finding_id"),
    )
    op.create_index("ix_results_patient_key", "results", ["patient_key"])
    with op.batch_alter_table("documents") as documents:
        documents.alter_column("kind", existing_type=sa.String(2), type_=sa.String(16), existing_nullable=False)


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("documents") as documents:
        documents.alter_column("kind", existing_type=sa.String(16), type_=sa.String(2), existing_nullable=False)
    op.drop_table("results")
