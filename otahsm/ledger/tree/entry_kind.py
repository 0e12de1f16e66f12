"""How entries of the ledger's log are encoded as leaves of its tree.

A leaf is a JSON object in canonical form (RFC 8785): members sorted by name, no spaces, UTF-8. One member is
`kind`; the others are columns of the entry's rows, with the names that they have in the tables. Octet
strings are lower-case hexadecimal, NULL is null. So an auditor only needs JSON and SHA-256:

    {"client":"cn:line-3", ... ,"der":"308201...","device_id":"17", ... ,"kind":"certificate-2", ...}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Label,
    LargeBinary,
    Select,
    String,
    select,
)

from otahsm.ledger.db.dialects import Among
from otahsm.ledger.schema import intents

Member: TypeAlias = Column[Any] | Label[Any]


class Entry(NamedTuple):
    """An entry of the log: an intent has at most one of each kind; an event is identified by its own id."""

    kind: int
    intent_id: int


@dataclass(frozen=True)
class EntryKind:
    """Where the entries of a kind are stored, and which columns are in their leaves.

    Args:
        name: the member `kind` of the leaf.
        columns: the other members; one of them is `key`. Octets and labels are never NULL.
        source: the joined tables.
        condition: selects the rows that are such entries.
        key: identifies an entry; the tree's tables call it `intent_id`.
        noun: names an entry in messages; `name` by default.
    """

    name: str
    columns: Sequence[Member]
    source: FromClause
    condition: ColumnElement[bool]
    key: Column[int] = intents.c.id
    noun: str = ""

    @cached_property
    def ids(self) -> Select[int]:
        """The query for the keys of all entries of this kind, in order."""
        return select(self.key.label("id")).select_from(self.source).where(self.condition).order_by(self.key)

    @cached_property
    def _members(self) -> list[Member]:
        return sorted(self.columns, key=lambda column: column.name)

    @cached_property
    def _query(self) -> Select[Any]:
        members = [column.label(f"member_{column.name}") for column in self._members]
        query: Select[Any] = select(self.key.label("entry")).add_columns(*members)
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
        ids, *columns = zip(*rows, strict=True)
        return dict(zip(ids, self._encode(columns), strict=True))

    def encode(self, values: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """Return the leaves of entries, from the values of each column by its name."""
        return self._encode([values[column.name] for column in self._members])

    def summary(self, leaf: bytes) -> str:
        """Return what a leaf of this kind says, for people: without its key, and octets but serials."""
        said = json.loads(leaf)
        shown = (
            column.name
            for column in self.columns
            if column is not self.key and (not _is_octets(column) or column.name.endswith("serial"))
        )
        return ", ".join(f"{name} {said[name]}" for name in shown if said[name] not in (None, ""))

    def _encode(self, columns: Sequence[Sequence[Any]]) -> list[bytes]:
        # Column by column, to avoid interpreting Python code for each value.
        values = [map(encode, column) for encode, column in zip(self._encoders, columns, strict=True)]
        template = self._template
        return [(template % members).encode() for members in zip(*values, strict=True)]


def _is_octets(column: Member) -> bool:
    return isinstance(column.type, LargeBinary)


def _encoder(column: Member) -> Callable[[Any], str]:
    """Return the function that encodes a column's values as JSON, without the quotes around octets.

    It raises TypeError for values of other types. `json` takes three times as long per leaf.
    """
    if _is_octets(column):
        return bytes.hex
    encode: Callable[[Any], str] = int.__repr__
    if isinstance(column.type, String):
        encode = encode_basestring
    elif isinstance(column.type, Boolean):
        encode = _BOOLEANS.__getitem__
    if isinstance(column, Column) and column.nullable:
        return lambda value: "null" if value is None else encode(value)
    return encode


_BOOLEANS: Final = {False: "0", True: "1"}  # leaves hold no other values than strings and integers
