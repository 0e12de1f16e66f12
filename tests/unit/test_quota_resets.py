"""Resetting a quota: the day begins anew, the total does not; `verify` knows it from the audit log alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from otahsm.access import Quotas
from otahsm.ledger import (
    Accepted,
    AuditEvent,
    Intent,
    JournalResult,
    Ledger,
    LedgerReader,
    QuotaLimits,
    QuotaReset,
)
from otahsm.system.clock import microseconds

from support.homes import Home
from support.intents import intent
from support.logbook import findings, grow

NOW = microseconds(datetime.now(UTC).replace(hour=12))
LIMITS = Quotas(per_second=10**6, per_day=3, total=8)


def event(before: QuotaReset) -> AuditEvent:
    details = {"after": before.newest, "quota": before.quota_id, "taken": before.use.day_taken}
    return AuditEvent(NOW, "quota.reset", "cn:admin", 1, json.dumps(details))


async def journal(ledger: Ledger, quota: int, devices: str) -> list[JournalResult]:
    asked: list[Intent] = [
        intent(device)._replace(quota_id=quota, intended_at=NOW, policy_client="line") for device in devices
    ]
    return await ledger.journal(asked, limits={quota: QuotaLimits(LIMITS, frozenset({"old"}))})


def granted(answers: list[JournalResult]) -> int:
    return sum(isinstance(answer, Accepted) for answer in answers)


def quota_findings(home: Home) -> list[str]:
    return [what for what in findings(home) if what.startswith("quota")]


async def test_a_reset_gives_the_day_again_and_never_the_total(
    ledger: Ledger, home: Home, reader: LedgerReader
) -> None:
    (quota,) = await ledger.quota_ids(["line"])
    assert granted(await journal(ledger, quota, "abcd")) == 3
    (change,) = await ledger.reset_quota("line", ["old"], event)
    assert change.event is not None
    assert (change.result.use.taken, change.result.use.day_taken) == (3, 3)
    assert (reader.quota_uses()["line"].taken, reader.quota_uses()["line"].day_taken) == (3, 0)
    assert granted(await journal(ledger, quota, "efgh")) == 3
    assert quota_findings(home) == []
    await ledger.reset_quota("line", ["old"], event)
    assert granted(await journal(ledger, quota, "ijkl")) == 2  # of the total
    assert quota_findings(home) == []
    home.change("UPDATE quotas SET day_taken = 1")
    assert quota_findings(home) == [
        f"quota {quota}: counts 1 certificates on its last day, and there are 2 intents"
    ]


async def test_a_day_that_is_set_back_without_an_event_of_a_daemon_is_named(
    ledger: Ledger, home: Home
) -> None:
    (quota,) = await ledger.quota_ids(["line"])
    await journal(ledger, quota, "abc")
    home.change("UPDATE quotas SET day_taken = 0")
    assert len(quota_findings(home)) == 1
    details = json.dumps({"after": 10**9, "quota": quota})
    home.change(
        "INSERT INTO events (happened_at, name, client, occurrences, details)"
        f" VALUES ({NOW}, 'quota.reset', 'cn:admin', 1, '{details}')"
    )
    await grow(ledger)
    assert any(what.startswith("event") for what in findings(home))


async def test_what_was_counted_under_a_former_name_is_reset_too_and_each_row_says_so(
    ledger: Ledger, reader: LedgerReader
) -> None:
    old, new = await ledger.quota_ids(["old", "line"])
    assert granted(await journal(ledger, old, "abc")) == 3
    assert granted(await journal(ledger, new, "d")) == 0
    changes = await ledger.reset_quota("line", ["old", "older"], event)
    assert sorted(change.result.client for change in changes) == ["line", "old"]
    assert all(change.event is not None for change in changes)
    assert {name: use.day_taken for name, use in reader.quota_uses().items()} == {"line": 0, "old": 0}
    assert granted(await journal(ledger, new, "defg")) == 3


async def test_an_intent_from_before_a_reset_that_is_voided_after_it_is_no_tampering(
    ledger: Ledger, home: Home
) -> None:
    (quota,) = await ledger.quota_ids(["line"])
    before = [answer for answer in await journal(ledger, quota, "ab") if isinstance(answer, Accepted)]
    await ledger.reset_quota("line", [], event)
    assert granted(await journal(ledger, quota, "cd")) == 2
    await ledger.void([answer.intent_id for answer in before], "the signer was lost")
    assert home.read("SELECT taken, day_taken FROM quotas") == [(2, 0)]
    assert quota_findings(home) == []


async def test_a_client_that_had_nothing_yet_can_be_reset(ledger: Ledger, home: Home) -> None:
    (change,) = await ledger.reset_quota("new", [], event)
    assert change.result.use.taken == 0
    assert findings(home) == []
