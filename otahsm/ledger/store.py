"""The ledger as the issuance cycle uses it: durable writes, in group commits, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger.checkpoint import Checkpointer
from otahsm.ledger.journal import (
    issuer_of,
    note_closed,
    void_all_open,
    void_intents,
    write_certificates,
    write_intents,
)
from otahsm.ledger.records import Accepted, Answer, Intent

_Result = TypeVar("_Result")
_Write: TypeAlias = tuple[Callable[[Connection], Any], Future[Any]]

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # WAL's default loses the last commits in a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    # Pages of the indexes come back again and again: keep them, and copy them home seldom (`Checkpointer`).
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA wal_autocheckpoint = 64000",  # pages: the log grows to 256 MiB
)


class Ledger:
    """The embedded ledger: one SQLite file, one writer, held by one daemon at a time.

    Args:
        path: the file; it and its folder are made if they are missing.
        issuer_key_id: the key identifier of the CA whose certificates it holds.
    """

    def __init__(self, path: Path, issuer_key_id: bytes) -> None:
        self._path = path
        self._issuer_key_id = issuer_key_id
        self._lock: int | None = None
        self._engine: Engine | None = None
        self._checkpointer: Checkpointer | None = None
        # Ids of intents that may be open: entered before a commit, removed after one, so never too few.
        self._open_ids: set[int] = set()
        self._owed: list[tuple[tuple[int, ...], str]] = []
        self._waiting: SimpleQueue[_Write] = SimpleQueue()
        # SQLite has one writer whatever we do. One thread makes the batches queue here, not in the database.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def open(self) -> int:
        """Take the ledger, bring its schema up to date, and void what a crash left open.

        Returns:
            How many intents were voided: serials that may have been signed but were never released.

        Raises:
            ConfigError: the file can't be used, another daemon holds it, or it is another CA's.
        """
        return await self._on_writer(self._open)

    async def journal(self, batch: Sequence[Intent]) -> list[Answer]:
        """Write intents durably (step 3); answer each, in order.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        return await self._transaction(lambda connection: self._write_intents(connection, batch))

    async def record(self, issued: Mapping[int, bytes]) -> None:
        """Write certificates, DER by intent id, durably (step 5).

        Raises:
            LedgerUnavailableError: nothing was written; nothing may be released.
        """
        now = time.time_ns() // 1000
        await self._transaction(lambda connection: write_certificates(connection, issued, now))
        self._open_ids.difference_update(issued)
        if self._checkpointer is not None:
            self._checkpointer.wrote(len(issued))

    async def void(self, intent_ids: Sequence[int], reason: str) -> None:
        """Say that no certificate will come of these intents, so that their devices may ask again.

        If the ledger can't be written now, that is made up for before the next intents are.
        """
        self._owed.append((tuple(intent_ids), reason))
        with contextlib.suppress(LedgerUnavailableError):
            await self._transaction(lambda _: None)
            self._open_ids.difference_update(intent_ids)

    async def close(self) -> None:
        """Let go of the ledger."""
        await self._on_writer(self._close)
        self._writer.shutdown()

    async def _transaction(self, work: Callable[[Connection], _Result]) -> _Result:
        """Have `work` done in a transaction that is durable when this returns.

        What waits while the disk is busy goes into one transaction: the disk is waited for once.
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

    def _commit_or_fail(self, group: Sequence[_Write]) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: whoever waits gets it
            if len(group) == 1:
                group[0][1].set_exception(error)
                return
            for write in group:  # one may have spoilt it for the others
                self._commit_or_fail([write])

    def _write_intents(self, connection: Connection, batch: Sequence[Intent]) -> list[Answer]:
        answers = write_intents(connection, batch)
        self._open_ids.update(answer.intent_id for answer in answers if isinstance(answer, Accepted))
        return answers

    def _commit(self, group: Sequence[_Write]) -> None:
        if self._engine is None:
            raise LedgerUnavailableError("the ledger is closed")
        try:
            owed = len(self._owed)
            with self._engine.begin() as connection:
                for intent_ids, reason in self._owed[:owed]:
                    void_intents(connection, intent_ids, reason, time.time_ns() // 1000)
                results = [work(connection) for work, _ in group]
                if self._open_ids:
                    note_closed(connection, min(self._open_ids))
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DatabaseError) else error
            raise LedgerUnavailableError(f"the ledger {self._path} can't be written: {cause}") from error
        del self._owed[:owed]
        for (_, done), result in zip(group, results, strict=True):
            done.set_result(result)

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                self._path.with_name(self._path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Made here, so that it is ours alone to read whatever the umask.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)  # SQLite makes the content durable; the name is ours to
            finally:
                os.close(folder)
        except BlockingIOError:
            raise ConfigError(
                f"another daemon holds the ledger {self._path}",
                hint="One daemon runs on one SQLite ledger. Stop the other one, or give this one its own.",
            ) from None
        except OSError as error:
            raise ConfigError(f"the ledger {self._path} can't be used: {error.strerror}") from None
        self._engine = open_engine(self._path)
        try:
            with self._engine.begin() as connection:
                migrate(connection)
                issuer = issuer_of(connection)
        except SQLAlchemyError as error:
            raise ConfigError(f"{self._path} is no ledger, or can't be written: {error}") from error
        except CommandError as error:
            raise ConfigError(
                f"the ledger {self._path} has a schema that this otahsm doesn't know: {error}",
                hint="It was made by a newer version: run that one, or a newer one still.",
            ) from error
        if issuer is not None and issuer != self._issuer_key_id:
            # A certificate that is asked for again would come with the chain of a CA that did not sign it.
            raise ConfigError(
                f"the ledger {self._path} holds certificates of another CA, {issuer.hex(':')}",
                hint="Give each CA a ledger of its own: change [ledger] path, or [ca] back.",
            )
        now = time.time_ns() // 1000
        reason = "the daemon stopped before the certificate was recorded"
        with self._engine.begin() as connection:
            voided = void_all_open(connection, reason, now)
        self._checkpointer = Checkpointer(self._path)
        return voided

    def _close(self) -> None:
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_engine(path: Path) -> Engine:
    """Open a ledger's file, making it if it is missing, with all that durability needs."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # What is read and what is then written is one thing (I3): take the write lock at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a version, by default the newest, inside the connection's transaction."""
    configuration = AlembicConfig()
    configuration.set_main_option("script_location", "otahsm.ledger:migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, revision)
