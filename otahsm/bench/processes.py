"""A daemon for a benchmark, and the resource use of its processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.bench.results import ProcessUse
from otahsm.errors import ConfigError, OtahsmError

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_READY_SECONDS: Final = 120.0
_KINDS: Final = {"otahsm.token.signer": "signers", "otahsm.preparation.preparer": "preparers"}


class Daemon(NamedTuple):
    """A running daemon."""

    address: str
    pid: int
    seconds_to_serving: float

    def processes(self) -> dict[int, str]:
        """Return the kind of each process: the daemon, its workers, and ours, which is the client."""
        kinds = {self.pid: "daemon", os.getpid(): "client"}
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        for pid in map(int, children.split()):
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            kinds[pid] = next((kind for module, kind in _KINDS.items() if module in command), "others")
        return kinds


class Meter:
    """Measures the resource use of processes between two moments.

    Args:
        kinds: the kind of each process, by its id.
    """

    def __init__(self, kinds: Mapping[int, str]) -> None:
        self._kinds = dict(kinds)
        self._before = {pid: _processor_seconds(pid) for pid in kinds}

    def use(self, certificates: int) -> dict[str, ProcessUse]:
        """Return the use since the start, by kind."""
        result: dict[str, ProcessUse] = {}
        for pid, kind in self._kinds.items():
            seconds = _processor_seconds(pid) - self._before[pid]
            so_far = result.get(kind, ProcessUse(0, 0.0, 0.0))
            result[kind] = ProcessUse(
                so_far.processes + 1,
                so_far.microseconds_per_certificate + 1e6 * seconds / certificates,
                max(so_far.peak_mebibytes, peak_mebibytes(pid)),
            )
        return result


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK  # utime and stime of proc(5)


def peak_mebibytes(pid: int) -> float:
    """Return the peak memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@asynccontextmanager
async def daemon(config: Path, signers: int) -> AsyncIterator[Daemon]:
    """Run `otahsm serve` with a configuration; the block starts when all its signers are ready.

    Raises:
        OtahsmError: it does not become ready; the message is the daemon's.
    """
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "otahsm", "serve", "--config", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None  # noqa: S101 - it is a pipe, always
    rest: asyncio.Task[None] | None = None
    try:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                address, seconds = await _until_ready(process.stderr, signers, began)
        except TimeoutError:
            raise OtahsmError(f"the daemon was not ready within {_READY_SECONDS:g} s", hint="") from None
        rest = asyncio.create_task(_read_on(process.stderr))
        yield Daemon(address, process.pid, seconds)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        if rest is not None:
            await rest


async def _until_ready(log: asyncio.StreamReader, signers: int, began: float) -> tuple[str, float]:
    address, ready, seconds = "", 0, 0.0
    output: list[str] = []
    while line := await log.readline():
        try:
            event = json.loads(line)
        except ValueError:
            output.append(line.decode(errors="replace").strip())
            continue
        if event["event"] == "daemon.listening":
            address = event["address"]
        if event["event"] == "health.changed" and event["serving"]:
            seconds = time.monotonic() - began
        ready += event["event"] == "signer.ready"
        if event["level"] == "error":
            output = [event.get("message", event["event"])]
        if address and seconds and ready == signers:
            return address, seconds
    raise ConfigError(
        f"the daemon of the bench ended: {' '.join(output)}", hint="Does `otahsm serve` run with this file?"
    )


async def _read_on(log: asyncio.StreamReader) -> None:
    """Discard the daemon's output: a full pipe would block it."""
    while await log.readline():
        pass
