"""Reads a ledger's file from outside, as an auditor would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass

from harness import Fleet


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
    with closing(sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True)) as database:
        found = database.execute(
            "SELECT serial, device_id, client, void_reason, der FROM intents"
            " LEFT JOIN certificates ON intent_id = id ORDER BY id"
        ).fetchall()
    return [Row(int.from_bytes(serial, "big"), *rest) for serial, *rest in found]


def certificates(fleet: Fleet) -> dict[str, bytes]:
    """Read every device's certificate; there must not be two for one device."""
    issued = [row for row in rows(fleet) if row.certificate is not None]
    by_device = {row.device_id: row.certificate for row in issued if row.certificate is not None}
    assert len(by_device) == len(issued)
    return by_device
