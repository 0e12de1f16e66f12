"""CRLs of several CAs: which CA a URL and a CRL are of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# Until now a ledger had one CA; without any certificate or CRL of it, the URLs will be noted again.
_TAKE_OVER = """
INSERT INTO crl_urls SELECT ca.id, url, complete FROM crl_urls_of_one, (
    SELECT coalesce(
        (SELECT issuer_key_id FROM crl_numbers LIMIT 1), (SELECT issuer_key_id FROM intents LIMIT 1)
    ) AS id
) AS ca WHERE ca.id IS NOT NULL
"""


def upgrade() -> None:
    """Give every URL to the CA that the ledger has. CRLs are made anew: their numbers go on."""
    op.rename_table("crl_urls", "crl_urls_of_one")
    op.create_table(
        "crl_urls",
        sa.Column("issuer_key_id", sa.LargeBinary, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("url", name="pk_crl_urls_0008"),
    )
    op.execute(_TAKE_OVER)
    op.drop_table("crl_urls_of_one")
    _make_crls(sa.Column("issuer_key_id", sa.LargeBinary, nullable=False))


def _make_crls(*of_which_ca: sa.Column[bytes]) -> None:
    """Make the table of CRLs anew, with a column for their CA or without."""
    op.drop_table("crls")
    op.create_table(
        "crls",
        *of_which_ca,
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.Column("next_update", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint(*(column.name for column in of_which_ca), "url", name="pk_crls"),
    )
