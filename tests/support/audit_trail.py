"""The audit log of a running daemon."""

from __future__ import annotations

import asyncio

from otahsm.client import AuditEvent, AuditQuery, Client

from support.harness import READY_SECONDS, RunningDaemon


async def trail(daemon: RunningDaemon, query: AuditQuery | None = None) -> list[AuditEvent]:
    async with Client(daemon.address, daemon.fleet.tls, patience=10) as client:
        return [event async for event in client.access.events(query or AuditQuery())]


async def until(daemon: RunningDaemon, name: str, count: int = 1) -> list[AuditEvent]:
    """Wait until there are so many events of a name."""
    async with asyncio.timeout(READY_SECONDS):
        while len(found := await trail(daemon, AuditQuery(name))) < count:
            await asyncio.sleep(0.1)
    return found
