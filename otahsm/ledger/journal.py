"""What the ledger writes and reads, each over a batch and inside one transaction of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, insert, select, union_all, update

from otahsm.ledger.records import Accepted, Answer, Conflict, InProgress, Intent, Replay
from otahsm.ledger.schema import certificates, intents

_open: Final = (intents.c.void_reason.is_(None)) & ~exists().where(certificates.c.intent_id == intents.c.id)


def write_intents(connection: Connection, batch: Sequence[Intent]) -> list[Answer]:
    """Write the intents that nothing stands against; answer each one, in order (I2, I3)."""
    taken = _Taken(connection, batch)
    answers: list[Answer | None] = []
    for intent in batch:
        answer = taken.answer(intent)
        if answer is None:
            taken.reserve(intent)
        answers.append(answer)
    fresh = [intent for intent, answer in zip(batch, answers, strict=True) if answer is None]
    ids = iter(_insert(connection, fresh))
    return [Accepted(next(ids)) if answer is None else answer for answer in answers]


def _insert(connection: Connection, fresh: Sequence[Intent]) -> Sequence[int]:
    if not fresh:
        return []
    statement = insert(intents).returning(intents.c.id, sort_by_parameter_order=True)
    return connection.execute(statement, [asdict(intent) for intent in fresh]).scalars().all()


def write_certificates(connection: Connection, issued: Mapping[int, bytes], now: int) -> None:
    """Write certificates, DER by intent id, recorded at `now` in microseconds (I1)."""
    rows = [{"intent_id": intent, "der": der, "recorded_at": now} for intent, der in issued.items()]
    connection.execute(insert(certificates), rows)


def void_intents(connection: Connection, intent_ids: Sequence[int] | None, reason: str, now: int) -> int:
    """Void the intents named, or all (None), that are open; return how many were.

    An intent that has a certificate after all is left alone: what was recorded is never taken back.
    """
    which = _open if intent_ids is None else _open & intents.c.id.in_(intent_ids)
    return connection.execute(update(intents).where(which).values(void_reason=reason, voided_at=now)).rowcount


def issuer_of(connection: Connection) -> bytes | None:
    """Return the key identifier of the CA that this ledger's certificates are of; None if it has none."""
    return connection.execute(select(intents.c.issuer_key_id).limit(1)).scalar()


class _Taken:
    """The live intents that share a device id, a key or a request id with a batch, and how they answer."""

    def __init__(self, connection: Connection, batch: Sequence[Intent]) -> None:
        self._by_request: dict[str, Any] = {}
        self._by_device: dict[tuple[str, str], Any] = {}
        self._by_key: dict[bytes, Any] = {}
        live = (
            select(
                intents.c.serial,
                intents.c.request_id,
                intents.c.profile,
                intents.c.device_id,
                intents.c.spki_sha256,
                intents.c.not_before,
                intents.c.not_after,
                certificates.c.der,
            )
            .select_from(intents.outerjoin(certificates))
            .where(intents.c.void_reason.is_(None))
        )
        # Three look-ups, an index each: SQLite scans the whole table for one with OR.
        query = union_all(
            live.where(intents.c.request_id.in_([intent.request_id for intent in batch])),
            live.where(intents.c.device_id.in_([intent.device_id for intent in batch])),
            live.where(intents.c.spki_sha256.in_([intent.spki_sha256 for intent in batch])),
        )
        for row in connection.execute(query):
            self._remember(row)

    def _remember(self, row: Row[Any] | _Reserved) -> None:
        self._by_request[row.request_id] = row
        self._by_device[row.device_id, row.profile] = row
        self._by_key[row.spki_sha256] = row

    def answer(self, intent: Intent) -> Answer | None:
        """Say what stands against an intent; None if nothing does."""
        device = self._by_device.get((intent.device_id, intent.profile))
        key = self._by_key.get(intent.spki_sha256)
        request = self._by_request.get(intent.request_id)
        if device is not None and device.spki_sha256 != intent.spki_sha256:
            return Conflict(
                f"the device id {intent.device_id} has the certificate {_serial(device)}, for another key"
            )
        if key is not None and key.device_id != intent.device_id:
            return Conflict(
                f"the public key belongs to the device {key.device_id}, certificate {_serial(key)}"
            )
        if request is not None and (request.device_id, request.profile) != (intent.device_id, intent.profile):
            return Conflict(
                f"the request id {intent.request_id} was used for the device {request.device_id} under the"
                f" profile {request.profile}, certificate {_serial(request)}"
            )
        if device is None:
            return None
        return (
            InProgress()
            if device.der is None
            else Replay(device.der, device.serial, device.not_before, device.not_after)
        )

    def reserve(self, intent: Intent) -> None:
        """Let the rest of the batch see this intent."""
        self._remember(_Reserved(intent))


class _Reserved:
    """An intent of this very batch, in the shape of a row."""

    der: None = None

    def __init__(self, intent: Intent) -> None:
        self.serial = intent.serial
        self.request_id = intent.request_id
        self.profile = intent.profile
        self.device_id = intent.device_id
        self.spki_sha256 = intent.spki_sha256


def _serial(row: Any) -> str:
    serial: bytes = row.serial
    return serial.lstrip(b"\0").hex()
