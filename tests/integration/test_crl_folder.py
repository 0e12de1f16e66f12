"""The folder of CRLs: what is lost, damaged or full is told, and written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import Fleet
from support.revoking import SHARDED, configure, serials_on, station


def lose(folder: Path) -> None:
    (folder / "complete.pem").unlink()


def damage(folder: Path) -> None:
    (folder / "complete.pem").write_bytes(b"")


@pytest.mark.parametrize("spoil", [lose, damage])
async def test_a_file_that_is_lost_or_damaged_is_written_again_by_the_next_daemon(
    fleet: Fleet, spoil: Callable[[Path], None]
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        content = (running.folder / "complete.pem").read_bytes()
    spoil(running.folder)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        assert (running.folder / "complete.pem").read_bytes() == content


async def test_a_ledger_that_was_restored_uses_no_number_again_that_a_file_has(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        issued = await running.issue(2)
        await running.revoke(issued[0])
        before, _ = await running.crl()
        await running.said("crl.written", revoked=1)
    for path in (fleet.folder / "ledger").glob("ledger.sqlite3*"):
        path.unlink()
    async with station(fleet, serves=False) as running:
        assert "lacks revocations that are on the CRL" in await running.failed()  # signers remember
    assert fleet.run("ledger", "accept", "--reason", "restored").returncode == 0
    async with station(fleet) as running:
        await running.said("crl.made")
        assert before.number is not None
        number = (await running.crl())[0].number
        assert number is not None
        assert number > before.number


async def test_a_folder_that_can_not_be_written_is_reported_once_and_written_later(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        folder, aside = running.folder, fleet.folder / "aside"
        folder.rename(aside)
        folder.write_text("a file in the way")
        (issued,) = await running.issue()
        await running.revoke(issued)
        assert "[crl] directory" in await running.failed()
        assert (await running.crl())[1] == {issued.serial}  # gRPC has it
        await running.looked()
        assert len(running.failures()) == 1
        folder.unlink()
        aside.rename(folder)
        running.authority._crls.keepers[""].woken.set()
        await running.said("crl.written", number=2)
        assert serials_on((folder / "fleet.crl").read_bytes()) == {issued.serial}


async def test_a_crl_that_is_too_large_for_a_signer_is_reported_and_costs_the_others_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otahsm.revocation.crl_maker._MAX_OCTETS", 800)
    configure(fleet, url=SHARDED, shards=4)
    async with station(fleet) as running:
        issued = await running.issue(30)
        await running.revoke(*issued)  # 870 octets, and a quarter of that in a shard
        assert "30 certificates is too large" in await running.failed()
        await running.looked()
        shards = [SHARDED.replace("{shard}", str(shard)) for shard in range(4)]
        lists = [serials_on((running.folder / url.rpartition("/")[2]).read_bytes()) for url in shards]
        assert set().union(*lists) == {item.serial for item in issued}
        assert serials_on((running.folder / "complete.crl").read_bytes()) == set()
        monkeypatch.setattr("otahsm.revocation.crl_maker._MAX_OCTETS", 10_000)
        assert (await running.crl())[1] == {item.serial for item in issued}
