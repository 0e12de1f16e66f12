"""Fills a new ledger with made-up certificates, so that issuing into a full one can be measured.

    .venv/bin/python bench/fill_ledger.py fleet/otahsm.toml 1000000

The rows are as large and as random as real ones; the certificates are random octets, and no client ever saw
them. Never run it on a ledger that matters: it refuses to when there is anything in it.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from otahsm.config import Config, load_config, section
from otahsm.ledger import Intent
from otahsm.ledger.db.sqlite import open_engine
from otahsm.ledger.migrations import migrate
from otahsm.pki.chain import load_chain
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial

CERTIFICATE_OCTETS: Final = 460  # of a P-256 device under a P-256 root
_DAY: Final = 86_400


def main() -> None:
    """Fill the ledger that a configuration names."""
    parser = argparse.ArgumentParser(description="Fill a new ledger with made-up certificates.")
    parser.add_argument("config", type=Path, help="otahsm.toml; no daemon may run on it")
    parser.add_argument("count", type=int, help="how many certificates")
    arguments = parser.parse_args()
    fill(load_config(arguments.config), arguments.count)


def fill(config: Config, count: int) -> None:
    """Fill the ledger of a configuration. Raises SystemExit if there is anything in it."""
    issuer = load_chain(section(config.ca, "ca").certificate.read_bytes()).issuer
    path = section(config.ledger, "ledger").path
    if path is None:
        raise SystemExit("only a ledger in an SQLite file can be filled")
    engine = open_engine(path)
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        if database.execute("SELECT EXISTS (SELECT 1 FROM intents)").fetchone()[0]:
            raise SystemExit(f"{path} is not empty; nothing was changed")
        _insert(database, count, issuer.key_identifier)


def _insert(database: sqlite3.Connection, count: int, issuer_key_id: bytes) -> None:
    database.execute("PRAGMA synchronous = OFF")  # a power cut may well spoil this one
    database.execute("PRAGMA cache_size = -1000000")
    database.execute("BEGIN")
    columns = ", ".join(Intent._fields)
    marks = ", ".join("?" * len(Intent._fields))
    statement = f"INSERT INTO intents ({columns}) VALUES ({marks})"  # noqa: S608
    database.executemany(statement, made_up_intents(count, issuer_key_id))
    database.execute(
        "INSERT INTO certificates SELECT id, randomblob(?), intended_at FROM intents", (CERTIFICATE_OCTETS,)
    )
    database.execute("INSERT INTO unlogged (kind, intent_id) SELECT 1, id FROM intents ORDER BY id")
    database.execute("INSERT OR REPLACE INTO replicas VALUES (1, ?)", (count + 1,))
    database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def made_up_intents(count: int, issuer_key_id: bytes) -> Iterator[Intent]:
    """Make up intents of devices that nobody has, of the last day."""
    now = int(time.time())
    began = 1000 * (now - _DAY)  # eight a millisecond since then
    for number in range(count):
        milliseconds = began + number // 8
        yield Intent(
            serial=make_serial(b"\xff" + os.urandom(SERIAL_RANDOM_BYTES - 1), milliseconds),
            request_id="",
            profile="ota-connect",
            device_id=str(uuid.uuid4()),
            spki_sha256=os.urandom(32),
            tbs_sha256=os.urandom(32),
            issuer_key_id=issuer_key_id,
            not_before=now,
            not_after=now + 365 * _DAY,
            client="cn:quickstart",
            client_certificate_sha256=bytes(32),
            intended_at=1000 * milliseconds,
        )


if __name__ == "__main__":
    main()
