"""Writes entries of the ledger: lines for people, CSV, JSON Lines, PEM."""

from __future__ import annotations

import csv
import io
import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, NamedTuple

from asn1crypto import pem

from otahsm.cli.output.fields import printable
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.client import LedgerEntry

COLUMNS: Final = (
    "serial",
    "status",
    "device_id",
    "profile",
    "client",
    "client_certificate_sha256",
    "request_id",
    "public_key_sha256",
    "tbs_sha256",
    "not_before",
    "not_after",
    "intended_at",
    "issued_at",
    "voided_at",
    "void_reason",
    "certificate",
    "batch",
)

TABLE: Final = Table(
    Column("serial", 40),
    Column("status", 10),
    Column("intended", 23),
    Column("client"),
    Column("profile"),
    Column("device id"),
    Column("void reason"),
)


def fields_of(entry: LedgerEntry) -> dict[str, str]:
    """Write an entry's fields as text: octets in hexadecimal, times in RFC 3339, DER in base64."""
    values = (
        entry.serial.hex(),
        entry.status,
        entry.device_id,
        entry.profile,
        entry.client,
        entry.client_certificate_sha256.hex(),
        entry.request_id,
        entry.public_key_sha256.hex(),
        entry.tbs_sha256.hex(),
        moment_text(entry.not_before),
        moment_text(entry.not_after),
        moment_text(entry.intended_at),
        moment_text(entry.issued_at),
        moment_text(entry.voided_at),
        entry.void_reason,
        b64encode(entry.certificate).decode(),
        entry.batch,
    )
    return dict(zip(COLUMNS, values, strict=True))


def moment_text(moment: datetime | None) -> str:
    """Write a time in RFC 3339, as exactly as it is known; empty for None."""
    return "" if moment is None else moment.isoformat().replace("+00:00", "Z")


def line_of(entry: LedgerEntry) -> str:
    """Write an entry as one line for people."""
    return TABLE.line(
        entry.serial.hex(),
        entry.status,
        show_time(entry.intended_at),
        entry.client,
        entry.profile,
        entry.device_id,
        entry.void_reason,
    )


def _csv(values: Iterable[str]) -> str:
    """Write a line of CSV (RFC 4180)."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def _json(entry: LedgerEntry) -> str:
    """Write an entry as a line of JSON; what is empty is left out."""
    return json.dumps({name: value for name, value in fields_of(entry).items() if value}) + "\n"


def _pem(entry: LedgerEntry) -> str:
    """Write a certificate below its device, profile and serial number; nothing if there is none."""
    if not entry.certificate:
        return ""
    head = f"# {printable(entry.device_id)} {printable(entry.profile)} {entry.serial.hex()}"
    return f"{head}\n{pem.armor('CERTIFICATE', entry.certificate).decode()}"


class Form(NamedTuple):
    """A format: what stands above all entries, and how each is written."""

    head: str
    write: Callable[[LedgerEntry], str]


FORMS: Final = {
    "text": Form(TABLE.heading + "\n", lambda entry: line_of(entry) + "\n"),
    "csv": Form(_csv(COLUMNS), lambda entry: _csv(fields_of(entry).values())),
    "jsonl": Form("", _json),
    "pem": Form("", _pem),
}
