"""What a look at the ledger's database finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import CheckConstraint, Column, Index, MetaData, String, Table

from otahsm.ledger.schema import metadata
from otahsm.ledger.tree.verdict import Finding

alembic_version: Final = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), primary_key=True)
)

# Every table of a ledger; the last is Alembic's.
TABLES: Final = (*metadata.tables.values(), alembic_version)


@dataclass
class Shape:
    """What is wrong with the tables of a ledger, and what lies beside them.

    Attributes:
        tampered: what can change what our statements read or write; one is enough not to trust the ledger.
        warnings: what otahsm didn't make, and what can't do that.
        readable: whether all our tables and columns are there.
        is_newer: whether a newer otahsm made the schema, which may have columns that ours has not.
    """

    tampered: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    readable: bool = True
    is_newer: bool = False

    def tamper(self, where: str, what: str) -> None:
        """Record what can change what our statements read or write."""
        self.tampered.append(Finding(where, what))

    def warn(self, where: str, what: str) -> None:
        """Record what can't."""
        self.warnings.append(Finding(where, what))

    def lack(self, where: str) -> None:
        """Record that a table, column, index or constraint of ours is missing."""
        self.readable &= not where.startswith(("table", "column"))
        self.tamper(where, "is missing: somebody removed or renamed it")


def where_of(index: Index) -> str:
    """Return the condition of an index of ours, "" for none; it is the same for both databases."""
    condition: Any = index.dialect_options["postgresql"]["where"]
    return "" if condition is None else str(condition)


def checks_of(table: Table) -> dict[str, str]:
    """Return the conditions of a table's CHECK constraints, by their names."""
    found = (item for item in table.constraints if isinstance(item, CheckConstraint))
    return {str(item.name): str(item.sqltext) for item in found}


def default_of(column: Column[Any]) -> str | None:
    """Return the default of a column of ours, without quotes; None for none."""
    given: Any = column.server_default
    return None if given is None else str(given.arg).strip("'")
