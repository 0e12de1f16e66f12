"""The entries of the ledger's log, and their encoding as leaves of the tree.

A leaf is a JSON object in canonical form (RFC 8785): members sorted by name, no spaces, UTF-8. One member is
`kind`; the others are columns of the entry's rows, with the names that they have in the tables. Octet
strings are lower-case hexadecimal, NULL is null. So an auditor only needs JSON and SHA-256:

    {"client":"cn:line-3", ... ,"der":"308201...","device_id":"17", ... ,"kind":"certificate", ...}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    LargeBinary,
    Select,
    String,
    Text,
    cast,
    func,
    select,
)

from otahsm.ledger.db.dialects import Among
from otahsm.ledger.schema import certificates, events, intents, revocations


class Kind(IntEnum):
    """The kinds of entries, as in the tables."""

    CERTIFICATE = 1
    VOID = 2
    REVOCATION = 3
    EVENT = 4


class Entry(NamedTuple):
    """An entry of the log: an intent has at most one of each kind; an event is identified by its own id."""

    kind: int
    intent_id: int


@dataclass(frozen=True)
class EntryKind:
    """Where the entries of a kind are stored, and which columns are in their leaves.

    Args:
        name: the member `kind` of the leaf.
        columns: the other members; one of them is `key`. Octets are never NULL.
        source: the joined tables.
        condition: selects the rows that are such entries.
        key: identifies an entry; the tree's tables call it `intent_id`.
    """

    name: str
    columns: Sequence[Column[Any]]
    source: FromClause
    condition: ColumnElement[bool]
    key: Column[int] = intents.c.id

    @cached_property
    def ids(self) -> Select[int]:
        """The query for the keys of all entries of this kind, in order."""
        return select(self.key.label("id")).select_from(self.source).where(self.condition).order_by(self.key)

    @cached_property
    def _members(self) -> list[Column[Any]]:
        return sorted(self.columns, key=lambda column: column.name)

    @cached_property
    def _query(self) -> Select[Any]:
        members = [column.label(f"member_{column.name}") for column in self._members]
        query = select(self.key.label("entry"), *members)
        return query.select_from(self.source).where(self.condition, Among(self.key))

    @cached_property
    def _template(self) -> str:
        """The leaf with a placeholder for each column's value: RFC 8785, as far as our rows need it."""
        values = {"kind": encode_basestring(self.name)}
        values |= {column.name: '"%s"' if _is_octets(column) else "%s" for column in self._members}
        return "{" + ",".join(f'"{name}":{value}' for name, value in sorted(values.items())) + "}"

    @cached_property
    def _encoders(self) -> list[Callable[[Any], str]]:
        return [_encoder(column) for column in self._members]

    def read(self, connection: Connection, intent_ids: Sequence[int]) -> dict[int, bytes]:
        """Return the leaves of the entries that exist, by their keys."""
        rows = connection.execute(self._query, {"ids": intent_ids}).all()
        if not rows:
            return {}
        # Column by column, to avoid interpreting Python code for each value.
        ids, *columns = zip(*rows, strict=True)
        values = [map(encode, column) for encode, column in zip(self._encoders, columns, strict=True)]
        template = self._template
        texts = [(template % members).encode() for members in zip(*values, strict=True)]
        return dict(zip(ids, texts, strict=True))


def _is_octets(column: Column[Any]) -> bool:
    return isinstance(column.type, LargeBinary)


def _encoder(column: Column[Any]) -> Callable[[Any], str]:
    """Return the function that encodes a column's values as JSON, without the quotes around octets.

    It raises TypeError for values of other types. `json` takes three times as long per leaf.
    """
    if _is_octets(column):
        return bytes.hex
    encode: Callable[[Any], str] = int.__repr__
    if isinstance(column.type, String):
        encode = encode_basestring
    if column.nullable:
        return lambda value: "null" if value is None else encode(value)
    return encode


# Listed explicitly: a leaf never changes, whatever columns are added to the tables. More members need a new
# kind.
_intended: Final = (
    intents.c.id,
    intents.c.serial,
    intents.c.request_id,
    intents.c.profile,
    intents.c.device_id,
    intents.c.spki_sha256,
    intents.c.tbs_sha256,
    intents.c.issuer_key_id,
    intents.c.not_before,
    intents.c.not_after,
    intents.c.client,
    intents.c.client_certificate_sha256,
    intents.c.intended_at,
    intents.c.place,
)
# A count is looked up for each row; for an anti-join, a planner may scan all certificates.
_certificates: Final = (
    select(func.count())
    .select_from(certificates)
    .where(certificates.c.intent_id == intents.c.id)
    .scalar_subquery()
)

# Not two conditions: a planner would scan the index of all intents that are not void.
_neither_reason_nor_time: Final = func.coalesce(intents.c.void_reason, cast(intents.c.voided_at, Text)).is_(
    None
)

# A new kind needs a number, its rows here, and a call of `note_entries` where they are written.
KINDS: Final = {
    Kind.CERTIFICATE: EntryKind(
        name="certificate",
        columns=(*_intended, certificates.c.der, certificates.c.recorded_at),
        source=intents.join(certificates),
        condition=_neither_reason_nor_time,
    ),
    Kind.VOID: EntryKind(
        name="void",
        columns=(*_intended, intents.c.void_reason, intents.c.voided_at),
        source=intents,
        condition=intents.c.void_reason.is_not(None) & (_certificates == 0),
    ),
    Kind.REVOCATION: EntryKind(
        name="revocation",
        columns=(
            intents.c.id,
            intents.c.serial,
            intents.c.device_id,
            intents.c.profile,
            revocations.c.revoked_at,
            revocations.c.reason,
            revocations.c.client,
            revocations.c.recorded_at,
            revocations.c.crl_url,
        ),
        source=intents.join(revocations),
        condition=revocations.c.reason.is_not(None),
    ),
    Kind.EVENT: EntryKind(
        name="event",
        columns=(
            events.c.id,
            events.c.happened_at,
            events.c.name,
            events.c.client,
            events.c.occurrences,
            events.c.details,
        ),
        source=events,
        condition=events.c.name.is_not(None),
        key=events.c.id,
    ),
}


def read_leaves(connection: Connection, entries: Sequence[Entry]) -> list[bytes | None]:
    """Return the leaves of entries, in order; None for an entry that does not exist.

    Raises:
        TypeError, ValueError: a tampered column has values of another type, which SQLite permits.
    """
    by_kind: dict[int, list[int]] = {}
    for kind, intent_id in entries:
        by_kind.setdefault(kind, []).append(intent_id)
    found = {kind: KINDS[Kind(kind)].read(connection, ids) for kind, ids in by_kind.items() if kind in KINDS}
    return [found.get(kind, {}).get(intent_id) for kind, intent_id in entries]
