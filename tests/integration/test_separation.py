"""I8: the process that faces the network has neither PIN nor token, and parses no CSR."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.devices import issue_all, new_requests
from support.harness import RunningDaemon


def mapped_files(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def memory_holds(pid: int, secret: bytes) -> bool:
    """Search a process's private memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in mapped_files(pid).splitlines():
            addresses, mode, *_ = line.split()
            if not mode.startswith("rw") or "[vvar]" in line:
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            memory.seek(start)
            try:
                if secret in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


async def test_only_signers_load_the_module_and_hold_the_pin(daemon: RunningDaemon) -> None:
    daemon.wait_for("signer.ready")
    async with daemon.client() as client:
        issued, _ = await issue_all(client, new_requests(100))
    assert len(issued) == 100
    pin = (daemon.fleet.folder / "secrets/pin").read_bytes().strip()
    signers, preparers = daemon.signers(), daemon.preparers()
    assert (len(signers), len(preparers)) == (1, 1)
    if os.geteuid() != 0:  # none of them is dumpable, so only root may look inside
        for pid in (daemon.process.pid, *preparers, *signers):
            with pytest.raises(PermissionError):
                mapped_files(pid)
        return
    for pid in (daemon.process.pid, *preparers):
        assert "softhsm" not in mapped_files(pid)
        assert "pkcs11" not in mapped_files(pid)
        assert not memory_holds(pid, pin)
    assert memory_holds(daemon.process.pid, b"otahsm-quickstart")  # the search does find what is there
    for pid in signers:
        assert "softhsm" in mapped_files(pid)
