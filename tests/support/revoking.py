"""A certification authority that revokes, with a clock that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
from otahsm.errors import OtahsmError
from otahsm.pki.crls.building import Reason
from otahsm.pki.crls.reading import CrlDescription, check_crl_signature, describe_crl

from support.clocks import TestClock, clock_of_signers
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
    clock: TestClock
    events: list[tuple[str, dict[str, int | str]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[MutableMapping[str, Any]] = field(default_factory=list)
    authority: CertificateAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = assemble(self.fleet.config, self._report, clock=self.clock, log_event=self._tell)

    @property
    def now(self) -> datetime:
        return self.clock()

    @now.setter
    def now(self, now: datetime) -> None:
        self.clock.set(now)

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
async def station(fleet: Fleet, now: datetime = START, *, serves: bool = True) -> AsyncIterator[Station]:
    with capture_logs() as log, clock_of_signers(now, fleet.folder) as clock:
        running = Station(fleet, clock, log=log)
        await running.authority.life.start()
        try:
            if serves:
                await running.authority.life.wait_until_serving()
            yield running
        finally:
            await running.authority.life.close(30)
