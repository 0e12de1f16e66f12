"""Denied clients."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from otahsm.access import Denied
from otahsm.ledger.schema import denied_clients


def all_denied(connection: Connection) -> list[Denied]:
    """Return all denials, the oldest first."""
    query = select(denied_clients).order_by(denied_clients.c.denied_at, denied_clients.c.subject)
    return [denied_of(row) for row in connection.execute(query)]


def denied_of(row: Row[Any]) -> Denied:
    """Return the denial of a row."""
    return Denied(row.subject, row.reason, row.client, row.denied_at)
