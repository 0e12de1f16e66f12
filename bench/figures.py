"""Measures every figure of docs/performance.md, and prints them as a table.

    .venv/bin/python bench/figures.py            # all of them, in about ten minutes
    .venv/bin/python bench/figures.py bulk slow  # some of them

It makes its own token and everything else in a temporary folder inside the current one: the disk counts.
What is compared is measured in one run: the crypto floor, or the smaller case, before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

from otahsm.bench import IssueResult, LoadPlan, bench_issue, count_calls
from otahsm.bench.issuing import write_toml
from otahsm.bench.load import make_csrs, make_messages, stream_all
from otahsm.bench.processes import daemon, peak_mebibytes
from otahsm.client.connection import ClientTls, open_channel
from otahsm.config import Config, LedgerConfig, load_config, section
from otahsm.pki.keytypes import KeyType
from otahsm.quickstart import create

from fill_ledger import fill

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.postgres import PostgresServer
from support.tokens.faulty import compile_shim, shim_environment

MILLION: Final = 1_000_000
OTHER_KEYS: Final[tuple[KeyType, ...]] = ("ec-p384", "rsa-2048", "rsa-3072", "ed25519")


def say(what: str, target: str, seen: str) -> None:
    """Print one row."""
    print(f"| {what} | {target} | {seen} |", flush=True)


def against_floor(result: IssueResult) -> str:
    """Return what share of the floor was reached."""
    use = ", ".join(f"{kind} {use.microseconds_per_certificate:.0f}" for kind, use in result.use.items())
    return (
        f"{result.share_of_floor:.2f} ({result.certificates_per_second:,.0f} of {result.floor:,.0f}/s;"
        f" processor time in us: {use})"
    )


async def bulk(config: Config) -> None:
    """One stream, 64 CSRs a message, and the start of the daemon."""
    async with bench_issue(config, "ec-p256") as bench:
        result = await bench.run(LoadPlan(40_000))
        say("bulk stream, 64 CSRs a message, 2 signers", ">= 0.85 of the floor", against_floor(result))
        say("from `otahsm serve` to SERVING", "< 2 s", f"{bench.running.seconds_to_serving:.2f} s")


async def single(config: Config) -> None:
    """16 streams, one CSR a message; and one client that asks for one after another."""
    async with bench_issue(config, "ec-p256") as bench:
        result = await bench.run(LoadPlan(20_000, streams=16, requests_per_message=1))
        say("16 streams, one CSR a message", ">= 0.50 of the floor", against_floor(result))
        latency = (await bench.run(LoadPlan(2_000, streams=0))).latency
        seen = f"{latency.p50:.1f} / {latency.p99:.1f} ms"
        say("one client, unary, one after another: p50 / p99", "5 / 25 ms", seen)


async def slow(config: Config) -> None:
    """A token that takes 20 ms a signature and makes 16 at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = compile_shim(folder)
        (folder / "control").write_text("slow")
        slots = f"otahsm-{uuid.uuid4()}"

        def behind_shim(settings: Config) -> Config:
            token = section(settings.token, "token")
            control, log = folder / "control", folder / "log"
            shim = shim_environment(token.uri.module, control=control, log=log, slots=slots)
            changes = {
                "uri": replace(token.uri, module_path=str(module)),
                "environment": {**token.environment, **shim},
                "signers": 2,
                "sessions": 8,
            }
            return settings.model_copy(update={"token": token.model_copy(update=changes)})

        try:
            async with bench_issue(config, "ec-p256", behind_shim) as bench:
                seconds, _ = await bench.load(LoadPlan(8_000), make_csrs(8_000))
        finally:
            Path("/dev/shm", f"sem.{slots}").unlink(missing_ok=True)  # noqa: S108 - where Linux keeps semaphores
        share = 8_000 / seconds / 800
        say(
            "token of 20 ms a signature, 16 at once, 2 signers x 8 sessions",
            ">= 0.95 of its 800/s",
            f"{share:.3f}",
        )


async def calls(config: Config) -> None:
    """PKCS#11 calls a certificate."""
    say("PKCS#11 calls a certificate (pkcs11-spy)", "<= 3", f"{await count_calls(config, 'ec-p256')}")


async def memory(config: Config) -> None:
    """Growth of the daemon over a long stream."""
    async with bench_issue(config, "ec-p256") as bench:
        csrs = await asyncio.to_thread(make_csrs, 200_000)
        peaks = []
        for part in (csrs[:20_000], csrs[20_000:]):
            await bench.load(LoadPlan(len(part)), part)
            peaks.append(peak_mebibytes(bench.running.pid))
        seen = f"{peaks[1] - peaks[0]:.1f} MiB ({peaks[0]:.0f} to {peaks[1]:.0f})"
        say("growth of the daemon's peak memory, certificate 20,000 to 200,000", "< 32 MiB", seen)


async def million(config: Config) -> None:
    """A ledger with a million certificates, against an empty one, before and after."""
    await _large(config, MILLION)


async def ten_million(config: Config) -> None:
    """The same with ten million. Takes 12 GB and a quarter of an hour, so it must be named."""
    await _large(config, 10 * MILLION)


async def _large(config: Config, count: int) -> None:
    def filled(settings: Config) -> Config:
        fill(settings, count)
        return settings

    rates = []
    for prepare in (_as_it_is, filled, _as_it_is):
        async with bench_issue(config, "ec-p256", prepare) as bench:
            rates.append((await bench.run(LoadPlan(60_000))).certificates_per_second)
            if prepare is filled:
                started = bench.running.seconds_to_serving
    share = rates[1] / ((rates[0] + rates[2]) / 2)
    seen = f"{share:.2f} ({rates[0]:,.0f}, {rates[1]:,.0f}, {rates[2]:,.0f}/s); SERVING after {started:.2f} s"
    say(f"{count:,} certificates in the ledger, against an empty one", ">= 0.90", seen)


async def keys(config: Config) -> None:
    """The other kinds of CA keys, against their own floors."""
    for kind in OTHER_KEYS:
        async with bench_issue(config, kind) as bench:
            result = await bench.run(LoadPlan(6_000 if kind == "rsa-3072" else 12_000))
            say(f"CA key {kind}", ">= 0.85 of its floor", against_floor(result))


async def postgres(config: Config) -> None:
    """A ledger in PostgreSQL on the same machine, and two daemons over it."""
    server = PostgresServer()
    try:
        ledger = LedgerConfig(url=server.create_database(), password_file=server.password_file)
        config = config.model_copy(update={"ledger": ledger})
        async with bench_issue(config, "ec-p256") as bench:
            one = await bench.run(LoadPlan(40_000))
            say("PostgreSQL, bulk stream, one daemon", ">= 0.70 of the floor", against_floor(one))
            with tempfile.TemporaryDirectory() as name:
                toml = write_toml(bench.config, Path(name, "otahsm.toml"))
                signers = section(config.token, "token").signers
                async with daemon(toml, signers) as other:
                    client = section(config.client, "client")
                    tls = ClientTls(client.ca, client.certificate, client.key)
                    csrs = make_csrs(40_000)
                    orders = make_messages(csrs[20_000:], 64, "")
                    async with open_channel(other.address, tls) as channel:
                        began = time.monotonic()
                        await asyncio.gather(
                            bench.load(LoadPlan(20_000), csrs[:20_000]),
                            stream_all(channel, other.address, orders, 1),
                        )
                        rate = 40_000 / (time.monotonic() - began)
            seen = f"{rate / one.floor:.2f} ({rate:,.0f} of {one.floor:,.0f}/s)" if one.floor else ""
            say("PostgreSQL, bulk streams, two daemons", ">= 0.70 of the floor", seen)
    finally:
        server.remove()


def _as_it_is(settings: Config) -> Config:
    return settings


def _filled(settings: Config) -> Config:
    fill(settings, MILLION)
    return settings


USUAL: Final = (bulk, single, slow, calls, memory, million, keys, postgres)
FIGURES: Final = {work.__name__: work for work in (*USUAL, ten_million)}


async def main() -> None:
    """Measure what the command line names, or everything."""
    parser = argparse.ArgumentParser(description="Measure the figures of docs/performance.md.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}")
    selected = parser.parse_args().figures or [work.__name__ for work in USUAL]
    if unknown := sorted(set(selected) - set(FIGURES)):
        parser.error(f"no such figure: {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    with tempfile.TemporaryDirectory(prefix="figures-", dir=Path.cwd()) as name:
        config = load_config(create(Path(name) / "fleet", 7443))
        print("| figure | target | seen |\n| --- | --- | --- |")
        for figure in selected:
            await FIGURES[figure](config)


if __name__ == "__main__":
    asyncio.run(main())
