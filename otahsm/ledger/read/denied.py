"""Who is cut off."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from otahsm.access import Denied
from otahsm.ledger.schema import denied_clients


def all_denied(connection: Connection) -> list[Denied]:
    """Return everybody who is cut off, in the order in which that happened."""
    query = select(denied_clients).order_by(denied_clients.c.denied_at, denied_clients.c.subject)
    return [denied_of(row) for row in connection.execute(query)]


def denied_of(row: Row[Any]) -> Denied:
    """Make who is cut off of the row that says so."""
    return Denied(row.subject, row.reason, row.client, row.denied_at)
