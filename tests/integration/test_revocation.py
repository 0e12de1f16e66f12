"""Revoking and CRLs without a network: a real ledger, real signers, and a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import pem
from cryptography import x509
from structlog.testing import capture_logs

from otahsm.authority import (
    AUTHORITIES,
    COMPLETE,
    Caller,
    CertificateAuthority,
    CrlName,
    IssuanceRequest,
    Issued,
    Revocation,
    RevocationRequest,
    assemble,
)
from otahsm.errors import ConfigError, NotFoundError, OtahsmError, RequestRefusedError, RevokedError
from otahsm.pki import CrlDescription, Reason, SerialNumber, check_crl_signature, crl_url_in, describe_crl
from otahsm.system.clock import utc_now

from support.authority import root_of
from support.devices import new_request
from support.harness import READY_SECONDS, Fleet

CALLER = Caller("cn:quickstart", bytes(32))
START = datetime(2030, 6, 1, 12, 0, 0, 500_000, tzinfo=UTC)
TEN_MINUTES = timedelta(minutes=10)
URL = "http://crl.example.com/fleet.crl"
SHARDED = "http://crl.example.com/fleet-{shard}.crl"


def order() -> IssuanceRequest:
    request = new_request()
    return IssuanceRequest(CALLER, "", "", request.device_id, request.csr)


def configure(fleet: Fleet, *, url: str = URL, shards: int = 1, more: str = "") -> None:
    """Give a fleet a [crl], or another one."""
    before = fleet.toml.read_text().partition("\n[crl]\n")[0]
    lines = f'url = "{url}"\nshards = {shards}\ndirectory = "crl"\n{more}'
    fleet.toml.write_text(f"{before}\n[crl]\n{lines}")


@dataclass
class Station:
    """A running CertificateAuthority, its clock, and what it has reported."""

    fleet: Fleet
    now: datetime = START
    events: list[tuple[str, dict[str, int | str]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[MutableMapping[str, Any]] = field(default_factory=list)
    authority: CertificateAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = assemble(
            self.fleet.config, self._report, clock=lambda: self.now, log_event=self._tell
        )

    def _report(self, event: str, pid: int, error: OtahsmError | None) -> None:
        del pid, error
        self._tell(event, {})

    def _tell(self, event: str, fields: Mapping[str, int | str]) -> None:
        self.events.append((event, dict(fields)))
        self.news.set()

    async def said(self, event: str, **fields: int | str) -> None:
        """Wait until an event was reported."""
        async with asyncio.timeout(READY_SECONDS):
            while not any(name == event and fields.items() <= said.items() for name, said in self.events):
                self.news.clear()
                await self.news.wait()

    async def failed(self) -> str:
        """Wait until it was logged that CRLs can't be kept; return why not."""
        async with asyncio.timeout(30):
            while not (messages := self.failures()):
                await asyncio.sleep(0.01)
        return messages[-1]

    def failures(self) -> list[str]:
        return [entry["message"] for entry in self.log if entry["event"] == "crl.failed"]

    async def issue(self, count: int = 1) -> list[Issued]:
        outcomes = await self.authority.issue(CALLER, [order() for _ in range(count)])
        assert all(isinstance(outcome, Issued) for outcome in outcomes)
        return [outcome for outcome in outcomes if isinstance(outcome, Issued)]

    async def revoke(self, *issued: Issued, reason: Reason = Reason.SUPERSEDED) -> list[Revocation]:
        orders = [RevocationRequest(item.serial, "", "", reason) for item in issued]
        outcomes = await self.authority.revoke(CALLER, orders)
        revoked = []
        for outcome in outcomes:
            assert not isinstance(outcome, OtahsmError)
            revoked += outcome
        return revoked

    async def crl(self, scope: str = COMPLETE) -> tuple[CrlDescription, set[int]]:
        """Return what a CRL says, and the serial numbers on it."""
        crl = await self.authority.get_crl(named(scope))
        check_crl_signature(crl.der, self.authority.authorities.by_name[""].chain.issuer)
        return describe_crl(crl.der), serials_on(crl.der)

    async def looked(self) -> None:
        """Wait until it was looked whether anything is due, by the clock of now."""
        for _ in range(2):  # one look may be under way
            await self.authority._crls.keepers[""]._wait_for_a_pass()

    async def next_crl(self, after: int) -> CrlDescription:
        """Wait for a CRL that was made by the clock of now."""
        self.authority._crls.keepers[""].woken.set()
        async with asyncio.timeout(READY_SECONDS):
            while (await self.crl())[0].number == after:
                await asyncio.sleep(0.01)
        return (await self.crl())[0]

    @property
    def folder(self) -> Path:
        return self.fleet.folder / "crl"


def named(scope: str) -> CrlName:
    fixed = {COMPLETE: CrlName(), AUTHORITIES: CrlName(authorities=True)}
    return fixed.get(scope) or CrlName(url=scope)


def serials_on(crl: bytes) -> set[int]:
    return {item.serial_number for item in x509.load_der_x509_crl(crl)}


@asynccontextmanager
async def station(fleet: Fleet, now: datetime = START) -> AsyncIterator[Station]:
    with capture_logs() as log:
        running = Station(fleet, now, log=log)
        await running.authority.life.start()
        try:
            await running.authority.life.wait_until_serving()
            yield running
        finally:
            await running.authority.life.close(30)


async def test_a_revocation_is_on_the_next_crl_which_is_made_at_once(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1, revoked=0)
        issued = await running.issue(3)
        (revoked,) = await running.revoke(issued[1], reason=Reason.KEY_COMPROMISE)
        assert revoked == Revocation(
            issued[1].serial,
            issued[1].device_id,
            "ota-connect",
            int(START.timestamp()),
            Reason.KEY_COMPROMISE,
            before=False,
        )
        said, serials = await running.crl()
        assert serials == {issued[1].serial}
        assert said.number == 2
        assert said.this_update == START.replace(microsecond=0) - TEN_MINUTES
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=168)
        assert said.key_identifier == running.authority.authorities.by_name[""].chain.issuer.key_identifier
        assert (said.distribution_point, said.only_authorities) == (None, False)
        await running.said("crl.written", number=2, revoked=1)
        der = (running.folder / "fleet.crl").read_bytes()
        assert serials_on(der) == serials
        assert (running.folder / "complete.crl").read_bytes() == der
        assert pem.unarmor((running.folder / "complete.pem").read_bytes())[2] == der
        assert {path.name for path in running.folder.iterdir()} == {
            "fleet.crl", "complete.crl", "complete.pem", ".lock"
        }  # fmt: skip


async def test_a_revoked_certificate_is_not_handed_out_again(fleet: Fleet) -> None:
    async with station(fleet) as running:
        asked = order()
        (issued,) = await running.authority.issue(CALLER, [asked])
        assert isinstance(issued, Issued)
        await running.revoke(issued)
        again, other = await running.authority.issue(CALLER, [asked, order()])
        assert isinstance(other, Issued)
        assert isinstance(again, RevokedError)
        assert (again.code.name, again.reason) == ("FAILED_PRECONDITION", "REVOKED")
        assert f"{issued.serial:x}" in again.message
        assert "2030-06-01 12:00:00 UTC (superseded)" in again.message


async def test_a_crl_is_made_anew_on_schedule_and_not_before(fleet: Fleet) -> None:
    configure(fleet, more="validity_hours = 48\nrefresh_hours = 12\n")
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        running.now += timedelta(hours=11, minutes=59)
        await running.looked()
        assert (await running.crl())[0].number == 1
        running.now += timedelta(minutes=1)
        said = await running.next_crl(after=1)
        assert said.number == 2
        assert said.this_update == START.replace(microsecond=0) + timedelta(hours=12) - TEN_MINUTES
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=60)
        await running.said("crl.written", number=2)
        assert describe_crl((running.folder / "complete.pem").read_bytes()) == said


async def test_a_crl_that_ran_out_while_no_daemon_ran_is_made_at_the_start(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
    async with station(fleet) as running:  # nothing is due
        await running.looked()
        assert (await running.crl())[0].number == 1
    async with station(fleet, START + timedelta(days=30)) as running:
        await running.said("crl.written", number=2)


@pytest.mark.parametrize(
    ("back", "this_update"),
    [
        (timedelta(minutes=5), START - TEN_MINUTES),  # as before: it does not go back
        (timedelta(days=3), START - timedelta(days=3)),  # what was stated is not valid yet
    ],
)
async def test_a_clock_that_goes_back_leaves_numbers_rising_and_crls_valid(
    fleet: Fleet, back: timedelta, this_update: datetime
) -> None:
    configure(fleet)
    async with station(fleet) as running:
        issued = await running.issue(2)
        await running.revoke(issued[0])
        before, _ = await running.crl()
        running.now -= back
        await running.revoke(issued[1])
        said, serials = await running.crl()
        assert serials == {item.serial for item in issued}
        assert before.number is not None
        assert said.number is not None
        assert said.number > before.number
        assert said.this_update == this_update.replace(microsecond=0)
        assert said.this_update <= running.now < said.this_update + timedelta(hours=168)


async def test_a_crl_that_a_wrong_clock_made_is_replaced_as_soon_as_the_clock_is_right(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet, START + timedelta(days=3000)) as running:
        await running.said("crl.written", number=1)
    async with station(fleet) as running:
        await running.said("crl.written", number=2)
        said, _ = await running.crl()
        assert said.this_update <= running.now


async def test_no_crl_is_made_by_a_clock_at_which_the_ca_is_not_valid(fleet: Fleet) -> None:
    configure(fleet)
    async with station(fleet) as running:
        await running.said("crl.written", number=1)
        (issued,) = await running.issue()
        running.now = datetime(1970, 1, 1, 0, 10, tzinfo=UTC)
        await running.revoke(issued)
        assert "it is 1970-01-01" in await running.failed()
        assert (await running.crl())[0].number == 1  # the last good one is still there
        running.now = START
        assert (await running.next_crl(after=1)).revoked == 1


async def test_shards_hold_the_devices_that_state_them_and_the_complete_crl_all(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=3)
    async with station(fleet) as running:
        await running.said("crl.written", files=7)
        issued = await running.issue(12)
        await running.revoke(*issued[:9])
        of_url: dict[str, set[int]] = {SHARDED.replace("{shard}", str(shard)): set() for shard in range(3)}
        for item in issued[:9]:
            url = crl_url_in(item.certificate)
            assert url is not None
            of_url[url].add(item.serial)
        said, serials = await running.crl()
        assert serials == {item.serial for item in issued[:9]}
        assert said.distribution_point is None
        for url, expected in of_url.items():
            said, serials = await running.crl(url)
            assert serials == expected
            assert (said.distribution_point, said.only_devices) == (url, True)
        said, serials = await running.crl(AUTHORITIES)
        assert (said.only_authorities, serials) == (True, set())
        await running.said("crl.written", revoked=9)
        for url, expected in of_url.items():
            assert serials_on((running.folder / url.rpartition("/")[2]).read_bytes()) == expected


async def test_a_url_that_certificates_state_has_a_crl_under_every_later_configuration(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=2)
    async with station(fleet) as running:
        (old,) = await running.issue()
        old_url = crl_url_in(old.certificate)
    assert old_url is not None
    configure(fleet, url="http://elsewhere.example.com/all.crl")
    async with station(fleet, START + timedelta(days=2)) as running:
        (new,) = await running.issue()
        await running.revoke(old, new)
        said, serials = await running.crl(old_url)
        assert serials == {old.serial}
        assert said.distribution_point == old_url
        assert said.next_update is not None
        assert said.next_update > START + timedelta(days=8)
        _, serials = await running.crl("http://elsewhere.example.com/all.crl")
        assert serials == {old.serial, new.serial}
        await running.said("crl.written", revoked=2)
        assert serials_on((running.folder / old_url.rpartition("/")[2]).read_bytes()) == {old.serial}
        assert serials_on((running.folder / "all.crl").read_bytes()) == {old.serial, new.serial}


async def test_a_url_whose_file_has_another_crl_is_reported_and_still_fetched(fleet: Fleet) -> None:
    configure(fleet, url=SHARDED, shards=2)
    async with station(fleet) as running:
        await running.issue()
    configure(fleet, url=SHARDED.replace("crl.", "new."), shards=2)
    async with station(fleet) as running:
        assert "can't write a file for http://crl.example.com/fleet-0.crl" in await running.failed()
        said = describe_crl((running.folder / "fleet-0.crl").read_bytes())
        assert said.distribution_point == "http://new.example.com/fleet-0.crl"
        said, _ = await running.crl("http://crl.example.com/fleet-0.crl")
        assert said.distribution_point == "http://crl.example.com/fleet-0.crl"


async def test_without_a_crl_section_revocations_are_kept_and_the_complete_crl_is_there_for_who_asks(
    fleet: Fleet,
) -> None:
    async with station(fleet) as running:
        said, serials = await running.crl()
        assert (said.number, serials) == (1, set())
        (issued,) = await running.issue()
        assert crl_url_in(issued.certificate) is None
        await running.revoke(issued)
        said, serials = await running.crl()
        assert (said.number, serials) == (2, {issued.serial})
        assert said.next_update == START.replace(microsecond=0) + timedelta(hours=168)
        assert not running.folder.exists()


async def test_nothing_is_signed_for_who_never_revokes(fleet: Fleet) -> None:
    async with station(fleet) as running:
        await running.issue()
        await running.looked()
    assert not [event for event, _ in running.events if event.startswith("crl.")]


async def test_a_ca_that_may_not_sign_crls_revokes_all_the_same(fleet: Fleet) -> None:
    fleet.root_pem.write_bytes(pem.armor("CERTIFICATE", root_of("ec-p256", "root-here")))
    authority = assemble(fleet.config, lambda *_: None, clock=utc_now)
    await authority.life.start()
    try:
        (outcome,) = await authority.revoke(
            CALLER, [RevocationRequest(None, "nobody", "", Reason.SUPERSEDED)]
        )
        assert isinstance(outcome, NotFoundError)
        with pytest.raises(ConfigError, match="lacks cRLSign"):
            await authority.get_crl(CrlName())
    finally:
        await authority.life.close(30)


@pytest.mark.parametrize("scope", [URL, "http://crl.example.com/none.crl", AUTHORITIES, "x" * 5000])
async def test_a_crl_that_nobody_states_is_not_found(fleet: Fleet, scope: str) -> None:
    async with station(fleet) as running:
        with pytest.raises(NotFoundError):
            await running.authority.get_crl(named(scope))


async def test_what_names_nothing_is_refused_and_costs_no_neighbour(fleet: Fleet) -> None:
    async with station(fleet) as running:
        (issued,) = await running.issue()
        orders = [
            RevocationRequest(None, "", "", Reason.SUPERSEDED),
            RevocationRequest(SerialNumber(1), "a", "", Reason.SUPERSEDED),
            RevocationRequest(None, "a\0b", "", Reason.SUPERSEDED),
            RevocationRequest(None, "a" * 129, "", Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "a\0b", Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "a" * 256, Reason.SUPERSEDED),
            RevocationRequest(None, issued.device_id, "", Reason.SUPERSEDED),
        ]
        *refused, last = await running.authority.revoke(CALLER, orders)
        assert all(isinstance(outcome, RequestRefusedError) for outcome in refused)
        assert isinstance(last, list)
        assert [item.serial for item in last] == [issued.serial]
        assert await running.authority.revoke(CALLER, []) == []


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
    async with station(fleet) as running:
        await running.said("crl.made")
        assert before.number is not None
        assert (await running.crl())[0].number == before.number + 1


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
    monkeypatch.setattr("otahsm.revocation.crl_maker._MAX_OCTETS", 1000)
    configure(fleet, url=SHARDED, shards=4)
    async with station(fleet) as running:
        issued = await running.issue(30)
        await running.revoke(*issued)  # some 1,600 octets, and a quarter of that in a shard
        assert "30 certificates is too large" in await running.failed()
        await running.looked()
        shards = [SHARDED.replace("{shard}", str(shard)) for shard in range(4)]
        lists = [serials_on((running.folder / url.rpartition("/")[2]).read_bytes()) for url in shards]
        assert set().union(*lists) == {item.serial for item in issued}
        assert serials_on((running.folder / "complete.crl").read_bytes()) == set()
        monkeypatch.setattr("otahsm.revocation.crl_maker._MAX_OCTETS", 10_000)
        assert (await running.crl())[1] == {item.serial for item in issued}
