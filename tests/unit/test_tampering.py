"""Tampering: SQL behind otahsm's back, on both databases, and what `verify` says of it.

The ledger of these tests has 300 certificates (leaves 0 to 299), a checkpoint, three voided intents (301 to
303, leaves 300 to 302), 297 more certificates (leaves 303 to 599), a checkpoint, and one certificate that is
not logged yet (intent 601).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from otahsm.ledger import snapshot
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import read_leaves
from otahsm.ledger.tree.sequencer import STORED_LEVELS
from otahsm.tlog import Checkpoint, CompactTree, leaf_hash, open_checkpoint

from support.homes import Home, PostgresHome
from support.logbook import Notary, checkpoint, findings, grow, issue_many, opened, verdict, void_some


class Victim:
    """The ledger of these tests; it is closed."""

    def __init__(self, home: Home, notary: Notary, newest: Checkpoint) -> None:
        self.home = home
        self.notary = notary
        self.newest = newest

    def octets(self, octets: bytes) -> str:
        return f"'\\x{octets.hex()}'" if isinstance(self.home, PostgresHome) else f"x'{octets.hex()}'"

    def change(self, *statements: str) -> None:
        """Change the database, without the constraints that who can do that can remove."""
        constraints = [
            "ALTER TABLE certificates DROP CONSTRAINT IF EXISTS fk_certificates_intent_id",
            "ALTER TABLE intents DROP CONSTRAINT IF EXISTS ck_intents_one_kind",
        ]
        if not isinstance(self.home, PostgresHome):
            constraints = ["PRAGMA ignore_check_constraints = ON"]
        self.home.change(*constraints, *statements)

    def findings(self) -> list[str]:
        return findings(self.home, self.notary)

    def rewrite(self) -> None:
        """Make hashes, nodes and state anew from the rows, as somebody would who knows otahsm."""
        with snapshot(self.home.config) as connection:
            rows = self.home.read("SELECT kind, intent_id FROM leaves ORDER BY leaf_index")
            held = read_leaves(connection, [Entry(*row) for row in rows])
        tree, nodes = CompactTree().extend(leaf_hash(leaf) for leaf in held if leaf is not None)
        changes = [
            f"UPDATE leaves SET hash = {self.octets(hashed)} WHERE leaf_index = {index}"
            for index, hashed in enumerate(nodes[0].hashes)
        ]
        changes += [
            f"UPDATE nodes SET hash = {self.octets(hashed)} WHERE level = {row.level} AND number = {number}"
            for row in nodes
            if row.level and row.level % STORED_LEVELS == 0
            for number, hashed in enumerate(row.hashes)
        ]
        self.change(*changes, f"UPDATE tree SET peaks = {self.octets(b''.join(tree.peaks))}")


async def fill(home: Home) -> Victim:
    notary = Notary()
    ledger = await opened(home)
    await issue_many(ledger, 300)
    await grow(ledger)
    await checkpoint(ledger, notary)
    await void_some(ledger, "x", "y", "z")
    await issue_many(ledger, 297, "more")
    await grow(ledger)
    newest = open_checkpoint(await checkpoint(ledger, notary), notary.verifier)
    await issue_many(ledger, 1, "waits")
    await ledger.close()
    return Victim(home, notary, newest)


@pytest.fixture(scope="module")
def filled_sqlite(empty_sqlite: Home, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return asyncio.run(fill(empty_sqlite.copied(tmp_path_factory.mktemp("filled"))))


@pytest.fixture(scope="module")
def filled_postgresql(empty_postgresql: Home, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return asyncio.run(fill(empty_postgresql.copied(tmp_path_factory.mktemp("filled"))))


@pytest.fixture(params=["sqlite", "postgresql"])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Victim:
    filled: Victim = request.getfixturevalue(f"filled_{request.param}")
    home = filled.home.copied(tmp_path)
    found = verdict(home, filled.notary, filled.newest)
    assert found.findings == []
    assert (found.leaves, found.waiting, found.checkpoints, found.signed_size) == (600, 1, 2, 600)
    return Victim(home, filled.notary, filled.newest)


REWRITTEN = "its root differs from that of the leaves; the change is in"
COPY = (
    "INSERT INTO intents SELECT 9999, {serial}, '', 'p', 'intruder', {serial}, tbs_sha256, issuer_key_id,"
    " not_before, not_after, client, client_certificate_sha256, intended_at, {void}, place, NULL,"
    " NULL, NULL, NULL, 'line', NULL FROM intents WHERE id = 1"
)
SWAP_IDS = (
    "UPDATE {table} SET {key} = -1 WHERE {key} = 17",
    "UPDATE {table} SET {key} = 17 WHERE {key} = 18",
    "UPDATE {table} SET {key} = 18 WHERE {key} = -1",
)
SWAPPED_LEAVES = tuple(line.format(table="leaves", key="leaf_index") for line in SWAP_IDS)
SWAPPED_CERTIFICATES = tuple(line.format(table="certificates", key="intent_id") for line in SWAP_IDS)
SWAPPED_NODES = tuple(
    f"UPDATE nodes SET number = {new} WHERE level = 8 AND number = {old}"
    for old, new in ((0, 99), (1, 0), (99, 1))
)
SWAPPED_NOTES = tuple(
    f"UPDATE checkpoints SET size = {new} WHERE size = {old}" for old, new in ((300, 9), (600, 300), (9, 600))
)
TAMPERED: list[tuple[tuple[str, ...], str]] = [
    # changed rows
    *(
        ((f"UPDATE intents SET {change} WHERE id = 17",), "leaf 16: the certificate of intent 17")
        for change in (
            "device_id = 'other'",
            "client = 'cn:mallory'",
            "request_id = 'other'",
            "profile = 'other'",
            "not_after = 9999",
            "not_before = 0",
            "intended_at = 4",
            "place = 2",
            "void_reason = 'stolen'",
            "voided_at = 1",
            "serial = {octets}",
            "serial = {more_octets}",
            "spki_sha256 = {octets}",
            "tbs_sha256 = {octets}",
            "issuer_key_id = {octets}",
            "client_certificate_sha256 = {octets}",
        )
    ),
    (
        ("UPDATE certificates SET der = {octets} WHERE intent_id = 17",),
        "leaf 16: the certificate of intent 17",
    ),
    (("UPDATE certificates SET recorded_at = 1 WHERE intent_id = 17",), "leaf 16: the certificate of intent"),
    (("UPDATE intents SET void_reason = 'other' WHERE id = 302",), "leaf 301: the void of intent 302"),
    (("UPDATE intents SET voided_at = 1 WHERE id = 302",), "leaf 301: the void of intent 302"),
    (("UPDATE intents SET void_reason = NULL WHERE id = 302",), "leaf 301: the void of intent 302"),
    (("UPDATE leaves SET hash = {octets} WHERE leaf_index = 16",), "leaf 16: the certificate of intent 17"),
    (("UPDATE leaves SET kind = 6 WHERE leaf_index = 16",), "leaf 16: the void of intent 17"),
    (("UPDATE leaves SET kind = 99 WHERE leaf_index = 16",), "leaf 16: the entry 17 of the unknown kind 99"),
    (
        ("UPDATE leaves SET intent_id = 9999 WHERE leaf_index = 16",),
        "leaf 16: the certificate of intent 9999",
    ),
    (
        ("UPDATE nodes SET hash = {octets} WHERE number = 1",),
        "node 1 of level 8: differs from its leaves, leaves 256 to 511",
    ),
    (("UPDATE tree SET size = 599",), "tree: its state"),
    (("UPDATE tree SET peaks = {octets}",), "tree: its state"),
    (("UPDATE checkpoints SET note = {octets} WHERE size = 300",), "checkpoint 300: "),
    (("UPDATE checkpoints SET size = 301 WHERE size = 300",), "checkpoint 301: its note is for 300 leaves"),
    (("UPDATE unlogged SET intent_id = 9999",), "unlogged {waits}: the certificate of intent 9999"),
    (("UPDATE unlogged SET intent_id = 17",), "unlogged {waits}: the certificate of intent 17, "),
    (("UPDATE unlogged SET kind = 6",), "unlogged {waits}: the void of intent 601"),
    # removed rows
    (("DELETE FROM certificates WHERE intent_id = 17",), "leaf 16: the certificate of intent 17"),
    (
        ("DELETE FROM certificates WHERE intent_id = 17", "DELETE FROM intents WHERE id = 17"),
        "leaf 16: the certificate of intent 17, which does not exist",
    ),
    (("DELETE FROM intents WHERE id = 302",), "leaf 301: the void of intent 302, which does not exist"),
    (("DELETE FROM leaves WHERE leaf_index = 16",), "leaf 16: missing"),
    (("DELETE FROM leaves WHERE leaf_index = 16",), "intent 17: the certificate of intent 17"),
    (("DELETE FROM leaves WHERE leaf_index = 599",), "checkpoint 600: the ledger has only 599 leaves"),
    (("DELETE FROM nodes WHERE number = 0",), "node 0 of level 8: is missing"),
    (("DELETE FROM tree",), "tree: its state is corrupt"),
    (("DELETE FROM unlogged",), "intent 601: the certificate of intent 601"),
    # added rows
    ((COPY.format(serial="{octets}", void="'gone', 1"),), "intent 9999: the void of intent 9999"),
    (
        (
            COPY.format(serial="{octets}", void="NULL, NULL"),
            "INSERT INTO certificates SELECT 9999, der, recorded_at FROM certificates WHERE intent_id = 1",
        ),
        f"intent 9999: the certificate of intent 9999, serial number {'ab' * 20}, device 'intruder'",
    ),
    (
        ("INSERT INTO certificates SELECT 302, der, recorded_at FROM certificates WHERE intent_id = 1",),
        "leaf 301: the void of intent 302",
    ),
    (
        ("INSERT INTO leaves SELECT 600, 5, 9999, hash FROM leaves WHERE leaf_index = 0",),
        "leaf 600: the certificate of intent 9999",
    ),
    (
        ("INSERT INTO leaves SELECT -1, 5, 9999, hash FROM leaves WHERE leaf_index = 0",),
        "leaf -1: is not part of the tree",
    ),
    (
        ("INSERT INTO nodes SELECT 8, 2, hash FROM nodes WHERE number = 0",),
        "node 2 of level 8: is not part of the tree",
    ),
    (
        ("INSERT INTO nodes SELECT 3, 0, hash FROM nodes WHERE number = 0",),
        "node 0 of level 3: is not part of the tree",
    ),
    (("INSERT INTO nodes SELECT 16, 0, hash FROM nodes WHERE number = 0",), "node 0 of level 16: is not"),
    (("INSERT INTO tree SELECT 1, peaks FROM tree",), "tree: its state is corrupt"),
    (
        ("INSERT INTO checkpoints SELECT 450, note, 1 FROM checkpoints WHERE size = 600",),
        "checkpoint 450: its note is for 600 leaves",
    ),
    (
        ("INSERT INTO checkpoints SELECT 700, note, 1 FROM checkpoints WHERE size = 600",),
        "checkpoint 700: the ledger has only 600 leaves",
    ),
    (
        ("INSERT INTO unlogged SELECT 7777, 5, 17, hash, mac FROM unlogged",),
        "unlogged 7777: the certificate of intent 17, ",
    ),
    # swapped rows
    (SWAPPED_CERTIFICATES, "leaf 16: the certificate of intent 17"),
    (SWAPPED_CERTIFICATES, "leaf 17: the certificate of intent 18"),
    (SWAPPED_LEAVES, "node 0 of level 8: differs from its leaves, leaves 0 to 255"),
    (SWAPPED_NODES, "node 1 of level 8: differs from its leaves, leaves 256 to 511"),
    (SWAPPED_NOTES, "checkpoint 300: its note is for 600 leaves"),
]


@pytest.mark.parametrize(("statements", "named"), TAMPERED)
async def test_whatever_is_changed_removed_added_or_swapped_is_named(
    victim: Victim, statements: tuple[str, ...], named: str
) -> None:
    octets, more_octets = victim.octets(b"\xab" * 20), victim.octets(b"\xab" * 21)
    ((waits,),) = victim.home.read("SELECT id FROM unlogged")
    named = named.replace("{waits}", str(waits))
    statements = tuple(statement.replace("{more_octets}", more_octets) for statement in statements)
    victim.change(*(statement.replace("{octets}", octets) for statement in statements))
    found = victim.findings()
    assert any(line.startswith(named) for line in found), found


async def test_who_rewrites_the_whole_tree_is_caught_by_the_checkpoint(victim: Victim) -> None:
    victim.change("UPDATE intents SET device_id = 'other' WHERE id = 401")
    victim.rewrite()
    assert victim.findings() == [f"checkpoint 600: {REWRITTEN} leaves 300 to 599"]


async def test_who_rewrites_all_and_removes_the_checkpoints_is_caught_by_one_from_elsewhere(
    victim: Victim,
) -> None:
    victim.change("UPDATE intents SET device_id = 'other' WHERE id = 401", "DELETE FROM checkpoints")
    victim.rewrite()
    assert victim.findings() == []
    assert findings(victim.home, victim.notary, victim.newest) == [
        f"the checkpoint of 600 leaves from elsewhere: {REWRITTEN} leaves 0 to 599"
    ]


async def test_a_checkpoint_of_another_key_is_named(victim: Victim) -> None:
    forger = Notary()
    with snapshot(victim.home.config):
        note = forger.sign(600, victim.newest.root)
    victim.change(f"UPDATE checkpoints SET note = {victim.octets(note)} WHERE size = 600")
    assert victim.findings() == ["checkpoint 600: None of the trusted keys signed the note."]
    assert findings(victim.home) == []  # who gives no key learns nothing of signatures
