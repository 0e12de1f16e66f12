"""Measures how much room a certificate takes in the ledger, and what questions about a large one take.

    .venv/bin/python bench/ledger_size.py fleet/otahsm.toml 200000

It fills an empty ledger of its own, beside the one that [ledger] names or in a schema of its own on the same
server, as the daemon does: in batches of 128, with certificates of 460 octets, as P-256 devices under a P-256
root have. In the end it removes it.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from otahsm.config import LedgerConfig, load_config, section
from otahsm.ledger import (
    START,
    Filter,
    LedgerReader,
    Status,
    copy_ledger,
    database_of,
    throwaway,
)

from fill_ledger import write

_POSTGRESQL: Final = (
    "SELECT relname, pg_relation_size(pg_class.oid) FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE nspname = current_schema() AND relkind IN ('r', 'i') ORDER BY 1"
)


def sizes(config: LedgerConfig) -> dict[str, int]:
    """Return the octets of each table and index."""
    if config.path is not None:
        with closing(sqlite3.connect(config.path)) as file:
            return dict(file.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"))
    database = database_of(config)
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(_POSTGRESQL).all()
    database.close()
    return {str(name): int(size) for name, size in rows}


def timed(what: str, work: Callable[[], object]) -> None:
    """Print how long something takes."""
    started = time.perf_counter()
    work()
    print(f"| {what} | {1000 * (time.perf_counter() - started):,.1f} ms |", flush=True)


def ask(config: LedgerConfig) -> None:
    """Time questions."""
    reader = LedgerReader(config)
    reader.check()
    page = reader.page(Filter(), size=1000, full=True)
    middle = page.records[500]
    timed("by serial number", lambda: reader.by_serial(middle.serial))
    timed("by device and profile", lambda: reader.by_device(middle.device_id, middle.profile))
    timed("list a device", lambda: reader.page(Filter(device_id=middle.device_id), size=100))
    timed(
        "a page of 1,000, with certificates",
        lambda: reader.page(Filter(), middle.serial.key, size=1000, full=True),
    )
    timed("a page of 100, voided", lambda: reader.page(Filter(status=Status.VOID), size=100))
    timed("a page of 100, open", lambda: reader.page(Filter(status=Status.OPEN), size=100))
    timed(
        "a step of 50,000 that a filter leaves out", lambda: reader.page(Filter(client="cn:none"), size=100)
    )
    timed("all, by a client that has none", lambda: list(reader.everything(Filter(client="cn:none"))))
    timed("all, counted", lambda: count_all(reader))
    reader.close()


def count_all(reader: LedgerReader) -> None:
    """Count everything."""
    after: bytes | None = START
    while after is not None:
        after = reader.count(Filter(), after).next_after


def main() -> None:
    """Fill, measure, remove."""
    parser = argparse.ArgumentParser(description="Measure what a certificate takes in the ledger.")
    parser.add_argument("config", type=Path, help="otahsm.toml; its ledger is not touched")
    parser.add_argument("count", type=int, nargs="?", default=200_000, help="how many certificates")
    arguments = parser.parse_args()
    with throwaway(section(load_config(arguments.config).ledger, "ledger")) as config:
        seconds = asyncio.run(write(config, arguments.count, bytes(20)))
        print(
            f"{arguments.count:,} certificates written in {seconds:.1f} s\n\n| part | octets a certificate |"
        )
        print("| --- | --: |")
        found = sizes(config)
        for name, size in sorted(found.items(), key=lambda item: -item[1]):
            if size > arguments.count:
                print(f"| {name} | {size / arguments.count:.0f} |")
        print(f"| all | {sum(found.values()) / arguments.count:.0f} |\n\n| question | |\n| --- | --: |")
        ask(config)
        if config.path is not None:
            path = config.path
            timed("backup, checked", lambda: copy_ledger(path, path.with_name("copy")))


if __name__ == "__main__":
    main()
