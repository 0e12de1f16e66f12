"""Renewal and rekeying in the ledger: when a certificate may be superseded, and that it is only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from otahsm.ledger import (
    Accepted,
    Conflict,
    InProgress,
    Intent,
    JournalResult,
    Ledger,
    Renewal,
    Replay,
    RevocationRequest,
    database_of,
)
from otahsm.pki.crls.building import Reason

from support.acts import by
from support.homes import CA, MAC_KEYS, Home, PostgresHome
from support.intents import intent, told
from support.logbook import findings, grow
from support.postgres import PostgresServer

DAY = 24 * 3600
RENEWALS = {"p": Renewal(same_key_seconds=30 * DAY, new_key_seconds=10 * DAY)}


def at(day: int, device: str = "a", key: str = "", request: str = "") -> Intent:
    """Ask on a day for a year's certificate."""
    return intent(device, key, request or f"{device}/{key}/{day}")._replace(
        not_before=day * DAY, not_after=(day + 365) * DAY, intended_at=day * DAY * 1_000_000
    )


def ledger_with_renewal(home: Home) -> Ledger:
    return Ledger(database_of(home.config), MAC_KEYS, [CA], RENEWALS)


@pytest.fixture
async def ledger(home: Home) -> AsyncIterator[Ledger]:
    ledger = ledger_with_renewal(home)
    await ledger.open()
    yield ledger
    if ledger._writer.is_open:
        await ledger.close()


async def issue(ledger: Ledger, asked: Intent, der: bytes) -> int:
    (answer,) = await ledger.journal([asked])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: der})
    return answer.intent_id


async def ask(ledger: Ledger, asked: Intent) -> JournalResult:
    (answer,) = await ledger.journal([asked])
    return answer


@pytest.mark.parametrize("day", [1, 334])
async def test_before_its_window_a_certificate_is_replayed(ledger: Ledger, day: int) -> None:
    await issue(ledger, at(0), b"first")
    answer = await ask(ledger, at(day))
    assert isinstance(answer, Replay)
    assert answer.certificate == b"first"


@pytest.mark.parametrize("day", [335, 364, 365, 1000])
async def test_in_its_window_and_after_its_end_a_certificate_is_renewed_once(
    ledger: Ledger, home: Home, day: int
) -> None:
    old = await issue(ledger, at(0), b"first")
    new = await issue(ledger, at(day), b"second")
    answer = await ask(ledger, at(day + 1))
    assert isinstance(answer, Replay)
    assert answer.certificate == b"second"
    assert home.read("SELECT id, superseded_by FROM intents WHERE superseded_at IS NOT NULL") == [(old, new)]


@pytest.mark.parametrize(("day", "answered"), [(354, Conflict), (355, Accepted), (400, Accepted)])
async def test_another_key_is_taken_in_its_own_window(
    ledger: Ledger, day: int, answered: type[JournalResult]
) -> None:
    await issue(ledger, at(0, key="old"), b"first")
    answer = await ask(ledger, at(day, key="new"))
    assert isinstance(answer, answered)


async def test_the_old_key_is_refused_once_there_is_a_new_one(ledger: Ledger) -> None:
    await issue(ledger, at(0, key="old"), b"first")
    await issue(ledger, at(360, key="new"), b"second")
    assert isinstance(await ask(ledger, at(361, key="old")), Conflict)


async def test_a_profile_without_windows_never_renews(ledger: Ledger) -> None:
    await issue(ledger, at(0)._replace(profile="q"), b"first")
    assert isinstance(await ask(ledger, at(500)._replace(profile="q")), Replay)


async def test_a_certificate_that_would_end_no_later_is_not_made(ledger: Ledger) -> None:
    asked = at(0)
    await issue(ledger, asked, b"first")
    # The CA ends with it: a new one would be in its window at once, and every request make another.
    assert isinstance(await ask(ledger, at(360)._replace(not_after=asked.not_after)), Replay)


async def test_a_renewal_under_way_is_not_begun_again_and_leaves_the_old_one_if_it_fails(
    ledger: Ledger, home: Home
) -> None:
    await issue(ledger, at(0), b"first")
    under_way = await ask(ledger, at(350))
    assert isinstance(under_way, Accepted)
    assert isinstance(await ask(ledger, at(351)), InProgress)
    await ledger.void([under_way.intent_id], "the token was away")
    assert home.read("SELECT count(*) FROM intents WHERE superseded_at IS NOT NULL") == [(0,)]
    answer = await ask(ledger, at(1))  # as if the clock had gone back: out of the window
    assert isinstance(answer, Replay)
    assert answer.certificate == b"first"


async def test_a_renewal_that_a_crash_cut_off_leaves_the_old_one(ledger: Ledger, home: Home) -> None:
    await issue(ledger, at(0), b"first")
    assert isinstance(await ask(ledger, at(350)), Accepted)
    await ledger.close()
    again = ledger_with_renewal(home)
    assert await again.open() == 1
    assert isinstance(await ask(again, at(1)), Replay)
    await again.close()


async def test_a_renewal_that_fails_when_its_request_id_is_taken_leaves_a_ledger_that_can_be_written(
    ledger: Ledger, home: Home
) -> None:
    old = await issue(ledger, at(0, request="name"), b"first")
    under_way = await ask(ledger, at(350, request="another"))
    assert isinstance(under_way, Accepted)
    await issue(ledger, at(350, device="b", request="name"), b"of b")
    await ledger.void([under_way.intent_id], "the token was away")
    assert ledger.failure is None
    assert home.read("SELECT id FROM intents WHERE superseded_at IS NOT NULL") == [(old,)]
    await issue(ledger, at(1, request="a third"), b"second")  # as if in its window, where it was


async def test_of_two_renewals_that_fail_with_one_request_id_the_later_keeps_it(
    ledger: Ledger, home: Home
) -> None:
    await issue(ledger, at(0, request="name"), b"first")
    assert isinstance(await ask(ledger, at(350, request="another")), Accepted)
    later = await issue(ledger, at(0, device="b", request="name"), b"of b")
    assert isinstance(await ask(ledger, at(350, device="b", request="one more")), Accepted)
    await ledger.close()
    again = ledger_with_renewal(home)
    assert await again.open() == 2
    live = "SELECT id FROM intents WHERE superseded_at IS NULL AND void_reason IS NULL"
    assert home.read(live) == [(later,)]
    await grow(again)
    await again.close()
    assert findings(home) == []


async def test_a_batch_that_asks_twice_renews_once(ledger: Ledger, home: Home) -> None:
    await issue(ledger, at(0), b"first")
    answers = await ledger.journal([at(350), at(350, request="again"), at(350, device="b")])
    assert [type(answer) for answer in answers] == [Accepted, InProgress, Accepted]
    assert home.read("SELECT count(*) FROM intents WHERE superseded_at IS NOT NULL") == [(1,)]


async def test_another_clients_request_id_does_not_keep_a_certificate_superseded(ledger: Ledger) -> None:
    await issue(ledger, at(0, request="name"), b"first")
    under_way = await ask(ledger, at(350, request="another"))
    assert isinstance(under_way, Accepted)
    await issue(ledger, at(350, device="b", request="name")._replace(client="cn:other"), b"of b")
    await ledger.void([under_way.intent_id], "a test")
    assert isinstance(await ask(ledger, at(1, request="name")), Replay)


async def test_the_key_of_a_superseded_certificate_stays_its_devices(ledger: Ledger) -> None:
    await issue(ledger, at(0, key="old"), b"first")
    await issue(ledger, at(360, key="new"), b"second")
    assert isinstance(await ask(ledger, at(361, device="b", key="old")), Conflict)


async def test_a_device_that_is_set_free_may_have_a_new_key_at_once(ledger: Ledger, home: Home) -> None:
    asked = at(0, key="old")
    await issue(ledger, asked, b"first")
    assert (await ledger.acts.reset("a", "p", by(), told)).result == asked.serial
    assert (await ledger.acts.reset("a", "p", by(), told)).result is None
    await issue(ledger, at(1, key="new"), b"second")
    assert isinstance(await ask(ledger, at(2, key="old")), Conflict)
    assert home.read("SELECT count(*) FROM certificates") == [(2,)]


async def test_what_is_under_way_or_unknown_is_not_reset(ledger: Ledger) -> None:
    assert isinstance(await ask(ledger, at(0)), Accepted)
    assert (await ledger.acts.reset("a", "p", by(), told)).result is None
    assert (await ledger.acts.reset("b", "p", by(), told)).result is None
    assert isinstance(await ask(ledger, at(0)), InProgress)


async def test_two_replicas_renew_a_certificate_once(postgres_server: PostgresServer) -> None:
    home = PostgresHome(postgres_server)
    both = ledger_with_renewal(home), ledger_with_renewal(home)
    for ledger in both:
        await ledger.open()
    devices = [f"device-{number}" for number in range(50)]
    for device in devices:
        await issue(both[0], at(0, device), b"first")
    answers = await asyncio.gather(
        both[0].journal([at(350, device) for device in devices]),
        both[1].journal([at(350, device) for device in reversed(devices)]),
    )
    kinds = [type(answer) for answered in answers for answer in answered]
    assert kinds.count(Accepted) == kinds.count(InProgress) == 50
    assert home.read("SELECT count(*), count(DISTINCT superseded_by) FROM intents WHERE place > 0"
                     " AND superseded_at IS NOT NULL") == [(50, 50)]  # fmt: skip
    for ledger in both:
        await ledger.close()


@pytest.mark.parametrize("reason", [Reason.SUPERSEDED, Reason.KEY_COMPROMISE])
async def test_a_revocation_that_was_away_for_a_moment_is_missed(
    ledger: Ledger, home: Home, reason: Reason
) -> None:
    await issue(ledger, at(0), b"first")
    await issue(ledger, at(350), b"second")
    other = at(0, "b")
    await issue(ledger, other, b"of b")
    for device in ("a", "b"):
        await ledger.acts.revoke(
            [RevocationRequest(None, device, "", reason)], by("cn:test"), 352 * DAY * 1_000_000
        )
    await grow(ledger)
    assert findings(home) == []
    home.change("CREATE TABLE away AS SELECT * FROM revocations")
    home.change("DELETE FROM revocations WHERE intent_id > 1")
    await issue(ledger, at(355, "b"), b"another of b")
    home.change("INSERT INTO revocations SELECT * FROM away WHERE intent_id > 1", "DROP TABLE away")
    await grow(ledger)
    await ledger.close()
    said = ["intent 4: has a certificate, and that of its device had been revoked"]
    if reason == Reason.KEY_COMPROMISE:
        said.append("intent 4: has a certificate, and its key had been revoked as compromised")
    assert findings(home) == said
