"""What the client makes of a daemon's answers."""

from __future__ import annotations

from otahsm.client.batches import Batch
from otahsm.client.ledger import LedgerEntry
from otahsm.v1 import batch_pb2, ledger_pb2

TOO_LONG = b"\xab" * 21


def test_an_entry_whose_serial_number_somebody_made_too_long_is_read_as_it_is() -> None:
    entry = LedgerEntry.from_message(ledger_pb2.Certificate(serial_number=TOO_LONG))
    assert entry.serial.hex() == TOO_LONG.hex()


def test_a_batch_with_a_certificate_whose_serial_number_is_too_long_is_read_as_it_is() -> None:
    message = batch_pb2.Batch(first_serial_number=TOO_LONG)
    batch = Batch.from_message(message)
    assert batch.first_serial is not None
    assert batch.first_serial.hex() == TOO_LONG.hex()
