"""A row whose serial number somebody wrote as something else than octets is shown, and hides no others.

SQLite takes any value into any column.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from otahsm.ledger import (
    COMPLETE,
    Accepted,
    BatchTerms,
    CrlReader,
    Filter,
    Ledger,
    LedgerReader,
    Replay,
    Status,
    database_of,
    snapshot,
    verify,
)
from otahsm.ledger import START as FIRST
from otahsm.ledger.read import certificate_page
from otahsm.ledger.records import RevocationRequest
from otahsm.pki.serial import SerialNumber, make_serial

from support.acts import as_done, by
from support.homes import CA, MAC_KEYS, SqliteHome, ledger_in
from support.intents import intent, told

START: Final = 1_000_000  # milliseconds
STRAYS: Final = {"device-1": ("'abc'", b"abc"), "device-4": ("17", b"17"), "device-7": ("'abd'", b"abd")}


@pytest.fixture
def home(tmp_path: Path) -> SqliteHome:
    return SqliteHome(tmp_path)


@pytest.fixture
async def ledger(home: SqliteHome) -> AsyncIterator[Ledger]:
    """A ledger of a batch of nine devices, three of them with such a serial number; the last one is open."""
    ledger = ledger_in(home)
    await ledger.open()
    change = await ledger.acts.create_batch(BatchTerms("b", "p", 100, "{}", None, ()), by("cn:a"), told)
    batch = as_done(change.result)
    asked = [
        intent(f"device-{n}")._replace(
            serial=make_serial(b"\x7f" + os.urandom(13), START + n), batch_id=batch.id, profile="p"
        )
        for n in range(9)
    ]
    answers = await ledger.journal(asked)
    ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    await ledger.record({number: b"certificate %d" % number for number in ids[:-2]})
    for name, (value, _) in STRAYS.items():
        home.change(f"UPDATE intents SET serial = {value} WHERE device_id = '{name}'")
    yield ledger
    await ledger.close()


def devices(home: SqliteHome, criteria: Filter, size: int) -> list[str]:
    reader = LedgerReader(home.config)
    found = list(reader.everything(criteria, size=size))
    reader.close()
    for record in found:
        if record.device_id in STRAYS:
            assert record.serial == SerialNumber.from_key(STRAYS[record.device_id][1])
    return [record.device_id for record in found]


@pytest.mark.usefixtures("ledger")
def test_pages_show_it_once_in_both_directions(home: SqliteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_page, "_SCANNED", 2)  # so that pages end before they are full
    everything = [f"device-{n}" for n in (0, 2, 3, 5, 6, 8)]
    # Octets compare from the first on, and those of a time begin with zeros.
    everything += ["device-4", "device-1", "device-7"]
    issued = [name for name in everything if name not in {"device-7", "device-8"}]
    expected = {
        Filter(): everything,
        Filter(batch="b"): everything,
        Filter(client="cn:test"): everything,
        Filter(after=START + 5): everything[3:],
        Filter(before=START + 3): ["device-0", "device-2"],
        Filter(status=Status.ISSUED): issued,
        Filter(status=Status.OPEN): ["device-8", "device-7"],
        Filter(device_id="device-4"): ["device-4"],
        Filter(profile="another"): [],
    }
    for (criteria, names), size in product(expected.items(), range(1, 10)):
        assert devices(home, criteria, size) == names
        assert devices(home, criteria._replace(newest_first=True), size) == names[::-1]


@pytest.mark.usefixtures("ledger")
def test_it_is_counted_once(home: SqliteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_page, "_SCANNED", 2)
    reader = LedgerReader(home.config)
    counted = 0
    after: bytes | None = FIRST
    while after is not None:
        counts, after = reader.count(Filter(), after)
        counted += sum(counts.values())
    reader.close()
    assert counted == 9


@pytest.mark.usefixtures("ledger")
def test_its_device_and_its_batch_are_read(home: SqliteHome) -> None:
    reader = LedgerReader(home.config)
    found = reader.by_device("device-1", "p")
    (batch,) = reader.batches(0, 10)
    reader.close()
    assert found is not None
    assert found.serial == SerialNumber.from_key(b"abc")
    assert (batch.issued, batch.batch.taken) == (7, 9)


async def test_requests_beside_one_for_its_device_are_answered(ledger: Ledger) -> None:
    again, other = await ledger.journal([intent("device-1")._replace(profile="p"), intent("new")])
    assert isinstance(again, Replay)
    assert again.serial == SerialNumber.from_key(b"abc")
    assert isinstance(other, Accepted)


async def test_it_is_revoked_and_reset_by_its_device(ledger: Ledger, home: SqliteHome) -> None:
    request = RevocationRequest(None, "device-1", "p", "superseded")
    (answer,) = (await ledger.acts.revoke([request], by("cn:test"), 1)).result
    assert isinstance(answer, list)
    assert [revoked.serial for revoked in answer] == [SerialNumber.from_key(b"abc")]
    crls = CrlReader(database_of(home.config), CA)
    assert [revoked.serial for revoked in crls.revoked(COMPLETE)] == [SerialNumber.from_key(b"abc")]
    crls.close()
    assert (await ledger.acts.reset("device-4", "p", by(), told)).result == SerialNumber.from_key(b"17")
    with snapshot(home.config) as connection:
        found = verify(connection, mac_keys=MAC_KEYS)
    assert "the reset of intent 5" in "".join(what for _, what in found.findings)
