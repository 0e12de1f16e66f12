"""The ledger, on SQLite and on PostgreSQL: what is accepted, replayed, refused, and what survives."""

from __future__ import annotations

import asyncio
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from otahsm.access import Owner, Quotas
from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger import (
    Accepted,
    Barred,
    BatchTerms,
    Conflict,
    InProgress,
    Intent,
    Ledger,
    OverQuota,
    QuotaLimits,
    Replay,
    RevocationRequest,
    database_of,
    migrations,
)
from otahsm.ledger.migrations import NEWEST, knows_version, migrate
from otahsm.ledger.schema import certificates, metadata
from otahsm.pki.crls.building import Reason
from otahsm.system.clock import microseconds
from otahsm.transparency.audit import EventName

from support.acts import by
from support.examples import examples
from support.homes import CA, MAC_KEYS, Home, ledger_in
from support.intents import intent, issue, told
from support.logbook import verdict

# Not intended_at, which comes with an intent.
WRITTEN_AT = (
    "SELECT superseded_at, voided_at, recorded_at, created_at, closed_at"
    " FROM intents LEFT JOIN certificates ON intent_id = intents.id CROSS JOIN batches"
)


async def test_whatever_is_written_is_written_by_the_clock_that_the_ledger_was_given(home: Home) -> None:
    now = datetime(2031, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
    ledger = Ledger(database_of(home.config), MAC_KEYS, [CA], clock=lambda: now)
    await ledger.open()
    await issue(ledger, intent("a"))
    await ledger.acts.reset("a", "p", by(), told)
    (answer,) = await ledger.journal([intent("b")])
    assert isinstance(answer, Accepted)
    await ledger.void([answer.intent_id], "drawn")
    await ledger.acts.create_batch(BatchTerms("b", "p", 5, "{}", None, ()), by("cn:a"), told)
    await ledger.acts.close_batch("b", by(), told)
    await ledger.close()
    written = {time for row in home.read(WRITTEN_AT) for time in row if time is not None}
    assert written == {microseconds(now)}


async def test_the_same_device_and_key_again_gets_the_same_certificate(ledger: Ledger) -> None:
    first = intent("a")
    await issue(ledger, first)
    for again in (intent("a"), intent("a", request="another request id")):
        (answer,) = await ledger.journal([again])
        assert answer == Replay(
            b"certificate of a", first.serial, 1, 2, Owner("cn:test", first.client_certificate_sha256, "")
        )


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (intent("a", key="other"), "the device id a has the certificate"),
        (intent("b", key="a"), "the public key belongs to the device a"),
        (intent("b", key="a", profile="q"), "the public key belongs to the device a"),
        (intent("b", request="p/a/a"), "the request id p/a/a was used for the device a"),
        (intent("a", request="p/a/a", profile="q"), "the request id p/a/a was used for the device a"),
    ],
)
async def test_a_device_id_a_key_and_a_request_id_belong_to_one_certificate(
    ledger: Ledger, asked: Intent, named: str
) -> None:
    first = intent("a")
    await issue(ledger, first)
    (answer,) = await ledger.journal([asked])
    assert isinstance(answer, Conflict)
    assert named in answer.message
    assert first.serial.hex() in answer.message


async def test_a_request_id_is_its_clients_and_blocks_no_other(ledger: Ledger) -> None:
    await issue(ledger, intent("a", request="1"))
    await issue(ledger, intent("b", request="1")._replace(client="cn:other"))
    (again,) = await ledger.journal([intent("c", request="1")._replace(client="cn:other")])
    assert isinstance(again, Conflict)
    assert "the device b" in again.message
    assert again.owner == Owner("cn:other", bytes(32), "")


async def test_a_conflict_says_whose_the_other_certificate_is(ledger: Ledger) -> None:
    await issue(ledger, intent("a")._replace(policy_client="line"))
    asked = [intent("a", key="k"), intent("b", key="a")]
    for answer in await ledger.journal([item._replace(client="cn:other") for item in asked]):
        assert isinstance(answer, Conflict)
        assert answer.owner == Owner("cn:test", bytes(32), "line")
    mine = intent("x")._replace(client="cn:other", policy_client="other")
    _, rival = await ledger.journal([mine, intent("x", key="y")])  # of the same group
    assert isinstance(rival, Conflict)
    assert rival.owner == Owner("cn:other", bytes(32), "other")
    await ledger.acts.revoke([RevocationRequest(None, "a", "", Reason.KEY_COMPROMISE)], by("cn:test"), 4)
    for barred in await ledger.journal([intent("a"), intent("c", key="a")]):
        assert isinstance(barred, Barred)
        assert barred.owner == Owner("cn:test", bytes(32), "line")


async def test_what_a_client_had_under_a_former_name_counts_in_its_quota(ledger: Ledger, home: Home) -> None:
    limits = Quotas(per_day=3, total=5)
    (old,) = await ledger.quota_ids(["old"])
    first = [intent(device)._replace(quota_id=old) for device in "ab"]
    assert await journalled(ledger, first, {old: QuotaLimits(limits)}) == [Accepted, Accepted]
    (new,) = await ledger.quota_ids(["new"])
    renamed = {new: QuotaLimits(limits, frozenset({"old", "older"}))}
    more = [intent(device)._replace(quota_id=new) for device in "cd"]
    assert await journalled(ledger, more, renamed) == [Accepted, OverQuota]
    tomorrow = [intent(device)._replace(quota_id=new, intended_at=86_400_000_000) for device in "efg"]
    assert await journalled(ledger, tomorrow, renamed) == [Accepted, Accepted, OverQuota]
    assert home.read("SELECT client, taken, day, day_taken FROM quotas ORDER BY client") == [
        ("new", 3, 1, 2),
        ("old", 2, 0, 2),
    ]


async def test_a_clock_that_was_ahead_closes_no_quota_and_its_correction_is_an_event(
    ledger: Ledger, home: Home
) -> None:
    limits = Quotas(per_day=3)
    (quota,) = await ledger.quota_ids(["line"])
    ahead = [intent(device)._replace(quota_id=quota, intended_at=3650 * 86_400_000_000) for device in "ab"]
    assert await journalled(ledger, ahead, {quota: QuotaLimits(limits)}) == [Accepted, Accepted]
    today = [intent(device)._replace(quota_id=quota) for device in "cd"]
    assert await journalled(ledger, today, {quota: QuotaLimits(limits)}) == [Accepted, OverQuota]
    tomorrow = [intent(device)._replace(quota_id=quota, intended_at=86_400_000_000) for device in "efgh"]
    assert await journalled(ledger, tomorrow, {quota: QuotaLimits(limits)}) == [*[Accepted] * 3, OverQuota]
    assert home.read("SELECT taken, day, day_taken FROM quotas") == [(6, 1, 3)]
    assert home.read("SELECT name, details FROM events") == [
        (EventName.QUOTA_CORRECTED, f'{{"after":4,"client":"line","quota":{quota}}}')
    ]
    assert quota_findings(home) == []
    home.change("UPDATE quotas SET day_taken = 2")
    (found,) = quota_findings(home)
    assert found == "counts 2 certificates on its last day, and there are 3 intents"
    home.change("UPDATE quotas SET day = 0")
    assert quota_findings(home) == ["has intents of a later day than its last one"]


def quota_findings(home: Home) -> list[str]:
    return [what for where, what in verdict(home).findings if where.startswith("quota")]


async def journalled(
    ledger: Ledger, asked: list[Intent], limits: dict[int, QuotaLimits]
) -> list[type[object]]:
    return [type(answer) for answer in await ledger.journal(asked, limits=limits)]


async def test_one_device_may_have_certificates_under_two_profiles_for_the_same_key(ledger: Ledger) -> None:
    await issue(ledger, intent("a"), intent("a", profile="q"))


async def test_what_is_under_way_is_not_begun_again(ledger: Ledger) -> None:
    assert [type(answer) for answer in await ledger.journal([intent("a"), intent("a")])] == [
        Accepted,
        InProgress,
    ]
    assert [type(answer) for answer in await ledger.journal([intent("a")])] == [InProgress]


async def test_conflicts_inside_one_batch_are_found(ledger: Ledger) -> None:
    answers = await ledger.journal([intent("a"), intent("a", key="k"), intent("b", key="a"), intent("c")])
    assert [type(answer) for answer in answers] == [Accepted, Conflict, Conflict, Accepted]


async def test_a_voided_device_may_ask_again(ledger: Ledger) -> None:
    (answer,) = await ledger.journal([intent("a")])
    assert isinstance(answer, Accepted)
    await ledger.void([answer.intent_id], "the token was away")
    await issue(ledger, intent("a"))


async def test_a_recorded_certificate_can_not_be_voided(ledger: Ledger) -> None:
    (answer,) = await ledger.journal([intent("a")])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: b"x"})
    await ledger.void([answer.intent_id], "by mistake")
    (again,) = await ledger.journal([intent("a")])
    assert isinstance(again, Replay)


async def test_open_intents_are_voided_when_the_ledger_is_opened_again(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("done"))
    await ledger.journal([intent("open"), intent("open too")])
    await ledger.close()
    assert await opened_again(home) == 2
    assert await opened_again(home) == 0
    reasons = home.read("SELECT device_id, void_reason FROM intents ORDER BY id")
    assert reasons[0] == ("done", None)
    assert all("stopped before" in reason for _, reason in reasons[1:])


async def test_an_intent_left_open_behind_newer_ones_is_found_at_the_next_start(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("done"))
    await ledger.journal([intent("stuck in a signer")])
    for number in range(5):
        await issue(ledger, intent(f"newer-{number}"))
    await ledger.close()
    assert home.read("SELECT closed_below FROM replicas") == [(2,)]
    assert await opened_again(home) == 1
    assert home.read("SELECT closed_below FROM replicas") == [(8,)]


async def opened_again(home: Home) -> int:
    ledger = ledger_in(home)
    voided = await ledger.open()
    await ledger.close()
    return voided


async def test_a_serial_number_can_not_be_used_twice(ledger: Ledger) -> None:
    first, second = intent("a"), intent("b")
    await issue(ledger, first)
    twin = second._replace(serial=first.serial)
    with pytest.raises(LedgerUnavailableError):
        await ledger.journal([twin])


async def test_a_write_that_fails_fails_alone(ledger: Ledger, home: Home) -> None:
    def spoil(connection: Connection) -> None:
        connection.execute(insert(certificates).values(intent_id=999, der=b"x", recorded_at=1))

    held = threading.Event()
    ledger._writer.thread.submit(held.wait)  # all that comes meanwhile is one group
    group = (ledger.journal([intent("a")]), ledger._writer.transaction(spoil), ledger.journal([intent("b")]))
    writes = [asyncio.create_task(write) for write in group]
    await asyncio.sleep(0)
    held.set()
    before, spoilt, after = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(spoilt, LedgerUnavailableError)
    # What was written with it was taken back and written again, as another intent.
    assert [before, after] == [[Accepted(2)], [Accepted(3)]]
    assert isinstance((await ledger.journal([intent("a")]))[0], InProgress)
    assert home.read("SELECT id, device_id, void_reason FROM intents ORDER BY id") == [
        (2, "a", None),
        (3, "b", None),
    ]


async def test_a_ledger_that_failed_says_so_until_a_write_succeeds(ledger: Ledger) -> None:
    def spoil(connection: Connection) -> None:
        connection.execute(insert(certificates).values(intent_id=999, der=b"x", recorded_at=1))

    said = [ledger.failure]
    with pytest.raises(LedgerUnavailableError):
        await ledger._writer.transaction(spoil)
    said.append(ledger.failure)
    assert await ledger.tend() == 0
    said.append(ledger.failure)
    assert [failure is not None for failure in said] == [False, True, False]


async def test_a_ledger_belongs_to_one_ca(home: Home) -> None:
    await opened_again(home)
    other = ledger_in(home, b"another CA")  # empty: it may still become anybody's
    await other.open()
    await other.close()
    await opened_again(home)
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("a"))
    await ledger.close()
    other = ledger_in(home, b"another CA")
    with pytest.raises(ConfigError, match="of another CA"):
        await other.open()
    await other.close()
    assert await opened_again(home) == 0


async def test_a_closed_ledger_says_that_it_is_unavailable(home: Home) -> None:
    with pytest.raises(LedgerUnavailableError):
        await ledger_in(home).journal([intent("a")])


def test_the_newest_version_is_the_last_of_the_migrations() -> None:
    scripts = sorted(path.stem[:4] for path in Path(migrations.__file__).parent.glob("versions/0*.py"))
    assert len(set(scripts)) == len(scripts)
    assert scripts[-1] == NEWEST
    assert all(map(knows_version, scripts))
    newer = f"{int(NEWEST) + 1:04}"
    assert not any(map(knows_version, ["", "0000", newer, "9999", "8", "head", "00008", "-001"]))


def test_the_migrations_make_the_schema_that_the_code_uses(home: Home) -> None:
    database = database_of(home.config)
    database.hold()
    with database.engine.begin() as connection:
        migrate(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


NAMES = st.sampled_from("abc")


@given(asked=st.lists(st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=6), max_size=6), data=st.data())
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_is_asked_a_device_and_a_key_get_one_certificate(
    ledger: Ledger, asked: list[list[tuple[str, str, str]]], data: st.DataObject
) -> None:
    run = uuid.uuid4().hex  # the ledger is the same for all examples
    certificate_of: dict[str, tuple[str, bytes]] = {}
    for number, batch in enumerate(asked):
        intents = [intent(device + run, key + run, request + run) for device, key, request in batch]
        answers = await ledger.journal(intents) if intents else []
        for wanted, answer in zip(intents, answers, strict=True):
            key = wanted.spki_sha256.hex()
            known = certificate_of.get(wanted.device_id)
            if isinstance(answer, Replay):
                assert known == (key, answer.certificate)
            elif isinstance(answer, Accepted):
                assert known is None
                assert key not in [other for other, _ in certificate_of.values()]
                if data.draw(st.booleans()):
                    der = f"{number} {wanted.device_id}".encode()
                    await ledger.record({answer.intent_id: der})
                    certificate_of[wanted.device_id] = (key, der)
                else:
                    await ledger.void([answer.intent_id], "drawn")
