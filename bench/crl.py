"""Measures a CRL of a large ledger: revoking, making, writing, fetching; and what it costs in memory.

    .venv/bin/python bench/crl.py                         # 1,000,000 certificates, 50,000 of them revoked
    .venv/bin/python bench/crl.py --issued 100000 --revoked 1000 --shards 16

It makes its own token and everything else in a temporary folder inside the current one: the disk counts. The
certificates are made up (see fill_ledger.py), so all of them are on the complete CRL, and on no shard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from otahsm.bench.processes import peak_mebibytes
from otahsm.client import Client, ClientTls, Revoked, ToRevoke
from otahsm.config import Config, load_config, section
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber
from otahsm.quickstart import create

from fill_ledger import fill

CRL: Final = """
[crl]
url = "http://crl.example.com/{name}.crl"
shards = {shards}
directory = "crl"
"""


def say(what: str, seen: str) -> None:
    """Print one row."""
    print(f"| {what} | {seen} |", flush=True)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Measure the CRL of a large ledger.")
    parser.add_argument("--issued", type=int, default=1_000_000)
    parser.add_argument("--revoked", type=int, default=50_000)
    parser.add_argument("--shards", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        folder = Path(name, "fleet")
        create(folder, 0)
        toml = folder / "otahsm.toml"
        url = "fleet" if arguments.shards == 1 else "fleet-{shard}"
        toml.write_text(toml.read_text() + CRL.format(name=url, shards=arguments.shards))
        lift_quotas(folder / "policy.toml")
        config = load_config(toml)
        fill(config, arguments.issued)
        with daemon(folder) as (process, log):
            target = f"localhost:{wait_for(log, 'daemon.listening')['address'].rpartition(':')[2]}"
            wait_for(log, "crl.made")
            asyncio.run(measure(config, target, log, process.pid, arguments.revoked))


def lift_quotas(policy: Path) -> None:
    """Let the client revoke that many in a day."""
    text = policy.read_text().replace("\nroles = [", "\nacts_per_day = 1000000\nroles = [", 1)
    policy.write_text(f"acts_per_day = 1000000\n{text}")


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a daemon; yield it, and its log."""
    command = (sys.executable, "-P", "-m", "otahsm", "serve")
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        yield process, process.stderr
        process.terminate()


def wait_for(log: IO[str], event: str, **fields: object) -> dict[str, Any]:
    """Read the log until an event comes."""
    for line in log:
        record: dict[str, Any] = json.loads(line)
        if record["event"] == event and fields.items() <= record.items():
            return record
        if record["level"] == "error":
            raise SystemExit(line)
    raise SystemExit(f"the daemon ended before {event}")


async def measure(config: Config, target: str, log: IO[str], pid: int, count: int) -> None:
    """Revoke all but one, and then the last one, whose CRL is timed."""
    client = section(config.client, "client")
    ledger = section(config.ledger, "ledger")
    assert ledger.path is not None  # noqa: S101 - quickstart's is a file
    with closing(sqlite3.connect(ledger.path)) as database:
        serials = [SerialNumber.from_key(row[0]) for row in database.execute("SELECT serial FROM intents")]
    chosen = random.sample(serials, count)
    say("memory of the daemon before", f"{peak_mebibytes(pid):.0f} MiB at most")
    tls = ClientTls(client.ca, client.certificate, client.key)
    async with Client(target, tls) as revoking:
        began = time.perf_counter()
        await revoke(revoking, chosen[:-1])
        seconds = time.perf_counter() - began
        say(f"revoking {count - 1:,}, 256 a call", f"{seconds:.1f} s, CRLs being made meanwhile")
        await asyncio.to_thread(wait_for, log, "crl.made", revoked=count - 1)
        await asyncio.sleep(5)  # idle
        began = time.perf_counter()
        await revoke(revoking, chosen[-1:])
        say("revoking one more", f"{1000 * (time.perf_counter() - began):.0f} ms")
        await asyncio.to_thread(wait_for, log, "crl.made", revoked=count)
        say(f"from asking to the signed CRL of {count:,}", f"{time.perf_counter() - began:.2f} s")
        await asyncio.to_thread(wait_for, log, "crl.written", revoked=count)
        say("and to its last file, on the disk", f"{time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        fetched = await revoking.revocation.crl()
        say(f"fetching it ({len(fetched.der) / 2**20:.2f} MiB)", f"{time.perf_counter() - began:.2f} s")
    say("memory of the daemon", f"{peak_mebibytes(pid):.0f} MiB at most")


async def revoke(client: Client, serials: list[SerialNumber]) -> None:
    """Revoke certificates."""
    async for outcome in client.revocation.revoke(
        (ToRevoke(serial=serial) for serial in serials), Reason.SUPERSEDED
    ):
        if not isinstance(outcome, Revoked):
            raise SystemExit(f"{outcome}")


if __name__ == "__main__":
    main()
