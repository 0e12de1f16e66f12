"""Renewal: an intent may be superseded by a newer one of the same device; its key stays the device's."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Nothing is superseded yet."""
    op.add_column("intents", sa.Column("superseded_at", sa.BigInteger, nullable=True))
    op.add_column("intents", sa.Column("superseded_by", sa.BigInteger, nullable=True))
    live = "void_reason IS NULL AND superseded_at IS NULL"
    _index("ix_intents_device", ["device_id", "profile"], live)
    _index("ix_intents_request", ["request_id"], f"{live} AND request_id <> ''")
    _index("ix_intents_key", ["spki_sha256"], "void_reason IS NULL", unique=False)
    op.create_index(
        "ix_intents_superseded",
        "intents",
        ["superseded_by"],
        sqlite_where=sa.text("superseded_by IS NOT NULL"),
        postgresql_where=sa.text("superseded_by IS NOT NULL"),
    )
    op.create_index(
        "ix_intents_superseded_device",
        "intents",
        ["device_id"],
        sqlite_where=sa.text("superseded_at IS NOT NULL"),
        postgresql_where=sa.text("superseded_at IS NOT NULL"),
    )


def _index(name: str, columns: list[str], where: str, *, unique: bool = True) -> None:
    op.drop_index(name, "intents")
    op.create_index(
        name, "intents", columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
