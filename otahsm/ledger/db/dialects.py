"""Where SQLite and PostgreSQL differ. All else in SQL is the same for both."""

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

LOCK_NAMESPACE: Final = 0x6F746168  # "otah": the key of our advisory locks
_AMONG_MANY: Final = text(f"SELECT pg_advisory_xact_lock_shared({LOCK_NAMESPACE})")
_SEQUENCER: Final = text(f"SELECT pg_try_advisory_xact_lock({LOCK_NAMESPACE}, 0)")  # slots begin at 1
_ALONE: Final = text(f"SELECT pg_advisory_xact_lock({LOCK_NAMESPACE})")


def begin(connection: Connection, *, closing: bool) -> None:
    """Begin a transaction: among many that write intents and certificates, or alone, to void intents.

    SQLite has one writer anyway. In PostgreSQL, a transaction doesn't see what another has not committed: an
    intent could be voided by one replica while its certificate is recorded by another.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE if closing else _AMONG_MANY)


def try_to_sequence(connection: Connection) -> bool:
    """Become the only one that adds to the tree until the transaction ends; tell whether nobody else is.

    Nobody waits for it: a transaction that did might hold what the other one waits for. It does not exclude
    those that write certificates; see `otahsm.ledger.tree.sequencer`.
    """
    return connection.dialect.name != "postgresql" or bool(connection.execute(_SEQUENCER).scalar())


def insert_into(table: Table, dialect: Dialect) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that can say what becomes of a row that is there; there is none for any database."""
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
        return json.dumps(ids, default=str)  # SQLite may hold something else, that somebody put there


class Among(FunctionElement[bool]):
    """Says that a column is one of the ids in the parameter `ids`, which are looked up one by one.

    With a parameter for each id, writing the statement would take longer than finding the rows.
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
    """Return a source of the rows that `write_rows` is given, with columns named like the table's.

    PostgreSQL takes a batch as an array for each column, in one statement; SQLite, which is no round trip
    away, one row after another.
    """
    if dialect.name == "postgresql":
        arrays = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in names]
        return func.unnest(*arrays).table_valued(*names, name="given").render_derived()
    row: list[ColumnElement[Any]] = [bindparam(name, type_=table.c[name].type).label(name) for name in names]
    return select(*row).subquery("given")


def write_rows(
    connection: Connection, statement: Insert, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> int:
    """Run a statement over `columns_given`; return how many rows it wrote.

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
    """Write a statement as the driver wants it, with the names of its parameters in their order.

    SQLAlchemy's own way over many rows takes longer than SQLite does.
    """
    compiled = statement.compile(dialect=dialect)
    return str(compiled), compiled.positiontup or ()
