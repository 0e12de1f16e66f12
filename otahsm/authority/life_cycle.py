"""Starts and closes the parts of a certification authority in order, and reports their health."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Final

from otahsm.authority.crls import Crls
from otahsm.authority.denied_clients import DeniedClients
from otahsm.authority.held_signers import NOT_YET
from otahsm.authority.jobs import Job, Supervisor
from otahsm.authority.spool_reader import SpoolReader
from otahsm.errors import LedgerTamperedError, LedgerUnavailableError
from otahsm.issuance.queue import IssuanceQueue
from otahsm.ledger import Ledger
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.ledger.read.reader import LedgerReader
from otahsm.preparation.pool import Preparers
from otahsm.revocation.crl_keeper import LOOK_SECONDS as CRL_SECONDS
from otahsm.token.pool import SignerPool
from otahsm.transparency.audit import AuditLog
from otahsm.transparency.log import Transparency
from otahsm.workers.pool import Report

_LOOK_SECONDS: Final = 1.0
_TEND_SECONDS: Final = 5.0
_SHAPE_SECONDS: Final = 60.0
_SCHEMA: Final = "schema"
_TRANSPARENCY: Final = "transparency"
_TRUSTED: Final = (_SCHEMA, _TRANSPARENCY)  # what they find out keeps CRLs from being made
# Errors that the job "ledger" logs, for all jobs.
_OF_THE_LEDGER: Final = (LedgerUnavailableError,)


class LifeCycle:
    """Manages everything from opening the ledger to closing it.

    Args:
        report: called with (event, pid, error) when intents of a dead replica were voided.
        denials: the connection for reading denials; not shared, so that no other query delays it.
        looked: to be set when the ledger was compared with what signers signed last.

    Attributes:
        ledger_name: the location of the ledger, for messages.
        supervisor: runs the jobs.
    """

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        audit: AuditLog,
        clients: DeniedClients,
        crls: Crls,
        denials: LedgerQueries,
        ledger: Ledger,
        ledger_name: str,
        looked: asyncio.Event,
        preparers: Preparers,
        queries: LedgerQueries,
        queue: IssuanceQueue,
        report: Report,
        signers: SignerPool,
        spool: SpoolReader,
        supervisor: Supervisor,
        transparency: Transparency,
    ) -> None:
        self.ledger_name = ledger_name
        self.supervisor = supervisor
        self._audit = audit
        self._clients = clients
        self._crls = crls
        self._denials = denials
        self._ledger = ledger
        self._looked = looked
        self._preparers = preparers
        self._queries = queries
        self._queue = queue
        self._report = report
        self._signers = signers
        self._spool = spool
        self._transparency = transparency
        self._signers_are_ready = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._tended_at = 0.0  # on the monotonic clock
        self._unwritable: LedgerUnavailableError | None = None  # why, when the ledger was last checked

    @property
    def ready_signers(self) -> int:
        """The number of signers that have made a signature that was verified."""
        return self._signers.ready

    @property
    def serving(self) -> bool:
        """Whether a certificate requested now would be signed."""
        ready = self._signers.ready > 0 and self._preparers.ready > 0 and self._looked.is_set()
        return ready and self._ledger_failure is None and self.supervisor.tampering is None

    @property
    def trouble(self) -> str:
        """A human-readable reason why it is not serving; "" while it is."""
        if self.serving:
            return ""
        failure = (
            self.supervisor.tampering
            or self._ledger_failure
            or self._signers.failure
            or self._preparers.failure
        )
        if failure is None and self._signers.ready and self._preparers.ready:
            return NOT_YET
        return failure.message if failure else "the signers and preparers are starting"

    def require_intact(self, *, crls: bool = True) -> None:
        """Raise LedgerTamperedError if a job has found the ledger tampered with.

        Args:
            crls: whether its CRLs matter; each is checked when it is handed out.
        """
        found = self.supervisor.tampering if crls else self.supervisor.tampering_of(_TRUSTED)
        if found is not None:
            raise LedgerTamperedError(found.message, hint=found.hint)

    @property
    def _ledger_failure(self) -> LedgerUnavailableError | None:
        return self._unwritable or self._ledger.failure

    async def start(self) -> int:
        """Open the ledger, start the processes and accept requests, without waiting for a signer.

        Returns:
            The number of open intents of an earlier run that were voided.

        Raises:
            ConfigError: the ledger can't be used.
            LedgerTamperedError: its tables are not those that otahsm made.
            LedgerUnavailableError: its server can't be reached.
        """
        voided = await self._ledger.open()
        await self._clients.look()  # before any client has access
        for keeper in self._crls.keepers.values():
            await keeper.start()
        for job in self._jobs():
            self.supervisor.start(job)
        for task in (*await self._preparers.start(), *await self._signers.start()):
            self.supervisor.guard(task.get_name(), task)
        self.supervisor.guard("the queue", self._queue.start())
        self._looking = asyncio.create_task(self._note_looks())
        return voided

    async def wait_until_serving(self) -> None:
        """Wait until a certificate requested now would be signed.

        Raises:
            OtahsmError: it won't be until an operator acts.
        """
        await self._signers.wait_until_ready()
        await self._preparers.wait_until_ready()
        await self._looked.wait()

    async def close(self, within: float) -> None:
        """Finish the work in progress within `within` seconds, stop the processes, close the ledger."""
        until = time.monotonic() + within
        if self._looking is not None:
            self._looking.cancel()
        await self._queue.close(within)
        await self.supervisor.close(max(0.0, until - time.monotonic()))
        for keeper in self._crls.keepers.values():
            await keeper.close()
        await self._audit.close()  # before the last checkpoint, which covers it
        await self._transparency.close()
        await self._signers.close()
        await self._preparers.close()
        await self._queries.close()
        await self._denials.close()
        await self._ledger.close()

    def _jobs(self) -> Iterator[Job]:
        yield Job(
            name="ledger",
            run_once=self._tend_ledger,
            interval=_LOOK_SECONDS,
            failing="ledger.unavailable",
            recovered="ledger.available",
            retry_seconds=_LOOK_SECONDS,
        )
        yield Job(
            name=_SCHEMA,
            run_once=self._look_at_schema,
            interval=_SHAPE_SECONDS,
            failing="ledger.tampered",
            logged_elsewhere=_OF_THE_LEDGER,
        )
        yield Job(
            name=_TRANSPARENCY,
            run_once=self._transparency.run_once,
            waits_for=(_SCHEMA,),
            woken=self._signers_are_ready,
            interval=_LOOK_SECONDS,
            failing="transparency.failed",
            logged_elsewhere=_OF_THE_LEDGER,
        )
        yield Job(
            name="audit",
            run_once=self._audit.write,
            interval=_LOOK_SECONDS,
            woken=self._audit.arrived,
            logged_elsewhere=_OF_THE_LEDGER,
        )
        yield Job(
            name="denied clients",
            run_once=self._clients.look,
            interval=_LOOK_SECONDS,
            logged_elsewhere=_OF_THE_LEDGER,
        )
        yield Job(
            name="spool",
            run_once=self._spool.run_once,
            interval=_LOOK_SECONDS,
            logged_elsewhere=_OF_THE_LEDGER,
        )
        for name, keeper in self._crls.keepers.items():
            if keeper.can_sign:
                yield Job(
                    name=f"crl {name}".strip(),
                    run_once=keeper.run_once,
                    interval=CRL_SECONDS,
                    woken=keeper.woken,
                    after=self._signers.wait_until_ready,
                    waits_for=_TRUSTED,
                    failing="crl.failed",
                )

    async def _note_looks(self) -> None:
        """Note when the ledger was compared with what signers signed; jobs do that when these are ready."""
        await self._signers.wait_until_ready()
        self._signers_are_ready.set()
        await self._transparency.looked.wait()
        for keeper in self._crls.keepers.values():
            await keeper.wait_until_looked()
        self._looked.set()
        self.supervisor.notify()

    async def _look_at_schema(self) -> None:
        """Look whether the ledger's tables are as otahsm made them. Raises LedgerTamperedError."""
        await self._queries.ask(LedgerReader.check_shape)

    async def _tend_ledger(self) -> None:
        """Void the open intents of dead replicas, from time to time.

        Raises LedgerUnavailableError if a write failed, even if a small one has succeeded since: a full disk
        accepts some.
        """
        failure = self._unwritable = self._ledger.failure
        now = time.monotonic()
        if failure is not None or now - self._tended_at >= _TEND_SECONDS:
            self._tended_at = now
            if voided := await self._ledger.tend():
                gone = LedgerUnavailableError(f"a replica is gone; {voided} of its intents were voided")
                self._report("ledger.recovered", os.getpid(), gone)
        if failure is not None:
            raise failure.with_traceback(None)
