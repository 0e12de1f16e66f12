"""The shape of a ledger in PostgreSQL, as its catalogs tell it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, text

from otahsm.ledger.shape.findings import Shape
from otahsm.ledger.shape.postgres_hooks import look_at_hooks as _look_at_hooks
from otahsm.ledger.shape.postgres_tables import TablesLook

_WHERE_WE_ARE: Final = text(
    "SELECT pg_catalog.quote_ident(pg_catalog.current_schema()), pg_catalog.current_setting('search_path')"
)
_SET_PATH: Final = text("SELECT pg_catalog.set_config('search_path', :path, true)")


def look(connection: Connection, shape: Shape) -> None:
    """Look at everything."""
    with _seeing_only_catalogs(connection) as schema:
        _look_at_hooks(connection, schema, shape)
        TablesLook(connection, schema, shape).everything()


def look_at_hooks(connection: Connection, shape: Shape) -> None:
    """Look at what may act on a statement, whatever version the ledger's schema has."""
    with _seeing_only_catalogs(connection) as schema:
        _look_at_hooks(connection, schema, shape)


@contextmanager
def _seeing_only_catalogs(connection: Connection) -> Iterator[str]:
    """Let nothing in the ledger's schema answer to a name without one; yields that schema's name, quoted."""
    schema, path = connection.execute(_WHERE_WE_ARE).one()
    connection.execute(_SET_PATH, {"path": "pg_catalog, pg_temp"})
    yield schema
    connection.execute(_SET_PATH, {"path": path})
