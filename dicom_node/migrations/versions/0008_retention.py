"""Retention: hashes by which an object is known again once its file is gone, and when a file was removed on purpose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    for name in ("sha256", "picture_sha256", "header_sha256"):
        op.add_column("instances", sa.Column(name, sa.String(64), nullable=True))
    for table in ("instances", "documents"):
        op.add_column(table, sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table("documents") as documents:
        documents.drop_column("purged_at")
    with op.batch_alter_table("instances") as instances:
        for name in ("purged_at", "header_sha256", "picture_sha256", "sha256"):
            instances.drop_column(name)
