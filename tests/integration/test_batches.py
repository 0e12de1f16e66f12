"""Batches over the wire: so many certificates, by then, by these clients, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from otahsm.client import (
    Batch,
    CertificateRequest,
    Client,
    IdScheme,
    IssuedCertificate,
    Query,
    Refusal,
    Result,
)
from otahsm.errors import NotFoundError, OtahsmError, RequestRefusedError
from otahsm.system.clock import microseconds

from support.devices import new_request
from support.harness import Fleet, RunningDaemon, running
from support.ledger_reader import certificates
from support.postgres import PostgresServer, on_postgres

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FAR = datetime(2099, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)


@pytest.fixture
async def batches(shared_daemon: RunningDaemon) -> AsyncIterator[Client]:
    async with Client(shared_daemon.address, shared_daemon.fleet.tls, patience=10) as client:
        yield client


def batch_of(count: int, **terms: object) -> Batch:
    return replace(Batch(f"b-{uuid.uuid4()}", count, IdScheme("uuid4")), **terms)  # type: ignore[arg-type]


def requests_in(name: str, count: int) -> list[CertificateRequest]:
    return [replace(new_request(), batch=name) for _ in range(count)]


async def ask(client: Client, requests: list[CertificateRequest], profile: str = "") -> list[Result]:
    return [result async for result in client.issuance.issue(requests, profile=profile)]


def refusals(results: list[Result]) -> set[tuple[str, str]]:
    return {(result.code, result.reason) for result in results if isinstance(result, Refusal)}


def issued(results: list[Result]) -> int:
    return sum(isinstance(result, IssuedCertificate) for result in results)


async def test_what_was_ordered_is_kept_as_it_was_written(batches: Client) -> None:
    scheme = IdScheme("template", "{plant}-{seq:04d}", 7, "ab" * 32, {"plant": "Ulm", "line": "3"})
    wanted = batch_of(
        5, scheme=scheme, profile="ota-connect", deadline=FAR, clients=("cn:line-3", "cn:line-4")
    )
    ordered = await batches.batches.create(wanted)
    assert replace(ordered, created_by="", created_at=None, remaining=0) == wanted
    assert ordered.created_by == "cn:quickstart"
    assert ordered.created_at is not None
    assert abs(ordered.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert (ordered.issued, ordered.remaining, ordered.first_serial) == (0, 5, None)
    assert await batches.batches.create(wanted) == await batches.batches.get(wanted.name) == ordered
    with pytest.raises(OtahsmError, match="already exists"):
        await batches.batches.create(replace(wanted, device_count=6))
    later = await batches.batches.create(replace(wanted, name=f"{wanted.name}-later"))
    listed = [batch async for batch in batches.batches.everything()]
    assert listed[-2:] == [ordered, later]
    assert [batch async for batch in batches.batches.everything(newest_first=True)] == listed[::-1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "batch.name"),
        ({"name": "../x"}, "batch.name"),
        ({"name": "x" * 65}, "batch.name"),
        ({"device_count": 0}, "batch.device_count"),
        ({"device_count": 100_000_001}, "batch.device_count"),
        ({"profile": "nothing"}, "batch.profile"),
        ({"scheme": IdScheme("dice")}, "batch.id_scheme"),
        ({"scheme": IdScheme("uuid5", "x" * 257)}, "batch.id_scheme"),
        ({"scheme": IdScheme("list", digest="ab")}, "batch.id_scheme"),
        ({"scheme": IdScheme("uuid4", values={"A": "1"})}, "batch.id_scheme"),
        ({"scheme": IdScheme("uuid4", values={"a": "\n"})}, "batch.id_scheme"),
        ({"deadline": PAST}, "batch.deadline_time"),
        ({"clients": ("",)}, "batch.clients"),
        ({"clients": tuple(map(str, range(65)))}, "batch.clients"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_by_its_field(
    batches: Client, change: dict[str, object], field: str
) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        await batches.batches.create(batch_of(1, **change))
    assert refused.value.violations[0].field == field


async def test_a_batch_that_nobody_ordered_is_not_found(batches: Client, client: Client) -> None:
    for call in (batches.batches.get, batches.batches.close):
        with pytest.raises(NotFoundError, match="no batch 'nothing'"):
            await call("nothing")
    results = await ask(client, [*requests_in("nothing", 1), *requests_in("no/name", 1), new_request()])
    assert issued(results) == 1  # one bad name costs one request
    assert refusals(results) == {("NOT_FOUND", "NOT_FOUND"), ("INVALID_ARGUMENT", "BAD_REQUEST")}


async def test_32_streams_that_race_for_100_places_get_100(
    shared_daemon: RunningDaemon, batches: Client
) -> None:
    name = (await batches.batches.create(batch_of(100))).name
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(shared_daemon.client()) for _ in range(4)]
        answers = await asyncio.gather(
            *(ask(clients[number % 4], requests_in(name, 8)) for number in range(32))
        )
    everything = [result for answer in answers for result in answer]
    assert issued(everything) == 100
    assert refusals(everything) == {("RESOURCE_EXHAUSTED", "BATCH_FULL")}
    state = await batches.batches.get(name)
    assert (state.issued, state.remaining) == (100, 0)
    async with Client(shared_daemon.address, shared_daemon.fleet.tls) as ledger:
        listed = [entry async for entry in ledger.ledger.everything(Query(batch=name))]
    assert {entry.batch for entry in listed} == {name}
    serials = [result.serial for result in everything if isinstance(result, IssuedCertificate)]
    assert sorted(serials) == [entry.serial for entry in listed]
    assert (state.first_serial, state.last_serial) == (min(serials), max(serials))
    assert (state.first_issued_at, state.last_issued_at) == (listed[0].issued_at, listed[-1].issued_at)


async def test_only_the_clients_that_are_named_may_issue_and_only_under_the_profile(
    batches: Client, client: Client
) -> None:
    mine = await batches.batches.create(batch_of(5))
    others = await batches.batches.create(batch_of(5, clients=("cn:somebody-else",)))
    for_me = await batches.batches.create(batch_of(5, clients=("cn:somebody-else", mine.created_by)))
    assert issued(await ask(client, requests_in(for_me.name, 1))) == 1
    assert refusals(await ask(client, requests_in(others.name, 1))) == {("PERMISSION_DENIED", "BATCH_CLIENT")}
    assert (await batches.batches.get(others.name)).remaining == 5


def pass_the_deadline(fleet: Fleet, name: str) -> None:
    """Have a batch's deadline be over since a while, as it is some day."""
    ledger = fleet.config.ledger
    assert ledger is not None
    assert ledger.path is not None
    with contextlib.closing(sqlite3.connect(ledger.path)) as database, database:
        database.execute("UPDATE batches SET deadline = ? WHERE name = ?", (microseconds(PAST), name))


async def test_a_closed_batch_and_one_whose_deadline_is_over_give_nothing_but_what_they_gave(
    shared_daemon: RunningDaemon, batches: Client, client: Client
) -> None:
    name = (await batches.batches.create(batch_of(5))).name
    request = requests_in(name, 1)
    (first,) = await ask(client, request)
    closed = await batches.batches.close(name)
    assert closed.closed_at is not None
    assert refusals(await ask(client, requests_in(name, 1))) == {("FAILED_PRECONDITION", "BATCH_CLOSED")}
    order = batch_of(5, deadline=FAR)
    late = (await batches.batches.create(order)).name
    pass_the_deadline(shared_daemon.fleet, late)
    assert (await batches.batches.create(replace(order, deadline=PAST))).deadline == PAST  # nothing new
    assert refusals(await ask(client, requests_in(late, 1))) == {("FAILED_PRECONDITION", "BATCH_CLOSED")}
    for again in (request, [replace(request[0], batch=late)], [replace(request[0], batch="")]):
        (replay,) = await ask(client, again)
        assert isinstance(replay, IssuedCertificate)
        assert isinstance(first, IssuedCertificate)
        assert (replay.replayed, replay.chain) == (True, first.chain)
    assert (await batches.batches.get(name)).issued == 1
    assert (await batches.batches.get(late)).issued == 0


async def test_a_daemon_that_is_killed_again_and_again_never_gives_more_and_loses_no_place(
    fleet: Fleet,
) -> None:
    wanted = batch_of(300)
    asked = requests_in(wanted.name, 400)
    given: dict[str, bytes] = {}
    for kill_at in (40, 120, 0):
        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            async with (
                Client(daemon.address, fleet.tls) as batches,
                daemon.client(patience=0) as client,
            ):
                await batches.batches.create(wanted)
                with contextlib.suppress(OtahsmError):
                    async for result in client.issuance.issue(asked):
                        if isinstance(result, IssuedCertificate):
                            given[result.device_id] = result.chain[0]
                        if kill_at and len(given) >= kill_at:
                            daemon.kill()
                            break
                if not kill_at:
                    state = await batches.batches.get(wanted.name)
                    assert (state.issued, state.remaining) == (300, 0)
    recorded = certificates(fleet)
    assert len(recorded) == 300
    assert given.items() <= recorded.items()


async def test_two_daemons_over_one_ledger_give_no_more_together(
    make_fleet: Callable[[], Fleet], postgres_server: PostgresServer
) -> None:
    fleet = on_postgres(make_fleet(), postgres_server)
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(running(fleet)) for _ in range(2)]
        for daemon in daemons:
            daemon.wait_for("health.changed", serving=True)
        async with contextlib.AsyncExitStack() as opened:
            clients = [await opened.enter_async_context(daemon.client()) for daemon in daemons]
            batches = await opened.enter_async_context(Client(daemons[0].address, fleet.tls))
            name = (await batches.batches.create(batch_of(100))).name
            answers = await asyncio.gather(
                *(ask(clients[number % 2], requests_in(name, 10)) for number in range(32))
            )
            state = await batches.batches.get(name)
    everything = [result for answer in answers for result in answer]
    assert issued(everything) == 100
    assert refusals(everything) == {("RESOURCE_EXHAUSTED", "BATCH_FULL")}
    assert (state.issued, state.remaining) == (100, 0)
