"""A TCP proxy that counts the connections that it passes on."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator


class CountingProxy:
    """Passes on to a daemon what comes on a port of its own, and back.

    Attributes:
        address: where it listens.
        connections: how many it has accepted.
    """

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.address = ""
        self.connections = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        async with await asyncio.start_server(self._pass_on, "127.0.0.1", 0) as server:
            self.address = f"localhost:{server.sockets[0].getsockname()[1]}"
            yield

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
