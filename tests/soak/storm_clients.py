"""Clients in a storm that forget nothing: whatever they were ever told must be true in the end.

Two ask for the same devices, new ones and old ones, mostly at the same time. One stays connected for as
long as the storm lasts; the other comes and goes, has little patience, and often leaves before it has its
answers. A third one revokes. They live in a thread, on an event loop of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Final

from cryptography import x509

from otahsm.client import CertificateRequest, Client, ClientTls, Refusal, Result, Revoked, ToRevoke
from otahsm.errors import Code, OtahsmError
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber

from support.devices import new_requests

NEW, NEWEST, OLDER = 16, 32, 16  # devices in a request; new ones are among the newest
LONG, SHORT = 60, 1  # seconds of patience
PAUSE, REVOKING_PAUSE = 0.2, 1.0  # seconds at most
STOP_SECONDS: Final = 300


class StormClients:
    """What they ask, and what they were told.

    Args:
        targets: the addresses of all daemons.
        tls: their files.
        random: decides whom they ask for, what they revoke, and when one leaves.

    Attributes:
        certificates: what they received, by device.
        answers: how many certificates they received, those that they had already among them.
        to_revoke: the devices whose certificates they wanted revoked, by serial number.
        revoked: what daemons said is revoked, by serial number: why, and since when in seconds.
        crl: the last one, in DER; none before they come to an end.
    """

    def __init__(self, targets: Sequence[str], tls: ClientTls, random: random.Random) -> None:
        self._targets = targets
        self._tls = tls
        self._random = random
        self._enough = threading.Event()
        self._requests: list[CertificateRequest] = []
        self._revoked_devices: set[str] = set()
        self.certificates: dict[str, bytes] = {}
        self.answers = 0
        self.to_revoke: dict[int, str] = {}
        self.revoked: dict[int, tuple[str, int]] = {}
        self.crl = b""

    def enough(self) -> None:
        """Say that nothing is killed any more: they ask for everything once again, and come to an end."""
        self._enough.set()

    async def live(self) -> None:
        """Ask until it is enough; raise what is not as it must be."""
        async with Client(self._targets, self._tls, patience=LONG) as client:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stay(client))
                tasks.create_task(self._come_and_go())
                tasks.create_task(self._revoke())
            await self._ask(client, self._requests)
        missing = {request.device_id for request in self._requests} - self.certificates.keys()
        assert not missing, f"these devices got no certificate: {missing}"
        async with Client(self._targets, self._tls, patience=LONG) as revoking:
            self.crl = (await revoking.revocation.crl()).der

    async def _stay(self, client: Client) -> None:
        while not self._enough.is_set():
            await self._ask(client, self._choose())
            await self._pause()

    async def _come_and_go(self) -> None:
        while not self._enough.is_set():
            requests = self._choose()
            async with Client(self._targets, self._tls, patience=SHORT) as client:
                await self._ask(client, requests, at_most=self._random.randrange(1, 2 * len(requests)))
            await self._pause()

    async def _revoke(self) -> None:
        async with Client(self._targets, self._tls, patience=SHORT) as client:
            while not self._enough.is_set():
                if self.certificates:
                    await self._revoke_one(client)
                await self._pause(REVOKING_PAUSE)

    async def _pause(self, most: float = PAUSE) -> None:
        await asyncio.sleep(self._random.uniform(0, most))

    def _choose(self) -> list[CertificateRequest]:
        """Choose the newest devices, which the other client asks for, too; some older ones, and new ones."""
        self._requests += new_requests(NEW)
        older, newest = self._requests[:-NEWEST], self._requests[-NEWEST:]
        requests = newest + self._random.sample(older, min(OLDER, len(older)))
        self._random.shuffle(requests)
        return requests

    async def _ask(
        self, client: Client, requests: Sequence[CertificateRequest], at_most: int | None = None
    ) -> None:
        gone = set(self._revoked_devices)
        with while_unavailable():  # the next round asks again
            async with contextlib.aclosing(client.issuance.issue(requests)) as results:
                count = 0
                async for result in results:
                    self._take(result, gone)
                    count += 1
                    if count == at_most:
                        return

    def _take(self, result: Result, gone: set[str]) -> None:
        """Take an answer; `gone` are the devices that were revoked before they were asked for."""
        device = result.request.device_id
        if isinstance(result, Refusal):
            revoked = result.reason == "REVOKED" and device in self.to_revoke.values()
            assert result.passes_within(0) or revoked, result
            return
        assert device not in gone, f"{device} is revoked, and was given its certificate again"
        self.answers += 1
        (certificate, *_) = result.chain
        known = self.certificates.setdefault(device, certificate)
        assert known == certificate, f"{device} was given {known.hex()} and {certificate.hex()}"

    async def _revoke_one(self, client: Client) -> None:
        """Revoke a device's certificate; it may be revoked already, which changes nothing."""
        device = self._random.choice(list(self.certificates))
        serial = SerialNumber(x509.load_der_x509_certificate(self.certificates[device]).serial_number)
        self.to_revoke[serial] = device
        with while_unavailable():
            async for outcome in client.revocation.revoke(
                [ToRevoke(serial=serial)], self._random.choice([*Reason])
            ):
                if isinstance(outcome, Revoked):
                    told = outcome.reason.value, int(outcome.revoked_at.timestamp())
                    known = self.revoked.setdefault(serial, told)
                    assert known == told, f"{device} is revoked as {known}, and as {told}"
                    self._revoked_devices.add(device)
                else:
                    assert outcome.code == "UNAVAILABLE", outcome


@contextlib.contextmanager
def while_unavailable() -> Iterator[None]:
    """Let pass what a daemon fails with that is gone, that ends, or whose token or ledger is away."""
    try:
        yield
    except OtahsmError as error:
        if error.code is not Code.UNAVAILABLE:
            raise


@contextlib.contextmanager
def alive(clients: StormClients) -> Iterator[Future[None]]:
    """Have clients live, in a thread; what comes of it is in the future. They end with the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    living = asyncio.run_coroutine_threadsafe(clients.live(), loop)
    try:
        yield living
    finally:
        living.cancel()
        asyncio.run_coroutine_threadsafe(_wait_for_the_others(), loop).result(STOP_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_SECONDS)
        loop.close()


async def _wait_for_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
