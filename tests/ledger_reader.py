"""Reads a ledger from outside, as an auditor would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from otahsm.ledger import Verdict, snapshot, verify
from otahsm.tlog import Checkpoint, VerifierKey

from harness import Fleet

_EVERYTHING: Final = (
    "SELECT serial, device_id, client, void_reason, der FROM intents"
    " LEFT JOIN certificates ON intent_id = id ORDER BY id"
)


@dataclass(frozen=True)
class Row:
    """An intent, with its certificate if there is one."""

    serial: int
    device_id: str
    client: str
    void_reason: str | None
    certificate: bytes | None


def rows(fleet: Fleet) -> list[Row]:
    """Read everything, in the order of the intents."""
    ledger = fleet.config.ledger
    assert ledger is not None
    found: list[tuple[Any, ...]]
    if ledger.url is not None:
        assert ledger.password_file is not None
        password = ledger.password_file.read_text().strip()
        with psycopg.connect(ledger.url, password=password) as connection:
            found = connection.execute(_EVERYTHING).fetchall()
    else:
        with closing(sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True)) as database:
            found = database.execute(_EVERYTHING).fetchall()
    return [Row(int.from_bytes(serial, "big"), *rest) for serial, *rest in found]


def certificates(fleet: Fleet) -> dict[str, bytes]:
    """Read every device's certificate; there must not be two for one device."""
    issued = [row for row in rows(fleet) if row.certificate is not None]
    by_device = {row.device_id: row.certificate for row in issued if row.certificate is not None}
    assert len(by_device) == len(issued)
    return by_device


def key_of(fleet: Fleet) -> VerifierKey:
    """Read what its checkpoints are verified with."""
    return VerifierKey.parse((fleet.folder / "ca/checkpoint.vkey").read_text().strip())


def verified(fleet: Fleet, *known: Checkpoint) -> Verdict:
    """Compute its tree anew."""
    assert fleet.config.ledger is not None
    with snapshot(fleet.config.ledger) as connection:
        return verify(connection, [key_of(fleet)], known)
