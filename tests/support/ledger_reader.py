"""Reads a ledger from outside, as an auditor would."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from otahsm.ledger import Verdict, snapshot, verify
from otahsm.tlog import Checkpoint, VerifierKey

from support.harness import Fleet

_EVERYTHING: Final = (
    "SELECT serial, device_id, client, void_reason, der, tbs_sha256 FROM intents"
    " LEFT JOIN certificates ON intent_id = id ORDER BY id"
)
_REVOKED: Final = "SELECT serial, reason, revoked_at FROM revocations JOIN intents ON intent_id = id"


@dataclass(frozen=True)
class Row:
    """An intent, with its certificate if there is one."""

    serial: int
    device_id: str
    client: str
    void_reason: str | None
    certificate: bytes | None
    tbs_sha256: bytes


def rows(fleet: Fleet) -> list[Row]:
    """Read everything, in the order of the intents."""
    return [Row(int.from_bytes(serial, "big"), *rest) for serial, *rest in _select(fleet, _EVERYTHING)]


def revocations(fleet: Fleet) -> dict[int, tuple[str, int]]:
    """Read why each certificate that is revoked is, and since when, by its serial number."""
    return {
        int.from_bytes(serial, "big"): (reason, since) for serial, reason, since in _select(fleet, _REVOKED)
    }


def event_count(fleet: Fleet) -> int:
    """Count the events, which are leaves like certificates."""
    ((count,),) = _select(fleet, "SELECT count(*) FROM events")
    return int(count)


def url_count(fleet: Fleet) -> int:
    """Count the CRL URLs, which are leaves, too."""
    ((count,),) = _select(fleet, "SELECT count(*) FROM crl_urls")
    return int(count)


def act_count(fleet: Fleet) -> int:
    """Count the acts that can't be undone, which are leaves, too."""
    ((count,),) = _select(fleet, "SELECT count(*) FROM acts")
    return int(count)


def events(fleet: Fleet, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Read the events of a name: whose doing each was, and its details."""
    everything = _select(fleet, "SELECT name, client, details FROM events ORDER BY id")
    return [(client, json.loads(details)) for found, client, details in everything if found == name]


def last_crl_number(fleet: Fleet) -> int:
    """Read the last CRL number that was taken."""
    ((number,),) = _select(fleet, "SELECT coalesce(max(number), 0) FROM crl_numbers")
    return int(number)


def leaf_hashes(fleet: Fleet) -> list[bytes]:
    """Read the hashes of the leaves of the tree, in their order."""
    return [hashed for (hashed,) in _select(fleet, "SELECT hash FROM leaves ORDER BY leaf_index")]


def _select(fleet: Fleet, query: LiteralString) -> list[tuple[Any, ...]]:
    ledger = fleet.config.ledger
    assert ledger is not None
    if ledger.url is not None:
        assert ledger.password_file is not None
        password = ledger.password_file.read_text().strip()
        with psycopg.connect(ledger.url, password=password) as connection:
            return connection.execute(query).fetchall()
    with closing(sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


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
