"""Fills a new ledger with made-up certificates, so that issuing into a full one can be measured.

    .venv/bin/python bench/fill_ledger.py fleet/otahsm.toml 1000000

The rows are as large and as random as real ones; the certificates are random octets, and no client ever saw
them. Never run it on a ledger that matters: it refuses to when there is anything in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from otahsm.config import Config, LedgerConfig, load_config, section
from otahsm.ledger import Accepted, Filter, Intent, Ledger, LedgerReader, database_of, read_mac_keys
from otahsm.pki.chain import load_chain
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial

CERTIFICATE_OCTETS: Final = 460  # of a P-256 device under a P-256 root
BATCH: Final = 128
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
    ledger = section(config.ledger, "ledger")
    if ledger.path is not None:
        ledger.path.parent.mkdir(mode=0o700, exist_ok=True)
    asyncio.run(write(ledger, count, issuer.key_identifier))


async def write(config: LedgerConfig, count: int, issuer_key_id: bytes) -> float:
    """Write certificates as the daemon does, in batches of 128; return how many seconds that took.

    Raises SystemExit if the ledger is not empty.
    """
    ledger = Ledger(database_of(config), read_mac_keys(config), [issuer_key_id])
    await ledger.open()
    try:
        reader = LedgerReader(config)
        if reader.page(Filter(), size=1).records:
            raise SystemExit("the ledger is not empty; nothing was changed")
        reader.close()
        intents = made_up_intents(count, issuer_key_id)
        started = time.monotonic()
        while group := list(islice(intents, BATCH)):
            answers = await ledger.journal(group)
            ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
            await ledger.record({number: os.urandom(CERTIFICATE_OCTETS) for number in ids})
        return time.monotonic() - started
    finally:
        await ledger.close()


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
            policy_client="quickstart",
            client_certificate_sha256=bytes(32),
            intended_at=1000 * milliseconds,
        )


if __name__ == "__main__":
    main()
