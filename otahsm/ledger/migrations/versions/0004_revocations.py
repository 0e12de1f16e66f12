"""Revocations, and the CRLs that tell of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Nothing is revoked yet, and no CRL was made."""
    op.create_table(
        "revocations",
        sa.Column("intent_id", _Id, nullable=False),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("crl_url", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("intent_id", name="pk_revocations"),
        sa.ForeignKeyConstraint(["intent_id"], ["intents.id"], name="fk_revocations_intent_id"),
    )
    op.create_index("ix_revocations_crl_url", "revocations", ["crl_url"])
    op.create_table(
        "crl_urls",
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("url", name="pk_crl_urls"),
    )
    op.create_table(
        "crls",
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.Column("next_update", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("url", name="pk_crls"),
    )
    op.create_table(
        "crl_numbers",
        sa.Column("issuer_key_id", sa.LargeBinary, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("issuer_key_id", name="pk_crl_numbers"),
    )
