"""The audit log: decisions and changes, in the ledger's transparency log, where any tampering is detected.

Frequent events are summarised: the first of a kind (event, client and subject) is written at once;
repetitions within `WINDOW` seconds are counted, and written as one event after that. So no client can fill
the disk, and every decision is counted.

Certificates and revocations are leaves of the log themselves, with the client that requested them, and are
not written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import AuditEvent, Ledger
from otahsm.system.clock import Clock, microseconds
from otahsm.system.event_log import EventLogger
from otahsm.system.spool import SpooledEvent, storable
from otahsm.tlog import canonical

WINDOW: Final = 60.0  # seconds

_KEPT: Final = 10_000  # events queued while the ledger can't be written
_AT_ONCE: Final = 256  # events per transaction
_OPEN_KINDS: Final = 10_000  # kinds that are counted at a time
_MAX_DETAIL: Final = 4096  # characters; longer texts would make pages of events too large to be read
_ATTEMPTS: Final = 2  # to write an event before it is considered invalid
# Errors of a write: the ledger's own, and drivers' errors about values that they don't accept.
_REFUSALS: Final = (LedgerUnavailableError, ValueError, OverflowError)


class EventName(StrEnum):
    """The names of all events."""

    ACCESS_ALLOWED = "access.allowed"
    ACCESS_DENIED = "access.denied"
    REQUEST_DENIED = "request.denied"
    CLIENT_CUT_OFF = "client.cut_off"
    CLIENT_LET_IN = "client.let_in"
    POLICY_LOADED = "policy.loaded"
    POLICY_REFUSED = "policy.refused"
    TLS_LOADED = "tls.loaded"
    TLS_REFUSED = "tls.refused"
    CRL_LOADED = "crl.loaded"
    CRL_REFUSED = "crl.refused"
    DAEMON_STARTED = "daemon.started"
    DAEMON_STOPPED = "daemon.stopped"
    SIGNER_READY = "signer.ready"
    SIGNER_LOST = "signer.lost"
    PREPARER_LOST = "preparer.lost"
    SIGNING_REFUSED = "signing.refused"
    BATCH_CREATED = "batch.created"
    BATCH_CLOSED = "batch.closed"
    DEVICE_RESET = "device.reset"
    ACT_HELD = "act.held"
    ACT_CONFIRMED = "act.confirmed"
    ACT_REJECTED = "act.rejected"
    QUOTA_CORRECTED = "quota.corrected"
    QUOTA_RESET = "quota.reset"
    EVENTS_LOST = "events.lost"
    SPOOL_UNREADABLE = "spool.unreadable"
    ENTRIES_ACCEPTED = "entries.accepted"


class _Kind(NamedTuple):
    """Events of one kind are counted together."""

    name: EventName
    client: str
    about: tuple[tuple[str, str], ...]


class _Count:
    """The number of repetitions of a kind in its window, and the time of the last."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.more = 0
        self.last_at: datetime | None = None


class AuditLog:
    """Records audit events. `note` and `count` never block and never fail.

    Args:
        ledger: where events are written.
        log_event: called with each event, for the daemon's log.
        clock: the time of events.

    Attributes:
        arrived: set when there is something to write.
    """

    def __init__(self, ledger: Ledger, log_event: EventLogger, clock: Clock) -> None:
        self._ledger = ledger
        self._log_event = log_event
        self._clock = clock
        self._waiting: deque[AuditEvent] = deque()
        self._lost = 0
        self._counts: dict[_Kind, _Count] = {}
        self._writing = asyncio.Lock()
        self.arrived = asyncio.Event()

    def note(
        self,
        name: EventName,
        client: str,
        details: Mapping[str, int | str],
        *,
        occurrences: int = 1,
        at: datetime | None = None,
        is_logged: bool = False,
    ) -> None:
        """Record an event.

        Args:
            name: the event.
            client: the client that caused it.
            details: further details; never a secret.
            occurrences: how often it happened.
            at: when it last happened; None for now.
            is_logged: whether the daemon's log already has it.
        """
        if not is_logged:
            self._log_event(name, {"client": client, "occurrences": occurrences, **details, "audit": 1})
        if len(self._waiting) >= _KEPT:
            self._lost += occurrences
            return
        self._waiting.append(self.event(name, client, details, occurrences, at))
        self.arrived.set()

    def count(self, name: EventName, client: str, about: Mapping[str, str], **details: int | str) -> None:
        """Record an event that may be very frequent.

        Args:
            name: the event.
            client: the client that caused it.
            about: the subject; only events with the same subject are counted together.
            details: further details of the first event; never a secret.
        """
        kind = _Kind(name, client, tuple(sorted(about.items())))
        count = self._counts.get(kind)
        if count is not None:
            count.more += 1
            count.last_at = self._clock()
            return
        if len(self._counts) < _OPEN_KINDS:
            self._counts[kind] = _Count(time.monotonic() + WINDOW)
        self.note(name, client, {**about, **details})

    def done(self, event: AuditEvent | None) -> None:
        """Log an event that was written in the transaction of its change; None if nothing changed."""
        if event is None:
            return
        details: Mapping[str, int | str] = json.loads(event.details)
        self._log_event(event.name, {"client": event.client, **details, "audit": 1})

    def event(
        self,
        name: EventName,
        client: str,
        details: Mapping[str, int | str],
        occurrences: int = 1,
        at: datetime | None = None,
    ) -> AuditEvent:
        """Return an event, by default of now, to be written in the transaction of its change."""
        # Untrusted: the client's name is from its certificate, and details may be from its request.
        texts = {key: _bounded(value) if isinstance(value, str) else value for key, value in details.items()}
        moment = microseconds(at or self._clock())
        return AuditEvent(moment, name.value, storable(client), occurrences, canonical(texts))

    async def record(self, name: EventName, client: str, details: Mapping[str, int | str]) -> None:
        """Record an event durably. Raises LedgerUnavailableError."""
        await self._ledger.write_events([self.event(name, client, details)])

    async def write(self) -> None:
        """Write the queued events. Raises LedgerUnavailableError: the rest stays queued."""
        self._close_windows(time.monotonic())
        while self._waiting or self._lost:
            # Shielded, so that events that were written are dequeued even if this is cancelled.
            await asyncio.shield(self._write_some())

    async def take_in(self, left: Sequence[SpooledEvent]) -> list[SpooledEvent]:
        """Write events that other processes spooled; return those that the ledger refuses.

        Raises:
            LedgerUnavailableError: it is not known whether anything was written.
        """
        events = [AuditEvent(item.at, item.name, item.client, 1, canonical(item.details)) for item in left]
        refused = await self._write_or_refuse(events)
        for at, item in enumerate(left):
            if at not in refused:
                self._log_event(item.name, {"client": item.client, **item.details, "audit": 1})
        return [left[at] for at in refused]

    async def close(self) -> None:
        """Write the queued events, if possible."""
        self._close_windows(float("inf"))
        with contextlib.suppress(LedgerUnavailableError):
            await self.write()

    def _close_windows(self, now: float) -> None:
        for kind, count in list(self._counts.items()):
            if count.until > now:
                break  # they are in order of their ends
            del self._counts[kind]
            if count.more:
                about = dict(kind.about)
                self.note(kind.name, kind.client, about, occurrences=count.more, at=count.last_at)

    async def _write_some(self) -> None:
        async with self._writing:
            chunk, lost = list(self._waiting)[:_AT_ONCE], self._lost
            more = [self.event(EventName.EVENTS_LOST, "daemon", {}, lost)] if lost else []
            refused = await self._write_or_refuse([*chunk, *more])
            self._lost += sum(chunk[at].occurrences for at in refused if at < len(chunk)) - lost
            for _ in chunk:
                self._waiting.popleft()

    async def _write_or_refuse(self, events: Sequence[AuditEvent]) -> list[int]:
        """Write events; return the positions of those that the ledger refuses individually.

        Raises:
            LedgerUnavailableError: the ledger accepts no events at all.
        """
        if not events:
            return []
        try:
            await self._ledger.write_events(events)
        except _REFUSALS:
            await self._ledger.write_events([])  # raises if it accepts nothing
            return [at for at, event in enumerate(events) if await self._is_refused(event)]
        return []

    async def _is_refused(self, event: AuditEvent) -> bool:
        """Write one event; return whether that fails because of the event, not because of the ledger."""
        for _ in range(_ATTEMPTS):
            try:
                await self._ledger.write_events([event])
            except _REFUSALS:
                await self._ledger.write_events([])
            else:
                return False
        return True


def _bounded(text: str) -> str:
    """Return a text that every database accepts, and whose event can be read with others in one message."""
    kept = storable(text[:_MAX_DETAIL])[:_MAX_DETAIL]
    return kept if len(text) <= _MAX_DETAIL else f"{kept}... ({len(text)} characters)"
