"""Denied clients, and what clients have used of their quotas."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from otahsm.access import Denied, Use
from otahsm.ledger.schema import denied_clients, quotas


def all_denied(connection: Connection) -> list[Denied]:
    """Return all denials, the oldest first."""
    query = select(denied_clients).order_by(denied_clients.c.denied_at, denied_clients.c.subject)
    return [denied_of(row) for row in connection.execute(query)]


def denied_of(row: Row[Any]) -> Denied:
    """Return the denial of a row."""
    return Denied(row.subject, row.reason, row.client, row.denied_at)


def all_uses(connection: Connection) -> dict[str, Use]:
    """Return the use of every client that is counted, by name."""
    rows = connection.execute(select(quotas))
    return {row.client: Use(row.taken, row.day, row.day_taken, row.rate_full_at) for row in rows}
