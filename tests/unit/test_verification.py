"""What `verify` says of ledgers that are new, in use, replaced, or no ledgers, and what may become a leaf."""

from __future__ import annotations

import shutil
from hashlib import sha256
from typing import Any

import pytest

from otahsm.errors import ConfigError, LedgerDamagedError
from otahsm.ledger import Accepted, BatchTerms, Conflict, RevocationRequest, snapshot
from otahsm.ledger.tree.verdict import MAX_FINDINGS
from otahsm.tlog import open_checkpoint

from support.acts import as_done, by
from support.homes import Home, PostgresHome, SqliteHome
from support.intents import intent, told
from support.logbook import Notary, checkpoint, findings, grow, issue_many, opened, verdict
from support.postgres import PostgresServer


async def test_values_of_another_type_are_named(tmp_path: Any) -> None:
    home = SqliteHome(tmp_path)  # SQLite takes any value into any column
    ledger = await opened(home)
    await issue_many(ledger, 30)
    await grow(ledger)
    await ledger.close()
    home.change(
        "UPDATE certificates SET der = 'text' WHERE intent_id = 3",
        "UPDATE intents SET client = x'00' WHERE id = 4",
        "UPDATE intents SET place = 'a' WHERE id = 5",
        "UPDATE intents SET serial = 'text' WHERE id = 6",
        "UPDATE leaves SET hash = '01234567890123456789012345678901' WHERE leaf_index = 6",
        "UPDATE tree SET peaks = '01234567890123456789012345678901'",
        "INSERT INTO checkpoints VALUES (30, 'text', 1)",
    )
    found = findings(home)
    for leaf in (2, 3, 4, 5, 6):
        assert any(line.startswith(f"leaf {leaf}: the certificate of intent {leaf + 1}") for line in found)
    assert "checkpoint 30: A note has no signature lines, or the last one is truncated." in found
    assert any(line.startswith("tree: its state is corrupt") for line in found)


async def test_an_older_copy_of_the_file_is_found_with_a_newer_checkpoint(tmp_path: Any) -> None:
    home, notary = SqliteHome(tmp_path), Notary()
    ledger = await opened(home)
    await issue_many(ledger, 10)
    await grow(ledger)
    old = open_checkpoint(await checkpoint(ledger, notary), notary.verifier)
    await ledger.close()
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(home.path, copy)
    ledger = await opened(home)
    await issue_many(ledger, 10, "later")
    await grow(ledger)
    newer = open_checkpoint(await checkpoint(ledger, notary), notary.verifier)
    await ledger.close()
    for path in tmp_path.glob("ledger.sqlite3*"):
        path.unlink()
    copy.rename(home.path)
    assert findings(home, notary) == []
    assert findings(home, notary, old) == []
    named = "the checkpoint of 20 leaves from elsewhere"
    assert findings(home, notary, newer) == [
        f"{named}: the ledger has only 10 leaves: it was truncated, or replaced by an older copy"
    ]
    # The daemon goes on with the older copy, and other certificates; now it is a fork.
    ledger = await opened(home)
    await issue_many(ledger, 15, "another")
    await grow(ledger)
    await ledger.close()
    (found,) = findings(home, notary, newer)
    assert found.startswith("the checkpoint of 20 leaves from elsewhere: its root differs")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE unlogged SET intent_id = 9999", "has queued the certificate of intent 9999"),
        ("UPDATE unlogged SET kind = 99", "has queued the entry 1 of the unknown kind 99"),
        (
            "UPDATE unlogged SET hash = mac",
            "no daemon with our MAC key has queued the certificate",
        ),
        (
            "UPDATE unlogged SET mac = hash",
            "no daemon with our MAC key has queued the certificate",
        ),
        (
            "INSERT INTO unlogged SELECT 9, kind, intent_id, hash, mac FROM unlogged",
            "an entry is pending twice",
        ),
        ("UPDATE tree SET size = 1", "the tables are corrupt"),
        ("DELETE FROM tree", "the tables are corrupt"),
    ],
)
async def test_what_was_tampered_with_is_not_logged_and_stops_nothing_else(
    home: Home, statement: str, named: str
) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 1)
    home.change(statement)
    step = await ledger.tree.grow()
    assert step.taken == 0
    assert named in step.problem
    await issue_many(ledger, 1, "another")
    assert ledger.failure is None
    await ledger.close()


async def test_a_leaf_that_is_logged_is_not_logged_again(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 2)
    kept = "kept_rows"
    home.change(f"CREATE TABLE {kept} AS SELECT * FROM unlogged WHERE intent_id = 2")
    await grow(ledger)
    home.change(f"INSERT INTO unlogged SELECT * FROM {kept}")
    assert "intent 2 is pending, but is already leaf 1" in (await ledger.tree.grow()).problem
    home.change("DELETE FROM unlogged", "DELETE FROM leaves WHERE leaf_index = 1")
    await issue_many(ledger, 1, "another")
    assert "2 leaves according to its state, but 1 in the table" in (await ledger.tree.grow()).problem
    await ledger.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_what_was_removed_together_with_its_row_in_the_queue_is_missed(
    home: Home, *, replaced: bool
) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 1)
    home.change("CREATE TABLE other AS SELECT * FROM unlogged")
    home.change(
        "UPDATE replicas SET closed_below = 0",
        "DELETE FROM certificates",
        "DELETE FROM unlogged",
    )
    await ledger.tend()
    assert home.read("SELECT void_reason FROM intents") == [(None,)]  # it was released
    if replaced:  # another entry is queued, by this daemon itself
        await issue_many(ledger, 1, "another")
    step = await ledger.tree.grow()
    assert step.taken == int(replaced)
    assert step.problem.startswith("the certificate of intent 1 was removed before it was in the tree")
    assert (await ledger.tree.grow()).problem == step.problem
    home.change("INSERT INTO unlogged SELECT * FROM other")
    assert await grow(ledger) == 1
    await ledger.close()


async def test_what_another_replica_took_into_the_tree_is_not_missed(
    postgres_server: PostgresServer,
) -> None:
    home = PostgresHome(postgres_server)
    first, second = await opened(home), await opened(home)
    await issue_many(first, 3)
    await issue_many(second, 2, "another")
    assert await grow(second) == 5
    assert not (await first.tree.grow()).problem
    await first.close()
    await second.close()


async def test_there_is_an_end_to_findings(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 3 * MAX_FINDINGS)
    await grow(ledger)
    await ledger.close()
    home.change("UPDATE certificates SET recorded_at = 1")
    found = verdict(home)
    assert len(found.findings) == MAX_FINDINGS
    assert found.count == 3 * MAX_FINDINGS


async def test_an_empty_ledger_is_good(home: Home) -> None:
    ledger, notary = await opened(home), Notary()
    await checkpoint(ledger, notary)
    await ledger.close()
    found = verdict(home, notary)
    assert found.good
    assert found.root == sha256().digest()
    assert found.checkpoints == 1


async def test_a_ledger_is_verified_beside_the_daemon_that_writes_it(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 5)
    await grow(ledger)
    with snapshot(home.config) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM leaves").fetchall()
        await issue_many(ledger, 5, "meanwhile")
        await grow(ledger)
        assert connection.exec_driver_sql("SELECT count(*) FROM leaves").fetchall() == [(5,)]
    assert verdict(home).leaves == 10
    await ledger.close()


async def test_what_is_no_ledger_can_not_be_verified(tmp_path: Any) -> None:
    home = SqliteHome(tmp_path)
    with pytest.raises(ConfigError, match="there is no ledger"):
        verdict(home)
    home.path.write_bytes(b"")
    with pytest.raises(ConfigError, match="is not a ledger"):
        verdict(home)
    home.path.write_bytes(b"this is a text file" * 1000)
    with pytest.raises(LedgerDamagedError, match="file is not a database"):
        verdict(home)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE revocations SET reason = 'unspecified' WHERE intent_id = 2",
        "UPDATE revocations SET revoked_at = 2 WHERE intent_id = 2",
        "DELETE FROM revocations WHERE intent_id = 2",
    ],
)
async def test_a_revocation_is_a_leaf_and_what_is_done_to_one_is_named(home: Home, statement: str) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 3)
    targets = [RevocationRequest(None, "device-1", "", "key_compromise")]
    await ledger.acts.revoke(targets, by("cn:test"), 1_000_000)
    assert await grow(ledger) == 5  # and the act
    await ledger.close()
    assert findings(home) == []
    home.change(statement)
    assert any("the revocation of intent 2" in finding for finding in findings(home))


async def test_a_revocation_that_somebody_added_is_named(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 3)
    await grow(ledger)
    await ledger.close()
    home.change("INSERT INTO revocations VALUES (3, 1, 'superseded', 'cn:intruder', 1, NULL)")
    assert any("the revocation of intent 3" in finding for finding in findings(home))


async def test_a_revocation_that_somebody_added_keeps_none_from_being_written(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 2)
    targets = [RevocationRequest(None, f"device-{number}", "", "superseded") for number in range(2)]
    await ledger.acts.revoke(targets[:1], by("cn:test"), 1_000_000)
    home.change("INSERT INTO revocations VALUES (2, 1, 'superseded', 'cn:intruder', 1, NULL)")

    async def before(now: int) -> list[bool]:
        answers = (await ledger.acts.revoke(targets, by("cn:test"), now)).result
        return [each.before for answer in answers if isinstance(answer, list) for each in answer]

    assert await before(2_000_000) == [True, False]
    assert await before(3_000_000) == [True, True]
    assert await grow(ledger) == 6
    assert await before(4_000_000) == [True, True]
    await ledger.close()
    assert findings(home) == []


OPEN = (
    "INSERT INTO intents (id, serial, request_id, profile, device_id, spki_sha256, tbs_sha256, issuer_key_id,"
    " not_before, not_after, client, client_certificate_sha256, intended_at, place, policy_client) SELECT 99,"
    " tbs_sha256, 'forged', profile, 'wanted', tbs_sha256, tbs_sha256, issuer_key_id, not_before, not_after,"
    " client, client_certificate_sha256, intended_at, {place}, 'line' FROM intents WHERE id = 1"
)


async def test_an_open_intent_that_no_daemon_wrote_keeps_no_device_waiting(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 1)
    home.change(OPEN.format(place=1))
    (answer,) = await ledger.journal([intent("wanted")])
    assert not isinstance(answer, Accepted)
    mine = intent("mine")
    (opened_here,) = await ledger.journal([mine])
    assert isinstance(opened_here, Accepted)
    await ledger.tend()
    assert home.read("SELECT void_reason FROM intents WHERE id = 99") == [("no daemon wrote this intent",)]
    (answer,) = await ledger.journal([intent("wanted")])
    assert isinstance(answer, Accepted)
    await ledger.record({opened_here.intent_id: b"certificate", answer.intent_id: b"another"})
    await grow(ledger)
    await ledger.close()
    assert findings(home) == []


async def test_an_open_intent_that_no_replica_will_void_is_named(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 1)
    await grow(ledger)
    await ledger.close()
    home.change(OPEN.format(place=77))
    assert findings(home) == ["intent 99: is open, and no replica will void it: it was changed or added"]


async def test_an_intent_that_no_daemon_wrote_sets_no_device_free(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 3)
    await grow(ledger)
    ((request,),) = home.read("SELECT request_id FROM intents WHERE id = 2")
    # As if the renewal of device-1 had failed, and another device had its request id by then.
    home.change(
        OPEN.format(place=1),
        "UPDATE intents SET superseded_by = 99, superseded_at = 7, request_id = 'taken' WHERE id = 2",
        "UPDATE intents SET request_id = 'taken' WHERE id = 3",
    )
    await ledger.tend()
    home.change(
        f"UPDATE intents SET request_id = '{request}' WHERE id = 2",
        "UPDATE intents SET request_id = 'p/device-2/device-2' WHERE id = 3",
    )
    assert home.read("SELECT superseded_by FROM intents WHERE id = 2") == [(99,)]
    await grow(ledger)
    await ledger.close()
    assert findings(home) == ["intent 2: is superseded by the intent 99, which was not written for that"]


async def test_certificates_that_a_batch_did_not_give_are_named(home: Home) -> None:
    ledger = await opened(home)
    terms = BatchTerms("order", "p", 2, "{}", None, ("cn:test",))
    batch = as_done((await ledger.acts.create_batch(terms, by("cn:test"), told)).result)
    # As if its row had been another for a moment.
    home.change("UPDATE batches SET device_count = 9, profile = 'q'")
    wanted = [intent(f"device-{number}")._replace(batch_id=batch.id) for number in range(4)]
    wanted[3] = wanted[3]._replace(profile="q")
    answers = await ledger.journal(wanted)
    await ledger.record({each.intent_id: b"x" for each in answers if isinstance(each, Accepted)})
    home.change("UPDATE batches SET device_count = 2, profile = 'p'")
    await grow(ledger)
    await ledger.close()
    assert findings(home) == [
        "batch 1: is an order for 2 certificates, and has 4 intents",
        "intent 4: is in the batch 1, which is for another profile",
    ]


async def test_a_key_of_two_devices_is_named(home: Home) -> None:
    ledger = await opened(home)
    await issue_many(ledger, 1)
    asked = intent("another", "device-0")
    (refused,) = await ledger.journal([asked])
    assert isinstance(refused, Conflict)
    home.change("UPDATE intents SET (spki_sha256, tbs_sha256) = (tbs_sha256, spki_sha256)")  # for a moment
    (answer,) = await ledger.journal([asked])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: b"x"})
    home.change("UPDATE intents SET (spki_sha256, tbs_sha256) = (tbs_sha256, spki_sha256) WHERE id = 1")
    await grow(ledger)
    await ledger.close()
    assert findings(home) == [
        "intent 3: has a certificate for a key that another device has a certificate for"
    ]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("INSERT INTO nodes VALUES ('x', 0, x'00')", "node 0 of level 'x'"),
        ("INSERT INTO nodes VALUES (8, -5, x'00')", "node -5 of level 8"),
        ("INSERT INTO nodes VALUES (0, -5, x'00')", "node -5 of level 0"),
        ("INSERT INTO leaves VALUES (9223372036854775807, 1, 9, x'00')", "leaf 9223372036854775807"),
    ],
)
async def test_a_row_that_can_be_of_no_tree_is_named(tmp_path: Any, statement: str, named: str) -> None:
    home = SqliteHome(tmp_path)
    ledger = await opened(home)
    await issue_many(ledger, 1)
    await grow(ledger)
    await ledger.close()
    home.change(statement)
    assert findings(home) == [f"{named}: is not part of the tree: it was added"]
