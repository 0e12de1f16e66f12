"""What a ledger says was signed last, on SQLite and on PostgreSQL, and whether it has ever held anything."""

from __future__ import annotations

import pytest

from otahsm.config import LedgerConfig
from otahsm.errors import EvidenceError, LedgerTamperedError, LedgerUnavailableError
from otahsm.ledger import (
    CrlRow,
    StoredCrl,
    check_that_it_grew,
    is_unused,
    read_head,
    read_published,
    snapshot,
)
from otahsm.tlog import EMPTY_ROOT, root_of

from support.homes import CA, Home, SqliteHome
from support.intents import intent
from support.logbook import Notary, checkpoint, grow, issue_many, opened


def hashes(home: Home) -> list[bytes]:
    return [bytes(row[0]) for row in home.read("SELECT hash FROM leaves ORDER BY leaf_index")]


async def fill(home: Home) -> bytes:
    """Record 300 certificates, two CRLs and a checkpoint, and 20 certificates more; return the checkpoint."""
    ledger = await opened(home)
    await issue_many(ledger, 300)
    await grow(ledger)
    number = await ledger.take_crl_number(CA, above=0, earliest=0, now=1)
    row = CrlRow(number.number, 1, 10, 0)
    await ledger.write_crls(CA, [StoredCrl(scope, row, b"der") for scope in ("", "http://a/b.crl")])
    note = await checkpoint(ledger, Notary())
    await issue_many(ledger, 20, "later")
    await grow(ledger)
    await ledger.close()
    return note


async def test_what_was_signed_last_is_read(home: Home) -> None:
    note = await fill(home)
    with snapshot(home.config) as connection:
        published = read_published(connection)
    assert (published.head.size, published.head.note) == (300, note)
    assert (published.head.tree.size, published.head.tree.root) == (320, root_of(hashes(home)))
    assert [(bytes(crl.issuer_key_id), crl.scope, crl.number, bytes(crl.der)) for crl in published.crls] == [
        (CA, "", 1, b"der"),
        (CA, "http://a/b.crl", 1, b"der"),
    ]


async def test_a_tree_continues_those_that_it_begins_with_and_no_other(home: Home) -> None:
    await fill(home)
    leaves = hashes(home)
    with snapshot(home.config) as connection:
        head = read_head(connection)
        assert head is not None
        check_that_it_grew(connection, head, 0, EMPTY_ROOT)
        for size in (1, 2, 255, 256, 257, 300, 319, 320):
            check_that_it_grew(connection, head, size, root_of(leaves[:size]))
            with pytest.raises(EvidenceError):
                check_that_it_grew(connection, head, size, root_of([leaves[5], *leaves[1:size]]))
        for size in (321, 1 << 40):
            with pytest.raises(EvidenceError, match=f"only 320 leaves, not {size}"):
                check_that_it_grew(connection, head, size, root_of(leaves))
        with pytest.raises(EvidenceError):
            check_that_it_grew(connection, head, 0, bytes(32))


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM leaves WHERE leaf_index = 299",
        "DELETE FROM nodes",
        "UPDATE leaves SET hash = (SELECT hash FROM leaves WHERE leaf_index = 0) WHERE leaf_index = 299",
    ],
)
async def test_a_tree_that_was_damaged_continues_nothing(home: Home, change: str) -> None:
    await fill(home)
    root = root_of(hashes(home)[:300])
    home.change(change)
    with snapshot(home.config) as connection:
        head = read_head(connection)
        assert head is not None
        with pytest.raises(EvidenceError):
            check_that_it_grew(connection, head, 300, root)


async def test_the_state_of_the_tree_can_be_corrupt(home: Home) -> None:
    home.change("DELETE FROM tree")
    with snapshot(home.config) as connection, pytest.raises(LedgerTamperedError, match="corrupt"):
        read_published(connection)


def test_a_ledger_that_was_never_made_is_unused(bare_home: Home) -> None:
    assert is_unused(bare_home.config)


async def test_a_ledger_is_unused_until_it_holds_anything(home: Home) -> None:
    assert is_unused(home.config)
    ledger = await opened(home)
    await ledger.journal([intent("device")])
    await ledger.close()
    assert not is_unused(home.config)  # a certificate may have been signed


async def test_a_ledger_of_an_older_version_is_looked_into_too(home: Home) -> None:
    home.change("DROP TABLE revocations")
    assert is_unused(home.config)
    home.change("INSERT INTO checkpoints (size, note, made_at) VALUES (1, '', 1)")
    assert not is_unused(home.config)


def test_a_ledger_that_can_not_be_read_is_not_unused(bare_home: Home) -> None:
    if isinstance(bare_home, SqliteHome):
        bare_home.path.write_bytes(b"this is no database" * 100)
        config = bare_home.config
    else:
        config = LedgerConfig(url="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(LedgerUnavailableError):
        is_unused(config)
