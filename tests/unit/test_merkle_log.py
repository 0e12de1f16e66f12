"""The ledger's tree, on SQLite and on PostgreSQL: what gets into it, and that anybody can compute it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import Ledger, database_of
from otahsm.ledger.migrations import migrate
from otahsm.ledger.schema import certificates
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.sequencer import CHUNK, sequence
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import CompactTree, open_checkpoint

from support.homes import Home, PostgresHome
from support.intents import intent, issue
from support.logbook import (
    Notary,
    accept_older,
    checkpoint,
    consistency,
    findings,
    grow,
    inclusion,
    issue_many,
    opened,
    verdict,
    void_some,
)


@pytest.fixture
async def ledger(home: Home) -> AsyncIterator[Ledger]:
    ledger = await opened(home)
    yield ledger
    await ledger.close()


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word, over what the leaves hold."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


COLUMNS = (
    "id serial request_id profile device_id spki_sha256 tbs_sha256 issuer_key_id not_before not_after client"
    " client_certificate_sha256 intended_at place"
)
MORE = f"{COLUMNS} policy_client batch_id quota_id"
HOLDS = {5: f"{MORE} der recorded_at".split(), 6: f"{MORE} void_reason voided_at".split()}
NAMES = {5: "certificate-2", 6: "void-2"}


def recomputed(home: Home) -> list[bytes]:
    """What the leaves hold, by an auditor who has read the documentation, and has only SQL and JSON."""

    def text(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else value

    leaves = []
    for kind, intent_id in home.read("SELECT kind, intent_id FROM leaves ORDER BY leaf_index"):
        source = "intents LEFT JOIN certificates ON intent_id = id"
        (row,) = home.read(f"SELECT {', '.join(HOLDS[kind])} FROM {source} WHERE id = {intent_id}")
        leaf = {name: text(value) for name, value in zip(HOLDS[kind], row, strict=True)}
        leaf["kind"] = NAMES[kind]
        encoded = json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        leaves.append(encoded.encode())
    return leaves


async def root(ledger: Ledger) -> bytes:
    head = await ledger.tree.head()
    assert head is not None
    return head.tree.root


async def test_anybody_can_compute_the_root_from_the_rows(ledger: Ledger, home: Home) -> None:
    odd = intent("caf\u00e9 \u2028 \U0001f980", request='a "quoted" \\ \t \x7f request')
    await issue(ledger, odd._replace(client="cn:\x1f"))
    await issue_many(ledger, 600)
    await void_some(ledger, "void", "void too")
    await issue_many(ledger, 1, "last")
    assert await grow(ledger) == 604
    leaves = recomputed(home)
    assert len(leaves) == 604
    assert await root(ledger) == mth(leaves)
    assert verdict(home).root == mth(leaves)
    assert verdict(home).good


async def test_an_open_intent_is_no_leaf_and_what_closes_it_is_one(ledger: Ledger, home: Home) -> None:
    (answer,) = await ledger.journal([intent("a")])
    assert await grow(ledger) == 0
    await ledger.record({answer.intent_id: b"certificate"})  # type: ignore[union-attr]
    assert await grow(ledger) == 1
    assert home.read("SELECT leaf_index, kind, intent_id FROM leaves") == [(0, Kind.CERTIFICATE_2, 1)]


async def test_what_a_crash_left_open_becomes_a_leaf_when_it_is_voided(home: Home) -> None:
    ledger = await opened(home)
    await ledger.journal([intent("a"), intent("b")])
    await ledger.close()
    again = await opened(home)
    assert await grow(again) == 2
    voids = [(Kind.VOID_2, 1), (Kind.VOID_2, 2)]
    assert home.read("SELECT kind, intent_id FROM leaves ORDER BY leaf_index") == voids
    await again.close()


async def test_a_tree_grows_in_bounded_steps(ledger: Ledger) -> None:
    await issue_many(ledger, 2 * CHUNK + 1)
    log = ledger.tree
    steps = [await log.grow() for _ in range(3)]
    assert [(step.taken, step.more) for step in steps] == [(CHUNK, True), (CHUNK, True), (1, False)]


async def test_the_tree_is_the_same_however_it_grew(ledger: Ledger, home: Home) -> None:
    for number in range(40):
        await issue_many(ledger, number % 7, f"batch-{number}")
        await grow(ledger)
    assert await root(ledger) == mth(recomputed(home))
    assert findings(home) == []


async def test_a_step_that_fails_leaves_the_outbox_and_the_tree_as_they_were(
    ledger: Ledger, home: Home
) -> None:
    await issue_many(ledger, 5)

    def spoilt(connection: Connection) -> None:
        assert sequence(connection).taken == 5
        connection.execute(insert(certificates).values(intent_id=999, der=b"x", recorded_at=1))

    with pytest.raises(LedgerUnavailableError):
        await ledger._writer.transaction(spoilt)
    assert home.read("SELECT count(*) FROM unlogged") == [(5,)]
    assert home.read("SELECT count(*) FROM leaves") == [(0,)]
    assert findings(home) == []
    assert verdict(home).waiting == 5
    assert await grow(ledger) == 5
    assert findings(home) == []


async def test_what_an_older_ledger_holds_becomes_leaves(bare_home: Home) -> None:
    home = bare_home
    database = database_of(home.config)
    database.hold()
    with database.engine.begin() as connection:
        migrate(connection, "0003")
    database.close()
    columns = (
        "id, serial, request_id, profile, device_id, spki_sha256, tbs_sha256, issuer_key_id, not_before,"
    )
    columns += " not_after, client, client_certificate_sha256, intended_at, void_reason, voided_at"
    octets = "'\\x{:040x}'" if isinstance(home, PostgresHome) else "x'{:040x}'"
    zeroes = octets.format(0)
    for number, void in enumerate(("NULL, NULL", "NULL, NULL", "'lost', 4"), 1):
        own = octets.format(number)
        home.change(
            f"INSERT INTO intents ({columns}) VALUES ({number}, {own}, '', 'p', 'device {number}', {own},"
            f" {zeroes}, {zeroes}, 1, 2, 'cn:x', {zeroes}, 3, {void})"
        )
    home.change(f"INSERT INTO certificates VALUES (2, {zeroes}, 5), (1, {zeroes}, 5)")
    await accept_older(home)
    ledger = await opened(home)
    assert await grow(ledger) == 4
    await ledger.close()
    assert home.read("SELECT leaf_index, kind, intent_id FROM leaves ORDER BY 1") == [
        (0, 1, 1),
        (1, 1, 2),
        (2, 2, 3),
        (3, 4, 1),
    ]
    assert findings(home) == []


async def test_replicas_that_take_turns_make_one_tree(postgres_server: Any) -> None:
    home = PostgresHome(postgres_server)
    ledgers = [await opened(home) for _ in range(3)]

    async def work(ledger: Ledger, name: str) -> int:
        taken = 0
        for number in range(8):
            await issue_many(ledger, 30, f"{name}-{number}")
            taken += (await ledger.tree.grow()).taken
        return taken

    taken = sum(await asyncio.gather(*(work(each, str(number)) for number, each in enumerate(ledgers))))
    taken += await grow(ledgers[0])
    assert taken == 3 * 8 * 30
    assert await root(ledgers[1]) == mth(recomputed(home))
    assert findings(home) == []
    for each in ledgers:
        assert each.failure is None
        await each.close()


async def test_two_replicas_that_keep_a_checkpoint_of_one_tree_keep_one(postgres_server: Any) -> None:
    home, notary = PostgresHome(postgres_server), Notary()
    ledgers = [await opened(home) for _ in range(2)]
    await issue_many(ledgers[0], 3)
    await grow(ledgers[0])
    one, other = await asyncio.gather(*(checkpoint(each, notary) for each in ledgers))
    assert one == other
    assert home.read("SELECT note FROM checkpoints") == [(one,)]
    for each in ledgers:
        await each.close()


async def test_every_certificate_can_be_proven_at_every_level(ledger: Ledger, home: Home) -> None:
    notary = Notary()
    await issue_many(ledger, 700)
    await grow(ledger)
    serials = home.read("SELECT serial FROM intents ORDER BY id")
    for number in (0, 1, 127, 255, 256, 511, 512, 698, 699):
        content, proof = await inclusion(ledger, notary, SerialNumber.from_key(serials[number][0]))
        assert json.loads(content)["device_id"] == f"device-{number}"
        assert proof.verify(content, notary.verifier).size == 700


async def test_the_tree_is_proven_to_have_only_grown_since_every_size(ledger: Ledger) -> None:
    notary, old = Notary(), list[CompactTree]()
    for number, count in enumerate((1, 2, 5, 120, 128, 1, 255, 88)):
        await issue_many(ledger, count, f"batch-{number}")
        await grow(ledger)
        head = await ledger.tree.head()
        assert head is not None
        old.append(head.tree)
    for tree in old:
        proof = await consistency(ledger, notary, tree.size)
        from_then = open_checkpoint(notary.sign(tree.size, tree.root), notary.verifier)
        assert proof.verify(from_then, notary.verifier).size == 600


async def test_a_proof_is_read_while_the_writer_is_busy(ledger: Ledger) -> None:
    notary, (wanted,) = Notary(), [intent("a")]
    await issue(ledger, wanted)
    await grow(ledger)
    begun, release = Event(), Event()

    def hold(connection: Connection) -> None:
        connection.execute(text("UPDATE replicas SET closed_below = closed_below"))
        begun.set()
        release.wait(60)

    busy = asyncio.create_task(ledger._writer.transaction(hold))
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        async with asyncio.timeout(20):
            content, proof = await inclusion(ledger, notary, wanted.serial)
            assert (await consistency(ledger, notary, 1)).old_size == 1
        assert proof.verify(content, notary.verifier).size == 1
        assert not busy.done()
    finally:
        release.set()
        await busy
