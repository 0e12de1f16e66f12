"""Everything that the ledger tells is in a leaf or follows from leaves, and only a daemon appends leaves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ONE_KIND = (
    "(void_reason IS NULL) = (voided_at IS NULL)"
    " AND (superseded_by IS NULL OR superseded_at IS NOT NULL)"
    " AND (void_reason IS NULL OR superseded_at IS NULL)"
)
_RULE = f"CONSTRAINT ck_intents_one_kind CHECK ({_ONE_KIND})"


def upgrade() -> None:
    """Keep what waits beside: the code that opens the ledger adds MACs to it, and then drops that table."""
    if op.get_bind().dialect.name == "sqlite":  # it has no ADD CONSTRAINT, and copying all rows takes minutes
        op.execute(f"ALTER TABLE intents ADD COLUMN policy_client TEXT {_RULE}")
    else:
        op.add_column("intents", sa.Column("policy_client", sa.Text, nullable=True))
        op.execute(f"ALTER TABLE intents ADD {_RULE}")
    _make_queue()
    _number_crl_urls()
    # Superseded by an intent that was then voided, because its request id was taken: by no certificate.
    op.execute(
        "UPDATE intents SET superseded_by = NULL WHERE superseded_by IS NOT NULL AND EXISTS ("
        "SELECT 1 FROM intents AS newer WHERE newer.id = intents.superseded_by"
        " AND newer.void_reason IS NOT NULL)"
    )


def _make_queue() -> None:
    op.rename_table("unlogged", "unlogged_before")
    op.create_table(
        "unlogged",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("intent_id", _ID, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("mac", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_unlogged_0011"),
    )


def _number_crl_urls() -> None:
    op.rename_table("crl_urls", "crl_urls_before")
    op.create_table(
        "crl_urls",
        sa.Column("id", _ID, nullable=False),
        sa.Column("issuer_key_id", sa.LargeBinary, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_crl_urls"),
    )
    op.create_index("ix_crl_urls_url", "crl_urls", ["url"], unique=True)
    op.execute(
        "INSERT INTO crl_urls (issuer_key_id, url, complete)"
        " SELECT issuer_key_id, url, complete FROM crl_urls_before ORDER BY url"
    )
    op.drop_table("crl_urls_before")
