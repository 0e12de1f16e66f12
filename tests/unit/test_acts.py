"""What can't be undone is bounded: what exceeds a quota is held until a second principal confirms it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from otahsm.access import Denied
from otahsm.errors import (
    ConflictError,
    HeldError,
    InProgressError,
    LedgerTamperedError,
    NotFoundError,
    NotHeldError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
)
from otahsm.ledger import (
    Act,
    ActKind,
    BatchTerms,
    BreakGlass,
    Ledger,
    LedgerReader,
    MacKeys,
    Requester,
    RevocationRequest,
    asked_in,
    break_glass_mac,
    database_of,
    vouches,
)
from otahsm.ledger.act_values import MAX_HELD, Used, revocation_payload
from otahsm.system.clock import microseconds
from otahsm.tlog import canonical

from support.acts import PlainEvents, by, deciding
from support.homes import CA, MAC_KEYS, Home, PostgresHome, SqliteHome, ledger_in
from support.intents import intent, issue, told
from support.logbook import findings, grow
from support.postgres import PostgresServer

START = datetime(2026, 12, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = deciding("cn:second")
BOSS = by("cn:boss")
TERMS = BatchTerms("order", "p", 5, "{}", None, ("cn:line",))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Station:
    """A ledger with six devices and a batch, whose clock is set by hand."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.clock = Clock()
        self.ledger = Ledger(database_of(home.config), MAC_KEYS, [CA], clock=self.clock)
        self.reader = LedgerReader(home.config)

    async def open(self) -> None:
        await self.ledger.open()
        await issue(self.ledger, *(intent(f"d{number}") for number in range(6)))
        await self.ledger.acts.create_batch(TERMS._replace(name="old"), BOSS, told)

    async def revoke(self, who: Requester, *devices: str) -> list[object]:
        targets = [RevocationRequest(None, device, "", "superseded") for device in devices]
        answers = (await self.ledger.acts.revoke(targets, who)).result
        return [len(answer) if isinstance(answer, list) else answer for answer in answers]

    async def confirm(self, act_id: int, digest: bytes = b"") -> Act:
        looked_at = digest or self.act(act_id).digest
        decided = await self.ledger.acts.confirm(act_id, looked_at, SECOND, PlainEvents())
        return decided.act

    def act(self, act_id: int) -> Act:
        (act,) = self.reader.acts_among([act_id])
        return act

    def revoked(self) -> list[str]:
        query = "SELECT device_id FROM intents JOIN revocations ON intent_id = intents.id ORDER BY 1"
        return [device for (device,) in self.home.read(query)]

    def events(self) -> list[str]:
        return [
            name for (name,) in self.home.read("SELECT name FROM events WHERE name LIKE 'act.%' ORDER BY id")
        ]


@pytest.fixture
async def station(home: Home) -> AsyncIterator[Station]:
    station = Station(home)
    await station.open()
    yield station
    station.reader.close()
    await station.ledger.close()


def number_of(result: object) -> int:
    assert isinstance(result, HeldError), result
    return int(result.metadata["act"])


def test_a_client_has_what_both_quotas_leave() -> None:
    assert Used(0, 0).left(by(per_day=3, fleet_per_day=5)) == 3
    assert Used(1, 4).left(by(per_day=3, fleet_per_day=5)) == 1
    assert Used(3, 3).left(by(per_day=3, fleet_per_day=5)) == 0
    assert Used(0, 9).left(by(per_day=3, fleet_per_day=5)) == 0  # it was lowered since


async def test_what_exceeds_a_quota_is_held(station: Station) -> None:
    results = await station.revoke(by(per_day=3), "d0", "d1", "d2", "d3", "nobody", "d4")
    assert results[:3] == [1, 1, 1]
    assert results[4] == 0
    assert number_of(results[3]) == number_of(results[5])
    assert station.revoked() == ["d0", "d1", "d2"]
    held = station.act(number_of(results[3]))
    assert (held.kind, held.client, held.size) == ("revocation", "cn:test", 2)
    assert station.events() == ["act.held"]
    await grow(station.ledger)
    assert findings(station.home) == []


async def test_a_retry_finds_the_same_held_act(station: Station) -> None:
    who = by(per_day=1)
    first = await station.revoke(who, "d0", "d1", "d2")
    again = await station.revoke(who, "d0", "d1", "d2")
    assert again[0] == 1
    assert [number_of(each) for each in again[1:]] == [number_of(each) for each in first[1:]]
    assert station.events() == ["act.held"]
    (other,) = await station.revoke(who, "d2")
    assert number_of(other) != number_of(first[1])


async def test_all_certificates_of_a_device_are_revoked_or_none(station: Station) -> None:
    await issue(station.ledger, intent("d0", profile="q", key="another"))
    held, done = await station.revoke(by(per_day=1), "d0", "d1")
    assert station.act(number_of(held)).size == 2
    assert done == 1
    assert station.revoked() == ["d1"]


async def test_the_fleet_has_a_quota_too_and_a_client_keeps_its_own_under_another_name(
    station: Station,
) -> None:
    renamed = by("cn:b", per_day=2)._replace(names=frozenset({"b", "a"}))
    assert await station.revoke(by("cn:a", per_day=2), "d0") == [1]
    results = await station.revoke(renamed, "d1", "d2")
    assert results[0] == 1
    assert number_of(results[1])
    (held,) = await station.revoke(by("cn:c", per_day=2, fleet_per_day=2), "d3")
    assert number_of(held)
    assert await station.revoke(by("cn:c", per_day=2, fleet_per_day=3), "d3") == [1]
    anew = by("cn:b", per_day=2)._replace(name="c", names=frozenset({"c"}))  # not said to be formerly b
    (held,) = await station.revoke(anew, "d4")
    assert number_of(held)


def _denied(name: str) -> Denied:
    return Denied(f"cn:{name}", "lost", "cn:test", 1)


# What asks for an act of each kind: the first changes something, the second would, the third changes nothing.
ASKED: dict[ActKind, Sequence[Callable[[Ledger, Requester], Awaitable[object]]]] = {
    ActKind.RESET: [
        lambda ledger, who: ledger.acts.reset("d0", "p", who, told),
        lambda ledger, who: ledger.acts.reset("d1", "p", who, told),
        lambda ledger, who: ledger.acts.reset("nobody", "p", who, told),
    ],
    ActKind.DENIAL: [
        lambda ledger, who: ledger.acts.deny(
            _denied("a"),
            who,
            PlainEvents().denied(SECOND.principal._replace(identity="cn:test"), _denied("a")),
        ),
        lambda ledger, who: ledger.acts.deny(_denied("b"), who, told),
        lambda ledger, who: ledger.acts.deny(_denied("a"), who, told),
    ],
    ActKind.BATCH: [
        lambda ledger, who: ledger.acts.create_batch(TERMS, who, told),
        lambda ledger, who: ledger.acts.create_batch(TERMS._replace(name="other"), who, told),
        lambda ledger, who: ledger.acts.create_batch(TERMS, who, told),
    ],
    ActKind.CLOSING: [
        lambda ledger, who: ledger.acts.close_batch("old", who, told),
        lambda ledger, who: ledger.acts.close_batch("order", who, told),
        lambda ledger, who: ledger.acts.close_batch("old", who, told),
    ],
}


async def _ask(station: Station, kind: ActKind, which: int, who: Requester) -> object:
    change = await ASKED[kind][which](station.ledger, who)
    return change.result  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", list(ASKED))
async def test_each_kind_has_quotas_of_its_own_and_is_done_once_confirmed(
    station: Station, kind: ActKind
) -> None:
    who = by(per_day=1)
    await station.revoke(who, "d5")  # counts for another kind
    if kind is ActKind.CLOSING:
        await station.ledger.acts.create_batch(TERMS, BOSS, told)
    for _ in range(2):
        assert not isinstance(await _ask(station, kind, 0, who) or 0, OtahsmError)
        assert not isinstance(await _ask(station, kind, 2, who) or 0, OtahsmError)
    held = await _ask(station, kind, 1, who)
    assert number_of(held) == number_of(await _ask(station, kind, 1, who))
    assert station.act(number_of(held)).kind == kind
    before = _state(station.home)
    confirmed = await station.confirm(number_of(held))
    assert (confirmed.decision, confirmed.done) == ("confirmed", 1)
    assert _state(station.home) != before
    assert await station.confirm(number_of(held)) == confirmed  # nothing is done twice
    assert station.events() == ["act.held", "act.confirmed"]
    assert not isinstance(await _ask(station, kind, 1, who) or 0, OtahsmError)  # there is nothing to do now
    await grow(station.ledger)
    assert findings(station.home) == []


def _state(home: Home) -> list[object]:
    queries = (
        "SELECT count(*) FROM intents WHERE superseded_at IS NOT NULL",
        "SELECT count(*) FROM denied_clients",
        "SELECT count(*), count(closed_at) FROM batches",
    )
    return [home.read(query) for query in queries]


async def test_what_is_confirmed_does_not_count_and_what_is_held_neither(station: Station) -> None:
    who = by(per_day=1)
    (held,) = await station.revoke(by(per_day=0), "d0")
    assert (await station.confirm(number_of(held))).done == 1
    assert await station.revoke(who, "d1") == [1]
    assert await station.revoke(who, "d0", "d1") == [1, 1]  # they are revoked already


async def test_a_quota_is_of_the_last_24_hours_and_what_is_held_lapses_then(station: Station) -> None:
    who = by(per_day=1)
    assert await station.revoke(who, "d0") == [1]
    (held,) = await station.revoke(who, "d1")
    assert isinstance(held, HeldError)
    assert held.metadata["lapses_at"] == "2026-12-02T12:00:00Z"
    station.clock.now = START + DAY - timedelta(microseconds=1)
    assert number_of((await station.revoke(who, "d1"))[0]) == number_of(held)
    station.clock.now = START + DAY
    with pytest.raises(NotHeldError, match="lapsed"):
        await station.confirm(number_of(held))
    with pytest.raises(NotHeldError, match="lapsed"):
        await station.ledger.acts.reject(number_of(held), SECOND)
    assert await station.revoke(who, "d1") == [1]
    assert station.events() == ["act.held"]


async def test_a_clock_that_was_ahead_closes_no_quota_and_keeps_nothing_open(station: Station) -> None:
    who = by(per_day=1)
    station.clock.now = START + 400 * DAY
    assert await station.revoke(who, "d0") == [1]
    (held,) = await station.revoke(who, "d1")
    station.clock.now = START
    with pytest.raises(NotHeldError, match="a clock is wrong"):
        await station.confirm(number_of(held))
    assert await station.revoke(who, "d1") == [1]


async def test_a_clock_that_was_ahead_for_an_hour_gives_no_quota_twice(station: Station) -> None:
    station.clock.now = START + timedelta(hours=1)
    assert await station.revoke(by(per_day=1), "d0") == [1]
    station.clock.now = START
    assert number_of((await station.revoke(by(per_day=1), "d1"))[0])


async def test_what_was_rejected_is_never_done(station: Station) -> None:
    (held,) = await station.revoke(by(per_day=0), "d0")
    act_id = number_of(held)
    rejected = (await station.ledger.acts.reject(act_id, SECOND)).act
    assert (rejected.decision, rejected.decided_by, rejected.done) == ("rejected", "cn:second", 0)
    assert (await station.ledger.acts.reject(act_id, deciding("cn:third"))).act == rejected
    with pytest.raises(NotHeldError, match="rejected"):
        await station.confirm(act_id)
    (anew,) = await station.revoke(by(per_day=0), "d0")
    await station.confirm(number_of(anew))
    with pytest.raises(NotHeldError, match="confirmed"):
        await station.ledger.acts.reject(number_of(anew), SECOND)
    with pytest.raises(NotFoundError):
        await station.ledger.acts.confirm(99, bytes(32), SECOND, PlainEvents())


async def test_what_is_not_possible_any_more_is_refused_and_stays_open(station: Station) -> None:
    strict = by(per_day=0)
    acts = station.ledger.acts
    reset = number_of((await acts.reset("d0", "p", strict, told)).result)
    order = number_of((await acts.create_batch(TERMS, strict, told)).result)
    (revocation,) = await station.revoke(strict, "d1")
    await acts.reset("d0", "p", by(), told)
    await acts.create_batch(TERMS._replace(device_count=6), by(), told)
    await station.ledger.journal([intent("d1", profile="q", key="another")])
    for act_id, error in (
        (reset, NotFoundError),
        (order, ConflictError),
        (number_of(revocation), InProgressError),
    ):
        with pytest.raises(error, match="nothing was done"):
            await station.confirm(act_id)
        assert station.act(act_id).decision is None
    assert station.revoked() == []


async def test_a_certificate_that_a_device_got_since_is_neither_revoked_nor_reset(station: Station) -> None:
    strict, acts = by(per_day=0), station.ledger.acts
    late = microseconds(START) + 1
    (revocation,) = await station.revoke(strict, "d0")
    (alone,) = await station.revoke(strict, "d1")
    reset = number_of((await acts.reset("d2", "p", strict, told)).result)
    for device in ("d0", "d1", "d2"):  # another operator was faster, and they got new ones
        await acts.reset(device, "p", by(), told)
        await issue(station.ledger, intent(device, key=f"new {device}")._replace(intended_at=late))
    await station.revoke(by(), "d0")
    await issue(station.ledger, intent("d0", profile="q", key="third")._replace(intended_at=late))
    await station.ledger.journal([intent("d1", profile="q", key="open")._replace(intended_at=late)])
    station.clock.now = START + timedelta(seconds=1)
    for act_id, done, newer in ((number_of(revocation), 0, ("d0",)), (number_of(alone), 1, ("d1",))):
        looked_at = station.act(act_id).digest
        decided = await acts.confirm(act_id, looked_at, SECOND, PlainEvents())
        assert (decided.act.done, decided.newer) == (done, newer)
        again = await acts.confirm(act_id, looked_at, SECOND, PlainEvents())
        assert (again.act, again.newer) == (decided.act, newer)
    with pytest.raises(NotFoundError, match="nothing was done"):
        await station.confirm(reset)
    assert station.revoked() == ["d0", "d0", "d1"]
    await grow(station.ledger)
    assert findings(station.home) == []


async def test_what_was_asked_with_a_stolen_certificate_does_not_stand_for_what_is_asked_with_another(
    station: Station,
) -> None:
    stolen = by(per_day=0)
    renewed = stolen._replace(certificate_sha256=bytes(31) + b"1")
    (held,) = await station.revoke(stolen, "d0")
    (anew,) = await station.revoke(renewed, "d0")
    assert number_of(anew) != number_of(held)
    assert station.act(number_of(anew)).certificate_sha256 == renewed.certificate_sha256
    assert number_of((await station.revoke(renewed, "d0"))[0]) == number_of(anew)


async def test_a_decision_that_somebody_wrote_for_a_moment_replaces_no_second_principal(
    station: Station,
) -> None:
    (held,) = await station.revoke(by(per_day=0), "d0")
    act = station.act(number_of(held))
    # Whether this client may decide was not checked, since it was decided then.
    decider = deciding("cn:test")._replace(again=True)
    with pytest.raises(LedgerTamperedError, match="for a moment"):
        await station.ledger.acts.confirm(act.id, act.digest, decider, PlainEvents())
    assert station.revoked() == []
    confirmed = await station.confirm(act.id)
    assert (await station.ledger.acts.confirm(act.id, act.digest, decider, PlainEvents())).act == confirmed


def test_which_reason_a_certificate_is_revoked_for_is_shown() -> None:
    targets = [
        RevocationRequest(None, device, "", reason) for device, reason in (("a", "superseded"), ("b", "x"))
    ]
    assert asked_in(_act_of(ActKind.REVOCATION, revocation_payload(targets))) == (
        "superseded, x",
        ["device a, for the reason superseded", "device b, for the reason x"],
    )
    assert asked_in(_act_of(ActKind.REVOCATION, revocation_payload(targets[:1])))[1] == ["device a"]


def test_no_two_batches_look_alike() -> None:
    terms = TERMS._replace(scheme=json.dumps({"kind": "uuid4", "value": ""}))
    payloads = [
        canonical(each._asdict())
        for each in (
            terms,
            terms._replace(clients=("cn:thief",)),
            terms._replace(deadline=microseconds(START), clients=()),
            terms._replace(scheme=json.dumps({"kind": "template", "value": "cam-{number}"})),
        )
    ]
    shown = [asked_in(_act_of(ActKind.BATCH, payload))[1] for payload in payloads]
    assert shown == [
        ["batch order of 5 devices under the profile p, ids uuid4, for cn:line"],
        ["batch order of 5 devices under the profile p, ids uuid4, for cn:thief"],
        ["batch order of 5 devices under the profile p, ids uuid4, until 2026-12-01 12:00:00 UTC"],
        ["batch order of 5 devices under the profile p, ids template with value cam-{number}, for cn:line"],
    ]


def _act_of(kind: ActKind, payload: str) -> Act:
    return Act(1, kind, "cn:test", "test", bytes(32), bytes(32), 1, 1, payload)


@pytest.mark.parametrize(
    "change",
    [
        "payload = replace(payload, 'd0', 'd5')",
        "client = 'cn:second'",
        "policy_client = 'somebody'",
        "requested_at = requested_at + 1000000",
        "size = 7",
    ],
)
async def test_what_somebody_changed_in_the_database_is_not_confirmed(station: Station, change: str) -> None:
    (held,) = await station.revoke(by(per_day=0), "d0")
    act_id = number_of(held)
    seen = station.act(act_id).digest
    station.home.change(f"UPDATE acts SET {change}")
    with pytest.raises(LedgerTamperedError):
        await station.confirm(act_id, seen)
    with pytest.raises(LedgerTamperedError):
        await station.confirm(act_id, station.act(act_id).digest)
    with pytest.raises(LedgerTamperedError):
        await station.ledger.acts.reject(act_id, SECOND)
    assert station.revoked() == []


async def test_only_what_was_looked_at_is_confirmed(station: Station) -> None:
    (one,) = await station.revoke(by(per_day=0), "d0")
    (other,) = await station.revoke(by(per_day=0), "d1")
    with pytest.raises(RequestRefusedError, match="digest"):
        await station.confirm(number_of(one), station.act(number_of(other)).digest)


async def test_what_somebody_wrote_into_the_table_is_neither_confirmed_nor_stands_for_what_is_asked(
    station: Station,
) -> None:
    (held,) = await station.revoke(by(per_day=0), "d0")
    columns = "act, client, policy_client, certificate_sha256, spki_sha256, requested_at, size, held, payload"
    station.home.change(
        f"INSERT INTO acts (id, {columns}) SELECT 50, {columns} FROM acts WHERE held",
        f"DELETE FROM acts WHERE id = {number_of(held)}",
    )
    (anew,) = await station.revoke(by(per_day=0), "d0")
    assert number_of(anew) != 50
    with pytest.raises(LedgerTamperedError):
        await station.confirm(50)
    assert any("act 50" in finding for finding in findings(station.home))


async def test_a_row_that_somebody_changed_hides_no_other(station: Station) -> None:
    (one,) = await station.revoke(by(per_day=0), "d0")
    (other,) = await station.revoke(by(per_day=0), "d1")
    values = ["requested_at = 9000000000000000000", "payload = '[]'", "act = 'x'"]
    if isinstance(station.home, SqliteHome):
        values += ["requested_at = 'then'", "payload = x'00'", "size = 'many'"]
    for value in values:
        station.home.change(f"UPDATE acts SET {value} WHERE id = {number_of(one)}")
        changed, as_it_was = station.reader.acts(0, 10)
        assert asked_in(as_it_was) == ("superseded", ["device d1"])
        assert asked_in(changed)[1][0]
        assert changed.state(0)
        with pytest.raises(LedgerTamperedError):
            await station.confirm(number_of(one), changed.digest or b"?")
    assert (await station.confirm(number_of(other))).done == 1


async def test_a_decision_that_no_daemon_wrote_is_named(station: Station) -> None:
    (held,) = await station.revoke(by(per_day=0), "d0")
    station.home.change(
        "UPDATE acts SET decision = 'confirmed', decided_at = 1, decided_by = 'cn:test',"
        " decided_policy_client = 'test', done = 1"
    )
    with pytest.raises(LedgerTamperedError):
        await station.confirm(number_of(held))
    found = findings(station.home)
    for what in ("decided before it was asked for", "by the client that asked for it", "has no leaf"):
        assert any(what in finding for finding in found), what


async def test_only_so_many_acts_of_a_client_are_held_though_it_rejects_them(station: Station) -> None:
    who = by(per_day=0)
    (first,) = await station.revoke(who, "d0")
    station.home.change(
        "INSERT INTO acts (act, client, policy_client, certificate_sha256, spki_sha256, requested_at, size,"
        " held, payload, decision, decided_at, decided_by, decided_policy_client, done)"
        " WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n"
        f" WHERE i < {MAX_HELD}) SELECT act, client, policy_client, certificate_sha256, spki_sha256,"
        " requested_at, size, held, 'other', 'rejected', requested_at, client, policy_client, 0 FROM acts, n"
    )
    station.clock.now = START + timedelta(hours=1)
    (refused,) = await station.revoke(who, "d1")
    assert isinstance(refused, QuotaError)
    assert refused.retry_after == 23 * 3600
    assert number_of((await station.revoke(who, "d0"))[0]) == number_of(first)
    assert number_of((await station.revoke(by("cn:other", per_day=0), "d1"))[0])
    # Who rejects another's acts must not use up how many it may have held.
    station.home.change("UPDATE acts SET decided_policy_client = 'thief' WHERE decision = 'rejected'")
    assert number_of((await station.revoke(who, "d1"))[0])


async def test_two_replicas_never_use_the_last_place_twice(postgres_server: PostgresServer) -> None:
    home = PostgresHome(postgres_server)
    replicas = ledger_in(home), ledger_in(home)
    for ledger in replicas:
        await ledger.open()
    await issue(replicas[0], *(intent(f"d{number}") for number in range(40)))
    who = by(per_day=15, fleet_per_day=25)
    asked = [
        ledger.acts.revoke([RevocationRequest(None, f"d{20 * at + number}", "", "superseded")], who)
        for number in range(20)
        for at, ledger in enumerate(replicas)
    ]
    answers = [answer for change in await asyncio.gather(*asked) for answer in change.result]
    assert sum(isinstance(answer, list) for answer in answers) == 15
    assert sum(isinstance(answer, HeldError) for answer in answers) == 25
    assert home.read("SELECT count(*) FROM revocations") == [(15,)]
    for ledger in replicas:
        await ledger.close()


def test_the_glass_breaks_for_one_act_one_reason_and_one_time() -> None:
    glass = BreakGlass("root", "the other operator is ill", 1_700_000_000_000_000)
    former = MAC_KEYS.used
    keys = MacKeys(bytes(32), former)
    digest = bytes(range(32))
    mac = break_glass_mac(MAC_KEYS, digest, glass)
    assert vouches(MAC_KEYS, digest, glass, mac)
    assert vouches(keys, digest, glass, mac)  # it is accepted still
    for changed in (
        glass._replace(user="roo", reason="t" + glass.reason),
        glass._replace(reason="another"),
        glass._replace(at=glass.at + 1),
    ):
        assert not vouches(keys, digest, changed, mac)
    assert not vouches(keys, bytes(32), glass, mac)
    assert not vouches(MacKeys(bytes(32)), digest, glass, mac)
    assert not vouches(keys, digest, glass, b"")
