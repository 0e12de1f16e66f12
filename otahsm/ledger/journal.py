"""What the ledger writes and reads, each over a batch and inside one transaction of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, cast

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Dialect,
    Row,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.records import Accepted, Answer, Conflict, InProgress, Intent, Replay
from otahsm.ledger.schema import certificates, intents, progress

_open: Final = (intents.c.void_reason.is_(None)) & ~exists().where(certificates.c.intent_id == intents.c.id)


def write_intents(connection: Connection, batch: Sequence[Intent]) -> list[Answer]:
    """Write the intents that nothing stands against; answer each one, in order (I2, I3).

    Mostly nothing stands against any of them, and one statement finds that out while it writes them. If
    something does, what went in is taken back, and each one is looked at.
    """
    first = _last_id(connection) + 1
    if _claim(connection, first, batch) == len(batch):
        return [Accepted(first + number) for number in range(len(batch))]
    connection.execute(delete(intents).where(intents.c.id >= first))
    taken = _Taken(connection, batch)
    answers: list[Answer] = []
    fresh: list[Intent] = []
    for intent in batch:
        answer = taken.answer(intent)
        if answer is None:
            taken.reserve(intent)
            answer = Accepted(first + len(fresh))
            fresh.append(intent)
        answers.append(answer)
    if _claim(connection, first, fresh) != len(fresh):
        raise LedgerUnavailableError("intents that nothing stood against were not written")
    return answers


def write_certificates(connection: Connection, issued: Mapping[int, bytes], now: int) -> None:
    """Write certificates, DER by intent id, recorded at `now` in microseconds (I1)."""
    statement, _ = _for_driver(_RECORD, connection.dialect)
    connection.exec_driver_sql(statement, [(intent, der, now) for intent, der in issued.items()])


def void_intents(connection: Connection, intent_ids: Sequence[int], reason: str, now: int) -> int:
    """Void those of the intents named that are open; return how many were.

    An intent that has a certificate after all is left alone: what was recorded is never taken back.
    """
    return _void(connection, intents.c.id.in_(intent_ids), reason, now)


def void_all_open(connection: Connection, reason: str, now: int) -> int:
    """Void every intent that is open; return how many were."""
    closed_below = connection.execute(select(progress.c.closed_below)).scalar_one()
    voided = _void(connection, intents.c.id >= closed_below, reason, now)
    note_closed(connection, None)
    return voided


def note_closed(connection: Connection, below: int | None) -> None:
    """Note that no intent with a smaller id is open; None: none at all is."""
    if below is None:
        below = _last_id(connection) + 1
    connection.execute(_PROGRESS, {"below": below})


def _void(connection: Connection, which: ColumnElement[bool], reason: str, now: int) -> int:
    values = {"void_reason": reason, "voided_at": now}
    return connection.execute(update(intents).where(_open & which).values(values)).rowcount


def _last_id(connection: Connection) -> int:
    last: int | None = connection.execute(_LAST_ID).scalar()
    return last or 0


_LAST_ID: Final = select(func.max(intents.c.id))
_PROGRESS: Final = update(progress).values(closed_below=bindparam("below"))


def issuer_of(connection: Connection) -> bytes | None:
    """Return the key identifier of the CA that this ledger's certificates are of; None if it has none."""
    return connection.execute(select(intents.c.issuer_key_id).limit(1)).scalar()


def _claim(connection: Connection, first: int, batch: Sequence[Intent]) -> int:
    """Write intents, with ids from `first` on; but not what something stands against; say how many."""
    if not batch:
        return 0
    statement, order = _for_driver(_CLAIM, connection.dialect)
    in_order = itemgetter(*(_COLUMNS.index(name) for name in order))
    rows = [in_order((number, *intent)) for number, intent in enumerate(batch, first)]
    return connection.exec_driver_sql(statement, rows).rowcount


_COLUMNS: Final = ("id", *Intent._fields)
# The unique indexes refuse a device, a key or a request that is taken. That a key has one device, also
# under another profile, no index says.
_rival: Final = intents.alias("rival")
_CLAIM: Final = (
    sqlite.insert(intents)
    .from_select(
        _COLUMNS,
        select(*(bindparam(name, type_=intents.c[name].type) for name in _COLUMNS)).where(
            ~exists().where(
                _rival.c.spki_sha256 == bindparam("spki_sha256"),
                _rival.c.device_id != bindparam("device_id"),
                _rival.c.void_reason.is_(None),
            )
        ),
    )
    .on_conflict_do_nothing()
)
_RECORD: Final = insert(certificates).values(
    {name: bindparam(name) for name in ("intent_id", "der", "recorded_at")}
)


@lru_cache(maxsize=8)
def _for_driver(statement: ClauseElement, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """Write a statement as the driver wants it, with the names of its parameters in their order.

    SQLAlchemy's own way over many rows takes longer than SQLite does.
    """
    compiled = cast(SQLCompiler, statement.compile(dialect=dialect))
    return str(compiled), compiled.positiontup or ()


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
            live.where(intents.c.request_id.in_({intent.request_id for intent in batch} - {""})),
            live.where(intents.c.device_id.in_([intent.device_id for intent in batch])),
            live.where(intents.c.spki_sha256.in_([intent.spki_sha256 for intent in batch])),
        )
        for row in connection.execute(query):
            self._remember(row)

    def _remember(self, row: Row[Any] | _Reserved) -> None:
        if row.request_id:
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
