"""Changes to a ledger's tables that a person with access to the database could make, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import Boolean, Column, Connection, Engine, LargeBinary, String, Table, select, text
from sqlalchemy.exc import DBAPIError

from otahsm.ledger.schema import metadata

Row = Mapping[str, Any]
TABLES: Final = metadata.sorted_tables
_WORDS: Final = (
    "",
    "line",
    "p",
    "cn:mallory",
    "cn:test",
    "plain-1",
    "renewed",
    "reset",
    "key_compromise",
    "{}",
)
_NUMBERS: Final = (-1, 0, 1, 2, 3, 5, 8, 13, 20_000, 1_728_000_000, 1_728_000_000_000_000)


class Change(NamedTuple):
    """A change: the table and its columns, how it was made, a row before and after it, and the statements."""

    table: str
    columns: frozenset[str]
    how: str
    before: Row
    after: Row
    statements: Sequence[Any]

    def __str__(self) -> str:
        return f"{self.how} {self.table}: {dict(self.before)} -> {dict(self.after)}"


class Tamperer:
    """Draws changes to a filled ledger.

    Args:
        rows: of every table, by its name.
        seed: of the drawing.
    """

    def __init__(self, rows: Mapping[str, Sequence[Row]], seed: int) -> None:
        self._rows = rows
        self._random = random.Random(seed)  # noqa: S311 - for the same changes again
        self._kinds: list[Callable[[Table], Change | None]] = [
            self._change,
            self._change,
            self._remove,
            self._add,
            self._swap,
            self._copy_column,
        ]

    def draw(self) -> Change:
        """Draw a change that changes something."""
        while True:
            table = self._random.choice([table for table in TABLES if self._rows[table.name]])
            change = self._random.choice(self._kinds)(table)
            if change is not None:
                return change

    def each_column(self) -> Iterator[Change]:
        """Yield a change of every column of every table, in one row."""
        for table in TABLES:
            if not self._rows[table.name]:
                continue
            for column in table.columns:
                row = self._random.choice(self._rows[table.name])
                yield self._set(table, row, {column.name: self._value(column, row[column.name])}, "change")

    def _change(self, table: Table) -> Change:
        row = self._random.choice(self._rows[table.name])
        column = self._random.choice(list(table.columns))
        return self._set(table, row, {column.name: self._value(column, row[column.name])}, "change")

    def _remove(self, table: Table) -> Change:
        row = self._random.choice(self._rows[table.name])
        names = frozenset(table.columns.keys())
        return Change(table.name, names, "remove", row, {}, [table.delete().where(*_is(table, row))])

    def _add(self, table: Table) -> Change:
        """Add a copy of a row, with another key and other values where they must be unique."""
        row = dict(self._random.choice(self._rows[table.name]))
        own = {column.name for column in table.primary_key}
        own |= {column.name for index in table.indexes if index.unique for column in index.columns}
        for column in table.columns:
            if column.name in own or self._random.random() < 0.2:
                row[column.name] = self._value(column, row[column.name])
        return Change(table.name, frozenset(row), "add", {}, row, [table.insert().values(row)])

    def _swap(self, table: Table) -> Change | None:
        """Swap a column of two rows."""
        if len(self._rows[table.name]) < 2:
            return None
        first, second = self._random.sample(list(self._rows[table.name]), 2)
        columns = [item for item in table.columns if not item.primary_key]
        columns = [item for item in columns if first[item.name] != second[item.name]]
        if not columns:
            return None
        column = self._random.choice(columns)
        name = column.name
        spare = self._value(column, first[name])
        steps = [(first, spare), (second, first[name]), (first, second[name])]
        made = [table.update().where(*_key(table, row)).values({name: value}) for row, value in steps]
        return Change(table.name, frozenset({name}), "swap", first, {name: second[name]}, made)

    def _copy_column(self, table: Table) -> Change | None:
        """Give a row the value of another row's column."""
        if len(self._rows[table.name]) < 2:
            return None
        first, second = self._random.sample(list(self._rows[table.name]), 2)
        column = self._random.choice(list(table.columns))
        if first[column.name] == second[column.name]:
            return None
        return self._set(table, first, {column.name: second[column.name]}, "copy")

    def _set(self, table: Table, row: Row, values: Mapping[str, Any], how: str) -> Change:
        update = table.update().where(*_is(table, row)).values(dict(values))
        return Change(table.name, frozenset(values), how, row, values, [update])

    def _value(self, column: Column[Any], old: Any) -> Any:
        """Draw another value for a column."""
        while True:
            value = self._another(column, old)
            if value != old or type(value) is not type(old):
                return value

    def _another(self, column: Column[Any], old: Any) -> Any:
        if column.nullable and self._random.random() < 0.3:
            return None
        if isinstance(column.type, Boolean):
            return not old
        if isinstance(column.type, LargeBinary):
            return self._octets(old)
        if isinstance(column.type, String):
            others = [row[column.name] for row in self._rows[column.table.name]]
            return self._random.choice([*_WORDS, *others, f"{old}x"])
        near = [old + 1, old - 1] if isinstance(old, int) else []
        return self._random.choice([*_NUMBERS, *near, *near])

    def _octets(self, old: bytes | None) -> bytes:
        octets = bytearray(old or self._random.randbytes(32))
        if not octets:
            return b"x"
        match self._random.randrange(3):
            case 0:
                octets[self._random.randrange(len(octets))] ^= 1 << self._random.randrange(8)
            case 1:
                return self._random.randbytes(len(octets))
            case _:
                return bytes(octets[:-1]) if self._random.random() < 0.5 else bytes(octets) + b"\0"
        return bytes(octets)


def rows_of(connection: Connection) -> dict[str, list[Row]]:
    """Return every row of every table."""
    return {table.name: [row._asdict() for row in connection.execute(select(table))] for table in TABLES}


@contextmanager
def tampered(engine: Engine, change: Change) -> Iterator[Connection | None]:
    """Yield a connection that sees a change, which is then undone; None if the database refuses it."""
    with engine.connect() as connection:
        transaction = connection.begin()
        try:
            _remove_constraints(connection)
            try:
                for statement in change.statements:
                    if not connection.execute(statement).rowcount:
                        raise ValueError(f"{change} changes nothing")
            except DBAPIError:
                yield None
            else:
                yield connection
        finally:
            transaction.rollback()


def _remove_constraints(connection: Connection) -> None:
    """Remove what who can change a database can remove. Unique indexes stay: `verify` looks for them."""
    if connection.dialect.name == "postgresql":
        for table, name in (
            ("certificates", "fk_certificates_intent_id"),
            ("revocations", "fk_revocations_intent_id"),
            ("intents", "ck_intents_one_kind"),
            ("acts", "ck_acts_decided"),
        ):
            connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    else:
        connection.execute(text("PRAGMA ignore_check_constraints = ON"))


def _is(table: Table, row: Row) -> list[Any]:
    return [table.c[name].is_not_distinct_from(value) for name, value in row.items()]


def _key(table: Table, row: Row) -> list[Any]:
    return [table.c[column.name] == row[column.name] for column in table.primary_key]
