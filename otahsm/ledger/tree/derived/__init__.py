"""Verifies the rows that are in no leaf of their own, but follow from leaves.

- which certificate is superseded: another one's leaf says that it was written for that
- how many certificates a batch and a quota have: a count of intents
- who is denied: the last audit event about a client
- from which id on a replica's intents may be open: none below it is
- whether a decision about a held act is possible
- which older otahsm may use the schema: what the migrations say
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, select

from otahsm.ledger.schema import compatible_schemas
from otahsm.ledger.tree.derived.acts import check_acts
from otahsm.ledger.tree.derived.certificates import (
    check_barred,
    check_doubles,
    check_kinds,
    check_open_intents,
    check_superseded,
)
from otahsm.ledger.tree.derived.counts import CORRECTED, RESET, check_batches, check_quotas
from otahsm.ledger.tree.derived.denials import ALLOWED, DENIED, check_denials, denial_events, says
from otahsm.ledger.tree.verdict import Verdict

__all__ = ["ALLOWED", "CORRECTED", "DENIED", "RESET", "check_derived", "denial_events", "says"]


def check_compatible_schemas(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield what is said of versions, of which no migration says anything."""
    for version in connection.execute(select(compatible_schemas.c.version)).scalars():
        yield f"compatible schema {version!a:.40}", "is of no migration: it was added"


_CHECKS: Final = (
    check_compatible_schemas,
    check_kinds,
    check_doubles,
    check_superseded,
    check_barred,
    check_batches,
    check_quotas,
    check_denials,
    check_open_intents,
    check_acts,
)


def check_derived(connection: Connection, verdict: Verdict) -> None:
    """Add to the verdict what does not follow from the leaves.

    Args:
        connection: from `snapshot`.
        verdict: of the same snapshot.
    """
    for check in _CHECKS:
        for where, what in check(connection):
            verdict.find(where, what)
