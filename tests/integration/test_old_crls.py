"""CRLs that somebody put into the ledger: none is published, and what was published stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import pytest
from cryptography import x509

from otahsm.authority import COMPLETE
from otahsm.errors import LedgerTamperedError, LedgerUnavailableError, OtahsmError
from otahsm.pki.crls.building import Reason, RevokedCertificate

from support import authority as ca_in_memory
from support.harness import Fleet
from support.revoking import SHARDED, START, Station, configure, named, serials_on, station

UPDATE = "UPDATE crls SET number = ?, this_update = ?, next_update = ?, revoked = ?, der = ? WHERE url = ?"

Crl = tuple[int, int, int, int, bytes]  # number, thisUpdate, nextUpdate, entries, DER


def read(fleet: Fleet, scope: str = COMPLETE) -> Crl:
    query = "SELECT number, this_update, next_update, revoked, der FROM crls WHERE url = ?"
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database:
        found: Crl = database.execute(query, (scope,)).fetchone()
    return found


def write(fleet: Fleet, crl: tuple[object, ...], scope: str = COMPLETE) -> None:
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        changed = database.execute(UPDATE, (*crl, scope))
        assert changed.rowcount == 1


async def revoke_one(running: Station) -> tuple[Crl, Crl, int]:
    """Revoke a certificate; return the CRL before, the CRL with it, and its serial number."""
    await running.said("crl.written", number=1)
    before = read(running.fleet)
    (issued,) = await running.issue()
    await running.revoke(issued)
    await running.said("crl.written", revoked=1)
    return before, read(running.fleet), issued.serial


def published(running: Station) -> set[int]:
    return serials_on((running.folder / "complete.crl").read_bytes())


async def refused(running: Station, scope: str = COMPLETE) -> OtahsmError:
    with pytest.raises(LedgerTamperedError) as caught:
        await running.authority.get_crl(named(scope))
    return caught.value


def pretend_to_list_all(before: Crl, after: Crl) -> Crl:
    number, this_update, next_update, _, der = before
    return number, this_update, next_update, after[3], der


def as_it_was(before: Crl, after: Crl) -> Crl:
    del after
    return before


@pytest.mark.parametrize("forge", [pretend_to_list_all, as_it_was])
async def test_an_old_crl_that_is_put_back_takes_no_revocation_back(
    fleet: Fleet, forge: Callable[[Crl, Crl], Crl]
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        before, after, serial = await revoke_one(running)
        write(fleet, forge(before, after))
        running.authority._crls.keepers[""].woken.set()
        assert "has the number 1, but 2 was published" in await running.failed()
        assert "otahsm ledger verify" in (await refused(running)).hint
        assert published(running) == {serial}
    async with station(fleet) as running:  # the file has the newer one
        assert "has the number 1, but 2 was published" in await running.failed()
        assert (await refused(running)).reason == "LEDGER_TAMPERED"
        assert published(running) == {serial}


async def test_an_old_crl_is_not_published_into_an_empty_folder_as_signers_know_a_newer_one(
    fleet: Fleet,
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        before, after, serial = await revoke_one(running)
    write(fleet, pretend_to_list_all(before, after))
    for path in running.folder.iterdir():
        path.unlink()
    async with station(fleet) as running:
        said, serials = await running.crl()
        assert (said.number, serials) == (3, {serial})
        await running.said("crl.written", number=3)
        assert published(running) == {serial}
        assert running.failures() == []


def of_another_ca(before: Crl, after: Crl) -> tuple[object, ...]:
    del before
    revoked = [
        RevokedCertificate(item.serial_number, item.revocation_date_utc, Reason.SUPERSEDED)
        for item in x509.load_der_x509_crl(after[4])
    ]
    made = datetime.fromtimestamp(after[1], UTC)
    life = datetime.fromtimestamp(after[2], UTC) - made
    der = ca_in_memory.crl(revoked, number=after[0], made=made, life=life)
    return (*after[:4], der)


FORGED: dict[str, tuple[Callable[[Crl, Crl], tuple[object, ...]], str]] = {
    "the octets of the old one": (lambda before, after: (*after[:4], before[4]), "its number is 1, but 2"),
    "the old one under a new number": (lambda before, _: (99, *before[1:]), "its number is 1, but 99"),
    "one that pretends to last": (
        lambda _, after: (*after[:2], after[2] + 10**9, *after[3:]),
        "its nextUpdate is",
    ),
    "one that pretends to be made later": (
        lambda _, after: (after[0], after[1] + 1, *after[2:]),
        "its thisUpdate is",
    ),
    "what another CA signed": (of_another_ca, "not CN="),
    "a changed signature": (
        lambda _, after: (*after[:4], after[4][:-1] + bytes([after[4][-1] ^ 1])),
        "is not signed by",
    ),
    "octets behind it": (lambda _, after: (*after[:4], after[4] + b"\0"), "not exactly one CRL"),
    "no octets": (lambda _, after: (*after[:4], "text"), "not exactly one CRL"),
    "no number": (lambda _, after: ("many", *after[1:]), "has no valid number"),
}


@pytest.mark.parametrize(("forge", "named_as"), FORGED.values(), ids=FORGED)
async def test_a_forged_crl_is_neither_published_nor_handed_out(
    fleet: Fleet, forge: Callable[[Crl, Crl], tuple[object, ...]], named_as: str
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        before, after, serial = await revoke_one(running)
        write(fleet, forge(before, after))
        assert named_as in (await refused(running)).message
        assert published(running) == {serial}
    async with station(fleet) as running:
        assert named_as in await running.failed()
        assert published(running) == {serial}
        # The way out that the hint names.
        with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
            database.execute("DELETE FROM crls")
        said, serials = await running.crl()
        assert said.number is not None
        assert (said.number > after[0], serials) == (True, {serial})


async def test_the_crl_of_another_scope_is_not_published(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=2)
    shards = [SHARDED.replace("{shard}", str(shard)) for shard in range(2)]
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        write(fleet, read(fleet, shards[0]), shards[1])
        assert f"its scope is '{shards[0]}', but '{shards[1]}'" in (await refused(running, shards[1])).message
        assert (await running.crl(shards[0]))[1] == set()


async def test_a_ledger_that_was_restored_goes_on_when_that_was_accepted(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        before, after, _ = await revoke_one(running)
    write(fleet, before)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("DELETE FROM revocations")
        database.execute("DELETE FROM unlogged WHERE kind = 3")
    async with station(fleet) as running:
        assert "an older one was put back" in await running.failed()
    assert fleet.run("ledger", "accept", "--reason", "restored").returncode == 0
    async with station(fleet) as running:
        said, serials = await running.crl()
        assert (said.number, serials) == (after[0] + 1, set())
        await running.said("crl.written", number=after[0] + 1)
        assert published(running) == set()


async def test_a_crl_that_was_signed_and_did_not_reach_the_ledger_is_made_anew(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        ledger = running.authority._ledger
        keep = ledger.write_crls

        async def lose(*_: object) -> None:
            monkeypatch.setattr(ledger, "write_crls", keep)
            raise LedgerUnavailableError("the disk is full")

        monkeypatch.setattr(ledger, "write_crls", lose)
        running.now = START.replace(day=20)
        running.authority._crls.keepers[""].woken.set()
        assert "the disk is full" in await running.failed()
        running.now = START  # by this clock, the one in the ledger would do
        assert (await running.crl())[0].number == 3
        await running.said("crl.written", number=3)
