"""Request ids are those of their clients: two clients may choose the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_NAME = "ix_intents_request"
_WHERE = sa.text("void_reason IS NULL AND superseded_at IS NULL AND request_id <> ''")


def upgrade() -> None:
    """What was unique alone is unique with its client."""
    op.drop_index(_NAME, "intents")
    op.create_index(
        _NAME,
        "intents",
        ["request_id", "client"],
        unique=True,
        sqlite_where=_WHERE,
        postgresql_where=_WHERE,
    )
