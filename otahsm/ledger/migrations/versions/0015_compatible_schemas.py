"""Which older otahsm may use a newer schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Nothing may: older versions don't look."""
    op.create_table(
        "compatible_schemas",
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("usable_since", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_compatible_schemas"),
    )
