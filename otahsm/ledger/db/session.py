"""What a PostgreSQL session must be set to, whatever roles and databases are set to.

`ALTER ROLE ... SET` and `ALTER DATABASE ... SET` give new sessions other defaults. A session of ours must
find the ledger's tables, and no others before them; and a statement must mean what it means here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy.engine import URL

from otahsm.errors import ConfigError

_DEFAULT_SCHEMA: Final = "public"
_PINNED: Final = {
    # Where a policy would hide rows, a query fails instead.
    "row_security": "off",
    # A transaction that waits for a lock must see what was committed meanwhile.
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",  # names are compared with ours
}
# Text of the ledger's schema, and of the one in which the session's own search_path finds a ledger.
_LOOK: Final = """
SELECT
    EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s),
    pg_catalog.to_regclass(pg_catalog.format('%%I.alembic_version', %(schema)s::text)) IS NOT NULL,
    (
        SELECT n.nspname FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_class AS v ON v.relnamespace = c.relnamespace
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = pg_catalog.to_regclass('intents') AND v.oid = pg_catalog.to_regclass('alembic_version')
    )
"""
_OPTION: Final = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)")
_NAME: Final = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*))\s*')


def schema_of(url: URL) -> str:
    """Return the schema that a URL names, as in `?options=-csearch_path=NAME`; by default "public".

    Raises:
        ConfigError: it names several, or what is no name.
    """
    options = url.query.get("options", "")
    named = [
        value
        for name, value in _OPTION.findall(options if isinstance(options, str) else " ".join(options))
        if name.lower().replace("-", "_") == "search_path"
    ]
    if not named:
        return _DEFAULT_SCHEMA
    value = re.sub(r"\\(.)", r"\1", named[-1])
    found = _NAME.fullmatch(value)
    if found is None or found[1] == "$user":
        raise ConfigError(
            f"[ledger] url: search_path={value} is not one schema",
            hint="Name the schema of the ledger, and no other: options=-csearch_path=NAME.",
        )
    return found[1].replace('""', '"') if found[1] else found[2].lower()


def pin(schema: str, connection: Any) -> None:
    """Set a new session to the ledger's schema, and to what our statements assume.

    Args:
        schema: the schema of the ledger.
        connection: the driver's.

    Raises:
        ConfigError: there is no such schema; or it has no ledger, but the user's own search_path finds one.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOOK, {"schema": schema})
        exists, has_ledger, elsewhere = cursor.fetchone()
        if not exists:
            raise ConfigError(
                f"the database has no schema {schema}",
                hint="Create it, or name the one of the ledger in [ledger] url: ?options=-csearch_path=NAME.",
            )
        if elsewhere not in (None, schema) and not has_ledger:
            raise ConfigError(
                f"the schema {schema} has no ledger, but the schema {elsewhere} has one, where only the"
                " database user's own search_path finds it",
                hint=f"If that is your ledger, add ?options=-csearch_path={_quoted(elsewhere)} to [ledger]"
                " url (after other parameters with & in place of ?).",
            )
        # pg_catalog comes first anyway; pg_temp would too, if it were not named.
        path = '"{}", pg_temp'.format(schema.replace('"', '""'))
        settings = {"search_path": path, **_PINNED}
        calls = ", ".join("pg_catalog.set_config(%s, %s, false)" for _ in settings)
        cursor.execute(f"SELECT {calls}", [text for pair in settings.items() for text in pair])
    connection.commit()


def _quoted(schema: str) -> str:
    """Return a schema's name as it is written in a URL."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", schema):
        return schema
    escaped = '"{}"'.format(schema.replace('"', '""')).replace("\\", "\\\\").replace(" ", "\\ ")
    return "".join(
        letter if letter.isalnum() else "".join(f"%{octet:02X}" for octet in letter.encode())
        for letter in escaped
    )
