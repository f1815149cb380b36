"""What an archive had of earlier results, frozen for each finding; refusals among it, and which image each read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_KNOWN_LINKS = """
INSERT INTO archive_priors (finding_id, archive_result_id)
SELECT results.finding_id, archive_results.id FROM results
JOIN archive_results ON archive_results.patient_key = results.patient_key
WHERE archive_results.acquired_on < results.acquired_on
"""
_KNOWN_ANSWERS = """
INSERT INTO priors_asked (finding_id, answered, asked_at)
SELECT findings.id, NOT EXISTS (
    SELECT 1 FROM events WHERE events.kind = 'priors-unasked'
    AND events.study_id = revisions.study_id AND events.revision = revisions.number
), findings.interpreted_at
FROM findings JOIN revisions ON revisions.id = findings.revision_id
WHERE EXISTS (SELECT 1 FROM documents WHERE documents.finding_id = findings.id)
"""


def upgrade() -> None:
    """Apply. What was composed already keeps what it was composed of."""
    op.create_table(
        "priors_asked",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name="fk_priors_asked_finding_id_findings"),
        sa.PrimaryKeyConstraint("id", name="pk_priors_asked"),
        sa.UniqueConstraint("finding_id", name="uq_priors_asked_finding_id"),
    )
    op.create_table(
        "archive_priors",
        sa.Column("finding_id", sa.Integer(), nullable=False),
        sa.Column("archive_result_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name="fk_archive_priors_finding_id_findings"),
        sa.ForeignKeyConstraint(
            ["archive_result_id"], ["archive_results.id"], name="fk_archive_priors_archive_result_id_archive_results"
        ),
        sa.PrimaryKeyConstraint("finding_id", "archive_result_id", name="pk_archive_priors"),
    )
    with op.batch_alter_table("archive_results") as results:
        results.add_column(sa.Column("image_uid", sa.String(64), nullable=True))
        results.alter_column("chronological_age_months", existing_type=sa.Double(), nullable=True)
        results.alter_column("bone_age_months", existing_type=sa.Double(), nullable=True)
    op.execute(_KNOWN_LINKS)
    op.execute(_KNOWN_ANSWERS)


def downgrade() -> None:
    """Take back."""
    op.drop_table("archive_priors")
    op.drop_table("priors_asked")
    op.execute("DELETE FROM archive_results WHERE bone_age_months IS NULL OR chronological_age_months IS NULL")
    with op.batch_alter_table("archive_results") as results:
        results.alter_column("bone_age_months", existing_type=sa.Double(), nullable=False)
        results.alter_column("chronological_age_months", existing_type=sa.Double(), nullable=False)
        results.drop_column("image_uid")
