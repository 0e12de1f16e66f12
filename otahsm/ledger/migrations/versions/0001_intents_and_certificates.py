"""The first tables: intents, written before signing, and certificates, written before release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_live = sa.text("void_reason IS NULL")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "intents",
        sa.Column("id", _Id, nullable=False),
        sa.Column("serial", sa.LargeBinary(20), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("tbs_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("issuer_key_id", sa.LargeBinary, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("client_certificate_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("intended_at", sa.BigInteger, nullable=False),
        sa.Column("void_reason", sa.Text, nullable=True),
        sa.Column("voided_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_intents"),
    )
    op.create_index("ix_intents_serial", "intents", ["serial"], unique=True)
    for name, columns in (
        ("ix_intents_device", ["device_id", "profile"]),
        ("ix_intents_request", ["request_id"]),
        ("ix_intents_key", ["spki_sha256", "profile"]),
    ):
        op.create_index(name, "intents", columns, unique=True, sqlite_where=_live, postgresql_where=_live)
    op.create_table(
        "certificates",
        sa.Column("intent_id", _Id, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("intent_id", name="pk_certificates"),
        sa.ForeignKeyConstraint(["intent_id"], ["intents.id"], name="fk_certificates_intent_id"),
    )
