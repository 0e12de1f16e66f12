"""Batches: orders of a number of certificates, in which intents take places."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nothing is in a batch yet."""
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("device_count", sa.BigInteger, nullable=False),
        sa.Column("scheme", sa.Text, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=True),
        sa.Column("clients", sa.Text, nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("closed_at", sa.BigInteger, nullable=True),
        sa.Column("taken", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_name", "batches", ["name"], unique=True)
    op.add_column("intents", sa.Column("batch_id", sa.BigInteger, nullable=True))
    op.create_index(
        "ix_intents_batch",
        "intents",
        ["batch_id", "serial"],
        sqlite_where=sa.text("batch_id IS NOT NULL"),
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
