"""Client quotas, denied clients, and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Nobody has had anything that counts yet."""
    op.create_table(
        "quotas",
        sa.Column("id", _ID, nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("taken", sa.BigInteger, nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("day_taken", sa.BigInteger, nullable=False),
        sa.Column("rate_full_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quotas"),
    )
    op.create_index("ix_quotas_client", "quotas", ["client"], unique=True)
    op.add_column("intents", sa.Column("quota_id", sa.BigInteger, nullable=True))
    op.create_table(
        "denied_clients",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("denied_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_denied_clients"),
    )
    op.create_table(
        "events",
        sa.Column("id", _ID, nullable=False),
        sa.Column("happened_at", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("occurrences", sa.BigInteger, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_time", "events", ["happened_at"])
