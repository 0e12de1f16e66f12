"""The ledger as the issuance cycle uses it: durable writes, in group commits, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from otahsm.access import Denied, Quotas
from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger import batches, closing, denials, dialects, events, quotas
from otahsm.ledger.database import Database
from otahsm.ledger.failures import cause_of
from otahsm.ledger.journal import write_intents
from otahsm.ledger.migrations import UnknownVersionError, migrate
from otahsm.ledger.records import (
    Accepted,
    Answer,
    AuditEvent,
    Batch,
    BatchState,
    BatchTerms,
    Change,
    Intent,
    Renewal,
    Tell,
)
from otahsm.pki import SerialNumber

_Result = TypeVar("_Result")
_Write: TypeAlias = tuple[Callable[[Connection], Any], Future[Any]]

_LOST_RACES: Final = ("40P01", "40001")  # PostgreSQL: deadlock detected, serialization failure
_ATTEMPTS: Final = 5
_NO_LIMITS: Final[Mapping[int, Quotas]] = {}
_UNKNOWN: Final = "it is not known whether the intent was written; nothing was signed"


class Ledger:
    """The ledger of one CA, as one daemon uses it.

    Args:
        database: where it is.
        issuer_key_ids: the key identifiers of the CAs whose certificates it may hold.
        renewals: by profile, when a device's certificate may be superseded; without: never.
    """

    def __init__(
        self,
        database: Database,
        issuer_key_ids: Collection[bytes],
        renewals: Mapping[str, Renewal] | None = None,
    ) -> None:
        self._database = database
        self._renewals = renewals or {}
        self._issuer_key_ids = frozenset(issuer_key_ids)
        self._is_open = False
        # Ids of intents that may be open: entered before a commit, removed after one, so never too few.
        self._open_ids: set[int] = set()
        self._owed: list[tuple[tuple[int, ...], str]] = []
        self._written: list[int] = []  # ids of intents in the transaction that runs
        self._something_left = False
        self._closed = 0
        self._failure: LedgerUnavailableError | None = None
        self._waiting: SimpleQueue[_Write] = SimpleQueue()
        # One thread makes the batches queue here, where they can be joined, and not in the database.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def open(self) -> int:
        """Take the ledger, bring its schema up to date, and void what a crash left open.

        Returns:
            How many intents were voided: serials that may have been signed but were never released.

        Raises:
            ConfigError: it can't be used, another daemon holds the file, or it is another CA's.
            LedgerUnavailableError: the server can't be reached.
        """
        return await self._on_writer(self._open)

    async def journal(
        self, batch: Sequence[Intent], now: int | None = None, limits: Mapping[int, Quotas] = _NO_LIMITS
    ) -> list[Answer]:
        """Write intents durably (step 3); answer each, in order.

        Args:
            batch: at least one.
            now: for the windows of renewals, in seconds since the Unix epoch; None: when each was intended.
            limits: for each `quota_id` of the batch, what is allowed.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        return await self.transaction(lambda connection: self._write_intents(connection, batch, now, limits))

    async def record(self, issued: Mapping[int, bytes]) -> None:
        """Write certificates, DER by intent id, durably (step 5).

        Raises:
            LedgerUnavailableError: nothing was written; nothing may be released.
        """
        now = time.time_ns() // 1000
        await self.transaction(lambda connection: closing.write_certificates(connection, issued, now))
        self._open_ids.difference_update(issued)
        self._database.recorded(len(issued))

    async def void(self, intent_ids: Sequence[int], reason: str) -> None:
        """Say that no certificate will come of these intents, so that their devices may ask again.

        If the ledger can't be written now, that is made up for before the next intents are.
        """
        self._owed.append((tuple(intent_ids), reason))
        with contextlib.suppress(LedgerUnavailableError):
            await self.transaction(lambda _: None)

    async def reset(
        self, device_id: str, profile: str, tell: Tell[SerialNumber]
    ) -> Change[SerialNumber | None]:
        """Let a device have a new certificate, for a new key, whatever the profile's windows are.

        The result is the serial number of the certificate that it has, which stays valid; None: it has none.

        Args:
            device_id: whose.
            profile: under which.
            tell: makes the event that is written in the same transaction, if there is something to reset.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        now = time.time_ns() // 1000
        return await self.transaction(
            lambda connection: closing.reset(connection, device_id, profile, now, tell)
        )

    async def write_events(self, written: Sequence[AuditEvent]) -> None:
        """Write events durably. Raises LedgerUnavailableError."""
        await self.transaction(lambda connection: events.write(connection, written))

    async def deny(self, denied: Denied, tell: Tell[Denied]) -> Change[Denied]:
        """Cut a client off; the result is how it is, also if it was cut off before. `tell` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        return await self.transaction(lambda connection: denials.deny(connection, denied, tell))

    async def allow(self, subject: str, tell: Tell[Denied]) -> Change[Denied | None]:
        """Let a client in again; the result is None if it was not cut off. `tell` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        return await self.transaction(lambda connection: denials.allow(connection, subject, tell))

    async def quota_ids(self, clients: Sequence[str]) -> list[int]:
        """Return the ids of the quotas of clients of the policy, in order. Raises LedgerUnavailableError."""
        return await self.transaction(lambda connection: quotas.ids_of(connection, clients))

    async def create_batch(self, terms: BatchTerms, creator: str, tell: Tell[Batch]) -> Change[Batch]:
        """Order a batch; the result is it, or the one of the same name that there is, whatever its terms are.

        `tell` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        now = time.time_ns() // 1000
        return await self.transaction(
            lambda connection: batches.create(connection, terms, creator, now, tell)
        )

    async def close_batch(self, name: str, tell: Tell[BatchState]) -> Change[BatchState | None]:
        """Let nothing more be issued in a batch; the result is None if there is none. `tell` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        now = time.time_ns() // 1000
        return await self.transaction(lambda connection: batches.close(connection, name, now, tell))

    @property
    def failure(self) -> LedgerUnavailableError | None:
        """Why the last write failed; None if it didn't."""
        return self._failure

    async def tend(self) -> int:
        """Void what replicas that are gone left open; and if the last write failed, see if one does now.

        Returns:
            How many intents were voided.
        """
        with contextlib.suppress(LedgerUnavailableError):
            self._something_left = await self.transaction(self._look)
            if self._something_left:
                await self.transaction(lambda _: None)
                return self._closed
        return 0

    async def close(self) -> None:
        """Let go of the ledger."""
        await self._on_writer(self._close)
        self._writer.shutdown()

    async def transaction(self, work: Callable[[Connection], _Result]) -> _Result:
        """Have a function of this room's do its work in a transaction that is durable when this returns.

        What waits while the disk is busy goes into one transaction: the disk is waited for once.

        Args:
            work: it may be done more than once; only what the last time wrote is kept. It must not raise
                for what it finds: it may share the transaction with the cycle's writes.

        Raises:
            LedgerUnavailableError: nothing was written, or it is not known whether it was.
        """
        done: Future[_Result] = Future()
        self._waiting.put((work, done))
        self._writer.submit(self._commit_waiting)
        # Shielded: a write that has begun is finished, and its result kept, whoever stops waiting.
        return await asyncio.shield(asyncio.wrap_future(done))

    async def _on_writer(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, work))

    def _commit_waiting(self) -> None:
        """Commit all that waits; nothing, if an earlier call took it along."""
        group: list[_Write] = []
        with contextlib.suppress(Empty):
            while True:
                group.append(self._waiting.get_nowait())
        if group:
            self._commit_or_fail(group)

    def _commit_or_fail(self, group: Sequence[_Write], attempts: int = _ATTEMPTS) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: whoever waits gets it
            if _is_lost_race(error.__cause__) and attempts > 1:
                self._commit_or_fail(group, attempts - 1)
            elif len(group) == 1:
                group[0][1].set_exception(error)
            else:
                for write in group:  # one may have spoilt it for the others
                    self._commit_or_fail([write])

    def _commit(self, group: Sequence[_Write]) -> None:
        if not self._is_open:
            raise LedgerUnavailableError("the ledger is closed")
        self._written.clear()
        try:
            with self._database.engine.begin() as connection:
                owed = self._begin(connection)
                results = [work(connection) for work, _ in group]
                if self._open_ids:
                    closing.note_closed(connection, self._database.place, min(self._open_ids))
        except SQLAlchemyError as error:
            if self._written:  # and perhaps durably: it may be the answer that was lost, and not the commit
                self._owed.append((tuple(self._written), _UNKNOWN))
            failure = LedgerUnavailableError(
                f"the ledger {self._database.name} can't be written: {cause_of(error)}"
            )
            if not _is_lost_race(error):
                self._failure = failure
            raise failure from error
        except LedgerUnavailableError:
            self._open_ids.difference_update(self._written)
            raise
        self._failure = None
        self._database.place_is_new = self._something_left = False
        for intent_ids, _ in self._owed[:owed]:
            self._open_ids.difference_update(intent_ids)
        del self._owed[:owed]
        for (_, done), result in zip(group, results, strict=True):
            done.set_result(result)

    def _begin(self, connection: Connection) -> int:
        """Close first what is to be closed; return how many of the debts that pays."""
        owed, now = len(self._owed), time.time_ns() // 1000
        place, place_is_new = self._database.place, self._database.place_is_new
        left = place_is_new or self._something_left
        dialects.begin(connection, closing=left or owed > 0)
        if place_is_new:
            closing.enter(connection, place)
        if left:
            self._closed = closing.clear_left_places(connection, place, now, also_own=place_is_new)
        for intent_ids, reason in self._owed[:owed]:
            closing.void_intents(connection, intent_ids, reason, now)
        return owed

    def _write_intents(
        self,
        connection: Connection,
        batch: Sequence[Intent],
        now: int | None,
        limits: Mapping[int, Quotas],
    ) -> list[Answer]:
        ids = self._database.take_ids(connection, len(batch))
        answers = write_intents(connection, self._database.place, ids, batch, self._renewals, now)
        if limits:  # before batches, always: so nobody waits in a circle
            answers = quotas.hold(connection, batch, answers, limits, time.time_ns() // 1000)
        if any(intent.batch_id is not None for intent in batch):
            seconds = time.time_ns() // 1_000_000_000 if now is None else now
            granted = batches.hold_places(connection, batch, answers, seconds)
            quotas.give_back_denied(connection, batch, answers, granted)
            answers = granted
        written = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
        self._written += written
        self._open_ids.update(written)
        return answers

    def _look(self, connection: Connection) -> bool:
        place = self._database.place
        if self._failure is not None:
            closing.touch(connection, place)
        self._database.tend(connection)
        return closing.anything_left(connection, place)

    def _open(self) -> int:
        self._database.hold()
        name = self._database.name
        try:
            with self._database.engine.begin() as connection:
                dialects.begin(connection, closing=True)
                migrate(connection)
                issuer = closing.issuer_of(connection)
        except UnknownVersionError as error:
            raise ConfigError(
                f"the ledger {name} has a schema that this otahsm doesn't know: {error}",
                hint="It was made by a newer version: run that one, or a newer one still.",
            ) from error
        except SQLAlchemyError as error:
            if isinstance(error, OperationalError) and self._database.engine.name == "postgresql":
                raise LedgerUnavailableError(
                    f"the ledger {name} can't be reached: {cause_of(error)}"
                ) from error
            raise ConfigError(f"{name} is no ledger, or can't be written: {cause_of(error)}") from error
        if issuer is not None and issuer not in self._issuer_key_ids:
            # A certificate that is asked for again would come with the chain of a CA that did not sign it.
            raise ConfigError(
                f"the ledger {name} holds certificates of another CA, {issuer.hex(':')}",
                hint="Change [ledger], or [ca] back; or name that CA in a section [authorities.NAME].",
            )
        self._is_open = True
        self._commit([])
        return self._closed

    def _close(self) -> None:
        self._is_open = False
        self._database.close()


def _is_lost_race(error: BaseException | None) -> bool:
    """Tell whether this transaction and another replica's waited for each other, and this one gave way."""
    return isinstance(error, DatabaseError) and getattr(error.orig, "sqlstate", "") in _LOST_RACES
