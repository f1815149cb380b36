"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    "nodes",
    "studies",
    "events",
    "revisions",
    "series",
    "instances",
    "findings",
    "documents",
    "deliveries",
    "commitment_requests",
)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    # What UtcDateTime is in the database; migrations do not import the models, which move on.
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _uid(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.String(64), nullable=nullable)


def _create_nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("incarnation", sa.String(64), nullable=False),
        _time("started_at"),
        _time("heartbeat_at"),
        _time("stopped_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )


def _create_studies() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        _uid("study_instance_uid"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        _time("first_received_at"),
        _time("last_received_at"),
        _time("ready_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
    )
    op.create_index("ix_studies_ready_at", "studies", ["ready_at"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        _time("at"),
        sa.Column("node_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        _uid("sop_instance_uid", nullable=True),
        sa.Column("peer", sa.String(64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_events_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_study_id", "events", ["study_id"])


def _create_revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        _time("assembled_at"),
        _time("updated_at"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_revisions_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_revisions"),
        sa.UniqueConstraint("study_id", "number", name="uq_revisions_study_id_number"),
    )
    op.create_index("ix_revisions_state", "revisions", ["state"])


def _create_series() -> None:
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        _uid("series_instance_uid"),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_series_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("study_id", "series_instance_uid", name="uq_series_study_id_series_instance_uid"),
    )
    op.create_index("ix_series_study_id", "series", ["study_id"])


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        _uid("sop_instance_uid"),
        _uid("sop_class_uid"),
        _uid("transfer_syntax_uid"),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _time("received_at"),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("association_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_instances_series_id_series"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_instances_study_id_studies"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_instances_sop_instance_uid"),
    )
    op.create_index("ix_instances_association_id", "instances", ["association_id"])
    op.create_index("ix_instances_series_id", "instances", ["series_id"])
    op.create_index("ix_instances_study_id_revision", "instances", ["study_id", "revision"])


def _create_findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("age_months", sa.Double(), nullable=True),
        sa.Column("refusal_code", sa.String(64), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        _time("interpreted_at"),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name="fk_findings_instance_id_instances"),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name="fk_findings_revision_id_revisions"),
        sa.PrimaryKeyConstraint("id", name="pk_findings"),
        sa.UniqueConstraint("instance_id", "revision_id", name="uq_findings_instance_id_revision_id"),
    )
    op.create_index("ix_findings_instance_id", "findings", ["instance_id"])
    op.create_index("ix_findings_revision_id", "findings", ["revision_id"])


def _create_documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("finding_id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(2), nullable=False),
        _uid("sop_class_uid"),
        _uid("sop_instance_uid"),
        _uid("series_instance_uid"),
        sa.Column("path", sa.String(255), nullable=False),
        _time("created_at"),
        _time("verified_at", nullable=True),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name="fk_documents_finding_id_findings"),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name="fk_documents_revision_id_revisions"),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        sa.UniqueConstraint("finding_id", "kind", name="uq_documents_finding_id_kind"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_documents_sop_instance_uid"),
    )
    op.create_index("ix_documents_finding_id", "documents", ["finding_id"])
    op.create_index("ix_documents_revision_id", "documents", ["revision_id"])


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("document_id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("commitment", sa.String(16), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _time("failing_since", nullable=True),
        _time("due_at", nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        _time("sent_at", nullable=True),
        _time("commitment_requested_at", nullable=True),
        sa.Column("commitment_failures", sa.Integer(), nullable=False),
        _time("committed_at", nullable=True),
        _time("updated_at"),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name="fk_deliveries_document_id_documents"),
        sa.ForeignKeyConstraint(["revision_id"], ["revisions.id"], name="fk_deliveries_revision_id_revisions"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("document_id", "peer", name="uq_deliveries_document_id_peer"),
    )
    op.create_index("ix_deliveries_due_at", "deliveries", ["due_at"])
    op.create_index("ix_deliveries_revision_id", "deliveries", ["revision_id"])
    op.create_index("ix_deliveries_state", "deliveries", ["state"])


def _create_commitment_requests() -> None:
    op.create_table(
        "commitment_requests",
        _uid("transaction_uid"),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        _time("requested_at"),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_commitment_requests_delivery_id_deliveries"
        ),
        sa.PrimaryKeyConstraint("transaction_uid", "delivery_id", name="pk_commitment_requests"),
    )


def upgrade() -> None:
    """Create every table."""
    _create_nodes()
    _create_studies()
    _create_events()
    _create_revisions()
    _create_series()
    _create_instances()
    _create_findings()
    _create_documents()
    _create_deliveries()
    _create_commitment_requests()


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in reversed(TABLES):
        op.drop_table(table)
