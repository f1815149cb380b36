"""Alembic's environment: migrates over the connection that ``dicom_node.store.upgrade`` hands in."""

from __future__ import annotations

from alembic import context

from dicom_node.store import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
