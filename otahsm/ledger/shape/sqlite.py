"""The shape of a ledger in SQLite.

PRAGMAs tell the columns, keys and indexes of a table, but no CHECK, COLLATE or ON CONFLICT. Those are words
in the text of its definition, which SQLite parses whenever it opens the file. So a definition may have no
word that ours don't have. It is not compared as a whole: how SQLAlchemy writes one may change, and a ledger
keeps that with which it was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, Table
from sqlalchemy.dialects import sqlite

from otahsm.ledger.shape.findings import TABLES, Shape, checks_of, default_of, where_of

_dialect: Final = sqlite.dialect()
_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM main.sqlite_master"
_OURS: Final = {table.name: table for table in TABLES}
_WORDS: Final = frozenset(
    ("create", "table", "constraint", "primary", "key", "foreign", "references", "not", "null", "default")
)
_TOKEN: Final = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)                 # comments
    |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<text>'(?:[^']|'')*')
    |(?P<word>[A-Za-z_$\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    |(?P<other>[^\s])""",
    re.VERBOSE | re.DOTALL,
)
# A table with the name of a table-valued function is found before the function.
_FUNCTIONS: Final = ("json_each", "json_tree", "pragma_")


def look(connection: Connection, shape: Shape) -> None:
    """Look at everything."""
    _Look(connection, shape).everything()


def look_at_hooks(connection: Connection, shape: Shape) -> None:
    """Look at what may act on a statement, whatever version the ledger's schema has."""
    _Look(connection, shape).hooks()


class _Look:
    def __init__(self, connection: Connection, shape: Shape) -> None:
        self._connection = connection
        self._shape = shape
        self._entries = connection.exec_driver_sql(_SCHEMA).all()

    def hooks(self) -> None:
        for entry in self._entries:
            kind, name = entry.type, entry.name
            if kind == "trigger":
                self._shape.tamper(
                    f"trigger {name} on {entry.tbl_name}",
                    "otahsm makes no triggers: it can change what is written",
                )
            elif kind == "view":
                self._shape.tamper(f"view {name}", "otahsm makes no views: it can stand in for a table")
            elif kind not in ("table", "index") or not _is_what_it_says(entry):
                self._shape.tamper(f"{kind} {name}", "its definition is of another kind")
            elif kind == "table" and _begins(entry, "create virtual"):
                self._shape.tamper(f"table {name}", "is virtual: a module answers for it")
            elif kind == "table" and name.lower().startswith(_FUNCTIONS):
                self._shape.tamper(f"table {name}", "has the name of a function that otahsm calls")

    def everything(self) -> None:
        self.hooks()
        tables = {entry.name.lower(): entry for entry in self._entries if entry.type == "table"}
        for name, table in _OURS.items():
            if name in tables:
                self._table(table, tables[name].sql)
                self._indexes(table)
            else:
                self._shape.lack(f"table {name}")
        for name in sorted(tables.keys() - _OURS.keys()):
            if any(row.table.lower() in _OURS for row in self._pragma("foreign_key_list", name)):
                self._shape.tamper(f"table {name}", "refers to otahsm's: it can keep rows from being deleted")
            elif not name.startswith(("sqlite_", *_FUNCTIONS)):
                self._shape.warn(f"table {name}", "is not otahsm's")

    def _pragma(self, name: str, argument: str) -> list[Row[Any]]:
        quoted = argument.replace('"', '""')
        return list(self._connection.exec_driver_sql(f'PRAGMA main.{name}("{quoted}")').all())

    def _table(self, table: Table, text: str) -> None:
        for name, condition in checks_of(table).items():
            ours = f"CONSTRAINT {name} CHECK ({condition})"
            if ours not in text:
                self._shape.lack(f"constraint {name} on {table.name}")
            text = text.replace(ours, "", 1)
        for word in _foreign_words(text, table):
            self._shape.tamper(f"table {table.name}", f"its definition has {word}, and ours has not")
        rows = {row.name.lower(): row for row in self._pragma("table_xinfo", table.name)}
        keys = {column.name: place for place, column in enumerate(table.primary_key.columns, 1)}
        for column in table.columns:
            where = f"column {table.name}.{column.name}"
            if (row := rows.pop(column.name, None)) is None:
                self._shape.lack(where)
                continue
            expected = {
                "type": column.type.compile(_dialect),
                "NOT NULL": not column.nullable,
                "default": default_of(column),
                "primary key": keys.get(column.name, 0),
                "kind": 0,
            }
            found = {
                "type": row.type.upper(),
                "NOT NULL": bool(row.notnull),
                "default": row.dflt_value and row.dflt_value.strip("'"),
                "primary key": row.pk,
                "kind": row.hidden,
            }
            for what, value in expected.items():
                if found[what] != value:
                    self._shape.tamper(where, f"its {what} is {found[what]!r}, and ours is {value!r}")
        for name in rows:
            self._shape.tamper(f"column {table.name}.{name}", "is not otahsm's")
        self._references(table)

    def _references(self, table: Table) -> None:
        found = [
            (getattr(row, "from"), row.table.lower(), row.to, row.on_update, row.on_delete)
            for row in self._pragma("foreign_key_list", table.name)
        ]
        expected = [
            (key.parent.name, key.column.table.name, key.column.name, "NO ACTION", "NO ACTION")
            for key in table.foreign_keys
        ]
        for reference in expected:
            if reference not in found:
                self._shape.lack(f"foreign key of {table.name}.{reference[0]}")
        for reference in found:
            if reference not in expected:
                self._shape.tamper(f"foreign key of {table.name}.{reference[0]}", "is not otahsm's")

    def _indexes(self, table: Table) -> None:
        texts = {entry.name: entry.sql for entry in self._entries if entry.type == "index"}
        found = {row.name.lower(): row for row in self._pragma("index_list", table.name)}
        for index in table.indexes:
            where = f"index {index.name} on {table.name}"
            if (row := found.pop(str(index.name), None)) is None:
                self._shape.lack(where)
            elif (
                bool(row.unique) != bool(index.unique)
                or self._columns(row.name) != [(column.name, 0, "BINARY") for column in index.columns]
                or _condition(texts.get(row.name)) != _condition(f"x WHERE {where_of(index)}")
            ):
                self._shape.tamper(where, f"differs from ours: {_one_line(texts.get(row.name))}")
        for row in found.values():
            self._foreign_index(row, table, texts)

    def _foreign_index(self, row: Row[Any], table: Table, texts: Mapping[str, str]) -> None:
        where = f"index {row.name} on {table.name}"
        if row.origin == "pk":
            keys = [(column.name, 0, "BINARY") for column in table.primary_key.columns]
            if self._columns(row.name) != keys:
                self._shape.tamper(where, "is not that of our primary key")
        elif row.unique:
            self._shape.tamper(where, "is unique and not otahsm's: it can keep rows out")
        elif row.partial or any(name is None for name, *_ in self._columns(row.name)):
            self._shape.tamper(
                where,
                f"is not otahsm's, and computes what can fail: {_one_line(texts.get(row.name))}",
            )
        else:
            self._shape.warn(where, "is not otahsm's: it makes writes slower")

    def _columns(self, index: str) -> list[tuple[str | None, int, str]]:
        return [(row.name, row.desc, row.coll) for row in self._pragma("index_xinfo", index) if row.key]


def find_damage(connection: Connection, shape: Shape) -> None:
    """Compare indexes with their tables: an index that lies makes a look-up lie. Reads the whole file."""
    for (text,) in connection.exec_driver_sql("PRAGMA main.integrity_check(20)"):
        if text != "ok":
            shape.tamper("file", text)


def _begins(entry: Row[Any], words: str) -> bool:
    return " ".join(token for _, token in _tokens(entry.sql)).startswith(words)


def _is_what_it_says(entry: Row[Any]) -> bool:
    if entry.type == "index":
        automatic = entry.sql is None and entry.name.startswith("sqlite_autoindex_")
        return automatic or _begins(entry, "create index") or _begins(entry, "create unique index")
    return _begins(entry, "create table") or _begins(entry, "create virtual table")


def _tokens(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield (kind, token) for what SQLite reads in a definition, words in lower case."""
    for found in _TOKEN.finditer(text or ""):
        if kind := found.lastgroup:
            token = found[kind]
            yield kind, token if kind == "text" else token.lower()


def _foreign_words(text: str, table: Table) -> Iterator[str]:
    """Yield the words that our definition of a table doesn't have, in the order of a definition's text."""
    names = {table.name, *table.columns.keys()}
    for key in table.foreign_keys:
        names |= {key.column.table.name, key.column.name}
    types = {
        word
        for column in table.columns
        for _, word in _tokens(column.type.compile(_dialect))
        if word.isalpha()
    }
    before = ""
    for kind, token in _tokens(text):
        is_name = before == "constraint"
        before = token if kind == "word" else ""
        if kind == "quoted":
            known = is_name or token[1:-1] in names
        elif kind == "word":
            known = is_name or token in names or token in types or token in _WORDS
        else:
            known = True
        if not known:
            yield token.upper() if kind == "word" else token


def _condition(text: str | None) -> list[str]:
    """Return the tokens of the condition of an index."""
    tokens = [token for _, token in _tokens(text)]
    return tokens[tokens.index("where") + 1 :] if "where" in tokens else []


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
