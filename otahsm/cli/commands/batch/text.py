"""What commands about batches share: an argument, and how batches are printed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from otahsm.cli.output.fields import print_fields, print_json, print_json_line
from otahsm.cli.output.progress import Meter, OutputMode
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.client import Batch, BatchClient
from otahsm.pki.serial import SerialNumber

NameArgument = Annotated[str, typer.Argument(help="The batch's name.")]

_LOOK_SECONDS: Final = 1.0

TABLE: Final = Table(
    Column("name", 24),
    Column("issued", 20, right=True),
    Column("state", 6),
    Column("ordered", 23),
    Column("profile"),
)


def print_batch(batch: Batch, *, as_json: bool) -> None:
    """Print all that is known of a batch."""
    if as_json:
        print_json(fields_of(batch))
        return
    scheme = " ".join(filter(None, (batch.scheme.kind, batch.scheme.value)))
    fields = {
        "issued": f"{batch.issued} of {batch.device_count}",
        "remaining": str(_remaining(batch)),
        "state": state_of(batch),
        "profile": batch.profile,
        "device ids": scheme,
        "values": ", ".join(f"{name}={value}" for name, value in batch.scheme.values.items()),
        "clients": ", ".join(batch.clients) or "any",
        "ordered": f"{show_time(batch.created_at)} by {batch.created_by}",
        "deadline": show_time(batch.deadline),
        "closed": show_time(batch.closed_at),
        "first serial": _serial(batch.first_serial),
        "last serial": _serial(batch.last_serial),
        "last issued": show_time(batch.last_issued_at),
    }
    print_fields(f"Batch {batch.name}", {label: value for label, value in fields.items() if value})


def print_line(batch: Batch, *, as_json: bool) -> None:
    """Print a batch as one line."""
    if as_json:
        print_json_line(fields_of(batch))
        return
    issued = f"{batch.issued} of {batch.device_count}"
    TABLE.print(batch.name, issued, state_of(batch), show_time(batch.created_at), batch.profile)


def state_of(batch: Batch) -> str:
    """Return "closed", "late", "full" or "open"."""
    if batch.closed_at is not None:
        return "closed"
    if batch.deadline is not None and datetime.now(UTC) >= batch.deadline:
        return "late"
    return "full" if batch.issued >= batch.device_count else "open"


async def follow(client: BatchClient, name: str) -> Batch:
    """Show the progress of a batch until nothing more is issued in it; return it then."""
    batch = await client.get(name)
    began = batch.issued
    with Meter("certificates", batch.device_count, OutputMode()) as meter:
        while state_of(batch) == "open":
            meter.show(batch.issued, batch.issued - began)
            await asyncio.sleep(_LOOK_SECONDS)
            batch = await client.get(name)
    return batch


def fields_of(batch: Batch) -> dict[str, Any]:
    """Return a batch for machines; what is unknown is null."""
    return {
        "name": batch.name,
        "state": state_of(batch),
        "profile": batch.profile,
        "device_count": batch.device_count,
        "issued": batch.issued,
        "remaining": _remaining(batch),
        "id_scheme": {
            "kind": batch.scheme.kind,
            "value": batch.scheme.value,
            "first": batch.scheme.first,
            "list_sha256": batch.scheme.digest,
            "values": dict(batch.scheme.values),
        },
        "clients": list(batch.clients),
        "created_by": batch.created_by,
        "created_at": batch.created_at,
        "deadline": batch.deadline,
        "closed_at": batch.closed_at,
        "first_serial": _serial(batch.first_serial) or None,
        "last_serial": _serial(batch.last_serial) or None,
        "first_issued_at": batch.first_issued_at,
        "last_issued_at": batch.last_issued_at,
    }


def _remaining(batch: Batch) -> int:
    """Return how many certificates can be requested now: none after its end, whatever was not issued."""
    return batch.remaining if state_of(batch) == "open" else 0


def _serial(serial: SerialNumber | None) -> str:
    return "" if serial is None else serial.hex()
