"""Measures a well-behaved client beside 200 hostile connections, on loopback, on a daemon of its own.

    .venv/bin/python bench/under_attack.py                      # three rounds without and with
    .venv/bin/python bench/under_attack.py --rounds 1 --certificates 5000

Forty connections each of: half-open TLS handshakes, streams that write an octet at a time, messages of
4 GiB, octets that are no protobuf, and calls that are cancelled as soon as they are opened. The attackers
have a certificate of their own, of a client that the policy lets in, and are one process of lowest priority
(nice 19), paced: they share the machine's cores with daemon, token and client, and what is measured is the
daemon, not the scheduler. Processor time a certificate is measured too, which other work on the machine
changes less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Final

from otahsm.bench import LoadPlan, bench_issue
from otahsm.bench.processes import Meter, peak_mebibytes
from otahsm.client import ClientTls
from otahsm.config import Config, load_config
from otahsm.quickstart import create

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.attacks.attackers import NAMED, Attacker
from support.harness import Fleet
from support.operators import new_client

CONNECTIONS: Final = 200
PACE: Final = 1.0  # steps a second of each connection
LOWEST: Final = 19
ALONE: Final = 5.0  # seconds


def say(what: str, seen: str) -> None:
    """Print one row."""
    print(f"| {what} | {seen} |", flush=True)


class Attack:
    """Runs the attackers in threads, until it gets the order to stop."""

    def __init__(self, address: str, tls: ClientTls, pace: float) -> None:
        self._pace = pace
        self._over = threading.Event()
        self.steps: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(NAMED[number % len(NAMED)](address, tls), number))
            for number in range(CONNECTIONS)
        ]

    def _run(self, attacker: Attacker, number: int) -> None:
        self._over.wait(number / CONNECTIONS / self._pace)  # not all at once
        while not self._over.is_set():
            began = time.monotonic()
            try:
                attacker.step()
            except OSError:
                self.steps["refused connections"] += 1
            else:
                self.steps[type(attacker).__name__] += 1
            self._over.wait(max(0.0, 1 / self._pace - (time.monotonic() - began)))
        attacker.close()

    def run(self) -> None:
        """Attack until a line comes from standard input; print what was done."""
        os.nice(LOWEST)
        began = time.monotonic()
        for thread in self._threads:
            thread.start()
        print("attacking", flush=True)
        sys.stdin.readline()
        seconds = time.monotonic() - began
        rates = {name: count / seconds for name, count in self.steps.items()}
        self._over.set()
        for thread in self._threads:
            thread.join()
        print(json.dumps(rates), flush=True)


class Attackers:
    """The process that attacks, between `begin` and `end`."""

    def __init__(self, address: str, tls: ClientTls, pace: float) -> None:
        files = (str(tls.ca), str(tls.certificate), str(tls.key))
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--attack", address, *files, "--pace", str(pace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self._process.stdout.readline()

    def end(self) -> dict[str, float]:
        """Stop; return how many steps a second each kind made."""
        output, _ = self._process.communicate("\n")
        rates: dict[str, float] = json.loads(output)
        return rates


async def measure(config: Config, tls: ClientTls, arguments: argparse.Namespace) -> None:
    """Measure without and with attackers, in turns."""
    without, under, costs = [], [], []
    spent: dict[bool, list[float]] = {False: [], True: []}
    async with bench_issue(config, "ec-p256") as bench:
        plan = LoadPlan(arguments.certificates)
        await bench.run(plan)  # warm
        quiet = peak_mebibytes(bench.running.pid)
        for _ in range(arguments.diagnostics):
            result = await bench.run(plan)
            without.append(result.certificates_per_second)
            spent[False].append(result.use["daemon"].microseconds_per_certificate)
            attackers = await asyncio.to_thread(Attackers, bench.running.address, tls, arguments.pace)
            await asyncio.sleep(1 / arguments.pace + 1)  # until all are there
            alone = Meter({bench.running.pid: "daemon"})
            await asyncio.sleep(ALONE)
            costs.append(alone.use(1)["daemon"].microseconds_per_certificate / 1e6 / ALONE)
            result = await bench.run(plan)
            spent[True].append(result.use["daemon"].microseconds_per_certificate)
            under.append(result.certificates_per_second)
            rates = await asyncio.to_thread(attackers.end)
        without.append((await bench.run(plan)).certificates_per_second)
        peak = peak_mebibytes(bench.running.pid)
    for name, rate in sorted(rates.items()):
        say(f"attackers' steps a second: {name}", f"{rate:.1f}")
    say("certificates a second without", ", ".join(f"{rate:,.0f}" for rate in without))
    say(
        f"certificates a second beside {CONNECTIONS} hostile connections",
        ", ".join(f"{r:,.0f}" for r in under),
    )
    say("what is left of the median (goal: 0.70)", f"{median(under) / median(without):.2f}")
    us = f"{median(spent[False]):.0f} and {median(spent[True]):.0f} us"
    say("daemon's processor time a certificate, without and with", us)
    say("daemon's processor time for the attackers alone", f"{median(costs):.1%} of a core")
    say("daemon's peak memory before any attack, and after all", f"{quiet:.0f} and {peak:.0f} MiB")


def main() -> None:
    """Measure, and print a table; or attack, in the process that does."""
    parser = argparse.ArgumentParser(description="Measure a client beside hostile ones.")
    parser.add_argument("--certificates", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pace", type=float, default=PACE, help="steps a second of each connection")
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        address, *files = arguments.attack
        Attack(address, ClientTls(*map(Path, files)), arguments.pace).run()
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as name:
        config = load_config(create(Path(name) / "fleet", 7443))
        tls = new_client(Fleet(Path(name) / "fleet"), "enemy")  # whom the policy lets in: it costs the most
        say("attackers", f"one process at nice {LOWEST}, {arguments.pace:g} step(s) a second and connection")
        asyncio.run(measure(config, tls, arguments))


if __name__ == "__main__":
    main()
