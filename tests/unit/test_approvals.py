"""Who confirms a held act is checked, whatever the database says for a moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import pytest

from otahsm.access import AccessControl, Caller, Grant, Policy
from otahsm.authority.approvals import Approvals
from otahsm.authority.changes import Changes
from otahsm.authority.denied_clients import DeniedClients
from otahsm.errors import HeldError, LedgerTamperedError, NotAllowedError
from otahsm.issuance.batches import Batches
from otahsm.ledger import Ledger, LedgerReader, RevocationRequest
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.system.clock import utc_now
from otahsm.transparency.audit import AuditLog

from support.homes import MAC_KEYS, Home
from support.intents import intent, issue

THIEF = Caller("cn:thief", bytes(32), bytes(32), datetime(2100, 1, 1, tzinfo=UTC))
POLICY = Policy([Grant("thief", ("cn:thief",), frozenset({"operator"}), acts_per_day=0)])
DECIDED = (
    "UPDATE acts SET decision = 'confirmed', decided_at = requested_at, decided_by = 'cn:boss',"
    " decided_policy_client = 'boss', done = 1"
)
UNDECIDED = (
    "UPDATE acts SET decision = NULL, decided_at = NULL, decided_by = NULL, decided_policy_client = NULL,"
    " done = NULL"
)

_Result = TypeVar("_Result")


class MomentaryQueries(LedgerQueries):
    """Reads the ledger of somebody who changes the database before each query, and back after it."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.config)
        self._home = home

    async def ask(self, question: Callable[[LedgerReader], _Result]) -> _Result:
        self._home.change(DECIDED)
        try:
            return await super().ask(question)
        finally:
            self._home.change(UNDECIDED)


def approvals(ledger: Ledger, queries: LedgerQueries) -> Approvals:
    access = AccessControl(POLICY)
    audit = AuditLog(ledger, lambda *_: None, utc_now)
    changes = Changes(access, audit)
    return Approvals(
        access=access,
        audit=audit,
        batches=Batches(ledger, queries, ["p"], "p", utc_now),
        changes=changes,
        clients=DeniedClients(ledger, queries, access, audit, changes, utc_now),
        clock=utc_now,
        keys=MAC_KEYS,
        ledger=ledger,
        queries=queries,
        revoked=lambda: None,
    )


async def test_a_client_confirms_its_own_act_at_no_moment(home: Home, ledger: Ledger) -> None:
    await issue(ledger, intent("d0"))
    audit = AuditLog(ledger, lambda *_: None, utc_now)
    by = Changes(AccessControl(POLICY), audit).requester(THIEF)
    change = await ledger.acts.revoke([RevocationRequest(None, "d0", "", "superseded")], by)
    (held,) = change.result
    assert isinstance(held, HeldError)
    act_id = int(held.metadata["act"])
    for queries, error in (
        (LedgerQueries(home.config), NotAllowedError),
        (MomentaryQueries(home), LedgerTamperedError),
    ):
        asked = approvals(ledger, queries)
        (shown,) = await asked.named([act_id])
        with pytest.raises(error):
            await asked.confirm(THIEF, act_id, shown.act.digest)
        await queries.close()
    assert home.read("SELECT count(*) FROM revocations") == [(0,)]
