"""A value that the database does not accept costs the request that it is in, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from otahsm.access import Denied
from otahsm.ledger import Accepted, AuditEvent, BatchTerms, Ledger, RevocationRequest
from otahsm.pki.crls.building import Reason
from otahsm.transparency.audit import AuditLog, EventName

from support.acts import by
from support.homes import Home
from support.intents import intent, issue, told

EVENT: Final = AuditEvent(1, "test.bad", "cn:test", 1, "{}")
TERMS: Final = BatchTerms("new", "p", 5, "{}", None, ())
DENIED: Final = Denied("cn:new", "lost", "cn:admin", 1)
TEXTS: Final = ("a\ud800b", "a\0b")
HUGE: Final = 2**63  # more than 64 bits have

Write = Callable[[Ledger], Awaitable[Any]]


def write_event(**fields: Any) -> Write:
    return lambda ledger: ledger.write_events([EVENT._replace(**fields)])


def journal(**fields: Any) -> Write:
    return lambda ledger: ledger.journal([intent("bad")._replace(**fields)])


def order(**fields: Any) -> Write:
    terms = TERMS._replace(**{"name": f"for {fields!r}", **fields})
    return lambda ledger: ledger.acts.create_batch(terms, by(), told)


def deny(**fields: Any) -> Write:
    denied = DENIED._replace(**{"subject": f"cn:{fields!r}", **fields})
    return lambda ledger: ledger.acts.deny(denied, by(), told)


def revoke(device_id: str = "a", client: str = "cn:test") -> Write:
    target = RevocationRequest(None, device_id, "", Reason.SUPERSEDED)
    return lambda ledger: ledger.acts.revoke([target], by(client))


TEXT_FIELDS: Final[dict[Callable[..., Write], tuple[str, ...]]] = {
    write_event: ("name", "client", "details"),
    journal: ("device_id", "request_id", "profile", "client", "policy_client"),
    order: ("name", "profile", "scheme"),
    deny: ("subject", "reason", "client"),
    revoke: ("device_id", "client"),
}
NUMBER_FIELDS: Final[dict[Callable[..., Write], tuple[str, ...]]] = {
    write_event: ("happened_at", "occurrences"),
    journal: ("not_before", "not_after", "intended_at", "batch_id", "quota_id"),
    order: ("device_count", "deadline"),
    deny: ("at",),
}
BAD: Final = {
    f"{make.__name__} {name} {value!a}": make(**{name: value})
    for fields, values in ((TEXT_FIELDS, TEXTS), (NUMBER_FIELDS, (HUGE,)))
    for make, names in fields.items()
    for name in names
    for value in values
}


async def test_a_value_that_can_not_be_stored_fails_its_own_request_alone(ledger: Ledger, home: Home) -> None:
    await issue(ledger, intent("a"))
    for number, (what, write) in enumerate(BAD.items()):
        held = threading.Event()
        ledger._writer.thread.submit(held.wait)  # all that comes meanwhile is one group
        good = ledger.journal([intent(f"good-{number}")]), ledger.write_events([told(0)])
        writes: list[asyncio.Future[Any]] = [asyncio.ensure_future(each) for each in (*good, write(ledger))]
        await asyncio.sleep(0)
        held.set()
        await asyncio.wait(writes)
        (accepted,), written, bad = writes[0].result(), writes[1].result(), writes[2].exception()
        assert isinstance(accepted, Accepted), what
        assert written is None, what
        # SQLite stores a NUL. What can't be stored is no failure of the ledger, and nothing to retry.
        assert isinstance(bad, ValueError | OverflowError) or "x00" in what, (what, bad)
        assert ledger.failure is None, what
        await ledger.record({accepted.intent_id: b"certificate"})
    ((unfinished,),) = home.read(
        "SELECT (SELECT count(*) FROM intents) - (SELECT count(*) FROM certificates)"
    )
    assert len(ledger._writer.open_intents) == unfinished, "the ledger knows intents that it does not have"


async def test_a_detail_of_megabytes_is_cut_so_that_a_page_of_events_can_be_read(ledger: Ledger) -> None:
    audit = AuditLog(ledger, lambda *_: None, lambda: datetime.now(UTC))
    for text in ("x" * 10_000_000, "\0\ud800" * 5_000_000):
        event = audit.event(EventName.POLICY_REFUSED, "daemon", {"message": text, "count": 2**70})
        assert len(event.details) < 10_000
        details = json.loads(event.details)
        assert details["message"].endswith("... (10000000 characters)")
        assert details["count"] == 2**70
        await ledger.write_events([event])
