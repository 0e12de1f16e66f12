"""Conversions of messages about batches."""

from __future__ import annotations

from datetime import UTC, datetime

from otahsm.authority import BatchState, NewBatch, Scheme
from otahsm.errors import RequestRefusedError
from otahsm.v1 import batch_pb2 as pb


def new_batch_of(batch: pb.Batch) -> NewBatch:
    """Return the batch to create from a message. Raises RequestRefusedError."""
    scheme = batch.id_scheme
    return NewBatch(
        batch.name,
        batch.profile,
        batch.device_count,
        Scheme(
            scheme.kind,
            scheme.value,
            scheme.first_number,
            scheme.list_sha256,
            tuple(sorted(scheme.values.items())),
        ),
        _deadline(batch),
        tuple(batch.clients),
    )


def _deadline(batch: pb.Batch) -> datetime | None:
    if not batch.HasField("deadline_time"):
        return None
    try:
        return batch.deadline_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RequestRefusedError("batch.deadline_time", "it must be in the years 1 to 9999") from None


def batch_message(state: BatchState) -> pb.Batch:
    """Return a batch and its progress as a message."""
    batch, terms = state.batch, state.batch.terms
    scheme = Scheme.read(terms.scheme)
    message = pb.Batch(
        name=terms.name,
        profile=terms.profile,
        device_count=terms.device_count,
        id_scheme=pb.IdScheme(
            kind=scheme.kind,
            value=scheme.value,
            first_number=scheme.first_number,
            list_sha256=scheme.list_sha256,
            values=dict(scheme.values),
        ),
        clients=terms.clients,
        creator=batch.creator,
        issued_count=state.issued,
        remaining_count=terms.device_count - batch.taken,
    )
    message.create_time.FromMicroseconds(batch.created_at)
    if terms.deadline is not None:
        message.deadline_time.FromMicroseconds(terms.deadline)
    if batch.closed_at is not None:
        message.close_time.FromMicroseconds(batch.closed_at)
    if state.first is not None and state.last is not None:
        message.first_serial_number = state.first.serial.octets
        message.last_serial_number = state.last.serial.octets
        message.first_issue_time.FromMicroseconds(state.first.recorded_at)
        message.last_issue_time.FromMicroseconds(state.last.recorded_at)
    return message
