"""Step 3 of the cycle: what stands against an intent, and if nothing does, writing it (I2, I3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    FromClause,
    Insert,
    Row,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.dialects import columns_given, write_rows
from otahsm.ledger.records import Accepted, Answer, Barred, Conflict, InProgress, Intent, Replay
from otahsm.ledger.schema import certificates, intents, revocations
from otahsm.pki import Reason

_COLUMNS: Final = ("id", "place", *Intent._fields)
_COMPROMISED: Final[ColumnElement[str]] = literal_column(f"'{Reason.KEY_COMPROMISE.value}'")
_ATTEMPTS: Final = 10  # replicas that ask for the same devices at once: each look shows what others wrote


def write_intents(
    connection: Connection, place: int, ids: Sequence[int], batch: Sequence[Intent]
) -> list[Answer]:
    """Write the intents that nothing stands against; answer each one, in order.

    Mostly nothing stands against any of them, and one statement finds that out while it writes them. If
    something does, what went in is taken back, and each one is looked at.

    Args:
        connection: in a transaction.
        place: the replica's (see `replicas`).
        ids: one for each intent; none was ever used before.
        batch: at least one.

    Raises:
        LedgerUnavailableError: other replicas were always faster.
    """
    # A statement may not see what it writes itself: a key that comes twice, for two devices, is looked at.
    if len({intent.spki_sha256 for intent in batch}) == len(batch):
        if _claim(connection, place, ids, batch) == len(batch):
            return [Accepted(intent_id) for intent_id in ids]
        _take_back(connection, ids)
    for _ in range(_ATTEMPTS):
        answers, fresh = _look(connection, ids, batch)
        if not fresh or _claim(connection, place, ids[: len(fresh)], fresh) == len(fresh):
            return answers
        _take_back(connection, ids)
    raise LedgerUnavailableError("other replicas ask for the same devices, and were always faster")


def _look(
    connection: Connection, ids: Sequence[int], batch: Sequence[Intent]
) -> tuple[list[Answer], list[Intent]]:
    """Answer each intent of a batch by what is live; return also those that nothing stands against."""
    taken = _Taken(connection, batch)
    answers: list[Answer] = []
    fresh: list[Intent] = []
    for intent in batch:
        answer = taken.answer(intent)
        if answer is None:
            taken.reserve(intent)
            answer = Accepted(ids[len(fresh)])
            fresh.append(intent)
        answers.append(answer)
    return answers, fresh


def _claim(connection: Connection, place: int, ids: Sequence[int], batch: Sequence[Intent]) -> int:
    """Write intents, but not what something stands against; say how many were written."""
    # In one order, whoever writes: so replicas that write the same devices seldom wait for each other.
    numbered = sorted(zip(ids, batch, strict=True), key=_device)
    rows = [(intent_id, place, *intent) for intent_id, intent in numbered]
    return write_rows(connection, _claim_statement(connection.dialect), _COLUMNS, rows)


def _device(numbered: tuple[int, Intent]) -> str:
    return numbered[1].device_id


def _take_back(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(_TAKE_BACK, {"ids": ids})


_TAKE_BACK: Final = delete(intents).where(intents.c.id.in_(bindparam("ids", expanding=True)))


def no_rival_of(asked: FromClause) -> ColumnElement[bool]:
    """Say that nothing is live for the key of a row of intents that keeps it from being certified.

    That is a certificate of another device, or one that was revoked because the key is compromised. The
    unique indexes refuse a device, a key or a request that is taken; what holds for a key under all profiles
    no index says. A count is looked up for each row, however the tables look; with an
    anti-join, PostgreSQL's planner would often read all of them.
    """
    rival = intents.alias("rival")
    compromised = (
        select(revocations.c.intent_id)
        .where(revocations.c.intent_id == rival.c.id, revocations.c.reason == _COMPROMISED)
        .correlate(rival)
    )
    rivals = (
        select(func.count())
        .select_from(rival)
        .where(
            rival.c.spki_sha256 == asked.c.spki_sha256,
            (rival.c.device_id != asked.c.device_id) | compromised.exists(),
            rival.c.void_reason.is_(None),
        )
        .correlate(asked)
        .scalar_subquery()
    )
    return rivals == literal_column("0")


@lru_cache(maxsize=2)
def _claim_statement(dialect: Dialect) -> Insert:
    given = columns_given(intents, _COLUMNS, dialect)
    new = select(given).where(no_rival_of(given))
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return insert(intents).from_select(_COLUMNS, new).on_conflict_do_nothing()


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
                revocations.c.revoked_at,
                revocations.c.reason,
            )
            .select_from(intents.outerjoin(certificates).outerjoin(revocations))
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
        # Of several under one key, one that says that it is compromised is what counts.
        known = self._by_key.get(row.spki_sha256)
        if known is None or not _is_compromised(known):
            self._by_key[row.spki_sha256] = row

    def answer(self, intent: Intent) -> Answer | None:
        """Say what stands against an intent; None if nothing does."""
        device = self._by_device.get((intent.device_id, intent.profile))
        key = self._by_key.get(intent.spki_sha256)
        request = self._by_request.get(intent.request_id)
        if barred := _barred(device, key):
            return barred
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
    revoked_at: None = None
    reason: None = None

    def __init__(self, intent: Intent) -> None:
        self.serial = intent.serial
        self.request_id = intent.request_id
        self.profile = intent.profile
        self.device_id = intent.device_id
        self.spki_sha256 = intent.spki_sha256


def _serial(row: Any) -> str:
    serial: bytes = row.serial
    return serial.lstrip(b"\0").hex()


def _barred(device: Any, key: Any) -> Barred | None:
    if device is not None and device.revoked_at is not None:
        return Barred(f"the device {device.device_id} has the certificate {_revoked(device)}")
    if key is not None and _is_compromised(key):
        return Barred(f"the public key was that of the certificate {_revoked(key)}")
    return None


def _is_compromised(row: Any) -> bool:
    return bool(row.reason == Reason.KEY_COMPROMISE.value)


def _revoked(row: Any) -> str:
    moment = datetime.fromtimestamp(row.revoked_at, UTC)
    return f"{_serial(row)}, which was revoked on {moment:%Y-%m-%d %H:%M:%S} UTC ({row.reason})"
