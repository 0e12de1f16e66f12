"""What can't be undone is counted, and what exceeds a quota is held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_DECIDED = (
    "(decision IS NULL) = (decided_at IS NULL)"
    " AND (decision IS NULL) = (decided_by IS NULL)"
    " AND (decision IS NULL) = (decided_policy_client IS NULL)"
    " AND (decision IS NULL) = (done IS NULL)"
    " AND (break_glass IS NULL OR decision IS NOT NULL)"
)


def upgrade() -> None:
    """What was done before counts in no quota."""
    op.create_table(
        "acts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("act", sa.String(16), nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("policy_client", sa.Text, nullable=False),
        sa.Column("certificate_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("decision", sa.String(16), nullable=True),
        sa.Column("decided_at", sa.BigInteger, nullable=True),
        sa.Column("decided_by", sa.Text, nullable=True),
        sa.Column("decided_policy_client", sa.Text, nullable=True),
        sa.Column("done", sa.BigInteger, nullable=True),
        sa.Column("break_glass", sa.Text, nullable=True),
        sa.CheckConstraint(_DECIDED, name=op.f("ck_acts_decided")),
        sa.PrimaryKeyConstraint("id", name="pk_acts"),
    )
    op.create_index("ix_acts_time", "acts", ["requested_at"])
