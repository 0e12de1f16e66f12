"""The audit trail: what was decided and done, in the ledger's log, where nobody can change it unseen.

What is decided thousands of times a second is not written thousands of times: of what is the same (event,
client, and what it is about) the first is written at once, and what follows within `WINDOW` seconds is
counted, and written once at its end. So no client can fill the disk, and no decision goes uncounted.

Certificates and revocations are leaves of the log themselves, each with the client that asked: they are not
written a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import AuditEvent, Ledger
from otahsm.system.spool import SpooledEvent

WINDOW: Final = 60.0  # seconds

_KEPT: Final = 10_000  # events that wait for a ledger that can't be written
_AT_ONCE: Final = 256  # in one transaction
_OPEN_KINDS: Final = 10_000  # that are counted at once
_PAUSE: Final = 1.0  # seconds

Tell = Callable[[str, Mapping[str, int | str]], None]


class EventName(StrEnum):
    """Everything that events tell of."""

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
    BATCH_CREATED = "batch.created"
    BATCH_CLOSED = "batch.closed"
    DEVICE_RESET = "device.reset"
    EVENTS_LOST = "events.lost"


class _Kind(NamedTuple):
    """What is counted as the same."""

    name: EventName
    client: str
    about: tuple[tuple[str, str], ...]


class _Count:
    """What followed the first of a kind."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.more = 0


class AuditLog:
    """Takes down what happens; never makes anybody wait, and never fails.

    Args:
        ledger: where it is written.
        tell: called with each event as it is, for the log.
    """

    def __init__(self, ledger: Ledger, tell: Tell) -> None:
        self._ledger = ledger
        self._tell = tell
        self._waiting: deque[AuditEvent] = deque()
        self._lost = 0
        self._counts: dict[_Kind, _Count] = {}
        self._arrived = asyncio.Event()

    def note(
        self, name: EventName, client: str, details: Mapping[str, int | str], *, told: bool = False
    ) -> None:
        """Take down that something was done.

        Args:
            name: what.
            client: whose doing it was.
            details: what else there is to say; never a secret.
            told: whether the daemon's log says it already.
        """
        self._put(name, client, 1, details, told=told)

    def count(self, name: EventName, client: str, about: Mapping[str, str], **details: int | str) -> None:
        """Take down that something happened which may happen very often.

        Args:
            name: what.
            client: whose doing it was.
            about: what tells it from others of that name and client; of a small number of values.
            details: what else there is to say of the first one; never a secret.
        """
        kind = _Kind(name, client, tuple(sorted(about.items())))
        count = self._counts.get(kind)
        if count is not None:
            count.more += 1
            return
        if len(self._counts) < _OPEN_KINDS:
            self._counts[kind] = _Count(time.monotonic() + WINDOW)
        self._put(name, client, 1, {**about, **details})

    def done(self, event: AuditEvent) -> None:
        """Say in the log what was written along with something else."""
        details: Mapping[str, int | str] = json.loads(event.details)
        self._tell(event.name, {"client": event.client, **details, "audit": 1})

    def event(self, name: EventName, client: str, details: Mapping[str, int | str]) -> AuditEvent:
        """Return the event that something happened just now, for who writes it along with something else."""
        return _event(name, client, 1, details)

    async def run(self) -> None:
        """Write what is taken down, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self._arrived.wait()
            self._arrived.clear()
            self._close_windows(time.monotonic())
            try:
                await self._write()
            except LedgerUnavailableError:
                await asyncio.sleep(_PAUSE)

    async def take_in(self, left: Sequence[SpooledEvent]) -> None:
        """Write what other processes left for the log. Raises LedgerUnavailableError."""
        events = []
        for item in left:
            self._tell(item.name, {"client": item.client, **item.details, "audit": 1})
            events.append(AuditEvent(item.at, item.name, item.client, 1, _canonical(item.details)))
        await self._ledger.write_events(events)

    async def close(self) -> None:
        """Write what there is, if that can be done."""
        self._close_windows(float("inf"))
        with contextlib.suppress(LedgerUnavailableError):
            await self._write()

    def _close_windows(self, now: float) -> None:
        for kind, count in list(self._counts.items()):
            if count.until > now:
                break  # they are in the order of their ends
            del self._counts[kind]
            if count.more:
                self._put(kind.name, kind.client, count.more, dict(kind.about))

    def _put(
        self,
        name: EventName,
        client: str,
        occurrences: int,
        details: Mapping[str, int | str],
        *,
        told: bool = False,
    ) -> None:
        if not told:
            self._tell(name, {"client": client, "occurrences": occurrences, **details, "audit": 1})
        if len(self._waiting) >= _KEPT:
            self._lost += occurrences
            return
        self._waiting.append(_event(name, client, occurrences, details))
        self._arrived.set()

    async def _write(self) -> None:
        while self._waiting or self._lost:
            chunk = list(self._waiting)[:_AT_ONCE]
            lost = self._lost
            if lost:
                chunk.append(_event(EventName.EVENTS_LOST, "daemon", lost, {}))
            await self._ledger.write_events(chunk)
            self._lost -= lost
            for _ in range(len(chunk) - bool(lost)):
                self._waiting.popleft()


def _event(name: EventName, client: str, occurrences: int, details: Mapping[str, int | str]) -> AuditEvent:
    return AuditEvent(time.time_ns() // 1000, name.value, client, occurrences, _canonical(details))


def _canonical(details: Mapping[str, int | str]) -> str:
    """Write RFC 8785 for what is here: members sorted, no spaces, short integers, characters as they are."""
    return json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
