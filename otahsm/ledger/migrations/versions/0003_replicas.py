"""Several daemons on one ledger: each holds a place, and what it leaves open is known by it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """What there is was written from place 1."""
    op.add_column("intents", sa.Column("place", sa.Integer, nullable=False, server_default="1"))
    op.create_table(
        "replicas",
        sa.Column("place", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("closed_below", _Id, nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_replicas"),
    )
    op.execute("INSERT INTO replicas SELECT 1, closed_below FROM progress")
    op.drop_table("progress")
