"""The writer of a ledger: durable transactions, in group commits, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError, OperationalError, SQLAlchemyError

from otahsm.errors import ConfigError, LedgerDamagedError, LedgerUnavailableError
from otahsm.ledger.db import dialects
from otahsm.ledger.db.database import Database
from otahsm.ledger.db.failures import cause_of, failure_of
from otahsm.ledger.migrations import UnknownVersionError
from otahsm.ledger.records import Intent, Vouched, WrittenIntent
from otahsm.ledger.shape.check import refuse_hooks, refuse_tampered
from otahsm.ledger.tree.entry_kind import Entry
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import MacKeys, Noted, with_keys
from otahsm.ledger.write import outcomes, slots, takeover
from otahsm.system.clock import Clock, microseconds

_Result = TypeVar("_Result")
_LOST_RACES: Final = ("40P01", "40001")  # PostgreSQL: deadlock detected, serialization failure
_ATTEMPTS: Final = 5
_NOT_OURS: Final = "no daemon wrote this intent"
_UNKNOWN: Final = "it is not known whether the intent was written; nothing was signed"


class _Write(NamedTuple):
    work: Callable[[Connection], Any]
    done: Future[Any]
    with_events: bool


class Writer:
    """Writes a ledger, and tracks which intents may be open.

    Args:
        database: the ledger's database.
        keys: of the MACs on pending leaves.
        issuer_key_ids: the key identifiers of the CAs whose certificates it may contain; the first names it.
        clock: the time of voiding.
    """

    def __init__(
        self, database: Database, keys: MacKeys, issuer_key_ids: Collection[bytes], clock: Clock
    ) -> None:
        self._database = database
        self._noted = Noted()
        self._engine = with_keys(database.engine, keys.of_ledger(issuer_key_ids), self._noted)
        self._issuer_key_ids = frozenset(issuer_key_ids)
        self._clock = clock
        self.is_open = False
        # Intents that may be open, by id: added before a commit and removed after one, so none is missing.
        self._open_intents: dict[int, WrittenIntent] = {}
        self._to_void: list[tuple[tuple[int, ...], str]] = []
        self._written: list[int] = []  # ids of intents in the current transaction
        self._something_left = False
        self._closed = 0
        self._failure: LedgerUnavailableError | None = None
        self._waiting: SimpleQueue[_Write] = SimpleQueue()
        # A single thread, so that writes queue here, where they can be grouped, and not in the database.
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def open(self, vouched: Vouched | None) -> int:
        """Lock and open the ledger; see `Ledger.open`."""
        return await self._on_writer(partial(self._open, vouched))

    @property
    def failure(self) -> LedgerUnavailableError | None:
        """Why the last write failed; None if it succeeded."""
        return self._failure

    async def transaction(
        self, work: Callable[[Connection], _Result], *, with_events: bool = False
    ) -> _Result:
        """Run a function in a transaction that is durable when this returns.

        Functions that wait while the disk is busy share one transaction, and so one flush.

        Args:
            work: it may run more than once, but only the last run is committed. It must not raise because of
                what it reads: it may share the transaction with the cycle's writes.
            with_events: whether it may write audit events.

        Raises:
            LedgerUnavailableError: nothing was written, or it is not known whether it was.
            ValueError, OverflowError: the database does not accept a value of this function; nothing was
                written, and the functions that share its transaction are run again without it.
        """
        done: Future[_Result] = Future()
        self._waiting.put(_Write(work, done, with_events))
        self.thread.submit(self._commit_waiting)
        # Shielded: a write that has started is finished even if the caller is cancelled.
        return await asyncio.shield(asyncio.wrap_future(done))

    @property
    def open_intents(self) -> Mapping[int, WrittenIntent]:
        """The intents of this process that may be open, by id."""
        return self._open_intents

    def wrote(self, intents: Mapping[int, Intent]) -> None:
        """Note, in a transaction, that it has written intents, by id."""
        self._written += intents
        place = self._database.slot
        self._open_intents.update((key, WrittenIntent(value, place)) for key, value in intents.items())

    def recorded(self, intent_ids: Collection[int]) -> None:
        """Note, after its transaction, that intents have their certificates."""
        self._close_intents(intent_ids)
        self._database.recorded(len(intent_ids))

    def _close_intents(self, intent_ids: Iterable[int]) -> None:
        for intent_id in intent_ids:
            self._open_intents.pop(intent_id, None)

    async def void(self, intent_ids: Sequence[int], reason: str) -> None:
        """Void intents, now or before the next transaction; see `Ledger.void`."""
        self._to_void.append((tuple(intent_ids), reason))
        with contextlib.suppress(LedgerUnavailableError):
            await self.transaction(lambda _: None)

    async def tend(self) -> int:
        """Void the open intents of dead replicas. If the last write failed, check whether writes work again.

        Returns:
            The number of voided intents.
        """
        with contextlib.suppress(LedgerUnavailableError):
            left = self._something_left = await self.transaction(self._look)
            if left or self._to_void:
                await self.transaction(lambda _: None)
            return self._closed if left else 0
        return 0

    async def close(self) -> None:
        """Close the ledger."""
        await self._on_writer(self._close)
        self.thread.shutdown()

    async def _on_writer(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.thread, work))

    def _commit_waiting(self) -> None:
        """Commit all waiting writes, if an earlier call has not done so."""
        group: list[_Write] = []
        with contextlib.suppress(Empty):
            while True:
                group.append(self._waiting.get_nowait())
        if group:
            self._commit_or_fail(group)

    def _commit_or_fail(self, group: Sequence[_Write], attempts: int = _ATTEMPTS) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: the waiting caller gets it
            if _is_lost_race(error.__cause__) and attempts > 1:
                self._commit_or_fail(group, attempts - 1)
            elif len(group) == 1:
                group[0].done.set_exception(error)
            else:
                for write in group:  # one write may have failed the others
                    self._commit_or_fail([write])

    def _commit(self, group: Sequence[_Write]) -> None:
        if not self.is_open:
            raise LedgerUnavailableError("the ledger is closed")
        self._written.clear()
        self._noted.begin()
        try:
            with self._engine.begin() as connection:
                voided = self._begin(connection, with_events=any(write.with_events for write in group))
                results = [write.work(connection) for write in group]
                if self._open_intents:
                    slots.note_closed(connection, self._database.slot, min(self._open_intents))
        except DataError as error:  # of a statement: nothing was committed, and the ledger is all right
            self._close_intents(self._written)
            raise ValueError(f"the ledger can't store a value: {cause_of(error)}") from error
        except SQLAlchemyError as error:
            if self._written:  # the commit may have succeeded, and only its answer been lost
                self._to_void.append((tuple(self._written), _UNKNOWN))
            failure = failure_of(f"can't write the ledger {self._database.name}", error)
            if not _is_lost_race(error):
                self._failure = failure
            raise failure from error
        except Exception:  # also what a driver raises for a value: the intents of others were taken back
            self._close_intents(self._written)
            raise
        self._noted.commit()
        self._failure = None
        self._database.slot_is_new = self._something_left = False
        for intent_ids, _ in self._to_void[:voided]:
            self._close_intents(intent_ids)
        del self._to_void[:voided]
        for write, result in zip(group, results, strict=True):
            write.done.set_result(result)

    def _begin(self, connection: Connection, *, with_events: bool) -> int:
        """Begin a transaction by voiding what must be voided; return how much of `_to_void` that is."""
        pending, now = len(self._to_void), microseconds(self._clock())
        slot, slot_is_new = self._database.slot, self._database.slot_is_new
        left = slot_is_new or self._something_left
        dialects.begin(connection, closing=left or pending > 0, with_events=with_events)
        if slot_is_new:
            slots.enter(connection, slot)
        if left:
            self._closed = slots.clear_left_slots(connection, slot, now, also_own=slot_is_new)
        for intent_ids, reason in self._to_void[:pending]:
            outcomes.void_intents(connection, intent_ids, reason, now)
        return pending

    def _look(self, connection: Connection) -> bool:
        slot = self._database.slot
        if self._failure is not None:
            slots.touch(connection, slot)
        self._database.tend(connection)
        unknown = [
            each
            for each in slots.open_intents(connection, slot)
            if each not in self._open_intents
            # Somebody removed its certificate, which was released: that is no reason to call it void.
            and Entry(Kind.CERTIFICATE_2, each) not in self._noted
        ]
        if unknown:  # somebody wrote them into the database: their devices must not wait for ever
            self._to_void.append((tuple(unknown), _NOT_OURS))
        if not self._open_intents and slots.is_far_behind(connection, slot):
            # An idle replica must keep up: open intents are searched from the lowest `closed_below` of all.
            self._database.forget_ids()
            slots.note_all_closed(connection, slot)
        return slots.anything_left(connection, slot)

    def _open(self, vouched: Vouched | None) -> int:
        self._database.hold()
        name = self._database.name
        try:
            with self._engine.begin() as connection:
                dialects.begin(connection, closing=True)
                refuse_hooks(connection, name)  # before a migration runs into them
                takeover.migrate(connection, vouched)
                refuse_tampered(connection, name)
                issuer = outcomes.issuer_of(connection)
        except UnknownVersionError as error:
            raise ConfigError(
                f"the ledger {name} has the unknown schema {error}",
                hint="A newer otahsm created it: use that version, or a newer one.",
            ) from error
        except SQLAlchemyError as error:
            failure = failure_of(f"can't open the ledger {name}", error)
            away = isinstance(error, OperationalError) and self._database.engine.name == "postgresql"
            if away or isinstance(failure, LedgerDamagedError):
                raise failure from error
            raise ConfigError(f"{name} is not a writable ledger: {cause_of(error)}") from error
        if issuer is not None and issuer not in self._issuer_key_ids:
            # A certificate that is requested again would be returned with the chain of the wrong CA.
            raise ConfigError(
                f"the ledger {name} holds certificates of another CA, {issuer.hex(':')}",
                hint="Restore the previous [ledger] or [ca], or name that CA in [authorities.NAME].",
            )
        self.is_open = True
        self._commit([])
        return self._closed

    def _close(self) -> None:
        self.is_open = False
        self._database.close()


def _is_lost_race(error: BaseException | None) -> bool:
    """Return whether the database aborted the transaction after a deadlock or a serialization failure."""
    return isinstance(error, DatabaseError) and getattr(error.orig, "sqlstate", "") in _LOST_RACES
