"""A ledger with the schema before MACs is taken over: all of it gets leaves, and an operator is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.ledger import (
    AuditEvent,
    Ledger,
    MacKeys,
    Vouched,
    database_of,
    snapshot,
    unproven_entries,
    verify,
)
from otahsm.ledger.migrations import migrate
from otahsm.ledger.tree.log_entries import Kind

from support.homes import CA, MAC_KEYS, Home, PostgresHome
from support.logbook import findings, grow, issue_many

BEFORE = "0010"
INTENT = (
    "INSERT INTO intents (id, serial, request_id, profile, device_id, spki_sha256, tbs_sha256, issuer_key_id,"
    " not_before, not_after, client, client_certificate_sha256, intended_at, void_reason, voided_at,"
    " superseded_at, superseded_by, place, batch_id, quota_id) VALUES ({id}, {serial}, '', 'p', '{device}',"
    " {serial}, {zeroes}, {zeroes}, 1, 2, 'cn:x', {zeroes}, 3, {void}, {superseded}, 1, {batch}, {quota})"
)
ACCEPTED = AuditEvent(5, "entries.accepted", "host:root", 1, "{}")
DENIED = json.dumps({"reason": "lost", "subject": "cn:gone"}, sort_keys=True, separators=(",", ":"))


class Old:
    """A ledger with the schema before MACs."""

    def __init__(self, home: Home) -> None:
        self.home = home
        database = database_of(home.config)
        database.hold()
        with database.engine.begin() as connection:
            migrate(connection, BEFORE)
        database.close()

    def octets(self, number: int) -> str:
        digits = f"{number:040x}"
        return f"'\\x{digits}'" if isinstance(self.home, PostgresHome) else f"x'{digits}'"

    def intent(
        self,
        number: int,
        device: str,
        *,
        void: str = "NULL, NULL",
        superseded: str = "NULL, NULL",
        batch: str = "NULL",
        quota: str = "NULL",
    ) -> None:
        self.home.change(
            INTENT.format(
                id=number,
                serial=self.octets(number),
                zeroes=self.octets(0),
                device=device,
                void=void,
                superseded=superseded,
                batch=batch,
                quota=quota,
            )
        )

    def certificate(self, number: int) -> None:
        self.home.change(f"INSERT INTO certificates VALUES ({number}, {self.octets(number)}, 5)")

    def fill(self) -> None:
        """Write what an old daemon would have written, all of which waits to become leaves."""
        self.home.change(
            "INSERT INTO batches (id, name, profile, device_count, scheme, clients, creator, created_at,"
            " closed_at, taken) VALUES (7, 'order', 'p', 5, '{}', '[]', 'cn:x', 1, 2, 1)",
            "INSERT INTO quotas VALUES (9, 'line', 2, 0, 2, 0)",
            f"INSERT INTO crl_urls VALUES ({self.octets(0)}, 'http://x.example/a.crl', true)",
            "INSERT INTO denied_clients VALUES ('cn:gone', 'lost', 'cn:operator', 40)",
            "INSERT INTO events (happened_at, name, client, occurrences, details)"
            f" VALUES (44, 'client.cut_off', 'cn:operator', 1, '{DENIED}')",
        )
        self.intent(1, "renewed", superseded="3, 2")
        self.intent(2, "renewed")
        self.intent(3, "reset", superseded="77, NULL")
        self.intent(4, "left", superseded="3, 5")  # its request id was taken when its renewal failed
        self.intent(5, "left", void="'lost', 4")
        self.intent(6, "in the order", batch="7", quota="9")
        self.intent(8, "counted", quota="9")
        for number in (1, 2, 3, 4, 6, 8):
            self.certificate(number)
        entries = [(Kind.EVENT, 1), (Kind.VOID, 5), *((Kind.CERTIFICATE, at) for at in (1, 2, 3, 4, 6, 8))]
        for kind, entry in entries:
            self.home.change(f"INSERT INTO unlogged (kind, intent_id) VALUES ({int(kind)}, {entry})")


@pytest.fixture
def old(bare_home: Home) -> Old:
    return Old(bare_home)


def ledger_of(home: Home) -> Ledger:
    return Ledger(database_of(home.config), MAC_KEYS, [CA])


async def refused(home: Home, accepted: Vouched | None, match: str) -> None:
    ledger = ledger_of(home)
    with pytest.raises(ConfigError, match=match):
        await ledger.open(accepted)
    await ledger.close()


async def test_all_that_an_older_ledger_holds_becomes_leaves_once_an_operator_accepts_it(old: Old) -> None:
    old.fill()
    for accepted in (None, Vouched("17:0123456789abcdef", ACCEPTED)):
        await refused(
            old.home, accepted, "a daemon wrote 17 entries of the ledger, which has the schema 0010"
        )
    lines: list[str] = []
    found = unproven_entries(old.home.config, MAC_KEYS, lines.append)
    assert old.home.read("SELECT version_num FROM alembic_version") == [(BEFORE,)]
    assert found.total == 17
    assert lines[0].startswith("the event 1: happened_at 44, name client.cut_off, client cn:operator")
    assert f"the certificate of intent 1: serial {1:040x}, profile p, device_id renewed" in lines[2]
    old.home.change("UPDATE batches SET device_count = 50000")
    await refused(old.home, Vouched(found.digest, ACCEPTED), "; you accepted others")
    old.home.change("UPDATE batches SET device_count = 5")
    ledger = ledger_of(old.home)
    await ledger.open(Vouched(found.digest, ACCEPTED))
    assert await grow(ledger) == 18
    await ledger.close()
    counts = dict(old.home.read("SELECT kind, count(*) FROM leaves GROUP BY kind"))
    assert counts == {
        Kind.CERTIFICATE: 6,
        Kind.VOID: 1,
        Kind.EVENT: 2,  # and that they were accepted
        Kind.MEMBERSHIP: 2,
        Kind.SUPERSEDED: 2,
        Kind.BATCH: 1,
        Kind.BATCH_CLOSED: 1,
        Kind.QUOTA: 1,
        Kind.CRL_URL: 1,
        Kind.RENEWAL: 1,
    }
    assert findings(old.home) == []
    assert unproven_entries(old.home.config, MAC_KEYS, print).total == 0


async def test_an_older_ledger_in_which_nothing_waits_is_taken_over_at_the_start(old: Old) -> None:
    old.intent(1, "a")
    old.certificate(1)
    ledger = ledger_of(old.home)
    await ledger.open()
    await ledger.close()
    assert [line.partition(":")[0] for line in findings(old.home)] == ["intent 1"]  # nobody queued it


@pytest.mark.parametrize(
    ("void", "superseded"),
    [
        ("'lost', NULL", "NULL, NULL"),
        ("NULL, 4", "NULL, NULL"),
        ("'lost', 4", "3, 1"),
        ("NULL, NULL", "NULL, 1"),
    ],
)
async def test_a_row_that_is_of_no_kind_is_not_taken_over(old: Old, void: str, superseded: str) -> None:
    old.intent(1, "a", void=void, superseded=superseded)
    ledger = ledger_of(old.home)
    with pytest.raises(LedgerTamperedError, match="intent 1 is of no kind"):
        await ledger.open()
    await ledger.close()
    assert old.home.read("SELECT version_num FROM alembic_version") == [(BEFORE,)]


async def test_an_entry_that_waits_and_does_not_exist_is_not_taken_over(old: Old) -> None:
    old.home.change("INSERT INTO unlogged (kind, intent_id) VALUES (3, 77)")
    lines: list[str] = []
    found = unproven_entries(old.home.config, MAC_KEYS, lines.append)
    assert lines == ["the revocation of intent 77, which does not exist"]
    ledger = ledger_of(old.home)
    with pytest.raises(LedgerTamperedError, match="the revocation of intent 77 waits"):
        await ledger.open(Vouched(found.digest, ACCEPTED))
    await ledger.close()


async def test_the_constraint_refuses_a_row_of_no_kind(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await ledger.close()
    with snapshot(home.config) as connection:
        assert verify(connection, mac_keys=MAC_KEYS).good
    old = Old.__new__(Old)
    old.home = home
    with pytest.raises(Exception, match="ck_intents_one_kind"):
        old.intent(1, "a", void="'lost', NULL")


async def test_a_ledger_is_taken_over_once(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 2)
    await grow(ledger)
    await ledger.close()
    home.change(
        "CREATE TABLE unlogged_before (id BIGINT, kind SMALLINT, intent_id BIGINT)",
        "INSERT INTO unlogged_before VALUES (1, 3, 1)",
        "INSERT INTO revocations VALUES (1, 1, 'superseded', 'cn:mallory', 1, NULL)",
        "UPDATE alembic_version SET version_num = '0010'",
    )
    ledger = ledger_of(home)
    with pytest.raises(LedgerTamperedError, match="leaf 0 is of a newer one"):
        await ledger.open()
    await ledger.close()


async def test_what_waits_with_the_mac_of_a_key_that_was_lost_is_accepted_by_an_operator(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 2)
    await ledger.close()
    another = MacKeys(bytes(32), ledgers=(CA,))
    assert unproven_entries(home.config, MAC_KEYS, print).total == 0
    lines: list[str] = []
    found = unproven_entries(home.config, another, lines.append)
    assert found.total == 2
    assert "device_id device-0" in lines[0]
    ledger = Ledger(database_of(home.config), another, [CA])
    await ledger.open()
    assert "no daemon with our MAC key" in (await ledger.tree.grow()).problem
    await ledger.close()
    ledger = Ledger(database_of(home.config), another, [CA])
    await ledger.open(Vouched(found.digest, ACCEPTED))
    assert await grow(ledger) == 3
    await ledger.close()
    assert findings(home) == []
    assert home.read("SELECT name, client FROM events") == [("entries.accepted", "host:root")]


async def test_a_forged_entry_that_does_not_exist_can_not_be_accepted(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 1)
    await ledger.close()
    home.change("INSERT INTO unlogged SELECT 99, 3, 1, hash, mac FROM unlogged")
    lines: list[str] = []
    found = unproven_entries(home.config, MAC_KEYS, lines.append)
    ledger = ledger_of(home)
    with pytest.raises(LedgerTamperedError, match="the revocation of intent 1 waits"):
        await ledger.open(Vouched(found.digest, ACCEPTED))
    await ledger.close()


async def test_nothing_is_accepted_that_was_put_in_place_of_what_was_looked_at(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 2)
    await ledger.close()
    home.change(
        "INSERT INTO revocations VALUES (1, 1, 'superseded', 'cn:operator', 1, NULL)",
        "INSERT INTO unlogged SELECT 99, 3, 1, hash, hash FROM unlogged WHERE intent_id = 1",
    )
    lines: list[str] = []
    found = unproven_entries(home.config, MAC_KEYS, lines.append)
    assert "reason superseded, client cn:operator" in lines[0]
    home.change("UPDATE revocations SET reason = 'key_compromise'")
    await refused(home, Vouched(found.digest, ACCEPTED), "1 entry of the ledger; you accepted others")


async def test_whoever_accepts_entries_sees_each_as_a_whole(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    details = json.dumps({"reason": 300 * "x" + " and the bad part"})
    await ledger.write_events([AuditEvent(at, "e", "daemon", 1, details) for at in range(150)])
    await ledger.close()
    lines: list[str] = []
    found = unproven_entries(home.config, MacKeys(bytes(32)), lines.append)
    assert len(lines) == found.total == 150
    assert all("and the bad part" in line for line in lines)


async def test_a_ledger_that_was_set_back_is_not_taken_over_without_an_operator(home: Home) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 2)
    await grow(ledger)
    await ledger.close()
    home.change(  # what would show it, changed for this moment
        "UPDATE intents SET superseded_at = intended_at, superseded_by = 2 WHERE id = 1",
        "ALTER TABLE intents DROP COLUMN supersedes",
        "DROP TABLE compatible_schemas",
        "DROP TABLE acts",
        "UPDATE alembic_version SET version_num = '0012'",
    )
    await refused(home, None, "a daemon wrote 1 entry of the ledger, which has the schema 0012")
    assert home.read("SELECT version_num FROM alembic_version") == [("0012",)]
    lines: list[str] = []
    unproven_entries(home.config, MAC_KEYS, lines.append)
    assert lines[0].startswith("the renewal of intent 2: ")


async def test_an_entry_of_another_ledger_with_the_same_key_is_not_appended(
    home: Home, tmp_path: Path
) -> None:
    ledger = ledger_of(home)
    await ledger.open()
    await issue_many(ledger, 1)
    await ledger.close()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = home.copied(tmp_path / "elsewhere")  # the same rows, of another CA's daemon
    other = Ledger(database_of(elsewhere.config), MAC_KEYS, [bytes(reversed(range(20))), CA])
    mine = Ledger(database_of(home.config), MAC_KEYS, [CA])
    await other.open()
    await other.write_events([ACCEPTED])
    await other.close()
    await mine.open()
    await mine.write_events([ACCEPTED])
    ((mac,),) = elsewhere.read("SELECT mac FROM unlogged WHERE kind = 4")
    written = f"x'{mac.hex()}'" if home.config.path else f"'\\x{mac.hex()}'"
    home.change(f"UPDATE unlogged SET mac = {written} WHERE kind = 4")
    assert "no daemon with our MAC key has queued the event 1" in (await mine.tree.grow()).problem
    await mine.close()
