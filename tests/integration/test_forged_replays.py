"""A certificate in the ledger that somebody changed is not handed out when a device asks again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from otahsm.authority import IssuanceRequest, Issued
from otahsm.errors import LedgerTamperedError

from support.authority import leaf
from support.harness import Fleet
from support.revoking import CALLER, Station, order, station


async def issue(running: Station, *requests: IssuanceRequest) -> list[Issued]:
    outcomes = await running.authority.issue(CALLER, list(requests))
    issued = [outcome for outcome in outcomes if isinstance(outcome, Issued)]
    assert len(issued) == len(requests)
    return issued


def put(fleet: Fleet, device_id: str, der: bytes) -> None:
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        theirs = "(SELECT id FROM intents WHERE device_id = ?)"
        database.execute(f"UPDATE certificates SET der = ? WHERE intent_id = {theirs}", (der, device_id))


FORGED: dict[str, tuple[Callable[[bytes, str], bytes], str]] = {
    "with another signature": (lambda der, _: der[:-1] + bytes([der[-1] ^ 1]), "it is not signed by"),
    "of another CA": (lambda _, device_id: leaf(device_id, "ec-p256"), "it is not signed by"),
    "with octets behind it": (lambda der, _: der + b"\0", "it is not exactly one certificate"),
    "empty": (lambda *_: b"", "it can't be read"),
}


@pytest.mark.parametrize(("forge", "problem"), FORGED.values(), ids=FORGED)
async def test_a_forged_certificate_is_not_handed_out(
    fleet: Fleet, forge: Callable[[bytes, str], bytes], problem: str
) -> None:
    async with station(fleet) as running:
        ours, neighbours = order(), order()
        issued, other = await issue(running, ours, neighbours)
        put(fleet, issued.device_id, forge(issued.certificate, issued.device_id))
        refused, again = await running.authority.issue(CALLER, [ours, neighbours])
        assert isinstance(refused, LedgerTamperedError)
        assert problem in refused.message
        assert isinstance(again, Issued)
        assert (again.certificate, again.replayed) == (other.certificate, True)


async def test_the_certificate_of_another_device_is_not_handed_out(fleet: Fleet) -> None:
    async with station(fleet) as running:
        ours, theirs = order(), order()
        issued, other = await issue(running, ours, theirs)
        put(fleet, issued.device_id, other.certificate)
        (refused,) = await running.authority.issue(CALLER, [ours])
        assert isinstance(refused, LedgerTamperedError)
        assert "its public key is not the recorded one" in refused.message
        assert issued.device_id in refused.message
