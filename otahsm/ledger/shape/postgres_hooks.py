"""What may act on a statement in PostgreSQL, besides the tables: triggers, rules, policies, functions."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from otahsm.ledger.shape.findings import Shape
from otahsm.ledger.shape.postgres_tables import NAMES

# The functions in our statements; a test compares them with the code. One of the same name in the ledger's
# schema is called instead of PostgreSQL's if its argument types fit better.
FUNCTIONS: Final = (
    "array_agg",
    "count",
    "current_schema",
    "current_setting",
    "format",
    "generate_series",
    "has_table_privilege",
    "max",
    "min",
    "nextval",
    "pg_advisory_unlock",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_get_serial_sequence",
    "pg_is_in_recovery",
    "pg_table_is_visible",
    "pg_try_advisory_lock",
    "pg_try_advisory_xact_lock",
    "set_config",
    "substr",
    "sum",
    "to_regclass",
    "unnest",
    "version",
)
# Those in our statements, and more. The left operand of ours is never an array; that of intarray's is.
OPERATORS: Final = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "~~", "~")

_OURS: Final = "c.relnamespace = :schema ::regnamespace AND c.relname = ANY (:names)"
_OF_EXTENSION: Final = (
    "EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.classid = {} AND d.objid = {} AND d.deptype = 'e')"
)
# Built in, and no domain over it: objects that PostgreSQL itself makes have lower numbers than 16384.
_TAKEN_BY_OURS: Final = (
    "({0} < 16384 OR EXISTS (SELECT 1 FROM pg_type AS y WHERE y.oid = {0} AND y.typtype = 'd'))"
)
_WHERE_OURS_ARE_FOUND: Final = "n.nspname = 'pg_catalog' OR n.oid = :schema ::regnamespace"

# For each kind of object: a query for (where, what).
_TAMPERED: Final = [
    text(query)
    for query in (
        # ruff: noqa: S608 - made of the constants above
        f"""
        SELECT format('trigger %s on %s', t.tgname, c.relname),
            'otahsm makes no triggers: it can change what is written'
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND {_OURS} ORDER BY t.tgname
        """,
        f"""
        SELECT format('foreign key on %s', c.relname), 'is not enforced: its trigger is disabled'
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgisinternal AND t.tgenabled <> 'O' AND {_OURS} GROUP BY c.relname ORDER BY c.relname
        """,
        f"""
        SELECT format('event trigger %s', e.evtname), 'otahsm makes none: it can change a migration'
        FROM pg_event_trigger AS e WHERE e.evtenabled <> 'D'
            AND NOT {_OF_EXTENSION.format("'pg_event_trigger'::regclass", "e.oid")} ORDER BY e.evtname
        """,
        f"""
        SELECT format('rule %s on %s', r.rulename, c.relname),
            'otahsm makes no rules: it can change a statement'
        FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class WHERE {_OURS}
        ORDER BY r.rulename
        """,
        f"""
        SELECT format('table %s', c.relname), 'row-level security is on: it can hide rows'
        FROM pg_class AS c WHERE (c.relrowsecurity OR c.relforcerowsecurity) AND {_OURS} ORDER BY c.relname
        """,
        f"""
        SELECT format('policy %s on %s', p.polname, c.relname), 'otahsm makes no policies: it can hide rows'
        FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid WHERE {_OURS} ORDER BY p.polname
        """,
        f"""
        SELECT format('statistics %s on %s', s.stxname, c.relname),
            'can call functions when otahsm analyzes the table'
        FROM pg_statistic_ext AS s JOIN pg_class AS c ON c.oid = s.stxrelid
        WHERE s.stxexprs IS NOT NULL AND {_OURS} ORDER BY s.stxname
        """,
        """
        SELECT format('table pg_catalog.%s', c.relname), 'is found before that of the ledger'
        FROM pg_class AS c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname = ANY (:names)
        """,
        f"""
        SELECT format('function %I.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
            'can be called in place of the one of PostgreSQL'
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE p.oid >= 16384 AND p.proname = ANY (:functions) AND ({_WHERE_OURS_ARE_FOUND}) AND NOT EXISTS (
            SELECT 1 FROM unnest(p.proargtypes::oid[]) AS a (type) WHERE NOT {_TAKEN_BY_OURS.format("a.type")}
        ) ORDER BY p.oid
        """,
        f"""
        SELECT format('operator %I.%s (%s, %s)', n.nspname, o.oprname,
            format_type(nullif(o.oprleft, 0), NULL), format_type(nullif(o.oprright, 0), NULL)),
            'can be used in place of the one of PostgreSQL'
        FROM pg_operator AS o JOIN pg_namespace AS n ON n.oid = o.oprnamespace
        WHERE o.oid >= 16384 AND o.oprname = ANY (:operators) AND ({_WHERE_OURS_ARE_FOUND})
            AND NOT EXISTS (SELECT 1 FROM pg_type AS y WHERE y.oid = o.oprleft AND y.typcategory = 'A')
            AND {_TAKEN_BY_OURS.format("o.oprleft")} AND {_TAKEN_BY_OURS.format("o.oprright")} ORDER BY o.oid
        """,
        f"""
        SELECT format('cast from %s to %s', format_type(k.castsource, NULL), format_type(k.casttarget, NULL)),
            'is not that of PostgreSQL: it can change a value'
        FROM pg_cast AS k WHERE k.oid >= 16384 AND k.castsource < 16384
            AND (k.casttarget < 16384 OR k.castcontext = 'i' AND NOT {
            _OF_EXTENSION.format("'pg_cast'::regclass", "k.oid")
        }) ORDER BY k.oid
        """,
        """
        SELECT format('operator class %I.%s', n.nspname, o.opcname),
            'decides how values of types of PostgreSQL are compared'
        FROM pg_opclass AS o
        JOIN pg_namespace AS n ON n.oid = o.opcnamespace
        JOIN pg_am AS m ON m.oid = o.opcmethod
        WHERE o.oid >= 16384 AND o.opcintype < 16384 AND o.opcdefault AND m.amname IN ('btree', 'hash')
        ORDER BY o.oid
        """,
        """
        SELECT 'setting session_replication_role', format('is %s: triggers of foreign keys are off', setting)
        FROM pg_settings WHERE name = 'session_replication_role' AND setting <> 'origin'
        """,
    )
]
_EVENT_TRIGGERS_OF_EXTENSIONS: Final = text(f"""
    SELECT format('event trigger %s', e.evtname), 'an extension made it: it can change a migration'
    FROM pg_event_trigger AS e WHERE e.evtenabled <> 'D'
        AND {_OF_EXTENSION.format("'pg_event_trigger'::regclass", "e.oid")} ORDER BY e.evtname
""")


def look_at_hooks(connection: Connection, schema: str, shape: Shape) -> None:
    """Look at what may act on a statement, whatever version the ledger's schema has.

    Args:
        connection: with pg_catalog alone in its search_path.
        schema: the ledger's schema, as `quote_ident` writes it.
        shape: gets what is found.
    """
    for query in _TAMPERED:
        for where, what in _rows(connection, schema, query):
            shape.tamper(where, what)
    for where, what in _rows(connection, schema, _EVENT_TRIGGERS_OF_EXTENSIONS):
        shape.warn(where, what)


def _rows(connection: Connection, schema: str, query: TextClause) -> list[tuple[str, str]]:
    known: dict[str, Any] = {
        "schema": schema,
        "names": NAMES,
        "functions": list(FUNCTIONS),
        "operators": list(OPERATORS),
    }
    return [(where, what) for where, what in connection.execute(query, known)]
