"""Revocations and CRLs in the ledger, on SQLite and on PostgreSQL: what is revoked stays so."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from otahsm.errors import ConfigError
from otahsm.ledger import (
    COMPLETE,
    Accepted,
    Barred,
    Conflict,
    CrlReader,
    CrlRow,
    InProgress,
    Intent,
    JournalResult,
    Ledger,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
    database_of,
)
from otahsm.ledger.migrations import migrate
from otahsm.ledger.write.revocation import revoke, take_number
from otahsm.pki.serial import SerialNumber

from support.acts import by
from support.authority import leaf
from support.homes import CA, MAC_KEYS, Home, PostgresHome, ledger_in
from support.intents import intent, issue
from support.logbook import accept_older

NOW = 1_800_000_000
URL = "http://crl.example.com/fleet-1.crl"
OTHER = "http://crl.example.com/fleet-0.crl"


@pytest.fixture
def books(ledger: Ledger, home: Home) -> Iterator[CrlReader]:
    del ledger  # it has made the tables
    books = CrlReader(database_of(home.config), CA)
    yield books
    books.close()


def by_device(device: str, reason: str = "superseded", profile: str = "") -> RevocationRequest:
    return RevocationRequest(None, device, profile, reason)


async def revoked(
    ledger: Ledger, *targets: RevocationRequest, client: str = "cn:test", now: int = NOW
) -> list[RevocationAnswer]:
    work = partial(revoke, targets=targets, by=by(client), now=now * 1_000_000)
    return (await ledger._writer.transaction(work, with_events=True)).result


def id_of(answer: JournalResult) -> int:
    assert isinstance(answer, Accepted)
    return answer.intent_id


async def test_a_certificate_is_revoked_by_its_serial_number(ledger: Ledger, home: Home) -> None:
    first, other = intent("a"), intent("b")
    await issue(ledger, first, other)
    answers = await revoked(
        ledger, RevocationRequest(first.serial, "", "", "key_compromise"), client="cn:who"
    )
    assert answers == [[Revocation(first.serial, "a", "p", NOW, "key_compromise", before=False)]]
    assert home.read(
        "SELECT intent_id, revoked_at, reason, client, recorded_at, crl_url FROM revocations"
    ) == [(1, NOW, "key_compromise", "cn:who", NOW * 1_000_000, None)]


async def test_all_certificates_of_a_device_are_revoked_or_those_of_a_profile(ledger: Ledger) -> None:
    await issue(ledger, intent("a"), intent("a", profile="q"), intent("b"))
    (one,) = await revoked(ledger, by_device("a", profile="q"))
    assert isinstance(one, list)
    assert [(item.profile, item.before) for item in one] == [("q", False)]
    (both,) = await revoked(ledger, by_device("a"))
    assert isinstance(both, list)
    assert [(item.profile, item.before) for item in both] == [("p", False), ("q", True)]


async def test_the_first_revocation_stands(ledger: Ledger, home: Home) -> None:
    await issue(ledger, intent("a"))
    await revoked(ledger, by_device("a", "superseded"), client="cn:first")
    for reason in ("superseded", "key_compromise"):
        (answer,) = await revoked(ledger, by_device("a", reason), client="cn:second", now=NOW + 5)
        assert isinstance(answer, list)
        assert [(item.revoked_at, item.reason, item.before) for item in answer] == [(NOW, "superseded", True)]
    assert home.read("SELECT revoked_at, reason, client FROM revocations") == [
        (NOW, "superseded", "cn:first")
    ]


async def test_a_certificate_that_is_named_twice_in_a_call_is_revoked_once(ledger: Ledger) -> None:
    first = intent("a")
    await issue(ledger, first)
    targets = [by_device("a", "superseded"), RevocationRequest(first.serial, "", "", "key_compromise")]
    once, again = await revoked(ledger, *targets)
    assert once == [Revocation(first.serial, "a", "p", NOW, "superseded", before=False)]
    assert again == [Revocation(first.serial, "a", "p", NOW, "superseded", before=True)]


async def test_what_was_never_issued_is_not_revoked_and_costs_no_neighbour(ledger: Ledger) -> None:
    void, open_, done = intent("void"), intent("open"), intent("done")
    (accepted,) = await ledger.journal([void])
    await ledger.void([id_of(accepted)], "the token was away")
    await issue(ledger, done)
    await ledger.journal([open_])
    targets = [
        by_device("nobody"),
        RevocationRequest(SerialNumber(1), "", "", "superseded"),
        by_device("void"),
        RevocationRequest(void.serial, "", "", "superseded"),
        by_device("done", profile="q"),
        by_device("open"),
        by_device("done"),
    ]
    *nothing, in_progress, last = await revoked(ledger, *targets)
    assert nothing == [[]] * 5
    assert isinstance(in_progress, InProgress)
    assert last == [Revocation(done.serial, "done", "p", NOW, "superseded", before=False)]


async def test_a_device_with_a_certificate_under_way_is_told_to_ask_again(ledger: Ledger, home: Home) -> None:
    await issue(ledger, intent("a"))
    (accepted,) = await ledger.journal([intent("a", profile="q")])
    assert [type(answer) for answer in await revoked(ledger, by_device("a"))] == [InProgress]
    assert home.read("SELECT intent_id FROM revocations") == [(1,)]
    await ledger.record({id_of(accepted): b"certificate"})
    (answer,) = await revoked(ledger, by_device("a"))
    assert isinstance(answer, list)
    assert [(item.profile, item.before) for item in answer] == [("p", True), ("q", False)]


async def test_thousands_are_revoked_in_one_transaction(ledger: Ledger, home: Home) -> None:
    names = [f"device-{number}" for number in range(1200)]
    await issue(ledger, *map(intent, names))
    answers = await revoked(ledger, *map(by_device, names))
    assert all(isinstance(answer, list) and len(answer) == 1 for answer in answers)
    assert home.read("SELECT count(*) FROM revocations") == [(1200,)]


@pytest.mark.parametrize(
    ("asked", "reason", "answered"),
    [
        (intent("a"), "superseded", "the device a has the certificate"),
        (intent("a", key="new"), "superseded", "the device a has the certificate"),
        (intent("a", profile="q"), "key_compromise", "the public key was that of the certificate"),
        (intent("b", key="a", profile="q"), "key_compromise", "the public key was that of the certificate"),
        (intent("a", profile="q"), "superseded", None),
        (intent("a", key="new", profile="q"), "key_compromise", None),
        (intent("b"), "key_compromise", None),
    ],
)
async def test_what_is_revoked_is_not_handed_out_again_and_a_compromised_key_is_never_certified(
    ledger: Ledger, asked: Intent, reason: str, answered: str | None
) -> None:
    first = intent("a")
    await issue(ledger, first)
    await revoked(ledger, by_device("a", reason))
    (answer,) = await ledger.journal([asked])
    if answered is None:
        assert not isinstance(answer, Barred | Conflict)
        return
    assert isinstance(answer, Barred)
    assert answered in answer.message
    assert first.serial.hex() in answer.message
    assert f"revoked on 2027-01-15 08:00:00 UTC ({reason})" in answer.message


@pytest.mark.parametrize("compromised", ["p", "q"])
async def test_a_key_with_two_certificates_is_compromised_if_either_says_so(
    ledger: Ledger, compromised: str
) -> None:
    await issue(ledger, intent("a"), intent("a", profile="q"))
    await revoked(ledger, by_device("a", "key_compromise", compromised))
    (answer,) = await ledger.journal([intent("a", profile="r")])
    assert isinstance(answer, Barred)


async def test_numbers_only_rise_and_time_goes_back_only_if_it_was_ahead(ledger: Ledger) -> None:
    async def take(earliest: int, now: int, above: int = 0) -> tuple[int, int]:
        work = partial(take_number, issuer_key_id=CA, above=above, earliest=earliest, now=now)
        return await ledger._writer.transaction(work)

    assert await take(1000, 1600) == (1, 1000)
    assert await take(1100, 1700) == (2, 1100)
    assert await take(900, 1500) == (3, 1100)  # the clock went back a little
    assert await take(100, 700) == (4, 700)  # it went back a lot: 1100 is not valid yet
    assert await take(800, 1400) == (5, 800)
    assert await take(800, 1400, above=41) == (42, 800)  # somebody has seen number 41
    assert await take(800, 1400, above=41) == (43, 800)


async def test_numbers_are_not_used_again_by_a_ledger_that_is_opened_again(home: Home) -> None:
    for number in (1, 2, 3):
        ledger = ledger_in(home)
        await ledger.open()
        work = partial(take_number, issuer_key_id=CA, above=0, earliest=0, now=1)
        assert (await ledger._writer.transaction(work)).number == number
        await ledger.close()


async def test_a_crl_takes_the_place_of_an_older_one_and_never_of_a_newer_one(
    ledger: Ledger, books: CrlReader
) -> None:
    def made(number: int, url: str = COMPLETE) -> StoredCrl:
        return StoredCrl(url, CrlRow(number, 1, 2, number), b"crl %d" % number)

    await ledger.write_crls(CA, [made(2), made(3, URL)])
    await ledger.write_crls(CA, [made(1), made(2, URL)])
    assert books.crl(COMPLETE) == made(2)
    assert books.crl(URL) == made(3, URL)
    await ledger.write_crls(CA, [made(4)])
    assert books.crl(COMPLETE) == made(4)
    assert books.crl("http://crl.example.com/none.crl") is None


async def test_a_certificate_is_on_the_crl_of_the_url_that_it_states(
    ledger: Ledger, books: CrlReader
) -> None:
    intents = [intent("a"), intent("b"), intent("c"), intent("d")]
    accepted = await ledger.journal(intents)
    urls = {"a": URL, "b": OTHER, "c": None}
    ders = [*(leaf(device, "ec-p256", crl_url=url) for device, url in urls.items()), b"unreadable"]
    await ledger.record(dict(zip(map(id_of, accepted), ders, strict=True)))
    await ledger.note_crl_urls(CA, urls=[URL, OTHER], complete=False)
    await revoked(ledger, *(by_device(name) for name in "abcd"))
    state = books.state()
    assert state.urls == {URL: False, OTHER: False}
    assert state.revoked == {URL: 1, OTHER: 1, COMPLETE: 4}
    assert [item.serial for item in books.revoked(URL)] == [intents[0].serial]
    assert [item.serial for item in books.revoked(OTHER)] == [intents[1].serial]
    assert {tuple(item) for item in books.revoked(COMPLETE)} == {
        (item.serial, NOW, "superseded") for item in intents
    }


async def test_what_was_once_said_of_a_url_stays(ledger: Ledger, books: CrlReader) -> None:
    await ledger.note_crl_urls(CA, urls=[URL], complete=True)
    await ledger.note_crl_urls(CA, urls=[URL, OTHER], complete=False)
    assert books.state().urls == {URL: True, OTHER: False}


async def test_who_reads_does_not_hold_up_who_writes_and_sees_one_moment(
    ledger: Ledger, books: CrlReader
) -> None:
    await issue(ledger, *(intent(f"{number}") for number in range(3)))
    await revoked(ledger, by_device("0"), by_device("1"))
    reading = books.revoked(COMPLETE)
    next(reading)
    await revoked(ledger, by_device("2"))  # would wait here for the reader
    assert len(list(reading)) == 1
    assert len(list(books.revoked(COMPLETE))) == 3


async def test_a_ledger_with_crls_belongs_to_their_ca(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await ledger.take_crl_number(CA, above=0, earliest=0, now=1)
    await ledger.close()
    other = ledger_in(home, b"another CA")
    with pytest.raises(ConfigError, match="of another CA"):
        await other.open()
    await other.close()


ANOTHER = bytes(19) + b"\1"


async def test_two_authorities_share_a_ledger_and_no_crl(home: Home) -> None:
    ledger = Ledger(database_of(home.config), MAC_KEYS, [CA, ANOTHER])
    await ledger.open()
    ours, theirs = intent("ours"), intent("theirs")._replace(issuer_key_id=ANOTHER)
    accepted = await ledger.journal([ours, theirs])
    await ledger.record({id_of(answer): b"der" for answer in accepted})
    await ledger.note_crl_urls(CA, urls=[URL], complete=True)
    await ledger.note_crl_urls(ANOTHER, urls=[OTHER], complete=True)
    await revoked(ledger, by_device("ours"), by_device("theirs"))
    for authority, url, item in ((CA, URL, ours), (ANOTHER, OTHER, theirs)):
        row = CrlRow(7, 1, 2, 1)
        made = [StoredCrl(COMPLETE, row, authority)]
        await ledger.write_crls(authority, made)
        books = CrlReader(database_of(home.config), authority, alone=False)
        state = books.state()
        assert state.urls == {url: True}
        assert state.revoked == {url: 0, COMPLETE: 1}
        assert [listed.serial for listed in books.revoked(COMPLETE)] == [item.serial]
        assert books.crl(COMPLETE) == StoredCrl(COMPLETE, row, authority)
        books.close()
    await ledger.close()
    for known, good in (([CA, ANOTHER], True), ([CA], True), ([bytes(18) + b"no"], False)):
        again = Ledger(database_of(home.config), MAC_KEYS, known)
        if good:
            await again.open()
        else:
            with pytest.raises(ConfigError, match="of another CA"):
                await again.open()
        await again.close()


async def test_the_urls_of_an_older_ledger_are_of_the_ca_that_it_had(bare_home: Home) -> None:
    home = bare_home
    database = database_of(home.config)
    database.hold()
    with database.engine.begin() as connection:
        migrate(connection, "0007")
    database.close()
    octets = "'\\x{}'" if isinstance(home, PostgresHome) else "x'{}'"
    home.change(
        f"INSERT INTO crl_numbers VALUES ({octets.format(CA.hex())}, 41, 5)",
        f"INSERT INTO crl_urls VALUES ('{URL}', true)",
        f"INSERT INTO crls VALUES ('complete', 41, 5, 6, 0, {octets.format('00')})",
    )
    await accept_older(home)
    ledger = ledger_in(home)
    await ledger.open()
    books = CrlReader(database_of(home.config), CA)
    assert books.state() == ({URL: True}, {}, {URL: 0, COMPLETE: 0})  # its CRL will be made anew
    number = await ledger.take_crl_number(CA, above=0, earliest=7, now=8)
    assert number.number == 42
    books.close()
    await ledger.close()
