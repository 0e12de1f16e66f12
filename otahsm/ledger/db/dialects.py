"""The differences between SQLite and PostgreSQL. All other SQL is the same for both."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Dialect,
    FromClause,
    Insert,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

LOCK_NAMESPACE: Final = 0x6F746168  # "otah": the first key of our advisory locks
_AMONG_MANY: Final = text(f"SELECT pg_advisory_xact_lock_shared({LOCK_NAMESPACE})")
_SEQUENCER: Final = text(f"SELECT pg_try_advisory_xact_lock({LOCK_NAMESPACE}, 0)")  # slots start at 1
_ALONE: Final = text(f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE})")
_EVENTS: Final = text(f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE}, -1)")


def begin(connection: Connection, *, closing: bool, with_events: bool = False) -> None:
    """Begin a transaction, with a shared lock to write intents and certificates, or an exclusive one to void.

    SQLite has one writer anyway. In PostgreSQL, a transaction doesn't see what others have not committed, so
    without the lock one replica could void an intent while another records its certificate. One transaction
    at a time writes events, so that a reader never sees an event before another that gets a lower id. It
    takes that lock before it locks any row, to avoid deadlocks.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE if closing else _AMONG_MANY)
        if with_events:
            connection.execute(_EVENTS)


def lock_events(connection: Connection) -> None:
    """Take the lock to write events late, which may cost one of two transactions a retry: a rare event's."""
    if connection.dialect.name == "postgresql":
        connection.execute(_EVENTS)


def try_to_sequence(connection: Connection) -> bool:
    """Try to lock the tree for appending until the transaction ends; return whether that succeeded.

    It never blocks, to avoid deadlocks. It does not block transactions that write certificates; see
    `otahsm.ledger.tree.sequencer`.
    """
    return connection.dialect.name != "postgresql" or bool(connection.execute(_SEQUENCER).scalar())


def insert_into(table: Table, dialect: Dialect) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that supports ON CONFLICT, which SQLAlchemy only has per dialect."""
    return (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)


class _Ids(TypeDecorator[Collection[int]]):
    """Any number of ids in one parameter."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return ARRAY(BigInteger()) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Collection[int] | None, dialect: Dialect) -> Any:
        ids = list(value or ())
        if dialect.name == "postgresql":
            return ids
        return json.dumps(ids, default=str)  # a tampered SQLite ledger may contain other types


class Among(FunctionElement[bool]):
    """The condition that a column is one of the ids in the parameter `ids`, which are looked up one by one.

    With a parameter per id, compiling the statement would take longer than finding the rows.
    """

    name = "among"
    inherit_cache = True

    def __init__(self, column: ColumnElement[int]) -> None:
        super().__init__(column, bindparam("ids", type_=_Ids()))


@compiles(Among, "sqlite")
def _among_in_sqlite(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 - made of compiled parts


@compiles(Among, "postgresql")
def _among_in_postgresql(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, ids = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY ({ids})"


def columns_given(table: Table, names: Sequence[str], dialect: Dialect) -> FromClause:
    """Return a source of the rows passed to `write_rows`, with columns named like the table's.

    PostgreSQL takes all rows in one statement, as an array per column; SQLite, which needs no round trip,
    takes one row at a time.
    """
    if dialect.name == "postgresql":
        arrays = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in names]
        return func.unnest(*arrays).table_valued(*names, name="given").render_derived()
    row: list[ColumnElement[Any]] = [bindparam(name, type_=table.c[name].type).label(name) for name in names]
    return select(*row).subquery("given")


def write_rows(
    connection: Connection, statement: Insert, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> int:
    """Run a statement over `columns_given`; return the number of rows written.

    Args:
        connection: in a transaction.
        statement: an INSERT from `columns_given`.
        names: its columns.
        rows: values in the order of the names; at least one row.
    """
    if connection.dialect.name == "postgresql":
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        written = connection.execute(statement, columns, execution_options={"preserve_rowcount": True})
        return written.rowcount
    text_for_driver, order = _for_driver(statement, connection.dialect)
    positions = [names.index(name) for name in order]
    ordered = [tuple(row[position] for position in positions) for row in rows]
    return connection.exec_driver_sql(text_for_driver, ordered).rowcount


@lru_cache(maxsize=8)
def _for_driver(statement: Insert, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """Return a statement's text for the driver, and the names of its parameters in order.

    SQLAlchemy's own handling of many rows takes longer than SQLite itself.
    """
    compiled = statement.compile(dialect=dialect)
    return str(compiled), compiled.positiontup or ()
