"""Renewals are leaves: which intent was written to supersede which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Say it of the renewals that there are; the code that opens the ledger gives them leaves."""
    op.add_column("intents", sa.Column("supersedes", sa.BigInteger, nullable=True))
    # What was superseded by an intent that then failed is superseded by none.
    op.execute(
        "UPDATE intents SET superseded_by = NULL WHERE superseded_by IN ("
        "SELECT newer.id FROM intents AS newer WHERE newer.void_reason IS NOT NULL)"
    )
    op.execute(
        "UPDATE intents SET supersedes = ("
        "SELECT min(older.id) FROM intents AS older WHERE older.superseded_by = intents.id)"
        " WHERE id IN (SELECT superseded_by FROM intents WHERE superseded_by IS NOT NULL)"
    )
    # At first it was the time of the first intent of the transaction.
    op.execute(
        "UPDATE intents SET superseded_at = ("
        "SELECT newer.intended_at FROM intents AS newer WHERE newer.id = intents.superseded_by)"
        " WHERE superseded_by IN ("
        "SELECT newer.id FROM intents AS newer WHERE newer.policy_client IS NULL)"
    )
