"""What shadow methods say: recorded beside the findings, never sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "shadow_findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("age_months", sa.Double(), nullable=True),
        sa.Column("refusal_code", sa.String(64), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("milliseconds", sa.Double(), nullable=False),
        sa.Column("interpreted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name="fk_shadow_findings_instance_id_instances"),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name="fk_shadow_findings_revision_id_revisions"),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_findings"),
        sa.UniqueConstraint(
            "instance_id", "revision_id", "method", name="uq_shadow_findings_instance_id_revision_id_method"
        ),
    )
    op.create_index("ix_shadow_findings_method", "shadow_findings", ["method"])


def downgrade() -> None:
    """Take back."""
    op.drop_table("shadow_findings")
