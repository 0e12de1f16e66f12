"""Revocation: what is revoked is durable before the caller hears of it; a CRL follows at once.

1. **revoke**: the ledger records it, in a group commit with whatever else is written
2. **make**: a CRL is made; whatever is revoked meanwhile goes into the next one (`CrlMaker`)
3. **write**: the files that web servers and gateways read are replaced (`CrlFolder`)

Steps 2 and 3 are also done on a schedule. Every daemon looks every few seconds whether a CRL is due, or a
file is not what the ledger has: so it does not matter which of several daemons revoked, made, or died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeAlias, TypeVar

from otahsm.config import CrlConfig
from otahsm.errors import (
    ConfigError,
    InProgressError,
    NotFoundError,
    OtahsmError,
    RequestRefusedError,
    TokenUnavailableError,
)
from otahsm.issuance.crl_folder import CrlFolder, name_files
from otahsm.issuance.crl_maker import CrlMaker, Life
from otahsm.issuance.values import RevocationOrder, RevocationOutcome, RevokedDevice
from otahsm.ledger import (
    AUTHORITIES,
    COMPLETE,
    CrlBooks,
    CrlState,
    Database,
    InProgress,
    Ledger,
    Revocation,
    StoredCrl,
    Target,
)
from otahsm.ledger.revocation import RevocationAnswer, note_urls, revoke
from otahsm.pki import Issuer, Reason, check_signs_crls, crl_url, serial_octets
from otahsm.token import SignerPool
from otahsm.workers import Report

_LOOK_SECONDS: Final = 5.0
_SOON_SECONDS: Final = 0.5
_FIRST_CRL_SECONDS: Final = 15.0
_SERIAL_OCTETS: Final = 20

Tell: TypeAlias = Callable[[str, Mapping[str, int | str]], None]
_Result = TypeVar("_Result")


class Revocations:
    """Revokes certificates of one CA, and keeps its CRLs.

    Args:
        issuer: the CA certificate.
        config: [crl]; without it CRLs are there for who asks, and are written nowhere.
        database: the ledger's.
        ledger: where revocations and CRLs are recorded.
        signers: where CRLs are signed.
        clock: tells the time, with a time zone.
        report: called with (event, pid, error) when no CRL can be made or written.
        tell: called with an event and its fields when one was.

    Raises:
        ConfigError: there is a [crl], and the CA may not sign CRLs.
    """

    def __init__(  # noqa: PLR0913 - what it brings together
        self,
        *,
        issuer: Issuer,
        config: CrlConfig | None,
        database: Database,
        ledger: Ledger,
        signers: SignerPool,
        clock: Callable[[], datetime],
        report: Report,
        tell: Tell,
    ) -> None:
        self._unable: ConfigError | None = None
        try:
            check_signs_crls(issuer)
        except ConfigError as error:
            if config is not None:
                raise
            self._unable = error
        self._config = config
        self._ledger = ledger
        self._signers = signers
        self._clock = clock
        self._report = report
        self._tell = tell
        # Reading, building and writing files take long: they have a thread, and leave the event loop alone.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crl")
        self._books = CrlBooks(database)
        self._maker = CrlMaker(
            issuer=issuer,
            life=Life.of(config),
            signers=signers,
            ledger=ledger,
            books=self._books,
            thread=self._thread,
            clock=clock,
        )
        self._folder = CrlFolder(config.directory, issuer) if config else None
        self._written: dict[str, int] = {}  # the number of the CRL in each file
        self._told: dict[str, int] = {}  # and in each scope, as far as was told
        self._wanted = config is not None  # whether a complete CRL must be there
        self._woken = asyncio.Event()
        self._passed = asyncio.Condition()
        self._failure: OtahsmError | None = None
        self._ending = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remember what certificates will state, before any is issued; then keep CRLs.

        Raises:
            ConfigError: [crl] directory can't be used.
            LedgerUnavailableError: the ledger can't be written.
        """
        if self._config is not None and self._folder is not None:
            urls = [crl_url(self._config, shard) for shard in range(self._config.shards)]
            await self._ledger.transaction(partial(note_urls, urls=urls, complete=self._config.shards == 1))
            self._maker.above = await self._off_the_loop(self._folder.highest_number)
        if self._unable is None:
            self._keeping = asyncio.create_task(self._keep())

    async def revoke(self, orders: Sequence[RevocationOrder], client: str) -> list[RevocationOutcome]:
        """Revoke certificates; return one outcome for each order, in order. What is revoked is durable.

        Args:
            orders: any number of them.
            client: who asks, as the ledger calls it.

        Raises:
            LedgerUnavailableError: nothing was revoked, or it is not known whether it was; ask again.
        """
        outcomes: list[RevocationOutcome] = [_check(order) or [] for order in orders]
        good = [at for at, outcome in enumerate(outcomes) if not isinstance(outcome, OtahsmError)]
        if not good:
            return outcomes
        answers: list[RevocationAnswer] = await self._ledger.transaction(
            partial(
                revoke,
                targets=[_target(orders[at]) for at in good],
                client=client,
                now=int(self._clock().timestamp() * 1_000_000),
            )
        )
        self._woken.set()
        for at, answer in zip(good, answers, strict=True):
            outcomes[at] = _outcome(orders[at], answer)
        return outcomes

    async def crl(self, scope: str) -> StoredCrl:
        """Return the last CRL of a scope, waiting a little if the first one is only being made.

        Args:
            scope: a shard's URL, the URL of the complete CRL, or one of `otahsm.ledger`'s names.

        Raises:
            ConfigError: the CA may not sign CRLs.
            NotFoundError: no certificate states this URL, or there are no shards.
            OtahsmError: why there is none yet.
        """
        if self._unable is not None:
            raise self._unable
        state = await self._off_the_loop(self._books.state)
        if state.urls.get(scope):
            scope = COMPLETE
        if scope != COMPLETE and scope not in _scopes(state):
            raise NotFoundError(f"there is no CRL {scope[:255]!a}")
        if scope == COMPLETE:
            self._wanted = True
        crl = await self._off_the_loop(partial(self._books.crl, scope))
        for _ in range(2):  # the pass that runs may have begun before this was wanted
            if crl is None:
                await self._wait_for_a_pass()
                crl = await self._off_the_loop(partial(self._books.crl, scope))
        if crl is None:
            raise self._failure or TokenUnavailableError("the first CRL is not made yet")
        return crl

    async def close(self, within: float) -> None:
        """Finish the CRL that is being made, within so many seconds, and let go of everything."""
        self._ending.set()
        self._woken.set()
        if self._keeping is not None:
            done, _ = await asyncio.wait({self._keeping}, timeout=within)
            if not done:
                self._keeping.cancel()
                await asyncio.wait({self._keeping})
        await self._off_the_loop(self._books.close)
        self._thread.shutdown()

    async def _keep(self) -> None:
        """Make and write what is due, again and again."""
        with contextlib.suppress(OtahsmError):  # `Issuance.wait_until_serving` says why
            await self._signers.wait_until_ready()
        while not self._ending.is_set():
            self._woken.clear()
            began, next_look = time.monotonic(), _LOOK_SECONDS
            try:
                next_look = await self._pass()
            except OtahsmError as error:
                self._say(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the CRLs
                self._say(OtahsmError(f"making CRLs failed in an unforeseen way: {error!r}"))
            else:
                self._failure = None
            async with self._passed:
                self._passed.notify_all()
            # Half of the time at most: while many are revoked, one CRL tells of many.
            await _within(min(time.monotonic() - began, _LOOK_SECONDS), self._ending)
            await _within(next_look, self._woken)

    async def _pass(self) -> float:
        """Make and write what is due; return after how many seconds to look again."""
        state, next_look = await self._maker.make_due(complete=self._wanted), _LOOK_SECONDS
        if state is None:  # another daemon is at it: see soon what it has made, and what is left
            state, next_look = await self._off_the_loop(self._books.state), _SOON_SECONDS
        for scope in (COMPLETE, AUTHORITIES):
            self._tell_of(scope, state)
        if self._config is not None and self._folder is not None:
            await self._off_the_loop(partial(self._write, self._config, self._folder, state))
        return next_look

    def _write(self, config: CrlConfig, folder: CrlFolder, state: CrlState) -> None:
        """Write the files that are not what the ledger has; in the thread."""
        files = name_files(config, state.urls)
        missing = folder.missing(iter(files.scopes))
        by_scope: dict[str, list[str]] = {}
        for name, scope in files.scopes.items():
            row = state.crls.get(scope)
            if row is not None and (name in missing or self._written.get(name) != row.number):
                by_scope.setdefault(scope, []).append(name)
        for scope, names in by_scope.items():
            crl = self._books.crl(scope)
            if crl is None:
                continue
            for name in names:
                folder.write(name, crl.row.number, crl.der)
                self._written[name] = crl.row.number
        if files.without:
            raise ConfigError(
                f"[crl] directory has no file for {files.without[0]}: another CRL has its name",
                hint="Fetch it with `otahsm crl fetch --url`, as long as certificates state it.",
            )

    def _tell_of(self, scope: str, state: CrlState) -> None:
        row = state.crls.get(scope)
        if row is not None and self._told.get(scope) != row.number:
            self._told[scope] = row.number
            name = "complete" if scope == COMPLETE else scope
            shards = sum(not complete for complete in state.urls.values())
            self._tell(
                "crl.made", {"crl": name, "number": row.number, "revoked": row.revoked, "shards": shards}
            )

    def _say(self, error: OtahsmError) -> None:
        """Report why there is no CRL; not again every few seconds."""
        if self._failure is None or self._failure.message != error.message:
            self._report("crl.failed", os.getpid(), error)
        self._failure = error

    async def _wait_for_a_pass(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_CRL_SECONDS), self._passed:
                self._woken.set()
                await self._passed.wait()

    async def _off_the_loop(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _scopes(state: CrlState) -> set[str]:
    shards = {url for url, complete in state.urls.items() if not complete}
    return shards | {AUTHORITIES} if shards else shards


def _check(order: RevocationOrder) -> RequestRefusedError | None:
    if (order.serial is None) == (not order.device_id):
        return RequestRefusedError("target", "name either a serial number or a device id")
    if order.serial is not None and not 0 < order.serial < 1 << 8 * _SERIAL_OCTETS:
        return RequestRefusedError(
            "serial_number", f"a serial number is positive and has at most {_SERIAL_OCTETS} octets"
        )
    return None


def _target(order: RevocationOrder) -> Target:
    serial = b"" if order.serial is None else order.serial.to_bytes(_SERIAL_OCTETS, "big")
    return Target(serial, order.device_id, order.profile, order.reason.value)


def _outcome(order: RevocationOrder, answer: RevocationAnswer) -> RevocationOutcome:
    if isinstance(answer, InProgress):
        return InProgressError(
            f"a certificate of {_name(order)} is being issued at this moment, and is not revoked",
            hint="Ask again in a second.",
        )
    if not answer:
        under = f" under the profile {order.profile[:64]!a}" if order.profile else ""
        return NotFoundError(f"no certificate of {_name(order)} was issued{under}")
    return [_revoked(item) for item in answer]


def _name(order: RevocationOrder) -> str:
    if order.serial is not None:
        return f"the serial number {serial_octets(order.serial).hex()}"
    return f"the device {order.device_id[:128]!a}"


def _revoked(item: Revocation) -> RevokedDevice:
    return RevokedDevice(
        int.from_bytes(item.serial, "big"),
        item.device_id,
        item.profile,
        datetime.fromtimestamp(item.revoked_at, UTC),
        Reason(item.reason),
        item.before,
    )
