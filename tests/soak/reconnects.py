"""Breaks the daemon's session with the token again and again, and sees what it leaves behind: nothing.

    PYTHONPATH=tests .venv/bin/python -m soak.reconnects 1000

A short form runs in the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from otahsm.client import IssuedCertificate
from otahsm.quickstart import create

from support.devices import new_request
from support.harness import Fleet, RunningDaemon, eventually, free_port, resident_bytes, running
from support.ledger_reader import certificates
from support.tokens.faulty import FaultyToken, behind_shim, compile_shim


class Left(NamedTuple):
    """What a daemon has: open files, children, and how often the token was logged in to.

    Without the ledger's files: its connections open when they are needed first, and stay.
    """

    files: int
    children: int
    logins: int


def look(faulty: FaultyToken, daemon: RunningDaemon) -> Left:
    files = 0
    for descriptor in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            files += not descriptor.readlink().is_relative_to(faulty.fleet.folder / "ledger")
    return Left(files, len(daemon.children()), faulty.calls("login"))


def lost(daemon: RunningDaemon) -> int:
    """Return how many signers lost their session while they served."""
    return sum(event["event"] == "signer.lost" for event in daemon.events)


def failed(daemon: RunningDaemon) -> int:
    """Return how many signers lost their session while they started."""
    return sum(event["event"] == "signer.failed" for event in daemon.events)


async def reconnect(faulty: FaultyToken, times: int) -> str:
    """Lose a session so many times under a client that never notices; return a line that says how it went."""
    took = []
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("preparer.ready")
        eventually(lambda: len(daemon.preparers()) == faulty.fleet.config.issuance.preparers, "no preparers")
        async with daemon.client(patience=60) as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
            first, memory = look(faulty, daemon), resident_bytes(daemon.process.pid)
            for _ in range(times):
                faulty.misbehave("C_Sign=0xB3", "once")  # CKR_SESSION_HANDLE_INVALID
                began = time.monotonic()
                result = await client.issuance.issue_one(new_request().csr)
                assert isinstance(result, IssuedCertificate)
                took.append(time.monotonic() - began)
        # A signer that is only starting signs too, and may be the one whose session is lost.
        eventually(lambda: lost(daemon) + failed(daemon) >= times, "not every session was lost")
        count = lost(daemon)
        daemon.wait_for("signer.ready", count=2 + count)
        eventually(
            lambda: look(faulty, daemon).files <= first.files and len(daemon.children()) == first.children,
            lambda: f"something is left behind: {first} became {look(faulty, daemon)}",
        )
        last, grown = look(faulty, daemon), resident_bytes(daemon.process.pid) - memory
        assert lost(daemon) + failed(daemon) == times
        assert last.logins - first.logins == times  # one for each, and no more
        assert daemon.stop() == 0
    assert len(certificates(faulty.fleet)) == times + 1
    return (
        f"{times} sessions lost and replaced, {times - count} of them at the start; {times + 1} certificates;"
        f" {last.files} files and {last.children} processes as before, {times} logins; the daemon's memory"
        f" grew by {grown / (1 << 20):.1f} MiB; a client waited {statistics.median(took):.2f} s at median,"
        f" {max(took):.2f} s at most"
    )


def main() -> None:
    times = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="storm-", dir=Path.cwd()) as name:
        folder = Path(name)
        create(folder / "fleet", free_port())
        with behind_shim(Fleet(folder / "fleet"), compile_shim(folder)) as faulty:
            print(asyncio.run(reconnect(faulty, times)))


if __name__ == "__main__":
    main()
