"""The status of an intent, as SQL conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import ColumnElement, FromClause, case, literal_column

from otahsm.ledger.query_values import Status
from otahsm.ledger.schema import certificates, intents, revocations

# The tables that determine statuses. A status that needs another table joins it here.
JOINED: Final[FromClause] = intents.outerjoin(certificates).outerjoin(revocations)

# For look-ups: the partial indexes use these conditions.
VOIDED: Final[ColumnElement[bool]] = intents.c.void_reason.is_not(None)
SUPERSEDED: Final[ColumnElement[bool]] = intents.c.superseded_at.is_not(None)

# For any intent, exactly one of them is true. Reason and time of a voided intent are set together; the time
# is used here so that planners don't pick an index over devices or keys for a range of time.
_voided: Final = intents.c.voided_at.is_not(None)
_certified: Final = certificates.c.intent_id.is_not(None)
_revoked: Final = revocations.c.intent_id.is_not(None)
CONDITIONS: Final[Mapping[Status, ColumnElement[bool]]] = {
    Status.VOID: _voided,
    Status.OPEN: ~_voided & ~_certified,
    Status.REVOKED: ~_voided & _certified & _revoked,
    Status.SUPERSEDED: ~_voided & _certified & ~_revoked & SUPERSEDED,
    Status.ISSUED: ~_voided & _certified & ~_revoked & ~SUPERSEDED,
}

# The status of a row of `JOINED`, as text.
STATUS: Final[ColumnElement[str]] = case(
    *((condition, literal_column(f"'{status}'")) for status, condition in CONDITIONS.items())
).label("status")
