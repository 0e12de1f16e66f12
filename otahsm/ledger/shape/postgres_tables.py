"""The shape of a ledger's tables in PostgreSQL: columns, constraints, indexes and sequences."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, Index, Row, Table, TextClause, text
from sqlalchemy.dialects import postgresql

from otahsm.ledger.shape.findings import TABLES, Shape, checks_of, default_of, where_of

_dialect: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
NAMES: Final = [table.name for table in TABLES]

# Names in these statements are found in pg_catalog alone: see `postgres`.
_TABLES: Final = text("""
    SELECT c.relname, c.relkind, c.relpersistence, am.amname, c.reloftype <> 0 AS typed,
        EXISTS (SELECT 1 FROM pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)) AS inherits
    FROM pg_class AS c LEFT JOIN pg_am AS am ON am.oid = c.relam
    WHERE c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names)
""")
_COLUMNS: Final = text("""
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid) AS default, a.attidentity, a.attgenerated,
        a.attcollation = t.typcollation AS usual_collation,
        (
            SELECT format('nextval(%L::regclass)', s.oid::regclass::text) FROM pg_depend AS o
            JOIN pg_class AS s ON s.oid = o.objid AND s.relkind = 'S'
            JOIN pg_sequence AS q ON q.seqrelid = s.oid
            WHERE o.classid = 'pg_class'::regclass AND o.refclassid = 'pg_class'::regclass
                AND o.refobjid = c.oid AND o.refobjsubid = a.attnum AND o.deptype = 'a'
                AND s.relnamespace = c.relnamespace AND s.relpersistence = 'p' AND NOT q.seqcycle
                AND q.seqincrement = 1 AND q.seqmin = 1 AND q.seqmax = 9223372036854775807
        ) AS next_id
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names)
""")
_CONSTRAINTS: Final = text("""
    SELECT c.relname, k.conname, k.contype, t.relname AS target, k.condeferrable OR NOT k.convalidated AS odd,
        k.contype = 'f' AND (k.confupdtype, k.confdeltype, k.confmatchtype) <> ('a', 'a', 's') AS acts,
        pg_get_constraintdef(k.oid) AS definition,
        (
            SELECT array_agg(a.attname ORDER BY n.place)
            FROM unnest(k.conkey) WITH ORDINALITY AS n (number, place)
            JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = n.number
        ) AS columns,
        (
            SELECT array_agg(a.attname ORDER BY n.place)
            FROM unnest(k.confkey) WITH ORDINALITY AS n (number, place)
            JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = n.number
        ) AS target_columns,
        c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names) AS ours
    FROM pg_constraint AS k
    JOIN pg_class AS c ON c.oid = k.conrelid
    LEFT JOIN pg_class AS t ON t.oid = k.confrelid
    WHERE c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names)
        OR t.relnamespace = :schema ::regnamespace AND t.relname = ANY (:names)
""")
_INDEXES: Final = text("""
    SELECT c.relname, x.relname AS name, i.indisunique, i.indisprimary, i.indisexclusion,
        i.indisvalid AND i.indisready AND i.indislive AS works,
        am.amname = 'btree' AND i.indnatts = i.indnkeyatts AND i.indexprs IS NULL AND i.indimmediate
            AND NOT coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
            AND NOT EXISTS (SELECT 1 FROM unnest(i.indoption::int2[]) AS o (option) WHERE option <> 0)
            AND NOT EXISTS (
                SELECT 1 FROM unnest(i.indclass::oid[]) AS o (class) JOIN pg_opclass AS p ON p.oid = class
                WHERE p.oid >= 16384 OR NOT p.opcdefault
            )
            AND NOT EXISTS (
                SELECT 1 FROM unnest(i.indcollation::oid[]) AS o (collation_id)
                WHERE collation_id <> 0 AND collation_id <> 'pg_catalog.default'::regcollation
            ) AS plain,
        pg_get_expr(i.indpred, i.indrelid) AS condition, pg_get_indexdef(i.indexrelid) AS definition,
        (
            SELECT array_agg(a.attname ORDER BY n.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS n (number, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = n.number
        ) AS columns
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indrelid
    JOIN pg_class AS x ON x.oid = i.indexrelid
    JOIN pg_am AS am ON am.oid = x.relam
    WHERE c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names)
""")
_OTHERS: Final = text("""
    SELECT c.relname, c.relkind FROM pg_class AS c
    WHERE c.relnamespace = :schema ::regnamespace AND c.relname <> ALL (:names)
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND NOT EXISTS (
            SELECT 1 FROM pg_depend AS d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
        )
    ORDER BY c.relname
""")
_KINDS: Final = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


class TablesLook:
    """One look at the tables.

    Args:
        connection: with pg_catalog alone in its search_path.
        schema: the ledger's schema, as `quote_ident` writes it.
        shape: gets what is found.
    """

    def __init__(self, connection: Connection, schema: str, shape: Shape) -> None:
        self._connection = connection
        self._schema = schema
        self._shape = shape

    def everything(self) -> None:
        """Look at the tables of ours, and which others there are."""
        found = {row.relname: row for row in self._ask(_TABLES)}
        columns = self._by_table(_COLUMNS)
        constraints = self._by_table(_CONSTRAINTS)
        indexes = self._by_table(_INDEXES)
        for table in TABLES:
            if table.name not in found:
                self._shape.lack(f"table {table.name}")
                continue
            self._table(found[table.name])
            self._columns(table, columns[table.name])
            self._constraints(table, [row for row in constraints[table.name] if row.ours])
            self._indexes(table, indexes[table.name])
        for name, rows in constraints.items():
            for row in rows:
                if not row.ours:
                    where = f"constraint {row.conname} on {name}"
                    self._shape.tamper(
                        where, f"is not otahsm's, and refers to {row.target}: {row.definition}"
                    )
        for row in self._ask(_OTHERS):
            self._shape.warn(f"{_KINDS[row.relkind]} {row.relname}", "is not otahsm's")

    def _ask(self, query: TextClause) -> Sequence[Row[Any]]:
        parameters: dict[str, Any] = {"schema": self._schema, "names": NAMES}
        return self._connection.execute(query, parameters).all()

    def _by_table(self, query: TextClause) -> Mapping[str, list[Row[Any]]]:
        rows = defaultdict(list)
        for row in self._ask(query):
            rows[row.relname].append(row)
        return rows

    def _table(self, row: Row[Any]) -> None:
        where = f"table {row.relname}"
        if row.relkind != "r":
            self._shape.tamper(where, f"is a {_KINDS.get(row.relkind, row.relkind)}")
            return
        for wrong, what in (
            (row.relpersistence == "u", "is unlogged: a crash of the server empties it"),
            (row.relpersistence == "t", "is temporary"),
            (row.amname != "heap", f"is stored by {row.amname}"),
            (row.typed, "has the columns of a type"),
            (row.inherits, "inherits from a table, or a table from it: their rows appear in it"),
        ):
            if wrong:
                self._shape.tamper(where, what)

    def _columns(self, table: Table, rows: Sequence[Row[Any]]) -> None:
        found = {row.attname: row for row in rows}
        for column in table.columns:
            where = f"column {table.name}.{column.name}"
            if (row := found.pop(column.name, None)) is None:
                self._shape.lack(where)
                continue
            numbered = table.autoincrement_column is column
            if numbered and row.next_id is None:
                self._shape.tamper(where, "has no sequence, or not one that counts up from 1 by 1")
            default = row.next_id if numbered else default_of(column)
            for what, is_, ours in (
                ("type", row.type, _type_of(column)),
                ("NOT NULL", row.attnotnull, not column.nullable),
                ("default", row.default if numbered else _without_cast(row.default), default),
                ("GENERATED", row.attidentity + row.attgenerated, ""),
                ("COLLATE", "as usual" if row.usual_collation else "another", "as usual"),
            ):
                if is_ != ours:
                    self._shape.tamper(where, f"its {what} is {is_!r}, and ours is {ours!r}")
        for name, row in found.items():
            computes = row.attnotnull or row.default is not None or row.attidentity + row.attgenerated
            if computes or not self._shape.is_newer:
                self._shape.tamper(f"column {table.name}.{name}", "is not otahsm's")

    def _constraints(self, table: Table, rows: Sequence[Row[Any]]) -> None:
        expected: set[tuple[str, tuple[str, ...], str | None, tuple[str, ...]]] = {
            ("p", tuple(table.primary_key.columns.keys()), None, ())
        }
        expected |= {
            ("f", (key.parent.name,), key.column.table.name, (key.column.name,)) for key in table.foreign_keys
        }
        checks = checks_of(table)
        for row in rows:
            if row.contype == "c" and row.conname in checks:
                if row.odd or _bare(row.definition) != _bare(f"CHECK ({checks.pop(row.conname)})"):
                    where = f"constraint {row.conname} on {table.name}"
                    self._shape.tamper(where, f"differs from ours: {row.definition}")
                continue
            if row.contype in "nt":  # NOT NULL (since PostgreSQL 18), and triggers: see columns and hooks
                continue
            what = (row.contype, tuple(row.columns or ()), row.target, tuple(row.target_columns or ()))
            where = f"constraint {row.conname} on {table.name}"
            if what not in expected:
                self._shape.tamper(where, f"is not otahsm's: {row.definition}")
            elif row.odd or row.acts:
                self._shape.tamper(where, f"differs from ours: {row.definition}")
            expected.discard(what)
        for name in checks:
            self._shape.lack(f"constraint {name} on {table.name}")
        for kind, columns, *_ in expected:
            name = "primary key" if kind == "p" else "foreign key"
            self._shape.lack(f"{name} of {table.name} ({', '.join(columns)})")

    def _indexes(self, table: Table, rows: Sequence[Row[Any]]) -> None:
        ours: dict[str, Index] = {str(index.name): index for index in table.indexes}
        for row in rows:
            where = f"index {row.name} on {table.name}"
            if (index := ours.pop(row.name, None)) is not None or row.indisprimary:
                columns = (index.columns if index is not None else table.primary_key.columns).keys()
                unique = bool(index.unique) if index is not None else True
                condition = _in_postgresql(where_of(index)) if index is not None else None
                if not row.works:
                    self._shape.tamper(where, "is not valid: rows may be missing from it")
                if (
                    not row.plain
                    or row.indisexclusion
                    or (row.indisunique, row.columns, _plain(row.condition)) != (unique, columns, condition)
                ):
                    self._shape.tamper(where, f"differs from ours: {row.definition}")
            elif row.indisunique or row.indisexclusion:
                self._shape.tamper(where, f"is not otahsm's, and can keep rows out: {row.definition}")
            elif not row.plain or row.condition is not None:
                self._shape.tamper(where, f"is not otahsm's, and computes what can fail: {row.definition}")
            else:
                self._shape.warn(where, "is not otahsm's: it makes writes slower")
        for name in ours:
            self._shape.lack(f"index {name} on {table.name}")


def _type_of(column: Column[Any]) -> str:
    return column.type.compile(_dialect).lower().replace("varchar", "character varying")


def _without_cast(expression: str | None) -> str | None:
    """Return a constant default without its quotes and its cast."""
    return expression and re.sub(r"^'(.*)'(::[a-z ]+)?$", r"\1", expression)


def _plain(condition: str | None) -> str | None:
    """Return a condition without the casts of columns and constants to text, which don't change them."""
    return condition and re.sub(r"\((\w+)\)::text|('')::text", r"\1\2", condition)


def _in_postgresql(condition: str) -> str | None:
    """Return a condition of ours, of parts joined by AND, as PostgreSQL prints it."""
    if not condition:
        return None
    parts = [f"({part})" for part in condition.split(" AND ")]
    return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"


def _bare(definition: str) -> list[str]:
    """Return the words of a condition. PostgreSQL adds parentheses, and knows which belong together."""
    return definition.replace("(", " ").replace(")", " ").split()
