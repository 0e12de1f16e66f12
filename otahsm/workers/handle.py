"""The daemon's handle on a worker process: its two streams, and how to kill it."""

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
    """A child process, or a process at a socket.

    Attributes:
        reader: its responses.
        writer: its requests.
        name: its name in errors.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str

    @property
    def gone(self) -> bool:
        """Whether it is known to have exited."""

    def kill(self) -> None:
        """Kill it; `ended` waits for its exit."""

    async def ended(self) -> str:
        """Wait for its exit; return a message about it. May be called repeatedly, and cancelled."""


class Child:
    """A child process of the daemon, with pipes.

    Args:
        process: the process.
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
        """Whether it is known to have exited."""
        return self._process.returncode is not None

    def kill(self) -> None:
        """Kill it."""
        # Not process.kill(): that polls the process, and so takes its exit status from the waiting task.
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self) -> str:
        """Wait for its exit; return a message with the status."""
        status = await self._process.wait()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return f"{self.name} exited with {status}"


class Connection:
    """A process at the other end of a socket, started by systemd. It exits with the connection.

    Args:
        reader: reads from the connection.
        writer: writes to it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.name = "the process at the socket"
        # Cancelling wait_closed() would cancel it for all waiters.
        self._closed = asyncio.create_task(self._wait_closed())

    @property
    def gone(self) -> bool:
        """Whether the connection is being closed."""
        return self.writer.is_closing()

    def kill(self) -> None:
        """Abort the connection: a thread of the process detects that, even if another hangs."""
        self.writer.transport.abort()

    async def ended(self) -> str:
        """Wait until the connection is closed."""
        await asyncio.wait({self._closed})
        return f"the connection to {self.name} was closed"

    async def _wait_closed(self) -> None:
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def start_child(command: Sequence[str], environment: Mapping[str, str]) -> Child:
    """Start a worker. Raises WorkerLostError if it can't be started or watched."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise WorkerLostError(f"can't start a process: {error.strerror}") from error
    try:
        return Child(process)
    except OSError as error:  # such as too many open files
        process.kill()
        await process.wait()
        raise WorkerLostError(f"can't watch a process: {error.strerror}") from error


async def connect(path: Path, unit: str) -> Connection:
    """Connect to a unit's socket, where systemd starts a worker. Raises WorkerLostError if that fails."""
    try:
        return Connection(*await asyncio.open_unix_connection(path))
    except OSError as error:
        raise WorkerLostError(
            f"can't connect to the socket {path}: {error.strerror}",
            hint=f"Check that {unit} is active, and that this user may connect.",
        ) from error
