"""What an operator changes, and the event that says who did: both are written, or neither."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from otahsm.access import Denied
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import AuditEvent, BatchTerms, Change, Ledger

from support.acts import as_done, by
from support.homes import Home, ledger_in
from support.intents import intent, issue, told

TERMS = BatchTerms("new", "p", 5, "{}", None, ())
NEW = Denied("cn:new", "lost", "cn:admin", 1)
MakeChange: TypeAlias = Callable[[Ledger], Awaitable[Change[Any]]]


def denied(denial: Denied) -> AuditEvent:
    """The event of a denial: one that the audit log does not have is made again."""
    details = json.dumps({"reason": denial.reason, "subject": denial.subject}, separators=(",", ":"))
    return AuditEvent(denial.at, "client.cut_off", denial.client, 1, details)


CHANGES: dict[str, MakeChange] = {
    "reset": lambda ledger: ledger.acts.reset("a", "p", by(), told),
    "deny": lambda ledger: ledger.acts.deny(NEW, by(), denied),
    "allow": lambda ledger: ledger.allow("cn:old", told),
    "create_batch": lambda ledger: ledger.acts.create_batch(TERMS, by("cn:a"), told),
    "close_batch": lambda ledger: ledger.acts.close_batch("old", by(), told),
}


@pytest.fixture
async def ledger(home: Home) -> AsyncIterator[Ledger]:
    """One in which each of the changes can be made."""
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("a"))
    await ledger.acts.deny(Denied("cn:old", "lost", "cn:admin", 1), by(), told)
    await ledger.acts.create_batch(TERMS._replace(name="old"), by("cn:a"), told)
    yield ledger
    await ledger.close()


def events(home: Home) -> int:
    ((count,),) = home.read("SELECT count(*) FROM events")
    return int(count)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_is_written_with_its_event_and_only_once(
    ledger: Ledger, home: Home, change: MakeChange
) -> None:
    before = events(home)
    first, again = await change(ledger), await change(ledger)
    assert first.event == (denied(NEW) if first.result == NEW else told(first.result))
    assert again.event is None
    assert events(home) == before + 1
    ((leaves,),) = home.read("SELECT count(*) FROM unlogged WHERE kind = 4")
    assert leaves == before + 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_whose_event_can_not_be_written_is_not_made(
    ledger: Ledger, home: Home, change: MakeChange
) -> None:
    home.change("ALTER TABLE events RENAME TO gone")
    with pytest.raises(LedgerUnavailableError):
        await change(ledger)
    home.change("ALTER TABLE gone RENAME TO events")
    assert (await change(ledger)).event is not None  # so it was still to be made


async def test_the_event_of_a_closed_batch_knows_how_many_were_issued(ledger: Ledger) -> None:
    batch = as_done((await ledger.acts.create_batch(TERMS, by("cn:a"), told)).result)
    wanted = [intent(device)._replace(batch_id=batch.id) for device in "xyz"]
    await issue(ledger, *wanted[:2])
    await ledger.journal(wanted[2:])  # open: it may come to nothing
    change = await ledger.acts.close_batch(
        "new", by(), lambda state: told(state)._replace(details=f"{state.issued}")
    )
    assert change.event is not None
    assert change.event.details == "2"
