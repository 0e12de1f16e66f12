"""Tamper evidence: a Merkle tree over what was recorded and voided, and signed checkpoints of it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables; what the ledger holds waits to become leaves, in the order of its intents."""
    unlogged = op.create_table(
        "unlogged",
        sa.Column("id", _Id, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("intent_id", _Id, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_unlogged"),
    )
    op.create_table(
        "leaves",
        sa.Column("leaf_index", _Id, nullable=False, autoincrement=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("intent_id", _Id, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("leaf_index", name="pk_leaves"),
    )
    op.create_index("ix_leaves_entry", "leaves", ["intent_id", "kind"], unique=True)
    op.create_table(
        "nodes",
        sa.Column("level", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("number", _Id, nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_nodes"),
    )
    tree = op.create_table(
        "tree",
        sa.Column("size", _Id, nullable=False, autoincrement=False),
        sa.Column("peaks", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_tree"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", _Id, nullable=False, autoincrement=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_checkpoints"),
    )
    op.bulk_insert(tree, [{"size": 0, "peaks": b""}])
    intents = sa.table("intents", sa.column("id"), sa.column("void_reason"))
    certificates = sa.table("certificates", sa.column("intent_id"))
    recorded = sa.select(sa.literal_column("1"), certificates.c.intent_id).order_by(certificates.c.intent_id)
    voided = (
        sa.select(sa.literal_column("2"), intents.c.id)
        .where(intents.c.void_reason.is_not(None))
        .order_by(intents.c.id)
    )
    revocations = sa.table("revocations", sa.column("intent_id"))
    revoked = sa.select(sa.literal_column("3"), revocations.c.intent_id).order_by(revocations.c.intent_id)
    for entries in (recorded, voided, revoked):
        op.execute(sa.insert(unlogged).from_select(["kind", "intent_id"], entries))
