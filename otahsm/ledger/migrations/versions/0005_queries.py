"""Queries: indexes over what was voided, which issuing does not touch."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_voided = sa.text("void_reason IS NOT NULL")
_INDEXES = {"ix_intents_void": "serial", "ix_intents_void_device": "device_id"}


def upgrade() -> None:
    """Make them; what is voided already goes in."""
    for name, column in _INDEXES.items():
        op.create_index(name, "intents", [column], sqlite_where=_voided, postgresql_where=_voided)
