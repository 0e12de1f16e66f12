"""Writes entries of the ledger as text, CSV, JSON Lines or PEM."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from asn1crypto import pem

from otahsm.cli.output.fields import printable
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.client import LedgerEntry
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import rfc3339
from otahsm.system.csv_cells import csv_line

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
    fields = {name: _text(value) for name, value in zip(entry._fields, entry, strict=True)}
    fields["certificate"] = b64encode(entry.certificate).decode()
    return fields


def _text(value: SerialNumber | str | bytes | datetime | None) -> str:
    match value:
        case None | str():
            return value or ""
        case datetime():  # as exactly as it is known
            return rfc3339(value)
        case _:
            return value.hex()


def line_of(entry: LedgerEntry) -> str:
    """Write an entry as one line of text."""
    return TABLE.line(
        entry.serial.hex(),
        entry.status,
        show_time(entry.intended_at),
        entry.client,
        entry.profile,
        entry.device_id,
        entry.void_reason,
    )


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
    "csv": Form(csv_line(LedgerEntry._fields), lambda entry: csv_line(fields_of(entry).values())),
    "jsonl": Form("", _json),
    "pem": Form("", _pem),
}
