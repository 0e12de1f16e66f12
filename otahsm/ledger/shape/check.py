"""Compares a ledger's database with what our migrations make.

A trigger, a rule, a policy or a view changes what our own statements read and write: a certificate is
released that the ledger does not hold, or an event is hidden, and the tree matches what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, select

from otahsm.errors import LedgerTamperedError
from otahsm.ledger.migrations import NEWEST, is_usable, version_of
from otahsm.ledger.shape import postgres, sqlite
from otahsm.ledger.shape.findings import Shape, alembic_version
from otahsm.ledger.tree.verdict import Finding, Verdict

WHEN_TAMPERED: Final = (
    "Copy the ledger first: it is evidence. `otahsm ledger verify` lists everything that is wrong. Find out"
    " who did it and since when, undo it, and verify the ledger with the newest checkpoint that you keep"
    " elsewhere."
)


def shape_of(connection: Connection) -> Shape:
    """Return what is wrong with a ledger that has the newest schema, or a newer one that we may use.

    Args:
        connection: in a transaction.
    """
    version = version_of(connection)
    is_newer = version != NEWEST and is_usable(connection, version)
    shape = Shape(is_newer=is_newer)
    (postgres if connection.dialect.name == "postgresql" else sqlite).look(connection, shape)
    if shape.readable:
        found = connection.execute(select(alembic_version)).scalars().all()
        if found != [version if is_newer else NEWEST]:
            what = f"says {', '.join(found) or 'nothing'}, but this otahsm needs {NEWEST}: if a newer one"
            shape.tampered.insert(0, Finding("schema version", f"{what} upgraded the ledger, upgrade all"))
    return shape


def verify_shape(connection: Connection, verify: Callable[[], Verdict]) -> Verdict:
    """Verify the tables of a ledger, and then its content.

    It also has SQLite check its file, as an index that lies makes look-ups lie. That reads all of it.

    Args:
        connection: from `snapshot`.
        verify: verifies the content; not called if tables or columns are missing.

    Returns:
        The verdict on the content, which begins with what is wrong with the tables.
    """
    shape = shape_of(connection)
    if connection.dialect.name != "postgresql":
        sqlite.find_damage(connection, shape)
    verdict = verify() if shape.readable else Verdict(readable=False)
    if not shape.readable:
        shape.tamper("rows", "were not verified, as tables or columns are missing")
    verdict.begin_with(shape.tampered)
    verdict.warnings += shape.warnings
    return verdict


def refuse_hooks(connection: Connection, name: str) -> None:
    """Raise LedgerTamperedError if anything can act on the statements of a migration, of whatever version."""
    shape = Shape()
    module = postgres if connection.dialect.name == "postgresql" else sqlite
    module.look_at_hooks(connection, shape)
    refuse(shape.tampered, name)


def refuse_tampered(connection: Connection, name: str) -> None:
    """Raise LedgerTamperedError if anything is wrong with a ledger that has a schema that we may use."""
    refuse(shape_of(connection).tampered, name)


def refuse(tampered: Sequence[Finding], name: str) -> None:
    """Raise LedgerTamperedError, with the first finding and the number of others, if there are any."""
    if tampered:
        where, what = tampered[0]
        more = f"; and {len(tampered) - 1} more" if len(tampered) > 1 else ""
        raise LedgerTamperedError(
            f"the ledger {name} is not as otahsm made it: {where}: {what}{more}", hint=WHEN_TAMPERED
        )
