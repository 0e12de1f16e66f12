"""A running worker, as the daemon holds on to it: its two streams, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from otahsm.errors import WorkerLostError


class WorkerHandle(Protocol):
    """A worker of either kind.

    Attributes:
        reader: what it answers.
        writer: what it is asked.
        name: what errors call it.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""

    def kill(self) -> None:
        """Have it end; `ended` waits for that."""

    async def ended(self) -> str:
        """Wait until it is gone; return how it went. May be called again, and cancelled."""


class Child:
    """A process that the daemon started, with pipes.

    Args:
        process: it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 - both are pipes, always
        assert process.stdout is not None  # noqa: S101
        self.reader, self.writer = process.stdout, process.stdin
        self.name = f"process {process.pid}"
        self.pid = process.pid
        self._process = process
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it may be gone already
            self._handle = os.pidfd_open(process.pid)

    @property
    def gone(self) -> bool:
        """Whether it was seen to end."""
        return self._process.returncode is not None

    def kill(self) -> None:
        """Let the kernel end it."""
        # Not process.kill(): that looks after the process, and takes its end away from who waits for it.
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self) -> str:
        """Wait for its exit status."""
        status = await self._process.wait()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return f"{self.name} exited with {status}"


class Connection:
    """A process that somebody else started, at the other end of a socket. It ends with the connection.

    Args:
        reader: the connection.
        writer: it, too.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.name = "the process at the socket"
        # Who cancels wait_closed() cancels it for all.
        self._closed = asyncio.create_task(self._wait_closed())

    @property
    def gone(self) -> bool:
        """Whether the connection is being closed."""
        return self.writer.is_closing()

    def kill(self) -> None:
        """Close the connection at once: the process has a thread that looks for that, whatever hangs."""
        self.writer.transport.abort()

    async def ended(self) -> str:
        """Wait until the connection is closed."""
        await asyncio.wait({self._closed})
        return f"the connection to {self.name} ended"

    async def _wait_closed(self) -> None:
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def start_child(
    command: Sequence[str], environment: Mapping[str, str], inherit: Sequence[int]
) -> Child:
    """Start a worker. Raises WorkerLostError if it can't be started, or not be watched."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            pass_fds=inherit,
        )
    except OSError as error:
        raise WorkerLostError(f"a process could not be started: {error}") from error
    try:
        return Child(process)
    except OSError as error:  # no descriptor is free, say
        process.kill()
        await process.wait()
        raise WorkerLostError(f"a process could not be watched: {error}") from error


async def connect(path: Path) -> Connection:
    """Have a worker started by who listens at a socket. Raises WorkerLostError if nobody does."""
    try:
        return Connection(*await asyncio.open_unix_connection(path))
    except OSError as error:
        raise WorkerLostError(
            f"the socket {path} can't be connected to: {error.strerror}",
            hint="See that otahsm-signer.socket is active, and lets this user connect.",
        ) from error
