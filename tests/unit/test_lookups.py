"""The work of a batch does not grow with the ledger: rows are looked up, and no table is read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import event

from otahsm.config import LedgerConfig
from otahsm.ledger import Accepted, Ledger, Renewal, database_of
from otahsm.ledger.records import RevocationRequest

from support.acts import by
from support.harness import eventually
from support.homes import CA, MAC_KEYS, PostgresHome, SqliteHome
from support.intents import intent, told
from support.logbook import grow, issue_many
from support.postgres import PostgresServer

BATCH = 64
MANY = 5000
LARGE = ("intents", "certificates", "leaves", "revocations")


async def use(ledger: Ledger, first: int) -> None:
    """Do all that a daemon does, with a batch of devices."""
    batch = [intent(f"device-{number}") for number in range(first, first + BATCH)]
    answers = await ledger.journal(batch)
    ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    assert len(ids) == BATCH
    await ledger.record(dict.fromkeys(ids[: BATCH // 2], b"a certificate"))
    await ledger.void(ids[BATCH // 2 :], "the token was away")
    again = [item._replace(serial=intent("x").serial) for item in batch]
    await ledger.journal(again[: BATCH // 2])
    again = [item._replace(request_id="") for item in again]
    (*_, last) = await ledger.journal(again)  # half is replayed, half is new
    assert isinstance(last, Accepted)
    await ledger.record({last.intent_id: b"another certificate"})
    renewed = again[-1]._replace(serial=intent("x").serial, not_after=100 * 86400)
    (answer,) = await ledger.journal([renewed], now=2)
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: b"its successor"})
    renewed = batch[3]._replace(serial=intent("x").serial, not_after=100 * 86400)
    (answer,) = await ledger.journal([renewed], now=2)
    assert isinstance(answer, Accepted)
    await ledger.void([answer.intent_id], "the token was away again")  # what it superseded is live again
    await ledger.acts.reset(batch[1].device_id, "p", by(), told)
    targets = [
        RevocationRequest(batch[0].serial, "", "", "superseded"),
        RevocationRequest(None, batch[2].device_id, "", "superseded"),
    ]
    revoked = (await ledger.acts.revoke(targets, by("cn:test"), 1)).result
    assert all(isinstance(item, list) and len(item) == 1 for item in revoked)
    await ledger.tend()
    await grow(ledger)
    assert await ledger.tree.find(batch[0].serial)


async def opened(config: LedgerConfig) -> Ledger:
    ledger = Ledger(database_of(config), MAC_KEYS, [CA], {"p": Renewal(86400, 86400)})
    await ledger.open()
    return ledger


async def test_sqlite_scans_no_large_table(tmp_path: Path) -> None:
    home = SqliteHome(tmp_path)
    ledger = await opened(home.config)
    statements: set[str] = set()
    for engine in (ledger._database.engine, ledger._reader._engine):
        event.listen(engine, "before_cursor_execute", lambda *said: statements.add(said[2]))
    await use(ledger, 0)
    await ledger.close()
    assert len(statements) > 20
    with closing(sqlite3.connect(home.path)) as database:
        steps = [
            (step, statement)
            for statement in statements
            for *_, step in database.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * statement.count("?"))
        ]
    assert [step for step in steps if step[0].split()[:2] in [["SCAN", table] for table in LARGE]] == []


async def test_postgresql_reads_no_more_rows_if_the_ledger_has_more(postgres_server: PostgresServer) -> None:
    home = PostgresHome(postgres_server)
    read = []
    for first in (0, BATCH):
        before = rows_read(home)
        ledger = await opened(home.config)
        await use(ledger, first)
        await ledger.close()
        read.append(rows_read(home) - before)
        ledger = await opened(home.config)
        await issue_many(ledger, MANY, f"other-{first}")
        await grow(ledger)
        await issue_many(ledger, 1, f"last-{first}")  # so that all before it is known to be closed
        await ledger.tend()
        await ledger.close()
    assert read[1] < read[0] + MANY // 2, read


async def test_postgresql_looks_up_what_becomes_leaves_before_it_has_statistics(
    postgres_server: PostgresServer,
) -> None:
    home = PostgresHome(postgres_server)
    read = []
    for count in (MANY, BATCH):
        before = rows_read(home)
        ledger = await opened(home.config)
        await issue_many(ledger, count, f"batch-of-{count}")
        await grow(ledger)
        await issue_many(ledger, 1, f"last-{count}")  # so that all before it is known to be closed
        await ledger.close()
        read.append(rows_read(home) - before)
    # When it is opened, all that may have been left open is looked at, and without statistics that is a scan.
    assert read[1] < 2 * MANY + MANY // 2, read


def rows_read(home: PostgresHome) -> int:
    """Ask how many rows and entries of indexes were read, by connections that are closed: they have told."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    eventually(lambda: home.read(others) == [(0,)], "the connection is not closed")
    ((rows,),) = home.read(
        "SELECT (SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables)"
        " + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)"
    )
    return int(rows or 0)
