"""The ledger in PostgreSQL: several replicas, and a server that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, event

from otahsm.config import LedgerConfig
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import Accepted, InProgress, Intent, Ledger, Replay, database_of, throwaway
from otahsm.ledger.db.dialects import LOCK_NAMESPACE

from support.homes import CA, MAC_KEYS, PostgresHome, ledger_in
from support.intents import intent, issue
from support.postgres import PostgresServer


@pytest.fixture
def home(empty_postgresql: PostgresHome) -> PostgresHome:
    return PostgresHome(empty_postgresql.server, like=empty_postgresql.url.rpartition("/")[2])


@pytest.fixture
async def replicas(home: PostgresHome) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Two daemons' views of one ledger."""
    both = ledger_in(home), ledger_in(home)
    for ledger in both:
        assert await ledger.open() == 0
    yield both
    for ledger in both:
        if ledger._writer.is_open:
            await ledger.close()


async def test_replicas_hold_different_places(replicas: tuple[Ledger, Ledger], home: PostgresHome) -> None:
    for number, ledger in enumerate(replicas):
        await ledger.journal([intent(f"device-{number}")])
    assert home.read("SELECT device_id, place FROM intents ORDER BY place") == [
        ("device-0", 1),
        ("device-1", 2),
    ]


async def test_what_one_replica_issued_every_other_replays(replicas: tuple[Ledger, Ledger]) -> None:
    one, other = replicas
    await issue(one, intent("a"))
    (answer,) = await other.journal([intent("a")])
    assert isinstance(answer, Replay)
    assert answer.certificate == b"certificate of a"


async def test_a_replica_that_starts_leaves_alone_what_another_has_open(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    (accepted,) = await replicas[0].journal([intent("a")])
    assert isinstance(accepted, Accepted)
    third = ledger_in(home)
    assert await third.open() == 0
    assert await third.tend() == 0
    assert isinstance((await third.journal([intent("a")]))[0], InProgress)
    await replicas[0].record({accepted.intent_id: b"x"})
    await third.close()


async def test_what_a_replica_that_is_gone_left_open_is_closed_by_another(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    one, other = replicas
    await one.journal([intent("a"), intent("b")])
    await one.close()
    await asyncio.sleep(0.1)  # until the server has seen the connection end
    assert await other.tend() == 2
    assert await other.tend() == 0
    await issue(other, intent("a"))
    assert home.read("SELECT count(*) FROM intents WHERE void_reason LIKE '%stopped before%'") == [(2,)]


def cut(home: PostgresHome, place: int) -> None:
    """Break the connection of the replica that holds a place, as a network does."""
    holders = f"locktype = 'advisory' AND objsubid = 2 AND objid = {place}"
    home.read(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE {holders}")


async def test_a_replica_that_was_cut_off_can_not_record_what_another_voided(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    one, other = replicas
    (accepted,) = await one.journal([intent("a")])
    assert isinstance(accepted, Accepted)
    cut(home, 1)
    assert await other.tend() == 1
    await issue(other, intent("a"))
    with pytest.raises(LedgerUnavailableError, match="voided"):
        await one.record({accepted.intent_id: b"a second certificate"})
    assert home.read("SELECT count(*) FROM certificates") == [(1,)]
    assert isinstance((await one.journal([intent("a")]))[0], Replay)  # and goes on


async def test_two_replicas_that_certify_one_key_for_two_devices_at_once_do_not_both_succeed(
    replicas: tuple[Ledger, Ledger],
) -> None:
    # No index refuses this, and neither sees what the other has not committed yet.
    one, other = replicas
    asked = intent("a", key="k"), intent("b", key="k", profile="q")
    answers = await asyncio.gather(one.journal([asked[0]]), other.journal([asked[1]]))
    recorded = 0
    for ledger, (answer,) in zip(replicas, answers, strict=True):
        if isinstance(answer, Accepted):
            try:
                await ledger.record({answer.intent_id: b"x"})
                recorded += 1
            except LedgerUnavailableError:
                await ledger.void([answer.intent_id], "refused")
    assert recorded <= 1


async def test_a_key_that_another_replica_certified_meanwhile_is_not_certified_again(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    one, _ = replicas
    (first,) = await one.journal([intent("a", key="k")])
    assert isinstance(first, Accepted)
    # As if the other had looked before that was committed:
    home.read(
        "INSERT INTO intents SELECT nextval(pg_get_serial_sequence('intents', 'id')), '\\x01', 'r', 'q', 'b',"
        " spki_sha256, tbs_sha256, issuer_key_id, 1, 2, 'c', '', 3, NULL, NULL, 2 FROM intents RETURNING id"
    )
    with pytest.raises(LedgerUnavailableError):
        await one.record({first.intent_id: b"x"})
    assert home.read("SELECT count(*) FROM certificates") == [(0,)]


async def ask_until_issued(ledger: Ledger, wanted: list[Intent]) -> dict[str, bytes]:
    """Do what a daemon and its client do: sign what is accepted, ask again for what is in progress."""
    got: dict[str, bytes] = {}
    while wanted:
        answers = await ledger.journal(wanted)
        signed = {
            answer.intent_id: f"{id(ledger)} {item.device_id}".encode()
            for item, answer in zip(wanted, answers, strict=True)
            if isinstance(answer, Accepted)
        }
        if signed:
            await ledger.record(signed)
        for item, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Accepted):
                got[item.device_id] = signed[answer.intent_id]
            elif isinstance(answer, Replay):
                got[item.device_id] = answer.certificate
            else:
                assert isinstance(answer, InProgress)
        wanted = [item._replace(serial=intent("x").serial) for item in wanted if item.device_id not in got]
    return got


async def test_replicas_that_are_asked_for_the_same_devices_at_once_issue_each_once(
    home: PostgresHome,
) -> None:
    ledgers = [ledger_in(home) for _ in range(3)]
    for ledger in ledgers:
        await ledger.open()
    devices = [f"device-{number}" for number in range(300)]
    orders = [devices, devices[::-1], devices[100:] + devices[:100]]  # so that they meet
    got = await asyncio.gather(
        *(
            ask_until_issued(ledger, [intent(device) for device in order])
            for ledger, order in zip(ledgers, orders, strict=True)
        )
    )
    assert got[0] == got[1] == got[2]
    assert home.read("SELECT count(*) FROM certificates") == [(300,)]
    for ledger in ledgers:
        await ledger.close()


@pytest.mark.parametrize("lingers", [False, True])
async def test_a_commit_whose_answer_was_lost_is_made_up_for(home: PostgresHome, *, lingers: bool) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    with home.server.connect(home.url.rpartition("/")[2]) as server:

        def commit_and_break(connection: Connection) -> None:
            driver_connection = connection.connection.dbapi_connection
            assert driver_connection is not None
            driver_connection.commit()
            driver_connection.close()
            # For the server the session goes on, and holds its place, until it notices.
            mine = f"SELECT pg_try_advisory_lock({LOCK_NAMESPACE}, 1)"
            while lingers and server.execute(mine).fetchall() != [(True,)]:
                pass

        event.listen(ledger._database.engine, "commit", commit_and_break, once=True)
        with pytest.raises(LedgerUnavailableError):
            await ledger.journal([intent("a")])
        assert home.read("SELECT count(*) FROM intents") == [(1,)]
        await issue(ledger, intent("a"))
    assert home.read("SELECT count(*) FROM intents WHERE void_reason IS NULL") == [(1,)]
    await ledger.close()


def failed(ledger: Ledger) -> bool:
    return ledger.failure is not None


async def test_a_replica_that_is_idle_keeps_nobody_searching_what_others_wrote(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    busy, idle = replicas
    (closed,) = await idle.journal([intent("of the idle one")])
    assert isinstance(closed, Accepted)
    await idle.record({closed.intent_id: b"x"})
    answers = await busy.journal([intent(f"device-{number}") for number in range(1100)])
    await busy.record({answer.intent_id: b"x" for answer in answers if isinstance(answer, Accepted)})
    await busy.tend()
    ((highest,),) = home.read("SELECT max(id) FROM intents")
    assert home.read("SELECT min(closed_below) <= 2 FROM replicas") == [(True,)]
    await idle.tend()
    assert home.read("SELECT min(closed_below) FROM replicas") == [(highest + 1,)]
    # And whatever it leaves open from now on is found.
    (left,) = await idle.journal([intent("left")])
    assert isinstance(left, Accepted)
    assert left.intent_id > highest
    await idle.close()
    await asyncio.sleep(0.1)  # until the server has seen the connection end
    assert await busy.tend() == 1


async def test_what_an_idle_replica_has_open_is_not_forgotten(
    replicas: tuple[Ledger, Ledger], home: PostgresHome
) -> None:
    busy, idle = replicas
    (left,) = await idle.journal([intent("left")])
    assert isinstance(left, Accepted)
    await busy.journal([intent(f"device-{number}") for number in range(1100)])
    await idle.tend()
    ((below,),) = home.read("SELECT closed_below FROM replicas WHERE place = 2")
    assert below <= left.intent_id


async def test_a_server_that_dies_and_returns_is_used_again(
    postgres_server_of_my_own: PostgresServer,
) -> None:
    home = PostgresHome(postgres_server_of_my_own)
    ledger = ledger_in(home)
    await ledger.open()
    (accepted,) = await ledger.journal([intent("open")])
    assert isinstance(accepted, Accepted)
    await issue(ledger, intent("done"))
    home.server.kill()
    with pytest.raises(LedgerUnavailableError):
        await ledger.record({accepted.intent_id: b"x"})
    assert failed(ledger)
    await ledger.tend()
    assert failed(ledger)
    home.server.start()
    await ledger.tend()
    assert not failed(ledger)
    await issue(ledger, intent("open"))  # what was under way was voided: it may be asked for again
    assert isinstance((await ledger.journal([intent("done")]))[0], Replay)
    await ledger.close()


async def test_a_server_that_became_a_standby_is_left_for_one_that_can_be_written(home: PostgresHome) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    name = home.url.rpartition("/")[2]
    with home.server.connect("postgres") as administrator:
        # What a daemon sees of a failover: its server refuses writes, and then the address leads elsewhere.
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        cut(home, 1)
        with pytest.raises(LedgerUnavailableError, match="read-only"):
            await ledger.journal([intent("a")])
        await ledger.tend()
        assert failed(ledger)
        administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await ledger.tend()
    assert not failed(ledger)
    await issue(ledger, intent("a"))
    await ledger.close()


async def test_a_server_that_is_not_there_is_unavailable_and_no_fault_of_the_configuration(
    home: PostgresHome,
) -> None:
    config = LedgerConfig(url=home.url.replace(f":{home.server.port}/", ":1/"))
    ledger = Ledger(database_of(config), MAC_KEYS, [CA])
    with pytest.raises(LedgerUnavailableError, match="can't open the ledger"):
        await ledger.open()
    await ledger.close()


async def test_no_message_has_the_password(home: PostgresHome) -> None:
    url = home.url.replace("otahsm@", "otahsm:wrong-secret@")
    ledger = Ledger(database_of(LedgerConfig(url=url)), MAC_KEYS, [CA])
    with pytest.raises(LedgerUnavailableError) as caught:
        await ledger.open()
    assert "wrong-secret" not in str(caught.value)
    assert "otahsm:***@" in str(caught.value)
    await ledger.close()


async def test_commits_survive_a_power_cut_whatever_the_server_is_set_to(home: PostgresHome) -> None:
    name = home.url.rpartition("/")[2]
    with home.server.connect(name) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = database_of(home.config)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    database.close()


async def test_a_throwaway_ledger_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    home = PostgresHome(postgres_server)
    schemas = "SELECT nspname FROM pg_namespace ORDER BY 1"
    before = home.read(schemas)
    with throwaway(home.config) as config:
        ledger = Ledger(database_of(config), MAC_KEYS, [CA])
        await ledger.open()
        await issue(ledger, intent("a"))
        await ledger.close()
        assert len(home.read(schemas)) == len(before) + 1
    assert home.read(schemas) == before
    assert home.read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
